"""One episode while it happens: the only place that steps an environment and writes down what it did.

Collecting demonstrations, measuring experts and rolling out policies all go through `Recording`, so
they agree on seeds, time limits, clipping and success.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gato.envs.success import succeeded
from gato.episode import Behaviour, Episode, clip_actions
from gato.spec import FieldSpec, Modality, TaskSpec

if TYPE_CHECKING:
    import gymnasium

    from gato.envs.demonstrator import Expert

Perturbation = Callable[["gymnasium.Env", Any], Any]


def episode_seed(purpose: str, *key: int) -> int:
    """A seed below 2**31 for one episode.

    **Arguments:**

    - `purpose`: `"collect"`, `"rollout"` and so on, so that evaluation never repeats a training episode.
    - `key`: for example the run's seed and the episode's index.
    """
    return int(np.random.SeedSequence([zlib.crc32(purpose.encode()), *key]).generate_state(1)[0] >> 1)


class Recording:
    """Starts an episode and follows it to its end.

    **Arguments:**

    - `task`, `env`: what is recorded; the environment is reset here.
    - `seed`: of the environment and, through another stream, of its action space.
    - `keep`: False forgets the timesteps and only counts them; `episode` is then refused.

    **Attributes:** `observation` (as the environment gave it), `first`, `done`, `reward` (the last one),
    `total_reward`, `num_timesteps`, `num_clipped` (action values changed by clipping), `success`.
    """

    def __init__(self, task: TaskSpec, env: gymnasium.Env, seed: int, keep: bool = True) -> None:
        self.task, self.env, self.seed, self.keep = task, env, seed, keep
        env.action_space.seed(episode_seed("action space", seed))
        self.observation, self.info = env.reset(seed=seed)
        self.parameters: dict[str, Any] = dict(self.info.get("parameters", {}))
        self.terminated = self.truncated = False
        self.reward = self.total_reward = 0.0
        self.num_timesteps = self.num_clipped = 0
        self._rows: list[tuple[dict[str, Any], dict[str, Any], float]] = []

    @property
    def first(self) -> bool:
        """Whether no action has been taken yet."""
        return self.num_timesteps == 0

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated

    @property
    def success(self) -> bool | None:
        return succeeded(self.task.success, self.total_reward, self.terminated, self.info)

    def values(self) -> dict[str, Any]:
        """`{field name: value}` of the current observation."""
        return self.task.flatten(self.observation, "observation")

    def step(self, action: Any, intended: Any = None) -> None:
        """Executes an action and records it, or records another one that was `intended` in its place.

        Both are as the environment's space has them. Where the task says `clip_actions`, both are
        clipped into the space; only what is recorded is counted.
        """
        assert not self.done, "the episode is over; start a new recording"
        recorded = self._clip(action if intended is None else intended, count=True)
        executed = recorded if intended is None else self._clip(action, count=False)
        if self.keep:
            observed = {name: _copy(value) for name, value in self.values().items()}
            acted = {name: _copy(value) for name, value in self.task.flatten(recorded, "action").items()}
        self.observation, reward, terminated, truncated, self.info = self.env.step(executed)
        self.reward = float(reward)
        self.total_reward += self.reward
        self.num_timesteps += 1
        limit = self.task.episode_limit
        self.terminated = bool(terminated)
        self.truncated = bool(truncated) or (limit is not None and self.num_timesteps >= limit and not self.terminated)
        if self.keep:
            self._rows.append((observed, acted, self.reward))

    def episode(self, behaviour: Behaviour) -> Episode:
        """The finished episode with its final observation.

        **Raises:** `ValueError` from `Episode`, for example where an action left its range.
        """
        assert self.keep and self.done, "an episode can be had from a finished recording that kept its timesteps"
        observations, actions, rewards = zip(*self._rows, strict=True)
        return Episode(
            task=self.task,
            observations=stack_values(self.task.observations, observations),
            actions=stack_values(self.task.actions, actions),
            rewards=np.array(rewards, dtype=np.float32),
            terminated=self.terminated,
            truncated=self.truncated,
            final_observation={k: v[0] for k, v in stack_values(self.task.observations, [self.values()]).items()},
            behaviour=behaviour,
            success=self.success,
            seed=self.seed,
            parameters=self.parameters,
        )

    def _clip(self, action: Any, count: bool) -> Any:
        if not self.task.clip_actions:
            return action
        flat, num_clipped = clip_actions(self.task, self.task.flatten(action, "action"))
        self.num_clipped += num_clipped if count else 0
        return self.task.unflatten_action(flat)


def expert_episode(
    task: TaskSpec,
    env: gymnasium.Env,
    expert: Expert,
    seed: int,
    perturb: Perturbation | None = None,
    keep: bool = True,
) -> Recording:
    """Runs an expert through one episode.

    **Arguments:**

    - `perturb`: `(env, the expert's action) -> the action to execute`; the expert's own is recorded.

    **Returns:** the finished recording. Whatever the expert or the environment raises passes through.
    """
    recording = Recording(task, env, seed, keep)
    expert.reset(env)
    while not recording.done:
        action = expert.act(env, recording.observation)
        if perturb is None:
            recording.step(action)
        else:
            recording.step(perturb(env, action), intended=action)
    return recording


def _copy(value: Any) -> Any:
    """Environments may reuse their buffers."""
    return value.copy() if isinstance(value, np.ndarray) else value


def stack_values(specs: tuple[FieldSpec, ...], rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """`{field name: array (T, *shape)}` in the spec's dtype; a foreign kind of value is left for `Episode` to refuse."""
    arrays = {}
    for spec in specs:
        values = [row[spec.name] for row in rows]
        if spec.modality is Modality.TEXT:
            array = np.empty(len(values), dtype=object)
            array[:] = values
        else:
            array = np.stack([np.asarray(v) for v in values])
            if np.can_cast(array.dtype, np.dtype(spec.dtype), "same_kind"):
                array = array.astype(spec.dtype, copy=False)
        arrays[spec.name] = array
    return arrays
