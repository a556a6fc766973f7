"""The contract of a learner: what the training loop, its checkpoints and evaluation ask of a system that learns.

Data flows one way: `Batches` draws a `Batch`, a `Learner` makes a loss of it, and `Saved` is what is kept of the learner: it writes
its folder, and `gato.load` opens that folder again to act. `docs/learners.md` adds a learner in about a hundred lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from .spec import TaskSpec

Weights = Mapping[str, Tensor]  # a learner's parameters and buffers by name, on the host


class Batch(Protocol):
    """Some rows of one update's global batch. `denominator`: weighted number of targets; divided by it, the loss is a mean."""

    denominator: float | Tensor

    def with_denominator(self, denominator: float | Tensor) -> Self:
        """The same rows as a share of a larger batch."""

    def to(self, device: Any) -> Self: ...


class Batches(Protocol):
    """Rows of training data, each a pure function of (seed, update, row), so that ranks, workers and resuming change nothing."""

    @property
    def tasks(self) -> dict[str, TaskSpec]: ...

    @property
    def fingerprint(self) -> dict[str, str]:
        """By source, what changes whenever its data does: a run goes on with the same data alone."""

    def loader(self, steps: range, batch_size: int, micro_batch_size: int, rank: int = 0, ranks: int = 1) -> Iterator[list[Any]]:
        """The micro-batches of each update: the rows of `rank`, whose own targets make the denominator."""

    def batch(self, step: int, rows: Sequence[int]) -> Any:
        """The given rows of one update's global batch."""

    def counts(self, batch: Any) -> dict[str, float]:
        """What the metrics count of a batch: `tokens` without padding, `places` with it, `transitions` (timesteps of control)."""

    def sources_of(self, step: int, rows: Sequence[int]) -> list[str]:
        """The names of the sources that the given rows come from."""


@runtime_checkable
class OnlineBatches(Batches, Protocol):
    """Rows that the learner brings about by acting: what they are follows from (seed, update, row) and from the weights until then.

    `loader` makes an update's rows when it is asked for them, after the update before, and in this process; `batch` knows the rows
    of the update that was asked for last.
    """

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the data, on the host, the same on every rank: with it the next updates have the same rows."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from there; called before `loader`."""

    def close(self) -> None:
        """Lets go of environments."""


class Learner(Protocol):
    """An `nn.Module` whose `forward(batch)` gives the loss, so that the hooks of DDP and DeepSpeed fire.

    All its parameters, buffers and optimiser state are saved. `model` is the part that acts, whose names are saved without `model.`.
    """

    model: nn.Module

    def __call__(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """
        **Returns:** the batch's share of the global loss (weighted sum over `batch.denominator`), and sums, which the loop adds up
        over micro-batches and ranks; `targets` is among them.
        """

    def train(self, mode: bool = True) -> Any:
        """As of an `nn.Module`: whether dropout and the like take part."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for the optimiser. Beside torch's own keys a group may have

        - `learning_rate`: its own maximum in place of the recipe's, on the recipe's schedule;
        - `clip`: the largest norm of its own gradient, apart from the others';
        - `every`: it takes part in every n-th update only, with that update's gradient;
        - `turns`: (first, last, period), it takes part in updates s with first <= s % period < last only;
        - `hidden`: matrices that Muon may update.
        """

    def report(self, sums: dict[str, list[float]]) -> dict[str, Any]:
        """What the metrics line of an update says, out of the sums over all ranks."""

    def flops(self, tokens: int, targets: int) -> float | None:
        """Floating-point operations of one update, for the MFU; `None` where nobody has counted them."""


class Saved(Protocol):
    """What is kept of a learner: it acts, and its folder opens with `gato.load`."""

    tasks: Mapping[str, TaskSpec]

    def write(self, folder: Path) -> None:
        """Its files, weights as `model.safetensors`."""

    def policy(self, task: str | TaskSpec, **settings: Any) -> Any: ...


class Evaluation(Protocol):
    """What is measured beside training, after every `every` updates and after the last. What it finds follows from the weights alone,
    and it leaves no trace in the run but the line of metrics."""

    every: int

    def __call__(self, weights: Weights) -> dict[str, Any]:
        """Called on the first rank. **Returns:** what joins the metrics line of the update."""

    def close(self) -> None:
        """Lets go of environments."""


@dataclass(frozen=True)
class Setup:
    """What one learner brings to a run: itself, its data, what is saved of its weights (`saved`, on the host), and what is measured."""

    learner: Any
    batches: Any
    saved: Callable[[Weights], Any]
    evaluation: Evaluation | None = None
