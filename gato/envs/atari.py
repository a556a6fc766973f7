"""Atari games of the Arcade Learning Environment, as pictures of 80x64 pixels: 20 patches, as in the paper.

No sticky actions, four frames per timestep, up to 30 idle frames at the start, 108,000 frames at most. Boxing
and Freeway are solved by planning on copies of the emulator's state, which the student never sees.
"""

from __future__ import annotations

from typing import Any

import ale_py
import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

FRAME_SKIP = 4
MAX_IDLE_FRAMES = 30
ROWS, COLUMNS = 80, 64

gymnasium.register_envs(ale_py)
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


class Game(gymnasium.Wrapper):
    """Skips frames; the picture is the brighter of the last two frames, since sprites flicker."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (ROWS, COLUMNS, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        frame, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(np.random.default_rng(seed).integers(MAX_IDLE_FRAMES + 1))):
            frame, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                frame, info = self.env.reset()
        return _picture(frame), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        total, frames = 0.0, []
        for _ in range(FRAME_SKIP):
            frame, reward, terminated, truncated, info = self.env.step(action)
            frames.append(frame)
            total += float(reward)
            if terminated or truncated:
                break
        return _picture(np.max(frames[-2:], axis=0)), total, terminated, truncated, info


def _picture(frame: np.ndarray) -> np.ndarray:
    """(210, 160, 3) to (80, 64, 3) uint8: each pixel the mean of those it covers."""
    return np.asarray(Image.fromarray(frame).resize((COLUMNS, ROWS), Image.Resampling.BOX))


class LookaheadExpert:
    """Tries each action on a copy of the emulator, followed by a little random play, and takes the best.

    An episode starts from one of 31 states: without randomness of the episode's own, every second one would repeat another.
    """

    def __init__(self, depth: int = 10, discount: float = 0.99) -> None:
        self.depth, self.discount = depth, discount

    def reset(self, env: gymnasium.Env) -> None:
        self.generator = _generator(env)

    def act(self, env: gymnasium.Env, observation: Any) -> int:
        game: Any = env.unwrapped
        state = game.clone_state(include_rng=True)
        values = np.array([self._value(game, state, action) for action in range(game.action_space.n)])
        game.restore_state(state)
        return int(self.generator.choice(np.flatnonzero(values == values.max())))

    def _value(self, game: Any, state: Any, action: int) -> float:
        game.restore_state(state)
        value = 0.0
        for step in range(self.depth):
            if step and self.generator.random() < 0.3:
                action = int(self.generator.integers(game.action_space.n))
            value += self.discount**step * _play(game, action)
            if game.ale.game_over():
                break
        return value


class CrossingExpert:
    """Freeway: tries two moves and then straight up, and takes the first move of the best (one of them, where several are).

    A rollout is worth 200 per point and the chicken's height at its end, which the emulator's memory tells.
    """

    HEIGHT, UP, IDLE, DOWN = 14, 1, 0, 2  # an address, and the game's three actions
    DEPTH, MOVE = 8, 2  # timesteps of a rollout, and of each of its two moves

    def reset(self, env: gymnasium.Env) -> None:
        self.generator = _generator(env)

    def act(self, env: gymnasium.Env, observation: Any) -> int:
        game: Any = env.unwrapped
        state = game.clone_state(include_rng=True)
        plans = [(first, second) for first in (self.UP, self.IDLE, self.DOWN) for second in (self.UP, self.IDLE)]
        values = np.array([self._value(game, state, plan) for plan in plans])
        game.restore_state(state)
        return plans[self.generator.choice(np.flatnonzero(values == values.max()))][0]

    def _value(self, game: Any, state: Any, plan: tuple[int, int]) -> float:
        game.restore_state(state)
        points = 0.0
        for step in range(self.DEPTH):
            points += _play(game, plan[step // self.MOVE] if step < 2 * self.MOVE else self.UP)
        return 200 * points + int(game.ale.getRAM()[self.HEIGHT])


def _generator(env: gymnasium.Env) -> np.random.Generator:
    """Follows from the seed of the episode's reset."""
    return np.random.default_rng(int(env.unwrapped.np_random.integers(2**31)))


def _play(game: Any, action: int) -> float:
    """One timestep of the bare emulator."""
    import ale_py

    button = ale_py.Action.__members__[game.get_action_meanings()[action]]
    return float(sum(game.ale.act(button) for _ in range(FRAME_SKIP)))


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    return Game(gymnasium.make(
        env_id, render_mode=render_mode, frameskip=1, repeat_action_probability=0.0, max_num_frames_per_episode=108_000,
        disable_env_checker=True, **kwargs,
    ))  # fmt: skip


EXPERTS = {"look-ahead": lambda env_id, **kwargs: LookaheadExpert(), "cross": lambda env_id, **kwargs: CrossingExpert()}
