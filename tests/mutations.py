"""Damaged and odd inputs for the readers' tests: what a valid file becomes when bytes, values or names of it change.

Everything follows from a seed, so that a failure can be seen again: it says which seed it was.
A test of a reader makes a valid input, lets one part of it be mutated, and hands `fuzz` the way in.
"""

import copy
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

# What a program may find where it expects another JSON or YAML value.
ODD = (
    None, True, False, 0, 1, -1, 3, 0.5, -0.0, 1e300, float("nan"), float("inf"), 2**31, 2**63, 2**70, -(2**63) - 1,
    "", " ", "x", "0", "1.5", "nan", "true", "null", "ä\u0308\u202e", "\0", "\ud800", "../x", "/etc/passwd", "a/b", "{x}", "%s",
    "x" * 3_000,
    [], [None], [0], ["x"], [[]], [[0, 1], [2]], [1, "x"], {}, {"": 0}, {"x": None}, {"x": {"x": 1}}, {"key": "x"}, {"bytes": "x"},
)  # fmt: skip
ODD_NAMES = (
    "",
    " ",
    "x ",
    "ü",
    "日本",
    "a: b",
    "[x]",
    "{x}",
    "a,b",
    "#x",
    "on",
    "null",
    "0",
    "-",
    "'",
    '"',
    "a/b",
    "next.x",
    "x\ty",
    "%",
    "*",
)

# Letters and cells that are signs or no numbers in CSV, YAML and JSON.
SIGNS = (",", ";", "\t", '"', "'", ":", "[", "]", "{", "}", "#", "-", " ", "é", "\0", "\r", "nan", "1e999")
CELLS = ("", " ", "x", "1", "-1", "nan", "inf", "1,5", '"', "true", "1e400", "99999999999999999999")

# Words of Python, NumPy and pyarrow that say nothing to somebody who wants a file read.
_INSIDES = re.compile(
    r"object (is not|has no|cannot|does not)|has no attribute|NoneType|unhashable|positional argument|unexpected keyword|"
    r"cannot reshape|could not (be )?broadcast|inhomogeneous|is ambiguous|to unpack|list index out|index out of|invalid literal|"
    r"not supported between|must be str|must be a string or|setting an array element|codec can't|not subscriptable|Traceback"
)


def seeds(fast: int = 2_000, slow: int = 18_000) -> Any:
    """Marks a test that takes `seeds`: so many in the fast suite, and so many others in the slow one."""
    return pytest.mark.parametrize(
        "seeds", [pytest.param(range(fast), id="fast"), pytest.param(range(fast, fast + slow), id="slow", marks=pytest.mark.slow)]
    )


# the same for `@pytest.mark.parametrize("seeds", SEEDS)`
SEEDS = [pytest.param(range(2_000), id="fast"), pytest.param(range(2_000, 20_000), id="slow", marks=pytest.mark.slow)]


def fuzz(
    seeds: Iterable[int], made: Callable[[np.random.Generator], Any], read: Callable[[Any], Any], runs_it: bool = False
) -> Counter[str]:
    """Reads a mutated input per seed and counts what came of it: `{"read": n, "refused": n}`.

    **Arguments:** `made`: the mutated input; `read`: reads it and asserts what must hold of what was read; `runs_it`: the input is
    a program, so that Python's own words are what its author needs.

    Fails for anything but a result or a refusal in words: a `ValueError` or `ImportError` that is not empty, not
    longer than 1,500 characters, and no message of a library's insides.
    """
    counts: Counter[str] = Counter(read=0, refused=0)
    for seed in seeds:
        given = made(np.random.default_rng(seed))
        try:
            read(given)
            counts["read"] += 1
        except (ValueError, ImportError) as error:
            line = " ".join(str(error).split())
            if not line or len(line) > 1_500 or (_INSIDES.search(line) and not runs_it):
                pytest.fail(f"seed {seed}: {type(error).__name__} says too little or too much: {line[:2_000]!r}\n{traceback.format_exc()}")
            counts["refused"] += 1
        except Exception:
            pytest.fail(f"seed {seed}:\n{traceback.format_exc()}")
    return counts


def one_of(rng: np.random.Generator, values: Iterable[Any]) -> Any:
    choices = list(values)
    return choices[int(rng.integers(len(choices)))]


