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

    **Arguments:** `gamma`: the discount that the world model says while the game goes on; `reward_scale`: rewards are multiplied by it
    before the model is told of them, and so are those that it says.
    """

    learners, keys, later = (NAME,), {"model", "gamma", "reward_scale"}, {"reward_scale": 1.0}

    def __init__(self, model: Dreamer, task: TaskSpec, gamma: float, reward_scale: float = 1.0) -> None:
        super().__init__(model, task)
        self.gamma, self.reward_scale = gamma, reward_scale

    @classmethod
    def of(
        cls, task: TaskSpec, config: WorldConfig, gamma: float, weights: Mapping[str, Tensor], reward_scale: float = 1.0
    ) -> WorldAgent:  # fmt: skip
        """An agent with a copy of these weights. **Raises:** `ValueError` naming one that is missing or of another shape."""
        return cls(filled(lambda: Dreamer(scene_of(task, config), config), weights), task, gamma, reward_scale)

    def described(self) -> str:
        return f"a world model and its policy, which acts in '{next(iter(self.tasks))}'"

    def settings(self) -> dict[str, Any]:
        return {"model": asdict(self.model.config), "gamma": self.gamma, "reward_scale": self.reward_scale}

    @classmethod
    def described_as(cls, content: dict[str, Any], task: TaskSpec, weights: Mapping[str, Tensor]) -> WorldAgent:
        gamma, scale = content["gamma"], content["reward_scale"]
        if not isinstance(gamma, (int, float)) or not 0 <= gamma <= 1:
            raise ValueError(f"gamma is {gamma!r}, expected a number from 0 to 1")
        if not isinstance(scale, (int, float)) or not 0 < scale <= 1e9:
            raise ValueError(f"reward_scale is {scale!r}, expected a number above 0, at most 1e9")
        return cls.of(task, settings_of(WorldConfig, content["model"]), float(gamma), weights, float(scale))
