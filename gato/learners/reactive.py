"""Policies that see the present timestep alone: what they share, whatever they learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from gato.episode import Episode, StreamPolicy, Values
from gato.spec import TaskSpec

from .actions import ActionVectors
from .features import Features
from .network import Schedule


@dataclass(frozen=True)
class Lessons:
    """What something is trained on: demonstrations, those that say when to stop, the seed of weights
    and batches, and how long at least and at most (`None`: the policy's own schedule)."""

    episodes: Sequence[Episode]
    held_out: Sequence[Episode] = ()
    seed: int = 0
    schedule: Schedule | None = None


@dataclass(frozen=True)
class Parts:
    """What a folder holds of a policy: `tensors` and `settings` are what the policy gave."""

    features: Features
    vectors: ActionVectors
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]


class Reactive(StreamPolicy):
    """Plays its likeliest action for what it sees now; takes the place of a `GatoPolicy` in a loop.

    A subclass says what it plays (`choose`), how it begins (`untrained`) and learns (`learn`), what
    of it is saved beside its features (`tensors`, `settings`) and how that comes back (`restored`).
    """

    kind: ClassVar[str]
    pictures_are_features: ClassVar[bool] = True
    memory = 1
    updates = 0  # that training took

    def __init__(self, features: Features, vectors: ActionVectors) -> None:
        self.features, self.vectors, self.task = features, vectors, vectors.task

    @classmethod
    def of(
        cls, task: TaskSpec, episodes: Sequence[Episode], held_out: Sequence[Episode] = (), seed: int = 0, schedule: Schedule | None = None
    ) -> Self:
        """Learned from demonstrations; see `Lessons`."""
        features = Features.of(task, episodes, cls.pictures_are_features)
        vectors = ActionVectors.of(task, episodes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = cls.untrained(features, vectors, episodes)
        policy.updates = policy.learn(Lessons(episodes, held_out, seed, schedule))
        return policy

    @classmethod
    def untrained(cls, features: Features, vectors: ActionVectors, episodes: Sequence[Episode]) -> Self:
        """As it begins; `episodes`: the demonstrations, where they are what it looks up."""
        raise NotImplementedError

    def learn(self, lessons: Lessons) -> int:
        """Trains what has parameters, until it has converged; gives the number of updates."""
        return 0

    def trained(self) -> nn.Module:
        """What has parameters; by default nothing."""
        return nn.Module()

    def tensors(self) -> dict[str, Tensor]:
        """What was learned."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Numbers and words that `restored` needs beside the tensors, ready for JSON."""
        return {}

    @classmethod
    def restored(cls, parts: Parts) -> Self:
        """The inverse. **Raises:** `KeyError` or `RuntimeError` for tensors that do not fit."""
        raise NotImplementedError

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        pass

    def begin(self, stream: int, number: int) -> None:
        """All episodes begin alike."""

    def act_in(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> dict[str, np.ndarray]:
        """Only what is seen now counts."""
        return self.choose(observation)

    def choose(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The likeliest actions by field, (n, *shape), for observations (n, *shape)."""
        raise NotImplementedError

    def has_begun(self, stream: int) -> bool:
        return True


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors that are called `name.REST`, by the rest."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
