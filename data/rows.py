"""Folders of parquet, Arrow and JSON-lines files as the Hugging Face hub lays them out: which files are which split,
and their rows one by one from any row on.

    SUBSET/train-00000-of-00002.parquet     data/SUBSET/train/0.parquet     train/data-00000-of-00001.arrow
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".parquet", ".arrow", ".jsonl")
BATCH_BYTES = 16 * 2**20
MAX_BATCH_ROWS = 16  # sizes in a file are those before equal values expand
MAX_LINE_BYTES = 2**30
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"

_SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class RowFile:
    """One file: `num_rows`, and its `schema` (of the first line where it is JSON).

    **Raises:** `ValueError` naming the file if it is damaged.
    """

    path: Path
    num_rows: int
    schema: pa.Schema

    @classmethod
    def open(cls, path: Path) -> RowFile:
        """Reads no values but those of JSON lines."""
        try:
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                return cls(path, file.metadata.num_rows, file.schema_arrow)
            if path.suffix == ".arrow":
                schema, batches = _arrow(path)
                return cls(path, sum(b.num_rows for b in batches), schema)
            first = next((_line_batch(path, number, line) for number, line in _lines(path)), None)
            return cls(path, sum(1 for _ in _lines(path)), first.schema if first else pa.schema([]))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is no readable {path.suffix} file ({error}); fetch it again") from None

    def rows(self, start: int = 0, columns: Sequence[str] | None = None) -> Iterator[tuple[str, pa.RecordBatch]]:
        """`(label, batch of one row)` from row `start` on.

        What lies before costs nothing, but in parquet, where the rows of the same row group are decoded too.
        """
        try:
            for row, batch in self._rows(start, columns):
                yield f"{self.path}, row {row}", batch
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); fetch it again") from None

    def _rows(self, start: int, columns: Sequence[str] | None) -> Iterator[tuple[int, pa.RecordBatch]]:
        if self.path.suffix == ".jsonl":
            for row, (number, line) in enumerate(_lines(self.path)):
                if row >= start:
                    yield row, _line_batch(self.path, number, line)
            return
        first = 0
        for batch in self._parquet(start, columns) if self.path.suffix == ".parquet" else _arrow(self.path)[1]:
            if isinstance(batch, int):  # rows that were left out
                first += batch
                continue
            if first + batch.num_rows > start:
                batch.validate(full=True)  # offsets are claims of a file
                chosen = batch if columns is None else batch.select(columns)
                for k in range(max(0, start - first), batch.num_rows):
                    yield first + k, chosen.slice(k, 1)
            first += batch.num_rows

    def _parquet(self, start: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch | int]:
        """Batches of a few megabytes; a number stands for that many rows before `start`."""
        file = pq.ParquetFile(self.path, memory_map=True)
        first = 0
        for k in range(file.num_row_groups):
            group = file.metadata.row_group(k)
            first += group.num_rows
            if first <= start:
                yield group.num_rows
                continue
            row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
            yield from file.iter_batches(max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // row_bytes)), row_groups=[k], columns=columns)


def layout(root: Path) -> dict[str, dict[str, list[Path]]]:
    """`{subset: {split: files}}` by the files' names; the subset is "" for files that lie in no folder of their own.

    **Raises:** `ValueError` if there is no such file.
    """
    if not root.exists():
        raise ValueError(f"there is no file or folder '{root}'; for the name of a data set on the hub add --hub true")
    found: dict[str, dict[str, list[Path]]] = {}
    files = [root] if root.is_file() else sorted(p for suffix in SUFFIXES for p in root.rglob(f"*{suffix}"))
    for path in files:
        if path.suffix not in SUFFIXES:
            raise ValueError(f"'{path}' is no file of rows; expected {', '.join(SUFFIXES)}")
        if path.name.startswith(("cache-", "indices-", ".")):  # what `datasets` leaves beside its data
            continue
        parts = [] if root.is_file() else list(path.relative_to(root).parts[:-1])
        shard = _SHARD.fullmatch(path.stem)
        split = shard[1] if shard else path.stem
        if split == "data":  # a folder of `save_to_disk`
            split = parts.pop() if parts else "train"
        elif not shard and split not in _SPLITS:
            split = parts.pop() if parts and parts[-1] in _SPLITS else "train"
        subset = "/".join(parts[1:] if parts[:1] == ["data"] else parts)
        found.setdefault(subset, {}).setdefault(split, []).append(path)
    if not found:
        raise ValueError(f"'{root}' holds no files of rows; expected {', '.join(SUFFIXES)}")
    return found


def _arrow(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Both forms of Arrow files, mapped: `datasets` writes streams."""
    with pa.memory_map(str(path)) as file:
        mapped = file.read_buffer()
    try:
        whole = pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:
        if mapped.size < 8 or mapped.slice(mapped.size - 8).to_pybytes() != END_OF_STREAM:  # pyarrow takes a cut stream for a short one
            raise ValueError(f"{path} does not end as an Arrow stream does; it was cut, fetch it again") from None
        stream = pa.ipc.open_stream(mapped)
        return stream.schema, iter(stream)
    return whole.schema, (whole.get_batch(k) for k in range(whole.num_record_batches))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbers (from 1) and contents of the lines that are not blank."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES:
                raise ValueError(f"{path}, line {number} has more than {MAX_LINE_BYTES} bytes")
            if line.strip():
                yield number, line


def _line_batch(path: Path, number: int, line: bytes) -> pa.RecordBatch:
    try:
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("expected an object")
        return pa.RecordBatch.from_pylist([values])
    except (ValueError, RecursionError, pa.ArrowException) as error:
        raise ValueError(f"{path}, line {number} is no row of JSON: {error}") from None
