"""A task that a checkpoint never saw, out of demonstrations: acted in beside those that it learned, without a training run.

`retrieve`, `knn` and `lwr` look actions up, `clone`, `keypoints` and `darp` train a small network first (seconds, of pictures
minutes), and `prompt` shows the checkpoint one demonstration before every episode. docs/results/baselines.md says how good each is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gato.agent import Agent
from gato.data.store import Store
from gato.data.stores import find_store
from gato.episode import Episode
from gato.learners.folder import BaselineAgent, learned
from gato.learners.one_shot.agent import OneShotAgent
from gato.spec import TaskSpec

from .settings import MOST_DEMONSTRATIONS, WAYS

SHOWN = ("expert", "noisy", "human")  # whose actions are worth repeating
LEARNED = ("clone", "keypoints", "darp")  # by training, so that some demonstrations say when to stop


class Demonstrated:
    """**Arguments:** `agent`: the checkpoint, which `prompt` alone uses; `store`: name or folder of a store of demonstrations of one
    task; `by`: see above; `chunk`: so many timesteps' actions are learned as one; `most`: so many of them, the first.

    **Raises:** `ValueError` for a store of several tasks or of none with actions, and for a prompt to what is no Gato.
    """

    def __init__(self, agent: Any, store: str | Path, by: str = "clone", chunk: int = 1, most: int = MOST_DEMONSTRATIONS) -> None:
        if by not in WAYS:
            raise ValueError(f"by is '{by}', expected one of {', '.join(WAYS)}")
        opened = Store(find_store(store))
        tasks = [task for task in opened.manifest.tasks if task.is_control]
        if len(tasks) != 1 or not opened.num_episodes:
            raise ValueError(f"'{store}' holds {len(tasks)} tasks with actions and {opened.num_episodes} episodes, expected one task's")
        if by == "prompt" and not isinstance(agent, (Agent, OneShotAgent)):
            raise ValueError("a demonstration is a prompt to a Gato, or to a learner of one-shot imitation; choose another way (--by)")
        if by == "prompt" and chunk > 1:
            raise ValueError(f"chunk is {chunk}, but a prompt has no chunks; choose another way, such as clone")
        self.agent, self.by, self.chunk = agent, by, chunk
        self.task: TaskSpec = tasks[0]
        usable = np.flatnonzero(np.isin(opened.behaviours, SHOWN))
        if not len(usable):
            raise ValueError(f"'{store}' holds no episode of an expert or a human to learn from")
        self.left_out = opened.num_episodes - min(most, len(usable))
        self.episodes = [opened.episode(int(i)) for i in usable[:most]]

    def policy(self, seed: int = 0, **settings: Any) -> Any:
        """Acts in the task. **Arguments:** `settings` of `Agent.policy`, for a prompt."""
        if self.by == "prompt" and isinstance(self.agent, OneShotAgent):
            return self.agent.policy(self.task, demonstrations=self.episodes[:1])
        if self.by == "prompt":
            settings.setdefault("memory", 0)
            return self.agent.policy(self.task, seed=seed, prompt=self.episodes[0], **settings)
        return self.learned(seed).policy(self.task)

    def learned(self, seed: int = 0) -> BaselineAgent:
        """What learned from the demonstrations, which `save` keeps in a folder for `gato.load` and `gato serve`."""
        episodes, held_out = self._parted()
        return learned(self.by, self.task, episodes, held_out, seed, self.chunk)

    def _parted(self) -> tuple[list[Episode], list[Episode]]:
        """Those to learn from, and where something is trained one in ten, but not one of few, to say when to stop."""
        count = len(self.episodes) // 10 if self.by in LEARNED else 0
        return self.episodes[: len(self.episodes) - count], self.episodes[len(self.episodes) - count :]
