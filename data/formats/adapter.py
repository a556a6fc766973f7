"""An adapter: a few lines of Python that give the episodes of anything else.

The file defines `task`, a `TaskSpec`, and `episodes(path)`, which yields episodes or dicts of their values.
Importing it runs it: it is a program of the user's, and is treated as one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import time
import tokenize
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np

from gato.data.formats.recordings.arrays import nearest_or_all
from gato.data.shards.columns import to_json
from gato.episode import Behaviour, Episode, OutOfRange, in_dtype
from gato.setting import MAX_COUNT, Settings, bounded
from gato.spec import FieldSpec, Modality, TaskSpec

from .dataset import Dataset
from .files import files_below, files_digest, options_digest
from .left_out import LeftOut

MAX_EPISODES = 1_000_000
SECONDS_BETWEEN_LINES = 10

_KEYS = [f.name for f in fields(Episode) if f.name != "task"]


@dataclass(frozen=True)
class Adapter(Settings):
    """Episodes of a Python file of one's own, which is run.

    - `data`: handed to its `episodes(path)`: a file or a folder.
    - `max_episodes`: takes only so many, where it would yield more, or never end.
    """

    data: Path | None = None
    max_episodes: int | None = bounded(None, 1, MAX_COUNT)

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """Runs the file, and its `episodes` once to check and count them before anything is written.

        **Raises:** `ValueError` naming the file and the line, or the episode and the field.
        """
        left_out = left_out or LeftOut()
        if self.data is not None and not self.data.exists():
            raise ValueError(f"there is no data at {self.data}")
        run = _Adapted(path, self.data, self.max_episodes)
        seen: list[bytes] = []
        said = time.monotonic()
        for index, episode in run.episodes():
            try:
                seen.append(_content(_checked(run.task, episode)))
            except ValueError as error:
                left_out.row(ValueError(f"{path}, episode {index}: {_in_words(error)}"))
                seen.append(b"")  # a bad one
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                print(f"{path.name}: {len(seen)} episodes checked so far", file=sys.stderr, flush=True)
        if not any(seen):
            raise ValueError(f"{path}: episodes({self.data}) yields none")
        digest = options_digest(_digest(path, self.data), content=hashlib.sha256(b"".join(seen)).hexdigest())
        return Dataset(
            source=path.name,
            digest=digest,
            tasks=(run.task,),
            splits={"train": sum(map(bool, seen))},
            episodes=lambda split, start: run.again(seen, start),
            provenance={"format": "adapter", "adapter": _text(path), "data": str(self.data), "licence": run.task.licence},
            left_out=left_out,
        )


class _Adapted:
    """The adapter's file, run: its task and its episodes."""

    def __init__(self, path: Path, data: Path | None, limit: int | None) -> None:
        self.path, self.data, self.limit = path, data, limit
        module = _run(path)
        task, self._function = getattr(module, "task", None), getattr(module, "episodes", None)
        if not isinstance(task, TaskSpec) or not callable(self._function):
            raise ValueError(f"{path} must define 'task', a TaskSpec, and 'episodes(path)'; see docs/formats/adapter.md")
        self.task = task

    def episodes(self) -> Iterator[tuple[int, Any]]:
        """What the function yields, numbered, as far as it is asked for. What it prints goes to standard error."""
        iterator = self._iterator()
        for index in count():
            if index == self.limit:
                return
            if index == MAX_EPISODES and self.limit is None:
                raise ValueError(f"{self.path} yields more than {MAX_EPISODES} episodes, or never ends; --max_episodes N takes the first N")
            with _named(self.path):
                try:
                    given = next(iterator)
                except StopIteration:
                    return
            yield index, given

    def again(self, seen: list[bytes], start: int) -> Iterator[Episode]:
        """The good episodes from place `start` on. **Raises:** `ValueError` naming one that differs from what was checked."""
        found, place = 0, 0
        for index, given in self.episodes():
            found += 1
            known = seen[index] if index < len(seen) else None
            if known == b"":
                continue
            try:
                episode = _checked(self.task, given)
                is_same = known is not None and _content(episode) == known
            except ValueError:
                is_same = False
            if not is_same:
                raise ValueError(
                    f"{self.path}, episode {index} differs from the one that was checked: 'episodes' runs twice and must yield the same "
                    "both times; seed what is random in it, and read no iterator twice"
                )
            if place >= start:
                yield episode
            place += 1
        if found < len(seen):
            raise ValueError(
                f"{self.path} yields {found} episodes, but {len(seen)} when it was checked; 'episodes' must yield the same both times"
            )

    def _iterator(self) -> Iterator[Any]:
        with _named(self.path):
            assert self._function is not None  # a callable, as it was loaded
            given: Any = self._function(self.data)
        if isinstance(given, str | bytes | Mapping | Episode | np.ndarray) or not hasattr(given, "__iter__"):
            found = "nothing (is a 'yield' or 'return' missing?)" if given is None else f"a {type(given).__name__}"
            raise ValueError(f"{self.path}: episodes({self.data}) gives {found}; let it yield episodes, or return a list of them")
        with _named(self.path):
            return iter(given)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Runs the adapter's own code: what it raises is named by its line, what it prints is kept from standard output."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except SystemExit as error:
        raise ValueError(f"{path} calls sys.exit({'' if error.code is None else error.code!r}); let it return, or raise an error") from None
    except Exception as error:
        raise _located(error, path) from error


