"""Playing in a dream, without the page: a visitor's game inside a world model, and the real one with the same actions beside it.

What is shown is a grid of numbers of colours: of a board the kinds of things, of a picture the greys.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from gato import envs
from gato.envs.recording import Recording
from gato.learners.world.agent import WorldAgent
from gato.learners.world.dream import Dream
from gato.learners.world.learner import DONE
from gato.learners.world.pictures import shown
from gato.picture import COLOURS
from gato.setting import MAX_SEED
from gato.spec import TaskSpec

MOST_GAMES = 64  # at once
IDLE_SECONDS = 300.0  # after which a game may make room for another one


class Busy(ValueError):
    """As many play as can."""


class Game:
    """One visitor's two boards. **Arguments:** `seed`: of the real game, and of what is drawn in the dream."""

    def __init__(self, agent: WorldAgent, task: TaskSpec, seed: int) -> None:
        self.agent, self.scene, self.used_at = agent, agent.model.scene, time.monotonic()
        self.generator = torch.Generator().manual_seed(seed)
        self.env = envs.make(task)
        self.real = Recording(task, self.env, seed, keep=False)
        self.timestep, self.is_over = 0, False
        self._past = self.scene.begin(1)
        self._look()
        self._begin_dream()
        self.returns = {"real": 0.0, "dream": 0.0}

    def step(self, action: int | None, by_chance: bool) -> None:
        """Both boards go on by one timestep, each unless it is over.

        **Arguments:** `action`: `None` leaves it to the policy, which looks at the dream, and where that is over at the real board;
        `by_chance`: what the dream shows next is drawn, else it is the likeliest.
        """
        chosen = (
            torch.tensor([[float(action)]]) if action is not None else self._policy(self.dream.cells if not self.is_over else self.codes)
        )
        self.timestep += 1
        self.told = {"real": (0.0, 0.0), "dream": (0.0, 0.0)}
        if not self.real.done:
            self.real.step({name: values[0] for name, values in self.scene.choices.decode(chosen.numpy()).items()})
            self._look()
            self.told["real"] = (self.real.reward, 0.0 if self.real.terminated else self.agent.gamma)
        if not self.is_over:
            size = self.agent.model.config.outcomes + self.scene.size
            noise = torch.rand(1, size, generator=self.generator) if by_chance else None
            reward, discount = (float(value) for value in self.dream.step(chosen, noise))
            self.told["dream"], self.is_over = (reward / self.agent.reward_scale, discount), discount < DONE
        for name, (reward, _) in self.told.items():
            self.returns[name] += reward

    def dream_on(self) -> None:
        """The dream begins anew from the real board as it is now, knowing nothing of what came before.

        **Raises:** `ValueError` where the real game is over.
        """
        if self.real.done:
            raise ValueError("the real game is over, so there is nothing to dream on from; reset it")
        self._begin_dream()
        self.returns["dream"] = self.returns["real"]

    def shown(self) -> dict[str, Any]:
        """What the page draws: of both boards the colour of every cell, reward and discount of the last action, the return, the end."""
        boards = {"real": self.seen, "dream": self._imagined()}
        over = {"real": self.real.done, "dream": self.is_over}
        found: dict[str, Any] = {"timestep": self.timestep, "wrong": int(self.scene.wrong(self.codes, self.dream.cells))}
        for name, colours in boards.items():
            reward, discount = self.told[name]
            found[name] = {
                "cells": colours.tolist(), "reward": round(reward, 3), "discount": round(discount, 3),
                "return": round(self.returns[name], 2), "over": bool(over[name]),
            }  # fmt: skip
        return found

    def close(self) -> None:
        envs.close(self.env)

    def _begin_dream(self) -> None:
        self.dream, self.is_over = Dream.begun(self.agent.model.world, self.codes), False
        self.told = {name: (0.0, self.agent.gamma) for name in ("real", "dream")}

    def _look(self) -> None:
        """Takes in what the real game shows: `codes` of it, and `seen`, which is drawn."""
        cells, first = torch.from_numpy(self.scene.cells(self.real.observation)), torch.tensor([self.real.first])
        stacks = self.scene.stacked(self._past, cells, first)
        self._past, eye = stacks[:, 1:], self.agent.model.eye
        self.codes = self.agent.model.codes(cells if eye is None else stacks)
        self.seen = _colours(cells[0].numpy()) if eye is None else cells[0].numpy()

    @torch.no_grad()
    def _imagined(self) -> np.ndarray:
        eye, codes = self.agent.model.eye, self.dream.cells
        return _colours(codes[0].numpy()) if eye is None else shown(eye.decode(codes))[0]

    @torch.no_grad()
    def _policy(self, cells: torch.Tensor) -> torch.Tensor:
        policy = self.agent.model.policy
        noise = -torch.log(torch.empty(1, policy.choices.num_outputs).exponential_(generator=self.generator))
        return policy.choices.choose(policy(cells)[0], policy.log_deviation, noise)


