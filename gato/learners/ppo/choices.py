"""Actions as distributions: a network's outputs -> probabilities, draws, and the values that an environment takes.

An action is held as plain numbers, (n, `size`): of a discrete element how far it lies above its lowest value, of a continuous one
what was drawn, where -1 and 1 are the ends of its range. What lies beyond them is executed at the end, but its probability is that
of what was drawn.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gato.spec import FieldSpec, Modality, TaskSpec

LOG_ROOT = 0.5 * math.log(2 * math.pi)


class ActionChoices:
    """**Raises:** `ValueError` for a task with actions of text, whose probabilities are a language model's."""

    def __init__(self, task: TaskSpec) -> None:
        if texts := [f.name for f in task.actions if f.modality is Modality.TEXT]:
            raise ValueError(f"task '{task.name}' has actions of text ('{texts[0]}'), which PPO does not learn; choose another task")
        self.fields = task.actions
        self.sizes = [f.size if f.modality is Modality.CONTINUOUS else f.size * _num_values(f) for f in self.fields]
        self.num_outputs, self.size = sum(self.sizes), sum(f.size for f in self.fields)
        self.num_continuous = sum(f.size for f in self.fields if f.modality is Modality.CONTINUOUS)

    def noise(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """What makes draws of likeliest actions, (n, `num_outputs`) float32: Gumbel's for a choice, normal for a number."""
        parts = [
            generator.standard_normal((n, k)) if f.modality is Modality.CONTINUOUS else generator.gumbel(size=(n, k))
            for f, k in zip(self.fields, self.sizes, strict=True)
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def choose(self, outputs: Tensor, log_deviation: Tensor, noise: Tensor | None) -> Tensor:
        """(n, `num_outputs`) -> (n, `size`), drawn with `noise`, which a temperature may have scaled; the likeliest where `None`."""
        found, at = [], 0
        for f, part, added in self._parts(outputs, torch.zeros_like(outputs) if noise is None else noise):
            if f.modality is Modality.CONTINUOUS:
                found.append(part + added * log_deviation[at : at + f.size].exp())
                at += f.size
            else:
                found.append((self._logits(f, part) + self._shaped(f, added)).argmax(dim=-1).to(outputs.dtype))
        return torch.cat(found, dim=-1)

    def log_prob(self, outputs: Tensor, log_deviation: Tensor, actions: Tensor) -> Tensor:
        """Of actions (..., `size`) under outputs (..., `num_outputs`): (...), summed over the elements."""
        total, at, place = outputs.new_zeros(outputs.shape[:-1]), 0, 0
        for f, part, _ in self._parts(outputs, outputs):
            played = actions[..., place : place + f.size]
            place += f.size
            if f.modality is Modality.CONTINUOUS:
                log_std = log_deviation[at : at + f.size]
                at += f.size
                total = total + (-0.5 * ((played - part) / log_std.exp()) ** 2 - log_std - LOG_ROOT).sum(dim=-1)
            else:
                chosen = played.long()[..., None]
                total = total + self._logits(f, part).log_softmax(dim=-1).gather(-1, chosen)[..., 0].sum(dim=-1)
        return total

    def entropy(self, outputs: Tensor, log_deviation: Tensor) -> Tensor:
        """(...), summed over the elements, in nats."""
        total, at = outputs.new_zeros(outputs.shape[:-1]), 0
        for f, part, _ in self._parts(outputs, outputs):
            if f.modality is Modality.CONTINUOUS:
                total = total + (log_deviation[at : at + f.size] + 0.5 + LOG_ROOT).sum()
                at += f.size
            else:
                log_p = self._logits(f, part).log_softmax(dim=-1)
                # a value that the element does not have: probability 0, whose logarithm is not to be multiplied
                total = total - (log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=(-2, -1))
        return total

    def decode(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """(n, `size`) -> `{field name: (n, *shape)}`, within the task's ranges."""
        found, place = {}, 0
        for f in self.fields:
            part = actions[:, place : place + f.size].reshape(-1, *f.shape)
            place += f.size
            low, high = f.bounds
            if f.modality is Modality.CONTINUOUS:
                values = low + (np.clip(part.astype(np.float64), -1, 1) + 1) / 2 * (high - low)
                # in the field's own dtype: float32(0.1) is above 0.1
                found[f.name] = np.clip(values.astype(f.dtype), low.astype(f.dtype), high.astype(f.dtype))
            else:
                found[f.name] = (part.astype(np.int64) + low.astype(np.int64)).astype(f.dtype)
        return found

    def _parts(self, outputs: Tensor, beside: Tensor) -> list[tuple[FieldSpec, Tensor, Tensor]]:
        return list(zip(self.fields, outputs.split(self.sizes, dim=-1), beside.split(self.sizes, dim=-1), strict=True))

    def _shaped(self, field: FieldSpec, part: Tensor) -> Tensor:
        return part.unflatten(-1, (field.size, _num_values(field)))

    def _logits(self, field: FieldSpec, part: Tensor) -> Tensor:
        """(..., elements, values), minus infinity for values that an element does not have."""
        logits = self._shaped(field, part)
        low, high = (torch.from_numpy(np.array(b).reshape(-1)).to(part.device) for b in field.bounds)
        span = (high - low)[:, None]
        if bool((span == logits.shape[-1] - 1).all()):
            return logits
        return logits.masked_fill(torch.arange(logits.shape[-1], device=part.device) > span, float("-inf"))


def _num_values(field: FieldSpec) -> int:
    low, high = field.bounds
    return int((high - low).max(initial=0)) + 1
