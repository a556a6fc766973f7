"""Discrete values <-> ids: the value minus its lowest value, one id per cell (Gato, section 2.1)."""

from __future__ import annotations

import numpy as np

from gato.spec import FieldSpec

from .vocabulary import Vocabulary


def encode(spec: FieldSpec, values: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """`values` (..., *shape) -> ids of the same shape, int32.

    **Raises:** `ValueError` for a value outside the field's range.
    """
    low, high = spec.bounds
    values = np.asarray(values)
    outside = (values < low) | (values > high)
    if outside.any():
        wrong = values[outside].flat[0]
        raise ValueError(f"{spec.role} '{spec.name}' is {wrong}, outside [{low.min():g}, {high.max():g}]")
    return (values - low).astype(np.int32) + np.int32(vocabulary.discrete.start)


def decode(spec: FieldSpec, ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """`ids` (..., *shape) -> values of the field's dtype. **Raises:** `ValueError` outside the range."""
    low, high = spec.bounds
    values = np.asarray(ids, dtype=np.int64) - vocabulary.discrete.start + low.astype(np.int64)
    if (values < low).any() or (values > high).any():
        raise ValueError(f"ids {np.ravel(ids).tolist()} decode outside [{low.min():g}, {high.max():g}] of '{spec.name}'")
    return values.astype(spec.dtype)
