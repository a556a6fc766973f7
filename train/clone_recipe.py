"""What the recipe of a clone says. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from gato.data.selection import DataConfig
from gato.setting import Settings, choice

from .recipe import OptimConfig, TrainConfig, check_one_task


@dataclass(frozen=True)
class CloneRecipe(Settings):
    """Everything a run of a clone is made of; the network has no settings."""

    learner: str = choice("clone", ("clone",))
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """**Raises:** `ValueError` for what makes no sense, before any file is opened."""
        check_one_task(self.data, self.train, "a clone")
