"""Where stores are: the folder they are kept in, and what a name or a path that somebody gives means."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .shards.manifest import HOW_TO_GET_ONE, MANIFEST_NAME


def stores_folder() -> Path:
    """Where stores are kept: `$GATO_HOME/stores`, else `gato/stores` in the platform's cache folder."""
    if home := os.environ.get("GATO_HOME"):
        return Path(home).expanduser() / "stores"
    if sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gato" / "stores"


def named_store(name: str) -> Path:
    """The folder that a store's name stands for; of a task named `MODULE:ID` it is that of the ID."""
    folder = stores_folder() / name
    return folder if folder.exists() else stores_folder() / name.rpartition(":")[2]


def find_store(name: str | Path, part: str | None = None) -> Path:
    """The folder of a store, as `store_of` finds it. **Raises:** `ValueError` if there is none, too."""
    if folder := store_of(str(name), part):
        return folder
    path, named = Path(name), named_store(str(name))
    what = f"{path} has no {MANIFEST_NAME}" if path.is_dir() else f"neither that folder nor {named} exists"
    raise ValueError(f"there is no store '{name}' ({what}); {HOW_TO_GET_ONE}")


def store_of(name: str, part: str | None = None) -> Path | None:
    """The folder of a store by its path or its name; `None` where there is none.

    A folder that holds a single store, as an import of one split leaves it, stands for that.

    **Arguments:** `part`: of a folder of several stores the one of this name is meant.

    **Raises:** `ValueError` for a folder of several, which are named.
    """
    for path in (Path(name), named_store(name)):
        if (path / MANIFEST_NAME).is_file():
            return path
    inside = _inside(name)
    chosen = [store for store in inside if store.name == part] or inside
    if len(chosen) > 1:
        raise ValueError(f"'{name}' is a folder of stores; name one: {', '.join(map(str, inside[:8]))}")
    return chosen[0] if chosen else None


def _inside(name: str) -> list[Path]:
    return [store for path in dict.fromkeys([Path(name), named_store(name)]) if name and path.is_dir() for store in stores_below(path)]


def stores_below(folder: Path) -> list[Path]:
    """The stores in a folder, or one folder deeper; a checkpoint has a manifest of its own, which is passed over."""
    files = sorted([*folder.glob(f"*/{MANIFEST_NAME}"), *folder.glob(f"*/*/{MANIFEST_NAME}")])
    return [file.parent for file in files if b'"gato-store"' in file.read_bytes()[:100]]
