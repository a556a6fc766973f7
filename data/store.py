"""The store: the episodes of one source on disk, appended by one writer, read memory-mapped by many.

    manifest.json            tasks, provenance, finished shards with sizes and SHA-256
    timesteps-00000.arrow    a row per timestep: observation.NAME, action.NAME, reward; raw values
    episodes-00000.arrow     a row per episode: first_row (in the shard), length, task_index, return,
                             terminated, truncated, success, seed, behaviour, parameters (JSON),
                             final_observation.NAME
    journal                  the episodes of the unfinished shard, while there is one
    tokens-KEY-DIGEST.arrow  of documents: their ids under a tokenizer, made anew where it is missing

An episode lies whole in one shard. Shards never change once the manifest names them, so a reader needs
no lock. A writer that is killed loses the episode it was adding: the next one finds all others in the
journal. Reading a window costs its own bytes; opening costs one `stat` per file.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gato.disk import sync
from gato.episode import Episode
from gato.lock import FolderLock, remove_empty
from gato.spec import TaskSpec

from .shards.columns import episode_row, episode_schema, timestep_columns, timestep_rows, timestep_schema
from .shards.journal import JOURNAL_NAME, Journal, check_journal
from .shards.manifest import DISK_FULL, MANIFEST_NAME, FileEntry, Manifest, ShardEntry, task_differences, with_known_returns
from .shards.shard import Shard
from .shards.table import TEMPORARY, TableWriter, batch_rows, check_name

SHARD_BYTES = 128 * 2**20

_log = logging.getLogger(__name__)


class StoreWriter:
    """Appends episodes to a new or an existing store; also a context manager.

    Leaving the context keeps all complete episodes, after an exception too; where there are none then, no store and no
    new folder is left. Opening a store whose writer was killed makes a shard of the episodes in its journal.

    **Arguments:**

    - `path`: the store's folder; made if it does not exist.
    - `tasks`: what the episodes are of; the same as before if the store exists (random and expert
      returns excepted: the new ones are kept).
    - `provenance`: JSON values about where the data comes from; an attribute, saved with each shard.
    - `shard_bytes`: a shard is finished when it reaches this size.

    **Raises:** `ValueError` if the tasks differ from the store's or need different columns, or if
    another process writes to the folder; `OSError` with the remedy where the disk is full.
    """

    def __init__(
        self, path: str | Path, tasks: Sequence[TaskSpec], provenance: Mapping[str, Any] = {}, shard_bytes: int = SHARD_BYTES
    ) -> None:
        self.path = Path(path)
        self.tasks = tuple(tasks)
        self._columns = timestep_columns(self.tasks)
        self._schemas = timestep_schema(self._columns), episode_schema(self._columns)
        self._task_indices = {t.name: i for i, t in enumerate(self.tasks)}
        self._shard_bytes = shard_bytes
        self._is_closed = False
        self._own_folders = [f for f in (self.path, *self.path.parents) if not f.exists()] or [self.path] * self._holds_manifest()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as error:
            raise _in_words(error, self.path, 0) from None
        try:
            self._manifest = self._open()
            self.provenance = {**self._manifest.provenance, **provenance}
            self._clean()
            self._save(self._manifest.shards)
            self._journal = Journal(self.path, self._schemas, len(self._manifest.shards))
            if found := self._journal.episodes:
                _log.warning("store %s: a writer was killed; its %d unfinished episodes are kept", self.path, found)
                self.flush()
        except BaseException:
            self._lock.release()
            remove_empty(self._own_folders)
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_empty = kind is not None and not self._is_closed and self.num_episodes == 0
        if is_empty:
            (self.path / MANIFEST_NAME).unlink(missing_ok=True)
            self._is_closed = True
            self._journal.clear(shard=0)
            self._lock.release()
            remove_empty(self._own_folders)
        self.close()

    @property
    def num_episodes(self) -> int:
        """Episodes so far, those of the unfinished shard included."""
        return self._manifest.num_episodes + self._journal.episodes

    def bind(self, source: str, sha256: str, **provenance: Any) -> None:
        """Says which file the episodes come from, in its order, so that an interrupted import can go on.

        **Arguments:** `provenance`: noted as well.

        **Raises:** `ValueError` if the episodes that are already here come from another one.
        """
        before = self._manifest.provenance.get("sha256")
        if self.num_episodes and before != sha256:
            raise ValueError(
                f"store {self.path} already holds {self.num_episodes} episodes of another source "
                f"('{self._manifest.provenance.get('source')}'); remove the folder or import into another one"
            )
        self.note(source=source, sha256=sha256, **provenance)  # before the first episode, so that those of the journal have a source too

    def note(self, **provenance: Any) -> None:
        """Adds to the provenance, durably."""
        self.provenance.update(provenance)
        self._save(self._manifest.shards)

    def append(self, episode: Episode) -> None:
        """Adds one episode; nothing of it is kept if this raises.

        **Raises:** `ValueError` for a task that the store does not hold, or a value that its column cannot hold.
        """
        if self._is_closed:
            raise ValueError(f"store {self.path} is closed; open it again to append")
        index = self._task_indices.get(episode.task.name)
        if index is None:
            raise ValueError(f"store {self.path} holds {[t.name for t in self.tasks]}, not task '{episode.task.name}'")
        task = self.tasks[index]
        if episode.task != task and (lines := task_differences([task], [episode.task])):
            raise ValueError(f"store {self.path}: the episode's task differs: {'; '.join(lines)}")
        try:
            timesteps = timestep_rows(self._columns, episode)
            row = episode_row(self._columns, episode, index)
        except ValueError as error:
            raise ValueError(f"store {self.path}: episode {self.num_episodes}: {error}") from None
        row["first_row"] = pa.array([self._journal.timesteps], pa.int64())
        batches = [_batch(columns, schema) for columns, schema in zip((timesteps, row), self._schemas, strict=True)]
        try:
            self._journal.append(*batches)
        except OSError as error:
            raise _in_words(error, self.path, self.num_episodes) from None
        if self._journal.size >= self._shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Makes a finished shard of the journal: from here on readers see its episodes."""
        if not self._journal.episodes:
            return
        num_shards, tables = len(self._manifest.shards), []
        try:
            rows = self._manifest.timestep_batch_rows, self._manifest.episode_batch_rows
            for kind, schema, rows_per_batch in zip(("timesteps", "episodes"), self._schemas, rows, strict=True):
                tables.append(TableWriter(self.path / f"{kind}-{num_shards:05d}.arrow", schema, rows_per_batch))
            for batches in self._journal.batches():
                for table, batch in zip(tables, batches, strict=True):
                    table.append(batch)
            timesteps, episodes = (FileEntry(**table.finish()) for table in tables)
            sync(self.path)
            self._save((*self._manifest.shards, ShardEntry(timesteps, episodes)))
        except OSError as error:
            self._abandon(tables)
            raise _in_words(error, self.path, self.num_episodes) from None
        except BaseException:
            self._abandon(tables)
            raise
        self._journal.clear(shard=num_shards + 1)

    def close(self) -> None:
        """Finishes the last shard, saves the provenance and frees the folder; may be called twice."""
        if self._is_closed:
            return
        try:
            self.flush()
            self._save(self._manifest.shards)
        finally:
            self._is_closed = True
            self._journal.close()
            self._lock.release()

    def _holds_manifest(self) -> bool:
        return (self.path / MANIFEST_NAME).exists()

    def _open(self) -> Manifest:
        if not self._holds_manifest():
            timesteps, episodes = self._schemas
            return Manifest(self.tasks, batch_rows(timesteps), batch_rows(episodes))
        manifest = Manifest.load(self.path)
        if lines := task_differences(manifest.tasks, self.tasks):
            raise ValueError(f"store {self.path} holds other tasks: {'; '.join(lines)}; use another folder, or remove this one")
        self.tasks = tuple(with_known_returns(t, old) for t, old in zip(self.tasks, manifest.tasks, strict=True))
        manifest.check_sizes(self.path)
        return manifest

    def _clean(self) -> None:
        """Removes what a killed writer left: temporary files, and the shard that it was making of the journal.

        **Raises:** `ValueError` for any other shard that the manifest does not name: a manifest was lost, or is older than its shards.
        """
        shards = {*self.path.glob("timesteps-*.arrow"), *self.path.glob("episodes-*.arrow")}
        unnamed = sorted(p for p in shards if p.name not in self._manifest.file_names)
        unfinished = f"-{len(self._manifest.shards):05d}.arrow"
        if lost := [p for p in unnamed if not p.name.endswith(unfinished) or not (self.path / JOURNAL_NAME).exists()]:
            raise ValueError(
                f"shard {lost[0]} is there, but {self.path / MANIFEST_NAME} does not name it; restore the newest manifest, "
                "or remove the folder to begin anew"
            )
        for path in (*unnamed, *self.path.glob(f"*{TEMPORARY}")):
            path.unlink(missing_ok=True)

    def _save(self, shards: tuple[ShardEntry, ...]) -> None:
        manifest = replace(self._manifest, tasks=self.tasks, shards=shards, provenance=dict(self.provenance))
        try:
            manifest.save(self.path)
        except OSError as error:
            raise _in_words(error, self.path, self._manifest.num_episodes) from None
        self._manifest = manifest

    def _abandon(self, tables: Sequence[TableWriter]) -> None:
        """Drops a shard that could not be finished: its episodes still are in the journal."""
        self._manifest = Manifest.load(self.path)  # what is on disk decides
        if self._manifest.file_names & {table.path.name for table in tables}:
            self._journal.clear(shard=len(self._manifest.shards))
            return
        for table in tables:
            table.abort()


