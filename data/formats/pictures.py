"""Format `pictures`: captioned pictures in the layouts that people keep them in.

| layout | what lies there |
| --- | --- |
| table | parquet, arrow (as `datasets` saves it) or JSON-lines files with a picture and a caption per row |
| image folder | `metadata.jsonl` or `metadata.csv` beside the pictures, with `file_name` and a caption |
| COCO | `captions_*.json`, whose pictures lie in a folder of their own |
| plain folder | `NAME.txt` beside each `NAME.png` |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from gato.episode import Episode
from gato.picture import SUFFIXES
from gato.setting import MAX_SIDE, Settings, bounded
from gato.spec import TaskSpec
from gato.words import caption_task

from .annotations import identity, objects
from .dataset import Dataset
from .files import DEFAULT_SPLIT, count_others, files_below, files_digest, inside, options_digest, shown, split_of, status_digest
from .left_out import LeftOut
from .lines import load_json, refuse_undecoded, stem_of, suffix_of, whole_text
from .picture_row import PictureRow, picture_episode
from .picture_table import PictureTable, table_files
from .words import MAX_TEXT, listed, sayings, words

# the first one that a row has; of those behind the second one, the only one
CAPTION_COLUMNS = (
    "caption", "text", "captions", "texts", "sentence", "sentences", "description", "alt_text", "prompt", "Caption", "Text", "TEXT",
)  # fmt: skip
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
        raise ValueError(f"{path} holds no picture with text ({pictures.layout}); {left_out.summary()}")
    return Dataset(
        source=path.name,
        digest=options_digest(pictures.digest, **options),
        tasks=(task,),
        splits=pictures.splits,
        episodes=lambda split, start: left_out.made(pictures.rows(split, start), partial(_episode, task, left_out)),
        provenance={"format": pictures.layout, **options},
        left_out=left_out,
    )


def _episode(task: TaskSpec, left_out: LeftOut, row: PictureRow) -> Episode:
    episode = picture_episode(task, row)
    left_out.count("animations of which the first picture alone is kept", row.place, bool(episode.parameters.get("animated")))
    return episode


@dataclass(frozen=True)
class PicturesReader(Settings):
    """Reads captioned pictures from tables, an image folder, COCO's captions or a plain folder.

    - `image_size`: rows and columns that every picture is fitted into, such as `[64,64]`.
    - `caption_column`: of a table or of metadata; `caption` or else `text` by default.
    - `captions`: `each` makes an episode of every caption of a picture, `first` of its first one alone.
    - `images`: folder that the file names of COCO's annotations and of tables start from.
    """

    image_size: tuple[int, int] = bounded((64, 64), 1, MAX_SIDE)
    caption_column: str | None = None
    captions: Literal["each", "first"] = "each"
    images: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` if `path` is none of the layouts, or holds no captioned picture."""
        left_out = left_out or LeftOut()
        task = caption_task(f"captions/{shown(stem_of(path))}", self.image_size, LICENCE)
        only_first = "first" if self.captions == "first" else None
        pictures = self._pictures(path, left_out)
        return picture_dataset(path, task, pictures, left_out, caption_column=self.caption_column, captions=only_first)

    def _pictures(self, path: Path, left_out: LeftOut) -> Pictures:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        only_first = self.captions == "first"
        coco = coco_files(path) if path.is_dir() else [path] * (suffix_of(path) == ".json")
        if coco:
            pictures = CocoCaptions(coco, self.images, only_first, left_out)
            if path.is_dir():
                count_others(path, [*coco, *pictures.named], left_out, SUFFIXES, "pictures that no annotation names")
            return pictures
        if table_files(path):
            columns = (self.caption_column,) if self.caption_column else CAPTION_COLUMNS
            return PictureTable(path, columns, partial(row_captions, columns), left_out, self.images, only_first)
        return PlainFolder(path, left_out)


def row_captions(columns: Sequence[str], values: Mapping[str, Any]) -> list[tuple[dict[str, str | None], dict[str, Any]]]:
    """A row's captions: in the first of `caption` and `text`, else in the only other column that may be one."""
    found = [column for column in columns if column in values]
    if not found:
        raise ValueError(f"there is no '{columns[0]}'; name the caption's key with --caption_column")
    if len(found) > 1 and found[0] not in CAPTION_COLUMNS[:2]:
        raise ValueError(f"the caption may be any of {found}; name its key with --caption_column")
    given = listed(values[found[0]])
    captions = given if isinstance(given, list) else [given]
    return [({"caption": words(caption, "the caption")}, {}) for caption in captions]


