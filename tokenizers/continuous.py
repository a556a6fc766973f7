"""Continuous values <-> ids: mu-law, clip, 1,024 uniform bins (Gato, section 2.1 and appendix B).

Observations are companded by their distance from the field's origin in units of its scale (0 and 1 where none is given, as in
the paper); actions are not, but rescaled from their declared range to [-1, 1] first. Which of the two applies is decided by the
field's role, never by the data.
"""

from __future__ import annotations

import numpy as np

from gato.spec import LARGEST_OBSERVATION, MU, NUM_BINS, FieldSpec

from .vocabulary import Vocabulary


def mu_law(values: np.ndarray) -> np.ndarray:
    """F(x) = sgn(x) log(mu |x| + 1) / log(mu M + 1): maps [-256, 256] to [-1, 1], more finely near 0."""
    values = _floating(values)
    scale = values.dtype.type(1 / np.log1p(MU * LARGEST_OBSERVATION))
    return np.copysign(np.log1p(np.abs(values) * values.dtype.type(MU)) * scale, values)


def inverse_mu_law(values: np.ndarray) -> np.ndarray:
    return np.copysign(np.expm1(np.abs(values) * np.log1p(MU * LARGEST_OBSERVATION)) / MU, values)


def to_bins(values: np.ndarray) -> np.ndarray:
    """Clips to [-1, 1] and gives bins 0..1023, int32; +1 stays in the last bin."""
    scaled = (_floating(values) + 1) * (NUM_BINS // 2)
    return np.clip(scaled, 0, NUM_BINS - 1).astype(np.int32)  # a positive number's floor is its integer part


def _floating(values: np.ndarray) -> np.ndarray:
    """float32 stays float32, which is exact to 1e-4 of a bin and several times faster; all else is float64."""
    values = np.asarray(values)
    return values if values.dtype == np.float32 else values.astype(np.float64)


def bin_centres(bins: np.ndarray) -> np.ndarray:
    return (2 * np.asarray(bins, dtype=np.float64) + 1) / NUM_BINS - 1


def rescale_action(spec: FieldSpec, values: np.ndarray) -> np.ndarray:
    """From the field's [low, high] to [-1, 1]."""
    low, high = spec.bounds
    return (np.asarray(values, dtype=np.float64) - low) / (high - low) * 2 - 1


def measured(spec: FieldSpec, values: np.ndarray) -> np.ndarray:
    """Observations as they are companded: their distance from the origin, over the scale."""
    values = _floating(values)
    if spec.origin is not None:
        values = values - spec.zero.astype(values.dtype)
    return values if spec.scale is None else values / spec.unit.astype(values.dtype)


def encode(spec: FieldSpec, values: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """`values` (..., *shape) -> ids of the same shape, int32."""
    if spec.role == "observation":
        unit = mu_law(measured(spec, values))
    else:
        unit = rescale_action(spec, values)
    return to_bins(unit) + np.int32(vocabulary.continuous.start)


def decode(spec: FieldSpec, ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """`ids` (..., *shape) -> values of the field's dtype at the centres of their bins.

    **Raises:** `ValueError` for an id outside the continuous range.
    """
    bins = np.asarray(ids) - vocabulary.continuous.start
    if bins.size and (bins.min() < 0 or bins.max() >= NUM_BINS):
        wrong = int(np.ravel(ids)[np.argmax((np.ravel(bins) < 0) | (np.ravel(bins) >= NUM_BINS))])
        raise ValueError(f"id {wrong} is not a continuous token; they lie in [{vocabulary.continuous.start}, {vocabulary.continuous.stop})")
    unit = bin_centres(bins)
    if spec.role == "observation":
        return (inverse_mu_law(unit) * spec.unit + spec.zero).astype(spec.dtype)
    low, high = spec.bounds
    return (low + (unit + 1) / 2 * (high - low)).astype(spec.dtype)
