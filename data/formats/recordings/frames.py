"""Pictures that arrays hold in other ways than as uint8 of (rows, columns, 3): encoded, grey, channels first, other numbers.

Such arrays look like long vectors of numbers, which no context can hold and no policy learns from, so they are recognised by
their shape or by their first bytes. What could be numbers all the same is left to the user to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gato.picture import fit_image, picture_kind, read_image

SMALLEST = 16  # rows and columns from which on numbers look like a picture
_CHANNELS = (1, 3, 4)


def is_encoded(values: np.ndarray) -> bool:
    """Whether these are encoded pictures: bytes, or (T, N) uint8 whose first row begins as a picture's file does."""
    if values.dtype == object:
        return any(isinstance(v, bytes) for v in values.reshape(-1)[:1])
    return values.dtype == np.uint8 and values.ndim == 2 and len(values) > 0 and picture_kind(values[0, :64].tobytes()) is not None


def look(dtype: str, shape: Sequence[int]) -> str | None:
    """What numbers of this shape look like, in words, if they look like a picture; `shape`: of one timestep."""
    name = "pictures" if dtype == "uint8" else f"pictures of {dtype}"
    if dtype == "bool" or len(shape) not in (2, 3) or _spatial(shape) is None:
        return None
    if len(shape) == 2:
        return f"grey {name}"
    return f"{name} with channels first" if _is_channels_first(shape) else name


def is_plain_picture(dtype: str, shape: Sequence[int]) -> bool:
    """Whether numbers of this shape are pictures beyond doubt, in any order of the axes."""
    return dtype == "uint8" and len(shape) == 3 and (shape[2] == 3 or _spatial(shape) is not None)


def as_pictures(values: np.ndarray, low: float, high: float, size: Sequence[int] | None, label: str) -> np.ndarray:
    """(T, rows, columns, 3) uint8 of any of these forms; grey becomes three equal channels.

    **Arguments:** `low`, `high`: what is black and white where the values are no uint8; `size`: rows and columns that encoded
    pictures are fitted into, by default all must be of one size.

    **Raises:** `ValueError` naming the timestep of a picture that cannot be read or has another size, and for values out of range.
    """
    if is_encoded(values):
        if values.size != len(values) and values.dtype == object:
            raise ValueError(f"{label} has {values.shape[1:]} encoded pictures a timestep, expected one; make a field of each")
        return _decoded([v.tobytes() for v in values] if values.dtype != object else list(values.reshape(-1)), size, label)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{label} holds {values.dtype}, expected pictures: encoded ones, or numbers")
    if values.dtype != np.uint8:
        values = _scaled(values, low, high, label)
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim == 4 and _is_channels_first(values.shape[1:]):
        values = np.moveaxis(values, 1, -1)
    if values.ndim != 4 or values.shape[3] not in _CHANNELS:
        raise ValueError(
            f"{label} has the shape {values.shape[1:]}, expected pictures of (rows, columns), with 1 or 3 channels first or last"
        )
    if values.shape[3] == 4:
        if values[..., 3].min(initial=255) < 255:
            raise ValueError(f"{label} has four channels, so transparent pictures or four stacked frames; save one of (rows, columns, 3)")
        values = values[..., :3]
    return np.repeat(values, 3, axis=3) if values.shape[3] == 1 else values


def _decoded(encoded: Sequence[bytes], size: Sequence[int] | None, label: str) -> np.ndarray:
    frames: np.ndarray | None = None
    for t, content in enumerate(encoded):
        try:
            picture = read_image(content)
        except ValueError as error:
            raise ValueError(f"{label} at timestep {t}: {error}") from None
        picture = picture if size is None else fit_image(picture, (size[0], size[1]))
        if frames is None:
            frames = np.empty((len(encoded), *picture.shape), np.uint8)
        if picture.shape != frames.shape[1:]:
            rows, columns = (f"{s[0]}x{s[1]}" for s in (picture.shape, frames.shape[1:]))
            raise ValueError(
                f"{label} at timestep {t} is a picture of {rows} pixels, the first of {columns}; 'shape: [64, 64, 3]' fits all into one"
            )
        frames[t] = picture
    return np.empty((0, 0, 0, 3), np.uint8) if frames is None else frames


def _scaled(values: np.ndarray, low: float, high: float, label: str) -> np.ndarray:
    outside = ~((values >= low) & (values <= high))  # NaN too
    if outside.any():
        t = int(np.argwhere(outside)[0, 0])
        raise ValueError(
            f"{label} at timestep {t} is {values[outside][0]:g}, but its pictures lie in [{low:g}, {high:g}]; "
            "give 'low' (black) and 'high' (white), or 'modality: continuous' if it is no picture"
        )
    return np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _spatial(shape: Sequence[int]) -> tuple[int, int] | None:
    """Rows and columns of what may be a picture."""
    if len(shape) == 3 and shape[2] in _CHANNELS:
        rows, columns = shape[0], shape[1]
    elif len(shape) == 2 or shape[0] in _CHANNELS:
        rows, columns = shape[-2], shape[-1]
    else:
        return None
    return (rows, columns) if min(rows, columns) >= SMALLEST else None


def _is_channels_first(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS
