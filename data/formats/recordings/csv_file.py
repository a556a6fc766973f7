"""Columns of a CSV or TSV file by name, read forwards: going back begins anew.

Types are those of the first rows unless told. Columns are known to pyarrow by their number, since names may be missing or there
twice: such a column can only not be used. A column whose first cell ends as a picture's file does holds pictures, and each cell names
one below the table's folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from gato.picture import SUFFIXES, read_bytes

from .arrays import check_size, first_line, nearest_or_all, pictures_of
from .csv_dialect import Dialect

BLOCK_BYTES = 2**24  # the longest row
SNIFFED_BYTES = 2**22

_NO_VALUE = "is empty or not a number; repair it or leave the episode out"


class CsvArrays:
    """**Arguments:** `types`: NumPy name or `"str"` by column, where the first rows would mislead; `wanted`: columns that will be read."""

    def __init__(self, path: Path, types: dict[str, str], wanted: Sequence[str] = ()) -> None:
        self.path, self._types = path, types
        self.dialect = Dialect.of(path)
        self._numbers = {name: i for i, name in reversed(list(enumerate(self.dialect.names))) if name}
        with self._first_block() as reader:
            first = next((batch for batch in self._batches(reader) if batch.num_rows), None)
            if first is None:
                raise ValueError(f"{path} holds names but no rows; leave it out")
            self._sniffed = {name: _type_name(first.column(i)) for name, i in self._numbers.items()}
        self._rows: int | None = None
        self._wanted = [name for name in dict.fromkeys(wanted) if name in self._numbers]
        self._used: dict[int, str] = {}  # the columns that are read, and their types
        self._stream: Iterator[pa.RecordBatch] = iter(())
        self._position = 0  # how many rows were passed
        self._ahead: Any = None  # the table of those read ahead
        self._slice: tuple[int, int, Any] = 0, 0, None  # the last one

    def keys(self) -> list[str]:
        return list(dict.fromkeys(name for name in self.dialect.names if name))

    @property
    def nameless(self) -> list[int]:
        """The columns without a name, counted from 1."""
        return [i for i, name in enumerate(self.dialect.names, 1) if not name]

    def shape(self, key: str) -> tuple[int, ...]:
        self.dtype(key)
        if self._rows is None:
            first = self._numbers[key]
            with self._reader({first: "str"}, [first]) as reader:
                self._rows = sum(batch.num_rows for batch in self._batches(reader))
        return (self._rows,)

    def dtype(self, key: str) -> str:
        if key not in self._numbers:
            raise ValueError(f"{self.path} has no column '{key}'{nearest_or_all(key, self.keys())}")
        if self.dialect.names.count(key) > 1:
            raise ValueError(f"{self.path} has the column '{key}' twice; rename one")
        found = self._types.get(key, self._sniffed[key])
        if found == "null":
            raise ValueError(f"{self.path}: column '{key}' is empty in the first rows; leave it out, or give its modality")
        return found

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        stop = self.shape(key)[0] if stop is None else stop
        number, kind = self._numbers[key], self.dtype(key)
        if number not in self._used:  # those that nobody asks for may hold anything
            self._used |= {number: kind} | {self._numbers[name]: self.dtype(name) for name in self._wanted}
            self._ahead, self._slice = None, (0, 0, None)
        values = self._checked(self._table(start, stop)[str(number)], start, key).to_numpy()
        return values if kind != "bytes" else pictures_of(self._picture(str(name), start + i, key) for i, name in enumerate(values))

    def column(self, key: str) -> Iterator[np.ndarray]:
        """A whole column in pieces, beside whatever is read elsewhere."""
        number, row = self._numbers[key] if self.dtype(key) else 0, 0
        with self._reader({number: self.dtype(key)}, [number]) as reader:
            for batch in self._batches(reader):
                yield self._checked(batch.column(0), row, key).to_numpy(zero_copy_only=False)
                row += batch.num_rows

    def place(self, row: int) -> str:
        return self.dialect.line_of(row)

    def is_constant(self, key: str) -> bool:
        return False

    def close(self) -> None:
        self._stream = iter(())

    def _picture(self, name: str, row: int, key: str) -> bytes:
        """The content of the file that a cell names."""
        path = self.path.parent / name
        try:
            if not path.resolve().is_relative_to(self.path.parent.resolve()):
                raise ValueError("which does not lie below the table's folder")
            return read_bytes(path, str(path))
        except ValueError as error:  # the line is looked for only now, which reads the file from its beginning
            where = f"{self.path}, {self.place(row)}, column '{key}' names the picture {name[:80]!r}"
            raise ValueError(f"{where}: {error}; copy it there, or say 'modality: text' if the names are meant") from None

    def _checked(self, values: Any, start: int, key: str) -> Any:
        if values.null_count:
            row = start + values.is_null().to_pylist().index(True)
            raise ValueError(f"{self.path}, {self.place(row)}, column '{key}' {_NO_VALUE}")
        return values

    def _table(self, start: int, stop: int) -> pa.Table:
        """Rows of the columns that were asked for; those before `start` are dropped while the file is read on."""
        if self._slice[:2] == (start, stop) and self._slice[2] is not None:
            return self._slice[2]
        if self._ahead is None or start < self._position:
            self._stream, self._position = self._batches(self._reader(self._used, list(self._used))), 0
            self._ahead = pa.schema([(str(i), _arrow_type(kind)) for i, kind in self._used.items()]).empty_table()
        ahead = self._ahead
        while self._position + ahead.num_rows < stop and (batch := next(self._stream, None)) is not None:
            more = pa.table(batch)
            if self._position + ahead.num_rows <= start:
                self._position, ahead = self._position + ahead.num_rows, more
            else:
                ahead = pa.concat_tables([ahead, more])
            check_size(f"{self.path}: rows {start} to {stop}", (ahead.nbytes,), 1)
        self._position, self._ahead = start, ahead.slice(start - self._position)
        self._slice = start, stop, self._ahead.slice(0, stop - start)
        return self._slice[2]

    def _first_block(self) -> Any:
        """A reader that has found types for the columns in the first rows, few enough that what is odd later is named by its line."""
        try:
            return self._reader({}, None, SNIFFED_BYTES)
        except ValueError as error:
            if "has a row of more than" not in str(error):
                raise
            return self._reader({}, None)

    def _reader(self, types: dict[int, str], columns: list[int] | None, block: int = BLOCK_BYTES) -> Any:
        d = self.dialect
        convert = pa.csv.ConvertOptions(
            column_types={str(i): _arrow_type(kind) for i, kind in types.items()}, include_columns=[str(i) for i in columns or []],
            true_values=["1", "1.0", "true", "True", "TRUE"], false_values=["0", "0.0", "false", "False", "FALSE"], decimal_point=d.decimal,
        )  # fmt: skip
        read = pa.csv.ReadOptions(
            use_threads=False,  # only then do errors name the row
            block_size=block, skip_rows=d.before, skip_rows_after_names=int(not d.in_comment),
            column_names=[str(i) for i in range(len(d.names))], encoding="utf-8" if d.encoding == "utf-8-sig" else d.encoding,
        )  # fmt: skip
        parse = pa.csv.ParseOptions(delimiter=d.delimiter, newlines_in_values=True)
        try:
            if self.path.suffix.lower() != ".gz":  # a block is allocated whole
                block = min(block, max(2**12, 2 * self.path.stat().st_size))
            source = pa.input_stream(str(self.path), compression="gzip" if self.path.suffix.lower() == ".gz" else None)
            return pa.csv.open_csv(source, read, parse, convert)
        except (pa.ArrowException, UnicodeError, OSError) as error:
            raise self._explained(error, block) from None

    def _batches(self, reader: Any) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                yield reader.read_next_batch()
            except StopIteration:
                return
            except (pa.ArrowException, UnicodeError, OSError) as error:
                raise self._explained(error) from None

    def _explained(self, error: Exception, block: int = BLOCK_BYTES) -> ValueError:
        """pyarrow's words as the place in the file and what to do."""
        text = first_line(error)
        if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
            row, expected, cells = (int(number) for number in found.groups())
            return ValueError(f"{self.path}, {self._place(row)} has {cells} cells, but there are {expected} columns; repair the row")
        if found := re.search(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (\w+): (.*)", text):
            name, where = self.dialect.names[int(found[1])], f", {self._place(int(found[2]))}" if found[2] else ""
            if "UTF8" in found[4]:
                return ValueError(f"{self.path}{where}, column '{name}' is not UTF-8; convert the file: iconv -f LATIN1 -t UTF-8")
            wanted = {"double": "a number", "int64": "a whole number", "bool": "true or false"}.get(found[3], found[3])
            value = found[4].removeprefix("invalid value ")[:80]
            return ValueError(
                f"{self.path}{where}, column '{name}' holds {value}, expected {wanted}; repair it, or give the column's modality"
            )
        if "straddling" in text:
            return ValueError(f"{self.path} has a row of more than {block} bytes, or a quote that is not closed; repair it")
        return ValueError(f"{self.path} cannot be read: {text}; repair it, or copy it again")

    def _place(self, number: int) -> str:
        """Of the row that pyarrow counts from 1, with the names and the lines before them."""
        return self.place(number - self.dialect.before - (1 if self.dialect.in_comment else 2))


def _type_name(column: pa.Array) -> str:
    """What the first rows hold: a NumPy name, `"str"`, `"null"`, or `"bytes"` where the first cell names a picture's file."""
    kind = column.type
    if pa.types.is_string(kind) and str(column[0].as_py()).lower().endswith(SUFFIXES):
        return "bytes"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_integer(kind):
        return "int64"
    return "float64" if pa.types.is_floating(kind) else "str"


def _arrow_type(name: str) -> pa.DataType:
    return pa.string() if name in ("str", "bytes") else pa.from_numpy_dtype(np.dtype(name))
