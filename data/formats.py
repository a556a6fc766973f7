"""The field's file formats, by name: what `gato data import` reads and `gato data export` writes.

A format is one file of this room with two dataclasses whose fields are its options: a reader, whose
`open(path)` gives a `Dataset`, and, where we write the format too, a writer, whose `write(stores, out)` gives
counts. Everything after a `Dataset` is the same for all: one store per split, resumable, counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from gato.episode import Episode
from gato.spec import TaskSpec

from .progress import Progress
from .store import Store, StoreWriter

# format -> (module of this room, the class); imported when first used
READERS: dict[str, tuple[str, str]] = {
    "adapter": ("adapter", "Adapter"),
    "interleaved": ("interleaved", "InterleavedReader"),
    "jat": ("jat", "JatReader"),
    "lerobot": ("lerobot", "LeRobotReader"),
    "minari": ("minari", "MinariReader"),
    "pictures": ("pictures", "PicturesReader"),
    "recordings": ("recordings", "Recordings"),
    "text": ("text", "TextReader"),
    "vqa": ("vqa", "VqaReader"),
    "webdataset": ("webdataset", "WebdatasetReader"),
}
WRITERS: dict[str, tuple[str, str]] = {
    "jat": ("jat_writer", "JatWriter"),
    "lerobot": ("lerobot_export", "LeRobotWriter"),
    "minari": ("minari_writer", "MinariWriter"),
}


class Episodes(Protocol):
    """Reads the episodes of a split."""

    def __call__(self, split: str, start: int) -> Iterator[Episode]:
        """The episodes from place `start` on, in an order that never changes; skipping costs no decoding.

        **Raises:** `ValueError` naming file, row or episode, and field, for what cannot be an episode.
        """


@dataclass(frozen=True)
class Dataset:
    """A dataset of another format, opened but not read.

    - `source`: its name, for the manifest; `digest`: SHA-256 that changes whenever an episode does.
    - `tasks`: of its episodes; `splits`: number of episodes by split.
    - `episodes`: reads them.
    - `provenance`: JSON values for the manifest: format, version, licence, what was left out and how many.
    """

    source: str
    digest: str
    tasks: tuple[TaskSpec, ...]
    splits: Mapping[str, int]
    episodes: Episodes
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """A dataclass whose fields are the options of `gato data import FORMAT`."""

    def open(self, path: Path) -> Dataset:
        """**Raises:** `ValueError` in one line: what was found at `path`, what was expected, what to do;
        `ImportError` with the pip line for a missing extra."""


class Writer(Protocol):
    """A dataclass whose fields are the options of `gato data export FORMAT`."""

    def write(self, stores: Sequence[Store], out: Path) -> dict[str, Any]:
        """Writes a dataset into the new folder `out`, complete or not at all; returns counts to print.

        **Raises:** `ValueError` if `out` exists or the format cannot hold what the stores do.
        """


def reader(name: str) -> type[Reader]:
    return _class(READERS, name)


def writer(name: str) -> type[Writer]:
    return _class(WRITERS, name)


def import_dataset(dataset: Dataset, out: str | Path, splits: Sequence[str] | None = None) -> dict[str, Path]:
    """Writes one store per split into `out/SPLIT` and returns their folders; goes on where it was interrupted.

    **Arguments:** `splits`: which; all of them where `None`.

    **Raises:** `ValueError` for a split that the dataset lacks, and naming the place of a bad episode; the
    episodes before it are kept.
    """
    wanted = list(dataset.splits) if splits is None else list(splits)
    if unknown := [s for s in wanted if s not in dataset.splits]:
        raise ValueError(f"{dataset.source} has no split {unknown}; it has {dict(sorted(dataset.splits.items()))}")
    folders = {split: Path(out) / split for split in wanted}
    for split, folder in folders.items():
        with StoreWriter(folder, dataset.tasks, {**dataset.provenance, "split": split}) as writer:
            writer.bind(dataset.source, dataset.digest)
            done = writer.num_episodes
            with Progress(f"{dataset.source} {split}", dataset.splits[split], done=done) as progress:
                for episode in dataset.episodes(split, done):
                    writer.append(episode)
                    progress.advance()
    return folders


def _class(table: Mapping[str, tuple[str, str]], name: str) -> Any:
    module, attribute = table[name]
    return getattr(import_module(f".{module}", __package__), attribute)
