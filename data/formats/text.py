"""Documents: an episode of one timestep that observes nothing and says a text.

They are stored as text; `data/documents.py` makes their token ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from gato.data.store import Store
from gato.episode import Episode
from gato.setting import Settings
from gato.spec import Modality, TaskSpec
from gato.words import document_task

from .dataset import Dataset
from .files import DEFAULT_SPLIT, count_others, files_below, files_digest, named_split, options_digest, shown, split_of
from .left_out import LeftOut
from .lines import lines, refuse_undecoded, stem_of, suffix_of, whole_text
from .source_table import TABLES, SourceTable
from .words import sayings, words

MAX_DOCUMENT = 2**26  # characters

_PARAMETERS = ("title", "source", "licence", "author")


@dataclass(frozen=True)
class Document:
    """A document with the place it has in its source; `text` is `None` where it is blank."""

    place: str
    split: str
    text: str | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class TextReader(Settings):
    """Reads documents from parquet, arrow, JSON-lines or CSV files, or from UTF-8 text.

    A `.txt` file's paragraphs are its documents (blank lines between them); in a folder of `.txt` files each
    is one document. Documents of blank space alone are left out and counted.

    - `column`: that the documents stand in; `title`, `source`, `licence` and `author` beside it are kept.
    """

    column: str = "text"

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` naming file and row for what is no text, and if no document is found."""
        left_out = left_out or LeftOut()
        files = _files(path, left_out)
        counts: Counter[str] = Counter()
        for document in self._documents(path, files, left_out):
            if document.text is None:
                left_out.count("blank documents", document.place)
            else:
                counts[document.split] += 1
        if not counts:
            names = [SourceTable.open(file).names for file in files[:1] if suffix_of(file) != ".txt"]
            lacking = f" under '{self.column}' (it has {names[0][:20]}; name another one with --column)" if names else ""
            raise ValueError(f"{path} holds no documents{lacking}; {left_out.summary()}")
        task = document_task(f"text/{stem_of(path)}")
        digest = files_digest(path if path.is_dir() else path.parent, files)
        return Dataset(
            source=path.name,
            digest=options_digest(digest, column=None if self.column == "text" else self.column),
            tasks=(task,),
            splits=dict(counts),
            episodes=partial(self._episodes, task, path, files, left_out),
            provenance={"format": "text", "column": self.column},
            left_out=left_out,
        )

    def _episodes(self, task: TaskSpec, path: Path, files: Sequence[Path], left_out: LeftOut, split: str, start: int) -> Iterator[Episode]:
        wanted = (d for d in self._documents(path, files, left_out) if d.split == split and d.text is not None)
        return left_out.made(islice(wanted, start, None), partial(_episode, task))

    def _documents(self, path: Path, files: Sequence[Path], left_out: LeftOut) -> Iterator[Document]:
        """Every document, blank ones too; what is no text goes to `left_out`."""
        for file in files:
            by_name = split_of(file.relative_to(path) if path.is_dir() else Path(file.name)) or DEFAULT_SPLIT
            if suffix_of(file) != ".txt":
                yield from self._rows(file, by_name, left_out)
            elif path.is_dir():
                with left_out.one_row():
                    yield Document(str(file), by_name, _whole(file), {"title": shown(stem_of(file))})
            else:
                for place, text in _paragraphs(file):
                    with left_out.one_row():
                        refuse_undecoded(text, place)
                        yield Document(place, by_name, _checked(text, place), {})

    def _rows(self, file: Path, by_name: str, left_out: LeftOut) -> Iterator[Document]:
        table = SourceTable.open(file)
        table.need(self.column)
        for place, row in table.rows((self.column, "split", *_PARAMETERS), left_out=left_out):
            with left_out.one_row():
                text = _checked(row.get(self.column), f"{place}: '{self.column}'")
                split = named_split(row.get("split"), place) or by_name
                yield Document(place, split, text, sayings(row, _PARAMETERS, place))


def texts_of(store: Store) -> Iterator[str]:
    """Every text in a store once per episode: documents and captions, and the instructions of control tasks."""
    for i in range(store.num_episodes):
        episode = store.episode(i, 0, 1)
        fields = {**episode.observations, **episode.actions}
        yield from (str(fields[f.name][0]) for f in episode.task.fields if f.modality is Modality.TEXT)


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file. **Raises:** `ValueError` naming the place of what is not UTF-8."""
    return (text for _, text in lines(path))


def _files(path: Path, left_out: LeftOut) -> list[Path]:
    """The file itself, or a folder's tables or text files; others of the folder are counted."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if not path.is_dir():
        if suffix_of(path) not in (*TABLES, ".txt"):
            kinds = f"{', '.join(TABLES)} or .txt, gzipped or not, or a folder of such files"
            remedy = "; JSON lines are named .jsonl" if suffix_of(path) == ".json" else ""
            raise ValueError(f"{path} has the suffix '{path.suffix}'; expected {kinds}{remedy}")
        return [path]
    tables, texts = files_below(path, TABLES), files_below(path, [".txt"])
    if tables and texts:
        raise ValueError(f"{path} holds {len(tables)} tables and {len(texts)} .txt files; name one file, or move one of the kinds away")
    found = tables or texts
    count_others(path, found, left_out)
    return found


def _paragraphs(path: Path) -> Iterator[tuple[str, str]]:
    """`(place of its first line, text)` of every paragraph; bytes that are not UTF-8 are still in it."""
    parts: list[str] = []
    size, first = 0, ""
    for place, line in chain(lines(path, strict=False), [("", "")]):
        if line.strip():
            first = first if parts else place
            size += len(line)
            if size > MAX_DOCUMENT:
                raise ValueError(f"{place}: the document has more than {MAX_DOCUMENT} characters; break it up with blank lines")
            parts.append(line)
        elif parts:
            yield first, "".join(parts).rstrip("\n")
            parts, size = [], 0


def _whole(path: Path) -> str | None:
    text = whole_text(path, MAX_DOCUMENT).strip("\n")
    refuse_undecoded(text, str(path))
    return _checked(text, str(path))


def _checked(value: object, label: str) -> str | None:
    """A document with bare newlines, `None` where it is blank. **Raises:** `ValueError` for what is no text, or too long."""
    text = words(value, label, MAX_DOCUMENT)
    return None if text is None else text.replace("\r\n", "\n").replace("\r", "\n")


def _episode(task: TaskSpec, document: Document) -> Episode:
    return Episode(
        task=task,
        observations={},
        actions={"text": np.array([document.text], object)},
        rewards=np.zeros(1, np.float32),
        terminated=True,
        behaviour="human",
        parameters=document.parameters,
    )
