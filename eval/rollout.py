"""Policy x environments -> one result per episode.

All environments that are in an episode are put to the policy in one call. Every episode has its own
seed, and episodes begin in the order of their seeds, so the results do not depend on how many environments run
side by side, as far as a policy treats its streams alike and draws chance by episode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gato import envs
from gato.disk import reason
from gato.envs.demonstrator import Expert
from gato.envs.recording import episode_seed, expert_episode
from gato.envs.stream import EpisodeLimits, EpisodeResult, Stream, Streams
from gato.episode import Episode, stack_values
from gato.progress import Progress
from gato.spec import FieldSpec, Modality, TaskSpec

from .realtime import Pace

if TYPE_CHECKING:
    from gato.policy import Policy

USUAL_LIMITS = EpisodeLimits()
Transform = Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray], dict[str, np.ndarray]]


def rollout(
    policy: Policy,
    task: TaskSpec | str,
    episodes: int,
    seed: int = 0,
    num_envs: int = 8,
    transform: Transform | None = None,
    demonstrations: Sequence[Episode] = (),
    sink: Callable[[Episode], None] | None = None,
    limits: EpisodeLimits = USUAL_LIMITS,
    pace: Pace | None = None,
    progress: Progress | None = None,
) -> list[EpisodeResult]:
    """Lets a policy play a number of episodes.

    **Arguments:**

    - `policy`, `task`: who plays what; `episodes`, `seed`: how many, and where their seeds come from; never seeds of a collection.
    - `num_envs`: environments side by side, at most; each is a stream of the policy.
    - `transform`: `(observation, streams, first) -> observation` on the batch that the policy is shown,
      for ablations; the environments and recordings keep the true one.
    - `demonstrations`: handed to `policy.reset`.
    - `sink`: is handed the timesteps of every finished episode, of behaviour "learner", in the order of their seeds; an episode
      that failed has none to hand over.
    - `limits`: after how many timesteps an episode is truncated, and how long an environment is waited for.
    - `progress`: what counts the episodes, where they are a part of more.
    - `pace`: the rate that acting and stepping are held to, and where missed deadlines are counted; for one environment.

    **Returns:** one result per episode, in the order of their seeds.

    **Raises:** `ValueError` for counts below one, or a pace for several environments. What an environment raises, a step
    that takes too long and a value that is not finite become a failed episode; what the policy raises passes through.
    """
    if episodes < 1 or num_envs < 1:
        raise ValueError(f"episodes is {episodes} and num_envs is {num_envs}; both must be at least 1")
    if pace is not None and num_envs > 1:
        raise ValueError(f"a rate of {pace.rate:g} Hz is held in one environment, not in {num_envs}; set num_envs to 1")
    spec = envs.task(task) if isinstance(task, str) else task
    played = _Played([episode_seed("rollout", seed, i) for i in range(episodes)], sink)
    streams = Streams(spec, range(min(num_envs, episodes)), sink is not None, limits, may_be_fewer=True)
    try:
        policy.reset(len(streams.all), demonstrations)
        with Progress(f"rollout {spec.name}", episodes) if progress is None else nullcontext(progress) as progress:
            while active := played.begin(streams.all, progress, pace):
                if pace is not None:
                    pace.wait()
                seen, reward, first, indices = streams.seen(active)
                actions = policy.act(seen if transform is None else transform(seen, indices, first), reward, first, indices)
                for stream, result in zip(active, streams.step(active, actions), strict=True):
                    if result is not None:
                        played.results[stream.episode_index] = result
                        progress.advance()
                if pace is not None:
                    pace.done()
                progress.wait(lambda: f"the longest of them is at timestep {max(stream.num_timesteps for stream in streams.all):,}")
    finally:
        streams.close()
    return [result for result in played.results if result is not None]


class _Played:
    """The episodes of a rollout by their numbers: which are to begin, how the others went, and which `sink` has got."""

    def __init__(self, seeds: Sequence[int], sink: Callable[[Episode], None] | None) -> None:
        self.seeds, self.sink = seeds, sink
        self.results: list[EpisodeResult | None] = [None] * len(seeds)
        self.waiting = deque(range(len(seeds)))
        self.num_handed = 0

    def begin(self, streams: Sequence[Stream], progress: Progress, pace: Pace | None) -> list[Stream]:
        """Lets streams without an episode begin the next one. **Returns:** those that are in one."""
        for stream in streams:
            while self.waiting and not stream.is_active:
                index = self.waiting.popleft()
                if (result := stream.start(index, self.seeds[index])) is not None:
                    self.results[index] = result
                    progress.advance()
                if pace is not None:
                    pace.start()
        if self.sink is not None:
            self._hand_over(self.sink)
        return [stream for stream in streams if stream.is_active]

    def _hand_over(self, sink: Callable[[Episode], None]) -> None:
        """Gives away the episodes before the first that is not finished."""
        while self.num_handed < len(self.results) and (result := self.results[self.num_handed]) is not None:
            if result.episode is not None:
                sink(result.episode)
                self.results[self.num_handed] = replace(result, episode=None)
            self.num_handed += 1


def expert_rollout(
    task: TaskSpec | str, episodes: int, seed: int = 0, expert: Expert | None = None, episode_steps: int | None = None
) -> list[EpisodeResult]:
    """The same episodes as `rollout` with the same seed, played by an expert, which sees the environment.

    **Arguments:** `expert`: the registry's where `None`; a `RandomExpert` gives the lower reference.
    """
    spec = envs.task(task) if isinstance(task, str) else task
    expert = envs.expert(spec) if expert is None else expert
    env, results = envs.make(spec), []
    for episode_index in range(episodes):
        number = episode_seed("rollout", seed, episode_index)
        try:
            recording = expert_episode(spec, env, expert, number, keep=False, episode_steps=episode_steps)
        except Exception as error:  # whatever a planner or a simulator may raise: the episode has failed
            results.append(EpisodeResult(number, float("nan"), 0, None, failed=reason(error)))
        else:
            result = EpisodeResult(number, recording.total_reward, recording.num_timesteps, recording.success, is_cut=recording.is_cut)
            results.append(result)
    envs.close(env)
    return results


class RandomPolicy:
    """Uniformly random actions, whatever the observation; each episode, in the order of their beginning, has its own generator."""

    def __init__(self, task: TaskSpec, seed: int = 0) -> None:
        if any(f.modality is Modality.TEXT for f in task.actions):
            raise ValueError(f"task '{task.name}' has text actions, which have no uniform distribution")
        self.task, self.seed = task, seed

    def reset(self, num_streams: int, demonstrations: Sequence[Episode] = ()) -> None:
        self.generators: dict[int, np.random.Generator] = {}
        self.num_begun = 0

    def act(
        self, observation: Mapping[str, np.ndarray], reward: np.ndarray, first: np.ndarray, streams: np.ndarray
    ) -> dict[str, np.ndarray]:
        for stream in streams[np.asarray(first, bool)]:
            self.generators[int(stream)] = np.random.default_rng([self.seed, self.num_begun])
            self.num_begun += 1
        rows = [{f.name: _sample(f, self.generators[int(i)]) for f in self.task.actions} for i in streams]
        return stack_values(self.task.actions, rows)


def _sample(spec: FieldSpec, generator: np.random.Generator) -> np.ndarray:
    low, high = spec.bounds
    if spec.modality is Modality.CONTINUOUS:
        return np.asarray(generator.uniform(low, high), dtype=spec.dtype)
    return generator.integers(low.astype(np.int64), high.astype(np.int64), endpoint=True, size=spec.shape)
