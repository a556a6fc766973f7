"""`gato eval RUN --follow`: evaluation beside training, checkpoint by checkpoint, as they appear.

RUN/evals/step-500.json    what `gato eval` writes; a checkpoint with such a file is not played again
RUN/evals/final.json       the last one: with it the run is evaluated whole
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gato.train.checkpoint import steps

from .control import evaluate_checkpoint
from .settings import EvalConfig

POLL_SECONDS = 10.0  # between two looks for a new checkpoint


def follow(run: Path, config: EvalConfig, poll_seconds: float = POLL_SECONDS) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The results of every checkpoint of a run, oldest first, until `final` is evaluated.

    Training goes on meanwhile and may remove an old checkpoint before or while it is played: that one's results are then `None`.

    **Raises:** `ValueError` if there is no such run, or for settings that hold for a single checkpoint only.
    """
    if config.out or config.record:
        raise ValueError(f"the results of all checkpoints go to {run / 'evals'}; leave out --out and --record, or name one checkpoint")
    if not (run / "run.json").is_file():
        raise ValueError(f"'{run}' holds no run: it has no run.json; name a folder such as runs/demo")
    (run / "evals").mkdir(exist_ok=True)
    while not _is_whole(run / "evals" / "final.json"):
        there = [p for p in [*steps(run), run / "final"] if (p / "manifest.json").is_file()]
        waiting = [p for p in there if not _is_whole(run / "evals" / f"{p.name}.json")]
        for path in waiting[:1]:
            yield path.name, _evaluated(path, run / "evals" / f"{path.name}.json", config)
        if not waiting:
            time.sleep(poll_seconds)


def _is_whole(file: Path) -> bool:
    """Whether the evaluation of this file came to its end; it is written after every task."""
    return file.is_file() and "seconds" in json.loads(file.read_text())


def _evaluated(checkpoint: Path, out: Path, config: EvalConfig) -> dict[str, Any] | None:
    try:
        return evaluate_checkpoint(checkpoint, replace(config, out=out))
    except (ValueError, OSError):
        if (checkpoint / "manifest.json").is_file():
            raise
        return None  # removed by the run


def scores_line(name: str, results: dict[str, Any] | None) -> str:
    """One line for a checkpoint: its tasks' scores, or returns where a task has none."""
    if results is None:
        return f"{name}: removed by the run before it could be played"
    rows = [row for row in results["tasks"] if not row["ablation"]]
    found = [f"{row['task']} {row['mean']:.4g}" if row["score"] is None else f"{row['task']} {row['score']:.1f}" for row in rows]
    return f"{name}: {', '.join(found)}"
