"""One attempt at one episode of a collection: a job says everything that decides what it will be.

A job gives the same outcome in any process and in any order, so a store does not depend on who made it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gato import envs
from gato.disk import reason
from gato.envs import own
from gato.envs.demonstrator import Expert, RandomExpert, behaviour_of
from gato.envs.recording import episode_seed, expert_episode
from gato.episode import Episode
from gato.spec import TaskSpec

from .policy_expert import PREFIX, PolicyExpert

if TYPE_CHECKING:
    import gymnasium

RANDOM = "random"  # names uniformly random actions in an expert's place


@dataclass(frozen=True)
class Job:
    """What to play.

    **Arguments:**

    - `task`: with its environment; `index`: the episode's place in the store.
    - `seed`: of the collection; `attempt`: at this place, from 0.
    - `noise`: expected share of random timesteps, `None` for a clean episode; `noise_steps`: see `Noise`.
    - `least_return`: what a clean episode must reach to be accepted; `None` accepts all.
    - `expert`: `MODULE:NAME` or `random`, see `load_expert`; `episode_steps`: see `Recording`.
    """

    task: TaskSpec
    index: int
    seed: int
    attempt: int = 0
    noise: float | None = None
    noise_steps: int = 1
    least_return: float | None = None
    expert: str | None = None
    episode_steps: int | None = None


@dataclass(frozen=True)
class Outcome:
    """An accepted `episode`, or why it `failed`; neither where a finished episode fell short."""

    episode: Episode | None = None
    failed: str | None = None


class Noise:
    """Replaces executed actions by random ones, each held for some steps.

    **Arguments:**

    - `share`: expected share of the timesteps that are replaced.
    - `steps`: how long one random action is held.
    - `generator`: decides when; the action itself comes from the seeded action space.
    """

    def __init__(self, share: float, steps: int, generator: np.random.Generator) -> None:
        # A period is `steps` replaced timesteps and (1 - p) / p others on average; solved for p.
        self.start_probability = share / (steps * (1 - share) + share)
        self.steps, self.generator = steps, generator
        self.left = 0
        self.held: Any = None

    def __call__(self, env: gymnasium.Env, action: Any) -> Any:
        if self.left == 0 and self.generator.random() < self.start_probability:
            self.left, self.held = self.steps, env.action_space.sample()
        if self.left == 0:
            return action
        self.left -= 1
        return self.held


class Stage:
    """Where jobs are played: keeps the environment and the expert of the last task."""

    def __init__(self) -> None:
        self.task: TaskSpec | None = None
        self.expert_name: str | None = None

    def prepare(self, job: Job) -> None:
        """Makes environment and expert, if `play` has not yet: what takes its time once."""
        if (job.task, job.expert) != (self.task, self.expert_name):
            self.close()
            expert = load_expert(job.task, job.expert)  # first: its module may be what registers the environment
            self.env, self.expert, self.behaviour = envs.make(job.task), expert, behaviour_of(expert)
            self.task, self.expert_name = job.task, job.expert

    def play(self, job: Job) -> Outcome:
        """Whatever a planner or a simulator raises fails the attempt and nothing more."""
        seed = episode_seed("collect", job.seed, job.index, job.attempt)
        perturb = None if job.noise is None else Noise(job.noise, job.noise_steps, np.random.default_rng([seed, job.seed]))
        try:
            self.prepare(job)
            recording = expert_episode(job.task, self.env, self.expert, seed, perturb, episode_steps=job.episode_steps)
            episode = recording.episode("noisy" if job.noise is not None else self.behaviour)
        except Exception as error:
            self.close()  # an environment that raised may stay broken: the next attempt has a new one
            return Outcome(failed=reason(error))
        if episode.behaviour == "expert" and job.least_return is not None and episode.total_reward < job.least_return:
            return Outcome()
        cut = {"cut": True} if recording.is_cut else {}
        counts = {**cut, "clipped_actions": recording.num_clipped, "observations_out_of_bounds": episode.count_out_of_bounds()}
        return Outcome(replace(episode, parameters={**episode.parameters, "collection": counts}))

    def close(self) -> None:
        if self.task is not None:
            self.task = None
            envs.close(self.env)


def load_expert(task: TaskSpec | str, name: str | None) -> Expert:
    """The registry's expert of a task, `random` actions, a policy (`policy_name`), or `NAME` of `MODULE`, called without arguments.

    **Raises:** `ValueError` where there is none, or it cannot act.
    """
    if name is None:
        return envs.expert(task)
    if name == RANDOM:
        return RandomExpert()
    if name.startswith(PREFIX):
        return PolicyExpert(task if isinstance(task, str) else task.name, name)
    made = own.attribute(name, "expert")
    try:
        expert = made()
    except BaseException as error:  # a constructor may do anything, sys.exit() included
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError(f"expert '{name}' cannot be made by {name.partition(':')[2]}(): {reason(error)}") from error
    for method in ("reset(env)", "act(env, observation)"):
        if not callable(getattr(expert, method.partition("(")[0], None)):
            raise ValueError(f"expert '{name}' has no method {method}; see docs/environments.md")
    return expert
