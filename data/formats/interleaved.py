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
from gato.picture import SUFFIXES, fit_image, read_frame
from gato.setting import MAX_SIDE, Settings, bounded
from gato.spec import FieldSpec, Modality, TaskSpec

from .dataset import Dataset
from .files import (
    DEFAULT_SPLIT,
    count_others,
    files_below,
    files_digest,
    inside,
    named_split,
    options_digest,
    shown,
    split_of,
    status_digest,
)
from .left_out import LeftOut
from .lines import stem_of
from .pictures import LICENCE
from .source_table import TABLES, SourceTable
from .words import MAX_TEXT, sayings, words

MAX_PICTURES = 256  # of a document

_PARAMETERS = ("title", "source", "licence", "author")


@dataclass(frozen=True)
class Document:
    """A document whose pictures are not decoded yet.

    - `before`: what stands before the first picture; `parts`: every picture, with what stands behind it.
    """

    place: str
    split: str
    before: str
    parts: list[tuple[bytes | Path, str]]
    parameters: Mapping[str, Any]

    @property
    def has_words(self) -> bool:
        return bool(self.before or any(text for _, text in self.parts))


def interleaved_task(name: str, size: tuple[int, int] = (64, 64), licence: str | None = None) -> TaskSpec:
    """Observations `before` (text) and `image` (rows, columns, 3) uint8, in this order; action `text`."""
    before = FieldSpec("before", Modality.TEXT, "observation", dtype="str", path=("before",))
    image = FieldSpec("image", Modality.IMAGE, "observation", (*size, 3), "uint8", path=("image",))
    text = FieldSpec("text", Modality.TEXT, "action", dtype="str", path=("text",))
    return TaskSpec(name=name, fields=(before, image, text), licence=licence)


@dataclass(frozen=True)
class InterleavedReader(Settings):
    """Reads documents of pictures and texts in turn from parquet, arrow or JSON-lines tables; those without a picture are counted.

    - `image_size`: rows and columns that every picture is fitted into, such as `[64,64]`.
    - `images`: folder that the file names of pictures start from; each table's own one by default.
    """

    image_size: tuple[int, int] = bounded((64, 64), 1, MAX_SIDE)
    images: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` naming file and row for lists that do not fit each other, and if no document has a picture."""
        left_out = left_out or LeftOut()
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        files = files_below(path, TABLES) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} holds no table; expected .parquet, .arrow or .jsonl files with the columns images and texts")
        counts: Counter[str] = Counter()
        named: set[Path] = set()
        for document in self._documents(path, files, left_out):
            if not document.parts:
                left_out.count("documents without a picture", document.place)
            elif not document.has_words:
                left_out.count("documents without words", document.place)
            else:
                counts[document.split] += 1
                named.update(picture for picture, _ in document.parts if isinstance(picture, Path))
        if not counts:
            raise ValueError(f"{path} holds no document with a picture and words; {left_out.summary()}")
        count_others(path, [*files, *named], left_out, SUFFIXES, "pictures that no document names") if path.is_dir() else None
        digest = files_digest(path if path.is_dir() else path.parent, files)
        task = interleaved_task(f"interleaved/{shown(stem_of(path))}", self.image_size, LICENCE)
        return Dataset(
            source=path.name,
            digest=options_digest(digest, pictures=status_digest(path.parent, sorted(named)) if named else None),
            tasks=(task,),
            splits=dict(counts),
            episodes=lambda split, start: left_out.made(
                islice(self._wanted(path, files, left_out, split), start, None), partial(self._episode, task, left_out)
            ),
            provenance={"format": "interleaved"},
            left_out=left_out,
        )

    def _wanted(self, path: Path, files: Sequence[Path], left_out: LeftOut, split: str) -> Iterator[Document]:
        found = self._documents(path, files, left_out)
        return (document for document in found if document.split == split and document.parts and document.has_words)

    def _documents(self, path: Path, files: Sequence[Path], left_out: LeftOut) -> Iterator[Document]:
        """Every document; those whose lists or pictures' names are wrong go to `left_out`."""
        for file in files:
            table = SourceTable.open(file)
            table.need("images", "texts")
            by_name = split_of(file.relative_to(path) if path.is_dir() else Path(file.name)) or DEFAULT_SPLIT
            for place, row in table.rows(("images", "texts", "split", *_PARAMETERS), left_out=left_out):
                with left_out.one_row():
                    before, parts = _parts(row, place)
                    pictures = [(self._picture(cell, file.parent, place), text) for cell, text in parts]
                    split = named_split(row.get("split"), place) or by_name
                    yield Document(place, split, before, pictures, sayings(row, _PARAMETERS, place))

    def _episode(self, task: TaskSpec, left_out: LeftOut, document: Document) -> Episode:
        parts = document.parts
        try:
            frames = [read_frame(picture) for picture, _ in parts]
        except ValueError as error:
            raise ValueError(f"{document.place}: {error}") from None
        pictures = [fit_image(frame, self.image_size) for frame, _ in frames]
        left_out.count("animations of which the first picture alone is kept", document.place, sum(moves for _, moves in frames))
        return Episode(
            task=task,
            observations={"before": np.array([document.before] + [""] * (len(parts) - 1), object), "image": np.stack(pictures)},
            actions={"text": np.array([text for _, text in parts], object)},
            rewards=np.zeros(len(parts), np.float32),
            terminated=True,
            behaviour="human",
            parameters=document.parameters,
        )

    def _picture(self, cell: object, folder: Path, place: str) -> bytes | Path:
        """Encoded bytes, or a file inside the folder of pictures; `datasets` writes {bytes, path}."""
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes):
            return cell
        picture = inside(self.images or folder, cell, place)
        if not picture.is_file():
            raise ValueError(f"{place}: picture {picture} is missing; restore it or take the row out")
        return picture


def _parts(row: Mapping[str, Any], place: str) -> tuple[str, list[tuple[object, str]]]:
    """What stands before the first picture, and every picture with what stands behind it.

    Texts that follow each other are paragraphs of one.
    """
    images, texts = row.get("images"), row.get("texts")
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
        raise ValueError(f"{place}: images and texts are not two lists of one length")
    before: list[str] = []
    parts: list[tuple[object, list[str]]] = []
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        said = words(text, f"{place}: text {number}")
        if (image is None) == (text is None):
            raise ValueError(f"{place}: entry {number} is not either a picture or a text; set the other one to null")
        if image is not None:
            parts.append((image, []))
        elif said is not None:
            (parts[-1][1] if parts else before).append(said)
    if len(parts) > MAX_PICTURES:
        raise ValueError(f"{place}: the document has {len(parts)} pictures, more than {MAX_PICTURES}; break it up")
    if sum(map(len, [*before, *(text for _, said in parts for text in said)])) > MAX_TEXT:
        raise ValueError(f"{place}: the document has more than {MAX_TEXT} characters; break it up")
    return "\n\n".join(before), [(image, "\n\n".join(said)) for image, said in parts]
