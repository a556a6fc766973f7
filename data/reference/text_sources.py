"""Documents out of packages: dictionaries, documentation, dialogue.

A source is a function from an unpacked package to documents. Each goes whole into `train` or `test`, by a hash of
what it belongs to (its headword, its file), so that one dialogue file or one word is never on both sides.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gato.data.formats.lines import lines

from .concepts import share
from .entries import gcide_prose, hacker_prose
from .packages import Package
from .picture_sources import WORDNET
from .wordnet import UNFIT, documents, read_wordnet

MIN_CHARACTERS = 40
MAX_BYTES = 2**28  # of a dictionary, expanded

_DIGITS = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}


@dataclass(frozen=True)
class Document:
    """A text with its title; `group`: what is on one side of the split as a whole."""

    title: str
    text: str
    group: str


# an unpacked package's folder and the counter of what is left out -> documents
Read = Callable[[Path, Counter[str]], Iterator[Document]]


@dataclass(frozen=True)
class TextSource:
    """Where documents come from: a `package`, its `licence` and `author`, `read`, and the expected share held out."""

    package: Package
    licence: str
    author: str
    read: Read
    test_share: float = 0.05


def read_dictionary(name: str, clean: Callable[[str], str], folder: Path, left_out: Counter[str]) -> Iterator[Document]:
    """The entries of a dictionary in dictd's format: an index of offsets, and a text that gzip opens.

    **Arguments:** `clean`: makes prose of an entry as it stands there.

    **Raises:** `ValueError` for an index that points outside the text.
    """
    base = folder / "usr/share/dictd"
    content = _expanded(base / f"{name}.dict.dz")
    seen: set[tuple[int, int]] = set()
    for place, line in lines(base / f"{name}.index"):
        word, start, size = _entry(place, line)
        if start + size > len(content):
            raise ValueError(f"{place} points at byte {start + size} of a text of {len(content)}; fetch the package again")
        if word.startswith("00-database") or (start, size) in seen:  # further headwords of one entry
            continue
        seen.add((start, size))
        entry = content[start : start + size].decode("utf-8", "replace")
        text = clean(entry)
        if UNFIT.search(text):
            left_out[f"{name}: unfit words"] += 1
        elif len(text) < MIN_CHARACTERS:
            left_out[f"{name}: shorter than {MIN_CHARACTERS} characters"] += 1
        else:
            title = entry.split("\n", 1)[0].split(" \\", 1)[0].strip() or word  # the index names further headwords first
            yield Document(title, text, title.lower())


def read_words(folder: Path, left_out: Counter[str]) -> Iterator[Document]:
    """WordNet's entries of the words that its corpora tagged, the most frequent first."""
    for title, text in documents(read_wordnet(folder / "usr/share/wordnet")):
        yield Document(title, text, title.lower())


def read_documentation(folder: Path, left_out: Counter[str]) -> Iterator[Document]:
    """The pages of Python's documentation, as their authors wrote them (reStructuredText)."""
    for path in sorted(folder.rglob("*.rst.txt")):
        text = "".join(line for _, line in lines(path)).strip()
        name = path.name.removesuffix(".rst.txt")
        if len(text) < MIN_CHARACTERS:
            left_out[f"python-docs: shorter than {MIN_CHARACTERS} characters"] += 1
        else:
            yield Document(name, text, path.relative_to(folder).as_posix())


def read_dialogues(folder: Path, left_out: Counter[str]) -> Iterator[Document]:
    """Chatterbot's English conversations, two speakers in turn; a whole file is on one side of the split."""
    import yaml

    for path in sorted(folder.rglob("english/*.yml")):
        text = "".join(line for _, line in lines(path))
        try:
            conversations = yaml.safe_load(text)["conversations"]
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no conversations: {str(error).splitlines()[0]}; fetch the package again") from None
        for turns in conversations:
            spoken = "\n".join(f"{'AB'[i % 2]}: {str(turn).strip()}" for i, turn in enumerate(turns))
            if UNFIT.search(spoken) or len(turns) < 2:
                left_out["dialogue: unfit words, or a single turn"] += 1
            else:
                yield Document(path.stem, spoken, path.stem)


SOURCES: dict[str, TextSource] = {
    "wordnet": TextSource(WORDNET, "WordNet-3.0", "Princeton University", read_words),
    "gcide": TextSource(
        Package("apt", "dict-gcide", r".*/dictd/.*"),
        "GPL-3.0-or-later",
        "GCIDE's contributors",
        partial(read_dictionary, "gcide", gcide_prose),
    ),
    "foldoc": TextSource(
        Package("apt", "dict-foldoc", r".*/dictd/.*"),
        "GFDL-1.2-or-later",
        "Denis Howe and contributors",
        partial(read_dictionary, "foldoc", partial(hacker_prose, deepest=3)),
    ),
    "jargon": TextSource(
        Package("apt", "dict-jargon", r".*/dictd/.*"),
        "public domain",
        "the Jargon File's contributors",
        partial(read_dictionary, "jargon", partial(hacker_prose, deepest=4)),
    ),
    "python-docs": TextSource(
        Package("apt", "python3.11-doc", r".*\.rst\.txt"), "PSF-2.0", "Python Software Foundation", read_documentation
    ),
    "dialogue": TextSource(
        Package(
            "pip",
            "chatterbot-corpus==1.3.3",
            r"chatterbot_corpus/data/english/.*\.yml",
            sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        ),
        "BSD-3-Clause",
        "Gunther Cox and contributors",
        read_dialogues,
        test_share=0.15,  # of 21 files, so that it is more than one
    ),
}


def document_rows(name: str, source: TextSource, folder: Path, limit: int | None, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """Rows for `TextReader`: text, title, source, licence, author, split; each text once. `limit`: of documents, the first ones."""
    seen: set[bytes] = set()
    for document in source.read(folder, left_out):
        digest = hashlib.blake2b(document.text.encode(), digest_size=16).digest()
        if digest in seen:
            left_out[f"{name}: the same text again"] += 1
            continue
        if len(seen) == limit:
            left_out[f"{name}: read no further than {limit} documents (small scale)"] += 1
            return
        seen.add(digest)
        split = "test" if share(f"text:{document.group}") < source.test_share else "train"
        yield {
            "text": document.text, "title": document.title, "split": split,
            "source": name, "licence": source.licence, "author": source.author,
        }  # fmt: skip


def _expanded(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be expanded: {error}; fetch the package again") from None
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} expands to more than {MAX_BYTES} bytes; it is not read")
    return content


def _entry(place: str, line: str) -> tuple[str, int, int]:
    """Headword, offset and size; numbers are written in digits of base 64."""
    cells = line.rstrip("\n").split("\t")
    try:
        word, start, size = cells[0], *(_number(cell) for cell in cells[1:3])
    except (KeyError, ValueError):
        raise ValueError(f"{place} is no line of a dictionary's index; fetch the package again") from None
    return word, start, size


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value
