"""Format `pictures`: captioned pictures in the layouts that people keep them in.

| layout | what lies there |
| --- | --- |
| table | parquet, arrow (as `datasets` saves it) or JSON-lines files with a picture and a caption per row |
| image folder | `metadata.jsonl` or `metadata.csv` beside the pictures, with `file_name` and a caption |
| COCO | `captions_*.json`, whose pictures lie in a folder of their own |
| plain folder | `NAME.txt` beside each `NAME.png` |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from gato.spec import TaskSpec

from .captions import MAX_TEXT, SUFFIXES, PictureRow, caption_task, picture_episode
from .files import DEFAULT_SPLIT, files_below, files_digest, inside, lines, load_json, objects, options_digest, split_of, status_digest
from .formats import Dataset
from .left_out import LeftOut
from .picture_table import PictureTable, table_files

LICENCE = "per picture, see the episodes' parameters"


class Pictures(Protocol):
    """Pictures with texts in one of the layouts; opening them counts what has no text or no picture."""

    layout: str
    digest: str

    @property
    def splits(self) -> Mapping[str, int]: ...

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        """The rows of a split from place `start` on; the pictures before it are not read."""


def picture_dataset(path: Path, task: TaskSpec, pictures: Pictures, left_out: LeftOut, **options: str | None) -> Dataset:
    """The dataset of these pictures; `options`: those that change its episodes, `None` where they are not given.

    **Raises:** `ValueError` if there are no pictures.
    """
    if not pictures.splits:
        what = "; ".join(left_out.lines()) or "nothing was left out"
        raise ValueError(f"{path} holds no picture with text ({pictures.layout}); {what}")
    return Dataset(
        source=path.name,
        digest=options_digest(pictures.digest, **options),
        tasks=(task,),
        splits=pictures.splits,
        episodes=lambda split, start: left_out.made(pictures.rows(split, start), partial(picture_episode, task)),
        provenance={"format": pictures.layout, **options},
        left_out=left_out,
    )


@dataclass(frozen=True)
class PicturesReader:
    """Reads captioned pictures from tables, an image folder, COCO's captions or a plain folder.

    - `image_size`: rows and columns that every picture is fitted into, such as `[64,64]`.
    - `caption_column`: of a table or of metadata; `caption` or else `text` by default.
    - `captions`: `each` makes an episode of every caption of a picture, `first` of its first one alone.
    - `images`: folder that the file names of COCO's annotations and of tables start from.
    """

    image_size: tuple[int, int] = (64, 64)
    caption_column: str | None = None
    captions: Literal["each", "first"] = "each"
    images: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` if `path` is none of the layouts, or holds no captioned picture."""
        left_out = left_out or LeftOut()
        task = caption_task(f"captions/{path.stem}", self.image_size, LICENCE)
        only_first = "first" if self.captions == "first" else None
        pictures = self._pictures(path, left_out)
        return picture_dataset(path, task, pictures, left_out, caption_column=self.caption_column, captions=only_first)

    def _pictures(self, path: Path, left_out: LeftOut) -> Pictures:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        coco = coco_files(path) if path.is_dir() else [path] * (path.suffix == ".json")
        if coco:
            return CocoCaptions(coco, self.images, self.captions == "first", left_out)
        if table_files(path):
            columns = (self.caption_column,) if self.caption_column else ("caption", "text")
            return PictureTable(path, columns, partial(self._texts, columns), left_out, self.images)
        return PlainFolder(path, left_out)

    def _texts(self, columns: Sequence[str], values: Mapping[str, Any]) -> list[tuple[dict[str, object], dict[str, Any]]]:
        found = [values[column] for column in columns if column in values]
        if not found:
            raise ValueError(f"there is no '{columns[0]}'; name the caption's key with --caption_column")
        captions = found[0] if isinstance(found[0], list) else found[:1]
        return [({"caption": c}, {}) for c in captions[: 1 if self.captions == "first" else None]]


