"""What pretraining brought to new tasks, where `gato finetune` measured it: beside the tasks that a new one is like, a reason to take a
checkpoint that knows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gato import envs
from gato.description import NAME
from gato.disk import read_json

FIGURE = "last step"  # of both, so that neither is chosen by what it scored


@dataclass(frozen=True)
class Gain:
    """`points` of the score that `full` is above `scratch` in `task` after `demonstrations` of it; `known`: sets and tasks of the
    checkpoint that `full` began with."""

    task: str
    known: frozenset[str]
    points: float
    demonstrations: int


def gains(folders: Sequence[Path]) -> list[Gain]:
    """One for each folder of `gato finetune`, by its largest number of demonstrations.

    **Raises:** `ValueError` for a folder without a finished table, for one without `full` or `scratch`, and where the checkpoint is gone.
    """
    return [_gain(folder) for folder in folders]


def _gain(folder: Path) -> Gain:
    path = folder / "fewshot.json"
    if not path.is_file():
        raise ValueError(f"'{folder}' has no fewshot.json; name folders in which 'gato finetune CKPT --modes full scratch --out' has ended")
    results = read_json(path)
    found = {(row["mode"], row["episodes"]): row["mean"] for row in results["rows"] if row["figure"] == FIGURE}
    counts = [count for mode, count in found if mode == "full" and ("scratch", count) in found]
    if not counts:
        raise ValueError(f"'{path}' compares nothing with new weights; give gato finetune --modes full scratch")
    checkpoint = Path(results["checkpoint"])
    if not (checkpoint / NAME).is_file():
        raise ValueError(f"'{path}' began with '{checkpoint}', which is not there, so nobody knows what it knew; start where it is")
    names = [task["name"] for task in read_json(checkpoint / NAME)["tasks"]]
    count = max(counts)
    return Gain(results["task"], _with_sets(names), found["full", count] - found["scratch", count], count)


def with_gains(rows: Sequence[dict[str, Any]], found: Sequence[Gain]) -> list[dict[str, Any]]:
    """Rows of `similar` with what pretraining on the task `like` brought: to the new `task` itself where that was measured, else to
    another one of its set, else to any.

    **Returns:** rows with `gain` in points of the score, `after` so many demonstrations, and `measured_in`, all `None` where nobody knows.
    """
    return [row | _told(row, found) for row in rows]


def _told(row: dict[str, Any], found: Sequence[Gain]) -> dict[str, Any]:
    knowing = [gain for gain in found if _with_sets([row["like"]]) & gain.known]
    new = row["task"]
    best = min(knowing, key=lambda gain: (gain.task != new, envs.set_of(gain.task) != envs.set_of(new)), default=None)
    if best is None:
        return {"gain": None, "after": None, "measured_in": None}
    return {"gain": round(best.points, 1), "after": best.demonstrations, "measured_in": best.task}


def _with_sets(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names) | frozenset(map(envs.set_of, names))
