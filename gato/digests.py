"""A checkpoint's `manifest.json`: size and SHA-256 of its files, so that what is loaded is what was saved.

{"format": 1, "files": {"model.safetensors": {"bytes": 4321, "sha256": "..."}, ...}}
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .disk import read_json, shown, write_json

NAME = "manifest.json"
FORMAT = 1
OF_MODEL = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")  # transformers' files


def record(folder: Path, names: Iterable[str]) -> None:
    """Notes these files as they are now beside those that are noted already; one that is gone is noted no more."""
    path = folder / NAME
    entries: dict[str, Any] = entries_of(folder) if path.is_file() else {}
    for name in names:
        entries.pop(name, None)
        if (folder / name).is_file():
            entries[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    write_json(path, {"format": FORMAT, "files": dict(sorted(entries.items()))})
    for file in (folder / name for name in entries):  # safetensors writes for the owner alone: who may read the others may read these
        if file.is_file() and (missing := path.stat().st_mode & ~file.stat().st_mode):
            with contextlib.suppress(PermissionError):  # another user's
                file.chmod(file.stat().st_mode | missing)


def renew_model(folder: Path) -> None:
    """After the model's files were written anew: older weights in the other form go, and what is noted of the files is renewed."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file() and single.is_file():  # whichever was written later is meant
        if index.stat().st_mtime_ns >= single.stat().st_mtime_ns:
            single.unlink()
        else:
            for shard in folder.glob("model-*-of-*.safetensors"):
                shard.unlink()
            index.unlink()
    if (folder / NAME).is_file():
        noted = {name for name in entries_of(folder) if any(Path(name).match(pattern) for pattern in OF_MODEL)}
        record(folder, noted | {path.name for pattern in OF_MODEL for path in folder.glob(pattern)})


def entries_of(folder: Path) -> dict[str, dict[str, Any]]:
    """`{file name: {"bytes", "sha256"}}`. **Raises:** `ValueError` if the manifest is missing, damaged or of another format."""
    path = folder / NAME
    content = read_json(path)
    files = content.get("files")
    if type(content.get("format")) is not int or content["format"] != FORMAT or not isinstance(files, dict):
        raise ValueError(f"'{path}' is no manifest of a checkpoint of format {FORMAT}; restore it, or remove it to go without its hashes")
    for name, entry in files.items():
        known = entry if isinstance(entry, dict) else {}
        is_entry = (
            type(known.get("bytes")) is int and isinstance(known.get("sha256"), str) and re.fullmatch("[0-9a-f]{64}", known["sha256"])
        )
        if not is_entry or Path(name).name != name or "\0" in name:
            raise ValueError(f"'{path}' is damaged: its entry {shown(name)} is no file with a size and a SHA-256; restore it")
    return files


def check(folder: Path, names: Iterable[str] | None = None) -> None:
    """Compares files, by default all that are noted, with the manifest; reads each of them once.

    **Raises:** `ValueError` naming the first file that is missing, not noted, or of another size or hash.
    """
    entries = entries_of(folder)
    for name in entries if names is None else names:
        if found := difference(folder, name, entries.get(name)):
            raise ValueError(f"'{folder / name}' {found}")


def difference(folder: Path, name: str, entry: dict[str, Any] | None) -> str | None:
    """What tells a file from its entry, as the end of a sentence; `None` if it is as it was saved."""
    path = folder / name
    if entry is None:
        return f"is not what was saved: {NAME} does not name it; restore the checkpoint"
    if not path.is_file():
        return "is missing; restore it, or use another checkpoint"
    if (size := path.stat().st_size) != entry["bytes"]:
        return f"is damaged: it has {size} bytes, {entry['bytes']} were saved; restore it, or use another checkpoint"
    if sha256(path) != entry["sha256"]:
        return f"is damaged: its SHA-256 is not that of {NAME}; restore it, or use another checkpoint"
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
