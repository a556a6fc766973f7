"""A network trained by PPO with its task; its weights hold the measures of observations, its description the words it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from gato.disk import shown
from gato.learners.acting_agent import ActingAgent
from gato.learners.other import filled, settings_of
from gato.spec import TaskSpec

from .config import NAME, NetworkConfig
from .network import ActorCritic
from .observations import Words

MOST_WORDS = 2**15


class PPOAgent(ActingAgent):
    """See `ActingAgent`."""

    learners, keys = (NAME,), {"model", "words"}

    def __init__(self, model: ActorCritic) -> None:
        super().__init__(model, model.task)

    @classmethod
    def of(cls, task: TaskSpec, config: NetworkConfig, words: Words, weights: Mapping[str, Tensor]) -> PPOAgent:
        """An agent with a copy of these weights. **Raises:** `ValueError` naming one that is missing or of another shape."""
        return cls(filled(lambda: ActorCritic(task, config, words), weights))

    def described(self) -> str:
        return f"a policy trained by PPO, which acts in '{next(iter(self.tasks))}'"

    def settings(self) -> dict[str, Any]:
        return {"model": asdict(self.model.config), "words": list(self.model.encoder.words.known)}

    @classmethod
    def described_as(cls, content: dict[str, Any], task: TaskSpec, weights: Mapping[str, Tensor]) -> PPOAgent:
        config, words = settings_of(NetworkConfig, content["model"]), content["words"]
        if not isinstance(words, list) or len(words) > MOST_WORDS or not all(isinstance(word, str) for word in words):
            raise ValueError(f"words is {shown(words)}, expected a list of at most {MOST_WORDS} words")
        return cls.of(task, config, Words(words), weights)
