"""The learners that a recipe may name, with what each makes of its recipe."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gato.given import nearest

# Name in a recipe -> module of this room, which has `Recipe` (imports no torch) and `set_up` in `MODULE_setup`.
LEARNERS = {"gato": ("recipe", "PretrainConfig", "gato_setup")}


def recipe_class(learner: object) -> type[Any]:
    """The dataclass of a learner's recipes. **Raises:** `ValueError` for one that there is not."""
    if learner not in LEARNERS:
        known = ", ".join(LEARNERS)
        raise ValueError(f"learner is {learner!r}, expected one of {known}{nearest(str(learner), LEARNERS)}")
    module, name, _ = LEARNERS[learner]  # type: ignore[index]
    return getattr(import_module(f".{module}", __package__), name)


def set_up(config: Any, device: Any) -> Any:
    """The `Setup` of a recipe's learner, with new weights on the device."""
    return import_module(f".{LEARNERS[config.learner][2]}", __package__).set_up(config, device)
