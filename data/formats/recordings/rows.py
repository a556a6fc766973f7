"""The rows of one episode of recordings: the arrays that a field is made of, its pictures and texts, and how the episode ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gato.spec import Modality

from .arrays import Arrays
from .frames import as_pictures, is_encoded, is_plain_picture, look
from .places import Place, check_flags
from .spec import Entry, Spec


class EpisodeRows:
    """Reads one episode.

    **Arguments:** `opened(file)`: its arrays.

    **Raises:** `ValueError` naming the field or the array, from all of its methods.
    """

    def __init__(self, place: Place, spec: Spec, opened: Callable[[Path], Arrays]) -> None:
        self.place, self.spec, self.arrays = place, spec, opened(place.file)
        self.length = self._length()

    def values(self, entry: Entry, label: str, with_final: bool = False) -> np.ndarray:
        """(length, *shape), and one more where the source has a final observation."""
        if entry.text is not None:
            return np.array([entry.text] * self.length, object)
        columns = [self.rows(key, label, more=with_final) for key in entry.keys]
        values = _joined(columns, label, entry.keys) if isinstance(entry.key, list) else columns[0]
        if with_final and entry.next is not None and self.spec.final_observation:
            values = np.concatenate([values[: self.length], self._last(entry, values, label)])
        if entry.modality == Modality.IMAGE or (entry.modality is None and (is_encoded(values) or _is_picture(values))):
            return self._pictures(values, entry, label)
        if is_encoded(values):
            if values.dtype == object:
                raise ValueError(f"{label} holds encoded pictures; say 'modality: image' or nothing")
        elif entry.modality is None and values.dtype.kind in "biuf" and (found := look(values.dtype.name, values.shape[1:])):
            raise ValueError(
                f"{label} looks like {found} ({', '.join(map(str, values.shape[1:]))}); say 'modality: image', which makes uint8 of "
                "(rows, columns, 3) of them, or, if they are numbers, 'modality: continuous' or 'discrete'"
            )
        if values.dtype.kind in "OUS":
            return self._texts(values, columns, entry, label)
        values = values if entry.shape is None else _reshaped(values, entry.shape, label)
        return _whole(values, label) if entry.modality == Modality.DISCRETE and values.dtype.kind == "f" else values

    def rewards(self) -> np.ndarray:
        """(length,) float32; zeros where none are recorded."""
        key = self.spec.reward
        if key is None:
            return np.zeros(self.length, np.float32)
        values = self.rows(key, "reward")
        if values.dtype.kind not in "biuf" or values.size != self.length:
            raise ValueError(f"reward ('{key}') is {values.dtype} of shape {values.shape}, expected a number a timestep")
        with np.errstate(over="ignore"):
            return values.reshape(self.length).astype(np.float32)

    def ended(self, key: str | bool | None, label: str) -> bool:
        """Whether the last timestep ended the episode this way."""
        if not isinstance(key, str):
            return bool(key)
        flags = self._flags(key, label)
        if flags[:-1].any():
            t = int(np.argmax(flags))
            by_hand = (
                f"divide it there with 'episodes: {{ends: [{key}]}}', or " if self.place.stop is None and not self.place.prefix else ""
            )
            where = f"from timestep {t} on, and there are" if flags[t:].all() else f"at timestep {t} of"
            raise ValueError(
                f"'{key}' ({label}) is true {where} {self.length}; {by_hand}cut the recording behind it, "
                f"or leave '{label}' out of a spec (--spec)"
            )
        return bool(flags[-1])

    def succeeded(self) -> bool | None:
        key = self.spec.success
        return bool(self._flags(key, "success").any()) if isinstance(key, str) else key

    def is_constant(self, entry: Entry) -> bool:
        """Whether the field is said once, for all timesteps."""
        return entry.text is not None or (self.place.stop is None and all(self._is_single(self.place.key(key)) for key in entry.keys))

    def rows(self, key: str, label: str, more: bool = False) -> np.ndarray:
        """The episode's rows of one array; a single text and an attribute hold for all of them."""
        place, name = self.place, self.place.key(key)
        shape = self.arrays.shape(name)
        if self.arrays.is_constant(name) or (place.stop is None and self._is_single(name)):
            value = self.arrays.read(name)
            value = value.reshape(()) if value.size == 1 and value.dtype == object else value
            return np.repeat(value[None], self.length, axis=0)
        if place.stop is not None:
            if not shape or shape[0] != place.total:
                found = shape[0] if shape else "no"
                raise ValueError(f"{place.file}: {label} ('{key}') has {found} rows but the file has {place.total}")
            return self.arrays.read(name, place.start, place.stop)
        if not shape or shape[0] not in ((self.length, self.length + 1) if more else (self.length,)):
            found = shape[0] if shape else "no"
            raise ValueError(f"{label} ('{key}') has {found} rows but the actions have {self.length}; leave the episode out")
        return self.arrays.read(name)

    def _length(self) -> int:
        place = self.place
        if place.stop is not None:
            return place.stop - place.start
        keys = [key for entry in self.spec.actions.values() for key in entry.keys]
        if not keys:
            raise ValueError("all actions are constant; give at least one a key")
        shape = self.arrays.shape(place.key(keys[0]))
        if not shape or shape[0] == 0:
            raise ValueError(f"'{keys[0]}' has no timesteps; leave the episode out")
        return shape[0]

    def _is_single(self, name: str) -> bool:
        return self.arrays.is_constant(name) or (self.arrays.shape(name) in ((), (1,), (1, 1)) and self.arrays.dtype(name) == "str")

    def _flags(self, key: str, label: str) -> np.ndarray:
        name = self.place.key(key)
        is_single = self.place.stop is None and self.arrays.shape(name) in ((), (1,))
        flags = self.arrays.read(name) if is_single else self.rows(key, label)
        if flags.size not in (1, self.length):
            raise ValueError(f"{label} ('{key}') has the shape {flags.shape}, expected one value a timestep")
        check_flags(flags, f"{label} ('{key}')", lambda t: f"timestep {t}")
        return np.ravel(flags).astype(bool)

    def _last(self, entry: Entry, values: np.ndarray, label: str) -> np.ndarray:
        """(1, *shape): the row of `next` after the last action."""
        keys = [str(key) for key in (entry.next if isinstance(entry.next, list) else [entry.next])]
        last = [self.rows(key, label)[-1:] for key in keys]
        found = _joined(last, label, keys) if isinstance(entry.next, list) else last[0]
        if found.shape[1:] != values.shape[1:] or (found.dtype.kind in "OUS") != (values.dtype.kind in "OUS"):
            raise ValueError(
                f"{label}: 'next' ({entry.next}) is {found.dtype} of {found.shape[1:]}, but 'key' {values.dtype} of {values.shape[1:]}"
            )
        return found

    def _pictures(self, values: np.ndarray, entry: Entry, label: str) -> np.ndarray:
        bounds = [entry.low if entry.low is not None else 0.0, entry.high if entry.high is not None else 1.0]
        low, high = (float(np.ravel(b)[0]) for b in bounds)
        if not low < high or any(np.size(b) != 1 for b in bounds):
            raise ValueError(f"{label}: 'low' (black) is {bounds[0]} and 'high' (white) {bounds[1]}; expected one number each, low < high")
        size = entry.shape
        if values.dtype != object and size is not None and not is_encoded(values):
            values, size = _reshaped(values, size, label), None
        return as_pictures(values, low, high, size, label)

    @staticmethod
    def _texts(values: np.ndarray, columns: list[np.ndarray], entry: Entry, label: str) -> np.ndarray:
        if entry.modality in (Modality.CONTINUOUS, Modality.DISCRETE):
            raise ValueError(f"{label} holds text, expected numbers (modality {entry.modality}); save it as numbers")
        if values.ndim > 1 and values[0].size != 1:
            words = [key for key, column in zip(entry.keys, columns, strict=False) if column.dtype.kind in "OUS"] or entry.keys
            raise ValueError(
                f"{label}: {words} hold text, and several values of a timestep cannot be text; if they should be numbers, "
                "'modality: continuous' finds the row that is none"
            )
        return np.array([str(v) for v in values.reshape(len(values))], object)


