"""What rows of one store have in common, whatever a row is; see `gato.learner.Batches`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gato import envs
from gato.episode import Episode
from gato.spec import TaskSpec

from .loading import load, rank_rows
from .selection import is_held_out, refuse_held_out
from .store import Store


class StoreRows:
    """A row is a pure function of (seed, update, row). A class of its own sets the attributes, and has `batch` and `counts`.

    **Attributes:** `name` of the source and its `store`; `seed`: of the data order; `workers`: processes that read, 0 does it in this one;
    `task`; `episodes`: numbers of those that take part.
    """

    name: str
    store: Store
    seed: int
    workers: int
    task: TaskSpec
    episodes: np.ndarray

    @property
    def tasks(self) -> dict[str, TaskSpec]:
        return {self.task.name: self.task}

    @property
    def fingerprint(self) -> dict[str, str]:
        return {self.name: self.store.fingerprint}

    def generator(self, step: int, row: int) -> np.random.Generator:
        """All chance of a row."""
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, row, step]))

    def sample(self, most: int) -> Iterator[Episode]:
        """Whole episodes, evenly over the source, until they have `most` timesteps."""
        order = np.random.default_rng(0).permutation(self.episodes)
        taken = np.searchsorted(np.cumsum(self.store.lengths[order]), most) + 1
        yield from (self.store.episode(int(number)) for number in np.sort(order[:taken]))

    def sources_of(self, step: int, rows: Sequence[int]) -> list[str]:
        """The source's name for every row."""
        return [self.name] * len(rows)

    def loader(self, steps: range, batch_size: int, micro_batch_size: int, rank: int = 0, ranks: int = 1) -> Iterator[list[Any]]:
        """Micro-batches of every step in `steps`: the rows of `rank`, whose own targets make the denominator. See `load`."""
        return load(self, steps, rank_rows(batch_size, rank, ranks), micro_batch_size, self.workers)


def check_store(name: str, store: Store, held_out: Sequence[str]) -> None:
    """**Raises:** `ValueError` for a source without episodes, or with a task that must not be trained on."""
    if store.num_episodes == 0:
        raise ValueError(f"source '{name}' holds no episodes; collect or import some first")
    for task in store.tasks:
        names = [name, task.name, envs.registered_name(task)]
        if any(is_held_out(n, held_out) for n in names):
            refuse_held_out(name, names, held_out)
