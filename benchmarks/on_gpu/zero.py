"""ZeRO on one rank against the plain engine, and runs that go on under another engine.

Each mode is a process of its own, which trains `2 * HALF` updates; what it saved at the half is
left in the options' folder, and the next mode goes on with what the mode before it has saved (or,
where that one failed, the one before that).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gato.batch import TokenBatch
from gato.learners.gato import GatoLearner
from gato.train.engine import Engine, load_weights
from gato.train.optim import learning_rate
from gato.train.recipe import OptimConfig

from .checks import PRECISIONS, exactly
from .paths import batch_of, config_of, learner_of
from .training import engine_of
from .worker import Options, Report

HALF = 4
LIMIT = {"float32": 1e-4, "bf16": 3e-2}  # of losses near 7, whose updates have changed them by 1
MODES = ("plain", "zero1", "zero2", "zero3", "zero3-offload", "plain again")


def check(options: Options, report: Report, mode: str) -> None:
    zero = None if mode.startswith("plain") else mode
    for precision in PRECISIONS:
        with exactly():
            _check(options, report, mode, zero, precision)


def _check(options: Options, report: Report, mode: str, zero: str | None, precision: str) -> None:
    config, folder = config_of(options, "rope"), Path(options.folder)
    batch, learner = batch_of(config, True), learner_of(config)
    engine = _engine(learner, batch, options, precision, zero)
    report(f"{mode}, {precision}: what computes", engine=engine.describe(), backend=_backend())
    losses = [_update(engine, batch, i) for i in range(HALF)]
    half = engine.weights(), engine.moments()
    losses += [_update(engine, batch, i) for i in range(HALF, 2 * HALF)]
    file = folder / f"losses-{precision}.safetensors"
    if mode == "plain":
        save_file({"losses": torch.tensor(losses, dtype=torch.float64)}, file)
    else:
        plain = load_file(file)["losses"].tolist()
        compare(report, f"{mode} against plain", precision, losses, plain)
        before, saved = _saved(folder, mode, precision)
        learner = learner_of(config, seed=1)
        load_weights(learner, saved[0])  # before the engine is made, as `pretrain` does
        engine = _engine(learner, batch, options, precision, zero)
        engine.restore(*saved)
        after = [_update(engine, batch, i) for i in range(HALF, 2 * HALF)]
        compare(report, f"saved on {before}, resumed on {mode}", precision, after, plain[HALF:])
    for name, tensors in zip(("weights", "moments"), half, strict=True):
        whole = {key: value.contiguous() for key, value in tensors.items()}
        save_file(whole, folder / f"{mode}-{precision}-{name}.safetensors")


Saved = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def _saved(folder: Path, mode: str, precision: str) -> tuple[str, Saved]:
    """The mode before this one that has saved its half, and its weights and moments."""
    for before in reversed(MODES[: MODES.index(mode)]):
        paths = [folder / f"{before}-{precision}-{n}.safetensors" for n in ("weights", "moments")]
        if all(path.exists() for path in paths):
            return before, (load_file(paths[0]), load_file(paths[1]))
    raise FileNotFoundError(f"no mode before {mode} has saved anything in {folder}")


def _engine(learner: GatoLearner, batch: TokenBatch, options: Options, precision: str, zero: str | None) -> Engine:
    return engine_of(learner, batch, options.device, precision == "bf16", zero)


def _update(engine: Engine, batch: TokenBatch, step: int) -> float:
    loss, _ = engine.accumulate(batch.to(engine.device), is_last=True)
    optim = OptimConfig(learning_rate=1e-3, warmup_steps=0)
    norm = engine.clip(step)
    engine.step(learning_rate(optim, step, 2 * HALF), step, 0.0 if norm is None else float(norm))
    return float(loss)


def _backend() -> str:
    from torch import distributed

    return str(distributed.get_backend()) if distributed.is_initialized() else "none"


def compare(report: Report, what: str, precision: str, losses: list[float], plain: list[float]) -> None:
    """The largest difference of a loss from the plain engine's."""
    error = max(abs(a - b) for a, b in zip(losses, plain, strict=True))
    limit = LIMIT[precision]
    report(
        f"{what}, {precision}", error=error, limit=limit, holds=error <= limit, last=losses[-1],
        fell=plain[0] - plain[-1],
    )  # fmt: skip
