"""The training loop: draw, forward, backward, step, log, save; the same on every rank.

Sums of losses and counts stay on the device until the end of an update's backward, whatever the number of
micro-batches; then they and the gradient's norm are read, before the step.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gato.batch import TokenBatch

from ..data.mixture import Mixture, rank_rows
from .checkpoint import Progress
from .engine import Engine
from .metrics import MetricsLog, memory_bytes
from .optim import OptimConfig, learning_rate
from .plan import flops_per_update, peak_flops
from .ranks import rank, say, sum_over_ranks, world_size


@dataclass(frozen=True)
class TrainConfig:
    """- `steps`: updates; or `seconds`: a training time, from which a short speed test picks the steps.
    - `batch_size`: rows of the global batch; `micro_batch_size`: rows that a rank computes at a time (accumulation), 0 for all of its rows.
    - `save_every`: updates between checkpoints (the last is always saved as `final`); `keep`: how many stay.
    - `precision`: `auto` is bf16 on a GPU that has it and fp32 elsewhere.
    - `name`: the run's folder is `runs/NAME`; `seed`: of the weights and the data order.
    - `reduced_below`: fewer steps than this from the speed test are called a reduced budget.
    - `device`: `auto` takes cuda, else mps, else cpu; `threads`: of the CPU; `deterministic`: refuse operations that are not.
    - `deepspeed`: `zero1`, `zero2`, `zero3`, `zero3-offload` or a JSON file of ZeRO settings; null is DistributedDataParallel.
    - `timeout`: seconds that a rank waits for the others before the run ends.
    - `max_skipped`: so many updates in a row without a finite gradient end the run.
    - `report_to`: trackers beside `metrics.jsonl`: `tensorboard`, `wandb`, `trackio` or others that accelerate knows.
    - `peak_flops`: of a device in the precision used, for the MFU; null takes that of a known GPU.
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
    deepspeed: str | None = None
    timeout: float = 600.0
    max_skipped: int = 10
    report_to: str | None = None
    peak_flops: float | None = None

    def micro_batch(self, ranks: int) -> int:
        """Rows that a rank computes at a time."""
        return self.micro_batch_size or self.batch_size // ranks


@dataclass(frozen=True)
class Update:
    """What one update came to, over all ranks: sums by source, non-padding `tokens` of `places`, ranks that want to stop."""

    loss: float
    loss_sum: list[float]
    targets: list[float]
    tokens: int
    places: int
    waited: float
    stops: int


class StopRequest:
    """While entered, SIGTERM and SIGINT ask for an end after the running update; a second one ends at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python hands signals to no other
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(number, self._before[number])


def train(
    engine: Engine,
    mixture: Mixture,
    config: TrainConfig,
    optim: OptimConfig,
    log: MetricsLog,
    progress: Progress,
    save: Callable[[Progress], None],
    stop: StopRequest,
) -> Progress:
    """Runs updates `progress.step` to `config.steps`, or until `stop` on any rank, and gives the progress at the end.

    The loss is the weighted sum over the targets of the whole global batch divided by their weighted
    number, so that neither ranks nor rows per micro-batch nor padding change it.

    **Raises:** `RuntimeError` after `max_skipped` updates in a row without a finite gradient.
    """
    assert config.steps is not None
    loader = mixture.loader(range(progress.step, config.steps), config.batch_size, config.micro_batch(world_size()), rank(), world_size())
    engine.learner.train()
    start = time.monotonic() - progress.seconds
    in_a_row = 0
    for step, batches, waited in _timed(loader, progress.step):
        update = _accumulate(engine, batches, waited, stop.requested)
        rate = learning_rate(optim, step, config.steps)
        norm = engine.step(rate)
        in_a_row = 0 if math.isfinite(norm) else in_a_row + 1
        before, progress = progress, replace(
            progress, step=step + 1, tokens=progress.tokens + update.tokens, targets=progress.targets + round(sum(update.targets)),
            seconds=time.monotonic() - start, skipped=progress.skipped + (in_a_row > 0),
        )  # fmt: skip
        line = _line(progress, before, update, norm, rate, mixture, engine, config)
        if in_a_row:
            line["bad_rows"] = bad_rows(engine, mixture, step, config.batch_size)
            say(_skipped(line["bad_rows"], mixture, step, norm, config.name))
        log.write(line)
        log.show(step + 1, update.loss, line["tokens_per_second"])
        if in_a_row >= config.max_skipped:
            raise RuntimeError(f"{in_a_row} updates in a row had no finite gradient, the last at step {step}; lower optim.learning_rate")
        if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
            save(progress)
        if update.stops:
            break
    return progress


def _timed(loader: Iterator[list[TokenBatch]], first: int) -> Iterator[tuple[int, list[TokenBatch], float]]:
    """Update, its micro-batches, and how long they were waited for."""
    before = time.monotonic()
    for step, batches in enumerate(loader, first):
        yield step, batches, time.monotonic() - before
        before = time.monotonic()


def _accumulate(engine: Engine, batches: list[TokenBatch], waited: float, stop: bool) -> Update:
    """Forward and backward over this rank's micro-batches, and what all ranks make of them together."""
    if world_size() > 1:
        denominator = sum_over_ranks(torch.tensor(float(batches[0].denominator), device=engine.device))
        batches = [b.with_denominator(denominator) for b in batches]
    total, by_source = torch.zeros((), device=engine.device), torch.zeros(2, engine.learner.num_sources, device=engine.device)
    for i, batch in enumerate(batches):
        loss, sums = engine.accumulate(batch.to(engine.device), is_last=i == len(batches) - 1)
        total = total + loss.float()
        by_source = by_source + torch.stack([sums["loss_sum"], sums["targets"]])
    counts = [sum(b.num_tokens for b in batches), sum(b.ids.numel() for b in batches), waited / world_size(), stop]
    # float32 counts exactly up to 2 ** 24, more than the tokens of any global batch planned for
    everything = torch.cat([total[None], by_source.flatten(), torch.tensor(counts, dtype=torch.float32, device=engine.device)])
    values = sum_over_ranks(everything).tolist()
    n = engine.learner.num_sources
    tokens, places, wait, stops = values[1 + 2 * n :]
    return Update(values[0], values[1 : 1 + n], values[1 + n : 1 + 2 * n], round(tokens), round(places), wait, round(stops))


