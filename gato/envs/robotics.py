"""Fetch arms and point mazes of gymnasium-robotics, solved by short controllers.

The reward is the sparse one of the suite. A Fetch episode always takes 50 timesteps and succeeds if the
goal is reached at its end; a maze episode ends at the goal.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections import deque
from typing import Any

import gymnasium
import numpy as np

from .demonstrator import RuleExpert

with contextlib.redirect_stderr(io.StringIO()):  # a notice about tasks that are not used here
    import gymnasium_robotics

OPEN, CLOSED = 1.0, -1.0  # the gripper

gymnasium.register_envs(gymnasium_robotics)


class Reported(gymnasium.Wrapper):
    """Calls success `info["success"]`, whichever of its two names the suite uses."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        success = bool(info.get("is_success", info.get("success", False)))
        return observation, float(reward), terminated, truncated, {**info, "success": success}


def reach(env: gymnasium.Env, observation: dict[str, np.ndarray]) -> np.ndarray:
    """Moves the gripper straight to the goal."""
    return _move(observation["desired_goal"] - observation["achieved_goal"], CLOSED)


def pick_and_place(env: gymnasium.Env, observation: dict[str, np.ndarray]) -> np.ndarray:
    """Above the block, down, grip, to the goal; the phase follows from where block, gripper and fingers are."""
    gripper, block, fingers = observation["observation"][:3], observation["observation"][3:6], observation["observation"][9:11]
    away = block - gripper
    if np.linalg.norm(away) < 0.02:
        if fingers.sum() > 0.06:  # still open: the block is 5 cm wide
            return _move(away, CLOSED)
        return _move(observation["desired_goal"] - block, CLOSED)
    if np.linalg.norm(away[:2]) > 0.015:
        return _move(away + [0, 0, 0.05], OPEN)
    return _move(away, OPEN)


def push(env: gymnasium.Env, observation: dict[str, np.ndarray]) -> np.ndarray:
    """Goes behind the block as seen from the goal, then pushes along the line between them."""
    gripper, block, goal = observation["observation"][:3], observation["observation"][3:6], observation["desired_goal"]
    line = (goal - block) * [1, 1, 0]
    distance = np.linalg.norm(line)
    if distance < 0.03:
        return _move(np.zeros(3), CLOSED)
    line = line / distance
    from_block = (gripper - block) * [1, 1, 0]
    along = from_block @ line
    aside = from_block - along * line
    low = gripper[2] - block[2] < 0.03
    if along > -0.03 or np.linalg.norm(aside) > 0.03:  # not behind: lift, and go there above the block
        behind = block - 0.09 * line + [0, 0, 0.08]
        return _move((behind - gripper) * ([0.2, 0.2, 1] if low else [1, 1, 1]), CLOSED)
    if not low:
        return _move(block - 0.09 * line - gripper, CLOSED)
    push = line * min(0.1, 0.6 * distance + 0.015) - 1.2 * aside
    return _move(push + [0, 0, block[2] - gripper[2]], CLOSED)


def walk_maze(env: gymnasium.Env, observation: dict[str, np.ndarray]) -> np.ndarray:
    """Towards the next cell of the shortest path, with proportional-derivative feedback."""
    maze = env.get_wrapper_attr("maze")
    place, goal = observation["achieved_goal"], observation["desired_goal"]
    start, end = tuple(maze.cell_xy_to_rowcol(place)), tuple(maze.cell_xy_to_rowcol(goal))
    target = goal if start == end else _next_cell(maze, start, end)
    return np.clip(10 * (target - place) - 2 * observation["observation"][2:4], -1, 1).astype(np.float32)


def _next_cell(maze: Any, start: tuple[int, int], end: tuple[int, int]) -> np.ndarray:
    """Centre of the cell after `start` on a shortest path to `end`, found from its end by breadth first."""
    towards_end = {end: end}
    waiting = deque([end])
    while waiting and start not in towards_end:
        row, column = cell = waiting.popleft()
        for neighbour in ((row, column + 1), (row + 1, column), (row, column - 1), (row - 1, column)):
            if neighbour not in towards_end and maze.maze_map[neighbour[0]][neighbour[1]] != 1:
                towards_end[neighbour] = cell
                waiting.append(neighbour)
    return maze.cell_rowcol_to_xy(np.array(towards_end.get(start, end)))


def _move(distance: np.ndarray, fingers: float) -> np.ndarray:
    """Ten times the distance to go, in metres: full speed until the last 10 cm."""
    return np.append(np.clip(10 * distance, -1, 1), fingers).astype(np.float32)


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    if render_mode is not None:
        os.environ.setdefault("MUJOCO_GL", "egl")
    return Reported(gymnasium.make(env_id, render_mode=render_mode, disable_env_checker=True, **kwargs))


_RULES = {"reach": reach, "pick-and-place": pick_and_place, "push": push, "walk-maze": walk_maze}
EXPERTS = {name: lambda env_id, _rule=rule, **kwargs: RuleExpert(_rule) for name, rule in _RULES.items()}
