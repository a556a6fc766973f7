"""Pictures for reports: a film strip of an episode, and PNGs that a page can hold."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np


def film_strip(frames: np.ndarray, count: int = 8, height: int = 120) -> str:
    """`count` evenly spaced frames side by side, as a base64 PNG."""
    from PIL import Image

    chosen = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)]
    pictures = [Image.fromarray(f) for f in chosen]
    scaled = [p.resize((max(1, round(p.width * height / p.height)), height), Image.Resampling.LANCZOS) for p in pictures]
    strip = Image.new("RGB", (sum(p.width for p in scaled) + 4 * (len(scaled) - 1), height), "white")
    x = 0
    for picture in scaled:
        strip.paste(picture, (x, 0))
        x += picture.width + 4
    return png_base64(strip)


def png_base64(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