class Games:
    """All visitors' games; one timestep of one of them is computed at a time.

    **Raises:** `ValueError` for actions that no single key could mean.
    """

    def __init__(self, agent: WorldAgent) -> None:
        (self.task,) = agent.tasks.values()
        choices = agent.model.scene.choices
        if choices.size != 1:
            raise ValueError(f"task '{self.task.name}' has actions of {choices.size} parts, which no single key means; play another one")
        self.agent, self.actions = agent, _names(self.task, choices.num_outputs)
        self.colours = COLOURS.tolist() if agent.model.eye is None else [[grey] * 3 for grey in range(256)]
        self._games: OrderedDict[str, Game] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, seed: Any) -> dict[str, Any]:
        """A new game. **Raises:** `ValueError` for a seed that is none; `Busy`."""
        seed = _whole("seed", seed, 0, MAX_SEED)
        with self._lock:
            while len(self._games) >= MOST_GAMES:
                oldest = next(iter(self._games))
                if time.monotonic() - self._games[oldest].used_at < IDLE_SECONDS:
                    raise Busy(f"{MOST_GAMES} games are being played, and no more can be; try again in some minutes")
                self._games.pop(oldest).close()
            name = secrets.token_urlsafe(12)
            self._games[name] = game = Game(self.agent, self.task, seed)
            return {"game": name, "actions": self.actions, "colours": self.colours, "task": self.task.name, **game.shown()}

    def act(self, name: Any, action: Any, by_chance: Any) -> dict[str, Any]:
        """One timestep. **Raises:** `ValueError` for a game that is not there, or an action that is none."""
        chosen = None if action is None else _whole("action", action, 0, len(self.actions) - 1)
        with self._lock:
            game = self._game(name)
            game.step(chosen, by_chance is True)
            return game.shown()

    def dream_on(self, name: Any) -> dict[str, Any]:
        """See `Game.dream_on`."""
        with self._lock:
            game = self._game(name)
            game.dream_on()
            return game.shown()

    def close(self) -> None:
        for game in self._games.values():
            game.close()

    def _game(self, name: Any) -> Game:
        game = self._games.get(name) if isinstance(name, str) else None
        if game is None:
            raise ValueError("this game is not there any more; reset it")
        self._games.move_to_end(name)
        game.used_at = time.monotonic()
        return game


def _names(task: TaskSpec, count: int) -> list[str]:
    if task.name.startswith("minatar"):
        from gato.envs.minatar import ACTIONS

        return list(ACTIONS)
    return [str(i) for i in range(count)]


def _colours(cells: np.ndarray) -> np.ndarray:
    """(rows, columns, kinds) -> (rows, columns): which of `COLOURS` a cell has, the last kind on top."""
    kinds = np.where(cells != 0, np.arange(cells.shape[2]) % (len(COLOURS) - 1) + 1, 0)
    last = cells.shape[2] - 1 - (cells[..., ::-1] != 0).argmax(axis=2)
    return np.take_along_axis(kinds, last[..., None], axis=2)[..., 0]


def _whole(what: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"the {what} is {str(value)[:40]!r}, expected a whole number from {low} to {high}")
    return value
