"""What a BabyAI agent sees, put into words: an episode of one look, whose action is a text.

A clone of the bot learns to read its instruction late, because a wrong guess is seldom punished: it walks to
the nearest object and then to the next one. Naming everything in view and where it lies ties every word to
what it looks like, many times in each picture, and reading follows from it (docs/results/ablations.md).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import gymnasium
import minigrid  # noqa: F401  (registers the levels)
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT
from minigrid.wrappers import RGBImgPartialObsWrapper

from .babyai import Cells
from .demonstrator import RuleExpert

KINDS = ("ball", "box", "key")
MAX_WALK = 5  # random steps before the look
NUM_ABSENT = 2  # names drawn to be called "nowhere", where they are not in view
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_LETTERS = "abcdefghijklmnopqrstuvwxyz ,"


class View(gymnasium.Wrapper):
    """What lies ahead after a short random walk, and the sentence that describes it.

    The reward is 1 for `description`, word for word, and 0 for anything else. The order of the sentence's
    parts is random, so no policy can be sure of it: the returns say nothing about how well a model sees.
    """

    def __init__(self, env: gymnasium.Env, kinds: Sequence[str] = KINDS) -> None:
        super().__init__(env)
        seen: Any = env.observation_space
        self.kinds = kinds
        self.name = "cells" if "cells" in seen.spaces else "image"
        self.observation_space = spaces.Dict({self.name: seen[self.name]})
        self.action_space = spaces.Text(max_length=512, charset=_LETTERS)
        self.description = ""
        self.seen: dict[str, Any] = {}

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        with contextlib.redirect_stdout(io.StringIO()):  # "Sampling rejected: ..." at every second reset
            observation, info = self.env.reset(**kwargs)
        world: Any = self.unwrapped
        for _ in range(world.np_random.integers(MAX_WALK + 1)):
            observation, *_ = self.env.step(int(world.np_random.integers(3)))  # left, right, forward
        self.description = describe(world.gen_obs()["image"], world.np_random, self.kinds)
        self.seen = {self.name: observation[self.name]}
        return self.seen, info

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        is_right = action == self.description
        return self.seen, float(is_right), True, False, {"success": is_right}


def describe(symbols: np.ndarray, random: np.random.Generator, kinds: Sequence[str] = KINDS) -> str:
    """MiniGrid's symbols (7, 7, 3) of a view in words: "red ball two ahead one left, grey key nowhere".

    Objects of other kinds than `kinds` are left out. The agent stands in the middle of the last row and looks up. Objects of one
    name share a part, nearest first.
    """
    seen: dict[str, list[tuple[int, int]]] = {}
    for column, row in np.argwhere(np.isin(symbols[:, :, 0], [i for i, kind in IDX_TO_OBJECT.items() if kind in kinds])):
        kind, colour, _ = symbols[column, row]
        seen.setdefault(f"{IDX_TO_COLOR[colour]} {IDX_TO_OBJECT[kind]}", []).append((6 - int(row), int(column) - 3))
    parts = [f"{name} {' and '.join(map(_place, sorted(places, key=_distance)))}" for name, places in seen.items()]
    drawn = {f"{random.choice(list(IDX_TO_COLOR.values()))} {random.choice(kinds)}" for _ in range(NUM_ABSENT)}
    parts += [f"{name} nowhere" for name in sorted(drawn - seen.keys())]
    return ", ".join(random.permutation(parts))


def _distance(place: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    return place[0] + abs(place[1]), place


def _place(place: tuple[int, int]) -> str:
    ahead, right = place
    sideways = f"{_NUMBERS[abs(right)]} {'right' if right > 0 else 'left'}" if right else ""
    return " ".join(part for part in (f"{_NUMBERS[ahead]} ahead" if ahead else "", sideways) if part) or "here"


def make(
    env_id: str, render_mode: str | None = None, tile_size: int = 16, symbolic: bool = False, kinds: Sequence[str] = KINDS, **kwargs: Any
) -> gymnasium.Env:
    """Views of a level, in pictures of 7x7 cells with `tile_size` pixels on each side, or `symbolic`."""
    env = gymnasium.make(env_id, render_mode=render_mode, disable_env_checker=True, **kwargs)
    return View(Cells(env) if symbolic else RGBImgPartialObsWrapper(env, tile_size=tile_size), kinds)


EXPERTS = {"describer": lambda env_id, **kwargs: RuleExpert(lambda env, observation: env.get_wrapper_attr("description"))}
