"""Words from outside: text that a model may see or say, and what else a row says of itself.

Where there are none the row is left out and counted; what is no text is refused.
"""

from __future__ import annotations

import ast
import datetime
import decimal
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

MAX_TEXT = 2**16  # characters of a caption, a question or an answer
MAX_DEPTH = 16  # of lists and objects that a row says of itself

_HALF = re.compile("[\ud800-\udfff]")


def words(value: object, label: str, limit: int = MAX_TEXT) -> str | None:
    """A text as it is; `None` where there are no words: null, not a number (as pandas writes null), or blank space alone.

    **Raises:** `ValueError` beginning with the label for what is no text, for text above `limit` characters, and for text
    that no encoding can write: half of a surrogate pair.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        raise ValueError(f"{label} is {kind_of(value)}, expected text")
    if not value.strip():
        return None
    if len(value) > limit:
        raise ValueError(f"{label} has {len(value)} characters, more than {limit}; shorten it or break it up")
    _refuse_halves(value, label)
    return value


def listed(value: object) -> object:
    """A list that was written as text, in JSON or as Python prints it, as in cells of CSV; anything else as it is.

    What does not print as it was written is left alone: of `['a' 'b']` Python would make one text.
    """
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return value
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return value
    for parse in (json.loads, ast.literal_eval):  # literals alone: nothing is run
        try:
            with warnings.catch_warnings(action="ignore"):  # of backslashes
                found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        is_flat = isinstance(found, list) and all(isinstance(item, str | None) for item in found)
        if is_flat and (parse is json.loads or str(found) == text):
            return found
    return value


def sayings(values: Mapping[str, Any], names: Iterable[str], place: str) -> dict[str, Any]:
    """What a row says under these names, as plain JSON values; what it leaves open is left out.

    **Raises:** `ValueError` naming place and name of the first that has no JSON form.
    """
    found = {name: _plain(values[name], f"{place}: '{name}'") for name in names if name in values}
    return {name: value for name, value in found.items() if value is not None}


def kind_of(value: object) -> str:
    """What a value is, in words."""
    kinds: dict[type, str] = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number", bytes: "bytes"}
    shown = {bool: f" ({value})".lower(), int: f" ({str(value)[:20]})", float: f" ({value})"}.get(type(value), "")
    return "null" if value is None else kinds.get(type(value), f"of the type {type(value).__name__}") + shown


def _plain(value: Any, label: str, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"{label} is nested deeper than {MAX_DEPTH}; take it out")
    if isinstance(value, str):
        _refuse_halves(value, label)
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, list):
        return [_plain(item, label, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_plain(str(key), label): _plain(item, label, depth + 1) for key, item in value.items()}
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    raise ValueError(f"{label} is {kind_of(value)}, which has no JSON form; take it out")


def _refuse_halves(text: str, label: str) -> None:
    if not text.isascii() and (half := _HALF.search(text)):
        raise ValueError(f"{label} holds U+{ord(half[0]):04X}, half of a surrogate pair, which no encoding can write; repair it")