def _line(
    progress: Progress, before: Progress, update: Update, norm: float, rate: float, mixture: Mixture, engine: Engine, config: TrainConfig
) -> dict[str, Any]:
    by_source = {source.name: s / n for source, s, n in zip(mixture.sources, update.loss_sum, update.targets, strict=True) if n > 0}
    seconds = max(1e-9, progress.seconds - before.seconds)
    line = {
        "step": progress.step, "loss": update.loss, "loss_by_source": by_source, "gradient_norm": norm, "learning_rate": rate,
        "tokens": progress.tokens, "targets": progress.targets, "seconds": round(progress.seconds, 3),
        "padding_share": round(1 - update.tokens / update.places, 4), "tokens_per_second": round(update.tokens / seconds, 1),
        "targets_per_second": round(sum(update.targets) / seconds, 1), "wait_seconds": round(update.waited, 4),
        "memory_bytes": memory_bytes(engine.device), "skipped": progress.skipped,
    }  # fmt: skip
    if peak := config.peak_flops or peak_flops(engine.device):
        flops = flops_per_update(engine.learner.model.config, update.tokens, round(sum(update.targets)))
        line["mfu"] = round(flops / seconds / peak / world_size(), 4)
    return line


def bad_rows(engine: Engine, mixture: Mixture, step: int, batch_size: int) -> list[int]:
    """The rows of an update's global batch that have no finite loss with the present weights, each computed alone."""
    bad = torch.zeros(batch_size, device=engine.device)
    for row in rank_rows(batch_size, rank(), world_size()):
        with torch.no_grad():
            loss, _ = engine.model(mixture.batch(step, [row]).to(engine.device))
        bad[row] = ~torch.isfinite(loss)
    return sum_over_ranks(bad).nonzero().flatten().tolist()


def _skipped(rows: list[int], mixture: Mixture, step: int, norm: float, name: str) -> str:
    text = f"update {step} was skipped: the norm of its gradient is {norm}"
    if not rows:
        return f"{text}, though each row alone has a finite loss"
    sources = sorted({mixture.sources[mixture.row(step, row).source].name for row in rows})
    return (
        f"{text}; no finite loss in {len(rows)} rows ({', '.join(map(str, rows[:8]))}) of {', '.join(sources)}; "
        f"'gato data show runs/{name} --step {step} --row {rows[0]}' shows the first"
    )


def seconds_per_step(learner: Any, mixture: Mixture, config: TrainConfig, device: torch.device, autocast: Any, repeats: int = 8) -> float:
    """The speed test: the median time of forward and backward on the run's own first batches, without updates or exchange."""
    learner.train()
    times = []
    loader = mixture.loader(range(repeats + 2), config.batch_size, config.micro_batch(world_size()), rank(), world_size())
    before = time.monotonic()
    for batches in loader:
        for batch in batches:
            with autocast():
                loss, _ = learner(batch.to(device))
            loss.backward()
        float(loss.detach())  # waits for the device
        now = time.monotonic()
        times.append(now - before)
        before = now
    learner.zero_grad(set_to_none=True)
    return float(np.median(times[2:]))
