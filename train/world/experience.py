"""All timesteps that a world model learns from, in memory: episodes laid end to end, and how often each place was drawn."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gato.episode import Episode
from gato.learners.world.board import Board, Scene

FIRST_ROOM = 1024  # timesteps


class Experience:
    """**Arguments:** `scene`; `reward_scale`: rewards are multiplied by it.

    **Attributes:** `size`: timesteps; `visits`: (size,) how often a window began there; `digest`: of all that was added.
    """

    def __init__(self, scene: Scene, reward_scale: float = 1.0) -> None:
        self.scene, self.reward_scale, self.size, self.num_episodes = scene, reward_scale, 0, 0
        self._columns: dict[str, np.ndarray] = {
            "cells": np.zeros((FIRST_ROOM, *scene.shape), np.uint8),
            "actions": np.zeros((FIRST_ROOM, scene.choices.size), np.float32),
            "rewards": np.zeros(FIRST_ROOM, np.float32),
            "terminated": np.zeros(FIRST_ROOM, bool),
            "episode": np.zeros(FIRST_ROOM, np.int64),
            "begins": np.zeros(FIRST_ROOM, np.int64),  # where its episode does
            "visits": np.zeros(FIRST_ROOM, np.int64),
        }
        self._hash = hashlib.sha256()

    def __getattr__(self, name: str) -> Any:
        columns = self.__dict__.get("_columns", {})
        if name in columns:
            return columns[name][: self.size]
        raise AttributeError(name)

    @property
    def digest(self) -> np.ndarray:
        """(32,) uint8."""
        return np.frombuffer(self._hash.digest(), np.uint8).copy()

    def add(self, episode: Episode) -> None:
        n, start = episode.num_timesteps, self.size
        room = len(self._columns["rewards"])
        while start + n > room:
            room *= 2
        for name, column in self._columns.items():
            if len(column) < room:
                self._columns[name] = np.concatenate([column, np.zeros((room - len(column), *column.shape[1:]), column.dtype)])
        found = {
            "cells": self.scene.cells(episode.observations), "actions": self.scene.numbers(episode.actions),
            "rewards": episode.rewards * np.float32(self.reward_scale), "episode": np.full(n, self.num_episodes),
            "begins": np.full(n, start), "terminated": (np.arange(n) == n - 1) & episode.terminated,
        }  # fmt: skip
        for name, values in found.items():
            self._columns[name][start : start + n] = values
            if name != "begins":
                self._hash.update(self._columns[name][start : start + n].tobytes())
        self.size, self.num_episodes = start + n, self.num_episodes + 1

    def draw(self, generator: np.random.Generator, count: int, window: int, temperature: float) -> np.ndarray:
        """(count,) first timesteps of windows that lie whole in what there is, with a timestep behind them; their visits are counted.

        **Arguments:** `temperature`: a place is drawn in proportion to exp(-visits / temperature); 0: all are equally likely.
        """
        places = self.size - window
        assert places > 0, f"{self.size} timesteps are no window of {window} and one behind it"
        if temperature == 0:
            starts = generator.integers(places, size=count)
        else:
            visits = self._columns["visits"][:places]
            share = np.cumsum(np.exp(-(visits - visits.min()) / temperature))
            starts = np.searchsorted(share, generator.random(count) * share[-1], side="right").clip(max=places - 1)
        np.add.at(self._columns["visits"], starts, 1)
        return starts

    def windows(self, starts: np.ndarray, window: int) -> dict[str, np.ndarray]:
        """As `WorldBatch` has them, by name."""
        places = starts[:, None] + np.arange(window)
        behind, episode, rewards = places + 1, self.episode, self.rewards
        is_first = (places == 0) | (episode[np.maximum(places - 1, 0)] != episode[places])
        return {
            "cells": self.cells[self._together(starts[:, None] + np.arange(window + 1))], "actions": self.actions[places],
            "rewards": rewards[places],
            "before": np.where(is_first, np.float32(0), rewards[np.maximum(places - 1, 0)]), "terminated": self.terminated[places],
            "has_next": episode[behind] == episode[places], "episode": episode[places] - episode[starts][:, None],
        }  # fmt: skip

    def _together(self, places: np.ndarray) -> np.ndarray:
        """(..., stack): the timesteps that are seen in places of pictures, the first one of an episode also for those before it."""
        if isinstance(self.scene, Board):
            return places
        return np.maximum(places[..., None] + np.arange(1 - self.scene.stack, 1), self.begins[places][..., None])

    def set_visits(self, visits: np.ndarray) -> None:
        self._columns["visits"][: self.size] = visits
