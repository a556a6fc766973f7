"""How much of what a continuous observation says is lost in the bins that its values become.

The paper's bins are fine near zero and coarse far from it. Positions around 1.3 that vary by a tenth fall into a dozen of
them; a field's `origin` is the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers import continuous
from gato.tokenizers.vocabulary import Vocabulary

COARSE = 0.04  # error of the bins over the spread of the values: about what seven bins a standard deviation have
MAX_ROWS = 100_000


class Coarseness:
    """Compares a field's values with what their tokens decode to, element by element; after `MAX_ROWS` timesteps it has seen enough."""

    def __init__(self, spec: FieldSpec) -> None:
        self.spec, self.rows = spec, 0
        self.total, self.squares, self.errors = (np.zeros(spec.shape) for _ in range(3))
        self.vocabulary = Vocabulary()

    def add(self, values: np.ndarray) -> None:
        """`values` (T, *shape)."""
        values = np.asarray(values[: MAX_ROWS - self.rows], np.float64)
        decoded = continuous.decode(self.spec, continuous.encode(self.spec, values, self.vocabulary), self.vocabulary)
        self.rows += len(values)
        self.total += values.sum(axis=0)
        self.squares += np.square(values).sum(axis=0)
        self.errors += np.square(decoded - values).sum(axis=0)

    @property
    def coarse(self) -> np.ndarray:
        """Which elements lose more than `COARSE` of their standard deviation since they lie far from zero, bool of the field's shape."""
        rows = max(self.rows, 1)
        squared_mean = np.square(self.total / rows)
        variance = self.squares / rows - squared_mean
        varies = variance > 1e-10 * self.squares / rows  # by more than rounding
        return varies & (squared_mean > variance) & (self.errors / rows > COARSE**2 * variance)

    def __str__(self) -> str:
        """What to say of the coarse elements."""
        count, places = int(self.coarse.sum()), np.abs(self.total / max(self.rows, 1))[self.coarse]
        return (
            f"observation '{self.spec.name}': {count} of {self.spec.size} values lie so far from zero (about {places.max():.3g}) "
            f"that their bins hide more than {COARSE:.0%} of their spread; give the field an origin (docs/data.md)"
        )


def inferred_origins(task: TaskSpec, episodes: Sequence[Episode]) -> dict[str, tuple[float, ...]]:
    """Medians, to three digits, of the elements whose bins would hide too much, 0 for the others; of fields that have such elements."""
    origins = {}
    for spec in task.observations:
        if spec.modality is Modality.CONTINUOUS:
            values = np.concatenate([e.observations[spec.name] for e in episodes])
            coarseness = Coarseness(spec)
            coarseness.add(values)
            if coarseness.coarse.any():
                medians = np.where(coarseness.coarse, np.median(values, axis=0), 0.0)
                origins[spec.name] = tuple(float(f"{m:.3g}") for m in medians.ravel())
    return origins
