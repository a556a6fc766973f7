"""Environments side by side and the episodes that are played in them, for training and evaluation alike.

All that they do, they do in one thread (`watched.py`), which some renderers need. Where one hangs, that thread is left behind and
the others go on in a new one; an environment that cannot breaks off its episode and is made anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from gato import envs
from gato.disk import reason
from gato.episode import Episode, check_values, outside
from gato.setting import MAX_COUNT, Settings, bounded
from gato.spec import Modality, TaskSpec

from .recording import Recording
from .watched import Answer, Call, Watched

STEP_SECONDS = 60.0  # that an environment may take for one answer
EPISODE_SECONDS = 600.0  # that it may take for all answers of an episode
CLOSE_SECONDS = 10.0  # that closing is waited for, so that those that come next find the memory free
MEMORY_SHARE = 0.5  # of what is free that environments may take, where fewer of them would do

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpisodeLimits(Settings):
    """Where a rollout leaves an episode, and an environment.

    - `step_seconds`: wall-clock time after which an environment's answer is waited for no longer; 0: for ever.
    - `episode_steps`: when an episode that does not end is truncated, see `Recording`.
    - `episode_seconds`: wall-clock time for all answers of an environment in an episode, after which it has failed; 0: for ever.
    """

    step_seconds: float = bounded(STEP_SECONDS, 0, 1e7)
    episode_steps: int | None = bounded(None, 0, MAX_COUNT)
    episode_seconds: float = bounded(EPISODE_SECONDS, 0, 1e7)


@dataclass(frozen=True)
class EpisodeResult:
    """How one episode went.

    **Arguments:**

    - `seed`: of the environment, so that the episode can be repeated.
    - `total_reward`: the return; NaN where the episode failed, so that no mean takes it in silently.
    - `num_timesteps`, `success`: up to the end or the failure; success is `None` where undefined.
    - `failed`: why the environment broke off, `None` if it did not: it raised, gave no answer, or gave what is no observation.
    - `out_of_bounds`: how many observed values lay outside their declared range; the policy saw them as they were.
    - `wrong_object`: whether it ended at an object that was not meant, as the environment's info of the last step says; else `None`.
    - `is_cut`: whether a limit of the evaluation truncated it, and not the task's.
    - `episode`: the recorded timesteps until they are handed over.
    """

    seed: int
    total_reward: float
    num_timesteps: int
    success: bool | None
    failed: str | None = None
    out_of_bounds: int = 0
    is_cut: bool = False
    wrong_object: bool | None = None
    episode: Episode | None = None


class Streams:
    """**Arguments:**

    - `indices`: one for each environment; `keep`: whether the episodes' timesteps come with their results.
    - `may_be_fewer`: whether no more environments are made once they have taken half of the memory that was free, which is said.

    **Raises:** what making an environment raises.
    """

    def __init__(self, task: TaskSpec, indices: Sequence[int], keep: bool, limits: EpisodeLimits, may_be_fewer: bool = False) -> None:
        self.task, self.keep, self.limits = task, keep, limits
        self._watched, self.all = Watched(limits.step_seconds), list[Stream]()
        process, free = psutil.Process(), psutil.virtual_memory().available
        before = process.memory_info().rss
        try:
            for index in indices:
                self.all.append(Stream(index, self))
                taken = process.memory_info().rss - before if may_be_fewer else 0
                if taken > MEMORY_SHARE * free and len(self.all) < len(indices):
                    how_many = f"{len(self.all)} environments of '{task.name}' play side by side, not {len(indices)}"
                    _log.warning("%s: they have taken %.1f GB, half of the memory that was free", how_many, taken / 1e9)
                    break
        except BaseException:
            self.close()
            raise

    def step(self, streams: Sequence[Stream], actions: Mapping[str, np.ndarray]) -> list[EpisodeResult | None]:
        """Executes an action in some of them, `{action field: (n, *shape)}`; results where episodes end or fail."""
        calls = [stream.call({name: values[row] for name, values in actions.items()}) for row, stream in enumerate(streams)]
        return [stream.note(answer) for stream, answer in zip(streams, self.answers(streams, calls), strict=True)]

    def seen(self, streams: Sequence[Stream]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        """What a policy is told of some that are in an episode: observation, reward, first and streams, (n, ...) each."""
        observation = {f.name: np.concatenate([stream.observation[f.name] for stream in streams]) for f in self.task.observations}
        reward = np.array([stream.reward for stream in streams], np.float32)
        first = np.array([stream.num_timesteps == 0 for stream in streams], bool)
        return observation, reward, first, np.array([stream.index for stream in streams], np.int64)

    def answers(self, streams: Sequence[Stream], calls: Sequence[Call]) -> list[Answer]:
        """What a call gave in each of some environments; one that hangs is left behind with the thread, and the others go on."""
        found: list[Answer] = []
        while len(found) < len(calls):
            found += self._watched.all(calls[len(found) :])
            if found[-1].is_late:
                self._watched.end(*streams[len(found) - 1].let_go())
                self._watched = Watched(self.limits.step_seconds)
        return found

    def close(self) -> None:
        self._watched.end(*(close for stream in self.all for close in stream.let_go()), wait=CLOSE_SECONDS)


class Stream:
    """One environment and the episode that it is in.

    **Arguments:** `index`: among those side by side; `group`: these.

    **Attributes:** `observation`: `{field name: (1, *shape)}`, the newest, also of an episode that is over; `reward`, `terminated`:
    of the last step.
    """

    def __init__(self, index: int, group: Streams) -> None:
        self.index, self.group, self.task, self.keep, self.limits = index, group, group.task, group.keep, group.limits
        self.reward, self.terminated = 0.0, False
        self.recording: Recording | None = None
        self.env: Any = None
        self._make()

    @property
    def is_active(self) -> bool:
        return self.recording is not None

    @property
    def num_timesteps(self) -> int:
        """Of the episode that it is in."""
        return 0 if self.recording is None else self.recording.num_timesteps

    def start(self, episode_index: int, seed: int) -> EpisodeResult | None:
        """Begins an episode; a result only if that fails."""
        self.episode_index, self.seed, self.out_of_bounds, self.seconds = episode_index, seed, 0, 0.0
        self.reward, self.terminated = 0.0, False
        try:
            self.recording = self._timed(self._ask(Recording, self.task, self.env, seed, self.keep, self.limits.episode_steps))
            self._look()
        except Exception as error:  # whatever a simulator may raise: the episode has failed, the others go on
            return self._break_off(error)
        return None

    def step(self, action: dict[str, np.ndarray]) -> EpisodeResult | None:
        """Executes `{action field: value}`; a result where the episode ends or fails."""
        return self.note(self.group.answers([self], [self.call(action)])[0])

    def call(self, action: dict[str, np.ndarray]) -> Call:
        """What executes an action; its answer is to be noted."""
        assert self.recording is not None
        return self.recording.step, (action,)

    def note(self, answer: Answer) -> EpisodeResult | None:
        """Takes in what came of an action; a result where the episode ends or fails."""
        assert self.recording is not None
        try:
            self._timed(answer)
            self._look()
            episode = self.recording.episode("learner") if self.keep and self.recording.done else None
            success = self.recording.success if self.recording.done else None
        except Exception as error:  # as above
            return self._break_off(error)
        self.reward, self.terminated = self.recording.reward, self.recording.terminated
        if not self.recording.done:
            return None
        recording, self.recording = self.recording, None
        return EpisodeResult(
            self.seed, recording.total_reward, recording.num_timesteps, success, out_of_bounds=self.out_of_bounds,
            is_cut=recording.is_cut, wrong_object=recording.info.get("wrong_object"), episode=episode,
        )  # fmt: skip

    def let_go(self) -> list[Callable[[], Any]]:
        """Parts from the environment. **Returns:** what closes it."""
        env, self.env = self.env, None
        return [] if env is None else [env.close]

    def _look(self) -> None:
        """Reads what the environment shows. **Raises:** `ValueError` for a value that a policy cannot be shown."""
        recording = self.recording
        assert recording is not None
        self.observation = recording.observation
        for spec in self.task.observations:
            check_values(self.task.name, spec, self.observation[spec.name], 1, first=recording.num_timesteps)
            if spec.modality is Modality.CONTINUOUS:
                self.out_of_bounds += int(outside(spec, self.observation[spec.name]).sum())

    def _timed(self, answer: Answer) -> Any:
        """What the environment gave. **Raises:** `TimeoutError` where its answers in this episode took too long together."""
        value = answer.get()
        self.seconds += answer.seconds
        if 0 < self.limits.episode_seconds < self.seconds:
            raise TimeoutError(f"the environment took longer than {self.limits.episode_seconds:g} s for this episode (--episode_seconds)")
        return value

    def _break_off(self, error: Exception) -> EpisodeResult:
        """A simulator that raised or hangs may be in any state: the next episode gets a new one."""
        num_timesteps, self.recording = self.num_timesteps, None
        for close in self.let_go():
            self._ask(close)  # whatever comes of it
        self._make()
        return EpisodeResult(self.seed, float("nan"), num_timesteps, None, reason(error), self.out_of_bounds)

    def _make(self) -> None:
        self.env = self._ask(envs.make, self.task).get()

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Answer:
        return self.group.answers([self], [(function, arguments)])[0]
