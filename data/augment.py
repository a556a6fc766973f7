"""Pictures seen a little differently each time, in ways that keep their captions true.

A random part of the picture is stretched to its full size, perhaps mirrored, and its colours are scaled a
little. Pictures are not mirrored whose caption names a side, or what another side makes another thing: letters, digits, phases of the moon;
nor those of control, whose actions have sides.
"""

from __future__ import annotations

import re

import numpy as np

from gato.episode import Episode
from gato.spec import Modality

SMALLEST_PART = 0.7  # of either side
LARGEST_GAIN = 0.15  # of each colour channel
_SIDES = re.compile(
    r"\b(left|right|(anti|counter)?clockwise|east|west|letter|number|digit|sign\b|map\b|clef|crescent|waxing|waning|gibbous|quarter|"
    r"(zero|one|two|three|four|five|six|seven|eight|nine)$)",
    re.IGNORECASE,
)


def augmented(episode: Episode, rng: np.random.Generator) -> Episode:
    """The episode with its pictures drawn anew; the same change for all pictures of a field."""
    values = {**episode.observations, **episode.actions}
    texts = [str(text) for f in episode.task.fields if f.modality is Modality.TEXT for text in values[f.name]]
    may_mirror = not episode.task.is_control and not any(_SIDES.search(text) for text in texts)
    changed = {
        f.name: _part(episode.observations[f.name], rng, may_mirror) for f in episode.task.observations if f.modality is Modality.IMAGE
    }
    return Episode.trusted(**vars(episode) | {"observations": {**episode.observations, **changed}})


def _part(images: np.ndarray, rng: np.random.Generator, may_mirror: bool) -> np.ndarray:
    """uint8 (T, rows, columns, 3) -> the same shape."""
    indices = []
    for size in images.shape[1:3]:
        extent = size * rng.uniform(SMALLEST_PART, 1)
        start = rng.uniform(0, size - extent)
        indices.append((start + extent * (np.arange(size) + 0.5) / size).astype(np.int64))
    rows, columns = indices
    if may_mirror and rng.random() < 0.5:
        columns = columns[::-1]
    gain = rng.uniform(1 - LARGEST_GAIN, 1 + LARGEST_GAIN, 3).astype(np.float32)
    part = images[:, rows[:, None], columns] * gain
    return np.minimum(part, 255).astype(np.uint8)
