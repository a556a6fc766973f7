"""How a table of text is written: its letters, what separates its cells, its decimal sign, and where its names stand.

Spreadsheets and instruments write more than commas: `;` with decimal commas, tabs, UTF-16, comments before the names. What
cannot be told from the first lines is refused with what to do.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

SAMPLE_BYTES = 2**18
DELIMITERS = (",", ";", "\t", "|")
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16",
          codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
_COMMA_NUMBER = re.compile(r"\s*[-+]?\d*,\d+(?:[eE][-+]?\d+)?\s*")


@dataclass(frozen=True)
class Dialect:
    """What the first lines say.

    - `names`: of the columns, blanks around them removed; nameless ones are "".
    - `before`: lines before the first row; the names are the row behind them, or its last one where `in_comment`.
    """

    path: Path
    encoding: str
    delimiter: str
    decimal: str
    names: tuple[str, ...]
    before: int
    in_comment: bool

    @classmethod
    def of(cls, path: Path) -> Dialect:
        """**Raises:** `ValueError` naming the file for what is no table with names in its first line."""
        encoding, lines = _sample(path)
        delimiter, start = None, 0
        if lines and re.fullmatch(r"sep=.\s*", lines[0], re.DOTALL):  # a spreadsheet's word on it
            delimiter, start = lines[0][4], 1
        first = next((i for i in range(start, len(lines)) if lines[i].strip() and not lines[i].lstrip().startswith("#")), len(lines))
        comment = next((lines[i].lstrip().lstrip("#") for i in range(first - 1, start - 1, -1) if lines[i].strip()), None)
        if first == len(lines) and comment is None:
            raise ValueError(f"{path} is empty; expected the columns' names in its first line")
        body = lines[first:]
        delimiter = delimiter or _delimiter(path, body or [comment or ""], "\t" if ".tsv" in path.name.lower() else ",")
        rows = list(islice(_cells(path, body, delimiter), 20))
        names = rows[0] if rows else []
        above = next(_cells(path, [comment], delimiter), []) if comment is not None else []
        in_comment = len(above) == len(names) and len(above) > 1 and not _is_header(rows)
        if in_comment or not rows:
            names = above
        _check_names(path, names, lines, first)
        decimal = "," if delimiter != "," and _has_decimal_commas(rows) else "."
        return cls(path, encoding, delimiter, decimal, tuple(name.strip().lstrip("\ufeff").strip() for name in names), first, in_comment)

    @property
    def unusual(self) -> list[str]:
        """What is read otherwise than commas, points and UTF-8, in words."""
        words = {";": "semicolons", "\t": "tabs", "|": "bars"}
        found = [f"cells separated by {words.get(self.delimiter, repr(self.delimiter))}"] * (self.delimiter != ",")
        found += ["decimal commas"] * (self.decimal == ",") + [self.encoding.upper()] * (not self.encoding.startswith("utf-8"))
        return found + [f"names in the comment of line {self.before}"] * self.in_comment

    def line_of(self, row: int) -> str:
        """`line 7`, in which a row of data begins; `row 5` where the file cannot be followed as far as there."""
        try:
            with opened(self.path) as file, io.TextIOWrapper(file, self.encoding, newline="") as text:
                reader = csv.reader(islice(text, self.before, None), delimiter=self.delimiter)
                begins, found = 0, -1 if self.in_comment else -2  # the row of the names is the one before row 0
                for cells in reader:
                    found += bool(cells)
                    if found == row:
                        return f"line {self.before + begins + 1}"
                    begins = reader.line_num
        except (csv.Error, OSError, EOFError, UnicodeError, zlib.error):
            pass
        return f"row {row}"


def opened(path: Path) -> Any:  # of `io.BufferedIOBase`, which `io.TextIOWrapper` does not take in all stubs
    """The file's bytes, unpacked where it is gzipped."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")


def _sample(path: Path) -> tuple[str, list[str]]:
    """The encoding and the first lines, as far as they are whole."""
    try:
        with opened(path) as file:
            content = file.read(SAMPLE_BYTES)
    except (EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{path} is no readable {'gzip ' if path.suffix.lower() == '.gz' else ''}file: {error}") from None
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content:
        raise ValueError(f"{path} holds zero bytes, so it is no table in UTF-8; if it is UTF-16, save it with its mark (BOM) or in UTF-8")
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(content, final=len(content) < SAMPLE_BYTES)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not {encoding.upper().removesuffix('-SIG')} at byte {error.start}; convert it first: iconv -f LATIN1 -t UTF-8"
        ) from None
    lines = list(io.StringIO(text, newline=""))
    return encoding, lines[:-1] if len(content) == SAMPLE_BYTES and len(lines) > 1 else lines


def _delimiter(path: Path, lines: Sequence[str], usual: str) -> str:
    """What gives the first rows most cells, and all of them as many."""

    def merit(delimiter: str) -> tuple[bool, int, bool]:
        rows = list(islice(_cells(path, lines, delimiter), 20))
        return len(rows[0]) > 1 and len({len(row) for row in rows}) == 1, len(rows[0]), delimiter == usual

    return max(DELIMITERS, key=merit)


def _cells(path: Path, lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        yield from (row for row in reader if row)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num} of its table is not valid CSV: {error}") from None


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row holds words where later ones hold numbers."""
    return any(not _is_number(a) and _is_number(b) for row in rows[1:] for a, b in zip(rows[0], row, strict=False))


def _check_names(path: Path, names: Sequence[str], lines: Sequence[str], first: int) -> None:
    given = [name.strip() for name in names if name.strip()]
    if not given:
        raise ValueError(f"{path}, line {first + 1} names no column; put the columns' names into the first line")
    if all(_is_number(name) for name in given) and given != [str(i) for i in range(len(given))]:
        raise ValueError(f"{path} has no names: line {first + 1} holds numbers only; put the columns' names into the first line")
    words = given[0].split()
    if (
        len(names) == 1
        and len(words) > 1
        and all(len(line.split()) == len(words) and _is_number(line.split()[0]) for line in lines[first + 1 :][:3])
    ):
        raise ValueError(f"{path} is separated by blanks; save it with commas (or tabs, or semicolons) between its {len(words)} columns")


def _has_decimal_commas(rows: Sequence[Sequence[str]]) -> bool:
    cells = [cell for row in rows[1:] for cell in row]
    return any(_COMMA_NUMBER.fullmatch(cell) for cell in cells) and not any("." in cell and _is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ".", 1))
    except ValueError:
        return False
    return True
