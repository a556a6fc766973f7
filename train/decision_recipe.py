"""What the recipe of a Decision Transformer says. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from gato.data.selection import DataConfig
from gato.learners.decision_config import NAME, DecisionConfig
from gato.setting import Settings, choice

from .recipe import OptimConfig, TrainConfig, check_one_task


@dataclass(frozen=True)
class DecisionRecipe(Settings):
    """Everything a run of a Decision Transformer is made of; a recipe is a YAML file of these."""

    learner: str = choice(NAME, (NAME,))
    model: DecisionConfig = field(default_factory=DecisionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """**Raises:** `ValueError` for what makes no sense, before any file is opened."""
        check_one_task(self.data, self.train, "a Decision Transformer")
