"""The token ids of a store of documents, made once per store and tokenizer and memory-mapped afterwards, so that a window of a
long document costs its own tokens.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from gato.progress import Progress
from gato.spec import Modality

from .shards.table import DIGEST_LETTERS, TEMPORARY
from .store import Store

DOCUMENTS_PER_BATCH = 256


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
