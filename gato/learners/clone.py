"""Behaviour cloning by a small network: what a user would write, at its best.

It is trained until it has converged, in seconds, and not for as many updates as a Gato gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gato.episode import Episode
from gato.spec import Modality, TaskSpec

from .actions import ActionVectors
from .features import POOLED, Features
from .network import Schedule, SmallNetwork, train
from .reactive import Reactive, part

JUDGED_ROWS = 4096  # that say how large the loss is


class ClonePolicy(Reactive):
    """Two hidden layers and a linear path, with a few convolutions for every picture.

    Continuous actions are regressed, discrete ones and texts classified; the likeliest is played.

    **Arguments:** `features`: of what is no picture; `network`: see `CloneNetwork`.
    """

    kind = "clone"
    pictures_are_features = False

    def __init__(self, features: Features, vectors: ActionVectors, network: CloneNetwork) -> None:
        super().__init__(features, vectors)
        self.network = network.eval()
        self.pictures = [f.name for f in self.task.observations if f.modality is Modality.IMAGE]

    @classmethod
    def of(
        cls,
        task: TaskSpec,
        episodes: Sequence[Episode],
        held_out: Sequence[Episode] = (),
        seed: int = 0,
        schedule: Schedule | None = None,
    ) -> ClonePolicy:
        """Trained until it has converged, as `schedule` says."""
        features = Features.of(task, episodes, with_pictures=False)
        vectors = ActionVectors.of(task, episodes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = cls(features, vectors, CloneNetwork(task, len(features.mean), vectors.size))
        policy.updates = policy._train(episodes, held_out, seed, schedule or Schedule())
        return policy

    def _train(
        self,
        episodes: Sequence[Episode],
        held_out: Sequence[Episode],
        seed: int,
        schedule: Schedule,
    ) -> int:
        states, pictures, played = self._rows(episodes)
        judged = self._rows(self.vectors.known_among(held_out) or episodes)
        some = torch.linspace(0, len(judged[0]) - 1, min(JUDGED_ROWS, len(judged[0]))).long()

        def loss(rows: Tensor) -> Tensor:
            return self.vectors.loss(self.network(states[rows], [p[rows] for p in pictures]), played[rows])

        def judge() -> float:
            found = self.network(judged[0][some], [p[some] for p in judged[1]])
            return self.vectors.loss(found, judged[2][some]).item()

        return train(self.network, loss, len(states), judge, schedule, torch.Generator().manual_seed(seed))

    def _rows(self, episodes: Sequence[Episode]) -> tuple[Tensor, list[Tensor], Tensor]:
        """Of all timesteps: features (N, D), pictures (N, 3, rows, columns) uint8, actions (N, A)."""
        seen = [self._inputs(e.observations) for e in episodes]
        pictures = [torch.cat([p[i] for _, p in seen]) for i in range(len(self.pictures))]
        played = np.concatenate([self.vectors.encode(e.actions) for e in episodes])
        return torch.cat([states for states, _ in seen]), pictures, torch.from_numpy(played)

    def _inputs(self, observations: Mapping[str, np.ndarray]) -> tuple[Tensor, list[Tensor]]:
        views = [np.ascontiguousarray(np.moveaxis(observations[n], -1, 1)) for n in self.pictures]
        return torch.from_numpy(self.features(observations)), [torch.from_numpy(view) for view in views]

    @torch.inference_mode()
    def act(
        self,
        observation: Mapping[str, np.ndarray],
        reward: np.ndarray | None = None,
        first: np.ndarray | None = None,
        streams: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        return self.vectors.decode(self.network(*self._inputs(observation)).numpy())

    def tensors(self) -> dict[str, Tensor]:
        return {f"network.{name}": t.contiguous() for name, t in self.network.state_dict().items()}

    def settings(self) -> dict[str, Any]:
        return {
            "activation": self.network.activation,
            "with_line": self.network.trunk.line is not None,
        }

    @classmethod
    def restored(
        cls,
        features: Features,
        vectors: ActionVectors,
        tensors: Mapping[str, Tensor],
        settings: Mapping[str, Any],
    ) -> ClonePolicy:
        network = CloneNetwork(vectors.task, len(features.mean), vectors.size, **settings)
        network.load_state_dict(part(tensors, "network"))
        return cls(features, vectors, network)


class CloneNetwork(nn.Module):
    """Features (N, D) and pictures (N, 3, rows, columns) uint8 -> actions as vectors (N, A)."""

    def __init__(
        self,
        task: TaskSpec,
        num_features: int,
        num_outputs: int,
        activation: str = "tanh",
        with_line: bool = True,
    ) -> None:
        super().__init__()
        num_pictures = sum(f.modality is Modality.IMAGE for f in task.observations)
        self.eyes = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
                nn.AdaptiveAvgPool2d(POOLED), nn.Flatten(),
            )
            for _ in range(num_pictures)
        )  # fmt: skip
        self.activation = activation
        inputs = num_features + num_pictures * 32 * POOLED**2
        self.trunk = SmallNetwork(inputs, num_outputs, activation, with_line)

    def forward(self, states: Tensor, pictures: Sequence[Tensor]) -> Tensor:
        parts = [eye(p.float() / 127.5 - 1) for eye, p in zip(self.eyes, pictures, strict=True)]
        return self.trunk(torch.cat([states, *parts], dim=1))
