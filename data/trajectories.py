"""Windows of a store's episodes for a Decision Transformer, each a pure function of (seed, step,
row).

An episode is drawn with a probability proportional to its length, and in it a window of `context`
timesteps, every place of it equally likely; of an episode that is no longer than that it is the
whole one. (The paper's code lets windows run out at an episode's end; here they are full, as when
acting.)

At the start the length and return of every episode are read (16 bytes each), and at most `MEASURED`
timesteps for the scales of the observations. A window then costs its own rows, and the rewards from
its beginning to its episode's end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from gato.learners.trajectory import QUANTILES, TrajectoryBatch, TrajectoryStatistics, Window, collate
from gato.spec import Modality, TaskSpec

from .returns import check_returns
from .selection import SourceConfig, refuse_unused
from .source import AllEpisodes, Places, SomeEpisodes, selected_episodes
from .store import Store
from .store_rows import StoreRows, check_store

MEASURED = 2**16  # timesteps that means and spreads are taken from
PIECE = 256  # timesteps that are read at a time where there are more
LEAST_SPREAD = 1e-6

_log = logging.getLogger(__name__)


class Trajectories(StoreRows):
    """The rows and batches of a run.

    **Arguments:**

    - `name`, `config`, `store`: the source; `seed`: of the data order; `held_out`: patterns of task
      names.
    - `context`: timesteps in a window, by default those of the longest episode.
    - `best_share`, `shuffled_returns`, `delayed_reward`, `return_scale`: see `DecisionConfig`.
    - `needs_returns`: whether a store without rewards is refused.
    - `workers`: processes that read; 0 does it in this one.

    **Raises:** `ValueError` in one line for a source that holds no episode, several tasks, or no
    rewards.
    """

    learner = "a Decision Transformer"  # in messages

    def __init__(
        self,
        name: str,
        config: SourceConfig,
        store: Store,
        seed: int = 0,
        context: int | None = None,
        best_share: float | None = None,
        shuffled_returns: bool = False,
        delayed_reward: bool = False,
        return_scale: float | None = None,
        needs_returns: bool = True,
        held_out: Sequence[str] = (),
        workers: int = 0,
    ) -> None:
        self.name, self.config, self.store, self.seed, self.workers = name, config, store, seed, workers
        self.shuffled_returns, self.delayed_reward = shuffled_returns, delayed_reward
        self.task = _only_task(name, store, held_out, self.learner)
        refuse_unused(name, config, self.learner)
        episodes = selected_episodes(store, config, set())
        if episodes is not None and len(episodes) == 0:
            raise ValueError(f"source '{name}' has no episode left of {store.num_episodes} (part, behaviours); choose others")
        if best_share is not None:
            episodes = best_episodes(store, episodes, best_share)
        self.episodes = np.arange(store.num_episodes) if episodes is None else episodes
        self.places: Places = AllEpisodes(store) if episodes is None else SomeEpisodes(episodes, store.lengths[episodes])
        self.statistics = measured(store, self.task, self.places, self.episodes, return_scale)
        self.context = context or self.statistics.longest
        if needs_returns:
            check_returns(name, store, self.episodes, "set model.condition none")

    def place(self, step: int, row: int) -> tuple[int, int, float | None]:
        """The episode and the first timestep of a row, and the return that it is said to have where
        they are shuffled."""
        rng = self.generator(step, row)
        episode = self.places.find(int(rng.integers(self.places.total)))
        start = int(rng.integers(max(self.places.span(episode)[1] - self.context, 0) + 1))
        other = int(self.episodes[rng.integers(len(self.episodes))]) if self.shuffled_returns else None
        return episode, start, None if other is None else float(self.store.returns[other])

    def window(self, step: int, row: int) -> Window:
        """What row `row` of the global batch of update `step` holds."""
        number, start, said = self.place(step, row)
        episode = self.store.episode(number, start, start + self.context)
        if self.delayed_reward:
            returns_to_go = np.full(episode.num_timesteps, self.store.returns[number], np.float32)
        else:
            returns_to_go = self.store.returns_to_go(number, start, start + episode.num_timesteps)
        if said is not None:
            returns_to_go = (returns_to_go + np.float64(said - self.store.returns[number])).astype(np.float32)
        return Window(episode.observations, episode.actions, returns_to_go, start)

    def batch(self, step: int, rows: Sequence[int]) -> TrajectoryBatch:
        """The given rows of one global batch, and the step's seed for what else is drawn."""
        seed = np.random.SeedSequence([self.seed, step, rows[0]]).generate_state(1)[0]
        return collate(self.task, [self.window(step, row) for row in rows], self.context, int(seed))

    def counts(self, batch: TrajectoryBatch) -> dict[str, float]:
        """`tokens` without padding and `places` with it, three a timestep; `transitions`."""
        timesteps = int((~batch.is_padding).sum())
        return {"tokens": 3 * timesteps, "places": 3 * batch.is_padding.numel(), "transitions": timesteps}


