"""Meta-World v3, one manipulation task each, from state vectors, solved by its scripted policies.

An episode ends at its first success, with a reward of 1 there and 0 before: the return is the success
rate, which is how the field reports Meta-World. (The shaped reward grows with every timestep that a
policy does *not* succeed, so a normalised score of it would reward loitering.)

An observation is the task's name as an instruction and 21 numbers: the state (hand and gripper 4, two objects 7
each) and the goal's place (3). Meta-World's own 39 hold the state of the timestep before once more, which a model of
sequences has seen: two fifths of a timestep's tokens would say nothing new. The name is what the one-hot vector of MT10
and MT50 is: where a puck lies does not tell whether it is to be reached, pushed or picked up.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import gymnasium
import metaworld  # noqa: F401  (registers the environments)
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from .success import PARAMETERS

POOL_SEED = 0  # of the pool of 50 goals: part of the task's definition
STATE = 18  # numbers of one timestep; Meta-World's observation is this state, the one before, the goal


class UntilSuccess(gymnasium.Wrapper):
    """Ends at the first success, lets the reset's seed alone decide about the goal, says the task, leaves the previous state out.

    Meta-World itself draws a goal before it reads the seed, so that an episode would depend on the one
    before it. `info[PARAMETERS]["goal"]` of the reset is the goal's number in the pool.
    """

    def __init__(self, env: gymnasium.Env, instruction: str) -> None:
        super().__init__(env)
        self.instruction = instruction
        self.goals = env.get_wrapper_attr("tasks")
        env.get_wrapper_attr("toggle_sample_tasks_on_reset")(False)
        self.generator = np.random.default_rng()
        # Until a goal is set, the declared space says that the goal's place is hidden, [0, 0], which it is not.
        world: Any = self.unwrapped
        world.set_task(self.goals[0])
        space = world.sawyer_observation_space
        numbers = gymnasium.spaces.Box(_now(space.low), _now(space.high), dtype=space.dtype)
        text = gymnasium.spaces.Text(len(instruction), charset="".join(sorted(set(instruction))))
        self.world, self.observation_space = world, gymnasium.spaces.Dict({"instruction": text, "observation": numbers})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        goal = int(self.generator.integers(len(self.goals)))
        self.world.set_task(self.goals[goal])
        observation, info = self.env.reset(seed=seed, options=options)
        return self._told(observation), {**info, PARAMETERS: {"goal": goal}}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, shaped_reward, _, truncated, info = self.env.step(action)
        success = info["success"] > 0
        info = {**info, "success": success, "shaped_reward": float(shaped_reward)}
        return self._told(observation), float(success), success, truncated and not success, info

    def _told(self, observation: np.ndarray) -> dict[str, Any]:
        return {"instruction": self.instruction, "observation": _now(observation)}

    def render(self) -> np.ndarray:
        """(96, 96, 3) uint8; Meta-World's corner camera hangs upside down, so the picture is turned."""
        picture: Any = self.env.render()
        return np.ascontiguousarray(picture[::-1, ::-1])


def _now(observation: np.ndarray) -> np.ndarray:
    """(39,) -> (21,): without the previous state."""
    return np.concatenate([observation[:STATE], observation[2 * STATE :]])


class ScriptedExpert:
    """The scripted policy of a task, which never reads the previous state; its actions may leave [-1, 1], so the task clips them."""

    def __init__(self, env_name: str) -> None:
        if env_name not in ENV_POLICY_MAP:
            raise ValueError(f"Meta-World has no scripted policy for '{env_name}'; it has {sorted(ENV_POLICY_MAP)}")
        self.env_name = env_name

    def reset(self, env: gymnasium.Env) -> None:
        self.policy = ENV_POLICY_MAP[self.env_name]()

    def act(self, env: gymnasium.Env, observation: dict[str, Any]) -> np.ndarray:
        with warnings.catch_warnings():  # that its actions will be clipped: the recording counts them
            warnings.simplefilter("ignore", UserWarning)
            numbers = observation["observation"]
            state, goal = numbers[:STATE], numbers[STATE:]
            return np.asarray(self.policy.get_action(np.concatenate([state, state, goal])), dtype=np.float32)


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    """One task of MT1, for example `push-v3`; pictures need EGL and are slow without an accelerator."""
    if render_mode is not None:
        os.environ.setdefault("MUJOCO_GL", "egl")
        kwargs = {"camera_name": "corner", "width": 96, "height": 96, **kwargs}
    env = gymnasium.make("Meta-World/MT1", env_name=env_id, seed=POOL_SEED, render_mode=render_mode, disable_env_checker=True, **kwargs)
    return UntilSuccess(env, env_id.rsplit("-", 1)[0].replace("-", " "))


EXPERTS = {"scripted": lambda env_id, **kwargs: ScriptedExpert(env_id)}
