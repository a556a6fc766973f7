"""What the Python interface is given: refused by name, with what is expected, where it is something else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from .disk import shown


def several(name: str, given: Any, of: str) -> list[Any]:
    """A list of what is given: a list, a tuple, a generator, or an array with one axis more than each of them has.

    **Raises:** `ValueError` for a single thing, such as a text, a path or a picture.
    """
    single = (
        isinstance(given, (str, bytes, bytearray, memoryview, os.PathLike, Mapping)) or hasattr(given, "read") or hasattr(given, "size")
    )
    if (single and getattr(given, "ndim", 0) not in (1, 4)) or not isinstance(given, Iterable):
        raise ValueError(f"{name} is {kind(given)}, expected a list of {of}")
    return list(given)


def text(name: str, given: Any) -> str:
    """**Raises:** `ValueError` if it is no text."""
    if not isinstance(given, str):
        raise ValueError(f"{name} is {kind(given)}, expected a text")
    return given


def texts(name: str, given: Any) -> list[str]:
    """**Raises:** `ValueError` if it is no list of texts."""
    return [text(f"{name}[{i}]", value) for i, value in enumerate(several(name, given, "texts"))]


def kind(given: Any) -> str:
    """What something is, for a message."""
    shape = getattr(given, "shape", None)
    if isinstance(shape, tuple):
        return f"{type(given).__name__} of {given.dtype} and shape {tuple(shape)}"
    return shown(given) if given is None or isinstance(given, (str, bool, int, float)) else f"of type {type(given).__name__}"


def first_of(lines: Sequence[str]) -> str:
    """The first of several findings, and how many more there are."""
    return lines[0] if len(lines) == 1 else f"{lines[0]}, and {len(lines) - 1} more"


def nearest(name: str, known: Iterable[str], dashes: str = "") -> str:
    """`; did you mean ...?` for the end of a message, or nothing. Whole names are compared first, the parts behind their last dot then."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.7)
    if not near:
        leaves = {k.split(".")[-1]: k for k in names}
        near = [leaves[m] for m in get_close_matches(name.split(".")[-1], leaves, n=1)]
    return f"; did you mean '{dashes}{near[0]}'?" if near else ""
