"""Behaviour cloning by a small network: what a user would write, at its best.

It is trained until it has converged, in seconds, and not for as many updates as a Gato gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from gato.episode import Episode
from gato.spec import Modality, TaskSpec

from .actions import ActionVectors
from .features import POOLED, Features
from .keypoints import MAPS, KeypointEye
from .network import Schedule, SmallNetwork, train
from .reactive import Lessons, Parts, Reactive, part
from .tensors import TensorBatch

JUDGED_ROWS = 4096  # that say how large the loss is
TOGETHER = 512  # of them at once
FINE = 64  # pictures of more rows or columns are looked at in wider steps, which costs a quarter
MOST_CELLS = 12  # rows and columns that are left of a picture; more are averaged two by two, three by three, ...


class ClonePolicy(Reactive):
    """Two hidden layers and a linear path, with a few convolutions for every picture.

    Continuous actions are regressed, discrete ones and texts classified; the likeliest is played.

    **Arguments:** `features`: of what is no picture; `network`: see `CloneNetwork`.
    """

    kind = "clone"
    pictures_are_features = False
    sees_keypoints = False
    usual = Schedule()

    def __init__(self, features: Features, vectors: ActionVectors, network: CloneNetwork) -> None:
        super().__init__(features, vectors)
        self.network, self.inputs = network.eval(), CloneInputs(features, vectors)

    @classmethod
    def untrained(cls, features: Features, vectors: ActionVectors, episodes: Sequence[Episode] = ()) -> Self:
        network = CloneNetwork(vectors.task, len(features.mean), vectors.size, keypoints=cls.sees_keypoints)
        return cls(features, vectors, network)

    def learn(self, lessons: Lessons) -> int:
        rows = self._rows(lessons.episodes)
        held_out = self.vectors.known_among(lessons.held_out)
        judged = self._rows(held_out) if held_out else rows
        judged = judged.rows(torch.linspace(0, len(judged) - 1, min(JUDGED_ROWS, len(judged))).long())

        def loss_of(batch: CloneBatch) -> Tensor:
            return self.vectors.loss(self.network(batch.states, batch.pictures), batch.played)

        def loss(chosen: Tensor) -> Tensor:
            return loss_of(rows.rows(chosen))

        def judge() -> float:
            parts = torch.arange(len(judged)).split(TOGETHER)
            return sum(loss_of(judged.rows(part)).item() * len(part) for part in parts) / len(judged)

        schedule, generator = lessons.schedule or self.usual, torch.Generator().manual_seed(lessons.seed)
        return train(self.network, loss, len(rows), judge, schedule, generator, self.kind)

    def _rows(self, episodes: Sequence[Episode]) -> CloneBatch:
        """All timesteps of the episodes."""
        parts = [self.inputs.batch(e.observations, e.actions) for e in episodes]
        pictures = tuple(map(torch.cat, zip(*(p.pictures for p in parts), strict=True)))
        return CloneBatch(torch.cat([p.states for p in parts]), pictures, torch.cat([p.played for p in parts]), 1.0)

    @torch.inference_mode()
    def choose(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.vectors.decode(self.network(*self.inputs.seen(observation)).numpy())

    def trained(self) -> nn.Module:
        return self.network

    def tensors(self) -> dict[str, Tensor]:
        return {f"network.{name}": t.contiguous() for name, t in self.network.state_dict().items()}

    def settings(self) -> dict[str, Any]:
        return self.network.settings()

    @classmethod
    def restored(cls, parts: Parts) -> Self:
        task, features, vectors = parts.vectors.task, parts.features, parts.vectors
        settings = {"step": 2, "keeps_cells": False, "keypoints": False, **parts.settings}  # older ones do not say it
        network = CloneNetwork(task, len(features.mean), vectors.size, **settings)
        network.load_state_dict(part(parts.tensors, "network"))
        return cls(features, vectors, network)


class KeypointPolicy(ClonePolicy):
    """A clone that sees of every picture only where its maps are highest, see `gato.learners.keypoints`.

    **Raises:** `ValueError` (`untrained`) for a task without pictures.
    """

    kind = "keypoints"
    sees_keypoints = True
    usual = Schedule(floor=3000, batch_size=32)  # small batches: better in less time (docs/results/fewshot.md)

    @classmethod
    def untrained(cls, features: Features, vectors: ActionVectors, episodes: Sequence[Episode] = ()) -> Self:
        check_pictures(vectors.task)
        return super().untrained(features, vectors, episodes)


def check_pictures(task: TaskSpec) -> None:
    """**Raises:** `ValueError` for a task that shows no picture, of which there are no keypoints."""
    if not any(f.modality is Modality.IMAGE for f in task.observations):
        raise ValueError(f"keypoints are places in pictures, and task '{task.name}' shows none; choose another mode, such as clone")


@dataclass(frozen=True)
class CloneBatch(TensorBatch):
    """B timesteps as a `CloneNetwork` takes them.

    **Arguments:** `states` (B, D) float32; `pictures`: (B, 3, rows, columns) uint8 each; `played`
    (B, A) float32; `denominator`: timesteps of the global batch.
    """

    states: Tensor
    pictures: tuple[Tensor, ...]
    played: Tensor
    denominator: float | Tensor

    def __len__(self) -> int:
        return len(self.states)

    def rows(self, chosen: Tensor) -> CloneBatch:
        """Those with these indices."""
        return self.each(lambda tensor: tensor[chosen])


class CloneInputs:
    """Raw values of n timesteps -> what a `CloneNetwork` takes, and what is wanted of it."""

    def __init__(self, features: Features, vectors: ActionVectors) -> None:
        self.features, self.vectors = features, vectors
        self.pictures = [f.name for f in vectors.task.observations if f.modality is Modality.IMAGE]

    def seen(self, observations: Mapping[str, np.ndarray]) -> tuple[Tensor, tuple[Tensor, ...]]:
        views = [np.ascontiguousarray(np.moveaxis(observations[n], -1, 1)) for n in self.pictures]
        return torch.from_numpy(self.features(observations)), tuple(map(torch.from_numpy, views))

    def batch(self, observations: Mapping[str, np.ndarray], actions: Mapping[str, np.ndarray]) -> CloneBatch:
        played = torch.from_numpy(self.vectors.encode(actions))
        return CloneBatch(*self.seen(observations), played, float(len(played)))


class CloneNetwork(nn.Module):
    """Features (N, D) and pictures (N, 3, rows, columns) uint8 -> actions as vectors (N, A).

    **Arguments:** `step`: pixels from one place to the next at which a picture is first looked at, 2 or 4; by default 4 for large ones.
    `keeps_cells`: what is seen of it is averaged over whole cells, if at all; otherwise over a grid of 8 x 8 whose lines cut through
    them, which blurs where things are (docs/results/fewshot.md). `keypoints`: only where the maps are highest is seen.
    """

    def __init__(
        self,
        task: TaskSpec,
        num_features: int,
        num_outputs: int,
        activation: str = "tanh",
        with_line: bool = True,
        step: int | None = None,
        keeps_cells: bool = True,
        keypoints: bool = False,
    ) -> None:
        super().__init__()
        pictures = [f for f in task.observations if f.modality is Modality.IMAGE]
        fine = FINE // 2 if keypoints else FINE  # of keypoints the later convolutions keep all places
        self.step = step or (4 if any(max(f.shape) > fine for f in pictures) else 2)
        self.activation, self.keeps_cells, self.keypoints = activation, keeps_cells, keypoints
        eyes = [self._eye(*spec.shape[:2]) for spec in pictures]
        self.eyes = nn.ModuleList(eye for eye, _ in eyes)
        self.trunk = SmallNetwork(num_features + sum(size for _, size in eyes), num_outputs, activation, with_line)

    def _eye(self, rows: int, columns: int) -> tuple[nn.Module, int]:
        """What looks at pictures of this size, and how many numbers it gives."""
        size = 5 if self.step == 2 else 8
        if self.keypoints:
            return KeypointEye(size, self.step), 2 * MAPS
        cells = [((pixels + 4 - size) // self.step) // 2 + 1 for pixels in (rows, columns)]
        share = [-(-n // MOST_CELLS) for n in cells]
        left = [-(-n // by) for n, by in zip(cells, share, strict=True)] if self.keeps_cells else [POOLED, POOLED]
        average = nn.AvgPool2d((share[0], share[1]), ceil_mode=True) if self.keeps_cells else nn.AdaptiveAvgPool2d(POOLED)
        eye = nn.Sequential(
            nn.Conv2d(3, 16, size, self.step, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            average, nn.Flatten(),
        )  # fmt: skip
        return eye, 32 * left[0] * left[1]

    def settings(self) -> dict[str, Any]:
        """What it is made with again."""
        seen = {"step": self.step, "keeps_cells": self.keeps_cells, "keypoints": self.keypoints}
        return {"activation": self.activation, "with_line": self.trunk.line is not None, **seen}

    def forward(self, states: Tensor, pictures: Sequence[Tensor]) -> Tensor:
        parts = [eye(p.float() / 127.5 - 1) for eye, p in zip(self.eyes, pictures, strict=True)]
        return self.trunk(torch.cat([states, *parts], dim=1))
