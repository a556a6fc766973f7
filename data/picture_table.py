"""Pictures in tables: a row holds the encoded picture, as `datasets` writes it, or names a file, as image folders do.

What a row's texts are is up to the reader (`Texts`): a caption, several, or a question and its answer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .captions import SUFFIXES, PictureRow
from .files import DEFAULT_SPLIT, TABLES, Table, file_digest, files_below, files_digest, inside, named_split, options_digest, split_of
from .left_out import LeftOut

PARAMETERS = ("concept", "source", "licence", "license", "author", "original")

# a row's values -> the texts of each of its episodes, and what else is known about it
Texts = Callable[[Mapping[str, Any]], Sequence[tuple[Mapping[str, object], Mapping[str, Any]]]]


class PictureTable:
    """The pictures of one table, or of all tables in a folder.

    **Arguments:**

    - `path`: a table or a folder of tables; with `metadata.*` tables in it, only those count.
    - `columns`: the columns that `texts` wants, all or some of them (`texts` decides).
    - `left_out`: counts what has no text or is named by no row.
    - `images`: folder that file names start from; each table's own one if `None`.

    **Attributes:** `splits`: episodes by split; `digest`; `layout`.

    **Raises:** `ValueError` naming file and row or column for what cannot be read, and for a file that is missing.
    """

    def __init__(self, path: Path, columns: Sequence[str], texts: Texts, left_out: LeftOut, images: Path | None = None) -> None:
        files = table_files(path)
        self._folder = path if path.is_dir() else path.parent
        self._images, self._texts = images, texts
        self._columns = columns
        self._tables = [_open(file, columns) for file in files]
        self._named: set[Path] = set()
        self._left_out = left_out
        status = hashlib.sha256()
        self._counts = [self._count(table, status) for table in self._tables]
        self.splits = dict(sum(self._counts, Counter()))
        digest = file_digest(path) if path.is_file() else files_digest(path, files)
        self.digest = options_digest(digest, pictures=status.hexdigest() if self._named else None)
        is_image_folder = files[0].stem == "metadata"
        self.layout = "image folder" if is_image_folder else "table"
        for picture in files_below(path, SUFFIXES) if is_image_folder and path.is_dir() else ():
            left_out.count("pictures that no row names", picture, picture not in self._named)

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        """Rows of a split from place `start` on; pictures before it are not read."""
        for table, count in zip(self._tables, self._counts, strict=True):
            if start >= count[split]:
                start -= count[split]
                continue
            first, start = self._find(table, split, start)
            for place, values in table.rows(("image", *self._light(table), *PARAMETERS), first):
                if self._split(table, place, values) != split:
                    continue
                picture, original = self._picture(table, place, values)
                known = known_parameters(values, original)
                for texts, further in self._row_texts(place, values)[start:]:
                    yield PictureRow(place, picture, texts, {**known, **further})
                start = 0

    def _light(self, table: Table) -> tuple[str, ...]:
        """What counting reads: everything but encoded pictures, which only binary tables hold."""
        return ("split", "file_name", *self._columns, *(() if table.is_binary else ("image",)))

    def _count(self, table: Table, status: Any) -> Counter[str]:
        """Episodes by split; sizes and times of the pictures' files go into the digest `status`."""
        count: Counter[str] = Counter()
        for place, values in table.rows(self._light(table)):
            found = len(self._row_texts(place, values))
            self._left_out.count("rows without text", place, found == 0)
            if found:
                count[self._split(table, place, values)] += found
            name = values.get("file_name", values.get("image"))
            if "file_name" in values or isinstance(name, str):
                picture = inside(self._images or table.path.parent, name, place)
                if not picture.is_file():
                    raise ValueError(f"{place}: picture {picture} is missing; restore it or take the row out")
                size, time = picture.stat().st_size, picture.stat().st_mtime_ns
                status.update(f"{name} {size} {time}\n".encode())
                self._named.add(picture)
        return count

    def _find(self, table: Table, split: str, start: int) -> tuple[int, int]:
        """The table's row that holds episode `start` of the split, and how many episodes of that row come before it."""
        for number, (place, values) in enumerate(table.rows(self._light(table))):
            if self._split(table, place, values) == split:
                found = len(self._row_texts(place, values))
                if start < found:
                    return number, start
                start -= found
        raise ValueError(f"{table.path} changed while it was read; start again")

    def _split(self, table: Table, place: str, values: Mapping[str, Any]) -> str:
        if split := named_split(values.get("split"), place):
            return split
        name = values.get("file_name", values.get("image"))
        by_picture = split_of(Path(name), by_name=False) if isinstance(name, str) else None
        return split_of(table.path.relative_to(self._folder)) or by_picture or DEFAULT_SPLIT

    def _row_texts(self, place: str, values: Mapping[str, Any]) -> Sequence[tuple[Mapping[str, object], Mapping[str, Any]]]:
        try:
            return self._texts(values)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None

    def _picture(self, table: Table, place: str, values: Mapping[str, Any]) -> tuple[object, str | None]:
        """Encoded bytes or a file, and the file's name where it is known."""
        picture = values["image"] if "image" in values else values.get("file_name")
        name = picture if isinstance(picture, str) else None
        if isinstance(picture, dict):  # as `datasets` writes pictures: {bytes, path}
            name = picture.get("path")
            picture = picture.get("bytes") or name
        if isinstance(picture, str):
            picture = inside(self._images or table.path.parent, picture, place)
        return picture, name


def table_files(path: Path) -> list[Path]:
    """A table itself; of a folder its `metadata.*` tables, else its parquet and arrow files."""
    if not path.is_dir():
        return [path]
    found = [p for p in files_below(path, TABLES) if not p.name.startswith("cache-")]  # what `datasets` left of earlier work
    return [p for p in found if p.stem == "metadata"] or [p for p in found if p.suffix in (".parquet", ".arrow")]


def _open(file: Path, columns: Sequence[str]) -> Table:
    table = Table.open(file)
    if table.columns and not {"image", "file_name"} & set(table.columns):
        table.need("file_name" if file.stem == "metadata" else "image")
    if table.columns and not set(columns) & set(table.columns):
        table.need(columns[0])
    return table


def known_parameters(values: Mapping[str, Any], original: str | None) -> dict[str, Any]:
    """What a row says about its picture beside the texts; `original` is the file's name where the row names none."""
    known = {key: values.get(key) for key in PARAMETERS if key != "license"}
    known["licence"] = known["licence"] or values.get("license")
    known["original"] = known["original"] or original
    return known
