"""The training loop: draw, forward, backward, step, log, save; the same on every rank.

Sums of losses and counts stay on the device until the end of an update's backward, whatever the number of
micro-batches; then they and the gradient's norm are read, before the step.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.data.loading import rank_rows
from gato.learner import Batch, Batches, Evaluation, OnlineBatches

from .checkpoint import Progress
from .engine import Engine
from .metrics import MetricsLog, memory_bytes
from .optim import learning_rate
from .plan import peak_flops
from .ranks import Presence, rank, say, sum_over_ranks, world_size
from .recipe import OptimConfig, TrainConfig
from .schedule import Schedule

SPIKE_WINDOW, SPIKE_LEAST, SPIKE_SIGMA = 128, 32, 6.0  # OLMo's window and limit
SHOWN_ROWS = 8


@dataclass(frozen=True)
class Update:
    """What one update came to, over all ranks: the learner's `sums`, the `counts` of its batches, ranks that want to stop, and
    how many updates there are to be by the first rank's clock; and when this rank began and ended to compute its gradient."""

    loss: float
    norm: float  # of the gradient, where the engine tells it before its step
    sums: dict[str, list[float]]
    counts: dict[str, int]
    waited: float
    stops: int
    total: int
    computed: tuple[float, float]

    @property
    def targets(self) -> float:
        return sum(self.sums["targets"])