class CocoCaptions:
    """COCO's annotations of captions: `images` with file names, and `annotations` with a caption each.

    An annotation is an episode, in the file's order; with `only_first`, only the first one of a picture is.

    **Raises:** `ValueError` for files that are no such annotations, or annotations of an unknown picture.
    """

    layout = "COCO captions"

    def __init__(self, files: Sequence[Path], images: Path | None, only_first: bool, left_out: LeftOut) -> None:
        self._rows: dict[str, list[tuple[str, Path, object, Mapping[str, Any]]]] = {}
        self._left_out = left_out
        for file in files:
            rows = self._rows.setdefault(split_of(Path(file.name)) or DEFAULT_SPLIT, [])
            rows += self._read(file, _coco_folder(file, images), only_first)
        self.splits = {split: len(rows) for split, rows in self._rows.items() if rows}
        self.digest = files_digest(files[0].parent, files)

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        for place, picture, caption, parameters in self._rows[split][start:]:
            yield PictureRow(place, picture, {"caption": caption}, parameters)

    def _read(self, file: Path, folder: Path, only_first: bool) -> Iterator[tuple[str, Path, object, Mapping[str, Any]]]:
        content = load_json(file)
        licences = {x.get("id"): x.get("name") for x in content.get("licenses") or [] if isinstance(x, dict)}
        pictures: dict[Any, tuple[Path, dict[str, Any]]] = {}
        for number, x in enumerate(objects(content, "images", file)):
            picture = inside(folder, x.get("file_name"), f"{file}, image {number}")
            known = {"original": x["file_name"], "licence": licences.get(x.get("license")), "source": x.get("coco_url")}
            pictures[x.get("id")] = picture, known
        captioned = set()
        for number, annotation in enumerate(objects(content, "annotations", file)):
            place, key = f"{file}, annotation {number}", annotation.get("image_id")
            if key not in pictures:
                raise ValueError(f"{place} is of picture {key!r}, which is not among the {len(pictures)} images; repair the file")
            if only_first and key in captioned:
                self._left_out.count("further captions", place)
                continue
            captioned.add(key)
            yield place, pictures[key][0], annotation.get("caption"), pictures[key][1]
        for key, (picture, _) in pictures.items():
            if key not in captioned:
                self._left_out.count("pictures without a caption", picture)


class PlainFolder:
    """Pictures whose captions stand in a `.txt` file of the same name beside them.

    **Raises:** `ValueError` if there is not a single one.
    """

    layout = "plain folder"

    def __init__(self, folder: Path, left_out: LeftOut) -> None:
        found = files_below(folder, SUFFIXES)
        self._folder = folder
        self._pictures = [p for p in found if p.with_suffix(".txt").is_file()]
        if not self._pictures:
            raise ValueError(
                f"{folder} holds {len(found)} pictures and no caption; expected NAME.txt beside NAME.png, metadata.jsonl or "
                "metadata.csv beside the pictures, annotations/captions_*.json, or .parquet or .arrow files"
            )
        captions = sorted({p.with_suffix(".txt") for p in self._pictures})
        self.digest = status_digest(folder, [*self._pictures, *captions])
        self.splits = dict(Counter(self._split(p) for p in self._pictures))
        for picture in sorted(set(found) - set(self._pictures)):
            left_out.count("pictures without a caption", picture)

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        for picture in [p for p in self._pictures if self._split(p) == split][start:]:
            name = picture.relative_to(self._folder).as_posix()
            yield PictureRow(str(picture), picture, {"caption": _caption(picture.with_suffix(".txt"))}, {"original": name})

    def _split(self, picture: Path) -> str:
        return split_of(picture.relative_to(self._folder), by_name=False) or DEFAULT_SPLIT


def coco_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("captions_*.json"), *folder.glob("annotations/captions_*.json")])


def _coco_folder(file: Path, images: Path | None) -> Path:
    """Where the pictures of `captions_train2017.json` lie: in a folder `train2017` if there is one."""
    name = file.stem.removeprefix("captions_")
    candidates = [images / name, images] if images else [file.parent.parent / name, file.parent / name, file.parent]
    found = next((c for c in candidates if c.is_dir()), None)
    if found is None:
        raise ValueError(f"there is no folder {images}; name the pictures' folder with --images")
    return found


def _caption(path: Path) -> str:
    if path.stat().st_size > 4 * MAX_TEXT:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than a caption of {MAX_TEXT} characters takes; shorten it")
    return "".join(text for _, text in lines(path)).strip()
