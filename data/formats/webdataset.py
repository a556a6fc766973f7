"""Format `webdataset`: tar shards in which consecutive members of one key are a sample.

    train-000000.tar:  000/cat.jpg 000/cat.txt | 000/dog.png 000/dog.json | ...

The key is a member's name up to the first dot after the last slash. A caption is `KEY.txt`, a key of `KEY.json`,
or the class of `KEY.cls`. Nothing is extracted: headers are read one after the other, contents are read
in place, and a shard that could harm whoever extracts it is refused all the same.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from gato.picture import MAX_BYTES, SUFFIXES
from gato.setting import MAX_SIDE, Settings, bounded
from gato.words import caption_task

from .dataset import Dataset
from .files import DEFAULT_SPLIT, count_others, files_below, options_digest, shown, split_of, status_digest
from .left_out import LeftOut
from .lines import json_object, lines, packing_of
from .picture_row import PictureRow
from .picture_table import known_parameters
from .pictures import CAPTION_COLUMNS, LICENCE, picture_dataset, row_captions
from .words import words

MAX_SHARDS = 100_000
MAX_TEXT_BYTES = 2**20  # of a member with a caption

_PICTURES = tuple(suffix[1:] for suffix in SUFFIXES)
_CAPTIONS = ("txt", "json", "cls")  # the first one there is the caption
_DOTS = "members with further dots in their names (rename them: the key ends at the first dot)"
_APART = "parts of samples that lie apart among members of equal names (make the shard anew with tar --sort=name)"
_MAX_HEADER_BYTES = 2**20  # of an extended header; tarfile would believe any length
_BLOCK = 512


@dataclass(frozen=True)
class WebdatasetReader(Settings):
    """Reads captioned pictures from tar shards: a file, a folder, or a pattern such as `train-{000000..000099}.tar`.

    - `image_size`: rows and columns that every picture is fitted into, such as `[64,64]`.
    - `caption_key`: under which a `.json` member has the caption; `caption` or else `text` by default.
    - `classes`: file with a class name per line, for shards whose captions are class numbers.
    """

    image_size: tuple[int, int] = bounded((64, 64), 1, MAX_SIDE)
    caption_key: str | None = None
    classes: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` naming shard and member of what is cut, unsafe or too large, and if there is no sample."""
        classes = [text.strip() for _, text in lines(self.classes)] if self.classes else None
        left_out = left_out or LeftOut()
        shards = Shards(path, self.caption_key, classes, left_out)
        name = shown(re.sub(r"[^\w.]*\{.*", "", path.stem) or path.parent.name)
        caption_key = None if self.caption_key == "caption" else self.caption_key
        return picture_dataset(
            path, caption_task(f"captions/{name}", self.image_size, LICENCE), shards, left_out,
            caption_key=caption_key, classes=None if classes is None else str(classes),
        )  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Where in a shard the members of a sample lie: `{suffix: (offset, size)}` of the known suffixes."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]

    @property
    def place(self) -> str:
        return f"{self.shard}, sample '{self.key}'"

    @property
    def picture(self) -> str | None:
        return next((s for s in self.members if s in _PICTURES), None)

    @property
    def caption(self) -> str | None:
        return next((s for s in _CAPTIONS if s in self.members), None)

    @property
    def is_whole(self) -> bool:
        return self.picture is not None and self.caption is not None


