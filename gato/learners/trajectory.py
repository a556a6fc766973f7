"""Windows of episodes as they are: observations, actions and returns-to-go, for learners that read
no tokens.

timestep      -    -    0    1    2            left-padded to T places
is_padding    T    T    .    .    .
return_to_go  0    0    3    2    2            what the rewards from here to the episode's end come to
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gato.disk import kind_of, shown
from gato.spec import FieldSpec, Modality, TaskSpec

from .tensors import TensorBatch

if TYPE_CHECKING:
    import torch

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of the returns, recorded with the weights


@dataclass(frozen=True)
class Window:
    """Consecutive timesteps of one episode (NumPy, leading axis n, at most T).

    - `observations`, `actions`: raw values by field name.
    - `returns_to_go` (n,) float32: in the unit of the rewards; `start`: the first timestep's place
      in its episode.
    """

    observations: Mapping[str, np.ndarray]
    actions: Mapping[str, np.ndarray]
    returns_to_go: np.ndarray
    start: int

    def __len__(self) -> int:
        return len(self.returns_to_go)


@dataclass(frozen=True)
class TrajectoryBatch(TensorBatch):
    """B windows (torch), left-padded to T places with zeros.

    **Arguments:**

    - `observations`, `actions`: (B, T, *shape) by field name: float32 where continuous, int64 where
      discrete, uint8 for pictures.
    - `returns_to_go` (B, T) float32; `timesteps` (B, T) int64: counted from the episode's
      beginning.
    - `is_padding` (B, T) bool.
    - `denominator`: what the summed losses are divided by: timesteps of the whole global batch.
    - `seed`: of what is drawn in this step beside the rows, such as dropout.
    """

    observations: dict[str, torch.Tensor]
    actions: dict[str, torch.Tensor]
    returns_to_go: torch.Tensor
    timesteps: torch.Tensor
    is_padding: torch.Tensor
    denominator: float | torch.Tensor
    seed: int = 0


def collate(task: TaskSpec, windows: Sequence[Window], length: int, seed: int = 0) -> TrajectoryBatch:
    """Windows of a task -> a batch of `length` places, whose own timesteps make the denominator."""
    import torch

    def padded(rows: Sequence[np.ndarray], dtype: Any) -> torch.Tensor:
        values = np.zeros((len(rows), length, *rows[0].shape[1:]), dtype)
        for i, row in enumerate(rows):
            values[i, length - len(row) :] = row
        return torch.from_numpy(values)

    is_padding = torch.ones(len(windows), length, dtype=torch.bool)
    for i, window in enumerate(windows):
        is_padding[i, length - len(window) :] = False
    return TrajectoryBatch(
        observations={f.name: padded([w.observations[f.name] for w in windows], _dtype(f)) for f in task.observations},
        actions={f.name: padded([w.actions[f.name] for w in windows], _dtype(f)) for f in task.actions},
        returns_to_go=padded([w.returns_to_go for w in windows], np.float32),
        timesteps=padded([np.arange(w.start, w.start + len(w)) for w in windows], np.int64),
        is_padding=is_padding,
        denominator=float(sum(map(len, windows))),
        seed=seed,
    )


def _dtype(spec: FieldSpec) -> Any:
    return {Modality.IMAGE: np.uint8, Modality.DISCRETE: np.int64, Modality.CONTINUOUS: np.float32}[spec.modality]


@dataclass(frozen=True)
class TrajectoryStatistics:
    """What is measured of a store's episodes and recorded with the weights.

    - `mean`, `spread`: of each continuous observation, by field name, a number per element
      (row-major); a spread is never zero.
    - `returns`: quantiles of the episodes' returns, by `QUANTILES` as text; the last is the
      highest.
    - `return_scale`: what returns-to-go are divided by before a model sees them.
    - `episodes`; `longest`: of these episodes, in timesteps.
    """

    mean: Mapping[str, tuple[float, ...]]
    spread: Mapping[str, tuple[float, ...]]
    returns: Mapping[str, float]
    return_scale: float
    episodes: int
    longest: int

    @property
    def lowest(self) -> float:
        return self.returns[str(QUANTILES[0])]

    @property
    def highest(self) -> float:
        return self.returns[str(QUANTILES[-1])]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, task: TaskSpec) -> TrajectoryStatistics:
        """**Raises:** `ValueError` for what is not such a record of the task's fields."""
        known = {"mean", "spread", "returns", "return_scale", "episodes", "longest"}
        if not isinstance(values, dict) or values.keys() != known:
            raise ValueError(f"statistics is {shown(values)}, expected an object with {sorted(known)}")
        sizes = {f.name: f.size for f in task.observations if f.modality is Modality.CONTINUOUS}
        for name in ("mean", "spread"):
            found = values[name]
            if not isinstance(found, dict) or found.keys() != sizes.keys():
                raise ValueError(f"{name} is {shown(found)}, expected an object with {sorted(sizes)}")
            for field, numbers in found.items():
                if not isinstance(numbers, list) or len(numbers) != sizes[field] or not all(map(_is_number, numbers)):
                    raise ValueError(f"{name} of '{field}' is {shown(numbers)}, expected {sizes[field]} finite numbers")
        if any(number <= 0 for numbers in values["spread"].values() for number in numbers):
            raise ValueError("a spread is not above 0")
        returns = values["returns"]
        if not isinstance(returns, dict) or returns.keys() != set(map(str, QUANTILES)) or not all(map(_is_number, returns.values())):
            raise ValueError(f"returns is {shown(returns)}, expected finite numbers for {', '.join(map(str, QUANTILES))}")
        if not _is_number(values["return_scale"]) or values["return_scale"] <= 0:
            raise ValueError(f"return_scale is {shown(values['return_scale'])}, expected a number above 0")
        for name in ("episodes", "longest"):
            if type(values[name]) is not int or values[name] < 1:
                raise ValueError(f"{name} is {kind_of(values[name])}, expected a whole number above 0")
        parts = {name: {field: tuple(numbers) for field, numbers in values[name].items()} for name in ("mean", "spread")}
        return cls(**{**values, **parts})


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
