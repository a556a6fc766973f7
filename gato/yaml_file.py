"""YAML files that people write: read strictly, with the line of a mistake."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_YAML_BYTES = 2**20
MAX_VALUES = 100_000  # references can make a kilobyte of gigabytes, or circles

_HINTS = {
    "could not find expected ':'": "is a ':' missing?",
    "found character '\\t'": "indent with blanks, not with tabs",
    "found character '@'": "put it in quotes",
    "found character '%'": "put it in quotes",
    "found character '`'": "put it in quotes",
    "mapping values are not allowed": "is a name with ': ' in it not in quotes, or the indentation wrong?",
    "expected <block end>": "is the indentation wrong?",
    "found undefined alias": "put what begins with '*' in quotes",
}


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> Any:
    """What a YAML file says.

    **Raises:** `ValueError` in one line with file, line and, where it can be guessed, the remedy, for what is no YAML, not UTF-8,
    larger than `MAX_YAML_BYTES`, or holds a key twice.
    """
    if not path.is_file():
        raise ValueError(f"there is no file '{path}'")
    if (size := path.stat().st_size) > MAX_YAML_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than {MAX_YAML_BYTES}; such a file is short YAML")
    try:
        return _bounded(yaml.load(path.read_text(encoding="utf-8-sig"), _Strict))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; save it in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, " ".join((error.problem or str(error)).split())
        hint = next((f"; {remedy}" for words, remedy in _HINTS.items() if words in problem), "")
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{path}{where} is not valid YAML: {problem[:200]}{hint}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML: {text[:200]}") from None


def _bounded(value: Any) -> Any:
    """**Raises:** `ValueError` for more than `MAX_VALUES`, counted as often as they are referred to."""
    count, left = 0, [value]
    while left:
        count, inner = count + 1, left.pop()
        if isinstance(inner, str) and any("\ud800" <= letter <= "\udfff" for letter in inner):
            raise ValueError(f"it holds half a character: {ascii(inner)[:60]}")
        if count > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES} values, or one that holds itself")
        left += [x for item in inner.items() for x in item] if isinstance(inner, dict) else inner if isinstance(inner, list | tuple) else []
    return value
