"""One episode while it happens: the only place that steps an environment and writes down what it did.

Collecting demonstrations, measuring experts and rolling out policies all go through `Recording`, so
they agree on seeds, time limits, clipping and success, and on what an environment may answer.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gato.episode import Behaviour, Episode, clip_actions, stack_values
from gato.spec import TaskSpec

from .success import PARAMETERS, succeeded

if TYPE_CHECKING:
    import gymnasium

    from .demonstrator import Expert

EPISODE_STEPS = 3000  # of an episode whose task and environment set no limit
LARGEST = float(np.finfo(np.float32).max)  # of a reward, as stores hold it

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
    - `episode_steps`: after so many timesteps the episode is truncated, if the task's own limit is not lower; 0: that
      one alone. By default `EPISODE_STEPS` where the task has none.

    **Attributes:** `raw` (the observation as the environment gave it, which experts see), `first`, `done`, `reward` (the last one),
    `total_reward`, `num_timesteps`, `num_clipped` (action values changed by clipping), `success`, `is_cut` (whether
    `episode_steps` ended it, and not the task).

    **Raises:** what the environment raises; `ValueError` for an answer that is none of Gymnasium's, `RuntimeError` where it
    calls `sys.exit`.
    """

    def __init__(self, task: TaskSpec, env: gymnasium.Env, seed: int, keep: bool = True, episode_steps: int | None = None) -> None:
        self.task, self.env, self.seed, self.keep = task, env, seed, keep
        own = task.episode_limit
        steps = (EPISODE_STEPS if own is None else 0) if episode_steps is None else episode_steps
        self.limit = min((n for n in (own, steps) if n), default=None)
        self.is_cut = False
        env.action_space.seed(episode_seed("action space", seed))
        self._observation: dict[str, np.ndarray] | None = None
        self.raw, info = _parts(ask("the environment", env.reset, seed=seed), "reset", ("observation", "info"))
        self.info = _checked_info(info)
        self.parameters: dict[str, Any] = dict(self.info.get(PARAMETERS, {}))
        self.terminated = self.truncated = False
        self.reward = self.total_reward = 0.0
        self.num_timesteps = self.num_clipped = 0
        self._rows: list[tuple[dict[str, np.ndarray], dict[str, Any], float]] = []

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

    @property
    def observation(self) -> dict[str, np.ndarray]:
        """`{field name: (1, *shape)}` of the current timestep: what policies see and what is recorded, taken apart once."""
        if self._observation is None:
            self._observation = stack_values(self.task.observations, [self.task.flatten(self.raw, "observation")])
        return self._observation

    def step(self, action: Mapping[str, Any], intended: Mapping[str, Any] | None = None) -> None:
        """Executes `{action field: value}` and records it, or records another one that was `intended` in its place.

        Where the task says `clip_actions`, both are clipped into the space; only what is recorded is counted.
        """
        assert not self.done, "the episode is over; start a new recording"
        recorded = self._clip(action if intended is None else intended, count=True)
        executed = recorded if intended is None else self._clip(action, count=False)
        if self.keep:
            observed, acted = self.observation, {name: _copy(value) for name, value in recorded.items()}
        answer = ask("the environment", self.env.step, self.task.unflatten_action(executed))
        self._observation = None
        self.raw, reward, terminated, truncated, info = _parts(answer, "step", _STEP)
        self.num_timesteps += 1
        self.info = _checked_info(info)
        self.reward = _checked_reward(reward, self.num_timesteps)
        self.total_reward += self.reward
        self.terminated, self.truncated = _flag("terminated", terminated), _flag("truncated", truncated)
        if not self.done and self.limit is not None and self.num_timesteps >= self.limit:
            self.truncated, self.is_cut = True, self.limit != self.task.episode_limit
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
            observations={f.name: np.concatenate([row[f.name] for row in observations]) for f in self.task.observations},
            actions=stack_values(self.task.actions, actions),
            rewards=np.array(rewards, dtype=np.float32),
            terminated=self.terminated,
            truncated=self.truncated,
            final_observation={name: values[0] for name, values in self.observation.items()},
            behaviour=behaviour,
            success=self.success,
            seed=self.seed,
            parameters=self.parameters,
        )

    def _clip(self, action: Mapping[str, Any], count: bool) -> Mapping[str, Any]:
        if not self.task.clip_actions:
            return action
        clipped, num_clipped = clip_actions(self.task, action)
        self.num_clipped += num_clipped if count else 0
        return clipped


