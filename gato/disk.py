"""What goes to disk and comes from it: values as JSON can hold them, JSON files that others may have changed, syncing."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

MAX_BYTES = 2**28  # of a JSON file; a checkpoint's largest lists its tasks
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}


def finite(value: Any) -> Any:
    """The same with `None` for NaN and infinity, which are no JSON."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def reason(error: BaseException) -> str:
    """Kind and words of an error; many have no words."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def refusal(error: BaseException) -> str:
    """What a refusal says, which is a `ValueError` with words; kind and words of any other error."""
    return " ".join(str(error).split()) if isinstance(error, ValueError) and str(error) else reason(error)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. **Raises:** `ValueError` naming the file if it is missing, damaged or something else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"'{path}' has {path.stat().st_size} bytes, a JSON file of ours at most {MAX_BYTES}; restore it")
        content = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=without_repeats)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, Repeated) as error:
        raise ValueError(f"'{path}' is damaged: it is no JSON ({error}); restore it") from None
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' holds {kind_of(content)}, expected an object with named values; restore it")
    return content


def write_text(path: Path, text: str) -> None:
    """Puts a text file in place whole."""
    temporary = path.with_suffix(f"{path.suffix}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Puts a JSON file in place whole: paths as text, NaN and infinity as null."""
    write_text(path, json.dumps(finite(content), indent=1, default=os.fspath))


def kind_of(value: Any) -> str:
    """A JSON value's type in words."""
    return _KINDS.get(type(value), type(value).__name__)


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Repeated(ValueError):
    """A name stands twice in one object, of which Python's reader would take the last."""


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as JSON's reader finds it; its `object_pairs_hook`. **Raises:** `Repeated`."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise Repeated(f"the key '{next(n for n in names if names.count(n) > 1)[:80]}' is there twice in an object")
    return content


def check_writable(path: Path) -> None:
    """Before the work whose result goes there; makes the folder. **Raises:** `ValueError` if the file cannot be written."""
    probe = path.with_name(f".{path.name}.probe")
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "is a folder, expected a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"'{path}' cannot be written: {error.strerror}; name another file") from None


def make_folder(path: Path) -> None:
    """Makes the folder of some results. **Raises:** `ValueError` where a file lies in its place, or it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        file = next((p for p in (path, *path.parents) if p.is_file()), None)
        what = f"'{file}' is a file" if file else f"it cannot be made: {error.strerror}"
        raise ValueError(f"the results need a folder '{path}', but {what}; name another --out") from None


def spanned(low: float | None, high: float | None, form: str) -> str:
    """`[low, high]` in a format such as `.1f`; nothing where a single value gave no interval."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{low:{form}}, {high:{form}}]"


def sync(path: Path) -> None:
    """Makes what a file holds, or renames inside a folder, durable, on the systems that allow it."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
