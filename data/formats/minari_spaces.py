"""Spaces of Minari datasets before they become fields: bounds that are missing, and pictures that would be read as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gato.data.formats.recordings.frames import is_plain_picture, look

if TYPE_CHECKING:
    import gymnasium


def with_bounds(space: gymnasium.Space, low: float | None, high: float | None) -> gymnasium.Space:
    """An action space in which continuous values without bounds have these."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: with_bounds(part, low, high) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([with_bounds(part, low, high) for part in space.spaces])
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating) or (low is None and high is None):
        return space
    lowest = space.low if low is None else np.where(np.isfinite(space.low), space.low, low)
    highest = space.high if high is None else np.where(np.isfinite(space.high), space.high, high)
    return spaces.Box(lowest.astype(space.dtype), highest.astype(space.dtype), dtype=space.dtype.type)


def refuse_pictures(space: gymnasium.Space) -> None:
    """**Raises:** `ValueError` for observations that look like pictures and would be read as numbers."""
    from gymnasium import spaces

    for name, leaf in leaves_of(space, "observation").items():
        if (
            isinstance(leaf, spaces.Box)
            and not is_plain_picture(str(leaf.dtype), leaf.shape)
            and (found := look(str(leaf.dtype), leaf.shape))
        ):
            raise ValueError(
                f"'{name}' looks like {found} {leaf.shape}, which would be read as numbers; collect them as uint8 of (rows, columns, 3), "
                "or import the HDF5 file with 'gato data import recordings', where a field may say 'modality: image'"
            )


def with_remedy(text: str) -> str:
    """What the reader's own options can do about a space."""
    if "its range is not finite" in text:
        return f"{text.partition(';')[0]}; give --action_low and --action_high"
    if "discrete tokens hold" in text:
        return (
            f"{text.partition(';')[0]}; import it with an adapter that splits the number into several below 1,024 (docs/formats/adapter.md)"
        )
    return text


def leaves_of(space: gymnasium.Space, name: str) -> dict[str, gymnasium.Space]:
    from gymnasium import spaces

    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return {name: space}
    parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    return {inner: leaf for key, part in parts for inner, leaf in leaves_of(part, f"{name}/{key}").items()}
