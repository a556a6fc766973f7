"""Values of the report as text and HTML: numbers, intervals, shares, times, pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import Any


def data_uri(picture: str) -> str:
    return f"data:image/png;base64,{escape(picture)}"


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
    return f"<small>[{number(low, decimals)}, {number(high, decimals)}]</small>"


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


def cell(label: str, content: str) -> str:
    return f'<td class="number" data-label="{label}">{content}</td>'
