"""The field's file formats, by name: what `gato data import` reads and `gato data export` writes.

A format is one file of this room with two dataclasses whose fields are its options: a reader, whose
`open(path)` gives a `Dataset`, and, where we write the format too, a writer, whose `write(stores, out)` gives
counts. Everything after a `Dataset` is the same for all: one store per split, resumable, counted (`left_out`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from gato.data.shards.columns import is_same_episode, timestep_columns
from gato.data.shards.manifest import MANIFEST_NAME
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.progress import Progress
from gato.spec import TaskSpec

from .left_out import BadRow, LeftOut

# format -> (module of this room, the class); imported when first used
READERS: dict[str, tuple[str, str]] = {
    "adapter": ("adapter", "Adapter"),
    "interleaved": ("interleaved", "InterleavedReader"),
    "jat": ("jat", "JatReader"),
    "lerobot": ("lerobot.reader", "LeRobotReader"),
    "minari": ("minari", "MinariReader"),
    "pictures": ("pictures", "PicturesReader"),
    "recordings": ("recordings.reader", "Recordings"),
    "text": ("text", "TextReader"),
    "vqa": ("vqa", "VqaReader"),
    "webdataset": ("webdataset", "WebdatasetReader"),
}
WRITERS: dict[str, tuple[str, str]] = {
    "jat": ("jat_writer", "JatWriter"),
    "lerobot": ("lerobot.writer", "LeRobotWriter"),
    "minari": ("minari_writer", "MinariWriter"),
}


class Episodes(Protocol):
    """Reads the episodes of a split."""

    def __call__(self, split: str, start: int) -> Iterator[Episode]:
        """The episodes from place `start` on, in an order that never changes; skipping costs no decoding.

        What cannot be an episode goes to the dataset's `left_out`, which refuses or skips it; it keeps its place.

        **Raises:** `ValueError` naming file, row or episode, and field.
        """


@dataclass(frozen=True)
class Dataset:
    """A dataset of another format, opened but not read.

    - `source`: its name, for the manifest; `digest`: SHA-256 that changes whenever an episode does.
    - `tasks`: of its episodes; `splits`: number of episodes by split.
    - `episodes`: reads them.
    - `provenance`: JSON values for the manifest: format, version, licence.
    - `left_out`: what was left out when it was opened, and takes what is while it is read.
    """

    source: str
    digest: str
    tasks: tuple[TaskSpec, ...]
    splits: Mapping[str, int]
    episodes: Episodes
    provenance: Mapping[str, Any] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)


class Reader(Protocol):
    """A dataclass whose fields are the options of `gato data import FORMAT`."""

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """`left_out`: counts what is left out and says which bad rows may be; the dataset keeps it. By default none may.

        **Raises:** `ValueError` in one line: what was found at `path`, what was expected, what to do;
        `ImportError` with the pip line for a missing extra.
        """


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

    The stores of all splits that are there already are looked at before the first one is written to. Where the source was
    repaired since, its first episodes must be those that a store holds.

    **Arguments:** `splits`: which; all of them where `None`.

    **Raises:** `ValueError` for a split that the dataset lacks, for a store of another source, and naming the place of a bad
    episode; the episodes before it are kept, and where there are none no folder is left.
    """
    wanted = list(dataset.splits) if splits is None else list(dict.fromkeys(splits))
    if unknown := [s for s in wanted if s not in dataset.splits]:
        raise ValueError(f"{dataset.source} has no split {unknown}; it has {dict(sorted(dataset.splits.items()))}")
    folders = {split: Path(out) / split for split in wanted}
    for split, folder in folders.items():
        _check(dataset, split, folder)
    for split, folder in folders.items():
        num_kept = 0
        try:
            with StoreWriter(folder, dataset.tasks) as writer:
                try:
                    _fill(writer, dataset, split)
                finally:
                    num_kept = writer.num_episodes
        except ValueError as error:
            if not num_kept:
                raise
            how = ", or with a --skip that allows it" if isinstance(error, BadRow) else ""
            before = f"the {num_kept} episodes before it are" if num_kept > 1 else "the episode before it is"
            kept = f"{before} kept in {folder}"
            raise ValueError(f"{error}; {kept}, and the same command goes on there when it is repaired{how}") from None
    return folders


