"""Files of annotations, as COCO and VQA v2 have them: JSON objects with lists of objects, which refer to each other by ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gato.disk import kind_of

from .left_out import LeftOut


def objects(values: Mapping[str, Any], key: str, path: Path, left_out: LeftOut) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(place, object)` of the list under a key; what is no object goes to `left_out`.

    **Raises:** `ValueError` naming the file if there is no such list.
    """
    found = values.get(key)
    if not isinstance(found, list):
        what = f"{kind_of(found)} under '{key}', expected a list" if key in values else f"no '{key}'; it has {sorted(values)[:20]}"
        raise ValueError(f"{path} has {what}")
    for number, item in enumerate(found):
        place = f"{path}, {key.removesuffix('s')} {number}"
        with left_out.one_row():
            if not isinstance(item, dict):
                raise ValueError(f"{place} is {kind_of(item)}, expected an object")
            yield place, item


def identity(values: Mapping[str, Any], key: str, place: str) -> int | str:
    """An id. **Raises:** `ValueError` naming the place of one that is missing, or neither a number nor text."""
    found = values.get(key)
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise ValueError(
            f"{place} has {kind_of(found)} as '{key}', expected a number or a text" if key in values else f"{place} has no '{key}'"
        )
    return found
