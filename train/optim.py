"""AdamW, and the learning rate as a function of the update count (Gato, appendix C).

Muon for the matrices of the layers is ours, and off by default: small models learn from fewer tokens with it
(docs/results/ablations.md).
"""

from __future__ import annotations

import math
import time
from copy import deepcopy
from typing import Any

import torch

from .muon import Muon
from .recipe import OptimConfig


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


def make_optimizer(config: OptimConfig, groups: list[dict]) -> torch.optim.Optimizer:
    """The optimizer over a learner's parameter groups (see `Learner.parameter_groups`); the loop sets the rate before every update.

    A group's `rate_factor`, here and in the loop, multiplies the recipe's rate.
    """
    groups = [_with_rate(config, group) for group in groups]
    if config.muon is None or not any(group.get("hidden") for group in groups):
        return _adamw(config, groups)
    hidden = [group | {"rate_factor": config.muon} for group in groups if group.get("hidden")]
    return Optimizers(
        Muon(hidden, lr=config.learning_rate),
        _adamw(config, [group for group in groups if not group.get("hidden")]),
    )


def _with_rate(config: OptimConfig, group: dict) -> dict:
    if "learning_rate" not in group:
        return group
    rest = {key: value for key, value in group.items() if key != "learning_rate"}
    return rest | {"rate_factor": group["learning_rate"] / config.learning_rate}


def seconds_per_update(config: OptimConfig, learner: Any, repeats: int = 5) -> float:
    """The median time of one update of a copy of the learner's weights: Muon's is a good part of a small model's step."""
    twin = deepcopy(learner)
    optimizer = make_optimizer(config, twin.parameter_groups(config.weight_decay))
    for parameter in twin.parameters():
        parameter.grad = torch.zeros_like(parameter)
    times = []
    for _ in range(repeats):
        start = time.monotonic()
        optimizer.step()
        times.append(time.monotonic() - start)
    return sorted(times)[repeats // 2]


class Optimizers(torch.optim.Optimizer):
    """Several optimizers that look like one: the groups and the state of all."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Any = None) -> Any:
        assert closure is None, "the loop computes its gradients before the step"
        for part in self.parts:
            part.step()


def _adamw(config: OptimConfig, groups: list[dict]) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
