"""Arrays and attributes of an HDF5 file by path: `data/demo_0/obs/joints`, `data/demo_0@language`.

Links inside the file are followed, links out of it are refused. Texts are UTF-8 whatever the file says of their letters, since
NumPy writes them so; bytes that begin as a picture's file does are encoded pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from gato.picture import picture_kind

from .arrays import DAMAGE, bounds, check_size, first_line, natural_key, nearest_or_all, pictures_of, pieces, plain_dtype, texts_of

MAX_LINKS = 8
MAX_DEPTH = 64  # groups in groups


class Hdf5Arrays:
    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError:
            raise ImportError("HDF5 needs h5py: pip install 'opengato[hdf5]'") from None
        self._h5py, self.path = h5py, path
        self._file = h5py.File(path, "r")
        self._attributes: dict[str, np.ndarray] = {}

    def keys(self) -> list[str]:
        """Arrays and links, not attributes."""
        with self._named("the list of its arrays"):
            return sorted(self._walk(self._file, "", set()), key=natural_key)

    def attributes(self, group: str = "") -> list[str]:
        """The names of a group's own attributes."""
        with self._named(f"'{group}'"):
            return sorted(self._follow_all(group).attrs)

    def groups(self, pattern: str) -> list[str]:
        """The groups that match, such as `data/*`, with the numbers in their names in order.

        **Raises:** `ValueError` for a group that matches and lies in another file.
        """
        found = [""]
        with self._named(f"'{pattern}'"):
            for part in pattern.split("/"):
                found = [
                    "/".join(filter(None, (parent, name)))
                    for parent in found
                    for name in sorted(self._follow_all(parent), key=natural_key)
                    if fnmatchcase(name, part)
                    and isinstance(self._follow(self._follow_all(parent), name, f"{parent}/{name}"), self._h5py.Group)
                ]
        return found

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._values(key).shape)

    def dtype(self, key: str) -> str:
        values, label = self._values(key), f"{self.path}: '{key}'"
        kind = values.dtype
        is_text = (
            kind.kind in "SU" or self._h5py.check_string_dtype(kind) is not None or (kind.kind == "O" and isinstance(values, np.ndarray))
        )
        if is_text or self._h5py.check_vlen_dtype(kind) == np.uint8 or (kind.kind == "V" and not kind.names):
            is_picture = picture_kind(self._first(key)) is not None
            if is_text or is_picture:
                return "bytes" if is_picture else "str"
        if self._h5py.check_vlen_dtype(kind) is not None:
            raise ValueError(f"{label} has rows of unequal length ({self._h5py.check_vlen_dtype(kind)}); save rows of one length")
        return plain_dtype(kind, label)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        values, dtype = self._values(key), self.dtype(key)
        start, stop = bounds(values.shape, start, stop)
        check_size(f"{self.path}: '{key}'", (stop - start, *values.shape[1:]), values.dtype.itemsize)
        if getattr(values, "chunks", None):
            check_size(f"{self.path}: a chunk of '{key}'", values.chunks, values.dtype.itemsize)
        with self._named(f"'{key}'"):
            found = np.asarray(values[start:stop] if values.shape else values[()])
        if dtype == "str":
            return texts_of(found, f"{self.path}: '{key}'")
        return pictures_of(found.reshape(-1)).reshape(found.shape) if dtype == "bytes" else found

    def column(self, key: str) -> Iterator[np.ndarray]:
        return pieces(self, key)

    def place(self, row: int) -> str:
        return f"row {row}"

    def is_constant(self, key: str) -> bool:
        return isinstance(self._values(key), np.ndarray)

    def close(self) -> None:
        self._file.close()

    def _first(self, key: str) -> bytes:
        """How the first value begins, of what may be text or pictures."""
        values = self._values(key)
        if 0 in values.shape:
            return b""
        with self._named(f"'{key}'"):
            first = values[(0,) * len(values.shape)]
        return (first.encode() if isinstance(first, str) else first if isinstance(first, bytes) else np.asarray(first).tobytes())[:64]

    def _walk(self, group: Any, name: str, seen: set[Any]) -> Iterator[str]:
        """The arrays below a group, each group once, since links may lead in circles; links that lead nowhere or out are named too."""
        if group in seen or name.count("/") > MAX_DEPTH:
            return
        seen.add(group)
        for child in group:
            full = f"{name}/{child}" if name else child
            try:
                target = self._follow(group, child, full)
            except (ValueError, *DAMAGE):
                yield full
                continue
            if isinstance(target, self._h5py.Group):
                yield from self._walk(target, full, seen)
            else:
                yield full

    def _follow_all(self, name: str) -> Any:
        found = self._file
        for part in filter(None, name.split("/")):
            found = self._follow(found, part, name)
        return found

    def _others(self, group: Any, part: str, key: str) -> str:
        """What may have been meant: what lies beside it, and not its namesake in another episode."""
        before = key.removesuffix(part) if key.endswith(part) and group is not self._file else ""
        return nearest_or_all(key, [k for k in self.keys() if k.startswith(before)] or list(self.keys()))

    def _follow(self, group: Any, part: str, key: str, links: int = 0) -> Any:
        """One step of a path; a soft link may lead to another place of this file, and nothing may lead out of it."""
        link = group.get(part, getlink=True) if isinstance(group, self._h5py.Group) else None
        if link is None:
            raise ValueError(f"{self.path} has no array '{key}'{self._others(group, part, key) if not links else ''}")
        if isinstance(link, self._h5py.ExternalLink):
            raise ValueError(f"{self.path}: '{key}' leads to the file '{link.filename}'; copy its data into this file")
        if isinstance(link, self._h5py.SoftLink):
            if links == MAX_LINKS:
                raise ValueError(f"{self.path}: '{key}' leads through more than {MAX_LINKS} links")
            target = self._file if link.path.startswith("/") else group
            for step in filter(None, link.path.split("/")):
                target = self._follow(target, step, key, links + 1)
            return target
        return group[part]

    def _values(self, key: str) -> Any:
        """A dataset, or an attribute as an array. **Raises:** `ValueError` naming file and key."""
        if key in self._attributes:
            return self._attributes[key]
        path, at, name = key.rpartition("@")
        with self._named(f"'{key}'"):
            if at and (holder := self._follow_all(path)) is not None and name:
                return self._attribute(holder, key, name)
            dataset = self._follow_all(key)
            if isinstance(dataset, self._h5py.Group):
                raise ValueError(f"{self.path}: '{key}' is no array but a group of {sorted(dataset)[:8]}")
            if not isinstance(dataset, self._h5py.Dataset) or dataset.shape is None:
                raise ValueError(f"{self.path}: '{key}' is no array, or an empty one")
            if dataset.external or dataset.is_virtual:
                raise ValueError(f"{self.path}: '{key}' keeps its values in other files; copy them into this file")
            return dataset

    def _attribute(self, holder: Any, key: str, name: str) -> np.ndarray:
        if name not in holder.attrs:
            raise ValueError(f"{self.path} has no attribute '{key}'{nearest_or_all(name, sorted(holder.attrs))}")
        value = holder.attrs[name]
        if isinstance(value, self._h5py.Empty):
            raise ValueError(f"{self.path}: the attribute '{key}' is empty")
        found = np.asarray(value, object if isinstance(value, str | bytes) else None)
        if found.dtype.kind == "O":  # h5py hides in a text what is no UTF-8; as bytes it is refused
            texts = [v.encode("utf-8", "surrogateescape") if isinstance(v, str) else v for v in found.reshape(-1)]
            found = np.array([*texts, None], object)[:-1].reshape(found.shape)
        self._attributes[key] = found
        return found

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except DAMAGE as error:
            if (isinstance(error, OSError) and "filter" in str(error)) or "plugin" in str(error):
                remedy = "pip install hdf5plugin and import it, or write it again with gzip (h5repack -f GZIP=4)"
                raise ValueError(f"{self.path}: {what} is compressed by a filter that this HDF5 lacks; {remedy}") from None
            raise ValueError(f"{self.path}: {what} is damaged: {first_line(error)}") from None
