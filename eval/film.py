"""Pictures for reports: a film strip of an episode, and PNGs that a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

HEIGHT = 120  # pixels of a strip


def as_frame(drawn: Any) -> np.ndarray:
    """What an environment's `render` gave, as (rows, columns, 3) uint8: the last picture of a list, grey or with alpha, channels first.

    Fractions are taken for shares of 255 where none is above 1.

    **Raises:** `ValueError` for what is no picture.
    """
    if isinstance(drawn, list | tuple) and drawn and np.ndim(drawn[-1]) >= 2:  # all pictures since the last call
        drawn = drawn[-1]
    if drawn is None:
        raise ValueError("render() gave None, expected a picture: the environment does not draw with render_mode 'rgb_array'")
    array = np.asarray(drawn)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape or array.dtype.kind not in "biuf":
        what = f"{array.dtype} of shape {array.shape}" if array.dtype.kind in "biuf" else f"a {type(drawn).__name__}"
        raise ValueError(f"render() gave {what}, expected a picture (rows, columns, 3) of uint8")
    colours = array[..., :3]
    if colours.dtype != np.uint8:
        if not np.isfinite(colours).all() or colours.min() < 0 or colours.max() > 255:
            raise ValueError(f"render() gave {colours.dtype} from {colours.min():g} to {colours.max():g}, expected colours from 0 to 255")
        scale = 255 if colours.dtype.kind in "bf" and colours.max() <= 1 else 1
        colours = np.round(colours * np.float64(scale)).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours)


def film_strip(frames: Sequence[np.ndarray]) -> str:
    """Pictures (rows, columns, 3) uint8 side by side, as a base64 PNG."""
    from PIL import Image

    pictures = [Image.fromarray(f) for f in frames]
    scaled = [p.resize((max(1, round(p.width * HEIGHT / p.height)), HEIGHT), Image.Resampling.LANCZOS) for p in pictures]
    strip = Image.new("RGB", (sum(p.width for p in scaled) + 4 * (len(scaled) - 1), HEIGHT), "white")
    x = 0
    for picture in scaled:
        strip.paste(picture, (x, 0))
        x += picture.width + 4
    return png_base64(strip)


def png_base64(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
