"""Mean and deviation of what has been seen so far, added up rollout by rollout."""

from __future__ import annotations

import numpy as np

LEAST = 1e-4  # deviation


class Measures:
    """Of vectors of `size` numbers; before the first ones the mean is 0 and the deviation 1."""

    def __init__(self, size: int) -> None:
        self.state = np.zeros(1 + 2 * size)  # count, means, summed squared distances from them

    def start(self, mean: np.ndarray, spread: np.ndarray, count: int) -> None:
        """Goes on from what another run found, which weighs as much as so many vectors."""
        self.state = np.concatenate([[count], mean, count * spread.astype(np.float64) ** 2])

    def add(self, values: np.ndarray) -> None:
        """(n, size) more (Chan et al. 1979)."""
        values = values.astype(np.float64)
        n, mean = len(values), values.mean(axis=0)
        count, old, squares = self._parts()
        total, shift = count + n, mean - old
        squares = squares + ((values - mean) ** 2).sum(axis=0) + shift**2 * count * n / total
        self.state = np.concatenate([[total], old + shift * n / total, squares])

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation."""
        count, mean, squares = self._parts()
        return mean, np.ones_like(mean) if count == 0 else np.sqrt(squares / count).clip(LEAST)

    def _parts(self) -> tuple[float, np.ndarray, np.ndarray]:
        mean, squares = np.split(self.state[1:], 2)
        return float(self.state[0]), mean, squares
