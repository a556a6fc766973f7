"""Files that datasets come in: which there are, their split, and one digest over them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

import pyarrow as pa

from .left_out import LeftOut
from .lines import stem_of, suffix_of

MAX_HASHED_BYTES = 2**30

MAX_NAME_BYTES, MAX_PATH = 255, 2048  # what file systems take

DEFAULT_SPLIT = "train"

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}  # fmt: skip
SPLIT_OF_WORD = {word: split for split, words in _SPLITS.items() for word in words}


def split_of(path: PurePath, by_name: bool = True) -> str | None:
    """The split that a file's folders or its name speak of, such as `val2017/` or `train-00000.tar`; `None` if none does.

    **Arguments:** `path`: relative to the dataset's folder; `by_name`: whether the file's own name counts, a picture's does not.
    """
    for folder in path.parts[:-1]:
        if split := SPLIT_OF_WORD.get(folder.lower().rstrip("0123456789")):
            return split
    words = re.split(r"[^a-z]+", stem_of(path).lower()) if by_name else []
    return next((SPLIT_OF_WORD[w] for w in words if w in SPLIT_OF_WORD), None)


def named_split(value: object, place: str) -> str | None:
    """The split that a row names; `None` where it names none.

    **Raises:** `ValueError` if it cannot be the name of a store's folder.
    """
    if value is None or value == "" or value != value:  # not a number: null, as pandas writes it
        return None
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w.-]{0,99}", value):
        raise ValueError(f"{place}: the split is {str(value)[:200]!r}; expected a plain name such as 'train'")
    return value


def inside(folder: Path, name: object, label: str) -> Path:
    """The file `name` of a folder. **Raises:** `ValueError` if it is no text, is empty, or leads out of the folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{label} names the file {name!r}; expected a path inside {folder}")
    if "://" in name:
        raise ValueError(f"{label} names the address {name[:200]!r}; nothing is fetched: download it and name the file")
    try:
        longest = max(map(len, re.split(rb"[/\\]", os.fsencode(name))))
    except UnicodeEncodeError:
        raise ValueError(f"{label} names the file {name[:200]!r}, which no file can be called; repair the name") from None
    if longest > MAX_NAME_BYTES or len(name) > MAX_PATH:
        raise ValueError(f"{label} names the file '{name[:60]}...' of {len(name)} characters, which no file can be called; repair the name")
    parts = PurePath(name.replace("\\", "/"))
    if parts.is_absolute() or PurePath(name).drive or ".." in parts.parts:
        raise ValueError(f"{label} names the file {name!r}, which leads out of {folder}; name files inside it")
    return folder / parts


def shown(name: str) -> str:
    """A file's name as text that can be stored and printed: names may be any bytes."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def files_below(folder: Path, suffixes: Iterable[str] | None = None) -> list[Path]:
    """Files with these suffixes (`None`: any), gzipped or not, in a folder and its subfolders, sorted; hidden ones are left out.

    Links to folders are followed; one that leads back to a folder that it lies in ends there, where all is read already.

    **Raises:** `ValueError` for a link that leads nowhere and has one of the suffixes, `OSError` for a folder that cannot be read.
    """
    wanted = None if suffixes is None else {s.lower() for s in suffixes}
    found = []
    for path in _below(folder, ()):
        if wanted is not None and suffix_of(path) not in wanted:
            continue
        if path.is_file():
            found.append(path)
        elif wanted is not None and path.is_symlink() and not path.exists():
            raise ValueError(f"{path} is a link to {os.readlink(path)}, which does not exist; fetch that file or remove the link")
    return sorted(found)


def count_others(folder: Path, used: Iterable[Path], left_out: LeftOut, pictures: Sequence[str] = (), label: str | None = None) -> None:
    """Counts the files of a folder that are not among those that are read.

    **Arguments:** `pictures`: suffixes of those that are counted by themselves under this label, not at all where it is `None`.
    """
    known = set(used)
    for path in files_below(folder):
        is_picture = suffix_of(path) in pictures
        if path not in known and not (is_picture and label is None):
            left_out.count(label if is_picture and label else "other files", path)


def _below(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """All that is no folder; `above`: device and number of the folders that lead here."""
    status = folder.stat()
    if (here := (status.st_dev, status.st_ino)) in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, (*above, here))
        else:
            yield path


def file_digest(path: Path) -> str:
    """SHA-256 of a file; of its size and time of change where reading it would take longer than a few seconds."""
    status = path.stat()
    if status.st_size > MAX_HASHED_BYTES:
        return status_digest(path.parent, [path])
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(folder: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of names (relative to the folder) and contents."""
    return _sha256(f"{_name(folder, path)} {file_digest(path)}" for path in sorted(paths))


def status_digest(folder: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of names, sizes and times of change: for pictures and shards, which may be terabytes."""
    found = ((_name(folder, path), path.stat()) for path in paths)
    return _sha256(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in found)


def options_digest(digest: str, **options: object) -> str:
    """The digest of a source that is read under these options; those that are `None` do not count."""
    given = {key: str(value) for key, value in options.items() if value is not None}
    return _sha256([digest, json.dumps(given, sort_keys=True)]) if given else digest


def open_arrow(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Schema and batches of an Arrow file, mapped: `datasets` writes streams, others files with a footer.

    **Raises:** `ValueError` for a stream that was cut, which pyarrow would take for a shorter one.
    """
    with pa.memory_map(str(path)) as file:
        mapped = file.read_buffer()
    try:
        whole = pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:
        if mapped.size < 8 or mapped.slice(mapped.size - 8).to_pybytes() != _END_OF_STREAM:
            raise ValueError(
                f"{path} is no readable arrow file: it does not end as an Arrow stream does; it was cut, fetch it again"
            ) from None
        stream = pa.ipc.open_stream(mapped)
        return stream.schema, iter(stream)
    return whole.schema, (whole.get_batch(k) for k in range(whole.num_record_batches))


def _name(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _sha256(parts: Iterable[str]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part}\n".encode(errors="surrogateescape"))  # names of files may be any bytes
    return total.hexdigest()