class Shards:
    """The samples of all shards; opening reads their headers and captions once, `rows` reads contents in place."""

    layout = "webdataset"

    def __init__(self, path: Path, caption_key: str | None, classes: Sequence[str] | None, left_out: LeftOut) -> None:
        self._columns = (caption_key,) if caption_key else CAPTION_COLUMNS
        self._classes, self._left_out = classes, left_out
        self._shards = shard_files(path)
        folder = path if path.is_dir() else path.parent
        self._splits = [split_of(s.relative_to(folder) if path.is_dir() else Path(s.name)) or DEFAULT_SPLIT for s in self._shards]
        names = hashlib.sha256()
        self._counts = [self._count(shard, names) for shard in self._shards]
        totals: Counter[str] = Counter()
        for split, count in zip(self._splits, self._counts, strict=True):
            totals[split] += count
        self.splits = dict(+totals)
        self.digest = options_digest(status_digest(folder, self._shards), members=names.hexdigest())
        if path.is_dir():
            count_others(path, self._shards, left_out)

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        for shard, of_split, count in zip(self._shards, self._splits, self._counts, strict=True):
            if of_split != split or start >= count:
                start -= count if of_split == split else 0
                continue
            with open(shard, "rb") as file:
                for sample in samples(shard, file, self._left_out, is_counting=False):
                    with self._left_out.one_row():
                        captions, known = self._captions(file, sample)
                        for caption in captions:
                            if start == 0:
                                yield self._row(file, sample, caption, known)
                            start -= start > 0

    def _count(self, shard: Path, names: Any) -> int:
        count = 0
        with open(shard, "rb") as file:
            for sample in samples(shard, file, self._left_out, is_counting=True):
                names.update(f"{sample.key} {sample.members}\n".encode(errors="surrogateescape"))
                with self._left_out.one_row():
                    captions, _ = self._captions(file, sample)
                    self._left_out.count("samples with a blank caption", sample.place, not captions)
                    count += len(captions)
        return count

    def _captions(self, file: BinaryIO, sample: Sample) -> tuple[list[str], dict[str, Any]]:
        """The captions of a sample that have words, and what is known of its picture."""
        said = json_object(_text(file, sample, "json"), f"{sample.place}: .json") if "json" in sample.members else {}
        original = shown(f"{sample.key}.{sample.picture}")
        known = known_parameters({"source": said.get("url"), **said}, original, sample.place)
        if sample.caption == "json":
            if not set(self._columns) & set(said):
                has = ", ".join(sorted(said)[:20]) or "nothing"
                raise ValueError(f"{sample.place}: its .json has no '{self._columns[0]}' but {has}; name it with --caption_key")
            try:
                found = [texts["caption"] for texts, _ in row_captions(self._columns, said)]
            except ValueError as error:
                raise ValueError(f"{sample.place}: {error}".replace("--caption_column", "--caption_key")) from None
        else:
            assert sample.caption is not None
            text = _text(file, sample, sample.caption).strip()
            if "\0" in text:
                raise ValueError(f"{sample.place}: .{sample.caption} holds a null byte, so it is no text; take the sample out")
            found = [words(self._class_name(text, sample) if sample.caption == "cls" else text, f"{sample.place}: the caption")]
        return [caption for caption in found if caption is not None], known

    def _row(self, file: BinaryIO, sample: Sample, caption: str, known: dict[str, Any]) -> PictureRow:
        picture: object
        try:
            picture = _content(file, sample, str(sample.picture), MAX_BYTES)
        except ValueError as error:
            picture = error
        return PictureRow(sample.place, picture, {"caption": caption}, known)

    def _class_name(self, text: str, sample: Sample) -> str:
        if not text.isdecimal():
            return text
        if self._classes is None:
            raise ValueError(f"{sample.place}: its caption is the class number {text[:20]}; give the classes' names with --classes FILE")
        if len(text) > 9 or int(text) >= len(self._classes):
            raise ValueError(f"{sample.place}: its class number is {text[:20]}, but there are {len(self._classes)} names of classes")
        return self._classes[int(text)]


def shard_files(path: Path) -> list[Path]:
    """The shards of a file, a folder or a brace pattern. **Raises:** `ValueError` naming one that is missing, or packed."""
    found = files_below(path, [".tar", ".tgz"]) if path.is_dir() else [Path(name) for name in expand_braces(str(path))]
    if not found:
        raise ValueError(f"{path} holds no .tar files")
    for shard in found:
        if not shard.exists():
            raise ValueError(f"{shard} does not exist" + (f" (pattern {path.name}, {len(found)} shards)" if len(found) > 1 else ""))
        if not shard.is_file():
            raise ValueError(f"{shard} is no file")
        with open(shard, "rb") as file:
            packing = packing_of(file.read(8))
        if packing or re.search(r"\.(tgz|tar\.\w+)$", shard.name, re.IGNORECASE):
            what = f"{shard} is compressed" + f" with {packing}" * bool(packing)
            raise ValueError(f"{what}, so that no place in it can be reached directly; unpack it to a plain .tar first")
    return found


def expand_braces(pattern: str) -> list[str]:
    """`a-{00..02}.tar` and `{a,b}.tar` as lists, in order, as a shell does it.

    **Raises:** `ValueError` for more than `MAX_SHARDS` names.
    """
    found = re.search(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}", pattern)
    if not found:
        return [pattern]
    first, last, names = found.groups()
    if names is None and int(last) - int(first) >= MAX_SHARDS:
        raise ValueError(f"pattern {pattern} stands for more than {MAX_SHARDS} shards; import it in parts")
    width = len(first or "")
    parts = names.split(",") if names is not None else [f"{k:0{width}d}" for k in range(int(first), int(last) + 1)]
    rest = expand_braces(pattern[found.end() :])
    if len(parts) * len(rest) > MAX_SHARDS:
        raise ValueError(f"pattern {pattern} stands for more than {MAX_SHARDS} shards; import it in parts")
    return [pattern[: found.start()] + part + tail for part in parts for tail in rest]


