"""Settings with their ranges: declared beside each field, checked wherever a configuration is made.

    @dataclass(frozen=True)
    class TrainConfig(Settings):
        steps: int | None = bounded(None, 1, 10**9)
        precision: str = choice("auto", ("auto", "bf16", "fp32"))

`Settings` checks type and range on construction; `gato/cli/arguments.py` checks the same before, to name the file.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

MAX_SEED = 2**31 - 1  # what every simulator takes
MAX_THREADS = 1024
MAX_WORKERS = 1024
MAX_SIDE = 4096  # of a picture, in pixels
MAX_FLOAT32 = 3.4e38
MAX_TEMPERATURE = 1000.0  # far beyond, all choices are equally likely
LONGEST_CHUNK = 1024  # timesteps whose actions are predicted as one
MAX_COUNT = 10**9  # of updates, episodes, rows: more is a slip


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a value may be.

    - `low`, `high`: of numbers, both ends allowed unless `above` (low is not) or `below` (high is not); `multiple`: of this.
    - `choices`: of texts; `pattern` and its `meaning`: another rule for texts.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    multiple: int = 1
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    meaning: str = ""

    def allow(self, value: Any) -> bool:
        """Whether a number or text of the right type is within."""
        if isinstance(value, str):
            wrong = (self.choices and value not in self.choices) or (self.pattern and not re.fullmatch(self.pattern, value))
            return not wrong and value != "" and "\0" not in value
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        is_finite = isinstance(value, Integral) or math.isfinite(value)  # which knows no whole numbers beyond the largest float
        return bool(is_finite and over and under and (self.multiple == 1 or value % self.multiple == 0))

    def describe(self, kind: type) -> str:
        """As in "expected ...": `a whole number from 1 to 10`."""
        if kind is str:
            return f"one of {', '.join(self.choices)}" if self.choices else self.meaning or "a text that is not empty"
        noun = "a number" if kind is float else "a whole number" if self.multiple == 1 else f"a multiple of {self.multiple}"
        if math.isinf(self.low) and math.isinf(self.high):
            return f"{noun}, not NaN or infinite" if kind is float else noun
        low, high = (f"{end:,.12g}" for end in (self.low, self.high))
        if self.above or self.below:
            return f"{noun} {'above' if self.above else 'from'} {low} and {'below' if self.below else 'at most'} {high}"
        return f"{noun} from {low} to {high}"


SEED, COUNT, INDEX = Limits(0, MAX_SEED), Limits(1, MAX_COUNT), Limits(0, MAX_COUNT)
TEMPERATURE = Limits(0, MAX_TEMPERATURE)


def bounded(default: Any, low: float, high: float, *, above: bool = False, below: bool = False, multiple: int = 1) -> Any:
    """A field for a number, or several, each within `low` and `high`; see `Limits`."""
    return dataclasses.field(default=default, metadata={"limits": Limits(low, high, above, below, multiple)})


def choice(default: Any, known: Sequence[str]) -> Any:
    """A field for one of the known texts, or several."""
    return dataclasses.field(default=default, metadata={"limits": Limits(choices=tuple(known))})


def text(default: str | None, pattern: str, meaning: str) -> Any:
    """A field for a text that matches `pattern` whole; `meaning` says in words what is expected."""
    return dataclasses.field(default=default, metadata={"limits": Limits(pattern=pattern, meaning=meaning)})


@dataclasses.dataclass(frozen=True)
class Settings:
    """A configuration dataclass whose values are checked when it is made. **Raises:** `ValueError` naming field, value and range."""

    section: ClassVar[str] = ""  # of the recipe, for messages

    def __post_init__(self) -> None:
        for name, (hint, limits) in fields_of(type(self)).items():
            check_value(f"{self.section}.{name}".lstrip("."), getattr(self, name), hint, limits)


def fields_of(config: type) -> dict[str, tuple[Any, Limits]]:
    """The type and the limits of every field of a configuration dataclass."""
    hints = get_type_hints(config)
    return {f.name: (hints[f.name], f.metadata.get("limits", Limits())) for f in dataclasses.fields(config)}  # type: ignore[arg-type]


def is_allowed(value: Any, hint: Any, limits: Limits) -> bool:
    """Whether a value has the field's type and lies within its limits, each element of a list or tuple too."""
    options = _options(hint)
    if value is None:
        return type(None) in options or hint is Any
    return any(_fits(value, option, limits) for option in options if option is not type(None))


def check_value(name: str, value: Any, hint: Any, limits: Limits) -> None:
    """**Raises:** `ValueError` for an argument of the wrong type or outside its limits."""
    if not is_allowed(value, hint, limits):
        raise ValueError(refusal(name, value, hint, limits))


def refusal(name: str, value: Any, hint: Any, limits: Limits, where: str = "") -> str:
    """One line: the setting, what was found (and `where`), what is expected."""
    value = list(value) if isinstance(value, tuple) else value
    found = "null" if value is None else repr(value) if isinstance(value, (str, bool)) else str(value)
    return f"'{name}' is {found if len(found) <= 80 else found[:77] + '...'}{where}, expected {expected(hint, limits)}"


def expected(hint: Any, limits: Limits) -> str:
    """What a field takes, in words."""
    return " or ".join(dict.fromkeys(_describe(option, limits) for option in _options(hint)))


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, kind: Any, limits: Limits) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (list, tuple, Sequence):
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            return False
        if origin is tuple and inner[-1] is not Ellipsis and len(value) != len(inner):
            return False
        return all(is_allowed(v, inner[0], limits) for v in value)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool) and limits.allow(value)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool) and limits.allow(value)
    if kind is str:
        return isinstance(value, str) and limits.allow(value)
    if kind is Path:
        return isinstance(value, (str, Path)) and "\0" not in str(value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(is_allowed(v, inner[1], limits) for v in value.values())
    return kind is Any or isinstance(value, origin or kind)


def _describe(kind: Any, limits: Limits) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is type(None):
        return "null"
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"{len(inner)} values, each {_describe(inner[0], limits)}"
    if origin in (list, tuple, Sequence):
        return f"a list, each {_describe(inner[0], limits)}"
    if kind in (int, float, str):
        return limits.describe(kind)
    if origin in (dict, Mapping) or dataclasses.is_dataclass(kind):
        return "a mapping of options"
    return {bool: "true or false", Path: "a path"}.get(kind, str(kind))
