"""What the recipes of learners of one-shot imitation say. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from gato.data.selection import DataConfig
from gato.learners.one_shot.config import MIL, TECNETS, MilConfig, TecNetsConfig
from gato.setting import Settings, choice

from ..recipe import OptimConfig, TrainConfig, check_one_task


@dataclass(frozen=True)
class TecNetsRecipe(Settings):
    """Everything a run of a TecNet is made of; a recipe is a YAML file of these."""

    learner: str = choice(TECNETS, (TECNETS,))
    model: TecNetsConfig = field(default_factory=TecNetsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """**Raises:** `ValueError` for what makes no sense, before any file is opened."""
        check_one_task(self.data, self.train, "a TecNet", "set of tasks")


@dataclass(frozen=True)
class MilRecipe(Settings):
    """Everything a run of MIL is made of."""

    learner: str = choice(MIL, (MIL,))
    model: MilConfig = field(default_factory=MilConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """**Raises:** `ValueError` for what makes no sense, before any file is opened."""
        check_one_task(self.data, self.train, "MIL", "set of tasks")
