"""Values as JSON can hold them, and errors as one line."""

from __future__ import annotations

import math
from typing import Any


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
