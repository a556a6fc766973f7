"""Text files from outside, line by line: UTF-8, or what their byte order mark says, plain or gzipped, with any line ends.

Every size has a limit, memory does not grow with the file, and an error names file and line.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from gato.disk import kind_of, without_repeats

from .left_out import LeftOut

MAX_LINE_BYTES = 2**26
MAX_JSON_BYTES = 2**30  # COCO's largest file of captions has 92 MB, VQA v2's largest of answers 380 MB

_CHUNK_BYTES = 2**20
_UNDECODED = re.compile("[\udc80-\udcff]")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard", b"PK\x03\x04": "zip"}


def suffix_of(path: PurePath) -> str:
    """A file's suffix in small letters, that of the packed file where it is gzipped: `.jsonl` of `A.JSONL.gz`."""
    return PurePath(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def stem_of(path: PurePath) -> str:
    """A file's name without what `suffix_of` gives."""
    return PurePath(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def packing_of(start: bytes) -> str | None:
    """What a file was packed with, by its first bytes."""
    return next((name for mark, name in _PACKED.items() if start.startswith(mark)), None)


def lines(path: Path, limit: int | None = None, strict: bool = True) -> Iterator[tuple[str, str]]:
    """`(place, line)` of a text file, line ends included (always a bare newline).

    **Arguments:** `limit`: of a line, in bytes (`MAX_LINE_BYTES` by default); `strict`: whether a line that is not UTF-8 is
    refused; else its bytes come as lone surrogates, for `refuse_undecoded` to find.

    **Raises:** `ValueError` for what is not UTF-8, with its offset in bytes, and for a line above the limit.
    """
    offset = number = 0
    for raw in _raw_lines(path, MAX_LINE_BYTES if limit is None else limit):
        number += 1
        start = len(codecs.BOM_UTF8) if number == 1 and raw.startswith(codecs.BOM_UTF8) else 0
        try:
            text = raw[start:].decode("utf-8", "strict" if strict else "surrogateescape")
        except UnicodeDecodeError as error:
            where = f"{path} is not UTF-8 at byte {offset + start + error.start} (line {number})"
            raise ValueError(f"{where}: {error.reason}; {_remedy(path)}") from None
        offset += len(raw)
        ends = text[-2:] if text.endswith("\r\n") else text[-1:] if text.endswith(("\r", "\n")) else ""
        yield f"{path}, line {number}", text[: len(text) - len(ends)] + "\n" * bool(ends)


def whole_text(path: Path, limit: int) -> str:
    """A file's text. **Raises:** `ValueError` as `lines` does, and above `limit` characters."""
    size, parts = 0, []
    for _, text in lines(path):
        size += len(text)
        if size > limit:
            raise ValueError(f"{path} has more than {limit} characters; shorten it or break it up")
        parts.append(text)
    return "".join(parts)


def refuse_undecoded(text: str, place: str) -> None:
    """**Raises:** `ValueError` naming the place if the text has bytes that `lines` could not decode, or null bytes."""
    if "\0" in text:
        raise ValueError(f"{place} holds a null byte, so it is no text, or UTF-16 without a byte order mark; convert it, or take it out")
    if text.isascii():
        return
    if wrong := _UNDECODED.search(text):
        raise ValueError(f"{place} is not UTF-8: it has the byte 0x{ord(wrong[0]) - 0xDC00:02x}; {_remedy(Path('FILE'))}")


def load_json(path: Path, kind: type = dict) -> Any:
    """A JSON object, or a list where `kind` says so. **Raises:** `ValueError` if the file is missing, too large, or holds anything else."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file")
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than {MAX_JSON_BYTES}; break it into several files or give JSON lines")
    content = path.read_bytes()
    if packing := packing_of(content):
        raise ValueError(f"{path} is packed with {packing}; unpack it first")
    values = parse_json(content, str(path))
    if not isinstance(values, kind):
        raise ValueError(f"{path} holds {kind_of(values)}, expected {'an object' if kind is dict else 'a list'}")
    return values


def json_rows(path: Path, limit: int | None = None, left_out: LeftOut | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(place, object)` of the lines of a JSON-lines file that are not blank; bad ones go to `left_out` where there is one.

    **Raises:** `ValueError` naming file and line for anything else, and as `lines` does.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file")
    for place, text in lines(path, limit, strict=left_out is None):
        if not text.strip():
            continue
        try:
            refuse_undecoded(text, place)
            row = json_object(text, place)
        except ValueError as error:
            if text.strip() == "[" or text.lstrip().startswith("[{"):
                raise ValueError(
                    f"{place} begins a JSON list; expected an object on every line: write it so, as 'jq -c .[]' does"
                ) from None
            if left_out is None:
                raise
            left_out.row(error)
        else:
            yield place, row


def json_object(text: str, place: str) -> dict[str, Any]:
    """**Raises:** `ValueError` naming the place if the text is no JSON object."""
    found = parse_json(text, place)
    if not isinstance(found, dict):
        raise ValueError(f"{place} holds {kind_of(found)}, expected an object")
    return found


def parse_json(content: str | bytes, place: str) -> Any:
    """**Raises:** `ValueError` naming the place of what is no JSON, and of an object that has a key twice."""
    try:
        return json.loads(content, object_pairs_hook=without_repeats)
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not UTF-8 at byte {error.start}: {error.reason}; {_remedy(Path('FILE'))}") from None
    except RecursionError:
        raise ValueError(f"{place} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        what = "a number has more than 4,300 digits" if "int_max_str_digits" in str(error) else error
        raise ValueError(f"{place} is not valid JSON: {what}") from None


def _raw_lines(path: Path, limit: int) -> Iterator[bytes]:
    """The lines in UTF-8 with their ends. A `\r` at the end of a chunk may have its `\n` in the next one."""
    parts: list[bytes] = []
    number = size = 0
    for chunk in _chunks(path):
        parts.append(chunk)
        size += len(chunk)
        if b"\n" in chunk or b"\r" in chunk or chunk is parts[0]:
            *whole, rest = b"".join(parts).splitlines(keepends=True) or [b""]
            if rest.endswith(b"\n"):
                whole, rest = [*whole, rest], b""
            parts, size = [rest], len(rest)
            for line in whole:
                number += 1
                if len(line) > limit:
                    raise ValueError(f"{path}, line {number} has more than {limit} bytes; break it into several")
                yield line
        if size > limit:
            raise ValueError(f"{path}, line {number + 1} has more than {limit} bytes; break it into several")
    if rest := b"".join(parts):
        yield from rest.splitlines(keepends=True)


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's text in UTF-8."""
    with open(path, "rb") as file:
        start = file.read(8)
        file.seek(0)
        packing = packing_of(start)
        if packing not in (None, "gzip"):
            raise ValueError(f"{path} is packed with {packing}; unpack it first")
        stream: Any = gzip.open(file) if packing else file
        try:
            yield from _recoded(path, stream)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            what = "it is cut" if isinstance(error, EOFError) else "it does not unpack"
            raise ValueError(f"{path} was packed with gzip and is damaged: {what}; fetch it again") from None


def _recoded(path: Path, stream: BinaryIO) -> Iterator[bytes]:
    chunk = stream.read(_CHUNK_BYTES)
    encoding = next((name for mark, name in _MARKS if chunk.startswith(mark)), None)
    if encoding is None:
        while chunk:
            yield chunk
            chunk = stream.read(_CHUNK_BYTES)
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while chunk:
            yield decoder.decode(chunk).encode()
            chunk = stream.read(_CHUNK_BYTES)
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"{path} begins as {encoding.upper()} but is not: {reason}; convert it to UTF-8 with iconv") from None


def _remedy(path: Path) -> str:
    return f"convert it first, for example with 'iconv -f latin1 -t utf-8 {path}' if it is Latin-1"
