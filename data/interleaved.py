"""Format `interleaved`: documents of pictures and texts in turn, an episode with a timestep for every picture.

    timestep t:  [text before the first picture, at t = 0 alone]  picture t  |  the text that follows it

A row of a table has `images` and `texts`, lists of one length in which exactly one of each pair is null (the layout of
OBELICS). A window of a long document starts at a picture; the text of every picture is a target and ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

from .captions import MAX_TEXT, fit_image, read_image
from .files import DEFAULT_SPLIT, TABLES, Table, files_below, files_digest, inside, named_split, options_digest, split_of, status_digest
from .formats import Dataset
from .left_out import LeftOut
from .pictures import LICENCE

MAX_PICTURES = 256  # of a document

_PARAMETERS = ("title", "source", "licence", "author")

# what stands before the first picture, and every picture with what stands behind it
Document = tuple[str, list[tuple[object, str]]]


def interleaved_task(name: str, size: tuple[int, int] = (64, 64), licence: str | None = None) -> TaskSpec:
    """Observations `before` (text) and `image` (rows, columns, 3) uint8, in this order; action `text`."""
    before = FieldSpec("before", Modality.TEXT, "observation", dtype="str", path=("before",))
    image = FieldSpec("image", Modality.IMAGE, "observation", (*size, 3), "uint8", path=("image",))
    text = FieldSpec("text", Modality.TEXT, "action", dtype="str", path=("text",))
    return TaskSpec(name=name, fields=(before, image, text), licence=licence)


@dataclass(frozen=True)
class InterleavedReader:
    """Reads documents of pictures and texts in turn from parquet, arrow or JSON-lines tables; those without a picture are counted.

    - `image_size`: rows and columns that every picture is fitted into, such as `[64,64]`.
    - `images`: folder that the file names of pictures start from; each table's own one by default.
    """

    image_size: tuple[int, int] = (64, 64)
    images: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` naming file and row for lists that do not fit each other, and if no document has a picture."""
        left_out = left_out or LeftOut()
        files = files_below(path, TABLES) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} holds no table; expected .parquet, .arrow or .jsonl files with the columns images and texts")
        counts: Counter[str] = Counter()
        named: set[Path] = set()
        for place, row, table in self._rows(files):
            document = _document(row, place)
            if document is None:
                left_out.count("documents without a picture", place)
                continue
            counts[_split(row, table, path, place)] += 1
            for cell, _ in document[1] if not table.is_binary else ():
                named.add(self._named(cell, table, place))
        if not counts:
            raise ValueError(f"{path} holds no document with a picture")
        digest = files_digest(path if path.is_dir() else path.parent, files)
        task = interleaved_task(f"interleaved/{path.stem}", self.image_size, LICENCE)
        return Dataset(
            source=path.name,
            digest=options_digest(digest, pictures=status_digest(path.parent, sorted(named)) if named else None),
            tasks=(task,),
            splits=dict(counts),
            episodes=partial(self._episodes, task, path, files),
            provenance={"format": "interleaved"},
            left_out=left_out,
        )

    def _rows(self, files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any], Table]]:
        for file in files:
            table = Table.open(file)
            table.need("images", "texts")
            yield from ((place, row, table) for place, row in table.rows(("images", "texts", "split", *_PARAMETERS)))

    def _episodes(self, task: TaskSpec, path: Path, files: Sequence[Path], split: str, start: int) -> Iterator[Episode]:
        found = ((place, row, table, _document(row, place)) for place, row, table in self._rows(files))
        wanted = (x for x in found if x[3] and _split(x[1], x[2], path, x[0]) == split)
        for place, row, table, document in islice(wanted, start, None):
            assert document is not None, "chosen above"
            before, parts = document
            try:
                pictures = [fit_image(read_image(self._picture(cell, table, place)), self.image_size) for cell, _ in parts]
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
            yield Episode(
                task=task,
                observations={"before": np.array([before] + [""] * (len(parts) - 1), object), "image": np.stack(pictures)},
                actions={"text": np.array([text for _, text in parts], object)},
                rewards=np.zeros(len(parts), np.float32),
                terminated=True,
                behaviour="human",
                parameters={k: row[k] for k in _PARAMETERS if row.get(k) is not None},
            )

    def _picture(self, cell: object, table: Table, place: str) -> bytes | Path:
        """Encoded bytes, or a file inside the folder of pictures; `datasets` writes {bytes, path}."""
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        return cell if isinstance(cell, bytes) else self._named(cell, table, place)

    def _named(self, cell: object, table: Table, place: str) -> Path:
        picture = inside(self.images or table.path.parent, cell, place)
        if not picture.is_file():
            raise ValueError(f"{place}: picture {picture} is missing; restore it or take the row out")
        return picture


def _split(row: Mapping[str, Any], table: Table, path: Path, place: str) -> str:
    name = table.path.relative_to(path) if path.is_dir() else Path(table.path.name)
    return named_split(row.get("split"), place) or split_of(name) or DEFAULT_SPLIT


def _document(row: Mapping[str, Any], place: str) -> Document | None:
    """`None` where there is no picture. Texts that follow each other are paragraphs of one."""
    images, texts = row.get("images"), row.get("texts")
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
        raise ValueError(f"{place}: images and texts are not two lists of one length")
    before: list[str] = []
    parts: list[tuple[object, list[str]]] = []
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None) or not isinstance(text, str | None):
            raise ValueError(f"{place}: entry {number} is not either a picture or a text; set the other one to null")
        if text is None:
            parts.append((image, []))
        else:
            (parts[-1][1] if parts else before).append(text)
    if len(parts) > MAX_PICTURES:
        raise ValueError(f"{place}: the document has {len(parts)} pictures, more than {MAX_PICTURES}; break it up")
    if sum(map(len, (t for t in texts if t))) > MAX_TEXT:
        raise ValueError(f"{place}: the document has more than {MAX_TEXT} characters; break it up")
    return ("\n\n".join(before), [(image, "\n\n".join(said)) for image, said in parts]) if parts else None
