"""The JSON types of a task spec: specs come from files, which may hold anything under any name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .disk import kind_of, shown

_SURROGATE = re.compile("[\\ud800-\\udfff]")  # half a character, which no file can hold
MAX_NAME = 2**10  # letters


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_NAME and "\0" not in value and not _SURROGATE.search(value)


def _is_int(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    return (type(value) is float and not math.isnan(value)) or _is_int(value)


def _each(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(map(test, value))


def _or_null(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or test(value)


_Rules = dict[str, tuple[Callable[[Any], bool], str]]
FIELD: _Rules = {
    "name": (_is_text, "a text"),
    "modality": (lambda v: v in ("text", "image", "discrete", "continuous"), "text, image, discrete or continuous"),
    "role": (lambda v: v in ("observation", "action"), "observation or action"),
    "shape": (_each(_is_int), "a list of whole numbers"),
    "dtype": (_is_text, "a text"),
    "low": (_or_null(_each(_or_null(_is_number))), "a list of numbers, or null"),
    "high": (_or_null(_each(_or_null(_is_number))), "a list of numbers, or null"),
    "path": (_each(lambda v: _is_text(v) or (_is_int(v) and v >= 0)), "a list of keys and indices"),
    "resize": (lambda v: v in ("exact", "pad", "stretch"), "exact, pad or stretch"),
    "image_size": (
        _or_null(lambda v: _each(_is_int)(v) and len(v) == 2 and all(0 < n <= 2**14 for n in v)), "two whole numbers above 0, or null",
    ),
    "origin": (_or_null(_each(_is_number)), "a list of numbers, or null"),
    "scale": (_or_null(_each(_is_number)), "a list of numbers, or null"),
}  # fmt: skip
TASK: _Rules = {
    "name": (lambda v: _is_text(v) and v != "", "a text that is not empty"),
    "fields": (_each(lambda v: isinstance(v, Mapping)), "a list of fields"),
    "env_id": (_or_null(_is_text), "a text or null"),
    "env_kwargs": (lambda v: isinstance(v, Mapping), "an object"),
    "random_return": (_or_null(lambda v: _is_number(v) and math.isfinite(v)), "a finite number or null"),
    "expert_return": (_or_null(lambda v: _is_number(v) and math.isfinite(v)), "a finite number or null"),
    "episode_limit": (_or_null(lambda v: _is_int(v) and v > 0), "a whole number above 0, or null"),
    "success": (_or_null(lambda v: isinstance(v, str)), "a text or null"),
    "licence": (_or_null(lambda v: isinstance(v, str)), "a text or null"),
    "clip_actions": (lambda v: isinstance(v, bool), "true or false"),
}


def check_types(values: Any, rules: _Rules, label: str, needed: tuple[str, ...]) -> None:
    """**Raises:** `ValueError` naming a key that is unknown, missing, or holds something of another type than its rule says."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{label} is {kind_of(values)}, expected an object")
    if unknown := sorted(map(str, values.keys() - rules.keys())):
        raise ValueError(f"{label} has unknown keys {shown(unknown)}; known are {sorted(rules)}")
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f"{label} lacks the key '{missing[0]}'")
    for key, value in values.items():
        test, expected = rules[key]
        if not _holds(test, value):
            raise ValueError(f"{label} has {key} {shown(value)}, expected {expected}")


def _holds(test: Callable[[Any], bool], value: Any) -> bool:
    try:
        return bool(test(value))
    except TypeError:  # an unhashable value among texts
        return False


def plain(value: Any) -> Any:
    """NumPy's numbers among nested values as Python's, which JSON can hold."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    return value.item() if isinstance(value, np.generic) else value


def check_measures(label: str, measures: Mapping[str, tuple[float, ...] | None], size: int, is_measured: bool) -> None:
    """**Raises:** `ValueError` for an `origin` or a `scale` of a field that is not measured, or whose numbers are not such.

    **Arguments:** `size`: elements of the field; `is_measured`: whether it is a continuous observation.
    """
    for name, values in measures.items():
        if values is None:
            continue
        if not is_measured:
            article = "an" if name == "origin" else "a"
            raise ValueError(f"{label} has {article} {name}, but only continuous observations are measured from one; remove it")
        numbers = np.array(values, np.float64)
        if len(values) not in (1, size) or not np.isfinite(numbers).all() or (name == "scale" and (numbers <= 0).any()):
            kind = "finite number" if name == "origin" else "finite number above 0"
            raise ValueError(f"{label} has the {name} {values}; expected one {kind}, or {size} of them")


def is_known_dtype(dtype: str, is_text: bool) -> bool:
    if is_text:
        return dtype == "str"
    try:
        kind = np.dtype(dtype)
    except TypeError:
        return False
    return kind.kind in "biuf" and kind.name == dtype and kind.itemsize <= 8


def tuples_from_integer_keys(value: Any) -> Any:
    """Nested mappings whose keys are all whole numbers as tuples in their order."""
    if not isinstance(value, dict):
        return value
    inner = {k: tuples_from_integer_keys(v) for k, v in value.items()}
    if all(isinstance(k, int) for k in inner):
        return tuple(inner[k] for k in sorted(inner))
    return inner
