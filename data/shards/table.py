"""One Arrow file of a store: its columns, writing it in record batches, reading slices of it.

Vectors and pictures are fixed-size lists of the field's own dtype (row-major), text is large_string, so
that pyarrow and `datasets` ("arrow" files) open it as it is. It is Arrow's file format, not its stream
format, because a footer says where each record batch lies: the first read of a shard costs the footer,
not a walk through the file. All record batches but the last have the same number of rows, which makes
the batch of a row a division. A slice inside one batch is a NumPy view of the memory-mapped file; pages
that it does not touch are never read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gato.spec import FieldSpec, Modality

MAX_BATCH_ROWS = 4096
BATCH_BYTES = 16 * 2**20
TEMPORARY = ".tmp"
DIGEST_LETTERS = 16  # of the SHA-256 of a file that no manifest names, at the end of its name


def arrow_type(spec: FieldSpec) -> pa.DataType:
    """The column type of a field; booleans take a byte each, because Arrow's own are bits.

    **Raises:** `ValueError` for a field of no elements.
    """
    if spec.modality is Modality.TEXT:
        return pa.large_string()
    if spec.size == 0:
        raise ValueError(f"{spec.role} '{spec.name}' has shape {spec.shape}, so no elements; leave it out of the task")
    scalar = pa.uint8() if spec.dtype == "bool" else pa.from_numpy_dtype(np.dtype(spec.dtype))
    return pa.list_(scalar, spec.size) if spec.shape else scalar


def to_arrow(spec: FieldSpec, values: Sequence[Any] | np.ndarray, is_missing: np.ndarray | None = None) -> pa.Array:
    """A column from values (rows, *shape), copied; rows where `is_missing` (rows,) are null.

    **Raises:** `ValueError` if the field's dtype cannot hold a value.
    """
    if spec.modality is Modality.TEXT:
        texts = values if is_missing is None else [None if m else v for v, m in zip(values, is_missing, strict=True)]
        try:
            return pa.array([None if v is None else str(v) for v in texts], pa.large_string())
        except UnicodeEncodeError as error:  # a lone surrogate
            raise ValueError(f"{spec.role} '{spec.name}' holds text that is not valid Unicode: {error}") from None
    given = np.asarray(values)
    with np.errstate(over="ignore"):
        stored = np.array(given, dtype=spec.dtype, order="C")  # a copy: the caller may reuse its buffer
    if given.dtype != stored.dtype:
        lost = ~np.isfinite(stored) if stored.dtype.kind == "f" else stored != given
        if lost.any():
            raise ValueError(
                f"{spec.role} '{spec.name}' is {given[lost].flat[0]}, which {spec.dtype} cannot hold; repair it, or give it in other units"
            )
    flat = stored.reshape(-1)
    flat = flat.view(np.uint8) if flat.dtype == np.bool_ else flat
    if not spec.shape:
        return pa.array(flat, mask=is_missing)
    mask = None if is_missing is None else pa.array(is_missing)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), spec.size, mask=mask)


def batch_rows(schema: pa.Schema) -> int:
    """Rows per record batch: at most 4,096 and about 16 MB of pictures, at least one."""
    size = sum(t.list_size * t.value_type.bit_width // 8 for t in schema.types if pa.types.is_fixed_size_list(t))
    return int(max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // max(1, size))))


class TableWriter:
    """Writes one Arrow file under a temporary name; `finish` gives it its own.

    **Arguments:** `path`: the final name; `schema`; `rows_per_batch`: of all record batches but the last.
    """

    def __init__(self, path: Path, schema: pa.Schema, rows_per_batch: int) -> None:
        self.path = path
        self.rows = 0
        self._schema = schema
        self._rows_per_batch = rows_per_batch
        self._temporary = path.with_name(path.name + TEMPORARY)
        self._sink = pa.OSFile(str(self._temporary), "wb")
        self._file = pa.ipc.new_file(self._sink, schema)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0

    def append(self, batch: pa.RecordBatch) -> None:
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self.rows += batch.num_rows
        if self._pending_rows >= self._rows_per_batch:
            self._write(self._pending_rows - self._pending_rows % self._rows_per_batch)

    def _write(self, rows: int) -> None:
        table = pa.Table.from_batches(self._pending, self._schema).combine_chunks()
        self._file.write_table(table.slice(0, rows), max_chunksize=self._rows_per_batch)
        rest = table.slice(rows)
        self._pending = rest.to_batches()
        self._pending_rows = rest.num_rows

    def finish(self) -> dict[str, Any]:
        """Writes the rest, makes it durable and renames it; returns the manifest's entry."""
        if self._pending_rows:
            self._write(self._pending_rows)
        self._file.close()
        self._sink.close()
        with open(self._temporary, "rb+") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.seek(0, os.SEEK_END)
        os.replace(self._temporary, self.path)
        return {"file": self.path.name, "rows": self.rows, "bytes": size, "sha256": digest}

    def abort(self) -> None:
        """Removes what was written, under either name."""
        self._pending = []
        with suppress(OSError):  # on a full disk closing fails too
            self._sink.close()
        self._temporary.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def check_name(path: Path) -> None:
    """Compares a file with the digest in its name. **Raises:** `ValueError` if its content changed."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest[:DIGEST_LETTERS] != path.stem.rpartition("-")[2]:
        raise ValueError(
            f"{path} has a SHA-256 that begins {digest[:DIGEST_LETTERS]}: its content changed; remove it, it will be made anew"
        )


class Table:
    """A memory-mapped Arrow file as NumPy columns.

    Opening reads the footer only, and keeps no file descriptor: a process may have thousands of shards
    open. `specs` maps the names of columns that hold fields to their specs.

    **Raises:** `ValueError` naming the file if it is not the Arrow file that the manifest promises.
    """

    def __init__(self, path: Path, schema: pa.Schema, specs: Mapping[str, FieldSpec], rows: int, rows_per_batch: int) -> None:
        self.path = path
        self.rows = rows
        self._rows_per_batch = rows_per_batch
        self._specs = specs
        try:
            with pa.memory_map(str(path)) as file:
                mapped = file.read_buffer()
            self._file = pa.ipc.open_file(mapped)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"shard {path} is not a readable Arrow file: {error}") from None
        if not self._file.schema.equals(schema):
            found, expected = ({str(f) for f in s} for s in (self._file.schema, schema))
            raise ValueError(
                f"shard {path} has the columns {sorted(found - expected)} where the manifest's tasks have {sorted(expected - found)}; "
                "restore the file or the manifest"
            )
        num_batches = -(-rows // rows_per_batch)
        if self._file.num_record_batches != num_batches:
            raise ValueError(
                f"shard {path} has {self._file.num_record_batches} record batches, "
                f"but the manifest's {rows} rows make {num_batches}; restore the file or import the source again"
            )
        self._batches: list[dict[str, np.ndarray | pa.Array] | None] = [None] * num_batches

    @property
    def names(self) -> list[str]:
        return self._file.schema.names

    def read(self, columns: Sequence[str], start: int, stop: int) -> list[np.ndarray]:
        """Rows start to stop of some columns: views where they lie in one record batch, else copies."""
        first, last = start // self._rows_per_batch, (stop - 1) // self._rows_per_batch
        if first == last:
            batch = self._batches[first] or self._load(first)
            offset = first * self._rows_per_batch
            try:
                return [_values(batch[name], start - offset, stop - offset) for name in columns]
            except (pa.ArrowException, UnicodeDecodeError) as error:
                raise ValueError(f"shard {self.path}, rows {start} to {stop} hold damaged text: {error}") from None
        bounds = [start, *range((first + 1) * self._rows_per_batch, stop, self._rows_per_batch), stop]
        parts = [self.read(columns, a, b) for a, b in pairwise(bounds)]
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def column(self, name: str) -> list[pa.Array]:
        """A whole column as it is in the file, one Arrow array per record batch."""
        columns = [batch.column(name) for batch in self.batches()]
        is_text = pa.types.is_large_string(self._file.schema.field(name).type)
        return [_checked_text(c, f"shard {self.path}, column '{name}'") for c in columns] if is_text else columns

    def value(self, name: str, row: int) -> Any:
        """One row of a column: an array (*shape) or a string; unspecified where the file holds a null."""
        index, offset = divmod(row, self._rows_per_batch)
        values = (self._batches[index] or self._load(index))[name]
        if not isinstance(values, pa.Array):
            return values[offset]
        try:
            return values[offset].as_py()
        except UnicodeDecodeError as error:
            raise ValueError(f"shard {self.path}, row {row} of '{name}' is damaged text: {error}") from None

    def batches(self, full: bool = False) -> Iterator[pa.RecordBatch]:
        """The record batches; with `full`, every offset and every character of text is checked."""
        for index in range(len(self._batches)):
            yield self._batch(index, full)

    def _batch(self, index: int, full: bool = False) -> pa.RecordBatch:
        label = f"shard {self.path}, record batch {index}"
        try:
            batch = self._file.get_batch(index)
            batch.validate(full=full)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{label} is damaged: {error}") from None
        whole = self._rows_per_batch
        expected = min(whole, self.rows - index * whole)
        if batch.num_rows != expected:
            raise ValueError(f"{label} has {batch.num_rows} rows, expected {expected}")
        return batch

    def _load(self, index: int) -> dict[str, np.ndarray | pa.Array]:
        batch = self._batch(index)
        columns = {}
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            label = f"shard {self.path}, record batch {index}, column '{name}'"
            if name in self._specs:
                columns[name] = _view(self._specs[name], values, label)
            elif pa.types.is_large_string(values.type):
                columns[name] = _checked_text(values, label)
            elif pa.types.is_float32(values.type):
                columns[name] = values.to_numpy()
        self._batches[index] = columns
        return columns


def _view(spec: FieldSpec, values: pa.Array, label: str) -> np.ndarray | pa.Array:
    """The column as an array (rows, *shape), without a copy unless it is scalar and has nulls; text stays Arrow."""
    if spec.modality is Modality.TEXT:
        return _checked_text(values, label)
    inner = values.values[: len(values) * spec.size] if spec.shape else values
    flat = (inner.fill_null(0) if inner.null_count else inner).to_numpy()
    flat = flat.view(np.bool_) if spec.dtype == "bool" else flat
    return flat.reshape(len(values), *spec.shape)


def _checked_text(values: pa.Array, label: str) -> pa.Array:
    """Offsets are read from the file, so they are compared with it before any character is."""
    _, offsets, characters = values.buffers()
    if len(values) and offsets is not None:
        edges = np.frombuffer(offsets, np.int64, len(values) + 1)
        size = characters.size if characters is not None else 0
        if edges[0] < 0 or edges[-1] > size or (np.diff(edges) < 0).any():
            raise ValueError(f"{label} points outside its own text; restore the file or import the source again")
    return values


def _values(column: np.ndarray | pa.Array, start: int, stop: int) -> np.ndarray:
    part = column[start:stop]
    return part if isinstance(part, np.ndarray) else part.to_numpy(zero_copy_only=False)
