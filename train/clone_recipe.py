"""What the recipe of a clone says. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gato.setting import choice

from .recipe import OneTaskRecipe


@dataclass(frozen=True)
class CloneRecipe(OneTaskRecipe):
    """Everything a run of a clone is made of; the network has no settings."""

    described: ClassVar[str] = "a clone"

    learner: str = choice("clone", ("clone",))
