"""Policies that learn nothing: they look up the states of demonstrations that are nearest.

`retrieve` plays the action of the nearest one, `knn` a mean of five, `lwr` fits a line through
those around. Distances are Euclidean, in standard deviations of the demonstrations (`Features`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gato.episode import Episode
from gato.spec import Modality

from .actions import ActionVectors
from .features import Features
from .reactive import Parts, Reactive, part

NEIGHBOURS = 5  # of `knn`
AROUND = 64  # states that `lwr` fits its line through, at most
RIDGE = 1e-3  # its penalty, as a share of the mean spread of a column around a state
TINY = 1e-9  # beside it, where all neighbours are one


class Lookup(Reactive):
    """The demonstrations' timesteps, by how near their states are.

    **Arguments:** `states` (N, D) float32: their features; `actions`: theirs by field, (N, *shape).
    """

    def __init__(self, features: Features, vectors: ActionVectors, states: np.ndarray, actions: Mapping[str, np.ndarray]) -> None:
        super().__init__(features, vectors)
        self.states, self.actions, self.played = states, actions, vectors.encode(actions)
        self.squares = (states**2).sum(axis=1)

    @classmethod
    def untrained(cls, features: Features, vectors: ActionVectors, episodes: Sequence[Episode]) -> Self:
        states = np.concatenate([features(e.observations) for e in episodes])
        names = [f.name for f in vectors.task.actions]
        actions = {name: np.concatenate([e.actions[name] for e in episodes]) for name in names}
        return cls(features, vectors, states, actions)

    def tensors(self) -> dict[str, Tensor]:
        found = {"states": torch.from_numpy(self.states)}
        for spec in self.task.actions:
            if spec.modality is not Modality.TEXT:
                values = np.ascontiguousarray(self.actions[spec.name])
                found[f"actions.{spec.name}"] = torch.from_numpy(values)
        return found

    def settings(self) -> dict[str, Any]:
        texts = [f.name for f in self.task.actions if f.modality is Modality.TEXT]
        return {"actions": {name: [str(value) for value in self.actions[name]] for name in texts}}

    @classmethod
    def restored(cls, parts: Parts) -> Self:
        said, numbers, actions = parts.settings["actions"], part(parts.tensors, "actions"), {}
        for spec in parts.vectors.task.actions:
            if spec.modality is Modality.TEXT:
                actions[spec.name] = np.array([str(text) for text in said[spec.name]], object)
            else:
                actions[spec.name] = numbers[spec.name].numpy()
        return cls(parts.features, parts.vectors, parts.tensors["states"].numpy(), actions)

    def neighbours(self, seen: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` nearest states (or all) to each of (n, D): indices and distances."""
        squares = self.squares - 2 * seen @ self.states.T + (seen**2).sum(axis=1, keepdims=True)
        count = min(count, len(self.states))
        near = np.argpartition(squares, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(squares, near, axis=1)
        order = np.lexsort((near, found), axis=1)  # of equal ones, the earlier one first
        near, found = (np.take_along_axis(values, order, axis=1) for values in (near, found))
        return near, np.sqrt(np.maximum(found, 0))


class NearestPolicy(Lookup):
    """Retrieve and play: the action of the nearest state."""

    kind = "retrieve"

    def choose(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen = self.features(observation)
        nearest = (self.squares - 2 * seen @ self.states.T).argmin(axis=1)  # its own square is no news
        return {name: values[nearest] for name, values in self.actions.items()}


class NeighboursPolicy(Lookup):
    """The mean action of five neighbours, weighted by exp(-distance); choices are voted on."""

    kind = "knn"

    def choose(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        near, distances = self.neighbours(self.features(observation), NEIGHBOURS)
        weights = np.exp(distances[:, :1] - distances)  # ratios count; far away exp(-d) is zero
        weights /= weights.sum(axis=1, keepdims=True)
        return self.vectors.decode((weights[..., None] * self.played[near]).sum(axis=1))


class LinePolicy(Lookup):
    """Locally weighted ridge regression: at every state a line through the actions around it.

    A neighbour at distance d weighs exp(-(d / h)²), where h is the distance of the 2 D-th neighbour
    (or the last one) and D the number of columns that move. Discrete values and texts are regressed
    as columns of 0 and 1, and the highest is played.
    """

    kind = "lwr"

    def choose(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen = self.features(observation)
        near, distances = self.neighbours(seen, AROUND)
        numbers = int(np.isfinite(self.features.scale).sum())
        width = np.maximum(distances[:, min(2 * numbers, distances.shape[1] - 1)], 1e-6)[:, None]
        weights = np.exp((distances[:, :1] ** 2 - distances**2) / width**2)  # the nearest weighs 1
        return self.vectors.decode(_lines(self.states[near], self.played[near], weights, seen))


def _lines(states: np.ndarray, played: np.ndarray, weights: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Weighted ridge regressions with a free constant, one for each of n queries.

    **Arguments:** `states` (n, k, D), `played` (n, k, A), `weights` (n, k), `at` (n, D).

    **Returns:** (n, A): their values at `at`. Solved among the neighbours, who may be fewer than D.
    """
    states, played, at = (values.astype(np.float64) for values in (states, played, at))
    share = (weights / weights.sum(axis=1, keepdims=True))[..., None]
    middle, mean = ((share * values).sum(axis=1, keepdims=True) for values in (states, played))
    root = np.sqrt(share)
    rows, values = root * (states - middle), root * (played - mean)
    gram = rows @ rows.transpose(0, 2, 1)
    spread = np.trace(gram, axis1=1, axis2=2)[:, None, None] / states.shape[2]
    slopes = np.linalg.solve(gram + (RIDGE * spread + TINY) * np.eye(gram.shape[1]), values)  # (n, k, A)
    return (mean + (at[:, None] - middle) @ rows.transpose(0, 2, 1) @ slopes)[:, 0]
