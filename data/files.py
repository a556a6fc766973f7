"""Files that datasets come in: their split, their rows, lines and JSON, and one digest over them.

All of it comes from outside, so every size has a limit, text is decoded strictly, and an error names the
file and the place in it. Rows and lines are streamed: memory does not grow with the file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .parquet import parquet_batches

TABLES = (".parquet", ".arrow", ".jsonl", ".csv")
MAX_LINE_BYTES = 2**26
MAX_JSON_BYTES = 2**30  # COCO's largest file of captions has 92 MB, VQA v2's largest of answers 380 MB
MAX_HASHED_BYTES = 2**30

DEFAULT_SPLIT = "train"

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_ROWS_AT_ONCE = 16  # of up to MAX_BYTES each, where they hold pictures
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
    words = re.split(r"[^a-z]+", path.stem.lower()) if by_name else []
    return next((SPLIT_OF_WORD[w] for w in words if w in SPLIT_OF_WORD), None)


def named_split(value: object, place: str) -> str | None:
    """The split that a row names; `None` where it names none.

    **Raises:** `ValueError` if it cannot be the name of a store's folder.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w.-]{0,99}", value):
        raise ValueError(f"{place}: the split is {value!r}; expected a plain name such as 'train'")
    return value


def inside(folder: Path, name: object, label: str) -> Path:
    """The file `name` of a folder. **Raises:** `ValueError` if it is no text, is empty, or leads out of the folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{label} names the file {name!r}; expected a path inside {folder}")
    parts = PurePath(name.replace("\\", "/"))
    if parts.is_absolute() or PurePath(name).drive or ".." in parts.parts:
        raise ValueError(f"{label} names the file {name!r}, which leads out of {folder}; name files inside it")
    return folder / parts


def files_below(folder: Path, suffixes: Iterable[str] | None = None) -> list[Path]:
    """Files with these suffixes (`None`: any) in a folder and its subfolders, sorted; hidden ones are left out.

    Links to folders are followed; one that leads back to a folder that it lies in ends there, where all is read already.

    **Raises:** `ValueError` for a link that leads nowhere and has one of the suffixes, `OSError` for a folder that cannot be read.
    """
    wanted = None if suffixes is None else {s.lower() for s in suffixes}
    found = []
    for path in _below(folder, ()):
        if wanted is not None and path.suffix.lower() not in wanted:
            continue
        if path.is_file():
            found.append(path)
        elif wanted is not None and path.is_symlink() and not path.exists():
            raise ValueError(f"{path} is a link to {os.readlink(path)}, which does not exist; fetch that file or remove the link")
    return sorted(found)


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


def lines(path: Path, limit: int | None = None) -> Iterator[tuple[str, str]]:
    """`(place, line)` of a UTF-8 file, line ends included (always a bare newline).

    **Raises:** `ValueError` for what is not UTF-8, with its offset in bytes, for a line above `limit` bytes
    (`MAX_LINE_BYTES` by default).
    """
    offset = number = 0
    limit = MAX_LINE_BYTES if limit is None else limit
    with open(path, "rb") as file:
        while raw := file.readline(limit + 1):
            number += 1
            if len(raw) > limit:
                raise ValueError(f"{path}, line {number} has more than {limit} bytes; break it into several")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                where = f"{path} is not UTF-8 at byte {offset + error.start} (line {number})"
                raise ValueError(f"{where}: {error.reason}; convert it first, for example with iconv") from None
            offset += len(raw)
            yield f"{path}, line {number}", text.replace("\r\n", "\n")


def load_json(path: Path, kind: type = dict) -> Any:
    """A JSON object, or a list where `kind` says so. **Raises:** `ValueError` if the file is missing, too large, or holds anything else."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file")
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than {MAX_JSON_BYTES}; break it into several files or give JSON lines")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, kind):
        raise ValueError(f"{path} holds a JSON {type(values).__name__}, expected {'an object' if kind is dict else 'a list'}")
    return values


