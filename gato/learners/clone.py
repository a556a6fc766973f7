"""What few-shot fine-tuning must beat: playing back the nearest demonstration, and a small network that clones it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.episode import Episode
from gato.policy import GatoPolicy
from gato.spec import Modality, TaskSpec

MAX_ONE_HOT = 64  # discrete values with more possibilities than this are read as a number
POOLED = 8  # rows and columns that a picture is averaged to before pictures are compared


class Features:
    """Observations -> (T, D) float32, each column with mean 0 and standard deviation 1 over the demonstrations.

    Few discrete values and the texts of the demonstrations become columns of 0 and 1; pictures are averaged over an 8 x 8
    grid. A text that no demonstration has is all zeros.
    """

    def __init__(
        self, task: TaskSpec, with_pictures: bool, texts: Mapping[str, Sequence[str]], mean: np.ndarray, scale: np.ndarray
    ) -> None:
        self.fields = [f for f in task.observations if with_pictures or f.modality is not Modality.IMAGE]
        self.texts, self.mean, self.scale = texts, mean, scale

    @classmethod
    def of(cls, task: TaskSpec, episodes: Sequence[Episode], with_pictures: bool = True) -> Features:
        """Those of some demonstrations."""
        names = [f.name for f in task.observations if f.modality is Modality.TEXT]
        texts = {name: sorted({str(t) for e in episodes for t in e.observations[name]}) for name in names}
        features = cls(task, with_pictures, texts, np.zeros(1), np.ones(1))
        raw = np.concatenate([features._raw(e.observations) for e in episodes])
        spread = raw.std(axis=0)
        features.mean, features.scale = raw.mean(axis=0), np.where(spread < 1e-6, 1.0, spread)
        return features

    def __call__(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        return ((self._raw(observations) - self.mean) / self.scale).astype(np.float32)

    def _raw(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        num_timesteps = len(next(iter(observations.values())))
        columns = [np.zeros((num_timesteps, 1))]
        for spec in self.fields:
            values = observations[spec.name]
            if spec.modality is Modality.TEXT:
                columns.append(np.array([[text == known for known in self.texts[spec.name]] for text in values], dtype=np.float64))
            elif spec.modality is Modality.IMAGE:
                columns.append(_pooled(values).reshape(num_timesteps, -1))
            elif spec.modality is Modality.DISCRETE:
                low, high = (int(b) for b in (spec.bounds[0].min(), spec.bounds[1].max()))
                flat = np.asarray(values).reshape(num_timesteps, -1).astype(np.int64)
                is_one = flat[..., None] == np.arange(low, high + 1) if high - low < MAX_ONE_HOT else flat
                columns.append(is_one.reshape(num_timesteps, -1).astype(np.float64))
            else:
                columns.append(np.asarray(values, dtype=np.float64).reshape(num_timesteps, -1))
        return np.concatenate(columns, axis=1)


class Baseline:
    """A policy that sees the present timestep alone and plays its likeliest action; it takes the place of `GatoPolicy` in a loop."""

    memory = 1
    task: TaskSpec
    features: Features

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        pass

    act_one = GatoPolicy.act_one


class NearestPolicy(Baseline):
    """Retrieve and play: the action of the demonstrations' state that is nearest to what is seen; nothing is learnt.

    **Arguments:** `states` (N, D) float32: features of the demonstrations' timesteps; `actions`: theirs by field, (N, *shape).
    """

    def __init__(self, task: TaskSpec, features: Features, states: np.ndarray, actions: Mapping[str, np.ndarray]) -> None:
        self.task, self.features, self.states, self.actions = task, features, states, actions
        self.squares = (states**2).sum(axis=1)

    @classmethod
    def of(cls, task: TaskSpec, episodes: Sequence[Episode]) -> NearestPolicy:
        features = Features.of(task, episodes)
        states = np.concatenate([features(e.observations) for e in episodes])
        return cls(task, features, states, {f.name: np.concatenate([e.actions[f.name] for e in episodes]) for f in task.actions})

    def act(
        self,
        observation: Mapping[str, np.ndarray],
        reward: np.ndarray | None = None,
        first: np.ndarray | None = None,
        streams: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        seen = self.features(observation)
        nearest = (self.squares - 2 * seen @ self.states.T).argmin(axis=1)  # the seen state's own square is the same for all
        return {name: values[nearest] for name, values in self.actions.items()}


class ClonePolicy(Baseline):
    """Behaviour cloning by a small network: two hidden layers, and a few convolutions where there are pictures.

    Continuous actions are regressed, discrete ones classified; the most likely one is played.

    **Arguments:** `features`: of what is no picture; `network`: see `_Network`.
    """

    def __init__(self, task: TaskSpec, features: Features, network: _Network) -> None:
        self.task, self.features, self.network = task, features, network
        self.pictures = [f.name for f in task.observations if f.modality is Modality.IMAGE]

    @classmethod
    def of(cls, task: TaskSpec, episodes: Sequence[Episode], steps: int, batch_size: int, seed: int = 0) -> ClonePolicy:
        """Trained by `steps` updates of `batch_size` timesteps each; `seed`: of weights and batches."""
        features = Features.of(task, episodes, with_pictures=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = cls(task, features, _Network(task, len(features.mean)))
            policy._train(episodes, steps, batch_size)
        return policy

    def _train(self, episodes: Sequence[Episode], steps: int, batch_size: int) -> None:
        seen = [self._inputs(e.observations) for e in episodes]
        states, pictures = torch.cat([s for s, _ in seen]), {n: torch.cat([p[n] for _, p in seen]) for n in self.pictures}
        actions = {f.name: torch.from_numpy(np.concatenate([e.actions[f.name] for e in episodes])) for f in self.task.actions}
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        for _ in range(steps):
            rows = torch.randint(len(states), (min(batch_size, 4096),))
            output = self.network(states[rows], [pictures[n][rows] for n in self.pictures])
            loss = self._loss(output, {name: values[rows] for name, values in actions.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.inference_mode()
    def act(
        self,
        observation: Mapping[str, np.ndarray],
        reward: np.ndarray | None = None,
        first: np.ndarray | None = None,
        streams: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        states, pictures = self._inputs(observation)
        output, actions = self.network(states, [pictures[n] for n in self.pictures]), {}
        for spec, part in zip(self.task.actions, output, strict=True):
            low, high = spec.bounds
            if spec.modality is Modality.CONTINUOUS:
                values = low + (np.clip(part.numpy(), -1, 1).reshape(-1, *spec.shape) + 1) / 2 * (high - low)
                actions[spec.name] = np.clip(values.astype(spec.dtype), low.astype(spec.dtype), high.astype(spec.dtype))
            else:
                chosen = part.argmax(dim=-1).numpy().reshape(-1, *spec.shape)
                actions[spec.name] = np.minimum(chosen + low, high).astype(spec.dtype)
        return actions

    def _inputs(self, observations: Mapping[str, np.ndarray]) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = {n: torch.from_numpy(np.ascontiguousarray(np.moveaxis(observations[n], -1, 1))) for n in self.pictures}
        return torch.from_numpy(self.features(observations)), pictures

    def _loss(self, output: list[Tensor], actions: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(())
        for spec, part in zip(self.task.actions, output, strict=True):
            low, high = (torch.from_numpy(np.array(b)) for b in spec.bounds)
            values = actions[spec.name]
            if spec.modality is Modality.CONTINUOUS:
                wanted = (2 * (values - low) / (high - low) - 1).reshape(len(values), -1)
                total = total + F.mse_loss(part, wanted.float())
            else:
                wanted = (values - low).reshape(-1).long()
                total = total + F.cross_entropy(part.reshape(len(wanted), -1), wanted)
        return total


class _Network(nn.Module):
    """Features and pictures -> per action field (n, size) for continuous ones, (n, size, values) for discrete ones."""

    def __init__(self, task: TaskSpec, num_features: int, width: int = 256) -> None:
        super().__init__()
        num_pictures = sum(f.modality is Modality.IMAGE for f in task.observations)
        self.eyes = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
                nn.AdaptiveAvgPool2d(POOLED), nn.Flatten(),
            )
            for _ in range(num_pictures)
        )  # fmt: skip
        inputs = num_features + num_pictures * 32 * POOLED**2
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.shapes = [
            (f.size,) if f.modality is Modality.CONTINUOUS else (f.size, int((f.bounds[1] - f.bounds[0]).max()) + 1) for f in task.actions
        ]
        self.heads = nn.ModuleList(nn.Linear(width, int(np.prod(shape))) for shape in self.shapes)

    def forward(self, states: Tensor, pictures: Sequence[Tensor]) -> list[Tensor]:
        parts = [states, *(eye(p.float() / 127.5 - 1) for eye, p in zip(self.eyes, pictures, strict=True))]
        hidden = self.body(torch.cat(parts, dim=1))
        return [head(hidden).reshape(len(states), *shape) for head, shape in zip(self.heads, self.shapes, strict=True)]


def _pooled(pictures: np.ndarray) -> np.ndarray:
    """(T, rows, columns, 3) uint8 -> (T, 8, 8, 3): means over a grid."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pictures, -1, 1))).float()
    return F.adaptive_avg_pool2d(tensor, POOLED).numpy()
