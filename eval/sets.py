"""Rolling out in a set of tasks: some episodes of each, each task shown by its own demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gato import envs
from gato.data.store import Store
from gato.data.stores import find_store
from gato.envs.recording import episode_seed
from gato.episode import Episode
from gato.progress import Progress
from gato.spec import TaskSpec

from .rollout import EpisodeResult, rollout
from .settings import EpisodeLimits

USUAL_LIMITS = EpisodeLimits()


class Shown:
    """The expert episodes of the tasks of a store, by the task's name. **Arguments:** `store`: a name or a folder."""

    def __init__(self, store: str) -> None:
        self.store = Store(find_store(store))
        names = [task.name for task in self.store.tasks]
        is_expert = self.store.behaviours == "expert"
        self.numbers = {name: np.flatnonzero(is_expert & (self.store.task_indices == i)) for i, name in enumerate(names)}

    def of(self, task: str, count: int) -> list[Episode]:
        """The first of them. **Raises:** `ValueError` where there are fewer."""
        found = self.numbers.get(task, ())
        if len(found) < count:
            raise ValueError(f"{count} demonstrations of '{task}' are wanted, but {self.store.path} has {len(found)} expert episodes of it")
        return [self.store.episode(int(i)) for i in found[:count]]


def shares(episodes: int, tasks: Sequence[TaskSpec]) -> list[tuple[TaskSpec, int]]:
    """The tasks that are played and how often: as evenly as it goes, and of more tasks than episodes some, evenly spread."""
    if episodes < len(tasks):
        return [(tasks[i * len(tasks) // episodes], 1) for i in range(episodes)]
    return [(task, episodes // len(tasks) + (i < episodes % len(tasks))) for i, task in enumerate(tasks)]


def rollout_set(
    policy_of: Callable[[TaskSpec], Any], task: TaskSpec, episodes: int, seed: int = 0, num_envs: int = 8,
    demonstrations: Callable[[TaskSpec], Sequence[Episode]] = lambda task: (), limits: EpisodeLimits = USUAL_LIMITS, **rest: Any,
) -> list[EpisodeResult]:  # fmt: skip
    """Lets a policy play `episodes` of a set of tasks; each task has starts of its own.

    **Arguments:** `policy_of`: who plays a task of the set; `demonstrations`: handed to its `reset`; `rest`: see `rollout`.
    """
    results: list[EpisodeResult] = []
    with Progress(f"rollout {task.name}", episodes) as progress:
        for i, (member, count) in enumerate(shares(episodes, envs.members(task))):
            results += rollout(
                policy_of(member), member, count, episode_seed("set", seed, i), num_envs, demonstrations=demonstrations(member),
                limits=limits, progress=progress, **rest,
            )  # fmt: skip
    return results
