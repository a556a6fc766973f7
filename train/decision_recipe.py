"""What the recipe of a Decision Transformer says. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gato.learners.decision_config import NAME, DecisionConfig
from gato.setting import choice

from .recipe import OneTaskRecipe


@dataclass(frozen=True)
class DecisionRecipe(OneTaskRecipe):
    """Everything a run of a Decision Transformer is made of; a recipe is a YAML file of these."""

    described: ClassVar[str] = "a Decision Transformer"

    learner: str = choice(NAME, (NAME,))
    model: DecisionConfig = field(default_factory=DecisionConfig)
