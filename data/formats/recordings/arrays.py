"""Arrays by key: what HDF5, NPZ and CSV files have in common, and the checks of what they say of themselves.

Nothing is unpickled, no link leads out of a file, and what an array says of its size is compared with a limit before any
memory is asked for. A slice of rows costs its own bytes, except that CSV and compressed NPZ are read from where the last
slice ended; going back begins anew.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gato.given import nearest
from gato.picture import picture_kind

MAX_BYTES = 2**31  # of one slice
DAMAGE = (OSError, EOFError, KeyError, SyntaxError, UnicodeError, zipfile.BadZipFile, zlib.error, RuntimeError)


class Arrays(Protocol):
    """An open file. `key` is a dataset's path, an array's name or a column."""

    path: Path

    def keys(self) -> list[str]:
        """All that the file holds, sorted; `dtype` says of each whether it can be used."""

    def shape(self, key: str) -> tuple[int, ...]:
        """**Raises:** `ValueError` naming file and key for what is missing or no plain array."""

    def dtype(self, key: str) -> str:
        """A NumPy name such as `"float32"`, `"str"`, or `"bytes"` for encoded pictures."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop; a scalar as it is. **Raises:** `ValueError` for damage and for more than `MAX_BYTES`."""

    def column(self, key: str) -> Iterator[np.ndarray]:
        """All rows of an array in pieces."""

    def place(self, row: int) -> str:
        """Where a row is, for messages: `line 7` of a text file, `row 5` of others."""

    def is_constant(self, key: str) -> bool:
        """Whether it is said once for all rows, as an HDF5 attribute is."""

    def close(self) -> None: ...


def pieces(arrays: Arrays, key: str, rows: int = 2**16) -> Iterator[np.ndarray]:
    """All rows of an array in pieces, by its slices."""
    for start in range(0, (arrays.shape(key) or (1,))[0], rows):
        yield arrays.read(key, start, start + rows)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts demo_2 before demo_10."""
    parts, digits = [], ""
    for character in f"{name}\0":
        if character.isdecimal() and character.isascii():
            digits += character
            continue
        if digits:
            parts.append((0, int(digits[:4000]), ""))  # Python converts no longer ones
            digits = ""
        parts.append((1, 0, character))
    return parts


def nearest_or_all(name: str, known: Sequence[str]) -> str:
    """`; did you mean ...?` for the end of a message, or what there is."""
    return nearest(name, known) or f"; there are {', '.join(list(known)[:12])}" + (", ..." if len(known) > 12 else "")


def bounds(shape: Sequence[int], start: int, stop: int | None) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    return start, rows if stop is None else min(stop, rows)


def check_size(label: str, shape: Sequence[int], itemsize: int) -> None:
    size = math.prod(shape) * itemsize
    if size > MAX_BYTES:
        raise ValueError(f"{label} has {size} bytes in one piece, more than {MAX_BYTES}; divide the recording into shorter episodes")


def plain_dtype(dtype: np.dtype, label: str) -> str:
    """**Raises:** `ValueError` for anything else than numbers of at most eight bytes."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        found = f"named parts {list(dtype.names)}" if dtype.names else f"dtype {dtype}"
        raise ValueError(f"{label} has {found}; expected bool, integers, floats or text: save it as one of them")
    return dtype.name


def texts_of(values: np.ndarray, label: str) -> np.ndarray:
    """Texts (object array of `str`) of bytes in UTF-8, or of texts. **Raises:** `ValueError` naming the row of what is no text."""
    found = np.empty(values.shape, object)
    for row, value in enumerate(values.reshape(-1)):
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                kind = picture_kind(value)
                is_what = f"({kind}): as an observation 'modality: image' decodes them" if kind else "in UTF-8; save it in UTF-8"
                raise ValueError(f"{label}, row {row} holds bytes that are no text {is_what}") from None
        elif not isinstance(value, str):
            raise ValueError(f"{label}, row {row} holds {type(value).__name__}, expected text")
        found.reshape(-1)[row] = str(value)
    return found


def pictures_of(values: Iterable[Any]) -> np.ndarray:
    """Encoded pictures as an object array of `bytes`."""
    content = [value if isinstance(value, bytes) else np.asarray(value).tobytes() for value in values]
    found = np.empty(len(content), object)
    found[:] = content
    return found


def first_line(error: Exception) -> str:
    """What a library says, cut where it repeats the file's own bytes."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
