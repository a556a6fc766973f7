"""Difference-aware retrieval: a network says what a neighbour's action means where one stands.

Of each of the five nearest demonstration states it sees that state, its action and the difference
to what is seen; the answers are averaged (DARP: Pfeifer et al., ICLR 2026, arXiv 2606.09758).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from gato.episode import Episode

from .actions import ActionVectors
from .features import Features
from .nearest import NEIGHBOURS, Lookup
from .network import Schedule, SmallNetwork, train
from .reactive import Lessons, Parts, part

SCHEDULE = Schedule(batch_size=32)  # times five neighbours
JUDGED_ROWS = 1024  # that say how large the loss is
TOGETHER = 512  # states whose neighbours are looked up at once


class DifferencePolicy(Lookup):
    """As `Lookup`, and a network of what a state's neighbour plays and how the two differ, (N, 2 D + A) -> (N, A)."""

    kind = "darp"

    def __init__(self, features: Features, vectors: ActionVectors, states: np.ndarray, actions: Mapping[str, np.ndarray]) -> None:
        super().__init__(features, vectors, states, actions)
        self.network = SmallNetwork(2 * states.shape[1] + vectors.size, vectors.size).eval()

    def learn(self, lessons: Lessons) -> int:
        """On each state's neighbours in the other demonstrations; with one demonstration they are the
        other states of it."""
        near = torch.from_numpy(self._others(lessons.episodes))
        states, played = torch.from_numpy(self.states), torch.from_numpy(self.played)
        judged = self.vectors.known_among(lessons.held_out)
        seen, wanted, theirs = self.states, self.played, near.numpy()
        if judged:
            seen = np.concatenate([self.features(e.observations) for e in judged])
            wanted = np.concatenate([self.vectors.encode(e.actions) for e in judged])
            theirs = self._looked_up(seen)

        def loss(rows: Tensor) -> Tensor:
            return self.vectors.loss(self._answers(states[rows], near[rows]), played[rows])

        def judge() -> float:
            some = np.linspace(0, len(seen) - 1, min(JUDGED_ROWS, len(seen))).astype(np.int64)
            found = self._answers(torch.from_numpy(seen[some]), torch.from_numpy(theirs[some]))
            return self.vectors.loss(found, torch.from_numpy(wanted[some])).item()

        schedule, generator = lessons.schedule or SCHEDULE, torch.Generator().manual_seed(lessons.seed)
        return train(self.network, loss, len(states), judge, schedule, generator, self.kind)

    def _looked_up(self, seen: np.ndarray) -> np.ndarray:
        parts = range(0, len(seen), TOGETHER)
        return np.concatenate([self.neighbours(seen[i : i + TOGETHER], NEIGHBOURS)[0] for i in parts])

    def _others(self, episodes: Sequence[Episode]) -> np.ndarray:
        """(N, k): each state's neighbours in other demonstrations; with one, but for itself."""
        lengths = [e.num_timesteps for e in episodes]
        is_alone = len(lengths) == 1
        owner = np.arange(len(self.states)) if is_alone else np.repeat(np.arange(len(lengths)), lengths)
        count = min(NEIGHBOURS, len(self.states) - (1 if is_alone else max(lengths)))
        if count == 0:  # one timestep: there is nobody else
            return np.zeros((1, 1), np.int64)
        found = []
        for start in range(0, len(self.states), TOGETHER):
            rows = slice(start, start + TOGETHER)
            far = self.squares - 2 * self.states[rows] @ self.states.T
            far[owner[rows, None] == owner] = np.inf
            found.append(np.argpartition(far, count - 1, axis=1)[:, :count])
        return np.concatenate(found)

    def _answers(self, seen: Tensor, near: Tensor) -> Tensor:
        """The mean answer (n, A) at `seen` (n, D) to the neighbours of these indices (n, k)."""
        states, played = torch.from_numpy(self.states)[near], torch.from_numpy(self.played)[near]
        inputs = torch.cat([states, played, seen[:, None] - states], dim=2)
        return self.network(inputs.flatten(0, 1)).unflatten(0, near.shape).mean(dim=1)

    @torch.inference_mode()
    def choose(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen = self.features(observation)
        near = torch.from_numpy(self.neighbours(seen, NEIGHBOURS)[0])
        return self.vectors.decode(self._answers(torch.from_numpy(seen), near).numpy())

    def trained(self) -> nn.Module:
        return self.network

    def tensors(self) -> dict[str, Tensor]:
        learned = self.network.state_dict().items()
        return super().tensors() | {f"network.{name}": t.contiguous() for name, t in learned}

    @classmethod
    def restored(cls, parts: Parts) -> Self:
        policy = super().restored(parts)
        policy.network.load_state_dict(part(parts.tensors, "network"))
        return policy