def _check(dataset: Dataset, split: str, folder: Path) -> None:
    """Whether a split can be written to a folder, and goes on from what is there.

    **Raises:** `ValueError` if it has no episode, if the folder is none, or if the store in it holds other episodes.
    """
    if not dataset.splits[split]:
        raise ValueError(f"{dataset.source} has no episode in its split '{split}'; name the others by --splits")
    if not (folder / MANIFEST_NAME).exists():
        if above := next((f for f in (folder, *folder.parents) if f.exists() and not f.is_dir()), None):
            raise ValueError(f"'{above}' is a file, so there can be no store in {folder}; give another --out")
        return
    with StoreWriter(folder, dataset.tasks) as writer:
        before = writer.provenance
        if not writer.num_episodes or before.get("sha256") == dataset.digest:
            return
        if before.get("source") == dataset.source:
            _compare(writer, dataset, split)
        writer.bind(dataset.source, dataset.digest)


def _compare(writer: StoreWriter, dataset: Dataset, split: str) -> None:
    """Binds a store to a source that was changed since, where that begins with the episodes that the store holds.

    **Raises:** `ValueError` naming the first episode that is another one now.
    """
    store, columns, left_out = Store(writer.path), timestep_columns(writer.tasks), dataset.left_out
    known = len(left_out.episodes)
    episodes, skipped, count = dataset.episodes(split, 0), [], 0
    with Progress(f"{dataset.source} {split}, compared with {writer.path}", store.num_episodes) as progress:
        for i in range(store.num_episodes):
            found = next(episodes, None)
            skipped += [{"row": row, "before": i} for row in left_out.episodes[known + count :]]
            count = len(skipped)
            if found is None or not is_same_episode(columns, store.episode(i), found):
                raise ValueError(
                    f"store {writer.path} already holds {store.num_episodes} episodes of another source: {dataset.source}, or how it is "
                    f"read, was changed, and its episode {i} is another one now; remove the folder or import into another one"
                )
            progress.advance()
    del left_out.episodes[known:]  # they are counted where the import goes on
    writer.note(source=dataset.source, sha256=dataset.digest, skipped=skipped)


def _fill(writer: StoreWriter, dataset: Dataset, split: str) -> None:
    """Adds the episodes of a split behind those that are there, and names in the provenance which were skipped.

    A skipped one is saved with the number of the store's episode that follows it, before that episode is: whatever is
    lost when a writer is killed, the episodes that are there and the skipped ones before them say where the next goes on.
    """
    left_out, total = dataset.left_out, dataset.splits[split]
    is_same = writer.provenance.get("sha256") == dataset.digest
    before = writer.provenance.get("skipped", []) if is_same else []
    if is_same and writer.num_episodes:
        left_out.resume(writer.provenance)
    skipped = [x for x in before if x["before"] is not None and x["before"] <= writer.num_episodes]
    left_out.episodes += [x["row"] for x in skipped]  # they count towards the limit
    known = len(left_out.episodes)
    unread = [{"row": row, "before": None} for row in left_out.rows]
    notes = {"skipped": unread + skipped} if unread or skipped or "skipped" in writer.provenance else {}
    facts = {**left_out.notes(), **dataset.provenance, "split": split, **notes}
    writer.bind(dataset.source, dataset.digest, expected_episodes=total - len(skipped), **facts)

    def note_skipped() -> None:
        nonlocal known
        new, known = left_out.episodes[known:], len(left_out.episodes)
        skipped.extend({"row": row, "before": writer.num_episodes} for row in new)
        if new:
            writer.note(skipped=unread + skipped, expected_episodes=total - len(skipped), **left_out.notes())
        for _ in new:
            progress.advance()

    start = writer.num_episodes + len(skipped)
    try:
        with Progress(f"{dataset.source} {split}", total, done=start) as progress:
            for episode in dataset.episodes(split, start):
                note_skipped()
                try:
                    writer.append(episode)
                except ValueError as error:
                    if recording := episode.parameters.get("recording"):
                        raise ValueError(f"{recording}: {error}") from None
                    raise
                progress.advance()
            note_skipped()
    finally:
        writer.provenance.update(left_out.notes())  # what was counted while it was read; saved when the writer closes
    if (found := writer.num_episodes + len(skipped)) != total:
        raise ValueError(f"{dataset.source} {split} had {total} episodes when it was opened and {found} when it was read: it changed")
    if not writer.num_episodes:
        last = skipped[-1]["row"]
        raise ValueError(
            f"{dataset.source} {split} holds no episode but {total} bad ones (name other splits by --splits); the last one: {last}"
        )


def _class(table: Mapping[str, tuple[str, str]], name: str) -> Any:
    module, attribute = table[name]
    return getattr(import_module(f".{module}", __package__), attribute)
