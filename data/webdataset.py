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

from .captions import MAX_BYTES, SUFFIXES, PictureRow, caption_task
from .files import DEFAULT_SPLIT, files_below, json_object, lines, options_digest, split_of, status_digest
from .formats import Dataset
from .left_out import LeftOut
from .picture_table import known_parameters
from .pictures import LICENCE, picture_dataset

MAX_SHARDS = 100_000
MAX_TEXT_BYTES = 2**20  # of a member with a caption

_PICTURES = tuple(suffix[1:] for suffix in SUFFIXES)
_CAPTIONS = ("txt", "json", "cls")  # the first one there is the caption
_MAX_HEADER_BYTES = 2**20  # of an extended header; tarfile would believe any length
_BLOCK = 512


@dataclass(frozen=True)
class WebdatasetReader:
    """Reads captioned pictures from tar shards: a file, a folder, or a pattern such as `train-{000000..000099}.tar`.

    - `image_size`: rows and columns that every picture is fitted into, such as `[64,64]`.
    - `caption_key`: under which a `.json` member has the caption.
    - `classes`: file with a class name per line, for shards whose captions are class numbers.
    """

    image_size: tuple[int, int] = (64, 64)
    caption_key: str = "caption"
    classes: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` naming shard and member of what is cut, unsafe or too large, and if there is no sample."""
        classes = [text.strip() for _, text in lines(self.classes)] if self.classes else None
        left_out = left_out or LeftOut()
        shards = Shards(path, self.caption_key, classes, left_out)
        name = re.sub(r"[^\w.]*\{.*", "", path.stem) or path.parent.name
        caption_key = None if self.caption_key == "caption" else self.caption_key
        return picture_dataset(
            path, caption_task(f"captions/{name}", self.image_size, LICENCE), shards, left_out,
            caption_key=caption_key, classes=None if classes is None else str(classes),
        )  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Where in a shard the members of a sample lie: `{suffix: (offset, size)}` of the known suffixes."""

    place: str
    key: str
    members: dict[str, tuple[int, int]]

    @property
    def picture(self) -> str | None:
        return next((s for s in self.members if s in _PICTURES), None)

    @property
    def caption(self) -> str | None:
        return next((s for s in _CAPTIONS if s in self.members), None)


class Shards:
    """The samples of all shards; opening reads their headers once, `rows` reads contents in place."""

    layout = "webdataset"

    def __init__(self, path: Path, caption_key: str, classes: Sequence[str] | None, left_out: LeftOut) -> None:
        self._caption_key, self._classes = caption_key, classes
        self._shards = shard_files(path)
        folder = path if path.is_dir() else path.parent
        self._splits = [split_of(s.relative_to(folder) if path.is_dir() else Path(s.name)) or DEFAULT_SPLIT for s in self._shards]
        names = hashlib.sha256()
        self._counts = [self._count(shard, names, left_out) for shard in self._shards]
        totals: Counter[str] = Counter()
        for split, count in zip(self._splits, self._counts, strict=True):
            totals[split] += count
        self.splits = dict(+totals)
        self.digest = options_digest(status_digest(folder, self._shards), members=names.hexdigest())

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        for shard, of_split, count in zip(self._shards, self._splits, self._counts, strict=True):
            if of_split != split or start >= count:
                start -= count if of_split == split else 0
                continue
            with open(shard, "rb") as file:
                for sample in samples(shard, file):
                    if not (sample.picture and sample.caption):
                        continue
                    if start == 0:
                        yield self._row(file, sample)
                    start -= start > 0

    def _count(self, shard: Path, names: Any, left_out: LeftOut) -> int:
        count = 0
        with open(shard, "rb") as file:
            for sample in samples(shard, file):
                names.update(f"{sample.key} {sample.members}\n".encode(errors="surrogateescape"))
                if sample.picture and sample.caption:
                    count += 1
                else:
                    left_out.count("samples without a caption" if sample.picture else "samples without a picture", sample.place)
        return count

    def _row(self, file: BinaryIO, sample: Sample) -> PictureRow:
        assert sample.picture and sample.caption
        known: dict[str, Any] = {}
        if "json" in sample.members:
            known = json_object(_text(file, sample, "json"), f"{sample.place}: .json")
        caption: object
        if sample.caption == "json":
            caption = known.get(self._caption_key)
            if caption is None:
                raise ValueError(f"{sample.place}: its .json has no '{self._caption_key}' but {sorted(known)}; name it with --caption_key")
        else:
            caption = _text(file, sample, sample.caption).strip()
        if sample.caption == "cls":
            caption = self._class_name(str(caption), sample)
        parameters = known_parameters({"source": known.get("url"), **known}, f"{sample.key}.{sample.picture}")
        return PictureRow(sample.place, _content(file, sample, sample.picture, MAX_BYTES), {"caption": caption}, parameters)

    def _class_name(self, text: str, sample: Sample) -> str:
        if not text.isdecimal():
            return text
        if self._classes is None:
            raise ValueError(f"{sample.place}: its caption is the class number {text}; give the classes' names with --classes FILE")
        if len(text) > 9 or int(text) >= len(self._classes):
            raise ValueError(f"{sample.place}: its class number is {text}, but there are {len(self._classes)} names of classes")
        return self._classes[int(text)]


def shard_files(path: Path) -> list[Path]:
    """The shards of a file, a folder or a brace pattern. **Raises:** `ValueError` naming one that is missing."""
    found = files_below(path, [".tar"]) if path.is_dir() else [Path(name) for name in expand_braces(str(path))]
    if not found:
        raise ValueError(f"{path} holds no .tar files")
    for shard in found:
        if re.search(r"\.(tgz|tar\.\w+)$", shard.name):
            raise ValueError(f"{shard} is compressed, so that no place in it can be reached directly; unpack it to a plain .tar first")
        if not shard.is_file():
            raise ValueError(f"{shard} does not exist" + (f" (pattern {path.name}, {len(found)} shards)" if len(found) > 1 else ""))
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


def samples(shard: Path, file: BinaryIO) -> Iterator[Sample]:
    """The samples of a shard, from its headers alone.

    **Raises:** `ValueError` for a shard that is cut or no tar file, and for a link, a device, a path that leads out of
    the folder, or two members of one name.
    """
    sample = Sample("", "", {})
    for member in _members(shard, file):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
        if not stem or suffix not in (*_PICTURES, *_CAPTIONS):
            continue
        if key != sample.key:
            if sample.members:
                yield sample
            sample = Sample(f"{shard}, sample '{key}'", key, {})
        if suffix in sample.members or (suffix in _PICTURES and sample.picture):
            raise ValueError(
                f"{sample.place} has two members .{suffix if suffix in sample.members else sample.picture} and .{suffix}; keep one"
            )
        sample.members[suffix] = member.offset_data, member.size
    if sample.members:
        yield sample


class _Headers:
    """What tarfile may read of a shard: headers. A forged length must not make it read the whole file, or go back."""

    def __init__(self, file: BinaryIO) -> None:
        self.tell, self.seek, self._read = file.tell, file.seek, file.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header says that it has {size} bytes")
        return self._read(size)


def _members(shard: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The regular files of a shard, checked; the file's position may be changed between two of them."""
    end = file.seek(0, 2)
    file.seek(0)
    headers: Any = _Headers(file)
    tar = _unless_damaged(shard, lambda: tarfile.open(str(shard), "r:", fileobj=headers, encoding="utf-8", errors="strict"))
    while (member := _unless_damaged(shard, tar.next)) is not None:
        tar.members.clear()  # else it remembers them all
        _check(shard, member, end)
        if member.isreg():
            yield member
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
    label = f"{shard}: member '{member.name}'"
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", member.name):
        raise ValueError(f"{label} leads out of the shard; such a shard is not to be trusted, make it anew")
    if member.isdir():
        return
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise ValueError(f"{label} is a link, a device or a sparse file; expected plain files, make the shard anew")
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
