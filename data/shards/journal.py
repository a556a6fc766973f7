"""The journal of a store's unfinished shard: a complete episode is in a file before the next one begins.

Shards want to be large and their files have an index at the end, so an unfinished one cannot be read. The
journal can: episode after episode, each with checksums. A process that is killed loses the episode it was
adding, and a machine that loses power what came in its last `SYNC_SECONDS`. The next writer goes on from here.
(SQLite's write-ahead log does not work on network drives, where stores lie too, and batches would be copied into blobs and back.)

    header       magic, number of the shard, SHA-256 of the columns, CRC-32 of these
    per episode  sizes of its two record batches, CRC-32 of both, CRC-32 of these three, the batches (Arrow IPC)
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

JOURNAL_NAME = "journal"
SYNC_SECONDS = 10.0

_MAGIC = b"gato-journal-1\n\0"
_HEADER = struct.Struct("<16sQ32sI")
_FRAME = struct.Struct("<QQII")

_log = logging.getLogger(__name__)

Batches = tuple[pa.RecordBatch, pa.RecordBatch]  # timesteps, and the one row of their episode


class Journal:
    """The complete episodes of the shard that is being filled.

    **Arguments:** `folder`: of the store; `schemas`: of timesteps and episodes; `shard`: number of the shard. A journal
    of an earlier shard is removed, since its episodes are in that shard.

    **Attributes:** `episodes`, `timesteps`: how many it holds; `size`: about the bytes of a shard made of them.

    **Raises:** `ValueError` if the file is no journal of these columns.
    """

    def __init__(self, folder: Path, schemas: tuple[pa.Schema, pa.Schema], shard: int) -> None:
        self.path, self._schemas, self._shard = folder / JOURNAL_NAME, schemas, shard
        self.episodes = self.timesteps = self.size = self._end = 0
        self._file: BinaryIO | None = None
        self._synced = time.monotonic()
        if self.path.exists():
            self._resume()

    def append(self, timesteps: pa.RecordBatch, episode: pa.RecordBatch) -> None:
        """Adds an episode; nothing of it is kept if this raises, as where the disk is full."""
        try:
            file = self._file or self._create()
            parts = timesteps.serialize(), episode.serialize()
            for part in (_frame_header(*parts), *parts):
                _write(file, part)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        except BaseException:
            self._cut()
            raise
        self._count(timesteps, episode, file.tell())

    def batches(self) -> Iterator[Batches]:
        """The episodes one after another, a single one in memory."""
        with open(self.path, "rb") as file:
            file.seek(_HEADER.size)
            for _ in range(self.episodes):
                found = _read(file, self._schemas)
                assert found is not None, f"{self.path} lost an episode while it was open"
                yield found

    def clear(self, shard: int) -> None:
        """Forgets the episodes, which are in a shard now, and begins with the next one."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._shard = shard
        self.episodes = self.timesteps = self.size = self._end = 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _count(self, timesteps: pa.RecordBatch, episode: pa.RecordBatch, end: int) -> None:
        self.episodes += 1
        self.timesteps += timesteps.num_rows
        self._end = end
        # A batch of its own costs an episode about 2 kB, which a shard does not pay; but the journal must not grow without end either.
        self.size = max(self.size + timesteps.nbytes + episode.nbytes, end // 8)

    def _create(self) -> BinaryIO:
        self._file = file = open(self.path, "w+b", buffering=0)
        header = _HEADER.pack(_MAGIC, self._shard, _digest(self._schemas), 0)[:-4]
        _write(file, header + zlib.crc32(header).to_bytes(4, "little"))
        self._end = file.tell()
        return file

    def _cut(self) -> None:
        """Takes what was half written away again; that needs no room on the disk."""
        if self._file is not None:
            self._file.truncate(self._end)
            self._file.seek(self._end)

    def _resume(self) -> None:
        """Goes on behind the last complete episode."""
        with open(self.path, "rb") as file:
            shard = _read_header(file, self._schemas)
            if shard is None or shard < self._shard:
                self.clear(self._shard)
                return
            if shard > self._shard:
                raise ValueError(f"{self.path} belongs to shard {shard}, but the manifest names {self._shard}; restore the manifest")
            self._end = file.tell()
            try:
                while (found := _read(file, self._schemas)) is not None:
                    self._count(*found, file.tell())
            except ValueError as error:
                lost = self.path.stat().st_size - self._end
                _log.warning("%s, episode %d: %s; it and what follows (%d bytes) are lost", self.path, self.episodes, error, lost)
        self._file = open(self.path, "r+b", buffering=0)
        self._cut()


def check_journal(folder: Path, schemas: tuple[pa.Schema, pa.Schema]) -> int:
    """Reads the journal that a writer may have left and returns how many complete episodes it holds.

    **Raises:** `ValueError` naming the first damaged one. An incomplete last one is what a killed writer leaves.
    """
    path, count = folder / JOURNAL_NAME, 0
    try:
        with open(path, "rb") as file:
            if _read_header(file, schemas) is None:
                return 0
            while _read(file, schemas) is not None:
                count += 1
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise ValueError(f"{path}, episode {count} of the journal: {error}; the next writer keeps those before it") from None
    return count


def _read_header(file: BinaryIO, schemas: tuple[pa.Schema, pa.Schema]) -> int | None:
    """The number of the shard; `None` where the writer was killed before it had written one."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, shard, digest, checksum = _HEADER.unpack(header)
    if magic != _MAGIC or checksum != zlib.crc32(header[:-4]):
        raise ValueError(f"{file.name} is no journal that this release reads; remove it to go on without its episodes")
    if digest != _digest(schemas):
        raise ValueError(f"{file.name} holds other columns than the store; remove it to go on without its episodes")
    return shard


def _read(file: BinaryIO, schemas: tuple[pa.Schema, pa.Schema]) -> Batches | None:
    """The next episode, `None` where the file ends before it does. **Raises:** `ValueError` where it is damaged."""
    header = file.read(_FRAME.size)
    if len(header) < _FRAME.size:
        return None
    *sizes, checksum, header_checksum = _FRAME.unpack(header)
    if zlib.crc32(header[:-4]) != header_checksum:
        raise ValueError("its header does not have its checksum")
    if sum(sizes) > os.fstat(file.fileno()).st_size - file.tell():
        return None
    parts = [file.read(size) for size in sizes]
    if zlib.crc32(parts[1], zlib.crc32(parts[0])) != checksum:
        raise ValueError("its values do not have their checksum")
    timesteps, episode = (pa.ipc.read_record_batch(pa.py_buffer(p), s) for p, s in zip(parts, schemas, strict=True))
    return timesteps, episode


def _frame_header(timesteps: pa.Buffer, episode: pa.Buffer) -> bytes:
    checksum = zlib.crc32(episode, zlib.crc32(timesteps))
    header = _FRAME.pack(timesteps.size, episode.size, checksum, 0)[:-4]
    return header + zlib.crc32(header).to_bytes(4, "little")


def _write(file: BinaryIO, content: bytes | pa.Buffer) -> None:
    """All of it: an unbuffered file may take a part only."""
    view = memoryview(content)
    while len(view):
        view = view[file.write(view) :]


def _digest(schemas: tuple[pa.Schema, pa.Schema]) -> bytes:
    return hashlib.sha256(b"".join(bytes(s.serialize()) for s in schemas)).digest()
