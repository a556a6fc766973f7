"""Pushing the right thing onto a mark, beside another thing: which one is right, only a demonstration shows.

A task is a thing: its shape and colour, and how hard it is to push, which follows from its mass and friction. Where both things, the mark
and the pointer are, and what the other thing is, is drawn for every episode. Made after the simulated pushing of one-shot
imitation (MIL, TecNets), in the plane and without a simulator: things slide only while they are pushed, never turn, and collide as
the disc around them, whatever their shape.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from . import flat
from .demonstrator import RuleExpert
from .success import PARAMETERS

RADIUS, POINTER_RADIUS, MARK_RADIUS = 0.2, 0.09, 0.26
REACH = RADIUS + POINTER_RADIUS  # between the middles of a thing and of the pointer that touches it
WITHIN = 0.6  # where things and the mark begin: far enough from the walls to get behind a thing
MARK = (110, 110, 110)
NEAR = 0.17  # of the mark, for a thing that lies on it


class Push2d(flat.World):
    """See `flat.World`; a task is a thing. After 24 timesteps it is over, with a reward where the right thing lies on the mark."""

    def __init__(
        self, split: str = "train", task: int | None = None, size: int = 32, limit: int = 24, render_mode: str | None = None
    ) -> None:
        super().__init__(split, task, size, limit, render_mode)
        self.shapes, self.resistances = flat.shapes(split, flat.TASKS[split]), flat.resistances(split, flat.TASKS[split])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict]:
        super().reset(seed=seed)
        self.right = self.draw_task()
        self.other = flat.unlike(self.colours[self.right], self.colours, self.np_random)
        place = flat.places(self.np_random, 4, WITHIN, 2 * REACH)
        self.things, self.mark, self.pointer = place[:2], place[2], place[3]
        told = [*self.colours[self.right], float(self.shapes[self.right])]
        return self.observation(), {PARAMETERS: {"numbers": [round(float(x), 4) for x in told]}}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict]:
        self.move(action)
        for i, thing in enumerate((self.right, self.other)):
            self._push(i, float(self.resistances[thing]))
        right, other = (bool(np.linalg.norm(place - self.mark) <= NEAR) for place in self.things)
        return self.outcome(right, other)

    def _push(self, i: int, resistance: float) -> None:
        """What overlaps is parted: the harder a thing is to push, the more the pointer gives way."""
        apart = self.things[i] - self.pointer
        distance = float(np.linalg.norm(apart))
        overlap = REACH - distance
        if overlap <= 0:
            return
        along = apart / distance if distance > 1e-9 else np.array([1.0, 0.0])
        yielding = resistance / (1 + resistance)
        self.things[i] = np.clip(self.things[i] + (1 - yielding) * overlap * along, -1 + RADIUS, 1 - RADIUS)
        self.pointer = np.clip(self.things[i] - REACH * along, -1, 1)

    def draw(self, size: int) -> np.ndarray:
        parts = [flat.Part(self.mark, MARK_RADIUS, MARK)]
        parts += [
            flat.Part(place, RADIUS, 255 * self.colours[thing], int(self.shapes[thing]))
            for place, thing in zip(self.things, (self.right, self.other), strict=True)
        ]
        return flat.picture(size, [*parts, flat.Part(self.pointer, POINTER_RADIUS, flat.POINTER)])


def push_onto_mark(env: gymnasium.Env, observation: Any) -> np.ndarray:
    """Around the right thing to its far side, then against it towards the mark; at rest once it lies there."""
    world: Any = env.unwrapped
    thing, pointer = world.things[0], world.pointer
    way = world.mark - thing
    left = float(np.linalg.norm(way))
    if left <= NEAR / 3:
        return np.zeros(2, np.float32)
    ahead = way / left
    side = np.array([-ahead[1], ahead[0]])
    offset = pointer - thing
    along, across = float(offset @ ahead), float(offset @ side)
    if along < -0.5 * REACH and abs(across) < 0.12:  # behind it: push, and come back to the middle line
        wanted = min(flat.STEP, left * 1.5) * ahead - across * side
    elif along > -0.6 * REACH and abs(across) < 1.4 * REACH:  # beside or before it: out of its way
        wanted = thing + np.copysign(1.6 * REACH, across or 1.0) * side - 1.1 * REACH * ahead - pointer
        wanted = np.copysign(flat.STEP, across or 1.0) * side - 0.5 * flat.STEP * ahead if abs(across) < REACH and along > 0 else wanted
    else:
        wanted = thing - 1.25 * REACH * ahead - pointer
    return np.clip(wanted / flat.STEP, -1, 1).astype(np.float32)


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    return Push2d(render_mode=render_mode, **kwargs)


EXPERTS = {"push-onto-mark": lambda env_id, **kwargs: RuleExpert(push_onto_mark)}