def json_rows(path: Path, limit: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(place, object)` of the lines of a JSON-lines file that are not blank.

    **Raises:** `ValueError` naming file and line for anything else, and as `lines` does.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file")
    for place, text in lines(path, limit):
        if text.strip():
            yield place, json_object(text, place)


def json_object(text: str, place: str) -> dict[str, Any]:
    """**Raises:** `ValueError` naming the place if the text is no JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{place} holds a JSON {type(found).__name__}, expected an object")
    return found


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


def objects(values: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects under a key. **Raises:** `ValueError` naming the file if there is none."""
    found = values.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ValueError(f"{path} has no list of objects under '{key}'; it has the keys {sorted(values)}")
    return found


@dataclass(frozen=True)
class Table:
    """A parquet, arrow, JSON-lines or CSV file, read row by row.

    `columns` is empty for JSON lines, where each row names its own. `open` is the way in.
    """

    path: Path
    columns: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> Table:
        """**Raises:** `ValueError` if the file is missing, of another kind or damaged."""
        if not path.is_file():
            raise ValueError(f"{path} does not exist or is no file")
        if path.suffix not in TABLES:
            raise ValueError(f"{path} has the suffix '{path.suffix}'; expected one of {', '.join(TABLES)}")
        if path.suffix == ".jsonl":
            return cls(path, ())
        if path.suffix == ".csv":
            return cls(path, tuple(next(csv.reader(text for _, text in lines(path)), ())))
        with _named(path):
            schema = pq.read_schema(path) if path.suffix == ".parquet" else open_arrow(path)[0]
        return cls(path, tuple(schema.names))

    @property
    def is_binary(self) -> bool:
        """Whether cells can hold bytes, such as encoded pictures."""
        return self.path.suffix in (".parquet", ".arrow")

    def need(self, *columns: str) -> None:
        """**Raises:** `ValueError` naming the columns that are missing."""
        if self.columns and (missing := [c for c in columns if c not in self.columns]):
            raise ValueError(f"{self.path} lacks the columns {missing}; it has {list(self.columns)}")

    def rows(self, columns: Sequence[str], start: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
        """`(place, {column: value})` from row `start` on; columns that are not there are left out.

        **Raises:** `ValueError` naming file and row for what cannot be read.
        """
        if not self.is_binary:
            rows = json_rows(self.path) if self.path.suffix == ".jsonl" else _csv_rows(self.path)
            for number, (place, row) in enumerate(rows):
                if number >= start:
                    yield place, {c: row[c] for c in columns if c in row}
            return
        number = start
        with _named(self.path):
            for batch in _batches(self.path, [c for c in self.columns if c in columns], start):
                for first in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    for row in batch.slice(first, _ROWS_AT_ONCE).to_pylist():
                        yield f"{self.path}, row {number}", row
                        number += 1


class _named:
    """Turns what pyarrow raises inside into one `ValueError` that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (pa.ArrowException, OSError, UnicodeDecodeError)):
            raise ValueError(f"{self.path} is no readable {self.path.suffix[1:]} file: {error}") from None


def _batches(path: Path, columns: list[str], start: int) -> Iterator[pa.RecordBatch]:
    """Record batches from row `start` on; what lies wholly before it is not decoded."""
    if path.suffix == ".parquet":
        first, batches = parquet_batches(path, start, columns)
        start -= first
    else:
        batches = (batch.select(columns) for batch in open_arrow(path)[1])
    for batch in batches:
        if start >= batch.num_rows:
            start -= batch.num_rows
            continue
        rest = batch.slice(start)
        rest.validate(full=True)  # offsets of a foreign file are not to be trusted
        yield rest
        start = 0


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader((text for _, text in lines(path)), strict=True)
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{place} has another number of cells than the {len(reader.fieldnames or ())} columns")
            yield place, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num} is not valid CSV: {error}") from None


def _name(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _sha256(parts: Iterable[str]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part}\n".encode())
    return total.hexdigest()
