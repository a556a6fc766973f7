"""Rows of parquet files from any row on, a few megabytes at a time.

Kilobytes of parquet can stand for gigabytes: equal values are stored once, and zeros compress to nothing. So what a row
group says it would take is compared with what it has in the file, before it is read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BATCH_BYTES = 16 * 2**20
MAX_BATCH_ROWS = 16  # sizes in a file are those before equal values expand
BOMB_BYTES, BOMB_RATIO = 2**26, 200  # real columns rarely reach the ratio, and constant ones rarely the size

_WIDTHS = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}


def parquet_batches(
    path: Path, start: int = 0, columns: Sequence[str] | None = None, max_rows: int = MAX_BATCH_ROWS
) -> tuple[int, Iterator[pa.RecordBatch]]:
    """The row that the first batch begins with, and batches of a few megabytes; row groups before row `start` are not read.

    **Raises:** `ValueError` naming a column that would take many times what the file has of it; pyarrow's errors for damage.
    """
    file = pq.ParquetFile(path, memory_map=True)
    group = first = 0
    while group < file.num_row_groups and first + (size := file.metadata.row_group(group).num_rows) <= start:
        group, first = group + 1, first + size

    def batches() -> Iterator[pa.RecordBatch]:
        with _Unread(path) as unread:
            probe = pq.ParquetFile(pa.PythonFile(unread, "r"), metadata=file.metadata, pre_buffer=True)
            for k in range(group, file.num_row_groups):
                _refuse_damage(probe, k, columns)
                row_bytes = _checked_bytes(path, file, k, columns) // max(1, file.metadata.row_group(k).num_rows)
                rows = max(1, min(max_rows, BATCH_BYTES // max(1, row_bytes)))
                yield from file.iter_batches(rows, row_groups=[k], columns=columns)

    return first, batches()


def _checked_bytes(path: Path, file: pq.ParquetFile, group: int, columns: Sequence[str] | None) -> int:
    """About the bytes that a row group's columns take in memory."""
    metadata, total = file.metadata.row_group(group), 0
    for k in range(metadata.num_columns):
        chunk = metadata.column(k)
        name = chunk.path_in_schema
        if columns is not None and not any(name == c or name.startswith(f"{c}.") for c in columns):
            continue
        size = max(chunk.total_uncompressed_size, chunk.num_values * _WIDTHS.get(chunk.physical_type, 1))
        if size > BOMB_BYTES and size > BOMB_RATIO * chunk.total_compressed_size:
            raise ValueError(
                f"{path}, row group {group}: column '{name}' has {chunk.total_compressed_size} bytes that would become {size}; "
                "if it is no bomb, write it again with smaller row groups"
            )
        total += size
    return total


class _Unread(io.FileIO):
    """A file whose content is not to be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise _Reached


class _Reached(Exception):
    """pyarrow found nothing wrong with what the footer says of the columns, and wants to read the first one."""


def _refuse_damage(probe: pq.ParquetFile, group: int, columns: Sequence[str] | None) -> None:
    """**Raises:** pyarrow's errors for damage in what the footer says of these columns.

    Asked for it directly (`RowGroupMetaData.column`), pyarrow ends the process where the histograms of sizes are wrong; only
    where it is about to read does it raise.

    **Arguments:** `probe`: the file, unreadable behind its footer.
    """
    try:
        next(probe.iter_batches(1, row_groups=[group], columns=columns), None)
    except _Reached:
        return
