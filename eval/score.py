"""Numbers that stand for many episodes: a mean with its interval, and the normalised score."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean with a bootstrap interval (bias-corrected and accelerated, 9,999 resamples, fixed seed).

    **Arguments:**

    - `values`: (n,), one per episode; leave failed episodes out and report their number beside it.
    - `confidence`: of the interval.

    **Returns:** `(mean, low, high)`. Equal values give an interval of no width, which says only that this
    sample did not vary; a single value gives NaN for both ends, because it says nothing about spread.

    **Raises:** `ValueError` for no values, or for one that is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values have shape {values.shape}, expected (n,) with n of at least 1")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite; leave failed episodes out")
    mean = float(values.mean())
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    if np.ptp(values) == 0:
        return mean, mean, mean
    low, high = _bootstrap(values, confidence, "BCa")
    if not (np.isfinite(low) and np.isfinite(high)):  # the correction is undefined for some tiny samples
        low, high = _bootstrap(values, confidence, "percentile")
    return mean, low, high


def normalised_score(returns: Sequence[float] | np.ndarray, random_return: float | None, expert_return: float | None) -> np.ndarray:
    """Returns on the scale where the random policy has 0 and the expert 100; not clipped.

    **Returns:** float64 array of the shape of `returns`.

    **Raises:** `ValueError` if a reference is unknown, or the expert is not better than random.
    """
    if random_return is None or expert_return is None:
        raise ValueError(f"a normalised score needs both references, found random {random_return} and expert {expert_return}")
    if not expert_return > random_return:
        raise ValueError(
            f"the expert's return {expert_return} is not above the random one, {random_return}, so there is no scale; measure both again"
        )
    return 100 * (np.asarray(returns, dtype=np.float64) - random_return) / (expert_return - random_return)


def _bootstrap(values: np.ndarray, confidence: float, method: str) -> tuple[float, float]:
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the degenerate case is answered by the caller
        interval = bootstrap(
            (values,), np.mean, confidence_level=confidence, method=method, rng=np.random.default_rng(0), batch=1000
        ).confidence_interval
    return float(interval.low), float(interval.high)
