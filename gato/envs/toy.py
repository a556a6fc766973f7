"""A corridor of five cells, for tests and first steps: the goal is its right end.

It needs nothing but Gymnasium, its optimal policy is known, and an episode can be checked by hand.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from .demonstrator import RuleExpert
from .key_to_door import KeyToDoor, key_then_door

LEFT, RIGHT = 0, 1


class Corridor(gymnasium.Env):
    """Cells 0 to `num_cells - 1`; starts in a random cell but the last, where the reward of 1 waits."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, num_cells: int = 5, limit: int = 20, render_mode: str | None = None) -> None:
        self.num_cells, self.limit, self.render_mode = num_cells, limit, render_mode
        self.observation_space = spaces.Discrete(num_cells)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.cell, self.num_steps = int(self.np_random.integers(self.num_cells - 1)), 0
        return self.cell, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        self.cell = min(max(self.cell + (1 if action == RIGHT else -1), 0), self.num_cells - 1)
        self.num_steps += 1
        terminated = self.cell == self.num_cells - 1
        return self.cell, float(terminated), terminated, self.num_steps >= self.limit and not terminated, {}

    def render(self) -> np.ndarray:
        """(16, 16 * num_cells, 3) uint8: the goal is green, the walker white."""
        picture = np.zeros((16, 16 * self.num_cells, 3), dtype=np.uint8)
        picture[:, -16:, 1] = 128
        picture[4:12, 16 * self.cell + 4 : 16 * self.cell + 12] = 255
        return picture


WORLDS = {"corridor": Corridor, "key-to-door": KeyToDoor}


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    if env_id not in WORLDS:
        raise ValueError(f"the toy family has no environment '{env_id}'; it has {', '.join(WORLDS)}")
    return WORLDS[env_id](render_mode=render_mode, **kwargs)


EXPERTS = {
    "always-right": lambda env_id, **kwargs: RuleExpert(lambda env, observation: RIGHT),
    "key-then-door": lambda env_id, **kwargs: RuleExpert(key_then_door),
}