def best_episodes(store: Store, episodes: np.ndarray | None, share: float) -> np.ndarray:
    """(E,) the episodes of the highest returns that together hold `share` of the timesteps,
    ascending; at least one.

    Of equal returns the earlier episode comes first.
    """
    episodes = np.arange(store.num_episodes) if episodes is None else episodes
    order = episodes[np.argsort(-store.returns[episodes], kind="stable")]
    held = np.cumsum(store.lengths[order])
    return np.sort(order[: max(1, int(np.searchsorted(held, share * held[-1], side="right")))])


def measured(store: Store, task: TaskSpec, places: Places, episodes: np.ndarray, return_scale: float | None) -> TrajectoryStatistics:
    """Means and spreads of at most about `MEASURED` timesteps, evenly over the episodes; returns of
    all of them."""
    returns, lengths = store.returns[episodes], store.lengths[episodes]
    continuous = [f for f in task.observations if f.modality is Modality.CONTINUOUS]
    mean: dict[str, tuple[float, ...]] = {}
    spread: dict[str, tuple[float, ...]] = {}
    if continuous:
        windows = [store.episode(number, start, start + PIECE) for number, start in _evenly(places, episodes)]
        for f in continuous:
            values = np.concatenate([w.observations[f.name].reshape(w.num_timesteps, -1) for w in windows]).astype(np.float64)
            deviation = values.std(axis=0)
            mean[f.name] = tuple(map(float, values.mean(axis=0)))
            spread[f.name] = tuple(map(float, np.where(deviation < LEAST_SPREAD, 1.0, deviation)))
    scale = return_scale or float(np.abs(returns).max()) or 1.0
    quantiles = {str(q): float(v) for q, v in zip(QUANTILES, np.quantile(returns, QUANTILES), strict=True)}
    return TrajectoryStatistics(mean, spread, quantiles, scale, len(episodes), int(lengths.max()))


def _evenly(places: Places, episodes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Episode and first timestep of pieces of `PIECE`: all of them where there are few, else as
    many as there may be."""
    if places.total <= MEASURED:
        for episode in episodes:
            yield from ((int(episode), start) for start in range(0, places.span(int(episode))[1], PIECE))
        return
    for place in np.linspace(0, places.total - 1, MEASURED // PIECE).astype(np.int64):
        episode = places.find(int(place))
        first, length = places.span(episode)
        yield episode, max(0, min(int(place) - first, length - PIECE))


def _only_task(name: str, store: Store, held_out: Sequence[str], learner: str) -> TaskSpec:
    """**Raises:** `ValueError` unless the store holds episodes of one task that may be trained on."""
    if len(store.tasks) > 1:
        raise ValueError(f"source '{name}' holds {len(store.tasks)} tasks, {learner} learns one; give a store of one task")
    check_store(name, store, held_out)
    (task,) = store.tasks
    if unfinished := store.manifest.shortfall:
        _log.warning("source '%s' holds %s", name, unfinished)
    return task
