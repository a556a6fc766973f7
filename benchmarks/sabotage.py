"""What is done to a run so that it fails: each function runs in a rank, before `gato pretrain` starts there.

`benchmarks/resume.py` and tests/test_distributed.py start the ranks.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(rank: int, step: int, of: int | None = None) -> None:
    """The ranks (or rank `of`) die in update `step`, between backward and the optimizer's step."""
    from gato.train import loop

    original = loop.learning_rate

    def dies(config: Any, at: int, total: int) -> float:
        if at == step and of in (None, rank):
            die()
        return original(config, at, total)

    loop.learning_rate = dies


# Where a save is cut off: what it is called, the function at whose call, which call of it (counted from the second save), and
# whether before or after it.
POINTS: dict[str, tuple[str, int, str]] = {
    "before the first file": ("Agent.write", 1, "before"),
    "weights written, not hashed": ("Agent.write", 1, "after"),
    "optimizer's state written": ("checkpoint.save_file", 1, "after"),
    "before the generator's state": ("checkpoint.save_file", 2, "before"),
    "the first file hashed": ("digests.sha256", 1, "after"),
    "before the manifest": ("digests.record", 1, "before"),
    "half a manifest": ("digests.record", 1, "half"),
    "manifest written, not synced": ("digests.record", 1, "after"),
    "before the rename": ("Path.rename", 1, "before"),
    "renamed, the older one still there": ("Path.rename", 1, "after"),
    "the older one half removed": ("checkpoint._remove", 1, "half"),
    "the older one removed": ("checkpoint._remove", 1, "after"),
}


def killed_in_save(rank: int, point: str) -> None:
    """The first rank dies at `point` of the run's second save."""
    from gato import digests
    from gato.agent import Agent
    from gato.train import checkpoint

    name, number, when = POINTS[point]
    owner, attribute = name.split(".")
    holder: Any = {"Agent": Agent, "checkpoint": checkpoint, "digests": digests, "Path": Path}[owner]
    original, save, saves, calls = getattr(holder, attribute), checkpoint.save, [0], [0]

    def counted(*arguments: Any, **rest: Any) -> None:
        saves[0] += 1
        save(*arguments, **rest)

    def dies(*arguments: Any, **rest: Any) -> Any:
        calls[0] += saves[0] == 2
        if (saves[0], calls[0]) != (2, number) or rank > 0:
            return original(*arguments, **rest)
        if when == "half" and attribute == "_remove":
            (arguments[0] / "manifest.json").unlink()
        elif when == "half":
            (arguments[0] / f"{digests.NAME}.tmp-{os.getpid()}").write_text('{"format": 1, "fi')
        elif when == "after":
            original(*arguments, **rest)
        die()

    checkpoint.save = counted
    setattr(holder, attribute, dies)


def hangs_at(rank: int, step: int, of: int) -> None:
    """Rank `of` sleeps while it draws its rows of update `step`."""
    from gato.data.mixture import Mixture

    original = Mixture.batch

    def sleeps(self: Mixture, at: int, rows: Sequence[int]) -> Any:
        if (at, rank) == (step, of):
            time.sleep(1000)
        return original(self, at, rows)

    Mixture.batch = sleeps


def poisoned(rank: int, steps: Sequence[int], row: int) -> None:
    """In these updates the weight of a row is not a number."""
    from gato.data.mixture import Mixture

    original = Mixture.batch

    def poisons(self: Mixture, at: int, rows: Sequence[int]) -> Any:
        batch = original(self, at, rows)
        if at in steps and row in rows:
            batch.weights[list(rows).index(row)] = float("nan")
        return batch

    Mixture.batch = poisons


def mean_of_means(rank: int) -> None:
    """Every rank divides by the number of its own targets, and the ranks' losses are averaged: a mistake to be found."""
    from gato.train import loop

    original = loop.sum_over_ranks
    loop.sum_over_ranks = lambda values: values * 2 if values.ndim == 0 else original(values)