def mutated_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """A bit, a byte or a run changed, removed, repeated or put in, or the end cut off."""
    if not content:
        return bytes(rng.integers(0, 256, 8, np.uint8))
    at = int(rng.integers(len(content)))
    size = int(rng.integers(1, 1 + min(64, len(content) - at)))
    run = bytes(rng.integers(0, 256, size, np.uint8))
    match int(rng.integers(7)):
        case 0:
            return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
        case 1:
            return content[:at] + run + content[at + size :]
        case 2:
            return content[:at] + bytes(size) + content[at + size :]
        case 3:
            return content[:at] + content[at + size :]
        case 4:
            return content[: at + size] + content[at:]
        case 5:
            return content[:at] + run + content[at:]
        case _:
            return content[:at]


def mutated_value(rng: np.random.Generator, value: Any) -> Any:
    """JSON or YAML in which one place holds something odd, or a key is missing, renamed or there twice under two names."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return one_of(rng, ODD)
    inside, key = one_of(rng, places)
    match int(rng.integers(6)):
        case 0:
            del inside[key]
        case 1 if isinstance(inside, dict):
            inside[one_of(rng, ODD_NAMES)] = inside.pop(key)
        case 2 if isinstance(inside, list):
            inside.insert(int(key), copy.deepcopy(inside[key]))
        case 3:
            inside[key] = [inside[key]] if rng.random() < 0.5 else {one_of(rng, ODD_NAMES): inside[key]}
        case _:
            inside[key] = copy.deepcopy(one_of(rng, ODD))
    return value


def _places(value: Any) -> Iterable[tuple[Any, Any]]:
    """Every `(container, key or index)` of nested lists and dicts."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(inner)


def mutated_array(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Another dtype, byte order or shape, rows cut or added, or a value that should not be there."""
    array = np.array(array)
    match int(rng.integers(8)):
        case 0:
            kind = one_of(rng, ("bool", "int8", "uint8", "int64", "uint64", "float16", "float32", "float64", "complex64", ">f4", ">i8",
                                "S5", "U5", "M8[s]", "m8[ms]", "V4"))  # fmt: skip
            with np.errstate(all="ignore"):
                try:
                    return array.astype(kind)
                except (ValueError, TypeError):
                    return np.zeros(array.shape, kind)
        case 1:
            return array[: int(rng.integers(len(array) + 1))] if array.ndim else array.reshape(1)
        case 2:
            return np.concatenate([array, array[: int(rng.integers(1, len(array) + 1))]]) if array.ndim and len(array) else array
        case 3:
            first = array.reshape(-1)[:1].reshape(()) if array.size else array
            return one_of(rng, (array[None], array[..., None], array.reshape(-1), array.T, array[:0] if array.ndim else array, first))
        case 4 if array.size and array.dtype.kind == "f":
            array.reshape(-1)[int(rng.integers(array.size))] = one_of(rng, (np.nan, np.inf, -np.inf, 3e38, -5.0))
        case 5 if array.size and array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            array.reshape(-1)[int(rng.integers(array.size))] = one_of(rng, (limits.max, limits.min))
        case 6 if array.ndim and len(array) > 1:
            return array[rng.permutation(len(array))]
        case 7 if array.ndim > 1:
            return np.moveaxis(array, -1, 1)
    return array


def mutated_names(rng: np.random.Generator, values: Mapping[str, Any]) -> dict[str, Any]:
    """One entry missing, renamed, or there under a second name; the order is kept."""
    name, new, action = one_of(rng, values), one_of(rng, ODD_NAMES), int(rng.integers(3))
    found = {}
    for key, value in values.items():
        if key != name or action == 1:
            found[key] = value
        if key == name and action:
            found[new] = value
    return found


def mutated_text(rng: np.random.Generator, text: str) -> str:
    """Lines missing, repeated or exchanged, or letters that are signs in CSV, YAML and JSON."""
    lines = text.split("\n")
    at = int(rng.integers(len(lines)))
    match int(rng.integers(5)):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case 2:
            other = int(rng.integers(len(lines)))
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            line = lines[at]
            place = int(rng.integers(len(line) + 1))
            lines[at] = line[:place] + one_of(rng, SIGNS) + line[place + int(rng.integers(2)) :]
        case _:
            cells = lines[at].split(",")
            cells[int(rng.integers(len(cells)))] = one_of(rng, CELLS)
            lines[at] = ",".join(cells)
    return "\n".join(lines)
