"""Arrays of an NPZ file by name; a slice of rows costs its own bytes, or what lies before it where the file is compressed."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gato.picture import picture_kind

from .arrays import DAMAGE, bounds, check_size, first_line, nearest_or_all, pictures_of, pieces, plain_dtype, texts_of


class NpzArrays:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        members = [name for name in self._zip.namelist() if not name.endswith("/")]
        self._names = {name.removesuffix(".npy"): name for name in members}
        self._twice = {name.removesuffix(".npy") for name, count in Counter(members).items() if count > 1}
        self._open: dict[str, tuple[Any, int, tuple[int, ...], np.dtype]] = {}
        self._whole: dict[str, np.ndarray] = {}  # those that lie column by column in the file

    def keys(self) -> list[str]:
        return sorted(self._names)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._member(key)[2]

    def dtype(self, key: str) -> str:
        _, _, shape, kind = self._member(key)
        if kind.kind == "U":
            return "str"
        if kind.kind == "S" or (kind.kind == "V" and not kind.names):
            first = b"" if 0 in shape or not kind.itemsize else self._plain(key, 0, 1).reshape(-1)[:1].tobytes()
            if picture_kind(first) is not None:
                return "bytes"
            if kind.kind == "S":
                return "str"
        return plain_dtype(kind, f"{self.path}: '{key}'")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        dtype, found = self.dtype(key), self._plain(key, start, stop)
        if dtype == "bytes":
            return pictures_of(found.reshape(-1)).reshape(found.shape)
        return texts_of(found, f"{self.path}: '{key}'") if dtype == "str" else found

    def column(self, key: str) -> Iterator[np.ndarray]:
        return pieces(self, key)

    def place(self, row: int) -> str:
        return f"row {row}"

    def is_constant(self, key: str) -> bool:
        return False

    def close(self) -> None:
        for file, *_ in self._open.values():
            file.close()
        self._zip.close()

    def __del__(self) -> None:
        if hasattr(self, "_open"):  # opening it did not fail
            self.close()

    def _plain(self, key: str, start: int, stop: int | None) -> np.ndarray:
        """Rows as they are in the file."""
        file, offset, shape, dtype = self._member(key)
        start, stop = bounds(shape, start, stop)
        if key in self._whole:
            return self._whole[key][start:stop]
        check_size(f"{self.path}: '{key}'", (stop - start, *shape[1:]), dtype.itemsize)
        row = math.prod(shape[1:]) * dtype.itemsize
        content = self._bytes(key, file, offset + start * row, (stop - start) * row)
        return np.frombuffer(content, dtype).reshape((stop - start, *shape[1:]) if shape else ())

    def _bytes(self, key: str, file: Any, offset: int, size: int) -> bytes:
        try:
            file.seek(offset)
            content = file.read(size)
        except DAMAGE as error:
            raise ValueError(f"{self.path}: '{key}' is damaged: {first_line(error)}") from None
        if len(content) != size:
            raise ValueError(f"{self.path}: '{key}' ends early; restore the file or leave it out")
        return content

    def _member(self, key: str) -> tuple[Any, int, tuple[int, ...], np.dtype]:
        """The open member, where its values begin, their shape and dtype; all sizes agree with the archive's."""
        if key in self._open:
            return self._open[key]
        if key not in self._names:
            raise ValueError(f"{self.path} has no array '{key}'{nearest_or_all(key, self.keys())}")
        label = f"{self.path}: '{key}'"
        if key in self._twice:
            raise ValueError(f"{label} is there twice; write the file again with one of them")
        if not self._names[key].endswith(".npy"):
            raise ValueError(f"{label} is no array but another file in the archive")
        info = self._zip.getinfo(self._names[key])
        try:
            file = self._zip.open(info)
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, in_columns, dtype = header(file)
        except (*DAMAGE, ValueError, TypeError, MemoryError) as error:
            why = "its header is damaged" if isinstance(error, UnicodeError) else first_line(error)
            raise ValueError(f"{label} is no readable array: {why}") from None
        if dtype.hasobject:
            file.close()
            raise ValueError(f"{label} holds Python objects, which would have to be unpickled; save plain arrays")
        offset = file.tell()
        if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != info.file_size - offset:
            file.close()
            raise ValueError(
                f"{label} says it has shape {shape} of {dtype}, but the archive holds {info.file_size - offset} bytes of it; save it again"
            )
        if in_columns and len(shape) > 1:
            check_size(label, shape, dtype.itemsize)
            content = self._bytes(key, file, offset, math.prod(shape) * dtype.itemsize)
            self._whole[key] = np.frombuffer(content, dtype).reshape(shape, order="F")
        self._open[key] = file, offset, shape, dtype
        return self._open[key]
