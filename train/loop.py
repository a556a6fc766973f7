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
from itertools import islice
from typing import Any

import numpy as np
import torch

from gato.batch import Kind, TokenBatch
from gato.data.mixture import Mixture, rank_rows

from .checkpoint import Progress
from .engine import Engine
from .metrics import MetricsLog, memory_bytes
from .optim import learning_rate
from .plan import flops_per_update, peak_flops
from .ranks import Presence, rank, say, sum_over_ranks, world_size
from .recipe import OptimConfig, TrainConfig

# What a target's kind is called in `loss_by_modality`.
MODALITIES = {"text": Kind.TEXT, "discrete": Kind.DISCRETE, "continuous": Kind.CONTINUOUS}
SPIKE_WINDOW, SPIKE_LEAST, SPIKE_SIGMA = 128, 32, 6.0  # OLMo's window and limit
SHOWN_ROWS = 8


@dataclass(frozen=True)
class Update:
    """What one update came to, over all ranks: sums by source and by kind of target, non-padding `tokens` of `places`, timesteps of
    control (`transitions`), ranks that want to stop."""

    loss: float
    loss_sum: list[float]
    targets: list[float]
    loss_by_kind: list[float]
    targets_by_kind: list[float]
    tokens: int
    places: int
    transitions: int
    waited: float
    stops: int


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

    **Raises:** `RuntimeError` after `max_skipped` updates in a row without a finite gradient; and for an exchange
    between the ranks that failed, naming those that others waited for.
    """
    assert config.steps is not None
    loader = mixture.loader(range(progress.step, config.steps), config.batch_size, config.micro_batch(world_size()), rank(), world_size())
    engine.learner.train()
    start = time.monotonic() - progress.seconds
    in_a_row, is_spike, presence = 0, SpikeWatch(), Presence()
    with presence.explained():
        for step, batches, waited in _timed(loader, progress.step, presence):
            update = _accumulate(engine, mixture, batches, waited, stop.requested)
            rate = learning_rate(optim, step, config.steps)
            norm = engine.step(rate)
            in_a_row = 0 if math.isfinite(norm) else in_a_row + 1
            before, progress = progress, replace(
                progress, step=step + 1, tokens=progress.tokens + update.tokens, targets=progress.targets + round(sum(update.targets)),
                seconds=time.monotonic() - start, skipped=progress.skipped + (in_a_row > 0),
            )  # fmt: skip
            line = _line(progress, before, update, norm, rate, mixture, engine, config)
            if in_a_row or is_spike(update.loss):
                line |= _suspects(engine, mixture, step, config, norm, update.loss, is_skipped=in_a_row > 0)
            log.write(line)
            log.show(step + 1, update.loss, line["tokens_per_second"])
            if in_a_row >= config.max_skipped:
                raise RuntimeError(
                    f"{in_a_row} updates in a row had no finite gradient, the last at step {step}; lower optim.learning_rate"
                )
            if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
                presence.tell(step, "saving")
                save(progress)
            if update.stops:
                break
    return progress


def _timed(loader: Iterator[list[TokenBatch]], first: int, presence: Presence) -> Iterator[tuple[int, list[TokenBatch], float]]:
    """Update, its micro-batches, and how long they were waited for."""
    presence.tell(first, "drawing rows")
    before = time.monotonic()
    for step, batches in enumerate(loader, first):
        presence.tell(step, "computing")
        yield step, batches, time.monotonic() - before
        presence.tell(step + 1, "drawing rows")
        before = time.monotonic()


def _accumulate(engine: Engine, mixture: Mixture, batches: list[TokenBatch], waited: float, stop: bool) -> Update:
    """Forward and backward over this rank's micro-batches, and what all ranks make of them together."""
    if world_size() > 1:
        denominator = sum_over_ranks(torch.tensor(float(batches[0].denominator), device=engine.device))
        batches = [b.with_denominator(denominator) for b in batches]
    n, kinds = engine.learner.num_sources, len(Kind)
    names, sizes = ("loss_sum", "targets", "loss_by_kind", "targets_by_kind"), (n, n, kinds, kinds)
    total = torch.zeros(1 + sum(sizes), device=engine.device)
    for i, batch in enumerate(batches):
        loss, sums = engine.accumulate(batch.to(engine.device), is_last=i == len(batches) - 1)
        total = total + torch.cat([loss.float()[None], *(sums[name] for name in names)])
    counts = [sum(values) for values in zip(*(_counts(b, mixture) for b in batches), strict=True)] + [waited / world_size(), stop]
    # float32 counts exactly up to 2 ** 24, more than the tokens of any global batch planned for
    everything = torch.cat([total, torch.tensor(counts, dtype=torch.float32, device=engine.device)])
    values = iter(sum_over_ranks(everything).tolist())  # the one place where the device is waited for
    loss = next(values)
    by_source, of_source, by_kind, of_kind = (list(islice(values, size)) for size in sizes)
    tokens, places, transitions, wait, stops = values
    return Update(loss, by_source, of_source, by_kind, of_kind, round(tokens), round(places), round(transitions), wait, round(stops))