def samples(shard: Path, file: BinaryIO, left_out: LeftOut, is_counting: bool) -> list[Sample]:
    """The samples of a shard that have a picture and a caption, from its headers alone.

    Members of a key that do not lie together, as where the shard was not made in order, are put together if every member of the
    shard has a name of its own; else the shard was put together of others, and a key may mean several samples.

    **Arguments:** `is_counting`: whether what is passed over is counted in `left_out`; it takes bad samples always.

    **Raises:** `ValueError` for a shard that is cut or no tar file, and for a path that leads out of the folder.
    """
    runs = [run for run in _runs(shard, file, left_out, is_counting) if run.members]
    found = runs
    if not all(run.is_whole for run in runs):
        names = Counter((run.key, suffix) for run in runs for suffix in run.members)
        if max(names.values()) == 1:
            by_key: dict[str, Sample] = {}
            for run in runs:
                members = {**by_key[run.key].members, **run.members} if run.key in by_key else run.members
                by_key[run.key] = Sample(shard, run.key, members)
            found = list(by_key.values())
    apart = {key for key, count in Counter(run.key for run in found if not run.is_whole).items() if count > 1}
    for sample in found if is_counting else ():
        if not sample.is_whole:
            lacking = "samples without a caption" if sample.picture else "samples without a picture"
            left_out.count(_APART if sample.key in apart else lacking, sample.place)
    return [sample for sample in found if sample.is_whole and _has_one_picture(sample, left_out)]


def _has_one_picture(sample: Sample, left_out: LeftOut) -> bool:
    pictures = [suffix for suffix in sample.members if suffix in _PICTURES]
    if len(pictures) > 1:
        left_out.row(ValueError(f"{sample.place} has two members .{pictures[0]} and .{pictures[1]}; keep one"))
    return len(pictures) == 1


def _runs(shard: Path, file: BinaryIO, left_out: LeftOut, is_counting: bool) -> Iterator[Sample]:
    """Consecutive members of one key."""
    sample, is_bad = Sample(shard, "", {}), False
    for member in _members(shard, file, left_out):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
        if not stem or suffix not in (*_PICTURES, *_CAPTIONS):
            if is_counting:
                has_dots = stem and suffix.rpartition(".")[2] in (*_PICTURES, *_CAPTIONS)
                left_out.count(_DOTS if has_dots else "members that are no picture and no caption", f"{shard}: {shown(member.name)}")
            continue
        if key != sample.key:
            yield sample
            sample, is_bad = Sample(shard, key, {}), False
        if suffix in sample.members:
            left_out.row(ValueError(f"{sample.place} has two members .{suffix} and .{suffix}; keep one"))
            sample.members.clear()
            is_bad = True
        if not is_bad:
            sample.members[suffix] = member.offset_data, member.size
    yield sample


class _Headers:
    """What tarfile may read of a shard: headers. A forged length must not make it read the whole file, or go back."""

    def __init__(self, file: BinaryIO) -> None:
        self.tell, self.seek, self._read = file.tell, file.seek, file.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header says that it has {size} bytes")
        return self._read(size)


def _members(shard: Path, file: BinaryIO, left_out: LeftOut) -> Iterator[tarfile.TarInfo]:
    """The regular files of a shard, checked; others but folders go to `left_out`."""
    end = file.seek(0, 2)
    file.seek(0)
    headers: Any = _Headers(file)
    tar = _unless_damaged(shard, lambda: tarfile.open(str(shard), "r:", fileobj=headers, encoding="utf-8", errors="surrogateescape"))
    while (member := _unless_damaged(shard, tar.next)) is not None:
        tar.members.clear()  # else it remembers them all
        _check(shard, member, end)
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse():
            yield member
        elif not member.isdir():
            what = "a link" if member.islnk() or member.issym() else "a device or a sparse file"
            left_out.row(ValueError(f"{shard}: member '{shown(member.name)}' is {what}; expected plain files, make the shard anew"))
    file.seek(tar.offset)
    rest = file.read(20 * _BLOCK)  # where tarfile stops without an end mark, it stops silently
    if len(rest) < _BLOCK or rest.strip(b"\0"):
        raise ValueError(f"{shard} has no end mark at byte {tar.offset} of {end}, so it is cut or damaged; copy it again")


def _unless_damaged(shard: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (tarfile.TarError, ValueError, ArithmeticError, RecursionError, OSError) as error:
        raise ValueError(f"{shard} is cut or no tar file: {error}; copy it again") from None


def _check(shard: Path, member: tarfile.TarInfo, end: int) -> None:
    label = f"{shard}: member '{shown(member.name)}'"
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", member.name):
        raise ValueError(f"{label} leads out of the shard; such a shard is not to be trusted, make it anew")
    if member.isdir():
        return
    if member.size < 0 or member.offset_data + member.size > end:
        raise ValueError(f"{label} ends at byte {member.offset_data + member.size}, but the shard has {end}: it is cut; copy it again")


def _content(file: BinaryIO, sample: Sample, suffix: str, limit: int) -> bytes:
    offset, size = sample.members[suffix]
    if size > limit:
        raise ValueError(f"{sample.place}: .{suffix} has {size} bytes, more than {limit}; make it smaller or leave the sample out")
    file.seek(offset)
    return file.read(size)


def _text(file: BinaryIO, sample: Sample, suffix: str) -> str:
    try:
        return _content(file, sample, suffix, MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{sample.place}: .{suffix} is not UTF-8 at byte {error.start}: {error.reason}; convert it first") from None