def expert_episode(
    task: TaskSpec,
    env: gymnasium.Env,
    expert: Expert,
    seed: int,
    perturb: Perturbation | None = None,
    keep: bool = True,
    episode_steps: int | None = None,
) -> Recording:
    """Runs an expert through one episode.

    **Arguments:**

    - `perturb`: `(env, the expert's action) -> the action to execute`; the expert's own is recorded.
    - `keep`, `episode_steps`: see `Recording`.

    **Returns:** the finished recording. Whatever the expert or the environment raises passes through.
    """
    recording = Recording(task, env, seed, keep, episode_steps)
    ask("the expert", expert.reset, env)
    while not recording.done:
        action = ask("the expert", expert.act, env, recording.raw)
        flat = task.flatten(action, "action")
        if perturb is None:
            recording.step(flat)
        else:
            recording.step(task.flatten(perturb(env, action), "action"), intended=flat)
    return recording


_STEP = ("observation", "reward", "terminated", "truncated", "info")
_OLD = "that is the interface before Gymnasium 0.26: give all of them, or wrap the environment with shimmy's GymV21CompatibilityV0"


def ask(who: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What somebody else's code returns. **Raises:** what it raises, `RuntimeError` where it wants to end the process."""
    try:
        return function(*arguments, **named)
    except SystemExit as leaving:
        raise RuntimeError(f"{who} called sys.exit({'' if leaving.code is None else repr(leaving.code)})") from leaving
    except TypeError as error:
        if function.__name__ == "reset" and "unexpected keyword argument 'seed'" in str(error):
            raise ValueError("the environment's reset takes no seed; write it as reset(self, *, seed=None, options=None)") from error
        raise
    except ValueError as error:
        if re.fullmatch(r"not enough values to unpack \(expected 5, got 4\)", str(error)):  # a wrapper of Gymnasium's asked
            raise ValueError(f"step gave 4 values, expected {', '.join(_STEP)}; {_OLD}") from error
        raise


def _parts(answer: Any, call: str, names: tuple[str, ...]) -> tuple:
    """**Raises:** `ValueError` unless there is one value for each name."""
    if not isinstance(answer, tuple) or len(answer) != len(names):
        found = f"{len(answer)} values" if isinstance(answer, tuple) else f"one value of type {type(answer).__name__}"
        raise ValueError(f"{call} gave {found}, expected {', '.join(names)}; {_OLD}")
    return tuple(answer)


def _checked_info(info: Any) -> Mapping[str, Any]:
    """None is as good as nothing to say."""
    if not (info is None or isinstance(info, Mapping)):
        raise ValueError(f"info is of type {type(info).__name__}, expected a dict")
    return info or {}


def _checked_reward(reward: Any, timestep: int) -> float:
    """Any kind of one number: of Python, of NumPy or another library, also as an array of one element."""
    try:
        array = np.asarray(reward)
        value = float(array.item()) if array.size == 1 and array.dtype.kind in "biufO" else None
    except (TypeError, ValueError, OverflowError):
        value = None
    if value is None or isinstance(reward, str):
        raise ValueError(f"the reward of timestep {timestep} is {reward!r}, expected one number"[:300])
    if not abs(value) <= LARGEST:
        raise ValueError(f"the reward of timestep {timestep} is {value}, expected a finite number of at most {LARGEST:.3g}")
    return value


def _flag(name: str, value: Any) -> bool:
    """**Raises:** `ValueError` for what is neither true nor false."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {value!r}, expected true or false"[:300])
    return bool(array.item())


def _copy(value: Any) -> Any:
    """Environments may reuse their buffers."""
    return value.copy() if isinstance(value, np.ndarray) else value
