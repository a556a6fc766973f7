"""Reaching a disc of the right colour beside one of another colour: what the right one is, only a demonstration shows.

A task is a colour. Where the two discs lie, what colour the other one has and where the pointer starts is drawn for every
episode, so without a demonstration nothing tells the two apart, and half of the episodes is the most that can be had.
Made after the simulated reaching of one-shot imitation (MIL, TecNets), in the plane and without a simulator.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from . import flat
from .demonstrator import RuleExpert
from .success import PARAMETERS

STEP = 0.15  # that an action of 1 moves the pointer by
RADIUS, POINTER_RADIUS = 0.22, 0.09
WITHIN = 0.75  # where discs and pointer start


class Reach2d(gymnasium.Env):
    """Observations: `picture` (size, size, 3) uint8, `position` (2,) of the pointer. Actions: (2,) its movement, in units of
    0.15. After 16 timesteps it is over; the reward is 1 at the end where the pointer is on the right disc, else 0.

    **Arguments:** `split`: `train` (800 colours) or `test` (80 others); `task`: which of its colours, drawn anew for every episode
    where it is `None`; `size`: pixels of a side.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}

    def __init__(
        self, split: str = "train", task: int | None = None, size: int = 32, limit: int = 16, render_mode: str | None = None
    ) -> None:
        flat.check_task(split, task)
        self.colours, self.task, self.size, self.limit, self.render_mode = (
            flat.colours(split, flat.TASKS[split]),
            task,
            size,
            limit,
            render_mode,
        )
        self.observation_space = flat.seen_spaces(size)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict]:
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(len(self.colours)))
        task = drawn if self.task is None else self.task
        self.colour = self.colours[task]
        self.other_colour = self.colours[flat.unlike(self.colour, self.colours, self.np_random)]
        self.target, self.other, self.pointer = flat.places(self.np_random, 3, WITHIN, 3 * RADIUS)
        self.num_steps = 0
        return self._observation(), {PARAMETERS: {"numbers": [round(float(c), 4) for c in self.colour]}}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict]:
        self.pointer = np.clip(self.pointer + STEP * np.clip(np.asarray(action, np.float64), -1, 1), -1, 1)
        self.num_steps += 1
        is_over = self.num_steps >= self.limit
        at_target, at_other = (bool(np.linalg.norm(self.pointer - place) <= RADIUS) for place in (self.target, self.other))
        info = {"success": at_target, "wrong_object": at_other}
        return self._observation(), float(is_over and at_target), False, is_over, info

    def render(self) -> np.ndarray:
        """(96, 96, 3) uint8: the same, larger."""
        return self._picture(96)

    def _picture(self, size: int) -> np.ndarray:
        discs = [flat.Part(self.target, RADIUS, 255 * self.colour), flat.Part(self.other, RADIUS, 255 * self.other_colour)]
        return flat.picture(size, [*discs, flat.Part(self.pointer, POINTER_RADIUS, flat.POINTER)])

    def _observation(self) -> dict[str, Any]:
        return {"picture": self._picture(self.size), "position": self.pointer.astype(np.float32)}


def go_straight(env: gymnasium.Env, observation: Any) -> np.ndarray:
    """As fast as it may to the middle of the right disc."""
    world: Any = env.unwrapped
    return np.clip((world.target - world.pointer) / STEP, -1, 1).astype(np.float32)


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    return Reach2d(render_mode=render_mode, **kwargs)


EXPERTS = {"go-straight": lambda env_id, **kwargs: RuleExpert(go_straight)}
