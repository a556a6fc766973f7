"""What the recipe of a clone says. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from gato.data.selection import DataConfig, check
from gato.setting import Settings, choice

from .recipe import OptimConfig, TrainConfig

_OF_TOKENS = ("prompt_share", "loss_on_text_observations", "tokenizer", "temperature")


@dataclass(frozen=True)
class CloneRecipe(Settings):
    """Everything a run of a clone is made of; the network has no settings."""

    learner: str = choice("clone", ("clone",))
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """**Raises:** `ValueError` for what makes no sense, before any file is opened."""
        check(self.data)
        if len(self.data.sources) != 1:
            raise ValueError(f"data.sources names {', '.join(self.data.sources)}; a clone learns one task: give one source")
        plain = DataConfig()
        for name in _OF_TOKENS:
            if getattr(self.data, name) != getattr(plain, name):
                raise ValueError(f"data.{name} is {getattr(self.data, name)}, which a clone has no use for; leave it out")
        for name in ("compile", "recompute"):
            if getattr(self.train, name):
                raise ValueError(f"train.{name} is true, which is for Gato; leave it out")
