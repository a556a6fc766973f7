"""Values of the report as text: numbers, intervals, shares, times; and the tables that hold them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """A value, and what stands small beside it."""

    text: str
    bounds: str = ""
    is_bold: bool = False


@dataclass(frozen=True)
class Row:
    """- `name`; `failed`: a remark below it. - `cells` by their labels. - `bar`: SVG, `None` where no row has one. - `kind`: CSS class."""

    name: str
    cells: Mapping[str, Cell]
    bar: Markup | None = None
    kind: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Table:
    """- `head`: what the first column holds; without it there is no line of labels.
    - `axis`: marks above the bars, `place` in per cent and `text`. - `kind`: CSS classes.
    """

    rows: Sequence[Row]
    head: str = ""
    axis: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    kind: str = "scores"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def decimals_of(values: Iterable[Any]) -> int:
    """As many as give the largest of the values about four figures, so that a row's numbers can be compared."""
    size = max((abs(v) for v in values if is_number(v)), default=0)
    return 0 if size >= 1000 else 1 if size >= 100 else 2 if size > 1 else 3


def number(value: Any, decimals: int) -> str:
    """With a true minus sign; a dash for what is not known."""
    return f"{value:,.{decimals}f}".replace("-", "\u2212") if is_number(value) else "\u2013"


def interval(low: Any, high: Any, decimals: int) -> str:
    if not (is_number(low) and is_number(high)):
        return ""
    return f"[{number(low, decimals)}, {number(high, decimals)}]"


def ranged(value: Any, low: Any, high: Any, decimals: int, is_bold: bool = False) -> Cell:
    return Cell(number(value, decimals), interval(low, high, decimals), is_bold)


def percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f} %"


def counted(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "an unknown number of" if value is None else str(value)


def short(number: float) -> str:
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
