"""A world model with the policy that was trained in it: on disk, and as policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from gato.learners.acting_agent import ActingAgent
from gato.learners.other import filled, settings_of
from gato.spec import TaskSpec

from .config import NAME, WorldConfig
from .learner import Dreamer
from .pictures import scene_of


class WorldAgent(ActingAgent):
    """It acts with its policy alone, which looks at one timestep; `model.world` is there to be looked into.

    **Arguments:** `gamma`: the discount that the world model says while the game goes on.
    """

    learners, keys = (NAME,), {"model", "gamma"}

    def __init__(self, model: Dreamer, task: TaskSpec, gamma: float) -> None:
        super().__init__(model, task)
        self.gamma = gamma

    @classmethod
    def of(cls, task: TaskSpec, config: WorldConfig, gamma: float, weights: Mapping[str, Tensor]) -> WorldAgent:
        """An agent with a copy of these weights. **Raises:** `ValueError` naming one that is missing or of another shape."""
        return cls(filled(lambda: Dreamer(scene_of(task, config), config), weights), task, gamma)

    def described(self) -> str:
        return f"a world model and its policy, which acts in '{next(iter(self.tasks))}'"

    def settings(self) -> dict[str, Any]:
        return {"model": asdict(self.model.config), "gamma": self.gamma}

    @classmethod
    def described_as(cls, content: dict[str, Any], task: TaskSpec, weights: Mapping[str, Tensor]) -> WorldAgent:
        gamma = content["gamma"]
        if not isinstance(gamma, (int, float)) or not 0 <= gamma <= 1:
            raise ValueError(f"gamma is {gamma!r}, expected a number from 0 to 1")
        return cls.of(task, settings_of(WorldConfig, content["model"]), float(gamma), weights)
