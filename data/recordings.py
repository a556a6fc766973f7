"""One's own recordings: HDF5, NPZ or CSV files, and a YAML file that says which arrays are what.

An episode is a file, a group of an HDF5 file, or a run of rows. One episode is in memory at a time.
`recordings_spec` reads the YAML file.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gato.episode import Episode, clip_actions
from gato.spec import PATCH_SIZE, FieldSpec, Modality, Role, TaskSpec

from .arrays import SUFFIXES, Arrays, Hdf5Arrays, column, natural_key, open_arrays
from .files import files_digest, options_digest
from .formats import Dataset
from .left_out import LeftOut
from .recordings_spec import Entry, Spec, listing, read_spec, suggestion

_FOLDER = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Recordings:
    """Own recordings in HDF5, NPZ or CSV files.

    - `spec`: YAML file that says which arrays are what; without it a first one is printed.
    """

    spec: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """`path`: a file, a folder of files, or a pattern such as `runs/*.npz`.

        **Raises:** `ValueError` naming file and key; without a spec, after printing one to start from.
        """
        files = _files(path)
        if self.spec is None:
            print(suggestion(files[0]))
            raise ValueError(
                f"{files[0]} holds {', '.join(listing(files[0]))}; a spec must say which is what: save the one printed above "
                f"('gato data import recordings {path} > spec.yaml'), check it and give --spec spec.yaml"
            )
        spec = read_spec(self.spec)
        try:
            source = _Source(files, spec)
            task, inferred = source.task()
            splits = source.splits()
        except ValueError as error:
            names_a_file = any(str(error).startswith(str(file)) for file in files)
            raise error if names_a_file else ValueError(f"{self.spec}: {error}") from None
        provenance: dict[str, Any] = {"format": "recordings", "files": len(files), "spec": spec.given, "licence": spec.licence}
        if inferred:
            provenance["inferred_ranges"] = inferred
        if spec.reward is None:
            provenance["rewards"] = "none recorded; all zero"
        if source.num_unfinished:
            provenance["episodes_without_an_end"] = source.num_unfinished
        return Dataset(
            source=path.name,
            digest=options_digest(files_digest(files[0].parent, files), spec=json.dumps(spec.given, sort_keys=True, default=str)),
            tasks=(task,),
            splits={name: len(places) for name, places in splits.items()},
            episodes=lambda split, start: (source.episode(task, place) for place in islice(splits[split], start, None)),
            provenance=provenance,
            left_out=left_out or LeftOut(),
        )


@dataclass(frozen=True)
class _Place:
    """Where an episode is: rows of arrays whose keys begin with `prefix`; all rows where `stop` is None."""

    file: Path
    prefix: str = ""
    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        rows = "" if self.stop is None else f", rows {self.start} to {self.stop - 1}"
        return f"{self.file}{', ' + self.prefix.rstrip('/') if self.prefix else ''}{rows}"


class _Source:
    """Files and what the spec says of them, with one file open at a time."""

    def __init__(self, files: Sequence[Path], spec: Spec) -> None:
        self.spec, self.num_unfinished = spec, 0
        self._arrays: Arrays | None = None
        self._types = spec.types()
        self._totals: dict[Path, int] = {}  # rows of the files that are divided into runs of rows
        self.places = [place for file in files for place in self._places(file)]
        if not self.places:
            raise ValueError(f"{files[0]} holds no episode" + (f" in '{spec.episodes}'" if spec.episodes else ""))

    def task(self) -> tuple[TaskSpec, dict[str, Any]]:
        """The task, from the spec and the first episode, and the ranges that had to be measured."""
        asked = {(role, name): entry for role, name, entry in self.spec.entries if entry.infer}
        ranges = self._measure(asked) if asked else {}
        specs = [self._field(role, name, entry, ranges.get((role, name))) for role, name, entry in self.spec.entries]
        s = self.spec
        task = TaskSpec(
            s.task, tuple(specs), s.env_id, s.env_kwargs, episode_limit=s.episode_limit, licence=s.licence, clip_actions=s.clip_actions
        )
        return task, {f"{role} {name}": {"low": low, "high": high} for (role, name), (low, high) in ranges.items()}

    def splits(self) -> dict[str, list[_Place]]:
        """The episodes by split, by shares that hold for every part of the source as nearly as they can."""
        shares = self.spec.split
        found: dict[str, list[_Place]] = {}
        if isinstance(shares.get("key"), str) and len(shares) == 1:
            for place in self.places:
                text = self._open(place.file).read(place.prefix + shares["key"], place.start, place.start + 1)
                found.setdefault(str(np.ravel(text)[0]), []).append(place)
            if wrong := [name for name in found if not _FOLDER.fullmatch(name)]:
                raise ValueError(f"{found[wrong[0]][0]}: its split is {wrong[0]!r}, which is no plain name for a folder")
            return found
        plain = all(_FOLDER.fullmatch(str(name)) for name in shares)
        if not shares or not plain or not all(type(share) in (int, float) and share > 0 for share in shares.values()):
            raise ValueError(f"'split' is {shares}, expected shares above zero by name, or {{key: K}}")
        total = sum(shares.values())
        found = {name: [] for name in shares}
        for i, place in enumerate(self.places):
            name = max(shares, key=lambda n: shares[n] / total * (i + 1) - len(found[n]))
            found[name].append(place)
        return {name: places for name, places in found.items() if places}

    def episode(self, task: TaskSpec, place: _Place) -> Episode:
        """**Raises:** `ValueError` naming file, episode and field."""
        try:
            return self._episode(task, place)
        except ValueError as error:
            raise _located(error, place) from None

    def _episode(self, task: TaskSpec, place: _Place) -> Episode:
        length, s = self._length(place), self.spec
        sides: dict[str, dict[str, np.ndarray]] = {"observation": {}, "action": {}}
        final: dict[str, Any] = {}
        constant: dict[str, Any] = {}  # has a final value if the others have one
        for role, name, entry in s.entries:
            values = self._values(place, entry, length, f"{role} '{name}'", with_final=role == "observation")
            if role == "observation" and self._is_constant(place, entry):
                constant[name] = values[0]
            elif len(values) > length:
                final[name] = values[length]
            sides[role][name] = values[:length]
        final = final | constant if final else {}
        if final and (lacking := sorted({f.name for f in task.observations} - final.keys())):
            raise ValueError(f"the observations {sorted(final)} have a final one, but {lacking} lack it; give 'next' to all or none")
        actions, num_clipped = clip_actions(task, sides["action"]) if s.clip_actions else (sides["action"], 0)
        parameters: dict[str, Any] = {"recording": str(place).removeprefix(f"{place.file.parent}/")}
        parameters |= {"clipped_actions": num_clipped} if num_clipped else {}
        rewards = np.zeros(length, np.float32) if s.reward is None else self._rows(place, s.reward, length, "reward")
        return Episode(
            task=task,
            observations=sides["observation"],
            actions=actions,
            rewards=np.asarray(rewards, np.float32).reshape(length),
            terminated=bool(self._ending(place, s.terminated, length, "terminated")),
            truncated=bool(self._ending(place, s.truncated, length, "truncated")),
            final_observation=final or None,
            behaviour=s.behaviour,  # type: ignore[arg-type]
            success=self._success(place, length),
            parameters=parameters,
        )

    def _values(self, place: _Place, entry: Entry, length: int, label: str, with_final: bool = False) -> np.ndarray:
        """(length, *shape), and one more where the source has a final observation."""
        if entry.text is not None:
            return np.array([entry.text] * length, object)
        columns = [self._rows(place, key, length, label, more=with_final) for key in entry.keys]
        values = columns[0] if not isinstance(entry.key, list) else np.stack(columns, axis=1)
        if with_final and entry.next is not None:
            keys = entry.next if isinstance(entry.next, list) else [entry.next]
            last = [self._rows(place, key, length, label)[-1:] for key in keys]
            values = np.concatenate([values[:length], last[0] if not isinstance(entry.next, list) else np.stack(last, axis=1)])
        if values.dtype.kind in "OUS":
            if values.ndim > 1 and values.shape[1] > 1:
                words = [key for key, column in zip(entry.keys, columns, strict=False) if column.dtype.kind in "OUS"] or entry.keys
                raise ValueError(
                    f"{label}: {words} hold text, and several values of a timestep cannot be text; if they should be numbers, "
                    "'modality: continuous' finds the row that is none"
                )
            return np.array([str(v) for v in values.reshape(len(values))], object)
        return values.reshape(len(values), *entry.shape) if entry.shape is not None else values

    def _rows(self, place: _Place, key: str, length: int, label: str, more: bool = False) -> np.ndarray:
        """The episode's rows of one array; a single text holds for all of them."""
        arrays, key = self._open(place.file), place.prefix + key
        shape = arrays.shape(key)
        if place.stop is not None:
            if not shape or shape[0] != self._totals[place.file]:
                found = shape[0] if shape else "no"
                raise ValueError(f"{place.file}: {label} ('{key}') has {found} rows but the file has {self._totals[place.file]}")
            return arrays.read(key, place.start, place.stop)
        if self._is_single_text(arrays, key):
            return np.repeat(arrays.read(key).reshape(1), length)
        if not shape or shape[0] not in ((length, length + 1) if more else (length,)):
            found = shape[0] if shape else "no"
            raise ValueError(f"{label} ('{key}') has {found} rows but the actions have {length}; leave the episode out")
        return arrays.read(key)

    def _is_constant(self, place: _Place, entry: Entry) -> bool:
        return entry.text is not None or (
            place.stop is None and all(self._is_single_text(self._open(place.file), place.prefix + key) for key in entry.keys)
        )

    @staticmethod
    def _is_single_text(arrays: Arrays, key: str) -> bool:
        return arrays.shape(key) in ((), (1,)) and arrays.dtype(key) == "str"

    def _length(self, place: _Place) -> int:
        if place.stop is not None:
            return place.stop - place.start
        keys = [key for entry in self.spec.actions.values() for key in entry.keys]
        if not keys:
            raise ValueError("all actions are constant; give at least one a key")
        shape = self._open(place.file).shape(place.prefix + keys[0])
        if not shape or shape[0] == 0:
            raise ValueError(f"'{keys[0]}' has no timesteps; leave the episode out")
        return shape[0]

    def _ending(self, place: _Place, key: str | bool | None, length: int, label: str) -> bool:
        """Whether the last timestep ended the episode this way."""
        if not isinstance(key, str):
            return bool(key)
        flags = np.ravel(self._flags(place, key, length, label))
        if flags[:-1].any():
            raise ValueError(
                f"'{key}' ({label}) is true at timestep {int(np.argmax(flags))} of {length}; "
                f"divide it there with 'episodes: {{ends: [{key}]}}', or leave {label} out"
            )
        return bool(flags[-1])

    def _success(self, place: _Place, length: int) -> bool | None:
        key = self.spec.success
        return bool(self._flags(place, key, length, "success").any()) if isinstance(key, str) else key

    def _flags(self, place: _Place, key: str, length: int, label: str) -> np.ndarray:
        arrays = self._open(place.file)
        single = place.stop is None and arrays.shape(place.prefix + key) == ()
        flags = arrays.read(place.prefix + key) if single else self._rows(place, key, length, label)
        if flags.dtype.kind not in "biuf":
            raise ValueError(f"{label} ('{key}') has dtype {flags.dtype}, expected true and false, or 1 and 0")
        return flags.astype(bool)

    def _places(self, file: Path) -> Iterator[_Place]:
        cut = self.spec.episodes
        if cut is None:
            yield _Place(file)
            return
        arrays = self._open(file)
        if isinstance(cut, str):
            if not isinstance(arrays, Hdf5Arrays):
                raise ValueError(f"{file} has no groups such as '{cut}'; give 'episodes' as {{key: K}} or {{ends: [K, ...]}}")
            yield from (_Place(file, f"{group}/") for group in arrays.groups(cut))
            return
        edges = [0, *(_ends(arrays, cut["ends"]) if "ends" in cut else _changes(arrays, cut["key"]))]
        self._totals[file] = total = arrays.shape(cut["ends"][0] if "ends" in cut else cut["key"])[0]
        if edges[-1] != total:
            edges.append(total)
            self.num_unfinished += "ends" in cut
        yield from (_Place(file, "", start, stop) for start, stop in pairwise(edges))

    def _field(self, role: Role, name: str, entry: Entry, measured: tuple[list, list] | None) -> FieldSpec:
        """The spec of a field, from what is written and what the first episode holds."""
        label, place = f"{role} '{name}'", self.places[0]
        try:
            values = self._values(place, entry, self._length(place), label, with_final=role == "observation")
        except ValueError as error:
            raise _located(error, place) from None
        dtype = "str" if values.dtype.kind == "O" else entry.dtype or values.dtype.name
        shape = () if dtype == "str" else values.shape[1:]
        low, high = measured or (_bound(entry.low), _bound(entry.high))
        if dtype == "str" and (low or high):
            raise ValueError(f"{label} holds text but has a range; 'modality: continuous' finds the row that is no number")
        modality = _modality(entry, dtype, shape, label)
        if modality is Modality.DISCRETE and dtype == "bool":
            low, high = low or [0], high or [1]
        resize: Literal["exact", "pad"] = "exact" if modality is not Modality.IMAGE or not any(n % PATCH_SIZE for n in shape[:2]) else "pad"
        path = () if name == role and len(getattr(self.spec, f"{role}s")) == 1 else tuple(name.split("/"))
        try:
            lowest, highest, origin = (None if values is None else tuple(values) for values in (low, high, _bound(entry.origin)))
            return FieldSpec(name, modality, role, shape, dtype, lowest, highest, path, resize, origin=origin)
        except ValueError as error:
            raise ValueError(f"{error}; or say 'infer: true'" if "give" in str(error) else str(error)) from None

    def _measure(self, asked: Mapping[tuple[Role, str], Entry]) -> dict[tuple[Role, str], tuple[list, list]]:
        """Lowest and highest value of each element over all episodes."""
        found: dict[tuple[Role, str], tuple[np.ndarray, np.ndarray]] = {}
        for place in self.places:
            for (role, name), entry in asked.items():
                label = f"{role} '{name}'"
                try:
                    values = self._values(place, entry, self._length(place), label, with_final=role == "observation")
                    values = values.reshape(len(values), -1)
                    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
                        raise ValueError(f"{label} holds what is no finite number, so it has no range; repair it or leave the episode out")
                    low, high = found.get((role, name), (values[0], values[0]))
                    found[role, name] = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
                except ValueError as error:
                    raise _located(error, place) from None
        for (role, name), (low, high) in found.items():
            if role == "action" and low.dtype.kind == "f" and (low == high).any():
                i = int(np.argmax(low == high))
                raise ValueError(f"action '{name}' always is {low[i]:g} in element {i}, which is no range; give low and high")
        return {key: (low.tolist(), high.tolist()) for key, (low, high) in found.items()}

    def _open(self, file: Path) -> Arrays:
        if self._arrays is None or self._arrays.path != file:
            if self._arrays is not None:
                self._arrays.close()
            self._arrays = open_arrays(file, self._types)
        return self._arrays


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    files = sorted((f for f in found if f.is_file() and f.suffix.lower() in SUFFIXES), key=lambda f: natural_key(str(f)))
    if not files:
        raise ValueError(f"there are no recordings at {path}; expected files named *{', *'.join(SUFFIXES)}")
    return files


