"""Key-to-Door: three rooms in a row, and a reward only for a door that is reached with the key from
the first of them.

    A K     . D          A   the agent, which starts in the key room      D   the door, somewhere in the door room
    . . - - . .          K   the key, somewhere in the key room

What the agent sees is the room it is in: where it stands, and where the key or the door lies.
Whether it took the key it must remember. This is a re-creation: the one that the Decision
Transformer paper uses is not public, and its rates are therefore no reference for these.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

UP, DOWN, LEFT, RIGHT = range(4)
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
KEY_ROOM, CORRIDOR, DOOR_ROOM = range(3)
PRIZE, CHANCE = 2.0, 0.05  # of the lottery
CELL = 16  # pixels

Place = tuple[int, int]  # row and column, counted over all three rooms


class KeyToDoor(gymnasium.Env):
    """Rooms of `size` x `size` cells, joined at their middle (or lower) rows by a corridor of
    `corridor` cells.

    Observations: `room` (0 key room, 1 corridor, 2 door room), `position` (2,) row and column
    within it, `thing` (3,) whether the key or the door is seen, and how far down and to the right
    of the agent it lies; zeros in the corridor, and once the key is taken. Actions: up, down, left,
    right; a wall stops a step. The door without the key is a cell like any other. After `limit`
    timesteps it is over.

    With `lottery` one more cell of the key room, never its exit, ends the episode when it is
    entered, and pays 2 with a chance of 1 in 20: an expected return of 0.1 beside the 1 that is
    sure. `lottery` (3,) says where it lies, as `thing` does.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, size: int = 2, corridor: int = 2, limit: int = 15, lottery: bool = False, render_mode: str | None = None) -> None:
        if size < 2 or corridor < 1 or limit < 1:
            raise ValueError(f"size is {size}, corridor {corridor} and limit {limit}; give at least 2, 1 and 1")
        self.size, self.corridor, self.limit = size, corridor, limit
        self.has_lottery, self.render_mode = lottery, render_mode
        self.middle, self.columns = size // 2, 2 * size + corridor
        position = spaces.Box(0, max(size, corridor) - 1, (2,), np.float32)
        offset = spaces.Box(1 - size, size - 1, (3,), np.float32)
        seen: dict[str, spaces.Space] = {"position": position, "room": spaces.Discrete(3), "thing": offset}
        self.observation_space = spaces.Dict(seen | ({"lottery": offset} if lottery else {}))
        self.action_space = spaces.Discrete(len(MOVES))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict]:
        super().reset(seed=seed)
        cells = [divmod(int(n), self.size) for n in self.np_random.choice(self.size**2, 4, replace=False)]
        self.agent, self.key, exit = *cells[:2], (self.middle, self.size - 1)
        self.lottery = next(cell for cell in cells[2:] if cell != exit)
        row, column = divmod(int(self.np_random.integers(self.size**2)), self.size)
        self.door = row, column + self.size + self.corridor
        self.has_key, self.num_steps = False, 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict]:
        row, column = (a + b for a, b in zip(self.agent, MOVES[action], strict=True))
        if self.is_free(row, column):
            self.agent = row, column
        self.num_steps += 1
        self.has_key = self.has_key or self.agent == self.key
        reward, terminated = float(self.has_key and self.agent == self.door), False
        if self.has_lottery and self.agent == self.lottery:
            reward, terminated = PRIZE * float(self.np_random.random() < CHANCE), True
        terminated = terminated or reward > 0
        return (self._observation(), reward, terminated, self.num_steps >= self.limit and not terminated, {})

    def room_of(self, column: int) -> int:
        return KEY_ROOM if column < self.size else CORRIDOR if column < self.size + self.corridor else DOOR_ROOM

    def render(self) -> np.ndarray:
        """(16 size, 16 columns, 3) uint8: the whole world, which the agent never sees; the agent is
        white, with the key yellow."""
        picture = np.zeros((self.size, self.columns, 3), dtype=np.uint8)
        for row in range(self.size):
            for column in range(self.columns):
                picture[row, column] = 48 if self.is_free(row, column) else 0
        picture[self.door] = (64, 255, 64)
        if self.has_lottery:
            picture[self.lottery] = (255, 64, 255)
        if not self.has_key:
            picture[self.key] = (255, 255, 64)
        picture[self.agent] = (255, 255, 64) if self.has_key else (255, 255, 255)
        return picture.repeat(CELL, axis=0).repeat(CELL, axis=1)

    def is_free(self, row: int, column: int) -> bool:
        is_inside = 0 <= row < self.size and 0 <= column < self.columns
        return is_inside and (self.room_of(column) != CORRIDOR or row == self.middle)

    def _observation(self) -> dict[str, Any]:
        row, column = self.agent
        room = self.room_of(column)
        things = {KEY_ROOM: None if self.has_key else self.key, DOOR_ROOM: self.door}
        first = (0, 0), (self.middle, self.size), (0, self.size + self.corridor)
        seen = {
            "position": np.array((row - first[room][0], column - first[room][1]), np.float32),
            "room": room,
            "thing": self._offset(things.get(room)),
        }
        return seen | ({"lottery": self._offset(self.lottery if room == KEY_ROOM else None)} if self.has_lottery else {})

    def _offset(self, place: Place | None) -> np.ndarray:
        if place is None:
            return np.zeros(3, np.float32)
        return np.array((1, place[0] - self.agent[0], place[1] - self.agent[1]), np.float32)


def key_then_door(env: gymnasium.Env, observation: Any) -> int:
    """The first step of a shortest way to the key, or with it to the door; never over the
    lottery."""
    world: Any = env.unwrapped
    goal = world.door if world.has_key else world.key
    distance, waiting = {goal: 0}, deque([goal])
    while waiting:
        place = waiting.popleft()
        for move in MOVES:
            near = place[0] + move[0], place[1] + move[1]
            if near not in distance and world.is_free(*near) and not (world.has_lottery and near == world.lottery):
                distance[near] = distance[place] + 1
                waiting.append(near)
    row, column = world.agent
    return min(range(len(MOVES)), key=lambda a: distance.get((row + MOVES[a][0], column + MOVES[a][1]), world.size * world.columns))
