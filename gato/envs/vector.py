"""Several environments of one task, stepped together; each begins its next episode as soon as one ends.

Environment i plays the episodes (seed, i, 0), (seed, i, 1), ... one after the other, so what it does follows from the actions alone:
to go on exactly where a run stopped, the actions of the episodes under way are played once more (`replay`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gato.spec import TaskSpec

from .recording import episode_seed
from .stream import EpisodeLimits, EpisodeResult, Stream, Streams

MOST_FAILURES = 10  # episodes of an environment that fail in a row before a run ends
TOLD_FAILURES = 5  # of all environments together; more are counted, not told one by one
PURPOSE = "train"  # seeds of no collection and no evaluation

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What a timestep of n environments came to.

    - `reward`: (n,) float32; `terminated`, `truncated`: (n,) bool; `failed`: (n,) bool, where an environment raised, hung or gave what is
      no observation, so that the reward means nothing.
    - `final`: `{field name: (n, *shape)}`: what was seen last, also of episodes that ended.
    - `results`: one an environment, of the episode that ended or failed; else `None`.
    """

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    failed: np.ndarray
    final: dict[str, np.ndarray]
    results: list[EpisodeResult | None]


class VectorEnv:
    """**Arguments:** `indices`: of the environments that are stepped here, among all; `seed`: of their episodes; `keep`: whether results
    hold the episodes' timesteps.

    **Raises:** `RuntimeError` where an environment's episodes fail ten times in a row.
    """

    def __init__(self, task: TaskSpec, indices: Sequence[int], seed: int, limits: EpisodeLimits, keep: bool = False) -> None:
        self.task, self.indices, self.seed = task, list(indices), seed
        self.episodes = dict.fromkeys(self.indices, 0)  # begun so far
        self._failures, self._num_failed = dict.fromkeys(self.indices, 0), 0
        self._group = Streams(task, self.indices, keep, limits)
        self.streams = self._group.all

    def begin(self) -> None:
        """Every environment begins its first episode."""
        for stream in self.streams:
            self._next(stream)

    @property
    def first(self) -> np.ndarray:
        """(n,) bool: whether no action of the episode has been taken yet."""
        return np.array([stream.num_timesteps == 0 for stream in self.streams])

    def observation(self) -> dict[str, np.ndarray]:
        """`{field name: (n, *shape)}`, what is seen now."""
        return {f.name: np.concatenate([stream.observation[f.name] for stream in self.streams]) for f in self.task.observations}

    def step(self, actions: Mapping[str, np.ndarray]) -> Step:
        """Executes one action in each environment, `{field name: (n, *shape)}`."""
        results = self._group.step(self.streams, actions)
        failed = np.array([result is not None and result.failed is not None for result in results])
        terminated = np.array([stream.terminated for stream in self.streams]) & ~failed
        ended = np.array([result is not None for result in results])
        reward = np.array([stream.reward for stream in self.streams], np.float32) * ~failed
        step = Step(reward, terminated, ended & ~terminated & ~failed, failed, self.observation(), results)
        for stream, result in zip(self.streams, results, strict=True):
            if result is not None:
                self._note(stream, result)
                self._next(stream)
        return step

    def replay(self, index: int, episode: int, actions: Sequence[Mapping[str, np.ndarray]]) -> bool:
        """Brings an environment to where the actions of its `episode` lead. **Returns:** whether it still goes on there."""
        stream = self.streams[self.indices.index(index)]
        self.episodes[index] = episode + 1
        ended = stream.start(episode, episode_seed(PURPOSE, self.seed, index, episode))
        for action in actions:
            ended = ended or stream.step(dict(action))
        if ended is not None:
            self._next(stream)
        return ended is None

    def close(self) -> None:
        self._group.close()

    def _next(self, stream: Stream) -> None:
        while True:
            episode = self.episodes[stream.index]
            self.episodes[stream.index] += 1
            result = stream.start(episode, episode_seed(PURPOSE, self.seed, stream.index, episode))
            if result is None:
                return
            self._note(stream, result)

    def _note(self, stream: Stream, result: EpisodeResult) -> None:
        """Counts failures in a row. **Raises:** `RuntimeError` where there are too many."""
        if result.failed is None:
            self._failures[stream.index] = 0
            return
        self._failures[stream.index] += 1
        self._num_failed += 1
        where = f"environment {stream.index} of '{self.task.name}', episode of seed {result.seed}, timestep {result.num_timesteps}"
        if self._failures[stream.index] >= MOST_FAILURES:
            raise RuntimeError(f"{MOST_FAILURES} episodes in a row failed, the last in {where}: {result.failed}; mend the environment")
        if self._num_failed <= TOLD_FAILURES:
            _log.warning("%s failed: %s; it goes on with the next episode, the timestep counts for nothing", where, result.failed)
        if self._num_failed == TOLD_FAILURES:
            _log.warning("further failures are counted (failed in the metrics) and not told one by one")
