"""From a recipe to what its learner brings to a run."""

from __future__ import annotations

from typing import Any

from gato.learners import found, known


def recipe_class(learner: object) -> type[Any]:
    """The dataclass of a learner's recipes. **Raises:** `ValueError` for a learner that there is not."""
    return found(known(learner).recipe)


def set_up(config: Any, device: Any) -> Any:
    """The `Setup` of a recipe's learner, with new weights on the device."""
    return found(known(config.learner).set_up)(config, device)
