"""MinAtar: five small games on a board of 10x10 cells, seen as a picture of 80x80 pixels (25 patches), or as the cells themselves.

A cell holds some of up to ten kinds of thing, each with a colour of its own; where several lie in one cell
the last kind is drawn. Sticky actions (0.1), rising difficulty and all six actions are part of the games.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import minatar
import numpy as np
from gymnasium import spaces

from gato.picture import drawn_cells

from .demonstrator import RuleExpert

CELL = 8  # pixels
ACTIONS = ("stay", "left", "up", "right", "down", "fire")
STAY, LEFT, UP, RIGHT, DOWN = range(5)
WAITS, HORIZON = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12), 40  # timesteps


class Board(gymnasium.Env):
    """A game with Gymnasium's interface. **Arguments:** `cells`: show the cells (10, 10, kinds), 1 where a kind is, and no picture."""

    def __init__(self, name: str, render_mode: str | None = None, cells: bool = False) -> None:
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
        self.game, self.cells = minatar.Environment(name), cells
        picture = spaces.Box(0, 255, (10 * CELL, 10 * CELL, 3), np.uint8)
        self.observation_space = spaces.MultiBinary(self.game.state_shape()) if cells else picture
        self.action_space = spaces.Discrete(self.game.num_actions())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.game.seed(seed)
        self.game.last_action = STAY
        self.game.reset()
        return self._observed(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward, terminated = self.game.act(int(action))
        return self._observed(), float(reward), bool(terminated), False, {}

    def render(self) -> np.ndarray:
        """(80, 80, 3) uint8."""
        return drawn_cells(self.game.state(), CELL)

    def _observed(self) -> np.ndarray:
        return self.game.state().astype(np.int8) if self.cells else self.render()


class BouncingExpert:
    """Breakout: lets a copy of the game run without a paddle to see where the ball comes down, and goes there.

    The paddle may meet the ball in the last cell of its path, which sends it back the way it came, or in the
    one before, as from a wall; choosing at random keeps the ball from running in circles.
    """

    def reset(self, env: gymnasium.Env) -> None:
        self.generator = np.random.default_rng(0)
        self.late = False

    def act(self, env: gymnasium.Env, observation: Any) -> int:
        game = env.get_wrapper_attr("game").env
        if game.ball_dir in (0, 1):  # on its way up
            self.late = self.generator.random() < 0.5
        ahead = copy.deepcopy(game)
        ahead.pos = -1
        while not ahead.terminal:
            ahead.act(STAY)
        column = ahead.ball_x if self.late else ahead.last_x
        return STAY if column == game.pos else LEFT if column < game.pos else RIGHT


def cross(env: gymnasium.Env, observation: Any) -> int:
    """Freeway: on copies of the game, waits for some timesteps and then goes up; takes the wait that gets furthest."""
    values = [_crossing_value(copy.deepcopy(env.get_wrapper_attr("game").env), wait) for wait in WAITS]
    return UP if WAITS[int(np.argmax(values))] == 0 else STAY


def _crossing_value(game: Any, wait: int) -> float:
    """100 for a crossing, less one per timestep until then; otherwise the cells come up."""
    for step in range(HORIZON):
        reward, _ = game.act(STAY if step < wait else UP)
        if reward:
            return 100.0 - step
    return 9.0 - game.pos


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    return Board(env_id, render_mode, **kwargs)


EXPERTS = {"bounce": lambda env_id, **kwargs: BouncingExpert(), "cross": lambda env_id, **kwargs: RuleExpert(cross)}
