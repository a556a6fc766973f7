"""AdamW, and the learning rate as a function of the update count (Gato, appendix C)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class OptimConfig:
    """- `learning_rate`: the maximum, reached after `warmup_steps` from `initial_learning_rate`.
    - `final_ratio`: the cosine ends at this share of the maximum, at the last update.
    - `clip`: largest norm of the whole gradient; the paper states none, 1.0 is our choice.
    """

    learning_rate: float = 1e-4
    initial_learning_rate: float = 1e-7
    warmup_steps: int = 15_000
    final_ratio: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """Linear from 1e-7 to the maximum over the warm-up, then a cosine to `final_ratio` of it at `total_steps`.

    Step 0 has the initial rate, step `warmup_steps` the maximum, step `total_steps` the last one; the
    total includes the warm-up.
    """
    peak = config.learning_rate
    if step < config.warmup_steps:
        return config.initial_learning_rate + (peak - config.initial_learning_rate) * step / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    return peak * (config.final_ratio + (1 - config.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def make_optimizer(config: OptimConfig, groups: list[dict]) -> torch.optim.AdamW:
    """Fused AdamW over a learner's parameter groups; the loop sets the rate before every update."""
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
