"""The first shards of a store: what a run that goes on from a checkpoint keeps of the episodes that it wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gato.lock import FolderLock

from .shards.journal import JOURNAL_NAME
from .shards.manifest import MANIFEST_NAME, Manifest


def keep_episodes(path: Path, count: int) -> None:
    """Removes all episodes of a store but the first `count`, which must be those of its first shards. It may be absent for 0.

    A crash in between leaves the store as it was, or files that the next call removes.

    **Raises:** `ValueError` if there are fewer, or a shard holds some that are to stay and some that are not.
    """
    if not (path / MANIFEST_NAME).is_file():
        if count:
            raise ValueError(
                f"store {path} is not there, but {count} of its episodes are needed to go on; restore it, or start another run"
            )
        return
    lock = FolderLock(path)
    try:
        manifest, kept, found = Manifest.load(path), [], 0
        for shard in manifest.shards:
            if found < count:
                kept.append(shard)
                found += shard.episodes.rows
        if found != count:
            raise ValueError(
                f"store {path} has no shards of {count} episodes, but {manifest.num_episodes} in all; restore it, or start another run"
            )
        (path / JOURNAL_NAME).unlink(missing_ok=True)  # its episodes come after all those of shards
        kept_manifest = replace(manifest, shards=tuple(kept))
        kept_manifest.save(path)
        for file in (*path.glob("timesteps-*.arrow"), *path.glob("episodes-*.arrow")):
            if file.name not in kept_manifest.file_names:
                file.unlink()
    finally:
        lock.release()
