"""Arrays by key in files of three formats: HDF5, NPZ and CSV. Their words are checked before they are believed.

Nothing is unpickled, no link leads out of a file, and what an array says of its size is compared with a limit
before any memory is asked for. A slice of rows costs its own bytes, except that CSV and compressed NPZ are read
from where the last slice ended; going back begins anew.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv

from gato.spelling import nearest

MAX_BYTES = 2**31  # of one slice
MAX_LINKS = 8
SUFFIXES = {".hdf5": "HDF5", ".h5": "HDF5", ".npz": "NPZ", ".csv": "CSV"}
_DAMAGE = (OSError, EOFError, KeyError, SyntaxError, UnicodeError, zipfile.BadZipFile, zlib.error, RuntimeError)


class Arrays(Protocol):
    """An open file. `key` is a dataset's path, an array's name or a column."""

    path: Path

    def keys(self) -> list[str]:
        """All arrays of the file, sorted."""

    def shape(self, key: str) -> tuple[int, ...]:
        """**Raises:** `ValueError` naming file and key for what is missing or no plain array."""

    def dtype(self, key: str) -> str:
        """A NumPy name such as `"float32"`, or `"str"`."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop; a scalar as it is. **Raises:** `ValueError` for damage and for more than `MAX_BYTES`."""

    def close(self) -> None: ...