def _ends(arrays: Arrays, keys: Sequence[str]) -> list[int]:
    """The rows behind those where one of the arrays is true."""
    found: set[int] = set()
    for key in keys:
        start = 0
        for values in column(arrays, key):
            if values.dtype.kind not in "biuf":
                raise ValueError(f"{arrays.path}: '{key}' has dtype {values.dtype}, expected true and false, or 1 and 0")
            found.update((np.flatnonzero(values) + start + 1).tolist())
            start += len(values)
    return sorted(found)


def _changes(arrays: Arrays, key: str) -> list[int]:
    """The rows where the array has another value than in the row before. **Raises:** `ValueError` where one comes back."""
    found: list[int] = []
    seen: set[Any] = set()
    row, last = 0, None
    for values in column(arrays, key):
        for value in values.tolist():
            if row and value != last:
                found.append(row)
                seen.add(last)
                if value in seen:
                    raise ValueError(f"{arrays.path}, row {row}: episode {value!r} of '{key}' begins a second time; sort the rows")
            row, last = row + 1, value
    return found


def _modality(entry: Entry, dtype: str, shape: tuple[int, ...], label: str) -> Modality:
    if entry.modality is not None:
        if entry.modality not in list(Modality):
            raise ValueError(f"{label} has modality '{entry.modality}', expected one of {', '.join(Modality)}")
        return Modality(entry.modality)
    if dtype == "str":
        return Modality.TEXT
    if dtype == "uint8" and len(shape) == 3:
        return Modality.IMAGE
    return Modality.CONTINUOUS if np.dtype(dtype).kind == "f" else Modality.DISCRETE


def _bound(value: float | list | None) -> list | None:
    return value if value is None or isinstance(value, list) else [value]


def _located(error: ValueError, place: _Place) -> ValueError:
    return error if str(error).startswith(str(place.file)) else ValueError(f"{place}: {error}")
