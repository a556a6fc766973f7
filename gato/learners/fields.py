"""Fields of a task <-> vectors of a network: what goes in is added up, what comes out is a number
or a choice per element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.spec import FieldSpec, Modality

POOLED = 5  # rows and columns that a picture's features are averaged to


class FieldEmbedding(nn.Module):
    """Values of some fields, (..., *shape) each -> their embeddings added up, (..., width).

    Continuous values are standardised and go through one linear layer together; every discrete
    element has a table of its own; a picture goes through three convolutions.

    **Arguments:** `mean`, `spread`: of every continuous field, a number per element.
    """

    def __init__(
        self, fields: Sequence[FieldSpec], width: int, mean: Mapping[str, Sequence[float]], spread: Mapping[str, Sequence[float]]
    ) -> None:
        super().__init__()
        self.continuous = [f for f in fields if f.modality is Modality.CONTINUOUS and f.size]
        self.discrete = [f for f in fields if f.modality is Modality.DISCRETE and f.size]
        self.pictures = [f.name for f in fields if f.modality is Modality.IMAGE]
        for name, values in (("mean", mean), ("spread", spread)):
            numbers = [x for f in self.continuous for x in values[f.name]]
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32), persistent=False)
        self.mean: Tensor
        self.spread: Tensor
        self.low: Tensor
        self.first_row: Tensor
        lows, firsts, rows = _table(self.discrete)
        self.register_buffer("low", torch.from_numpy(lows), persistent=False)
        self.register_buffer("first_row", torch.from_numpy(firsts), persistent=False)
        self.linear = nn.Linear(len(self.mean), width) if self.continuous else None
        self.table = nn.EmbeddingBag(rows, width, mode="sum") if self.discrete else None
        self.eyes = nn.ModuleList(Eye(width) for _ in self.pictures)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        parts = []
        if self.linear is not None:
            flat = torch.cat([_flat(values[f.name], f) for f in self.continuous], dim=-1)
            parts.append(self.linear((flat - self.mean) / self.spread))
        if self.table is not None:
            rows = torch.cat([_flat(values[f.name], f) for f in self.discrete], dim=-1) - self.low + self.first_row
            # what is no value of the field, as in padding, reads some row of the table; nothing looks at that place
            rows = rows.clamp(0, self.table.num_embeddings - 1)
            parts.append(self.table(rows.flatten(0, -2)).unflatten(0, rows.shape[:-1]))
        parts += [eye(values[name]) for name, eye in zip(self.pictures, self.eyes, strict=True)]
        return sum(parts[1:], parts[0])


class Eye(nn.Module):
    """Pictures (..., rows, columns, 3) uint8 of any size -> (..., width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 32, 8, stride=4, padding=2), nn.ReLU(), nn.Conv2d(32, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(POOLED), nn.Flatten(),
        )  # fmt: skip
        self.linear = nn.Linear(32 * POOLED**2, width)

    def forward(self, pictures: Tensor) -> Tensor:
        flat = pictures.flatten(0, -4).movedim(-1, 1).to(self.linear.weight.dtype)
        return self.linear(self.convolutions(flat / 127.5 - 1)).unflatten(0, pictures.shape[:-3])


