"""Observations as numbers of one scale, which states are compared by and small networks see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

MAX_ONE_HOT = 64  # discrete values with more possibilities than this are read as a number
POOLED = 8  # rows and columns that a picture is averaged to
STILL = 1e-6  # a column that spreads no wider than this (or this share of its mean) never moves


class Features:
    """Observations -> (T, D) float32, columns of mean 0 and deviation 1 over demonstrations.

    Few discrete values and the texts of the demonstrations become columns of 0 and 1; pictures are
    averaged over an 8 x 8 grid. A text that no demonstration has is all zeros before scaling. A
    column that never moves in the demonstrations says nothing about actions and stays at 0,
    whatever is seen later.

    **Arguments:** `with_pictures`: whether pictures are among the columns; `texts`: those known, by
    field; `mean`, `scale`: (D,) float64 of the columns; an infinite scale silences one.
    """

    def __init__(
        self, task: TaskSpec, with_pictures: bool, texts: Mapping[str, Sequence[str]], mean: np.ndarray, scale: np.ndarray
    ) -> None:
        fields = task.observations
        self.fields = [f for f in fields if with_pictures or f.modality is not Modality.IMAGE]
        self.texts, self.mean, self.scale = texts, mean, scale

    @classmethod
    def of(cls, task: TaskSpec, episodes: Sequence[Episode], with_pictures: bool = True) -> Features:
        """Those of some demonstrations."""
        names = [f.name for f in task.observations if f.modality is Modality.TEXT]
        texts = {name: sorted({str(t) for e in episodes for t in e.observations[name]}) for name in names}
        features = cls(task, with_pictures, texts, np.zeros(1), np.ones(1))
        raw = np.concatenate([features._raw(e.observations) for e in episodes])
        mean, spread = raw.mean(axis=0), raw.std(axis=0)
        is_still = spread <= STILL * np.maximum(1, np.abs(mean))
        features.mean, features.scale = mean, np.where(is_still, np.inf, spread)
        return features

    def __call__(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        return ((self._raw(observations) - self.mean) / self.scale).astype(np.float32)

    def _raw(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        num_timesteps = len(next(iter(observations.values())))
        columns = [np.zeros((num_timesteps, 1))]
        for spec in self.fields:
            values = observations[spec.name]
            if spec.modality is Modality.TEXT:
                known = self.texts[spec.name]
                columns.append(np.array([[text == k for k in known] for text in values], np.float64))
            elif spec.modality is Modality.IMAGE:
                columns.append(_pooled(values).reshape(num_timesteps, -1))
            elif spec.modality is Modality.DISCRETE:
                columns.append(_choices(spec, np.asarray(values)).reshape(num_timesteps, -1))
            else:
                columns.append(np.asarray(values, dtype=np.float64).reshape(num_timesteps, -1))
        return np.concatenate(columns, axis=1)


def _choices(spec: FieldSpec, values: np.ndarray) -> np.ndarray:
    """Discrete values as columns of 0 and 1, or, where they may be many, as they are."""
    low, high = int(spec.bounds[0].min()), int(spec.bounds[1].max())
    if high - low >= MAX_ONE_HOT:
        return values.astype(np.float64)
    return (values.astype(np.int64)[..., None] == np.arange(low, high + 1)).astype(np.float64)


def _pooled(pictures: np.ndarray) -> np.ndarray:
    """(T, rows, columns, 3) uint8 -> (T, 8, 8, 3): means over a grid."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pictures, -1, 1))).float()
    return F.adaptive_avg_pool2d(tensor, POOLED).numpy()
