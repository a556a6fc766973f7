"""Meta-World with the goal hidden (ML1): where the hand or the thing is to go, only a demonstration shows.

A task is a goal's place and where the thing lies. The hand starts elsewhere in every episode. What is seen is the state of the arm and
of two things, 18 numbers, without the goal, which the scripted policy is told. In `open-close` a task is a drawer or a door that
is to be opened or closed: which of these, the first observation shows, since what is to be opened is closed.

An episode ends at its first success, with a reward of 1 there and 0 before, as in `metaworld.py`.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from .metaworld import STATE, ScriptedExpert
from .success import PARAMETERS

WORLDS = {
    "reach": ("reach-v3",),
    "push": ("push-v3",),
    "open-close": ("drawer-open-v3", "drawer-close-v3", "door-open-v3", "door-close-v3"),
}
TASKS = {"train": 200, "test": 40}  # of a set; their goals are drawn by other seeds
AROUND = (0.08, 0.05, 0.05)  # m: how far the hand starts from where Meta-World lets it, at most


class HiddenGoal(gymnasium.Env):
    """Observations: `observation` (18,): hand 3, gripper 1, two things 7 each. Actions: (4,) movement of the hand, and the gripper.

    **Arguments:** `kind`: of `WORLDS`; `split`: `train` or `test`; `task`: which of its tasks, drawn anew for every episode where it is
    `None`; `limit`: timesteps of an episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, kind: str, split: str = "train", task: int | None = None, limit: int = 150, render_mode: str | None = None) -> None:
        if split not in TASKS or (task is not None and not 0 <= task < TASKS[split]):
            known = ", ".join(f"{name} with {count} tasks" for name, count in TASKS.items())
            raise ValueError(f"there is no task {task} in the set '{split}'; there are {known}")
        self.kind, self.split, self.task, self.limit, self.render_mode = kind, split, task, limit, render_mode
        self.worlds: dict[str, Any] = {}
        self.name, world = WORLDS[kind][0], self._world(WORLDS[kind][0])
        space = world.sawyer_observation_space
        low, high = space.low[:STATE], space.high[:STATE]
        self.observation_space = spaces.Dict({"observation": spaces.Box(low, high, dtype=space.dtype)})
        self.action_space = world.action_space

    def _world(self, name: str) -> Any:
        if name not in self.worlds:
            rest: dict[str, Any] = {"camera_name": "corner", "width": 96, "height": 96} if self.render_mode else {}
            world = ALL_V3_ENVIRONMENTS[name](render_mode=self.render_mode, **rest)
            world._set_task_called, world._freeze_rand_vec, world.seeded_rand_vec = True, False, True
            world.usual_hand = np.array(world.hand_init_pos)
            self.worlds[name] = world
        return self.worlds[name]

    @property
    def world(self) -> Any:
        """The simulator in use."""
        return self.worlds[self.name]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(TASKS[self.split]))
        task = drawn if self.task is None else self.task
        self.name = WORLDS[self.kind][task % len(WORLDS[self.kind])]
        world = self._world(self.name)
        world.seed(zlib.crc32(f"{self.split} {task}".encode()) % 2**31)  # of the goal and of where the thing lies
        world.hand_init_pos = world.usual_hand + self.np_random.uniform(-1, 1, 3) * AROUND
        observation, _ = world.reset()
        self.num_steps = 0
        return self._told(observation), {PARAMETERS: {"numbers": [round(float(x), 4) for x in world._get_pos_goal()]}}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, shaped_reward, _, _, info = self.world.step(action)
        self.num_steps += 1
        success = info["success"] > 0
        told = {"success": success, "shaped_reward": float(shaped_reward)}
        return self._told(observation), float(success), success, self.num_steps >= self.limit and not success, told

    def _told(self, observation: np.ndarray) -> dict[str, Any]:
        return {"observation": observation[:STATE]}

    def render(self) -> np.ndarray:
        """(96, 96, 3) uint8; the corner camera hangs upside down, so the picture is turned."""
        picture: Any = self.world.render()
        return np.ascontiguousarray(picture[::-1, ::-1])

    def close(self) -> None:
        for world in self.worlds.values():
            world.close()


class ToldExpert:
    """Meta-World's scripted policy of the world in use, which is told the goal that nobody sees."""

    def reset(self, env: gymnasium.Env) -> None:
        inner: Any = env.unwrapped
        self.expert = ScriptedExpert(inner.name)
        self.expert.reset(env)

    def act(self, env: gymnasium.Env, observation: dict[str, Any]) -> np.ndarray:
        inner: Any = env.unwrapped
        return self.expert.act(env, {"observation": np.concatenate([observation["observation"], inner.world._get_pos_goal()])})


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    """A set of `WORLDS`, `reach` for example; pictures need EGL and are slow without an accelerator."""
    if render_mode is not None:
        os.environ.setdefault("MUJOCO_GL", "egl")
    return HiddenGoal(env_id, render_mode=render_mode, **kwargs)


EXPERTS = {"scripted": lambda env_id, **kwargs: ToldExpert()}
