"""The task of a world model: a board of cells that hold kinds of things or not, and actions to choose from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gato.learners.ppo.choices import ActionChoices
from gato.spec import FieldSpec, Modality, TaskSpec


class Board:
    """**Arguments:** `task`.

    **Attributes:** `rows`, `columns`, `kinds`: of the cells; `choices`: of actions.

    **Raises:** `ValueError` for a task that is no such board.
    """

    texts: tuple[str, ...] = ()  # as of an observation encoder: there are none

    def __init__(self, task: TaskSpec) -> None:
        self.task, self.field = task, _only_board(task)
        self.rows, self.columns, self.kinds = self.field.shape
        self.choices = ActionChoices(task)
        if self.choices.num_continuous:
            raise ValueError(
                f"task '{task.name}' has continuous actions, which a world model does not imagine; choose a task with discrete ones"
            )

    @property
    def size(self) -> int:
        return self.rows * self.columns * self.kinds

    @property
    def most_entropy(self) -> float:
        """Of a policy, in nats, where all actions are equally likely; 1 where there is nothing to choose."""
        pairs = zip(self.choices.fields, self.choices.sizes, strict=True)
        return sum(f.size * math.log(width // f.size) for f, width in pairs) or 1.0

    def arrays(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        return observation

    def cells(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, rows, columns, kinds) uint8."""
        return np.asarray(observation[self.field.name]).astype(np.uint8)

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


def _only_board(task: TaskSpec) -> FieldSpec:
    boards = [f for f in task.observations if f.modality is Modality.DISCRETE and len(f.shape) == 3]
    is_binary = len(boards) == 1 and bool((boards[0].bounds[0] == 0).all() and (boards[0].bounds[1] == 1).all())
    if len(task.observations) != 1 or not is_binary:
        shown = ", ".join(f"'{f.name}' ({f.modality}, shape {list(f.shape)})" for f in task.observations) or "nothing"
        raise ValueError(
            f"task '{task.name}' shows {shown}; a world model learns a single board of 0 and 1 (rows, columns, kinds), such as that of "
            "minatar-cells/breakout"
        )
    return boards[0]
