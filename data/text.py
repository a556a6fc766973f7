"""Documents: an episode of one timestep that observes nothing and says a text.

Documents are stored as text. Their token ids are made once per store and tokenizer (`TokenisedText`)
and memory-mapped afterwards, so that a window of a long document costs its own tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

from .progress import Progress
from .store import Store, StoreWriter
from .table import TEMPORARY

DOCUMENTS_PER_BATCH = 256

_PARAMETERS = ("title", "source", "licence")


def document_task(name: str, licence: str | None = None) -> TaskSpec:
    """No observation, action `text`."""
    return TaskSpec(name=name, fields=(FieldSpec("text", Modality.TEXT, "action", dtype="str", path=("text",)),), licence=licence)


def import_text(path: str | Path, out: str | Path, split: str | None = None) -> Path:
    """Writes documents into the store `out` and returns its folder.

    Documents of blank space alone are left out. An interrupted import goes on where it stopped.

    **Arguments:**

    - `path`: a parquet or `.jsonl` file whose rows have a `text` (and perhaps `title`, `source`,
      `licence`, `split`), a `.txt` file whose paragraphs are the documents (blank lines between
      them), or a folder of `.txt` files of one document each. UTF-8.
    - `split`: only rows with this `split`; `None` for all.

    **Raises:** `ValueError` naming file and row for what is no text, and if no document is found.
    """
    path = Path(path)
    rows = _reader(path)(path)
    if split is not None:
        if path.suffix not in (".parquet", ".jsonl"):
            raise ValueError(f"{path} has no splits; leave split out")
        rows = (r for r in rows if r.get("split") == split)
    rows = (r for r in rows if r["text"].strip())
    task = document_task(f"text/{path.stem}")
    with StoreWriter(out, [task], {"split": split}) as writer:
        writer.bind(path.name, _digest(path))
        for row in islice(rows, writer.num_episodes, None):
            writer.append(_episode(task, row))
        if writer.num_episodes == 0:
            raise ValueError(f"{path} holds no documents" + (f" of split '{split}'" if split else ""))
    return Path(out)


def texts_of(store: Store) -> list[str]:
    """Every text in a store once per episode: documents and captions, and the instructions of control tasks."""
    texts = []
    for i in range(store.num_episodes):
        episode = store.episode(i, 0, 1)
        fields = {**episode.observations, **episode.actions}
        texts += [str(fields[f.name][0]) for f in episode.task.fields if f.modality is Modality.TEXT]
    return texts


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
        path = store.path / f"tokens-{key[:16]}.arrow"
        if not path.exists():
            _write_ids(store, encode, path, key)
        return cls(path)

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


def _write_ids(store: Store, encode: Callable[[list[str]], list[list[int]]], path: Path, key: str) -> None:
    metadata = {"num_documents": str(store.num_episodes), "rows_per_batch": str(DOCUMENTS_PER_BATCH), "key": key}
    schema = pa.schema([pa.field("ids", pa.large_list(pa.int32()), nullable=False)], metadata=metadata)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
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
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _document(store: Store, i: int) -> str:
    (texts,) = store.episode(i).actions.values()
    if len(texts) != 1:
        raise ValueError(f"store {store.path}: episode {i} has {len(texts)} timesteps; a document has one")
    return texts[0]


def _reader(path: Path) -> Callable[[Path], Iterator[dict[str, str]]]:
    readers = {".parquet": _parquet_rows, ".jsonl": _json_rows, ".txt": _paragraphs}
    if path.is_dir():
        return _files
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    if path.suffix not in readers:
        raise ValueError(f"{path} has the suffix '{path.suffix}'; expected one of {sorted(readers)} or a folder of .txt files")
    return readers[path.suffix]


def _parquet_rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        file = pq.ParquetFile(path)
        names = [c for c in ("text", "split", *_PARAMETERS) if c in file.schema_arrow.names]
        if "text" not in names:
            raise ValueError(f"{path} lacks the column 'text'; it has {file.schema_arrow.names}")
        rows = (row for batch in file.iter_batches(batch_size=256, columns=names) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            yield _checked(row, f"{path}, row {number}")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no readable parquet file: {error}") from None


def _json_rows(path: Path) -> Iterator[dict[str, str]]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            label = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{label} is not valid JSON: {error}") from None
            yield _checked(row, label)


def _paragraphs(path: Path) -> Iterator[dict[str, str]]:
    lines: list[str] = []
    for line in _lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield {"text": "".join(lines).rstrip("\n")}
            lines = []
    if lines:
        yield {"text": "".join(lines).rstrip("\n")}


def _files(path: Path) -> Iterator[dict[str, str]]:
    for file in sorted(path.glob("*.txt")):
        yield {"text": "".join(_lines(file)).strip("\n"), "title": file.stem}


def _lines(path: Path) -> Iterator[str]:
    number = 0
    with open(path, encoding="utf-8-sig") as file:
        try:
            for line in file:
                number += 1
                yield line
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 after line {number}: {error.reason}; convert it first") from None


def _checked(row: object, label: str) -> dict[str, str]:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ValueError(f"{label} has no string 'text'")
    return row


def _digest(path: Path) -> str:
    """SHA-256 of the file, or of the names and contents of a folder's text files."""
    total = hashlib.sha256()
    for file in sorted(path.glob("*.txt")) if path.is_dir() else [path]:
        with open(file, "rb") as raw:
            total.update(f"{file.name} {hashlib.file_digest(raw, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _episode(task: TaskSpec, row: dict[str, str]) -> Episode:
    return Episode(
        task=task,
        observations={},
        actions={"text": np.array([row["text"]], object)},
        rewards=np.zeros(1, np.float32),
        terminated=True,
        behaviour="human",
        parameters={k: row[k] for k in _PARAMETERS if row.get(k) is not None},
    )
