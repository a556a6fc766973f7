"""What somebody may have meant by a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], dashes: str = "") -> str:
    """`; did you mean ...?` for the end of a message, or nothing. Whole names are compared first, the parts behind their last dot then."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.7)
    if not near:
        leaves = {k.split(".")[-1]: k for k in names}
        near = [leaves[m] for m in get_close_matches(name.split(".")[-1], leaves, n=1)]
    return f"; did you mean '{dashes}{near[0]}'?" if near else ""
