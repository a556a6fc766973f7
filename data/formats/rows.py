"""Folders of parquet, Arrow and JSON-lines files as the Hugging Face hub lays them out: which files are which split,
and their rows one by one from any row on.

    SUBSET/train-00000-of-00002.parquet     data/SUBSET/train/0.parquet     train/data-00000-of-00001.arrow
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gato.data.formats.recordings.arrays import first_line

from .files import SPLIT_OF_WORD, files_below, open_arrow
from .lines import json_rows, lines
from .parquet import parquet_batches

SUFFIXES = (".parquet", ".arrow", ".jsonl")
MAX_LINE_BYTES = 2**30  # an episode

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
            if path.suffix.lower() == ".parquet":
                file = pq.ParquetFile(path)
                return cls(path, file.metadata.num_rows, file.schema_arrow)
            if path.suffix.lower() == ".arrow":
                schema, batches = open_arrow(path)
                return cls(path, sum(b.num_rows for b in batches), schema)
            first = next((_batch(place, row) for place, row in json_rows(path, MAX_LINE_BYTES)), None)
            num_rows = sum(bool(line.strip()) for _, line in lines(path, MAX_LINE_BYTES))
            return cls(path, num_rows, first.schema if first else pa.schema([]))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no readable {path.suffix} file ({first_line(error)}); fetch it again") from None

    def rows(self, start: int = 0, columns: Sequence[str] | None = None) -> Iterator[tuple[str, pa.RecordBatch]]:
        """`(label, batch of one row)` from row `start` on.

        What lies before costs nothing, but in parquet, where the rows of the same row group are decoded too.
        """
        try:
            for row, batch in self._rows(start, columns):
                yield f"{self.path}, row {row}", batch
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path} is damaged ({first_line(error)}); fetch it again") from None

    def _rows(self, start: int, columns: Sequence[str] | None) -> Iterator[tuple[int, pa.RecordBatch]]:
        if self.path.suffix.lower() == ".jsonl":
            for number, (place, row) in enumerate(json_rows(self.path, MAX_LINE_BYTES)):
                if number >= start:
                    yield number, _batch(place, row)
            return
        first, batches = (
            parquet_batches(self.path, start, columns) if self.path.suffix.lower() == ".parquet" else (0, open_arrow(self.path)[1])
        )
        for batch in batches:
            if first + batch.num_rows > start:
                batch.validate(full=True)  # offsets are claims of a file
                chosen = batch if columns is None else batch.select(columns)
                for k in range(max(0, start - first), batch.num_rows):
                    yield first + k, chosen.slice(k, 1)
            first += batch.num_rows


def layout(root: Path) -> dict[str, dict[str, list[Path]]]:
    """`{subset: {split: files}}` by the files' names; the subset is "" for files that lie in no folder of their own.

    **Raises:** `ValueError` if there is no such file.
    """
    if not root.exists():
        raise ValueError(f"there is no file or folder '{root}'; for the name of a data set on the hub add --hub true")
    found: dict[str, dict[str, list[Path]]] = {}
    files = [root] if root.is_file() else files_below(root, SUFFIXES)
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"'{path}' is no file of rows; expected {', '.join(SUFFIXES)}")
        if path.name.startswith(("cache-", "indices-", ".")):  # what `datasets` leaves beside its data
            continue
        parts = [] if root.is_file() else list(path.relative_to(root).parts[:-1])
        shard = _SHARD.fullmatch(path.stem)
        split = shard[1] if shard else path.stem
        if split == "data":  # a folder of `save_to_disk`
            split = parts.pop() if parts else "train"
        elif not shard and split not in SPLIT_OF_WORD:
            split = parts.pop() if parts and parts[-1] in SPLIT_OF_WORD else "train"
        subset = "/".join(parts[1:] if parts[:1] == ["data"] else parts)
        found.setdefault(subset, {}).setdefault(split, []).append(path)
    if not found:
        raise ValueError(f"'{root}' holds no files of rows; expected {', '.join(SUFFIXES)}")
    return found


def strangers(root: Path) -> list[Path]:
    """Files that are no rows and nothing that belongs beside them."""
    if root.is_file():
        return []
    beside = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
    others = [p for p in files_below(root) if p.suffix.lower() not in (*SUFFIXES, ".md", ".yaml", ".lock")]
    return [p for p in others if p.name not in beside and not p.name.upper().startswith(("LICENSE", "LICENCE", "README"))]


def _batch(place: str, row: dict[str, Any]) -> pa.RecordBatch:
    try:
        return pa.RecordBatch.from_pylist([row])
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        reason = "it holds a letter that is no Unicode" if isinstance(error, UnicodeError) else first_line(error)
        raise ValueError(f"{place} is no row of JSON that has one type a column: {reason}") from None
