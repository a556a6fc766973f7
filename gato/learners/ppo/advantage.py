"""Generalised advantage estimation (Schulman et al. 2016)."""

from __future__ import annotations

import numpy as np


def advantages(
    rewards: np.ndarray, values: np.ndarray, after: np.ndarray, ended: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """How much better every action turned out than the critic had expected.

    **Arguments:**

    - `rewards`, `values`: (T, N); where an episode was truncated, the reward holds the discounted value of what came then.
    - `after`: (N,), the critic's values of what is seen after the last timestep; `ended`: (T, N), whether an episode ended with it.

    **Returns:** (T, N) float32; added to `values` they are what the critic should have said.
    """
    found, following, trace = np.zeros_like(values), after, np.zeros_like(after)
    for t in reversed(range(len(rewards))):
        goes_on = 1.0 - ended[t]
        delta = rewards[t] + gamma * following * goes_on - values[t]
        trace = delta + gamma * gae_lambda * goes_on * trace
        found[t], following = trace, values[t]
    return found.astype(np.float32)
