"""Tables that datasets come in: parquet, arrow, JSON lines and CSV, read row by row.

CSV may be separated by commas, semicolons, tabs or bars; it and JSON lines may be gzipped. All of it comes from outside, so
nothing is believed before it is checked, and an error names the file and the row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .files import open_arrow
from .left_out import LeftOut
from .lines import json_rows, lines, refuse_undecoded, suffix_of
from .parquet import parquet_batches

TABLES = (".parquet", ".arrow", ".jsonl", ".ndjson", ".csv", ".tsv")
MAX_CELL = 2**26  # characters of a CSV cell; Python's own limit is 131,072

_BINARY = (".parquet", ".arrow")
_JSON = (".jsonl", ".ndjson")
_SEPARATORS = ",;\t|"
_SAID = re.compile(r"sep=([,;\t|])\n")
_ROWS_AT_ONCE = 16  # of up to `gato.picture.MAX_BYTES` each, where they hold pictures


@dataclass(frozen=True)
class SourceTable:
    """A parquet, arrow, JSON-lines or CSV file, read row by row.

    `columns` is empty for JSON lines, where each row names its own; `texts` are those of text in parquet and arrow.
    `open` is the way in.
    """

    path: Path
    columns: tuple[str, ...]
    texts: frozenset[str] = frozenset()

    @classmethod
    def open(cls, path: Path) -> SourceTable:
        """**Raises:** `ValueError` if the file is missing, of another kind or damaged."""
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        if not path.is_file():
            raise ValueError(f"{path} is no file")
        kind = suffix_of(path)
        if kind not in TABLES or (kind in _BINARY and path.suffix.lower() == ".gz"):
            remedy = "; unpack it first" if kind in _BINARY else ""
            raise ValueError(f"{path} has the suffix '{path.suffix}'; expected one of {', '.join(TABLES)}{remedy}")
        if kind in _JSON:
            return cls(path, ())
        if kind not in _BINARY:
            return cls(path, tuple(_Csv(path).header))
        with _named(path):
            schema = pq.read_schema(path) if kind == ".parquet" else open_arrow(path)[0]
            return cls(path, tuple(schema.names), frozenset(f.name for f in schema if _is_text(f.type)))

    @property
    def names(self) -> list[str]:
        """What columns there are, for messages; of JSON lines those of the first row."""
        return list(self.columns) or list(next(json_rows(self.path), ("", {}))[1])

    @property
    def is_binary(self) -> bool:
        """Whether cells can hold bytes, such as encoded pictures."""
        return suffix_of(self.path) in _BINARY

    def need(self, *columns: str) -> None:
        """**Raises:** `ValueError` naming the columns that are missing."""
        if self.columns and (missing := [c for c in columns if c not in self.columns]):
            comment = "; its first line is a comment: take it out" if self.columns[0].startswith("#") else ""
            raise ValueError(f"{self.path} lacks the columns {missing}; it has {list(self.columns)}{comment}")

    def rows(self, columns: Sequence[str], start: int = 0, left_out: LeftOut | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """`(place, {column: value})` from row `start` on; columns that are not there are left out.

        **Arguments:** `start`: counted over the rows that can be read; `left_out`: takes those that cannot.

        **Raises:** `ValueError` naming file and row for what cannot be read, and a column that is there twice.
        """
        if twice := [c for c in columns if self.columns.count(c) > 1]:
            raise ValueError(f"{self.path} has the column '{twice[0]}' twice; rename or remove one")
        if self.is_binary:
            yield from self._binary_rows(columns, start)
            return
        rows = json_rows(self.path, left_out=left_out) if suffix_of(self.path) in _JSON else _Csv(self.path).rows(columns, left_out)
        for number, (place, row) in enumerate(rows):
            if number >= start:
                yield place, {c: row[c] for c in columns if c in row}

    def _binary_rows(self, columns: Sequence[str], start: int) -> Iterator[tuple[str, dict[str, Any]]]:
        number = start
        with _named(self.path):
            for batch in self._batches([c for c in self.columns if c in columns], start):
                for first in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    for row in batch.slice(first, _ROWS_AT_ONCE).to_pylist():
                        yield f"{self.path}, row {number}", row
                        number += 1

    def _batches(self, columns: list[str], start: int) -> Iterator[pa.RecordBatch]:
        """Record batches from row `start` on; what lies wholly before it is not decoded."""
        if suffix_of(self.path) == ".parquet":
            first, batches = parquet_batches(self.path, start, columns)
            start -= first
        else:
            batches = (batch.select(columns) for batch in open_arrow(self.path)[1])
        for batch in batches:
            if start >= batch.num_rows:
                start -= batch.num_rows
                continue
            rest = batch.slice(start)
            rest.validate(full=True)  # offsets of a foreign file are not to be trusted
            yield rest
            start = 0


class _named:
    """Turns what pyarrow raises inside into one `ValueError` that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (pa.ArrowException, OSError, UnicodeDecodeError)):
            what = "it holds text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            what = "it points outside itself" if "index out of range" in what else what
            raise ValueError(f"{self.path} is no readable {suffix_of(self.path)[1:]} file: {what}") from None


