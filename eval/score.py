"""Numbers that stand for many episodes: means, shares and interquartile means with their intervals, and the normalised score."""

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


def score_scale(random_return: float | None, expert_return: float | None) -> str | None:
    """Why a task has no normalised score, in words; `None` where it has one."""
    try:
        normalised_score([], random_return, expert_return)
    except ValueError as error:
        return str(error)
    return None


def success_interval(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share: it stays inside [0, 1] and has a width at 0 and 1 too."""
    from scipy.stats import binomtest

    interval = binomtest(successes, episodes).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def interquartile_mean(tasks: Sequence[Sequence[float] | np.ndarray], confidence: float = 0.95) -> tuple[float, float, float]:
    """The interquartile mean over tasks of their mean scores: a quarter of the tasks is cut off at each end.

    The interval is a bootstrap over episodes, drawn anew within every task (2,000 resamples, fixed seed). It says
    nothing of other training seeds, nor of other tasks.

    **Arguments:** `tasks`: (n,) scores of the episodes of each task.

    **Returns:** `(iqm, low, high)`; both ends are NaN where a task has a single episode.
    """
    from scipy.stats import bootstrap

    samples = [np.asarray(t, dtype=np.float64) for t in tasks]

    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return _trimmed(np.stack([d.mean(axis=axis) for d in drawn]))

    value = float(statistic(*samples))
    if min(map(len, samples)) == 1:
        return value, float("nan"), float("nan")
    interval = bootstrap(
        samples, statistic, confidence_level=confidence, method="percentile", n_resamples=2000, rng=np.random.default_rng(0), batch=500
    ).confidence_interval
    return value, float(interval.low), float(interval.high)


def nested_interval(groups: Sequence[Sequence[float] | np.ndarray], confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean of group means, with a bootstrap interval over groups (such as training seeds) and the episodes within them.

    With a single group the interval is over its episodes alone: it says nothing of other seeds.

    **Returns:** `(mean, low, high)`.
    """
    if len(groups) == 1:
        return mean_interval(groups[0])
    rng = np.random.default_rng(0)
    arrays = [np.asarray(g, dtype=np.float64) for g in groups]
    chosen = rng.integers(len(arrays), size=(2000, len(arrays)))
    drawn = np.empty(chosen.shape)  # every draw of a group draws its episodes anew
    for g, values in enumerate(arrays):
        places = chosen == g
        drawn[places] = rng.choice(values, (int(places.sum()), len(values))).mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.mean(drawn, axis=1), [tail, 1 - tail])
    return float(np.mean([a.mean() for a in arrays])), float(low), float(high)


def _trimmed(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis without its lowest and highest quarter (rounded down to whole entries)."""
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=0)


def _bootstrap(values: np.ndarray, confidence: float, method: str) -> tuple[float, float]:
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the degenerate case is answered by the caller
        interval = bootstrap(
            (values,), np.mean, confidence_level=confidence, method=method, rng=np.random.default_rng(0), batch=1000
        ).confidence_interval
    return float(interval.low), float(interval.high)
