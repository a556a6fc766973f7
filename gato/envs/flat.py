"""Pictures and colours of the flat worlds: a square seen from above, with discs in it.

y        the square reaches from -1 to 1 on both sides; a picture of N pixels a side shows all of it
|  o     rows run from the top (y = 1) to the bottom
+--- x
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

STEP = 0.15  # that an action of 1 moves the pointer by
FLOOR = (24, 24, 24)
POINTER = (255, 255, 255)
TASKS = {"train": 800, "test": 80}  # of a set; none is in both
LEAST_DISTANCE = 0.5  # between two colours that are to be told apart, as RGB in [0, 1]


@functools.cache
def colours(split: str, count: int) -> np.ndarray:
    """(count, 3) RGB in [0, 1]: the colours of the tasks of a set, neither near the floor's nor near the pointer's."""
    rng = np.random.default_rng([zlib.crc32(b"colours"), zlib.crc32(split.encode())])
    drawn = rng.uniform(size=(8 * count + 64, 3))
    kept = drawn[(np.linalg.norm(drawn - 0.1, axis=1) > LEAST_DISTANCE) & (np.linalg.norm(drawn - 1, axis=1) > LEAST_DISTANCE)]
    found = kept[:count]
    found.flags.writeable = False
    return found


@functools.cache
def shapes(split: str, count: int) -> np.ndarray:
    """(count,) the shapes of the tasks' things: 0 disc, 1 square, 2 triangle."""
    return np.random.default_rng([zlib.crc32(b"shapes"), zlib.crc32(split.encode())]).integers(3, size=count)


@functools.cache
def resistances(split: str, count: int) -> np.ndarray:
    """(count,) mass times friction of the tasks' things, masses from 0.5 to 1.5 and coefficients from 0.3 to 0.9."""
    rng = np.random.default_rng([zlib.crc32(b"resistances"), zlib.crc32(split.encode())])
    return rng.uniform(0.5, 1.5, count) * rng.uniform(0.3, 0.9, count)


class World(gymnasium.Env):
    """A pointer in a flat world of things, of which one is meant.

    Observations: `picture` (size, size, 3) uint8, `position` (2,) of the pointer. Actions: (2,) its movement, in units of 0.15.

    **Arguments:** `split`: `train` (800 tasks) or `test` (80 others); `task`: which of them, drawn anew for every episode where it is
    `None`; `size`: pixels of a side; `limit`: timesteps of an episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}
    pointer: np.ndarray  # (2,), which each world places at its reset

    def __init__(self, split: str, task: int | None, size: int, limit: int, render_mode: str | None) -> None:
        check_task(split, task)
        self.colours = colours(split, TASKS[split])
        self.task, self.size, self.limit, self.render_mode = task, size, limit, render_mode
        position = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Dict({"picture": spaces.Box(0, 255, (size, size, 3), np.uint8), "position": position})
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def draw_task(self) -> int:
        """The number of the thing that is meant in the episode that begins."""
        drawn = int(self.np_random.integers(len(self.colours)))
        self.num_steps = 0
        return drawn if self.task is None else self.task

    def move(self, action: np.ndarray) -> None:
        self.pointer = np.clip(self.pointer + STEP * np.clip(np.asarray(action, np.float64), -1, 1), -1, 1)
        self.num_steps += 1

    def outcome(self, is_right: bool, is_wrong: bool) -> tuple[dict[str, Any], float, bool, bool, dict]:
        """Of a timestep, as `step` gives it: the reward is 1 at the episode's end where all is right, else 0."""
        is_over = self.num_steps >= self.limit
        return self.observation(), float(is_over and is_right), False, is_over, {"success": is_right, "wrong_object": is_wrong}

    def render(self) -> np.ndarray:
        """(96, 96, 3) uint8: the same, larger."""
        return self.draw(96)

    def draw(self, size: int) -> np.ndarray:
        """(size, size, 3) uint8."""
        raise NotImplementedError

    def observation(self) -> dict[str, Any]:
        return {"picture": self.draw(self.size), "position": self.pointer.astype(np.float32)}


def unlike(colour: np.ndarray, among: np.ndarray, rng: np.random.Generator) -> int:
    """Which of these colours, (n, 3), is told apart from the given one: one of them by chance."""
    apart = np.flatnonzero(np.linalg.norm(among - colour, axis=1) >= LEAST_DISTANCE)
    return int(apart[rng.integers(len(apart))])


def places(rng: np.random.Generator, count: int, within: float, apart: float) -> np.ndarray:
    """(count, 2) float64: places in [-within, within], no two nearer than `apart`."""
    found: list[np.ndarray] = []
    while len(found) < count:
        place = rng.uniform(-within, within, 2)
        if all(np.linalg.norm(place - other) >= apart for other in found):
            found.append(place)
    return np.array(found)


class Part(NamedTuple):
    """What is drawn: `place`, `radius` of the disc around it, RGB in [0, 255], `shape` as `shapes` counts them."""

    place: np.ndarray
    radius: float
    colour: Sequence[float] | np.ndarray
    shape: int = 0


def picture(size: int, parts: Sequence[Part]) -> np.ndarray:
    """(size, size, 3) uint8, later parts above earlier ones; edges are blended."""
    x, y = _grid(size)
    shown = np.full((size, size, 3), FLOOR, np.float32)
    for part in parts:
        inside = _depth(part.shape, x - np.float32(part.place[0]), y - np.float32(part.place[1]), np.float32(part.radius))
        cover = np.clip(inside * (size / 2) + 0.5, 0, 1)[..., None]
        shown += cover * (np.asarray(part.colour, np.float32) - shown)
    return np.rint(shown).astype(np.uint8)


def _depth(shape: int, x: np.ndarray, y: np.ndarray, radius: np.floating) -> np.ndarray:
    """How far inside a shape a place is, below 0 outside."""
    if shape == 1:
        return radius * np.float32(0.85) - np.maximum(np.abs(x), np.abs(y))
    if shape == 2:  # upright, its corners on the disc
        slanted = np.float32(0.866) * np.abs(x) + np.float32(0.5) * y
        return radius / 2 - np.maximum(slanted, -y)
    return radius - np.sqrt(x**2 + y**2)


@functools.cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    centres = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    return centres[None, :], -centres[:, None]


def check_task(split: str, task: int | None) -> None:
    """**Raises:** `ValueError` for a set or a task that there is not."""
    if split not in TASKS or (task is not None and not 0 <= task < TASKS[split]):
        known = ", ".join(f"{name} with {count} tasks" for name, count in TASKS.items())
        raise ValueError(f"there is no task {task} in the set '{split}'; there are {known}")