class CocoCaptions:
    """COCO's annotations of captions: `images` with file names, and `annotations` with a caption each.

    An annotation is an episode, in the file's order; with `only_first`, only the first one of a picture is.
    `named`: the pictures that the files name.

    **Raises:** `ValueError` for files that are no such annotations, for pictures without a number of their own or a file,
    and for annotations of an unknown picture.
    """

    layout = "COCO captions"

    def __init__(self, files: Sequence[Path], images: Path | None, only_first: bool, left_out: LeftOut) -> None:
        self._rows: dict[str, list[PictureRow]] = {}
        self._left_out = left_out
        self.named: set[Path] = set()
        self._bad: set[object] = set()
        for file in files:
            rows = self._rows.setdefault(split_of(Path(file.name)) or DEFAULT_SPLIT, [])
            rows += self._read(file, _coco_folder(file, images), only_first)
        self.splits = {split: len(rows) for split, rows in self._rows.items() if rows}
        self.digest = files_digest(files[0].parent, files)

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        return iter(self._rows[split][start:])

    def _read(self, file: Path, folder: Path, only_first: bool) -> Iterator[PictureRow]:
        content = load_json(file)
        pictures = self._pictures(content, file, folder)
        captioned: set[object] = set()
        for place, annotation in objects(content, "annotations", file, self._left_out):
            with self._left_out.one_row():
                key = identity(annotation, "image_id", place)
                if key in self._bad:
                    self._left_out.count("annotations of skipped pictures", place)
                    continue
                if key not in pictures:
                    raise ValueError(f"{place} is of picture {key!r}, which is not among the {len(pictures)} images; repair the file")
                picture, known = pictures[key]
                if not picture.is_file():
                    self._bad.add(key)
                    raise ValueError(f"{place}: picture {picture} is missing; restore it, or name the pictures' folder with --images")
                caption = words(annotation.get("caption"), f"{place}: the caption")
                if caption is None:
                    self._left_out.count("annotations without a caption", place)
                elif only_first and key in captioned:
                    self._left_out.count("further captions", place)
                else:
                    captioned.add(key)
                    yield PictureRow(place, picture, {"caption": caption}, known)
        for known_key, (picture, _) in pictures.items():
            self._left_out.count("pictures without a caption", picture, known_key not in captioned)

    def _pictures(self, content: Mapping[str, Any], file: Path, folder: Path) -> dict[object, tuple[Path, dict[str, Any]]]:
        """`{id: (file, what is known of it)}`."""
        given = content.get("licenses")
        listed_licences = given if isinstance(given, list) else []
        licences = {x.get("id"): x.get("name") for x in listed_licences if isinstance(x, dict) and isinstance(x.get("id"), int | str)}
        pictures: dict[object, tuple[Path, dict[str, Any]]] = {}
        for place, x in objects(content, "images", file, self._left_out):
            with self._left_out.one_row():
                key = identity(x, "id", place)
                if key in pictures:
                    raise ValueError(f"{place} has the id {key!r} of another picture, {pictures[key][0].name}; give each its own")
                self._bad.add(key)
                picture, licence = inside(folder, x.get("file_name"), place), x.get("license")
                said = {"licence": licences.get(licence) if isinstance(licence, int | str) else None, "source": x.get("coco_url")}
                pictures[key] = picture, sayings({"original": x["file_name"], **said}, ("original", *said), place)
                self.named.add(picture)
                self._bad.remove(key)
        return pictures


class PlainFolder:
    """Pictures whose captions stand in a `.txt` file of the same name beside them.

    **Raises:** `ValueError` if there is not a single one.
    """

    layout = "plain folder"

    def __init__(self, folder: Path, left_out: LeftOut) -> None:
        found, texts = files_below(folder, SUFFIXES), files_below(folder, [".txt"])
        captions = {text.with_suffix(""): text for text in texts}
        pairs = {picture: captions[picture.with_suffix("")] for picture in found if picture.with_suffix("") in captions}
        used = {*pairs, *pairs.values()}
        count_others(folder, {*used, *texts}, left_out, SUFFIXES, "pictures without a caption")
        for text in texts:
            left_out.count("captions without a picture", text, text not in used)
        if not pairs:
            raise ValueError(
                f"{folder} holds {len(found)} pictures and no caption; expected NAME.txt beside NAME.png, metadata.jsonl or metadata.csv "
                "beside the pictures, annotations/captions_*.json, or .parquet or .arrow files; "
                + ("; ".join(left_out.lines()) or "it is empty")
            )
        self.digest = status_digest(folder, [*pairs, *sorted(set(pairs.values()))])
        self._rows: dict[str, list[PictureRow]] = {}
        for picture, text in pairs.items():
            with left_out.one_row():
                caption = words(_caption(text), str(text))
                if caption is None:
                    left_out.count("pictures with a blank caption", picture)
                    continue
                name = picture.relative_to(folder)
                row = PictureRow(str(picture), picture, {"caption": caption}, {"original": shown(name.as_posix())})
                self._rows.setdefault(split_of(name, by_name=False) or DEFAULT_SPLIT, []).append(row)
        self.splits = {split: len(rows) for split, rows in self._rows.items()}

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        return iter(self._rows[split][start:])


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
    text = whole_text(path, MAX_TEXT).strip()
    refuse_undecoded(text, str(path))
    return text