class ActionHead(nn.Module):
    """Hidden states (..., width) -> the actions of a task: means in [-1, 1] by tanh, and logits of
    the discrete values.

    A continuous element lies in its range as -1 to 1; logits of values that an element does not
    have are minus infinity.
    """

    def __init__(self, fields: Sequence[FieldSpec], width: int) -> None:
        super().__init__()
        self.fields = list(fields)
        self.shapes: list[tuple[int, ...]] = [(f.size,) if f.modality is Modality.CONTINUOUS else (f.size, _num_values(f)) for f in fields]
        self.linear = nn.Linear(width, sum(int(np.prod(shape)) for shape in self.shapes))
        for i, f in enumerate(fields):
            dtype = np.float32 if f.modality is Modality.CONTINUOUS else np.int64  # beyond 2**24 a float32 skips whole numbers
            low, high = (torch.from_numpy(np.array(b, dtype).reshape(-1)) for b in f.bounds)
            self.register_buffer(f"low_{i}", low, persistent=False)
            self.register_buffer(f"high_{i}", high, persistent=False)

    def forward(self, hidden: Tensor) -> list[Tensor]:
        """Per field (..., size) means, or (..., size, values) logits."""
        parts = self.linear(hidden).split([int(np.prod(shape)) for shape in self.shapes], dim=-1)
        found = []
        for i, (f, shape, part) in enumerate(zip(self.fields, self.shapes, parts, strict=True)):
            part = part.unflatten(-1, shape)
            if f.modality is Modality.CONTINUOUS:
                found.append(part.tanh())
                continue
            low, high = self._bounds(i)
            is_value = torch.arange(shape[1], device=part.device) <= (high - low)[:, None]
            found.append(part.masked_fill(~is_value, float("-inf")))
        return found

    def losses(self, outputs: Sequence[Tensor], actions: Mapping[str, Tensor]) -> list[Tensor]:
        """Per field and timestep (...): mean squared error over the elements, or their summed
        cross-entropy (in nats)."""
        found = []
        for i, (f, output) in enumerate(zip(self.fields, outputs, strict=True)):
            low, high = self._bounds(i)
            values = _flat(actions[f.name], f)
            if f.modality is Modality.CONTINUOUS:
                wanted = 2 * (values - low) / (high - low) - 1
                found.append(((output - wanted) ** 2).mean(dim=-1))
            else:
                chosen = (values - low).long().clamp(min=0)
                losses = F.cross_entropy(output.flatten(0, -2).float(), chosen.flatten(), reduction="none")
                found.append(losses.unflatten(0, chosen.shape).sum(dim=-1))
        return found

    def decode(self, outputs: Sequence[Tensor], noise: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
        """Outputs of n states -> actions within their ranges, `{field name: (n, *shape)}`.

        **Arguments:** `noise`: per field what is added to the logits before the largest is taken,
        (n, size, values), or `None`.
        """
        actions = {}
        for f, output, added in zip(self.fields, outputs, noise, strict=True):
            low, high = f.bounds
            values = output.float().cpu().numpy()
            if f.modality is Modality.CONTINUOUS:
                scaled = low + (values.reshape(-1, *f.shape) + 1) / 2 * (high - low)
                # in the field's own dtype: float32(0.1) is above 0.1
                actions[f.name] = np.clip(scaled.astype(f.dtype), low.astype(f.dtype), high.astype(f.dtype))
            else:
                chosen = (values if added is None else values + added).argmax(axis=-1).reshape(-1, *f.shape)
                actions[f.name] = (chosen + low).astype(f.dtype)
        return actions

    def _bounds(self, i: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"low_{i}"), getattr(self, f"high_{i}")


def action_scale(fields: Sequence[FieldSpec]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Middle and half width of the ranges of continuous actions: standardised by them they lie in
    [-1, 1]."""
    continuous = {f.name: f.bounds for f in fields if f.modality is Modality.CONTINUOUS}
    middle = {name: ((low + high) / 2).reshape(-1).tolist() for name, (low, high) in continuous.items()}
    return middle, {name: ((high - low) / 2).reshape(-1).tolist() for name, (low, high) in continuous.items()}


def _flat(values: Tensor, spec: FieldSpec) -> Tensor:
    """(..., *shape) -> (..., size)."""
    return values[..., None] if spec.shape == () else values.flatten(-len(spec.shape))


def _num_values(spec: FieldSpec) -> int:
    low, high = spec.bounds
    return int((high - low).max()) + 1


def _table(fields: Sequence[FieldSpec]) -> tuple[np.ndarray, np.ndarray, int]:
    """Of all discrete elements their lowest values and first rows of the table, and how many rows
    it has."""
    lows, firsts, rows = [], [], 0
    for f in fields:
        lows += f.bounds[0].reshape(-1).tolist()
        firsts += [rows + i * _num_values(f) for i in range(f.size)]
        rows += f.size * _num_values(f)
    return np.array(lows, np.int64), np.array(firsts, np.int64), rows
