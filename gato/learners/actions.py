"""Actions as vectors, which can be averaged, regressed and classified, and the way back.

A continuous element is one number, -1 and 1 at the ends of its range. A discrete element, and a
text, is one column for each value that the demonstrations have, 1 where it is that value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

AT_BOUND = 1e-6  # distance to an end of the range from which an action stands at it


class ActionVectors:
    """`{field: (N, *shape)}` <-> (N, A) float32.

    **Arguments:** `known`: the values of every discrete field (as distances from its lowest one)
    and of every text field in the demonstrations, sorted; no other is ever played.
    """

    def __init__(self, task: TaskSpec, known: Mapping[str, Sequence[int] | Sequence[str]]) -> None:
        self.task, self.known = task, {name: list(values) for name, values in known.items()}
        self.places: dict[str, slice] = {}
        start = 0
        for spec in task.actions:
            width = len(self.known[spec.name]) if spec.name in self.known else 1
            self.places[spec.name] = slice(start, start + spec.size * width)
            start += spec.size * width
        self.size = start

    @classmethod
    def of(cls, task: TaskSpec, episodes: Sequence[Episode]) -> ActionVectors:
        """Those of some demonstrations."""
        known: dict[str, list] = {}
        for spec in task.actions:
            if spec.modality is not Modality.CONTINUOUS:
                parts = [_tokens(spec, e.actions[spec.name]).reshape(-1) for e in episodes]
                known[spec.name] = sorted(set(np.concatenate(parts).tolist()))
        return cls(task, known)

    @classmethod
    def all_of(cls, task: TaskSpec) -> ActionVectors:
        """Every value of the discrete fields; the task has no actions of text."""
        choices = [f for f in task.actions if f.modality is Modality.DISCRETE]
        return cls(task, {f.name: range(int((f.bounds[1] - f.bounds[0]).max()) + 1) for f in choices})

    def encode(self, actions: Mapping[str, np.ndarray]) -> np.ndarray:
        """**Raises:** `ValueError` for a value that no demonstration had."""
        columns = []
        for spec in self.task.actions:
            if spec.name in self.known:
                values, known = _tokens(spec, actions[spec.name]), self.known[spec.name]
                is_one = values.reshape(len(values), -1, 1) == np.array(known, values.dtype)
                if not is_one.any(axis=2).all():
                    raise ValueError(f"action '{spec.name}' has a value that was not known: {known} were")
                columns.append(is_one.reshape(len(values), -1).astype(np.float32))
            else:
                low, high = spec.bounds
                span = np.where(high > low, high - low, 1)
                unit = 2 * (np.asarray(actions[spec.name], np.float64) - low) / span - 1
                columns.append(unit.reshape(len(unit), -1).astype(np.float32))
        return np.concatenate(columns, axis=1)

    def known_among(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Those of the episodes whose actions can be encoded."""
        return [e for e in episodes if all(self._is_known(name, e.actions[name]) for name in self.known)]

    def _is_known(self, name: str, values: np.ndarray) -> bool:
        spec = next(f for f in self.task.actions if f.name == name)
        return set(_tokens(spec, values).reshape(-1).tolist()) <= set(self.known[name])

    def decode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """What a vector means: the highest column is played, numbers stay inside their ranges."""
        actions = {}
        for spec in self.task.actions:
            part = vectors[:, self.places[spec.name]]
            low, high = spec.bounds
            if spec.name in self.known:
                known = self.known[spec.name]
                chosen = np.array(known, object if spec.modality is Modality.TEXT else np.int64)[
                    part.reshape(len(part), -1, len(known)).argmax(axis=2)
                ].reshape(-1, *spec.shape)
                is_text = spec.modality is Modality.TEXT
                actions[spec.name] = chosen if is_text else np.minimum(chosen + low, high).astype(spec.dtype)
            else:
                values = low + (np.clip(part, -1, 1).reshape(-1, *spec.shape) + 1) / 2 * (high - low)
                ends = low.astype(spec.dtype), high.astype(spec.dtype)
                actions[spec.name] = np.clip(values.astype(spec.dtype), *ends)
        return actions

    def loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Of outputs (N, A) against encoded actions: squared error, and cross-entropy of columns.

        An action at an end of its range is a demand to go there or further, since what is played is
        clipped: beyond the end nothing is lost. So a linear law that saturates stays linear.
        """
        total = torch.zeros((), device=found.device)
        for spec in self.task.actions:
            mine, theirs = found[:, self.places[spec.name]], wanted[:, self.places[spec.name]]
            if spec.name in self.known:
                width = len(self.known[spec.name])
                classes = theirs.reshape(-1, width).argmax(dim=1)
                total = total + F.cross_entropy(mine.reshape(-1, width), classes)
            else:
                off = mine - theirs
                is_over = (theirs > 1 - AT_BOUND) & (off > 0)
                is_under = (theirs < AT_BOUND - 1) & (off < 0)
                total = total + (off.masked_fill(is_over | is_under, 0.0) ** 2).mean()
        return total


def _tokens(spec: FieldSpec, values: np.ndarray) -> np.ndarray:
    """Texts as they are, discrete values by their distance from the lowest one."""
    if spec.modality is Modality.TEXT:
        return np.asarray(values, object)
    return np.asarray(values).astype(np.int64) - spec.bounds[0].astype(np.int64)
