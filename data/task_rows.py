"""Rows of several tasks with demonstrations of each, drawn from a store that holds many tasks.

Episodes are grouped by the task that the store's index says they are of; nothing is copied. A row is a pure function of (seed,
update, row): its tasks, then for each its demonstrations, those of the support apart from those of the query, then timesteps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gato import envs
from gato.episode import Episode
from gato.learners.one_shot.demonstrated import RawRow, ends_of, evenly
from gato.spec import TaskSpec

from .selection import SourceConfig, refuse_unused
from .source import selected_episodes
from .store import Store
from .store_rows import StoreRows, check_store

_log = logging.getLogger(__name__)


class TaskRows(StoreRows):
    """The rows and batches of a run.

    **Arguments:** `name`, `config`, `store`: the source; `seed`: of the data order; `tasks`, `support`, `query`, `timesteps`: of a row, see
    `OneShotConfig`; `whole`: of every demonstration of the support the timesteps are drawn, evenly spread and in their order, instead
    of any of them; `held_out`: patterns of task names; `workers`: processes that read.

    `encode`: raw rows -> a `Batch`; it is set once it is known, since it may be measured from `sample`.

    **Raises:** `ValueError` in one line for a source that holds no episode, tasks of different fields, or too few tasks or demonstrations.
    """

    encode: Callable[[Sequence[RawRow]], Any]

    def __init__(
        self, name: str, config: SourceConfig, store: Store, seed: int, tasks: int, support: int, query: int, timesteps: int,
        whole: bool = False, held_out: Sequence[str] = (), workers: int = 0,
    ) -> None:  # fmt: skip
        self.name, self.store, self.seed, self.workers = name, store, seed, workers
        self.num_tasks, self.support, self.query, self.timesteps, self.whole = tasks, support, query, timesteps, whole
        refuse_unused(name, config, "a learner of one-shot imitation")
        self.groups = self._groups(config, held_out)
        self.task = shared_task(name, [store.tasks[i] for i in self.groups])
        if len(self.groups) < tasks:
            raise ValueError(
                f"source '{name}' has {len(self.groups)} tasks with at least {support + query} demonstrations, and a row wants {tasks} "
                "(model.tasks); collect a set of tasks such as reach2d/train, or ask for fewer"
            )
        self.numbers, self.episodes = list(self.groups), np.concatenate(list(self.groups.values()))

    def _groups(self, config: SourceConfig, held_out: Sequence[str]) -> dict[int, np.ndarray]:
        """Episodes by the number of their task; tasks with too few are left out, and said."""
        store, wanted = self.store, self.support + self.query
        check_store(self.name, store, held_out)
        chosen = selected_episodes(store, config, set())
        episodes = np.arange(store.num_episodes) if chosen is None else chosen
        of = store.task_indices[episodes]
        order = np.argsort(of, kind="stable")
        found, starts = np.unique(of[order], return_index=True)
        groups = dict(zip(found.tolist(), np.split(episodes[order], starts[1:]), strict=True))
        few = [i for i, group in groups.items() if len(group) < wanted]
        if few:
            fewest = min(few, key=lambda i: len(groups[i]))
            _log.warning(
                "source '%s': %d of %d tasks have fewer than %d demonstrations and are left out, '%s' for example has %d; collect more",
                self.name, len(few), len(groups), wanted, store.tasks[fewest].name, len(groups[fewest]),
            )  # fmt: skip
        return {i: group for i, group in groups.items() if i not in set(few)}

    def demonstrations(self, number: int, count: int) -> list[Episode]:
        """The first `count` demonstrations of the task that has this number in the store."""
        return [self.store.episode(int(i)) for i in self.groups[number][:count]]

    def row(self, step: int, row: int) -> RawRow:
        """What row `row` of the global batch of update `step` holds."""
        rng = self.generator(step, row)
        firsts, lasts, seen, played, numbers = [], [], [], [], []
        for place in rng.choice(len(self.numbers), self.num_tasks, replace=False):
            group = self.groups[self.numbers[place]]
            chosen = group[rng.choice(len(group), self.support + self.query, replace=False)]
            for episode in chosen:
                length = int(self.store.lengths[episode])
                first, last = self.store.episode(int(episode), 0, 1), self.store.episode(int(episode), length - 1)
                firsts.append(ends_of(first)[0])
                lasts.append(ends_of(last)[1])
            for window in [*self._support(chosen[: self.support], rng), *self._any(chosen[self.support :], rng)]:
                seen.append(window.observations)
                played.append(window.actions)
            numbers.append([float(x) for x in window.parameters.get("numbers", ())])
        joined = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in (firsts, lasts, seen, played)]
        return RawRow((joined[0], joined[1]), (joined[2], joined[3]), numbers, self.timesteps * (self.support if self.whole else 1))

    def _support(self, episodes: np.ndarray, rng: np.random.Generator) -> Iterator[Episode]:
        if not self.whole:
            return self._any(episodes, rng)
        whole = (self.store.episode(int(number)) for number in episodes)
        return (episode.chosen(evenly(episode.num_timesteps, self.timesteps)) for episode in whole)

    def _any(self, episodes: np.ndarray, rng: np.random.Generator) -> Iterator[Episode]:
        for number in rng.choice(episodes, self.timesteps):
            t = int(rng.integers(self.store.lengths[number]))
            yield self.store.episode(int(number), t, t + 1)

    def batch(self, step: int, rows: Sequence[int]) -> Any:
        """The given rows of one global batch."""
        return self.encode([self.row(step, row) for row in rows])

    def counts(self, batch: Any) -> dict[str, float]:
        """`tokens`, `places` and `transitions` are all timesteps that are cloned."""
        return dict.fromkeys(("tokens", "places", "transitions"), len(batch.played))


def shared_task(name: str, tasks: Sequence[TaskSpec]) -> TaskSpec:
    """The task that stands for all of them: their set, where the registry knows one, else the first.

    **Raises:** `ValueError` where their fields differ, or where there is none.
    """
    if not tasks:
        raise ValueError(f"source '{name}' has no task with enough demonstrations; collect more of each")
    for other in tasks[1:]:
        if lines := tasks[0].differences(other, raw=True):
            raise ValueError(f"source '{name}': tasks '{tasks[0].name}' and '{other.name}' differ: {lines[0]}; give tasks of one robot")
    whole = envs.set_of(tasks[0].name)
    if whole != tasks[0].name:
        kwargs = {key: value for key, value in tasks[0].env_kwargs.items() if key != "task"}
        return replace(tasks[0], name=whole, env_kwargs=kwargs)
    return tasks[0]
