"""One environment and the episodes that are played in it, for training and evaluation alike; calls that may never come back.

Calls are made in a thread of their own, which is left behind when it takes too long.
A thread, not a process, so that a simulator costs no second interpreter and what it returns is not copied; each
environment keeps to one thread, which some renderers need. It helps against endless loops in Python, locks, lost connections
and native code that lets other threads run; native code that holds the interpreter for ever stops this process too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from gato import envs
from gato.disk import reason
from gato.episode import Episode, check_values, outside
from gato.setting import MAX_COUNT, Settings, bounded
from gato.spec import Modality, TaskSpec

from .recording import Recording

STEP_SECONDS = 60.0  # that an environment may take for one answer
EPISODE_SECONDS = 600.0  # that it may take for all answers of an episode


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


class Stream:
    """One environment and the episode that it is in. All that the environment does, it does in a thread of its own.

    **Arguments:** `index`: among those side by side; `keep`: whether the episode's timesteps come with its result.

    **Attributes:** `observation`: `{field name: (1, *shape)}`, the newest, also of an episode that is over; `reward`, `terminated`:
    of the last step.
    """

    def __init__(self, index: int, task: TaskSpec, keep: bool, limits: EpisodeLimits) -> None:
        self.index, self.task, self.keep, self.limits = index, task, keep, limits
        self.reward, self.terminated = 0.0, False
        self.recording: Recording | None = None
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
            self.recording = self._timed(Recording, self.task, self.env, seed, self.keep, self.limits.episode_steps)
            self._look()
        except Exception as error:  # whatever a simulator may raise: the episode has failed, the others go on
            return self._break_off(error)
        return None

    def step(self, action: dict[str, np.ndarray]) -> EpisodeResult | None:
        """Executes `{action field: value}`; a result where the episode ends or fails."""
        assert self.recording is not None
        try:
            self._timed(self.recording.step, action)
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
            seed=self.seed,
            total_reward=recording.total_reward,
            num_timesteps=recording.num_timesteps,
            success=success,
            out_of_bounds=self.out_of_bounds,
            is_cut=recording.is_cut,
            wrong_object=recording.info.get("wrong_object"),
            episode=episode,
        )

    def close(self) -> None:
        self.watched.end(self.env.close)

    def _look(self) -> None:
        """Reads what the environment shows. **Raises:** `ValueError` for a value that a policy cannot be shown."""
        recording = self.recording
        assert recording is not None
        self.observation = recording.observation
        for spec in self.task.observations:
            check_values(self.task.name, spec, self.observation[spec.name], 1, first=recording.num_timesteps)
            if spec.modality is Modality.CONTINUOUS:
                self.out_of_bounds += int(outside(spec, self.observation[spec.name]).sum())

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """An answer of the environment. **Raises:** `TimeoutError` where its answers in this episode took too long together."""
        started = time.monotonic()
        answer = self.watched(call, *arguments)
        self.seconds += time.monotonic() - started
        if 0 < self.limits.episode_seconds < self.seconds:
            raise TimeoutError(f"the environment took longer than {self.limits.episode_seconds:g} s for this episode (--episode_seconds)")
        return answer

    def _break_off(self, error: Exception) -> EpisodeResult:
        """A simulator that raised or hangs may be in any state: the next episode gets a new one, in a new thread."""
        num_timesteps, self.recording = self.num_timesteps, None
        self.close()
        self._make()
        return EpisodeResult(self.seed, float("nan"), num_timesteps, None, reason(error), self.out_of_bounds)

    def _make(self) -> None:
        self.watched = Watched(self.limits.step_seconds)
        try:
            self.env = self.watched(envs.make, self.task)
        except BaseException:
            self.watched.end()
            raise


class Watched:
    """Makes calls in one thread. **Arguments:** `seconds` that a call may take; 0 waits for ever."""

    def __init__(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"a call may take {seconds} s; give a time above zero, or 0 to wait for ever")
        self.seconds = seconds
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        threading.Thread(target=_work, args=(self._calls, self._answers), daemon=True).start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns or raises. **Raises:** `TimeoutError` after `seconds`; the thread is then of no more use."""
        self._calls.put((function, arguments))
        try:
            value, error = self._answers.get(timeout=self.seconds or None)
        except Empty:
            raise TimeoutError(f"no answer within {self.seconds:g} s") from None
        if error is not None:
            raise error
        return value

    def end(self, last: Callable[[], Any] | None = None) -> None:
        """Ends the thread, after a `last` call whose answer nobody waits for, as soon as it comes back from where it is."""
        if last is not None:
            self._calls.put((last, ()))
        self._calls.put(None)


def _work(calls: SimpleQueue, answers: SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        function, arguments = call
        try:
            answers.put((function(*arguments), None))
        except BaseException as error:  # the caller's to judge
            answers.put((None, error))
        del call, function, arguments  # an idle thread keeps nothing alive
