"""Where the episodes of recordings lie: files, groups of an HDF5 file, or runs of rows; and which split each belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gato.data.formats.left_out import LeftOut

from .arrays import Arrays
from .hdf5 import Hdf5Arrays
from .spec import Spec

_FOLDER = re.compile(r"\w[\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Place:
    """Where an episode is: rows of arrays whose keys begin with `prefix`; all rows where `stop` is None."""

    file: Path
    prefix: str = ""
    start: int = 0
    stop: int | None = None
    total: int | None = None  # rows of the file that is divided into runs

    def __str__(self) -> str:
        rows = "" if self.stop is None else f", rows {self.start} to {self.stop - 1}"
        return f"{self.file}{', ' + self.prefix.rstrip('/') if self.prefix else ''}{rows}"

    def key(self, name: str) -> str:
        """Of the whole file; a name that begins with a slash is one already."""
        return name[1:] if name.startswith("/") else self.prefix + name


def places(arrays: Arrays, cut: str | dict | None) -> Iterator[Place]:
    """The episodes of a file. **Raises:** `ValueError` naming the file, or a row of it, that cannot be divided so."""
    file = arrays.path
    if cut is None:
        yield Place(file)
        return
    if isinstance(cut, str):
        if not isinstance(arrays, Hdf5Arrays):
            raise ValueError(f"{file} has no groups such as '{cut}'; give 'episodes' as {{key: K}} or {{ends: [K, ...]}}")
        groups = arrays.groups(cut)
        if not groups:
            raise ValueError(f"{file} holds no episode in '{cut}': no group of it is named so")
        yield from (Place(file, f"{group}/") for group in groups)
        return
    keys = cut["ends"] if "ends" in cut else [cut["key"]]
    shapes = {key: arrays.shape(key) for key in keys}
    if wrong := [key for key, shape in shapes.items() if not shape or shape[1:] not in ((), (1,)) or shape[0] != shapes[keys[0]][0]]:
        raise ValueError(f"{file}: '{wrong[0]}' has the shape {shapes[wrong[0]]}; expected one value a row to divide the rows by")
    total = shapes[keys[0]][0]
    edges = [0, *(_ends(arrays, keys) if "ends" in cut else _changes(arrays, keys[0]))]
    edges += [total] * (edges[-1] != total)
    if total == 0:
        raise ValueError(f"{file} has no rows; leave it out")
    yield from (Place(file, "", start, stop, total) for start, stop in pairwise(edges))


def is_unfinished(place: Place, arrays: Arrays, cut: str | dict | None) -> bool:
    """Whether rows divided by ends stop without one."""
    if not isinstance(cut, dict) or "ends" not in cut or place.stop is None or place.stop != place.total:
        return False
    return not any(bool(np.ravel(arrays.read(key, place.stop - 1, place.stop))[0]) for key in cut["ends"])


def _ends(arrays: Arrays, keys: Sequence[str]) -> list[int]:
    """The rows behind those where one of the arrays is true."""
    found: set[int] = set()
    for key in keys:
        start = 0
        for values in arrays.column(key):
            check_flags(values, f"{arrays.path}: '{key}'", lambda t, start=start: arrays.place(start + t))
            found.update((np.flatnonzero(values) + start + 1).tolist())
            start += len(values)
    return sorted(found)


def check_flags(values: np.ndarray, label: str, place: Any) -> None:
    """**Raises:** `ValueError` for what is neither true nor false; `place(t)` names the row of value t."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{label} has dtype {values.dtype}, expected true and false, or 1 and 0")
    flat = values.reshape(-1)
    if values.dtype.kind != "b" and (wrong := ~((flat == 0) | (flat == 1))).any():
        t = int(np.argmax(wrong))
        raise ValueError(f"{label} is {flat[t]:g} at {place(t)}, expected true and false, or 1 and 0")


