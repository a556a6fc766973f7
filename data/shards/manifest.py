"""The manifest of a store: which tasks it holds and which finished shards, with sizes and SHA-256.

It is data from outside. Whatever it says about a file is compared with the file before the file is
mapped, and it can only name files inside its own folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gato.disk import sync
from gato.spec import TaskSpec

MANIFEST_NAME = "manifest.json"
HOW_TO_GET_ONE = "collect one, or bring data in with 'gato data import'"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, above the quota, above the limit of a file
FORMAT = "gato-store"
VERSION = 1

_KEYS = {
    "format", "version", "fingerprint", "num_episodes", "num_timesteps", "timestep_batch_rows", "episode_batch_rows",
    "tasks", "provenance", "shards", "sha256",
}  # fmt: skip
_BLANK = "0" * 64  # stands for the file's own SHA-256 while that is computed
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class FileEntry:
    """One finished Arrow file: plain name, rows, bytes, SHA-256."""

    file: str
    rows: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not _PLAIN_NAME.fullmatch(self.file):
            raise ValueError(f"names the file {self.file!r}; a shard is a plain file name inside the store's folder")
        for name in ("rows", "bytes"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"says that {self.file} has {value!r} {name}; expected a positive integer")
        if not isinstance(self.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"gives {self.file} the SHA-256 {self.sha256!r}; expected 64 hexadecimal digits")

    def check_size(self, folder: Path) -> None:
        """**Raises:** `ValueError` if the file is missing or has another size."""
        path = folder / self.file
        if not path.is_file():
            raise ValueError(f"shard {path} is missing; restore it or import the source again")
        if (size := path.stat().st_size) != self.bytes:
            raise ValueError(
                f"shard {path} has {size} bytes, expected {self.bytes}; it was cut or changed, restore it or import the source again"
            )

    def check_digest(self, folder: Path) -> None:
        """Reads the whole file. **Raises:** `ValueError` if its SHA-256 differs."""
        with open(folder / self.file, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise ValueError(
                f"shard {folder / self.file} has SHA-256 {digest}, expected {self.sha256}; "
                "its content changed, restore it or import the source again"
            )


@dataclass(frozen=True)
class ShardEntry:
    """The two files of a shard: its timesteps and its episodes."""

    timesteps: FileEntry
    episodes: FileEntry


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    **Arguments:**

    - `tasks`: all with the same fields' names, shapes and dtypes; an episode says which is its own.
    - `timestep_batch_rows`, `episode_batch_rows`: rows of all record batches but the last of a file.
    - `shards`: in order; episode i of the store is counted through them.
    - `provenance`: where the data comes from; free JSON, no part of the fingerprint.
    """

    tasks: tuple[TaskSpec, ...]
    timestep_batch_rows: int
    episode_batch_rows: int
    shards: tuple[ShardEntry, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_episodes(self) -> int:
        return sum(s.episodes.rows for s in self.shards)

    @property
    def num_timesteps(self) -> int:
        return sum(s.timesteps.rows for s in self.shards)

    @property
    def shortfall(self) -> str | None:
        """What is missing, in words, where the writer said how many episodes there will be (`expected_episodes` of the provenance)
        and has not come to its end; `None` where it has, or where it did not say."""
        expected = self.provenance.get("expected_episodes")
        if type(expected) is not int or self.num_episodes >= expected:
            return None
        of = "collection" if self.provenance.get("source") == "gato.data.collect" else "import"
        return f"{self.num_episodes} of {expected} episodes: its {of} did not end, run the same command again"

    @property
    def not_imported(self) -> list[str]:
        """What the import left out: a count and a reason each, with an example where there is one."""
        counts, examples = (self.provenance.get(key) for key in ("left_out", "left_out_examples"))
        lines = [
            f"{count} {what}" + (f", such as {examples[what]}" if isinstance(examples, dict) and what in examples else "")
            for what, count in (counts.items() if isinstance(counts, dict) else ())
        ]
        if isinstance(counts, list) and counts:  # of a format whose episodes have more fields than a spec can hold
            lines.append(f"the fields {', '.join(map(str, counts))}")
        skipped = self.provenance.get("skipped")
        if isinstance(skipped, list) and skipped and isinstance(skipped[0], dict):
            lines.append(f"{len(skipped)} bad rows, such as {skipped[0].get('row')}")
        return lines

    @property
    def file_names(self) -> set[str]:
        return {f.file for s in self.shards for f in (s.timesteps, s.episodes)}

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with the schema version, a task spec or any byte of a shard."""
        identity = {
            "version": VERSION,
            "tasks": [t.to_dict() for t in self.tasks],
            "shards": [[s.timesteps.sha256, s.episodes.sha256] for s in self.shards],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Replaces the folder's manifest: a reader sees the old one or this one, nothing between."""
        values = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "num_episodes": self.num_episodes,
            "num_timesteps": self.num_timesteps,
            "timestep_batch_rows": self.timestep_batch_rows,
            "episode_batch_rows": self.episode_batch_rows,
            "tasks": [t.to_dict() for t in self.tasks],
            "provenance": dict(self.provenance),
            "shards": [asdict(s) for s in self.shards],
            "sha256": _BLANK,
        }
        content = json.dumps(values, indent=1, ensure_ascii=False, default=str).encode()
        temporary = folder / f"{MANIFEST_NAME}.{secrets.token_hex(4)}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(_with_digest(content))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / MANIFEST_NAME)
        finally:
            temporary.unlink(missing_ok=True)
        sync(folder)

    def check_sizes(self, folder: Path) -> None:
        """One `stat` per file. **Raises:** `ValueError` naming a file that is missing or has another size, or a changed manifest."""
        try:
            for shard in self.shards:
                shard.timesteps.check_size(folder)
                shard.episodes.check_size(folder)
        except ValueError:
            self.check_file(folder)  # it may be the manifest that is wrong about the file
            raise

    def check_file(self, folder: Path) -> None:
        """Whether the manifest's file is byte for byte what was written; files of older releases do not say.

        **Raises:** `ValueError` if its SHA-256 differs.
        """
        path = folder / MANIFEST_NAME
        content = path.read_bytes()
        digest = json.loads(content).get("sha256")
        if digest is not None and _with_digest(content.replace(str(digest).encode(), _BLANK.encode())) != content:
            raise ValueError(f"{path} does not have the SHA-256 that it names; it was changed, restore it or import the source again")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """**Raises:** `ValueError` naming the file and what is wrong with it."""
        path = folder / MANIFEST_NAME
        if not folder.is_dir():
            raise ValueError(f"there is no store at {folder}: the folder does not exist; {HOW_TO_GET_ONE}")
        if not path.is_file():
            raise ValueError(f"there is no store at {folder}: it has no {MANIFEST_NAME}; {HOW_TO_GET_ONE}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f'{path} is no manifest of a store: it lacks "format": "{FORMAT}"')
        if values.get("version") != VERSION:
            raise ValueError(
                f"{path} has format version {values.get('version')!r}, but this release reads version {VERSION}; "
                "use the release that wrote it, or import the source again"
            )
        if unknown := values.keys() - _KEYS:
            raise ValueError(f"{path} has the unknown keys {sorted(unknown)}; restore it or import the source again")
        try:
            return cls._from_values(values)
        except KeyError as error:
            raise ValueError(f"{path} lacks the key {error}") from None
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{path} {error}") from None

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> Manifest:
        for key in ("timestep_batch_rows", "episode_batch_rows"):
            if type(values[key]) is not int or values[key] < 1:
                raise ValueError(f"has {key} {values[key]!r}; expected a positive integer")
        manifest = cls(
            tasks=tuple(TaskSpec.from_dict(t) for t in values["tasks"]),
            timestep_batch_rows=values["timestep_batch_rows"],
            episode_batch_rows=values["episode_batch_rows"],
            shards=tuple(ShardEntry(FileEntry(**s["timesteps"]), FileEntry(**s["episodes"])) for s in values["shards"]),
            provenance=values["provenance"],
        )
        if not manifest.tasks or not isinstance(manifest.provenance, dict):
            raise ValueError("names no task, or its provenance is no JSON object")
        return manifest


def task_differences(expected: Sequence[TaskSpec], found: Sequence[TaskSpec]) -> list[str]:
    """What two lists of task specs disagree on, one line each.

    Random and expert returns do not count, nor does a limit that one side lacks: they are often measured after the first episodes.
    """
    if [t.name for t in expected] != [t.name for t in found]:
        return [f"tasks are {[t.name for t in found]}, expected {[t.name for t in expected]}"]
    lines = []
    for a, b in zip(expected, found, strict=True):
        mine, theirs = (json.loads(json.dumps(t.with_returns(None, None).to_dict())) for t in (a, b))
        fields = [{(f["role"], f["name"]): f for f in values.pop("fields")} for values in (mine, theirs)]
        if None in (mine["episode_limit"], theirs["episode_limit"]):
            mine["episode_limit"] = theirs["episode_limit"]
        pairs = [(f"task '{a.name}'", mine, theirs)]
        for role, name in sorted(fields[0].keys() | fields[1].keys()):
            label = f"task '{a.name}': {role} '{name}'"
            if (role, name) in fields[0] and (role, name) in fields[1]:
                pairs.append((label, fields[0][role, name], fields[1][role, name]))
            else:
                lines.append(f"{label} is {'missing' if (role, name) in fields[0] else 'unknown'}")
        lines += [f"{label} has {k} {t[k]!r}, expected {m[k]!r}" for label, m, t in pairs for k in m if m[k] != t[k]]
    return lines


def with_known_returns(task: TaskSpec, before: TaskSpec) -> TaskSpec:
    """A measured return is not forgotten because the next run has not measured it."""

    def newest(new: float | None, old: float | None) -> float | None:
        return old if new is None else new

    return task.with_returns(newest(task.random_return, before.random_return), newest(task.expert_return, before.expert_return))


def _with_digest(content: bytes) -> bytes:
    """Puts the SHA-256 of the content in the place of its last blank."""
    before, _, after = content.rpartition(_BLANK.encode())
    return before + hashlib.sha256(content).hexdigest().encode() + after