class Store:
    """Reads a store; safe to share between threads and to send to worker processes.

    A store is a snapshot: episodes appended later are seen by opening it again. Arrays are views of the
    mapped files where possible, and read-only.

    **Arguments:** `path`: the folder; `verify`: compare each shard's SHA-256 when it is first used.

    **Raises:** `ValueError` if the folder, its manifest or a shard is missing, cut, or of a foreign format.
    """

    def __init__(self, path: str | Path, verify: bool = False) -> None:
        manifest = Manifest.load(Path(path))
        manifest.check_sizes(Path(path))
        self.__setstate__((Path(path), manifest, verify))

    def __getstate__(self) -> tuple[Path, Manifest, bool]:
        return self.path, self.manifest, self._verify

    def __setstate__(self, state: tuple[Path, Manifest, bool]) -> None:
        self.path, self.manifest, self._verify = state
        self.tasks: tuple[TaskSpec, ...] = self.manifest.tasks
        self._episode_ends = list(accumulate(s.episodes.rows for s in self.manifest.shards))
        self._timestep_ends = list(accumulate(s.timesteps.rows for s in self.manifest.shards))
        self._shards: list[Shard | None] = [None] * len(self._episode_ends)

    def __repr__(self) -> str:
        names = ", ".join(t.name for t in self.tasks[:3]) + (", ..." if len(self.tasks) > 3 else "")
        return f"Store({str(self.path)!r}: {names}; {self.num_episodes} episodes, {self.num_timesteps} timesteps)"

    @property
    def num_episodes(self) -> int:
        return self._episode_ends[-1] if self._episode_ends else 0

    @property
    def num_timesteps(self) -> int:
        return self.manifest.num_timesteps

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any byte of the data, with the task specs and with the format."""
        return self.manifest.fingerprint

    @cached_property
    def lengths(self) -> np.ndarray:
        """(E,) int64: timesteps of each episode."""
        return self._index("length", np.int64)

    @cached_property
    def returns(self) -> np.ndarray:
        """(E,) float64: the sum of each episode's rewards."""
        return self._index("return", np.float64)

    @cached_property
    def task_indices(self) -> np.ndarray:
        """(E,) int32: the place of each episode's task in `tasks`."""
        return self._index("task_index", np.int32)

    @cached_property
    def behaviours(self) -> np.ndarray:
        """(E,) strings: who acted in each episode."""
        return self._index("behaviour", str)

    def episode_at(self, timestep: int) -> int:
        """The episode that holds a timestep, counted over the whole store: a binary search in one shard's index."""
        k = bisect_right(self._timestep_ends, timestep)
        shard = self._open_shard(k)
        row = timestep - (self._timestep_ends[k - 1] if k else 0)
        found = int(np.searchsorted(shard.index["first_row"], row, side="right")) - 1
        return (self._episode_ends[k - 1] if k else 0) + max(found, 0)

    def span(self, i: int) -> tuple[int, int]:
        """The first timestep of episode i, counted over the whole store, and its length."""
        k = bisect_right(self._episode_ends, i)
        index, row = self._open_shard(k).index, i - (self._episode_ends[k - 1] if k else 0)
        return (self._timestep_ends[k - 1] if k else 0) + int(index["first_row"][row]), int(index["length"][row])

    def shards(self) -> Iterator[Shard]:
        """The shards in order, each opened when its turn comes."""
        return (self._open_shard(k) for k in range(len(self._shards)))

    def episode(self, i: int, start: int = 0, stop: int | None = None) -> Episode:
        """Timesteps start to stop (exclusive, at most the length) of episode i.

        Only these rows are read. A window that leaves out the episode's end has neither `terminated`,
        `truncated` nor a final observation.

        **Raises:** `IndexError` if there is no episode i, `ValueError` if the window is empty.
        """
        if not 0 <= i < self.num_episodes:
            raise IndexError(f"store {self.path} has {self.num_episodes} episodes, there is no number {i}")
        k = bisect_right(self._episode_ends, i)
        return self._open_shard(k).episode(i - (self._episode_ends[k - 1] if k else 0), start, stop)

    def rewards(self, i: int, start: int = 0) -> np.ndarray:
        """(n,) float32: the rewards of episode i from a timestep to its end; nothing else of it is read."""
        k = bisect_right(self._episode_ends, i)
        return self._open_shard(k).rewards(i - (self._episode_ends[k - 1] if k else 0), start)

    def returns_to_go(self, i: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) float32: at each of these timesteps of episode i, the sum of the rewards from it to the end."""
        return np.cumsum(self.rewards(i, start)[::-1], dtype=np.float64)[::-1][: stop - start].astype(np.float32)

    def validate(self) -> None:
        """Reads everything again: hashes, counts, bounds, each episode with all its checks, token ids, journal and manifest.

        Episodes of a journal are no part of the store before a writer opens it; the log says how many there are.

        **Raises:** `ValueError` naming the shard and, where it can, episode and field.
        """
        self.manifest.check_file(self.path)  # first, since what it says of the others would be blamed on them
        for k, entry in enumerate(self.manifest.shards):
            for file in (entry.timesteps, entry.episodes):
                file.check_size(self.path)
                file.check_digest(self.path)
            self._open_shard(k).validate(first_episode=self._episode_ends[k] - entry.episodes.rows)
        columns = timestep_columns(self.tasks)
        if waiting := check_journal(self.path, (timestep_schema(columns), episode_schema(columns))):
            _log.warning("store %s: %d complete episodes wait in its journal for the next writer", self.path, waiting)
        for path in sorted(self.path.glob("tokens-*-*.arrow")):
            check_name(path)

    def _open_shard(self, k: int) -> Shard:
        shard = self._shards[k]
        if shard is None:
            shard = self._shards[k] = Shard(self.path, self.manifest, self.manifest.shards[k], self._verify)
        return shard

    def _index(self, name: str, dtype: np.dtype | type) -> np.ndarray:
        parts = [self._open_shard(k).index[name] for k in range(len(self._shards))]
        return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty(0, dtype)


def _in_words(error: OSError, path: Path, episodes: int) -> OSError:
    """What went wrong with a file of a store, that nothing is lost, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    kept = f"{episodes} complete episodes are safe; " if episodes else ""
    remedy = "make room" if error.errno in DISK_FULL else "repair that"
    return OSError(error.errno, f"{reason}: {kept}{remedy} and run the same command again", str(path))


def _batch(columns: Mapping[str, pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
