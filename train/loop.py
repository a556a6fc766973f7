"""The training loop: draw, forward, backward, clip, step, log, save."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from gato.batch import TokenBatch

from ..data.mixture import Mixture
from .checkpoint import Progress
from .metrics import MetricsLog
from .optim import OptimConfig, learning_rate


@dataclass(frozen=True)
class TrainConfig:
    """- `steps`: updates; or `seconds`: a training time, from which a short speed test picks the steps.
    - `batch_size`: rows of the global batch; `micro_batch_size`: rows at a time (accumulation), 0 for all.
    - `save_every`: updates between checkpoints (the last is always saved as `final`); `keep`: how many stay.
    - `precision`: `auto` is bf16 on a GPU that has it and fp32 elsewhere.
    - `name`: the run's folder is `runs/NAME`; `seed`: of the weights and the data order.
    - `reduced_below`: fewer steps than this from the speed test are called a reduced budget.
    - `device`: `auto` takes cuda, else mps, else cpu; `threads`: of the CPU; `deterministic`: refuse operations that are not.
    """

    name: str = "run"
    steps: int | None = None
    seconds: float | None = None
    reduced_below: int | None = None
    batch_size: int = 512
    micro_batch_size: int = 0
    seed: int = 0
    save_every: int = 1000
    keep: int = 2
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    deterministic: bool = False


def train(
    learner: Any,
    optimizer: torch.optim.Optimizer,
    mixture: Mixture,
    accelerator: Accelerator,
    config: TrainConfig,
    optim: OptimConfig,
    log: MetricsLog,
    progress: Progress,
    save: Callable[[Progress], None],
) -> Progress:
    """Runs updates `progress.step` to `config.steps` and gives the progress at the end.

    The loss is the weighted sum over the targets of the whole global batch divided by their weighted
    number, so that neither rows per micro-batch nor padding change it.
    """
    assert config.steps is not None
    micro = config.micro_batch_size or config.batch_size
    loader = mixture.loader(range(progress.step, config.steps), config.batch_size, micro)
    learner.train()
    start = time.monotonic() - progress.seconds
    for step, batches in enumerate(loader, progress.step):
        rate = learning_rate(optim, step, config.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)
        loss, sums = _accumulate(learner, accelerator, batches)
        norm = accelerator.clip_grad_norm_(learner.parameters(), optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        new_tokens = sum(b.num_tokens for b in batches)
        before = progress
        progress = replace(
            progress, step=step + 1, tokens=progress.tokens + new_tokens,
            targets=progress.targets + int(sums["targets"].sum()), seconds=time.monotonic() - start,
        )  # fmt: skip
        log.write(_line(progress, loss, float(norm), rate, sums, mixture, batches))
        log.show(step + 1, loss, new_tokens / max(1e-9, progress.seconds - before.seconds))
        if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
            save(progress)
    return progress


def _accumulate(learner: Any, accelerator: Accelerator, batches: list[TokenBatch]) -> tuple[float, dict[str, torch.Tensor]]:
    """Forward and backward over the micro-batches of one update: the global loss, and sums by source."""
    total = 0.0
    sums: dict[str, torch.Tensor] = {}
    for batch in batches:
        with accelerator.autocast():
            loss, metrics = learner(batch.to(accelerator.device))
        accelerator.backward(loss)
        total += float(loss.detach())
        for name, value in metrics.items():
            sums[name] = sums[name] + value if name in sums else value
    return total, {name: value.cpu() for name, value in sums.items()}


def _line(
    progress: Progress, loss: float, norm: float, rate: float, sums: dict[str, torch.Tensor], mixture: Mixture, batches: list[TokenBatch]
) -> dict[str, Any]:
    by_source = {
        source.name: float(s / n) for source, s, n in zip(mixture.sources, sums["loss_sum"], sums["targets"], strict=True) if n > 0
    }
    places = sum(b.ids.numel() for b in batches)
    return {
        "step": progress.step, "loss": loss, "loss_by_source": by_source, "gradient_norm": norm, "learning_rate": rate,
        "tokens": progress.tokens, "targets": progress.targets, "seconds": round(progress.seconds, 3),
        "padding_share": round(1 - sum(b.num_tokens for b in batches) / places, 4),
    }  # fmt: skip


def seconds_per_step(learner: Any, accelerator: Accelerator, mixture: Mixture, config: TrainConfig, repeats: int = 8) -> float:
    """The speed test: the median time of forward and backward on the run's own first batches, without any update."""
    micro = config.micro_batch_size or config.batch_size
    learner.train()
    times = []
    before = time.monotonic()
    for batches in mixture.loader(range(repeats + 2), config.batch_size, micro):
        _accumulate(learner, accelerator, batches)
        now = time.monotonic()
        times.append(now - before)
        before = now
    learner.zero_grad(set_to_none=True)
    return float(np.median(times[2:]))
