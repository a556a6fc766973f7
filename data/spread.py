"""Where a task's observations lie and how far they spread, by the data: the origins and scales of its continuous fields.

The compact layout measures observations so, unless their fields say otherwise; the paper's layout takes them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

EPISODES = 20  # of a task that are looked at, evenly spread
LEAST = 1e-6  # of a value's size: what varies by less is constant up to rounding


def measured(task: TaskSpec, episodes: Sequence[Episode]) -> TaskSpec:
    """The task with a scale for every continuous observation that has none, and an origin where it has neither.

    The origin is the median, the scale the root mean square of the distances from it; 1 for an element that never varies. Both to
    four digits.
    """
    return replace(task, fields=tuple(_measured(f, episodes) for f in task.fields))


def _measured(spec: FieldSpec, episodes: Sequence[Episode]) -> FieldSpec:
    if spec.modality is not Modality.CONTINUOUS or spec.role == "action" or spec.scale is not None or not episodes:
        return spec
    values = np.concatenate([e.observations[spec.name] for e in episodes]).astype(np.float64)
    origin = np.median(values, axis=0) if spec.origin is None else np.broadcast_to(spec.zero, spec.shape)
    spread = np.sqrt(np.square(values - origin).mean(axis=0))
    largest = np.abs(values).max(axis=0)
    scale = np.where(spread > LEAST * np.maximum(largest, LEAST), spread, 1.0)
    return replace(spec, origin=_rounded(origin), scale=_rounded(scale))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{x:.4g}") for x in np.ravel(values))
