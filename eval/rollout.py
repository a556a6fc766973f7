"""Policy x environments -> one result per episode.

All environments that are in an episode are put to the policy in one call. Every episode has its own
seed and its own index, so the results do not depend on how many environments run side by side, as far
as the policy is deterministic and treats its streams alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gato import envs
from gato.envs.demonstrator import Expert
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

from ..data.progress import Progress
from ..data.recording import Recording, episode_seed, expert_episode, stack_values

if TYPE_CHECKING:
    from gato.policy import Policy

Transform = Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class EpisodeResult:
    """How one episode went.

    **Arguments:**

    - `seed`: of the environment, so that the episode can be repeated.
    - `total_reward`: the return; NaN where the episode failed, so that no mean takes it in silently.
    - `num_timesteps`, `success`: up to the end or the failure; success is `None` where undefined.
    - `failed`: why the environment broke off, `None` if it did not.
    - `frames`: (T + 1, rows, columns, 3) uint8 where recorded.
    - `episode`: the recorded timesteps, where kept.
    """

    seed: int
    total_reward: float
    num_timesteps: int
    success: bool | None
    failed: str | None = None
    frames: np.ndarray | None = None
    episode: Episode | None = None


def rollout(
    policy: Policy,
    task: TaskSpec | str,
    episodes: int,
    seed: int = 0,
    num_envs: int = 8,
    transform: Transform | None = None,
    record_frames: int = 0,
    keep_episodes: bool = False,
    demonstrations: Sequence[Episode] = (),
    sink: Callable[[Episode], None] | None = None,
) -> list[EpisodeResult]:
    """Lets a policy play a number of episodes.

    **Arguments:**

    - `policy`, `task`: who plays what.
    - `episodes`, `seed`: how many, and where their seeds come from; never seeds of a collection.
    - `num_envs`: environments side by side; each is a stream of the policy.
    - `transform`: `(observation, streams, first) -> observation` on the batch that the policy is shown,
      for ablations; the environments and recordings keep the true one.
    - `record_frames`: of how many episodes, counted from the first, pictures are kept.
    - `keep_episodes`: keep the timesteps as `Episode`s of behaviour "learner".
    - `demonstrations`: handed to `policy.reset`.
    - `sink`: is handed every finished episode in the order of their seeds, in place of its being kept;
      an episode that failed has no timesteps to hand over.

    **Returns:** one result per episode, in the order of their seeds.

    **Raises:** `ValueError` for counts below one. What an environment raises becomes a failed episode;
    what the policy raises passes through.
    """
    if episodes < 1 or num_envs < 1:
        raise ValueError(f"episodes is {episodes} and num_envs is {num_envs}; both must be at least 1")
    spec = envs.task(task) if isinstance(task, str) else task
    seeds = [episode_seed("rollout", seed, i) for i in range(episodes)]
    results: list[EpisodeResult | None] = [None] * episodes
    waiting = deque(range(episodes))
    num_handed = 0
    streams = [_Stream(i, spec, record_frames, keep_episodes or sink is not None) for i in range(min(num_envs, episodes))]
    policy.reset(len(streams), demonstrations)
    try:
        with Progress(f"rollout {spec.name}", episodes) as progress:
            while True:
                for stream in streams:
                    while waiting and not stream.is_active:
                        index = waiting.popleft()
                        results[index] = stream.start(index, seeds[index], progress)
                if sink is not None:
                    num_handed = _hand_over(results, num_handed, sink)
                active = [stream for stream in streams if stream.is_active]
                if not active:
                    return [result for result in results if result is not None]
                actions = policy.act(*_batch(spec, active, transform))
                for row, stream in enumerate(active):
                    results[stream.episode_index] = stream.step({k: v[row] for k, v in actions.items()}, progress)
    finally:
        for stream in streams:
            stream.close()


def _hand_over(results: list[EpisodeResult | None], start: int, sink: Callable[[Episode], None]) -> int:
    """Gives away the episodes from place `start` to the first that is not finished, which is returned."""
    while start < len(results) and (result := results[start]) is not None:
        if result.episode is not None:
            sink(result.episode)
            results[start] = replace(result, episode=None)
        start += 1
    return start


def expert_rollout(task: TaskSpec | str, episodes: int, seed: int = 0, expert: Expert | None = None) -> list[EpisodeResult]:
    """The same episodes as `rollout` with the same seed, played by an expert, which sees the environment.

    **Arguments:** `expert`: the registry's where `None`; a `RandomExpert` gives the lower reference.
    """
    spec = envs.task(task) if isinstance(task, str) else task
    expert = envs.expert(spec) if expert is None else expert
    env, results = envs.make(spec), []
    for episode_index in range(episodes):
        number = episode_seed("rollout", seed, episode_index)
        try:
            recording = expert_episode(spec, env, expert, number, keep=False)
        except Exception as error:  # whatever a planner or a simulator may raise: the episode has failed
            results.append(EpisodeResult(number, float("nan"), 0, None, failed=_reason(error)))
        else:
            results.append(EpisodeResult(number, recording.total_reward, recording.num_timesteps, recording.success))
    env.close()
    return results


class RandomPolicy:
    """Uniformly random actions, whatever the observation; each stream draws from its own generator.

    Its results repeat for the same seed and the same number of environments.
    """

    def __init__(self, task: TaskSpec, seed: int = 0) -> None:
        if any(f.modality is Modality.TEXT for f in task.actions):
            raise ValueError(f"task '{task.name}' has text actions, which have no uniform distribution")
        self.task, self.seed = task, seed

    def reset(self, num_streams: int, demonstrations: Sequence[Episode] = ()) -> None:
        self.generators = [np.random.default_rng([self.seed, i]) for i in range(num_streams)]

    def act(
        self, observation: Mapping[str, np.ndarray], reward: np.ndarray, first: np.ndarray, streams: np.ndarray
    ) -> dict[str, np.ndarray]:
        rows = [{f.name: _sample(f, self.generators[i]) for f in self.task.actions} for i in streams]
        return stack_values(self.task.actions, rows)


class _Stream:
    """One environment and the episode that it is in."""

    def __init__(self, index: int, task: TaskSpec, record_frames: int, keep_episodes: bool) -> None:
        self.index, self.task, self.record_frames, self.keep = index, task, record_frames, keep_episodes
        self.recording: Recording | None = None
        self.frames: list[np.ndarray] | None = None
        self.env = self._make()

    @property
    def is_active(self) -> bool:
        return self.recording is not None

    def start(self, episode_index: int, seed: int, progress: Progress) -> EpisodeResult | None:
        """Begins an episode; a result only if that fails."""
        self.episode_index, self.seed = episode_index, seed
        self.frames = [] if episode_index < self.record_frames else None
        try:
            self.recording = Recording(self.task, self.env, seed, keep=self.keep)
            self._take_frame()
        except Exception as error:  # whatever a simulator may raise: the episode has failed, the others go on
            return self._break_off(error, progress)
        return None

    def step(self, action: dict[str, np.ndarray], progress: Progress) -> EpisodeResult | None:
        """Executes `{action field: value}`; a result where the episode ends or fails."""
        assert self.recording is not None
        try:
            self.recording.step(self.task.unflatten_action(action))
            self._take_frame()
        except Exception as error:  # as above
            return self._break_off(error, progress)
        if not self.recording.done:
            return None
        recording, self.recording = self.recording, None
        progress.advance()
        return EpisodeResult(
            seed=self.seed,
            total_reward=recording.total_reward,
            num_timesteps=recording.num_timesteps,
            success=recording.success,
            frames=None if self.frames is None else np.stack(self.frames),
            episode=recording.episode("learner") if self.keep else None,
        )

    def close(self) -> None:
        self.env.close()

    def _break_off(self, error: Exception, progress: Progress) -> EpisodeResult:
        """A simulator that raised may be in any state: the next episode gets a new one."""
        num_timesteps = 0 if self.recording is None else self.recording.num_timesteps
        self.recording = None
        self.env.close()
        self.env = self._make()
        progress.advance()
        return EpisodeResult(self.seed, float("nan"), num_timesteps, None, failed=_reason(error))

    def _make(self) -> Any:
        return envs.make(self.task, render_mode="rgb_array" if self.record_frames else None)

    def _take_frame(self) -> None:
        if self.frames is not None:
            self.frames.append(np.asarray(self.env.render(), dtype=np.uint8))


def _batch(
    task: TaskSpec, active: Sequence[_Stream], transform: Transform | None
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Observation, reward, first and streams of the active environments, (n, ...) each."""
    recordings = [stream.recording for stream in active if stream.recording is not None]
    observation = stack_values(task.observations, [r.values() for r in recordings])
    reward = np.array([r.reward for r in recordings], dtype=np.float32)
    first = np.array([r.first for r in recordings], dtype=bool)
    streams = np.array([stream.index for stream in active], dtype=np.int64)
    if transform is not None:
        observation = transform(observation, streams, first)
    return observation, reward, first, streams


def _sample(spec: FieldSpec, generator: np.random.Generator) -> np.ndarray:
    low, high = spec.bounds
    if spec.modality is Modality.CONTINUOUS:
        return np.asarray(generator.uniform(low, high), dtype=spec.dtype)
    return generator.integers(low.astype(np.int64), high.astype(np.int64), endpoint=True, size=spec.shape)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
