"""Documents: an episode of one timestep that observes nothing and says a text.

Documents are stored as text. Their token ids are made once per store and tokenizer (`TokenisedText`)
and memory-mapped afterwards, so that a window of a long document costs its own tokens.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gato.data.shards.table import DIGEST_LETTERS, TEMPORARY
from gato.data.store import Store
from gato.episode import Episode
from gato.progress import Progress
from gato.setting import Settings
from gato.spec import FieldSpec, Modality, TaskSpec

from .dataset import Dataset
from .files import DEFAULT_SPLIT, count_others, files_below, files_digest, named_split, options_digest, shown, split_of
from .left_out import LeftOut
from .lines import lines, refuse_undecoded, stem_of, suffix_of, whole_text
from .source_table import TABLES, Table
from .words import sayings, words

DOCUMENTS_PER_BATCH = 256
MAX_DOCUMENT = 2**26  # characters

_PARAMETERS = ("title", "source", "licence", "author")


def document_task(name: str, licence: str | None = None) -> TaskSpec:
    """No observation, action `text`."""
    return TaskSpec(name=name, fields=(FieldSpec("text", Modality.TEXT, "action", dtype="str", path=("text",)),), licence=licence)


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
            names = [Table.open(file).names for file in files[:1] if suffix_of(file) != ".txt"]
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
        table = Table.open(file)
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


class TokenisedText:
    """The token ids of every document of a store, memory-mapped.

    `open` is the way in: it makes the file where there is none. May be sent to worker processes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pa.memory_map(str(path)) as file:
                mapped = file.read_buffer()
            self._file = pa.ipc.open_file(mapped)
            self._rows_per_batch = int(self._file.schema.metadata[b"rows_per_batch"])
            self.num_documents = int(self._file.schema.metadata[b"num_documents"])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no file of token ids ({error}); remove it, it will be made anew") from None
        if self._file.num_record_batches != -(-self.num_documents // self._rows_per_batch):
            raise ValueError(f"{path} is incomplete; remove it, it will be made anew")
        self._batches: list[tuple[np.ndarray, np.ndarray] | None] = [None] * self._file.num_record_batches

    def __reduce__(self) -> tuple[type[TokenisedText], tuple[Path]]:
        return TokenisedText, (self.path,)

    @classmethod
    def open(cls, store: Store, encode: Callable[[list[str]], list[list[int]]], tokenizer_hash: str) -> TokenisedText:
        """Opens the ids of this store under this tokenizer; tokenises all documents at the first call.

        Two processes may do so at once: both write the same, and the last one to finish stays.

        **Arguments:** `encode`: texts to ids, the end of each document included; `tokenizer_hash`: changes
        whenever `encode` would give other ids.

        **Raises:** `ValueError` if the store holds anything but documents.
        """
        if any(t.observations or [f.modality for f in t.actions] != [Modality.TEXT] for t in store.tasks):
            raise ValueError(f"store {store.path} holds more than documents; only text without observations is tokenised ahead")
        key = hashlib.sha256(f"{store.fingerprint} {tokenizer_hash}".encode()).hexdigest()
        made = sorted(store.path.glob(f"tokens-{key[:16]}-*.arrow"))
        return cls(made[0] if made else _write_ids(store, encode, key))

    @cached_property
    def lengths(self) -> np.ndarray:
        """(documents,) int64: tokens of each document."""
        parts = [np.diff(self._load(k)[0]) for k in range(len(self._batches))]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def ids(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Tokens start to stop (exclusive, at most the length) of document i: an int32 view, read-only.

        **Raises:** `IndexError` if there is no document i.
        """
        if not 0 <= i < self.num_documents:
            raise IndexError(f"{self.path} has {self.num_documents} documents, there is no number {i}")
        k, row = divmod(i, self._rows_per_batch)
        offsets, values = self._batches[k] or self._load(k)
        return values[offsets[row] : offsets[row + 1]][start:stop]

    def _load(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Offsets (documents + 1,) and ids of a record batch; offsets are checked before they are used."""
        label = f"{self.path}, record batch {k}"
        try:
            batch = self._file.get_batch(k)
            batch.validate()
            column = batch.column(0)
            offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
        except (pa.ArrowException, AttributeError, OSError) as error:
            raise ValueError(f"{label} is damaged: {error}; remove the file, it will be made anew") from None
        expected = min(self._rows_per_batch, self.num_documents - k * self._rows_per_batch)
        is_sound = values.dtype == np.int32 and len(offsets) == expected + 1 and offsets[0] >= 0
        if not is_sound or offsets[-1] > len(values) or (np.diff(offsets) < 0).any():
            raise ValueError(f"{label} is damaged; remove the file, it will be made anew")
        self._batches[k] = offsets, values
        return offsets, values


def _write_ids(store: Store, encode: Callable[[list[str]], list[list[int]]], key: str) -> Path:
    """The file of ids, whose name ends in the beginning of its SHA-256."""
    metadata = {"num_documents": str(store.num_episodes), "rows_per_batch": str(DOCUMENTS_PER_BATCH), "key": key}
    schema = pa.schema([pa.field("ids", pa.large_list(pa.int32()), nullable=False)], metadata=metadata)
    temporary = store.path / f"tokens-{key[:16]}.{secrets.token_hex(4)}{TEMPORARY}"
    try:
        with (
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, schema) as file,
            Progress(f"tokenising {store.path.name}", store.num_episodes, "document") as progress,
        ):
            for first in range(0, store.num_episodes, DOCUMENTS_PER_BATCH):
                numbers = range(first, min(first + DOCUMENTS_PER_BATCH, store.num_episodes))
                documents = encode([_document(store, i) for i in numbers])
                offsets = np.cumsum([0, *(len(d) for d in documents)])
                ids = np.concatenate([np.asarray(d, np.int32) for d in documents])
                column = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(ids, pa.int32()))
                file.write_batch(pa.RecordBatch.from_arrays([column], schema=schema))
                for _ in numbers:
                    progress.advance()
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = store.path / f"tokens-{key[:16]}-{digest[:DIGEST_LETTERS]}.arrow"
        os.replace(temporary, path)
        return path
    finally:
        temporary.unlink(missing_ok=True)


def _document(store: Store, i: int) -> str:
    (texts,) = store.episode(i).actions.values()
    if len(texts) != 1:
        raise ValueError(f"store {store.path}: episode {i} has {len(texts)} timesteps; a document has one")
    return texts[0]


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
