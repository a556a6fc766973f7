"""BabyAI levels: what lies ahead, a compass and an instruction; solved by the bundled bot, which sees the grid.

What lies ahead is a small picture of 7x7 cells of 16 pixels, one patch each, 112x112x3 uint8, or in the family
`babyai-symbolic` a number for each cell, of MiniGrid's three: its kind, colour and state.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import gymnasium
import minigrid  # noqa: F401  (registers the levels)
import numpy as np
from gymnasium import spaces
from minigrid.utils.baby_ai_bot import BabyAIBot
from minigrid.wrappers import RGBImgPartialObsWrapper

# A replan that searches more often than this is caught in a loop; others need about 10 searches.
MAX_SEARCHES = 200
NUM_KINDS, NUM_COLOURS, NUM_STATES = 11, 6, 4  # of a cell; 264 numbers in all
_LETTERS = "abcdefghijklmnopqrstuvwxyz ,.'-"


class Level(gymnasium.Wrapper):
    """A BabyAI level with a plain text space, silent resets, `info["success"]` and a memory of one action.

    - `last_action`: the action executed last, `None` after a reset. The bot replans from what really
      happened, also where a recording perturbs its actions.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        text = spaces.Text(max_length=512, charset=_LETTERS)
        seen: Any = env.observation_space
        self.observation_space = spaces.Dict({**seen.spaces, "mission": text})
        self.last_action: int | None = None

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.last_action = None
        with contextlib.redirect_stdout(io.StringIO()):  # "Sampling rejected: ..." at every second reset
            return self.env.reset(**kwargs)

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.last_action = int(action)
        observation, reward, terminated, truncated, info = self.env.step(self.last_action)
        return observation, float(reward), terminated, truncated, {**info, "success": float(reward) > 0}


class Cells(gymnasium.ObservationWrapper):
    """MiniGrid's three numbers a cell as one: `cells` (7, 7) int16, a third of the tokens and nothing lost."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        given: Any = env.observation_space
        seen = dict(given.spaces)
        cells = spaces.Box(0, NUM_KINDS * NUM_COLOURS * NUM_STATES - 1, seen.pop("image").shape[:2], np.int16)
        self.observation_space = spaces.Dict({"cells": cells, **seen})

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        rest = dict(observation)
        return {"cells": cells_of(rest.pop("image")), **rest}


def cells_of(symbols: np.ndarray) -> np.ndarray:
    """MiniGrid's kind, colour and state of each cell, (..., 3), as one number: (...,) int16 from 0 to 263."""
    kind, colour, state = np.moveaxis(symbols.astype(np.int16), -1, 0)
    return (kind * NUM_COLOURS + colour) * NUM_STATES + state


class LoopGuardedBot(BabyAIBot):
    """The bundled bot, stopped when it searches without end, which it does on some seeds.

    Searches are counted, not seconds: a collection must give the same episodes on a slow machine.
    """

    def replan(self, action_taken: int | None = None) -> int:
        self.num_searches = 0
        return super().replan(action_taken)

    def _breadth_first_search(self, *args: Any, **kwargs: Any) -> Any:
        self.num_searches += 1
        if self.num_searches > MAX_SEARCHES:
            raise RuntimeError(f"the BabyAI bot searched {MAX_SEARCHES} times for one action and is looping")
        return super()._breadth_first_search(*args, **kwargs)


class BotExpert:
    """Asks the bundled bot, which knows the whole grid that it has seen."""

    def reset(self, env: gymnasium.Env) -> None:
        self.bot = LoopGuardedBot(env)

    def act(self, env: gymnasium.Env, observation: Any) -> int:
        return int(self.bot.replan(env.get_wrapper_attr("last_action")))


def make(env_id: str, render_mode: str | None = None, tile_size: int = 16, symbolic: bool = False, **kwargs: Any) -> gymnasium.Env:
    """A level as pixels, `tile_size` of them on each side of a cell, or `symbolic`."""
    env = gymnasium.make(env_id, render_mode=render_mode, disable_env_checker=True, **kwargs)
    return Level(Cells(env) if symbolic else RGBImgPartialObsWrapper(env, tile_size=tile_size))


EXPERTS = {"bot": lambda env_id, **kwargs: BotExpert()}
