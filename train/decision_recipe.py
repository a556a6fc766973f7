"""What the recipe of a Decision Transformer says. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from gato.data.selection import DataConfig, check
from gato.learners.decision_config import NAME, DecisionConfig
from gato.setting import Settings, choice

from .recipe import OptimConfig, TrainConfig

_UNUSED = (
    "prompt_share",
    "loss_on_text_observations",
    "tokenizer",
    "temperature",
)  # of the data: they are of tokens and mixtures


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
        check(self.data)
        if len(self.data.sources) != 1:
            raise ValueError(f"data.sources names {', '.join(self.data.sources)}; a Decision Transformer learns one task: give one source")
        plain = DataConfig()
        for name in _UNUSED:
            if getattr(self.data, name) != getattr(plain, name):
                raise ValueError(f"data.{name} is {getattr(self.data, name)}, which a Decision Transformer has no use for; leave it out")
        for name in ("compile", "recompute"):
            if getattr(self.train, name):
                raise ValueError(f"train.{name} is true, which is for Gato; leave it out")
