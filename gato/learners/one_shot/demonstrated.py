"""Demonstrations of several tasks as tensors: what learners of one-shot imitation are trained on.

A row of training holds some tasks. Each has demonstrations of two kinds: those of the support tell what the task is, those of
the query what is to be done then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

from ..actions import ActionVectors
from ..clone import CloneInputs
from ..features import Features
from ..tensors import TensorBatch, Tensors


@dataclass(frozen=True)
class Seen(Tensors):
    """What is seen at N timesteps: `states` (N, D) float32 and `pictures`, (N, channels, rows, columns) uint8 each."""

    states: Tensor
    pictures: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.states)


def side_by_side(first: Seen, last: Seen) -> Seen:
    """Two timesteps of each of N demonstrations as one: numbers and channels one behind the other."""
    pictures = tuple(torch.cat(pair, dim=1) for pair in zip(first.pictures, last.pictures, strict=True))
    return Seen(torch.cat([first.states, last.states], dim=1), pictures)


def first_half(both: Seen) -> Seen:
    """The first of the two timesteps that `side_by_side` put together."""
    return both.each(lambda tensor: tensor[:, : tensor.shape[1] // 2])


@dataclass(frozen=True)
class RawRow:
    """What a row is drawn as: raw values of its T tasks, in this order.

    - `ends`: first and last timestep of each task's demonstrations, the support first.
    - `timesteps`: for every task those of its support, `num_support` of them, then those of its query.
    - `numbers`: what the environment says of each task, empty where it says nothing.
    """

    ends: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
    timesteps: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
    numbers: Sequence[Sequence[float]]
    num_support: int


@dataclass(frozen=True)
class DemonstratedBatch(TensorBatch):
    """R rows of T tasks, each with K + Q demonstrations and P timesteps of them.

    **Arguments:** `ends`: R * T * (K + Q) places; `seen`, `played` (N, A): N = R * T * P timesteps, of each task first `num_support`
    of its support; `numbers` (R * T, D); `num_rows` R, `num_tasks` T; `denominator`: tasks of the global batch.
    """

    ends: Seen
    seen: Seen
    played: Tensor
    numbers: Tensor
    num_rows: int
    num_tasks: int
    num_support: int
    denominator: float | Tensor


class DemonstrationInputs:
    """Raw values -> tensors, for any task whose actions are no texts."""

    def __init__(self, features: Features, vectors: ActionVectors) -> None:
        self.features, self.vectors, self.task = features, vectors, vectors.task
        self.inputs = CloneInputs(features, vectors)

    def seen(self, observations: Mapping[str, np.ndarray]) -> Seen:
        return Seen(*self.inputs.seen(observations))

    def batch(self, rows: Sequence[RawRow]) -> DemonstratedBatch:
        first, last = (self.seen(_joined(self.task.observations, [row.ends[i] for row in rows])) for i in (0, 1))
        observed, acted = (
            _joined(fields, [row.timesteps[i] for row in rows]) for i, fields in enumerate((self.task.observations, self.task.actions))
        )
        numbers = torch.tensor([told for row in rows for told in row.numbers], dtype=torch.float32)
        count = len(rows[0].numbers)
        played = torch.from_numpy(self.vectors.encode(acted))
        return DemonstratedBatch(
            side_by_side(first, last), self.seen(observed), played, numbers, len(rows), count, rows[0].num_support, float(len(rows) * count)
        )

    def ends(self, demonstrations: Sequence[Episode]) -> Seen:
        """What they show at their first and last timestep. **Raises:** `ValueError`, see `check_demonstration`."""
        for number, episode in enumerate(demonstrations):
            check_demonstration(self.task, episode, number)
        pairs = [ends_of(episode) for episode in demonstrations]
        return side_by_side(*(self.seen(_joined(self.task.observations, side)) for side in zip(*pairs, strict=True)))

    def frames(self, demonstrations: Sequence[Episode], count: int) -> tuple[Seen, Tensor]:
        """`count` timesteps of each, evenly spread, and what was played (N, A). **Raises:** `ValueError`, see `check_demonstration`."""
        for number, episode in enumerate(demonstrations):
            check_demonstration(self.task, episode, number)
        chosen = [episode.chosen(evenly(episode.num_timesteps, count)) for episode in demonstrations]
        seen = self.seen(_joined(self.task.observations, [episode.observations for episode in chosen]))
        return seen, torch.from_numpy(self.vectors.encode(_joined(self.task.actions, [episode.actions for episode in chosen])))


def evenly(num_timesteps: int, count: int) -> np.ndarray:
    """(count,) timesteps from the first to the last of so many; some are taken twice where there are fewer."""
    return np.linspace(0, num_timesteps - 1, count).round().astype(np.int64)


def ends_of(episode: Episode) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """First and last observation, (1, *shape) each: the final one, after the last action, where there is one."""
    first = {name: values[:1] for name, values in episode.observations.items()}
    final = episode.final_observation
    if final is None:
        return first, {name: values[-1:] for name, values in episode.observations.items()}
    return first, {f.name: _one(f, final[f.name]) for f in episode.task.observations}


def check_demonstration(task: TaskSpec, episode: Episode, number: int) -> None:
    """**Raises:** `ValueError` for a demonstration of another robot, of pictures of another size, or of a single observation."""
    if lines := task.differences(episode.task, raw=True):
        raise ValueError(
            f"demonstration {number} of '{episode.task.name}' does not fit '{task.name}': {lines[0]}; give one of the same robot"
        )
    if episode.num_timesteps < 2 and episode.final_observation is None:
        raise ValueError(f"demonstration {number} of '{episode.task.name}' has one observation; a first and a last one are needed")


def _one(spec: FieldSpec, value: Any) -> np.ndarray:
    return np.array([value], object if spec.modality is Modality.TEXT else spec.dtype)


def _joined(fields: Sequence[FieldSpec], parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f.name: np.concatenate([part[f.name] for part in parts]) for f in fields}