def _changes(arrays: Arrays, key: str) -> list[int]:
    """The rows where the array has another value than in the row before. **Raises:** `ValueError` where one comes back."""
    found: list[int] = []
    seen: set[Any] = set()
    row, last = 0, None
    for values in arrays.column(key):
        for value in values.reshape(-1).tolist():
            if value != value:
                raise ValueError(f"{arrays.path}, {arrays.place(row)}: '{key}' is no number, so its episode is unknown; repair the row")
            if row and value != last:
                found.append(row)
                seen.add(last)
                if value in seen:
                    where = f"{arrays.path}, {arrays.place(row)}"
                    raise ValueError(f"{where}: episode {value!r} of '{key}' begins a second time; sort the rows")
            row, last = row + 1, value
    return found


def split_places(found: Sequence[Place], spec: Spec, opened: Any, left_out: LeftOut) -> dict[str, list[Place]]:
    """The episodes by split; by shares they are spread evenly over the whole source.

    **Arguments:** `opened(file)`: its arrays.

    **Raises:** `ValueError` naming the episode whose split is unknown, or none of a folder's name.
    """
    shares = spec.split
    if isinstance(shares.get("key"), str) and len(shares) == 1:
        return _by_key(found, shares["key"], opened)
    if "masks" in shares:
        return _by_masks(found, shares["masks"], opened, left_out)
    plain = all(_FOLDER.fullmatch(str(name)) for name in shares)
    numbers = all(type(share) in (int, float) and 0 < share < float("inf") for share in shares.values())
    if not shares or not plain or not numbers:
        raise ValueError(f"'split' is {shares}, expected shares above zero by name, or {{key: K}}")
    total = sum(shares.values())
    splits: dict[str, list[Place]] = {str(name): [] for name in shares}
    if len(splits) < len(shares):
        raise ValueError(f"'split' is {shares}, which names a split twice")
    for i, place in enumerate(found):
        name = max(shares, key=lambda n: shares[n] / total * (i + 1) - len(splits[str(n)]))
        splits[str(name)].append(place)
    return {name: places for name, places in splits.items() if places}


def _by_key(found: Sequence[Place], key: str, opened: Any) -> dict[str, list[Place]]:
    splits: dict[str, list[Place]] = {}
    for place in found:
        values = np.ravel(opened(place.file).read(place.key(key), place.start, place.stop))
        names = sorted({str(v) for v in values.tolist()})
        if len(names) != 1 or not _FOLDER.fullmatch(names[0]):
            what = f"{names[0]!r}, which is no plain name for a folder" if len(names) == 1 else f"not one but {names[:4]}"
            raise ValueError(f"{place}: its split ('{key}') is {what}")
        splits.setdefault(names[0], []).append(place)
    return splits


def _by_masks(found: Sequence[Place], masks: dict[str, str], opened: Any, left_out: LeftOut) -> dict[str, list[Place]]:
    """By lists of groups' names, as robomimic's filter keys are; what no list names is left out and counted."""
    if wrong := [name for name in masks if not _FOLDER.fullmatch(name)]:
        raise ValueError(f"'split' names {wrong[0]!r}, which is no plain name for a folder")
    splits: dict[str, list[Place]] = {}
    for file in dict.fromkeys(place.file for place in found):
        arrays = opened(file)
        listed = {name: {str(v) for v in np.ravel(arrays.read(key.lstrip("/"))).tolist()} for name, key in masks.items()}
        here = [place for place in found if place.file == file]
        names = {name for place in here for name in _names_of(place)}
        if unknown := sorted(set().union(*listed.values()) - names):
            raise ValueError(f"{file}: its masks name '{unknown[0]}', but there is no such episode in '{_parent(here)}'")
        for place in here:
            its = [name for name, members in listed.items() if members & _names_of(place)]
            if len(its) > 1:
                raise ValueError(f"{place} is in the masks of {' and '.join(its)}; give masks that share no episode")
            if its:
                splits.setdefault(its[0], []).append(place)
            else:
                left_out.count("episodes that no mask names", place)
    if not splits:
        raise ValueError(f"the masks {masks} name no episode")
    return {name: splits[name] for name in masks if name in splits}


def _names_of(place: Place) -> set[str]:
    group = place.prefix.rstrip("/")
    return {group, group.rpartition("/")[2]}


def _parent(places: Sequence[Place]) -> str:
    return places[0].prefix.rstrip("/").rpartition("/")[0] or "the file"