def _checked(task: TaskSpec, given: Any) -> Episode:
    episode = given if isinstance(given, Episode) else episode_of(task, given)
    if episode.task != task:
        raise ValueError(f"it is of another task or another form of it, '{episode.task.name}'; expected '{task.name}'")
    return episode


def _content(episode: Episode) -> bytes:
    """16 bytes that differ where an episode does."""
    total = hashlib.blake2b(digest_size=16)
    for part in (episode.observations, episode.actions, episode.final_observation or {}):
        for name, values in sorted(part.items()):
            array = np.asarray(values)
            total.update(f"{name} {array.shape} {array.dtype}".encode())
            total.update(
                repr(array.tolist()).encode("utf-8", "backslashreplace") if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
            )
    total.update(np.asarray(episode.rewards).tobytes())
    labels = (episode.terminated, episode.truncated, episode.final_observation is None, episode.behaviour, episode.success, episode.seed)
    total.update(repr((labels, sorted(episode.parameters.items(), key=str))).encode("utf-8", "backslashreplace"))
    return total.digest()


def _in_words(error: ValueError) -> str:
    if isinstance(error, OutOfRange):
        return f"{error.found}; widen the range of the adapter's task, or clip the actions in the adapter"
    return str(error)


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
        found = values.get(side) if values.get(side) is not None else {}
        found = found if isinstance(found, Mapping) else {spec.name: found for spec in specs[:1]}
        known = {spec.name: spec for spec in specs}
        values[side] = {name: _array(known[name], v) if name in known else v for name, v in found.items()}
    lengths = {name: len(v) for name, v in values["actions"].items() if name in {f.name for f in task.actions}}
    if not lengths:
        raise ValueError(f"it has no actions; expected {[f.name for f in task.actions]}")
    length = next(iter(lengths.values()))
    observed = values["observations"]
    if unknown := [
        f"{side[:-1]} {name!r}" for side in ("observations", "actions") for name, v in values[side].items() if not hasattr(v, "__len__")
    ]:
        raise ValueError(f"{unknown[0]} is no field of the task")
    if observed and values.get("final_observation") is None and all(len(v) == length + 1 for v in observed.values()):
        values["final_observation"] = {name: v[length] for name, v in observed.items()}
        values["observations"] = {name: v[:length] for name, v in observed.items()}
    elif values.get("final_observation") is not None:
        values["final_observation"] = _final(task, values["final_observation"])
    values["rewards"] = _rewards(values.get("rewards"), length)
    for name in ("terminated", "truncated", "success"):
        if values.get(name) is None and name != "success":
            values.pop(name, None)
        elif values.get(name) is not None:
            values[name] = _flag(values[name], name)
    _check_labels(values)
    return Episode(task, **values)