def open_arrays(path: Path, types: dict[str, str] | None = None) -> Arrays:
    """Opens a file by its suffix.

    **Arguments:** `types`: NumPy name or `"str"` by column of a CSV file, where its first rows would mislead.

    **Raises:** `ValueError` for another suffix or a damaged file; `ImportError` with the pip line for HDF5 without h5py.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    try:
        if kind == "HDF5":
            return Hdf5Arrays(path)
        if kind == "NPZ":
            return NpzArrays(path)
        if kind == "CSV":
            return CsvArrays(path, types or {})
    except (*_DAMAGE, pa.ArrowException) as error:
        raise ValueError(f"{path} is no readable {kind} file: {_first_line(error)}") from None
    raise ValueError(f"{path} is of no known format; expected {', '.join(SUFFIXES)}, else write an adapter (docs/formats/adapter.md)")


class Hdf5Arrays:
    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError:
            raise ImportError("HDF5 needs h5py: pip install 'opengato[hdf5]'") from None
        self._h5py, self.path = h5py, path
        self._file = h5py.File(path, "r")

    def keys(self) -> list[str]:
        return sorted(self._walk("", set()), key=natural_key)

    def groups(self, pattern: str) -> list[str]:
        """The groups that match, such as `data/*`, with the numbers in their names in order."""
        found = [""]
        for part in pattern.split("/"):
            found = [
                "/".join(filter(None, (parent, name)))
                for parent in found
                for name in sorted(self._group(parent), key=natural_key)
                if fnmatchcase(name, part) and self._is_group(self._group(parent), name)
            ]
        return found

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._dataset(key).shape)

    def dtype(self, key: str) -> str:
        kind = self._dataset(key).dtype
        if self._h5py.check_string_dtype(kind) is not None:
            return "str"
        return _plain_dtype(kind, f"{self.path}: '{key}'")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        dataset, is_text = self._dataset(key), self.dtype(key) == "str"
        start, stop = _bounds(dataset.shape, start, stop)
        _check_size(f"{self.path}: '{key}'", (stop - start, *dataset.shape[1:]), dataset.dtype.itemsize)
        if dataset.chunks:
            _check_size(f"{self.path}: a chunk of '{key}'", dataset.chunks, dataset.dtype.itemsize)
        try:
            source = dataset.asstr() if is_text else dataset
            return np.asarray(source[start:stop] if dataset.shape else source[()])
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: '{key}' is damaged: {_first_line(error)}") from None

    def close(self) -> None:
        self._file.close()

    def _walk(self, name: str, seen: set[Any]) -> Iterator[str]:
        """The arrays below a group, each group once: hard links may lead in circles."""
        group = self._group(name)
        if group in seen:
            return
        seen.add(group)
        for child in group:
            full = f"{name}/{child}" if name else child
            if self._is_group(group, child):
                yield from self._walk(full, seen)
            elif group.get(child, getclass=True, getlink=True) is self._h5py.HardLink:
                yield full

    def _is_group(self, group: Any, name: str) -> bool:
        return group.get(name, getclass=True, getlink=True) is self._h5py.HardLink and group.get(name, getclass=True) is self._h5py.Group

    def _group(self, name: str) -> Any:
        group = self._file
        for part in filter(None, name.split("/")):
            group = self._follow(group, part, name)
        return group

    def _follow(self, group: Any, part: str, key: str, links: int = 0) -> Any:
        """One step of a path; a soft link may lead to another place of this file, and nothing may lead out of it."""
        link = group.get(part, getlink=True) if isinstance(group, self._h5py.Group) else None
        if link is None:
            near = nearest_or_all(key, self.keys())
            raise ValueError(f"{self.path} has no array '{key}'{near}")
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

    def _dataset(self, key: str) -> Any:
        dataset = self._group(key)
        if isinstance(dataset, self._h5py.Group):
            raise ValueError(f"{self.path}: '{key}' is no array but a group of {sorted(dataset)[:8]}")
        if not isinstance(dataset, self._h5py.Dataset) or dataset.shape is None:
            raise ValueError(f"{self.path}: '{key}' is no array, or an empty one")
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{self.path}: '{key}' keeps its values in other files; copy them into this file")
        return dataset


class NpzArrays:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        self._members = {name.removesuffix(".npy"): name for name in self._zip.namelist() if name.endswith(".npy")}
        self._open: dict[str, tuple[Any, int, tuple[int, ...], np.dtype]] = {}

    def keys(self) -> list[str]:
        return sorted(self._members)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._member(key)[2]

    def dtype(self, key: str) -> str:
        kind = self._member(key)[3]
        return "str" if kind.kind == "U" else _plain_dtype(kind, f"{self.path}: '{key}'")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        file, offset, shape, dtype = self._member(key)
        start, stop = _bounds(shape, start, stop)
        _check_size(f"{self.path}: '{key}'", (stop - start, *shape[1:]), dtype.itemsize)
        row = math.prod(shape[1:]) * dtype.itemsize
        size = (stop - start) * row
        try:
            file.seek(offset + start * row)
            content = file.read(size)
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: '{key}' is damaged: {_first_line(error)}") from None
        if len(content) != size:
            raise ValueError(f"{self.path}: '{key}' ends early; restore the file or leave it out")
        return np.frombuffer(content, dtype).reshape((stop - start, *shape[1:]) if shape else ())

    def close(self) -> None:
        self._zip.close()

    def _member(self, key: str) -> tuple[Any, int, tuple[int, ...], np.dtype]:
        """The open member, where its values begin, their shape and dtype; all sizes agree with the archive's."""
        if key in self._open:
            return self._open[key]
        if key not in self._members:
            raise ValueError(f"{self.path} has no array '{key}'{nearest_or_all(key, self.keys())}")
        info = self._zip.getinfo(self._members[key])
        label = f"{self.path}: '{key}'"
        try:
            file = self._zip.open(info)
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, in_columns, dtype = header(file)
        except (*_DAMAGE, ValueError) as error:
            raise ValueError(f"{label} is no readable array: {_first_line(error)}") from None
        if dtype.hasobject:
            raise ValueError(f"{label} holds Python objects, which would have to be unpickled; save plain arrays")
        if in_columns and len(shape) > 1:
            raise ValueError(f"{label} is stored column by column; save np.ascontiguousarray(...)")
        offset = file.tell()
        if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != info.file_size - offset:
            raise ValueError(
                f"{label} says it has shape {shape} of {dtype}, but the archive holds {info.file_size - offset} bytes of it; save it again"
            )
        self._open[key] = file, offset, shape, dtype
        return self._open[key]


