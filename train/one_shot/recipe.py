"""What the recipes of learners of one-shot imitation say. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gato.learners.one_shot.config import MIL, TECNETS, MilConfig, TecNetsConfig
from gato.setting import choice

from ..recipe import OneTaskRecipe


@dataclass(frozen=True)
class TecNetsRecipe(OneTaskRecipe):
    """Everything a run of a TecNet is made of; a recipe is a YAML file of these."""

    described: ClassVar[str] = "a TecNet"
    learned: ClassVar[str] = "set of tasks"

    learner: str = choice(TECNETS, (TECNETS,))
    model: TecNetsConfig = field(default_factory=TecNetsConfig)


@dataclass(frozen=True)
class MilRecipe(OneTaskRecipe):
    """Everything a run of MIL is made of."""

    described: ClassVar[str] = "MIL"
    learned: ClassVar[str] = "set of tasks"

    learner: str = choice(MIL, (MIL,))
    model: MilConfig = field(default_factory=MilConfig)
