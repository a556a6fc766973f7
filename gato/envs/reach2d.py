"""Reaching a disc of the right colour beside one of another colour: what the right one is, only a demonstration shows.

A task is a colour. Where the two discs lie, what colour the other one has and where the pointer starts is drawn for every
episode, so without a demonstration nothing tells the two apart, and half of the episodes is the most that can be had.
Made after the simulated reaching of one-shot imitation (MIL, TecNets), in the plane and without a simulator.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from . import flat
from .demonstrator import RuleExpert
from .success import PARAMETERS

RADIUS, POINTER_RADIUS = 0.22, 0.09
WITHIN = 0.75  # where discs and pointer start


class Reach2d(flat.World):
    """See `flat.World`; a task is a colour. After 16 timesteps it is over, with a reward where the pointer is on the right disc."""

    def __init__(
        self, split: str = "train", task: int | None = None, size: int = 32, limit: int = 16, render_mode: str | None = None
    ) -> None:
        super().__init__(split, task, size, limit, render_mode)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict]:
        super().reset(seed=seed)
        self.colour = self.colours[self.draw_task()]
        self.other_colour = self.colours[flat.unlike(self.colour, self.colours, self.np_random)]
        self.target, self.other, self.pointer = flat.places(self.np_random, 3, WITHIN, 3 * RADIUS)
        return self.observation(), {PARAMETERS: {"numbers": [round(float(c), 4) for c in self.colour]}}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict]:
        self.move(action)
        at_target, at_other = (bool(np.linalg.norm(self.pointer - place) <= RADIUS) for place in (self.target, self.other))
        return self.outcome(at_target, at_other)

    def draw(self, size: int) -> np.ndarray:
        discs = [flat.Part(self.target, RADIUS, 255 * self.colour), flat.Part(self.other, RADIUS, 255 * self.other_colour)]
        return flat.picture(size, [*discs, flat.Part(self.pointer, POINTER_RADIUS, flat.POINTER)])


def go_straight(env: gymnasium.Env, observation: Any) -> np.ndarray:
    """As fast as it may to the middle of the right disc."""
    world: Any = env.unwrapped
    return np.clip((world.target - world.pointer) / flat.STEP, -1, 1).astype(np.float32)


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    return Reach2d(render_mode=render_mode, **kwargs)


EXPERTS = {"go-straight": lambda env_id, **kwargs: RuleExpert(go_straight)}
