"""Pictures in tables: a row holds the encoded picture, as `datasets` writes it, or names a file, as image folders do.

What a row's texts are is up to the reader (`Texts`): a caption, several, or a question and its answer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gato.picture import SUFFIXES

from .files import DEFAULT_SPLIT, count_others, file_digest, files_below, files_digest, inside, named_split, options_digest, split_of
from .left_out import LeftOut
from .lines import stem_of, suffix_of
from .picture_row import PictureRow
from .source_table import TABLES, SourceTable
from .words import sayings

PARAMETERS = ("concept", "source", "licence", "license", "author", "original")

# the texts of an episode, None where there are no words, and what else is known about it
Texts = Sequence[tuple[Mapping[str, str | None], Mapping[str, Any]]]


@dataclass(frozen=True)
class _Row:
    """A row whose words are known.

    - `number`: among the table's rows that can be read; `place`: file and row.
    - `values`: of its cells; `known`: what it says of its picture.
    - `texts`: of its episodes; `num_blank`, `num_further`: those that are left out.
    - `picture`: the file, where a cell of text names one.
    """

    number: int
    place: str
    split: str
    values: Mapping[str, Any]
    known: Mapping[str, Any]
    texts: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]]
    num_blank: int
    num_further: int
    picture: Path | None


class PictureTable:
    """The pictures of one table, or of all tables in a folder.

    **Arguments:**

    - `path`: a table or a folder of tables; with `metadata.*` tables in it, only those count.
    - `columns`: the columns that `texts` wants, all or some of them (`texts` decides).
    - `texts`: the texts of a row's episodes.
    - `left_out`: counts what has no text or is named by no row.
    - `images`: folder that file names start from; each table's own one if `None`.
    - `only_first`: whether further texts of a row are left out, and counted.

    **Attributes:** `splits`: episodes by split; `digest`; `layout`.

    **Raises:** `ValueError` naming file and row or column for what cannot be read, and for a file that is missing.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        texts: Callable[[Mapping[str, Any]], Texts],
        left_out: LeftOut,
        images: Path | None = None,
        only_first: bool = False,
    ) -> None:
        files = table_files(path)
        self._folder = path if path.is_dir() else path.parent
        self._images, self._texts, self._left_out, self._only_first = images, texts, left_out, only_first
        self._columns = columns
        self._tables = [_open(file, columns) for file in files]
        self._named: set[Path] = set()
        status = hashlib.sha256()
        self._counts = [self._count(table, status) for table in self._tables]
        self.splits = dict(+sum(self._counts, Counter()))
        digest = file_digest(path) if path.is_file() else files_digest(path, files)
        self.digest = options_digest(digest, pictures=status.hexdigest() if self._named else None)
        is_image_folder = stem_of(files[0]) == "metadata"
        self.layout = "image folder" if is_image_folder else "table"
        if path.is_dir():
            count_others(path, [*files, *self._named], left_out, SUFFIXES, "pictures that no row names" if is_image_folder else None)

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        """Rows of a split from place `start` on; pictures before it are not read."""
        for table, count in zip(self._tables, self._counts, strict=True):
            if start >= count[split]:
                start -= count[split]
                continue
            first, start = self._find(table, split, start)
            for row in self._rows(table, ("image", *self._light(table)), first):
                if row.split != split or not row.texts:
                    continue
                picture, original = self._picture(table, row)
                known = {**row.known, "original": row.known.get("original") or original}
                for number, (texts, further) in enumerate(row.texts[start:], start):
                    place = row.place if len(row.texts) == 1 else f"{row.place}, text {number}"
                    yield PictureRow(place, picture, texts, {**known, **further})
                start = 0

    def _light(self, table: SourceTable) -> tuple[str, ...]:
        """What counting reads: everything but encoded pictures, which only binary tables hold."""
        names_files = not table.is_binary or "image" in table.texts
        return ("split", "file_name", *self._columns, *PARAMETERS, *(["image"] if names_files else []))

    def _count(self, table: SourceTable, status: Any) -> Counter[str]:
        """Episodes by split; sizes and times of the pictures' files go into the digest `status`."""
        count: Counter[str] = Counter()
        for row in self._rows(table, self._light(table)):
            if row.picture is not None:
                self._named.add(row.picture)
            if not row.texts:
                self._left_out.count("rows without text", row.place)
                continue
            self._left_out.count("blank texts of rows that have others", row.place, row.num_blank)
            self._left_out.count("further captions", row.place, row.num_further)
            count[row.split] += len(row.texts)
            if row.picture is not None:
                found = row.picture.stat()
                status.update(f"{_name(row.values)} {found.st_size} {found.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return count

    def _find(self, table: SourceTable, split: str, start: int) -> tuple[int, int]:
        """The table's row that holds episode `start` of the split, and how many episodes of that row come before it."""
        for row in self._rows(table, self._light(table)):
            if row.split == split:
                if start < len(row.texts):
                    return row.number, start
                start -= len(row.texts)
        raise ValueError(f"{table.path} changed while it was read; start again")

    def _rows(self, table: SourceTable, columns: Sequence[str], start: int = 0) -> Iterator[_Row]:
        """The rows from `start` on, those without words too; bad ones go to `left_out`."""
        for number, (place, values) in enumerate(table.rows(columns, start, self._left_out), start):
            with self._left_out.one_row():
                yield self._row(table, number, place, values)

    def _row(self, table: SourceTable, number: int, place: str, values: Mapping[str, Any]) -> _Row:
        try:
            found = self._texts(values)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        worded = [({name: text for name, text in said.items() if text is not None}, said, further) for said, further in found]
        texts = [(words, further) for words, said, further in worded if len(words) == len(said)]
        kept = texts[:1] if self._only_first else texts
        split = named_split(values.get("split"), place) or self._split(table, values)
        known = known_parameters(values, None, place)
        name, picture = _name(values), None
        if isinstance(values.get("image"), str) or ("file_name" in values and "image" not in (*values, *table.columns)):
            picture = inside(self._images or table.path.parent, name, place)
            if not picture.is_file():
                raise ValueError(f"{place}: picture {picture} is missing; restore it or take the row out")
        return _Row(number, place, split, values, known, kept, len(found) - len(texts), len(texts) - len(kept), picture)

    def _split(self, table: SourceTable, values: Mapping[str, Any]) -> str:
        name = _name(values)
        by_picture = split_of(Path(name), by_name=False) if isinstance(name, str) else None
        return split_of(table.path.relative_to(self._folder)) or by_picture or DEFAULT_SPLIT

    def _picture(self, table: SourceTable, row: _Row) -> tuple[object, str | None]:
        """Encoded bytes, a file, or why there is neither; and the file's name where it is known."""
        picture = row.values.get("image")
        picture = row.values.get("file_name") if picture is None else picture
        name = picture if isinstance(picture, str) else None
        if isinstance(picture, dict):  # as `datasets` writes pictures: {bytes, path}
            name = picture.get("path") if isinstance(picture.get("path"), str) else None
            picture = picture.get("bytes") or name
        if isinstance(picture, str):
            try:
                return inside(self._images or table.path.parent, picture, row.place), name
            except ValueError as error:
                return error, None
        return picture, name


def table_files(path: Path) -> list[Path]:
    """A table itself; of a folder its `metadata.*` tables, else its parquet and arrow files."""
    if not path.is_dir():
        return [path]
    found = [p for p in files_below(path, TABLES) if not p.name.startswith("cache-")]  # what `datasets` left of earlier work
    return [p for p in found if stem_of(p) == "metadata"] or [p for p in found if suffix_of(p) in (".parquet", ".arrow")]


def _open(file: Path, columns: Sequence[str]) -> SourceTable:
    table = SourceTable.open(file)
    if table.columns and not {"image", "file_name"} & set(table.columns):
        table.need("file_name" if stem_of(file) == "metadata" else "image")
    if table.columns and not set(columns) & set(table.columns):
        table.need(columns[0])
    return table


def _name(values: Mapping[str, Any]) -> object:
    """What a row says its picture's file is."""
    return values["image"] if isinstance(values.get("image"), str) else values.get("file_name")


def known_parameters(values: Mapping[str, Any], original: str | None, place: str) -> dict[str, Any]:
    """What a row says about its picture beside the texts; `original` is the file's name where the row names none.

    **Raises:** `ValueError` naming the place of what cannot be stored.
    """
    known = sayings(values, PARAMETERS, place)
    licence = known.pop("license", None)
    return {"original": original, **({} if licence is None else {"licence": licence}), **known}
