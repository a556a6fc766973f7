"""The task of a world model: what is seen of it, as codes of 0 and 1, and actions to choose from; here of a board of cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gato.learners.ppo.choices import ActionChoices
from gato.spec import FieldSpec, Modality, TaskSpec


class Scene:
    """What world models of boards and of pictures share: the actions.

    **Attributes:** `task`, `field` (what is seen), `choices` (of actions); `shape`: of what is kept of a timestep, uint8; `stack`: so many
    timesteps are seen together; `codes`: shape of what the world model takes in and says, of 0 and 1.

    **Raises:** `ValueError` for actions that are no choices.
    """

    texts: tuple[str, ...] = ()  # as of an observation encoder: there are none
    shape: tuple[int, ...]
    codes: tuple[int, ...]
    stack = 1

    def __init__(self, task: TaskSpec, field: FieldSpec) -> None:
        self.task, self.field, self.choices = task, field, ActionChoices(task)
        if self.choices.num_continuous:
            raise ValueError(
                f"task '{task.name}' has continuous actions, which a world model does not imagine; choose a task with discrete ones"
            )

    def cells(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, *`shape`) uint8 of n timesteps."""
        raise NotImplementedError

    def wrong(self, codes: Tensor, truth: Tensor) -> Tensor:
        """(n,): how many of n timesteps' cells or symbols differ."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        return math.prod(self.codes)

    @property
    def most_entropy(self) -> float:
        """Of a policy, in nats, where all actions are equally likely; 1 where there is nothing to choose."""
        pairs = zip(self.choices.fields, self.choices.sizes, strict=True)
        return sum(f.size * math.log(width // f.size) for f, width in pairs) or 1.0

    def arrays(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What a policy's `step` takes."""
        return {self.field.name: self.cells(observation)}

    def begin(self, n: int, device: Any = None) -> Tensor:
        """What n streams saw before their first timestep, (n, `stack` - 1, *`shape`)."""
        return torch.zeros(n, self.stack - 1, *self.shape, dtype=torch.uint8, device=device)

    def stacked(self, past: Tensor, cells: Tensor, first: Tensor) -> Tensor:
        """(n, `stack`, *`shape`): what was seen before and `cells` (n, *`shape`); an episode's `first` (n,) stands for what was before."""
        before = torch.where(first.view(-1, *[1] * (past.dim() - 1)), cells[:, None], past)
        return torch.cat([before, cells[:, None]], dim=1)

    def one_hot(self, actions: Tensor) -> Tensor:
        """Actions (..., `choices.size`) as `ActionChoices` holds them -> (..., `choices.num_outputs`) of 0 and 1."""
        parts = []
        for f, width, numbers in zip(
            self.choices.fields, self.choices.sizes, actions.long().split([f.size for f in self.choices.fields], -1), strict=True
        ):
            parts.append(torch.nn.functional.one_hot(numbers, width // f.size).flatten(-2))
        return torch.cat(parts, dim=-1).float()

    def numbers(self, actions: Mapping[str, np.ndarray]) -> np.ndarray:
        """`{field name: (n, *shape)}` -> (n, `choices.size`) float32, the inverse of `choices.decode`."""
        parts = [(np.asarray(actions[f.name]) - f.bounds[0]).reshape(-1, f.size) for f in self.choices.fields]
        return np.concatenate(parts, axis=1).astype(np.float32)


class Board(Scene):
    """Cells that hold kinds of things or not: they are the codes. **Attributes:** `rows`, `columns`, `kinds`.

    **Raises:** `ValueError` for a task that is no such board.
    """

    def __init__(self, task: TaskSpec) -> None:
        super().__init__(task, _only_board(task))
        self.rows, self.columns, self.kinds = self.shape = self.codes = self.field.shape

    def cells(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(observation[self.field.name]).astype(np.uint8)

    def wrong(self, codes: Tensor, truth: Tensor) -> Tensor:
        return (codes != truth).flatten(1).sum(dim=1)


def _only_board(task: TaskSpec) -> FieldSpec:
    boards = [f for f in task.observations if f.modality is Modality.DISCRETE and len(f.shape) == 3]
    is_binary = len(boards) == 1 and bool((boards[0].bounds[0] == 0).all() and (boards[0].bounds[1] == 1).all())
    if len(task.observations) != 1 or not is_binary:
        shown = ", ".join(f"'{f.name}' ({f.modality}, shape {list(f.shape)})" for f in task.observations) or "nothing"
        raise ValueError(
            f"task '{task.name}' shows {shown}; a world model learns a single board of 0 and 1 (rows, columns, kinds), such as that of "
            "minatar-cells/breakout, or a single picture"
        )
    return boards[0]
