"""An adapter: a few lines of Python that give the episodes of anything else.

The file defines `task`, a `TaskSpec`, and `episodes(path)`, which yields episodes or dicts of their values.
Importing it runs it: it is a program of the user's, and is treated as one.
"""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import count, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

from .arrays import nearest_or_all
from .files import files_digest
from .formats import Dataset
from .left_out import LeftOut

_KEYS = [f.name for f in fields(Episode) if f.name != "task"]


@dataclass(frozen=True)
class Adapter:
    """Episodes of a Python file of one's own, which is run.

    - `data`: handed to its `episodes(path)`: a file or a folder.
    """

    data: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """Runs the file, and its `episodes` once to check and count them before anything is written.

        **Raises:** `ValueError` naming the file and the line, or the episode and the field.
        """
        if self.data is not None and not self.data.exists():
            raise ValueError(f"there is no data at {self.data}")
        module = _run(path)
        task, episodes = getattr(module, "task", None), getattr(module, "episodes", None)
        if not isinstance(task, TaskSpec) or not callable(episodes):
            raise ValueError(f"{path} must define 'task', a TaskSpec, and 'episodes(path)'; see docs/formats/adapter.md")
        total = sum(1 for _ in self._episodes(path, task, episodes))
        if total == 0:
            raise ValueError(f"{path}: episodes({self.data}) yields none")
        return Dataset(
            source=path.name,
            digest=_digest(path, self.data),
            tasks=(task,),
            splits={"train": total},
            episodes=lambda split, start: islice(self._episodes(path, task, episodes), start, None),
            provenance={"format": "adapter", "adapter": path.read_text(encoding="utf-8"), "data": str(self.data), "licence": task.licence},
            left_out=left_out or LeftOut(),
        )

    def _episodes(self, path: Path, task: TaskSpec, episodes: Callable[[Path | None], Any]) -> Iterator[Episode]:
        iterator: Iterator[Any] | None = None
        for index in count():
            try:
                iterator = iter(episodes(self.data)) if iterator is None else iterator
                given = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise _located(error, path) from error
            try:
                episode = given if isinstance(given, Episode) else episode_of(task, given)
                if episode.task != task:
                    raise ValueError(f"it is of another task or another form of it, '{episode.task.name}'; expected '{task.name}'")
            except ValueError as error:
                raise ValueError(f"{path}, episode {index}: {error}") from None
            yield episode


def episode_of(task: TaskSpec, given: Any) -> Episode:
    """An episode from a dict of `Episode`'s arguments; only `observations` and `actions` are needed.

    - A task of one observation (or action) field takes its array alone; lists are as good as arrays.
    - One row more of every observation than of actions is the final observation.
    - Rewards are zero where none are given.

    **Raises:** `ValueError` naming key or field.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"it is of type {type(given).__name__}, expected an Episode or a dict with {', '.join(_KEYS[:3])}, ...")
    if unknown := [key for key in given if key not in _KEYS]:
        raise ValueError(f"there is no key '{unknown[0]}'{nearest_or_all(str(unknown[0]), _KEYS)}")
    values = dict(given)
    for side, specs in (("observations", task.observations), ("actions", task.actions)):
        found = values.get(side, {})
        found = found if isinstance(found, Mapping) else {spec.name: found for spec in specs[:1]}
        known = {spec.name: spec for spec in specs}
        values[side] = {name: _array(known[name], v) if name in known else v for name, v in found.items()}
    lengths = {name: len(v) for name, v in values["actions"].items() if name in {f.name for f in task.actions}}
    if not lengths:
        raise ValueError(f"it has no actions; expected {[f.name for f in task.actions]}")
    length = next(iter(lengths.values()))
    observed = values["observations"]
    if observed and values.get("final_observation") is None and all(len(v) == length + 1 for v in observed.values()):
        values["final_observation"] = {name: v[length] for name, v in observed.items()}
        values["observations"] = {name: v[:length] for name, v in observed.items()}
    rewards = values.get("rewards")
    values["rewards"] = np.zeros(length, np.float32) if rewards is None else np.asarray(rewards, np.float32)
    return Episode(task, **values)


def _array(spec: FieldSpec, values: Any) -> np.ndarray:
    """Text as objects; numbers in the field's dtype where that is the same kind."""
    if spec.modality is Modality.TEXT:
        array = np.empty(len(values), object)
        array[:] = [v for v in values]
        return array
    array = np.asarray(values)
    return array.astype(spec.dtype, copy=False) if np.can_cast(array.dtype, spec.dtype, "same_kind") else array


def _run(path: Path) -> ModuleType:
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{path} is no Python file; an adapter defines 'task' and 'episodes(path)', see docs/formats/adapter.md")
    spec = importlib.util.spec_from_file_location(f"gato_adapter_{path.stem}", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _located(error, path) from error
    return module


def _located(error: Exception, path: Path) -> Exception:
    """Names the adapter's line where an error comes from it, unless it names the file already."""
    if isinstance(error, SyntaxError):
        return ValueError(f"{path}, line {error.lineno}: {error.msg}")
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.absolute() or f.filename == str(path)]
    if not lines or str(error).startswith(str(path)):
        return error
    return ValueError(f"{path}, line {lines[-1]}: {type(error).__name__}: {error}")


def _digest(path: Path, data: Path | None) -> str:
    """Of the adapter and of all files that it is given."""
    files = [] if data is None else [data] if data.is_file() else sorted(f for f in data.rglob("*") if f.is_file())
    return files_digest(path.parent, [path, *files])