def _counts(batch: TokenBatch, mixture: Mixture) -> tuple[int, int, int]:
    """Tokens that are not padding, places, and timesteps of control, each of which has one separator."""
    is_control = torch.tensor([source.is_control for source in mixture.sources])[batch.sources]
    return batch.num_tokens, batch.ids.numel(), int((batch.kind == Kind.SEPARATOR)[is_control].sum())


def _line(
    progress: Progress, before: Progress, update: Update, norm: float, rate: float, mixture: Mixture, engine: Engine, config: TrainConfig
) -> dict[str, Any]:
    by_source = {source.name: s / n for source, s, n in zip(mixture.sources, update.loss_sum, update.targets, strict=True) if n > 0}
    by_modality = {
        name: update.loss_by_kind[k] / update.targets_by_kind[k] for name, k in MODALITIES.items() if update.targets_by_kind[k] > 0
    }
    seconds = max(1e-9, progress.seconds - before.seconds)
    line = {
        "step": progress.step, "loss": update.loss, "loss_by_source": by_source, "loss_by_modality": by_modality,
        "gradient_norm": norm, "learning_rate": rate,
        "tokens": progress.tokens, "targets": progress.targets, "seconds": round(progress.seconds, 3),
        "padding_share": round(1 - update.tokens / update.places, 4), "tokens_per_second": round(update.tokens / seconds, 1),
        "targets_per_second": round(sum(update.targets) / seconds, 1),
        "transitions_per_second": round(update.transitions / seconds, 1), "wait_seconds": round(update.waited, 4),
        "memory_bytes": memory_bytes(engine.device), "skipped": progress.skipped,
    }  # fmt: skip
    if peak := config.peak_flops or peak_flops(engine.device):
        flops = flops_per_update(engine.learner.model.config, update.tokens, round(sum(update.targets)))
        line["mfu"] = round(flops / seconds / peak / world_size(), 4)
    return line


def _suspects(
    engine: Engine, mixture: Mixture, step: int, config: TrainConfig, norm: float, loss: float, is_skipped: bool
) -> dict[str, list[int]]:
    """Says which rows of an update are to blame for a gradient that is not finite (`bad_rows`), or for a spike (`spike_rows`)."""
    losses = row_losses(engine, mixture, step, config.batch_size)
    if is_skipped:
        rows = [row for row, value in enumerate(losses) if not math.isfinite(value)]
        text = f"update {step} was skipped: the norm of its gradient is {norm}"
        text += f"; no finite loss in {len(rows)} rows" if rows else ", though each row alone has a finite loss"
    else:
        rows = sorted(range(len(losses)), key=lambda row: -losses[row])[:SHOWN_ROWS]
        text = f"the loss of update {step} is {loss:.3f}, far above those before; highest in rows"
    if rows:
        sources = sorted({mixture.sources[mixture.row(step, row).source].name for row in rows})
        text += (
            f" ({', '.join(map(str, rows[:SHOWN_ROWS]))}) of {', '.join(sources)}; "
            f"'gato data show runs/{config.name} --step {step} --row {rows[0]}' shows the first"
        )
    say(text)
    return {"bad_rows" if is_skipped else "spike_rows": rows}


def row_losses(engine: Engine, mixture: Mixture, step: int, batch_size: int) -> list[float]:
    """The loss of every row of an update's global batch with the present weights, each computed alone."""
    losses = torch.zeros(batch_size, device=engine.device)
    for row in rank_rows(batch_size, rank(), world_size()):
        with torch.no_grad():
            loss, _ = engine.model(mixture.batch(step, [row]).to(engine.device))
        losses[row] = loss.float()
    return sum_over_ranks(losses).tolist()


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
