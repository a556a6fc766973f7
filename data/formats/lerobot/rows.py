"""Rows of a LeRobot dataset's parquet files, and their columns as arrays.

A file may hold one episode or thousands, in row groups of any size, so rows are streamed; and nothing is believed of a column
but what its Arrow type and its list lengths say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.data.formats.parquet import parquet_batches
from gato.picture import read_image

from .layout import open_parquet

_ROWS_AT_ONCE = 64


class Rows:
    """Reads runs of rows, file after file, a few rows in memory beside those that are asked for.

    Runs that follow each other are read in one pass: files of others hold hundreds of episodes in a single row group.
    """

    def __init__(self, columns: list[str]) -> None:
        self._columns = columns
        self._path: Path | None = None
        self._next = 0
        self._rest: pa.RecordBatch | None = None  # of a batch, what the last run left

    def read(self, path: Path, first: int, length: int) -> pa.Table:
        """**Raises:** `ValueError` naming the file if it is damaged or too short."""
        try:
            if path != self._path or first != self._next:
                self._seek(path, first)
            if first + length > self._file.metadata.num_rows:
                raise ValueError(f"{path} has {self._file.metadata.num_rows} rows, but rows {first} to {first + length} are asked for")
            batches, missing = [], length
            while missing:
                if self._rest is None or self._rest.num_rows == 0:
                    self._rest = next(self._batches)
                batches.append(self._rest.slice(0, missing))
                self._rest = self._rest.slice(batches[-1].num_rows)
                missing -= batches[-1].num_rows
            self._next = first + length
            return pa.Table.from_batches(batches)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._path = None
            raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}; fetch it again or restore it") from None

    def check_end(self, path: Path, stop: int) -> None:
        """**Raises:** `ValueError` if the file goes on behind the last row that an episode has in it."""
        rows = open_parquet(path).metadata.num_rows
        if rows != stop:
            raise ValueError(
                f"{path} has {rows} rows, but the metadata gives its episodes {stop}; the file and meta do not belong together"
            )

    def _seek(self, path: Path, first: int) -> None:
        self._file: pq.ParquetFile = open_parquet(path)
        names = [n for n in self._file.schema_arrow.names if n in self._columns]
        begin, self._batches = parquet_batches(path, first, names, _ROWS_AT_ONCE)
        skip = first - begin
        self._rest = None
        self._path, self._next = path, first
        while skip > 0:
            batch = next(self._batches)
            self._rest = batch.slice(min(skip, batch.num_rows))
            skip -= batch.num_rows


def check_rows(table: pa.Table, i: int, first: int) -> None:
    """**Raises:** `ValueError` unless these are the rows of episode i, in order; `first` is their place in the file."""
    for name, expected in (("episode_index", np.full(len(table), i)), ("frame_index", np.arange(len(table)))):
        found = numbers_of(column_of(table, name), (), "int64")
        if (wrong := found != expected).any():
            t = int(np.argmax(wrong))
            raise ValueError(f"row {first + t} has {name} {found[t]}, expected {expected[t]}; meta and data do not belong together")


def column_of(table: pa.Table, name: str) -> pa.Array:
    """A column in one piece. **Raises:** `ValueError` if there is none."""
    if name not in table.column_names:
        raise ValueError(f"the file has no column '{name}'; it has {table.column_names}")
    column = table[name].combine_chunks()
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def numbers_of(column: pa.Array, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """(rows, *shape) of a column of numbers or of nested lists.

    **Raises:** `ValueError` naming the frame that has another shape or no value, or a type that `dtype` cannot hold.
    """
    rows = len(column)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    for n in shape:
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)):
            raise ValueError(f"its rows are {column.type}, expected shape {shape}")
        if pa.types.is_fixed_size_list(column.type):
            lengths = np.where(column.is_null().to_numpy(False), 0, column.type.list_size)
        else:
            lengths = np.asarray(column.value_lengths().fill_null(0))
        if (lengths != n).any():
            at = int(np.argmax(lengths != n))
            raise ValueError(f"frame {at * rows // max(len(column), 1)} has {lengths[at]} values, expected shape {shape}")
        column = column.flatten()
    if column.null_count:
        raise ValueError(f"frame {int(np.argmax(column.is_null().to_numpy(False))) * rows // len(column)} holds no value")
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"its rows are {kind}, expected {dtype} of shape {shape}")
    found = column.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):
        values = found.astype(dtype)
    if values.dtype.kind != "f" and (found.dtype.kind == "f" or (values != found).any()):
        raise ValueError(f"its rows are {kind}, which {dtype} cannot hold")
    return values.reshape(rows, *shape)


def pictures_of(column: pa.Array) -> Iterator[np.ndarray]:
    """The encoded pictures of a column, (rows, columns, 3) uint8 each. **Raises:** `ValueError` naming the frame."""
    for t, value in enumerate(column):
        content = value.as_py()
        encoded = content.get("bytes") if isinstance(content, dict) else content
        if not isinstance(encoded, bytes):
            raise ValueError(f"frame {t} holds no encoded picture; only pictures inside the parquet file are read")
        try:
            yield read_image(encoded)
        except ValueError as error:
            raise ValueError(f"frame {t}: {error}") from None
