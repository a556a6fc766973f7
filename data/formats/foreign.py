"""What the readers and writers of other formats share: a new folder, an episode with its counts."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gato.data.shards.manifest import DISK_FULL, task_differences
from gato.data.shards.table import TEMPORARY
from gato.data.store import Store
from gato.disk import sync
from gato.episode import Episode, clip_actions
from gato.spec import TaskSpec


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that gets its name when the context is left, and vanishes if it raises.

    **Raises:** `ValueError` if `out` exists; `OSError` with the remedy where the disk is full.
    """
    if os.path.lexists(out):
        raise ValueError(f"'{out}' exists; an export is a new folder, so choose another name or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}{TEMPORARY}")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
        os.rename(temporary, out)
        sync(out.parent)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        remedy = "nothing is left of what was written; make room and run the same command again"
        raise OSError(error.errno, f"{os.strerror(error.errno)}: {remedy}", str(out)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def foreign_episode(
    task: TaskSpec, actions: Mapping[str, np.ndarray], parameters: Mapping[str, Any], **values: Any
) -> Episode:  # fmt: skip
    """An episode whose actions are clipped where the task says so.

    Its parameters count the clipped action values (`clipped_actions`) and the observation values outside
    their declared range (`observations_out_of_bounds`), where there are any.

    **Raises:** `ValueError` as `Episode` does.
    """
    noted, num_clipped = dict(parameters), 0
    if task.clip_actions:
        actions, num_clipped = clip_actions(task, actions)
    episode = Episode(task, actions=actions, parameters=noted, **values)
    counts = {"clipped_actions": num_clipped, "observations_out_of_bounds": episode.count_out_of_bounds()}
    if "collection" not in noted:  # an episode of ours was counted when it was collected
        noted.update({name: count for name, count in counts.items() if count})
    return episode


def exact_cast(values: np.ndarray, dtype: str) -> np.ndarray:
    """Whole numbers and booleans as another such dtype where that changes no value; anything else as it is."""
    if values.dtype.kind in "biu" and np.dtype(dtype).kind in "biu":
        cast = values.astype(dtype)
        if np.array_equal(cast, values):
            return cast
    return values


def joined_tasks(stores: Sequence[Store]) -> dict[str, TaskSpec]:
    """`{name: task}` of some stores. **Raises:** `ValueError` if two tasks of one name differ."""
    tasks: dict[str, TaskSpec] = {}
    for store in stores:
        for task in store.tasks:
            if lines := task_differences([tasks.setdefault(task.name, task)], [task]):
                raise ValueError(f"store {store.path} holds another task of the same name as the stores before it: {'; '.join(lines)}")
    return tasks