def _rewards(given: Any, length: int) -> np.ndarray:
    if given is None:
        return np.zeros(length, np.float32)
    found = _as_array(given, "'rewards'")
    if found.dtype.kind not in "biuf" or found.shape not in ((length,), (length, 1)):
        raise ValueError(f"'rewards' is {found.dtype} of shape {found.shape}, expected {length} numbers, as there are actions")
    with np.errstate(over="ignore"):
        return found.reshape(length).astype(np.float32)


def _flag(given: Any, name: str) -> bool:
    """True or false; of one for each timestep the last, or for success any."""
    found = _as_array(given, f"'{name}'")
    if found.dtype.kind not in "biuf" or found.size == 0 or not np.isin(found, (0, 1)).all():
        raise ValueError(f"'{name}' is {str(given)[:80]!r}, expected true or false")
    if name != "success" and found.reshape(-1)[:-1].any():
        raise ValueError(f"'{name}' is true before the last timestep; divide the episode there")
    return bool(found.any())


def _final(task: TaskSpec, given: Any) -> dict[str, Any]:
    found = given if isinstance(given, Mapping) else {spec.name: given for spec in task.observations[:1]}
    known = {spec.name: spec for spec in task.observations}
    if unknown := [name for name in found if name not in known]:
        raise ValueError(f"the final observation has {unknown[0]!r}, which is no field of the task")
    return {name: value if known[name].modality is Modality.TEXT else _array(known[name], [value])[0] for name, value in found.items()}


def _check_labels(values: dict[str, Any]) -> None:
    """What a store would refuse only when it is written."""
    if values.get("behaviour") is None:
        values.pop("behaviour", None)
    elif values["behaviour"] not in get_args(Behaviour):
        raise ValueError(f"'behaviour' is {str(values['behaviour'])[:80]!r}, expected one of {', '.join(get_args(Behaviour))}")
    seed = values.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not -(2**63) <= int(seed) < 2**63):
        raise ValueError(f"'seed' is {str(seed)[:80]!r}, expected a whole number of 64 bits")
    parameters = values.get("parameters")
    if parameters is None:
        values.pop("parameters", None)
    elif not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise ValueError(f"'parameters' is {str(parameters)[:80]!r}, expected a dict with names as its keys")
    else:
        to_json(parameters)


def _as_array(given: Any, label: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{label} has rows of unequal length, or values that are no numbers") from None


def _array(spec: FieldSpec, values: Any) -> np.ndarray:
    """Text as objects; numbers in the field's dtype where that is the same kind."""
    label = f"{spec.role} '{spec.name}'"
    if spec.modality is Modality.TEXT:
        if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
            raise ValueError(f"{label} is {str(values)[:80]!r}, expected a text for each timestep")
        array = np.empty(len(values), object)
        array[:] = list(values)
        return array
    array = _as_array(values, label)
    if array.ndim == 0 or array.dtype.hasobject:
        raise ValueError(f"{label} is {str(values)[:80]!r}, expected an array with a row for each timestep")
    return in_dtype(spec, array)


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file; an adapter is a Python file, see docs/formats/adapter.md")
    if path.suffix != ".py":
        raise ValueError(f"{path} is no Python file; an adapter defines 'task' and 'episodes(path)', see docs/formats/adapter.md")
    name = f"gato_adapter_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import does: dataclasses look there
    with _named(path):
        spec.loader.exec_module(module)
    return module


def _text(path: Path) -> str:
    """The adapter as Python reads it."""
    with tokenize.open(path) as file:
        return file.read()


def _located(error: Exception, path: Path) -> ValueError | ImportError:
    """Names the adapter's line where an error comes from it, unless it names the file already."""
    if isinstance(error, SyntaxError):
        return ValueError(f"{path}, line {error.lineno}: {error.msg}")
    files = (str(path), str(path.absolute()))
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    if isinstance(error, ValueError) and str(error).startswith(files):
        return error
    where = f", line {lines[-1]}" if lines else ""
    return ValueError(f"{path}{where}: {type(error).__name__}: {str(error)[:1_000]}")


def _digest(path: Path, data: Path | None) -> str:
    """Of the adapter and of all files that it is given."""
    files = [] if data is None else [data] if data.is_file() else files_below(data)
    return files_digest(path.parent, [path, *files])