class CsvArrays:
    """A column per key. Types are those of the first rows unless told; an empty cell is no number."""

    def __init__(self, path: Path, types: dict[str, str]) -> None:
        self.path, self._types = path, types
        with self._reader({}, None) as reader:  # reads one block
            schema = reader.schema
        if repeated := {n for n in schema.names if schema.names.count(n) > 1}:
            raise ValueError(f"{path} has the column {sorted(repeated)} twice; rename one")
        self._sniffed = {f.name: _csv_type(f.type) for f in schema}
        self._rows: int | None = None
        self._stream: Iterator[pa.RecordBatch] = iter(())
        self._position = 0  # how many rows were passed
        self._ahead: Any = None  # the table of those read ahead
        self._slice: tuple[int, int, Any] = 0, 0, None  # the last one

    def keys(self) -> list[str]:
        return list(self._sniffed)

    def shape(self, key: str) -> tuple[int, ...]:
        self.dtype(key)
        if self._rows is None:
            first = self.keys()[0]
            with self._reader({first: pa.string()}, [first]) as reader:
                self._rows = sum(batch.num_rows for batch in self._batches(reader))
        return (self._rows,)

    def dtype(self, key: str) -> str:
        if key not in self._sniffed:
            raise ValueError(f"{self.path} has no column '{key}'{nearest_or_all(key, self.keys())}")
        return self._types.get(key, self._sniffed[key])

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        stop = self.shape(key)[0] if stop is None else stop
        self.dtype(key)
        return self._checked(self._table(start, stop)[key], start, key).to_numpy()

    def column(self, key: str) -> Iterator[np.ndarray]:
        """A whole column in pieces, beside whatever is read elsewhere."""
        with self._reader({key: _arrow_type(self.dtype(key))}, [key]) as reader:
            row = 0
            for batch in self._batches(reader):
                yield self._checked(batch.column(0), row, key).to_numpy(zero_copy_only=False)
                row += batch.num_rows

    def close(self) -> None:
        self._stream = iter(())

    def _checked(self, values: Any, start: int, key: str) -> Any:
        if values.null_count:
            row = start + values.is_null().to_pylist().index(True)
            raise ValueError(f"{self.path}, row {row}, column '{key}' is empty or not a number; repair it or leave the episode out")
        return values

    def _table(self, start: int, stop: int) -> pa.Table:
        """Rows of all columns; those before `start` are dropped while the file is read on."""
        if self._slice[:2] == (start, stop) and self._slice[2] is not None:
            return self._slice[2]
        if self._ahead is None or start < self._position:
            types = {name: _arrow_type(self.dtype(name)) for name in self.keys()}
            self._stream, self._position = self._batches(self._reader(types, None)), 0
            self._ahead = pa.schema(types.items()).empty_table()
        ahead = self._ahead
        while self._position + ahead.num_rows < stop and (batch := next(self._stream, None)) is not None:
            more = pa.table(batch)
            if self._position + ahead.num_rows <= start:
                self._position, ahead = self._position + ahead.num_rows, more
            else:
                ahead = pa.concat_tables([ahead, more])
            _check_size(f"{self.path}: rows {start} to {stop}", (ahead.nbytes,), 1)
        self._position, self._ahead = start, ahead.slice(start - self._position)
        self._slice = start, stop, self._ahead.slice(0, stop - start)
        return self._slice[2]

    def _reader(self, types: dict[str, pa.DataType], columns: list[str] | None) -> Any:
        convert = pa.csv.ConvertOptions(
            column_types=types, include_columns=columns or [],
            true_values=["1", "1.0", "true", "True", "TRUE"], false_values=["0", "0.0", "false", "False", "FALSE"],
        )  # fmt: skip
        try:  # one thread: only then do errors name the row
            return pa.csv.open_csv(self.path, pa.csv.ReadOptions(use_threads=False, block_size=2**22), convert_options=convert)
        except pa.ArrowException as error:
            raise ValueError(f"{self.path}: {_first_line(error)}") from None

    def _batches(self, reader: Any) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                yield reader.read_next_batch()
            except StopIteration:
                return
            except pa.ArrowException as error:
                raise ValueError(f"{self.path}: {_first_line(error)}; repair the row, or give the column's modality") from None


def column(arrays: Arrays, key: str, rows: int = 2**16) -> Iterator[np.ndarray]:
    """All rows of an array in pieces."""
    if isinstance(arrays, CsvArrays):
        yield from arrays.column(key)
        return
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
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, character))
    return parts


def nearest_or_all(name: str, known: Sequence[str]) -> str:
    """`; did you mean ...?` for the end of a message, or what there is."""
    return nearest(name, known) or f"; there are {', '.join(list(known)[:12])}" + (", ..." if len(known) > 12 else "")


def _bounds(shape: Sequence[int], start: int, stop: int | None) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    return start, rows if stop is None else min(stop, rows)


def _check_size(label: str, shape: Sequence[int], itemsize: int) -> None:
    size = math.prod(shape) * itemsize
    if size > MAX_BYTES:
        raise ValueError(f"{label} has {size} bytes in one piece, more than {MAX_BYTES}; divide the recording into shorter episodes")


def _plain_dtype(dtype: np.dtype, label: str) -> str:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise ValueError(f"{label} has dtype {dtype}; expected bool, integers, floats or text")
    return dtype.name


def _csv_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int64"
    return "float64" if pa.types.is_floating(kind) else "str"


def _arrow_type(name: str) -> pa.DataType:
    return pa.string() if name == "str" else pa.from_numpy_dtype(np.dtype(name))


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