class _Csv:
    """A CSV file with a header. Its first line may say `sep=;`, as spreadsheets write it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _, _, cells = next(self._records(), (0, 0, []))
        self.header = [name.strip() for name in _cells(cells, f"{path}, the header")]
        refuse_undecoded("".join(self.header), f"{path}: the header")
        while self.header and not self.header[-1]:  # a comma at the end of the line
            self.header.pop()

    def rows(self, columns: Sequence[str], left_out: LeftOut | None) -> Iterator[tuple[str, dict[str, str]]]:
        """`(place, {column: cell})` of these columns."""
        wanted = [(column, self.header.index(column)) for column in columns if column in self.header]
        for number, (first, last, found) in enumerate(self._records()):
            if number == 0:
                continue
            place = f"{self.path}, line {first}" if first == last else f"{self.path}, lines {first} to {last}"
            try:
                row = self._row(place, found, wanted)
            except ValueError as error:
                if left_out is None:
                    raise
                left_out.row(error)
            else:
                yield place, row

    def _row(self, place: str, found: list[str] | csv.Error, wanted: Sequence[tuple[str, int]]) -> dict[str, str]:
        cells = _cells(found, place)
        if len(cells) < len(self.header) or any(cells[len(self.header) :]):
            raise ValueError(f"{place} has {len(cells)} cells, another number than the {len(self.header)} columns; quote or repair it")
        for column, k in wanted:
            refuse_undecoded(cells[k], f"{place}: '{column}'")
        return {column: cells[k] for column, k in wanted}

    def _records(self) -> Iterator[tuple[int, int, Any]]:
        """`(first line, last line, cells)`, the header first; an error in the place of cells that cannot be told apart.

        **Raises:** `ValueError` for a quote that is never closed, since nobody knows how many rows it swallowed.
        """
        csv.field_size_limit(MAX_CELL)
        ended = False

        def text() -> Iterator[str]:
            nonlocal ended
            yield from following
            ended = True

        following: Iterator[str] = (line for _, line in lines(self.path, strict=False))
        line, first = next(((number, line) for number, line in enumerate(following) if line.strip()), (0, ""))
        if said := _SAID.fullmatch(first):
            line, separator = line + 1, said[1]
        else:
            separator = self._separator(first)
            following = chain([first], following)
        reader, before = csv.reader(text(), delimiter=separator, strict=True), line
        while True:
            try:
                cells: Any = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if ended:
                    raise ValueError(f"{self.path}, line {line + 1} is not valid CSV: it opens a quote that is never closed") from None
                cells = error
            begun, line = line + 1, before + reader.line_num
            if cells:
                yield begun, line, cells

    def _separator(self, header: str) -> str:
        """What divides the header into most cells: the comma, where others do not make more of it."""
        if suffix_of(self.path) == ".tsv":
            return "\t"
        return max(_SEPARATORS, key=lambda sign: len(next(csv.reader([header], delimiter=sign), [])))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _cells(found: list[str] | csv.Error, place: str) -> list[str]:
    if isinstance(found, csv.Error):
        raise ValueError(f"{place} is not valid CSV: {found}")
    return found