class SpikeWatch:
    """Tells a loss that lies more than six standard deviations above the mean of the last 128; the first 32 teach it."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=SPIKE_WINDOW)

    def __call__(self, loss: float) -> bool:
        mean, deviation = (float(np.mean(self._seen)), float(np.std(self._seen))) if self._seen else (0.0, 0.0)
        is_spike = len(self._seen) >= SPIKE_LEAST and loss > mean + SPIKE_SIGMA * deviation
        if math.isfinite(loss):
            self._seen.append(loss)
        return is_spike


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
    batches: Batches,
    config: TrainConfig,
    optim: OptimConfig,
    log: MetricsLog,
    progress: Progress,
    save: Callable[[Progress], None],
    stop: StopRequest,
    schedule: Schedule,
    evaluation: Evaluation | None = None,
) -> Progress:
    """Runs updates from `progress.step` until there are `schedule.total`, or until `stop` on any rank, and gives the progress at
    the end.

    The loss is the weighted sum over the targets of the whole global batch divided by their weighted
    number, so that neither ranks nor rows per micro-batch nor padding change it.

    **Raises:** `RuntimeError` after `max_skipped` updates in a row without a finite gradient; and for an exchange
    between the ranks that failed, naming those that others waited for.
    """
    updates = schedule.updates(progress.step)
    loader = batches.loader(updates, config.batch_size, config.micro_batch(world_size()), rank(), world_size())
    engine.learner.train()
    start = time.monotonic() - progress.seconds
    in_a_row, is_spike, presence = 0, SpikeWatch(), Presence()
    watches = not isinstance(batches, OnlineBatches) and log.run is not None  # a surprise or a leap is no fault of a row
    with presence.explained():
        for step, drawn, waited in _timed(loader, progress.step, presence):
            total = schedule.follow(step, time.monotonic() - start) if schedule.is_timed and rank() == 0 else 0
            update = _accumulate(engine, batches, drawn, waited, stop.requested, total, step)
            schedule.total = update.total or schedule.total
            rate = learning_rate(optim, step, schedule.total)
            norm = engine.step(rate, step, update.norm)
            in_a_row = 0 if math.isfinite(norm) else in_a_row + 1
            before, progress = progress, replace(
                progress, step=step + 1, tokens=progress.tokens + update.counts["tokens"], targets=progress.targets + round(update.targets),
                seconds=time.monotonic() - start, skipped=progress.skipped + (in_a_row > 0),
            )  # fmt: skip
            line = _line(progress, before, update, norm, rate, engine, config)
            if schedule.is_timed:
                line["steps"] = schedule.total
            if in_a_row or (watches and is_spike(update.loss)):
                line |= _suspects(engine, batches, step, config, norm, update.loss, in_a_row > 0, log.run)
            if evaluation is not None and ((step + 1) % evaluation.every == 0 or step + 1 == schedule.total):
                presence.tell(step, "playing")
                line |= _evaluated(engine, evaluation)
                start += line["eval_seconds"]  # time of training is told apart
            log.write(line)
            log.show(line, schedule.total)
            if in_a_row >= config.max_skipped:
                raise RuntimeError(
                    f"{in_a_row} updates in a row had no finite gradient, the last at step {step}; lower optim.learning_rate"
                )
            if (step + 1) % config.save_every == 0 and step + 1 < schedule.total:
                presence.tell(step, "saving")
                save(progress)
            if update.stops or step + 1 == schedule.total:
                break
    return progress


def _timed(loader: Iterator[list[Batch]], first: int, presence: Presence) -> Iterator[tuple[int, list[Batch], float]]:
    """Update, its micro-batches, and how long they were waited for."""
    presence.tell(first, "drawing rows")
    before = time.monotonic()
    for step, batches in enumerate(loader, first):
        presence.tell(step, "computing")
        yield step, batches, time.monotonic() - before
        presence.tell(step + 1, "drawing rows")
        before = time.monotonic()


def _accumulate(engine: Engine, batches: Batches, drawn: list[Batch], waited: float, stop: bool, updates: int, step: int) -> Update:
    """Forward and backward over this rank's micro-batches, the gradient clipped, and what all ranks make of them together. `updates`
    is 0 on all ranks but the first."""
    if world_size() > 1:
        denominator = sum_over_ranks(torch.tensor(float(drawn[0].denominator), device=engine.device))
        drawn = [batch.with_denominator(denominator) for batch in drawn]
    began = time.monotonic()
    total: torch.Tensor | None = None
    sizes: dict[str, int] = {}
    for i, batch in enumerate(drawn):
        loss, sums = engine.accumulate(batch.to(engine.device), is_last=i == len(drawn) - 1)
        sizes = {name: values.numel() for name, values in sums.items()}
        mine = torch.cat([loss.float()[None], *(values.float().flatten() for values in sums.values())])
        total = mine if total is None else total + mine
    assert total is not None, "a rank has a row at least"
    counted = [batches.counts(batch) for batch in drawn]
    counts = [sum(each[name] for each in counted) for name in counted[0]] + [waited / world_size(), stop, updates]
    norm = engine.clip(step)
    clipped = total.new_zeros(1) if norm is None else norm.float()[None] / world_size()
    # float32 counts exactly up to 2 ** 24, more than the tokens of any global batch planned for
    everything = torch.cat([clipped, total, torch.tensor(counts, dtype=torch.float32, device=engine.device)])
    values = sum_over_ranks(everything).tolist()  # the one place where the device is waited for
    (norm_of_all, loss), at, found = values[:2], 2, {}
    for name, size in sizes.items():
        found[name], at = values[at : at + size], at + size
    *numbers, wait, stops, in_all = values[at:]
    counts_by_name = {name: round(n) for name, n in zip(counted[0], numbers, strict=True)}
    return Update(loss, norm_of_all, found, counts_by_name, wait, round(stops), round(in_all), (began, time.monotonic()))


def _line(
    progress: Progress, before: Progress, update: Update, norm: float, rate: float, engine: Engine, config: TrainConfig
) -> dict[str, Any]:
    seconds, counts = max(1e-9, progress.seconds - before.seconds), update.counts
    began, ended = update.computed
    line = {
        "step": progress.step, "loss": update.loss, **engine.learner.report(update.sums), "gradient_norm": norm, "learning_rate": rate,
        "tokens": progress.tokens, "targets": progress.targets, "seconds": round(progress.seconds, 3),
        "padding_share": round(1 - counts["tokens"] / counts["places"], 4),
        "tokens_per_second": round(counts["tokens"] / seconds, 1), "targets_per_second": round(update.targets / seconds, 1),
        "transitions_per_second": round(counts["transitions"] / seconds, 1), "wait_seconds": round(update.waited, 4),
        "compute_seconds": round(ended - began, 4), "update_seconds": round(time.monotonic() - ended, 4),
        "memory_bytes": memory_bytes(engine.device), "skipped": progress.skipped,
    }  # fmt: skip
    flops = engine.learner.flops(counts["tokens"], round(update.targets))
    if flops is not None and (peak := config.peak_flops or peak_flops(engine.device)):
        line["mfu"] = round(flops / seconds / peak / world_size(), 4)
    return line


def _evaluated(engine: Engine, evaluation: Evaluation) -> dict[str, Any]:
    """What the weights of now do beside training; measured on the first rank, for which the others wait in the next exchange."""
    before, weights = time.monotonic(), engine.weights()
    found = evaluation(weights) if rank() == 0 else {}
    return found | {"eval_seconds": round(time.monotonic() - before, 3)}


def _suspects(
    engine: Engine, batches: Batches, step: int, config: TrainConfig, norm: float, loss: float, is_skipped: bool, run: Path | None
) -> dict[str, list[int]]:
    """Says which rows of an update are to blame for a gradient that is not finite (`bad_rows`), or for a spike (`spike_rows`)."""
    losses = row_losses(engine, batches, step, config.batch_size)
    if is_skipped:
        rows = [row for row, value in enumerate(losses) if not math.isfinite(value)]
        text = f"update {step} was skipped: the norm of its gradient is {norm}"
        text += f"; no finite loss in {len(rows)} rows" if rows else ", though each row alone has a finite loss"
    else:
        rows = sorted(range(len(losses)), key=lambda row: -losses[row])[:SHOWN_ROWS]
        text = f"the loss of update {step} is {loss:.3f}, far above those before; highest in rows"
    if rows:
        sources = sorted(set(batches.sources_of(step, rows)))
        text += f" ({', '.join(map(str, rows[:SHOWN_ROWS]))}) of {', '.join(sources)}"
        if run is not None and not isinstance(batches, OnlineBatches):
            text += f"; 'gato data show {run} --step {step} --row {rows[0]}' shows the first"
    say(text)
    return {"bad_rows" if is_skipped else "spike_rows": rows}


def row_losses(engine: Engine, batches: Batches, step: int, batch_size: int) -> list[float]:
    """The loss of every row of an update's global batch with the present weights, each computed alone."""
    losses = torch.zeros(batch_size, device=engine.device)
    for row in rank_rows(batch_size, rank(), world_size()):
        with torch.no_grad():
            loss, _ = engine.model(batches.batch(step, [row]).to(engine.device))
        losses[row] = loss.float()
    return sum_over_ranks(losses).tolist()


def seconds_per_step(learner: Any, batches: Batches, config: TrainConfig, device: torch.device, autocast: Any, repeats: int = 8) -> float:
    """The speed test: the median time of forward and backward on the run's own first batches, without updates or exchange."""
    learner.train()
    times = []
    loader = batches.loader(range(repeats + 2), config.batch_size, config.micro_batch(world_size()), rank(), world_size())
    before = time.monotonic()
    for drawn in loader:
        for batch in drawn:
            with autocast():
                loss, _ = learner(batch.to(device))
            loss.backward()
        float(loss.detach())  # waits for the device
        now = time.monotonic()
        times.append(now - before)
        before = now
    learner.zero_grad(set_to_none=True)
    return float(np.median(times[2:]))