def _whole(values: np.ndarray, label: str) -> np.ndarray:
    """Integers of a discrete field that was saved as floating point."""
    if (wrong := values != np.rint(values)).any():  # NaN, too
        where = tuple(np.argwhere(wrong)[0])
        raise ValueError(f"{label} at timestep {where[0]} is {values[where]:g}, expected a whole number, since the field is discrete")
    if np.abs(values).max(initial=0) > 2**53:
        raise ValueError(f"{label} holds {np.abs(values).max():g}, more than floating point counts exactly; save it as integers")
    return values.astype(np.int64)


def _is_picture(values: np.ndarray) -> bool:
    return values.dtype.kind in "biuf" and is_plain_picture(values.dtype.name, values.shape[1:])


def _joined(columns: list[np.ndarray], label: str, keys: list[str]) -> np.ndarray:
    """Columns side by side as the elements of one field."""
    if odd := [i for i, column in enumerate(columns) if column.shape != columns[0].shape]:
        i = odd[0]
        raise ValueError(f"{label}: '{keys[i]}' has the shape {columns[i].shape} and '{keys[0]}' {columns[0].shape}; make a field of each")
    return np.stack(columns, axis=1)


def _reshaped(values: np.ndarray, shape: list[Any], label: str) -> np.ndarray:
    if values[:1].size != int(np.prod(shape, dtype=object)):
        raise ValueError(f"{label} has the shape {values.shape[1:]} a timestep, which cannot become {shape}")
    return values.reshape(len(values), *shape)
