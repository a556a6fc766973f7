"""Systems that learn from the same episodes, one file or a few each, and the table of them.

A learner keeps the contract of `gato/learner.py`. Its recipe, what a run makes of it, and what opens its folder are named here as
`module:name` and imported when they are asked for, so that a wrong recipe is refused before torch is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from gato import given  # `nearest` alone would give way to the module of this folder


class Entry(NamedTuple):
    """As `module:name`: the dataclass of recipes, `set_up(config, device) -> Setup`, and `load(folder, device, verify)`."""

    recipe: str
    set_up: str
    load: str


LEARNERS = {
    "gato": Entry("gato.train.recipe:PretrainConfig", "gato.train.gato_setup:set_up", "gato.agent:Agent.load"),
    "decision-transformer": Entry(
        "gato.train.decision_recipe:DecisionRecipe",
        "gato.train.decision_setup:set_up",
        "gato.learners.decision_agent:DecisionAgent.load",
    ),
    "ppo": Entry("gato.train.ppo.recipe:PPORecipe", "gato.train.ppo.setup:set_up", "gato.learners.ppo.agent:PPOAgent.load"),
    "world-model": Entry(
        "gato.train.world.recipe:WorldRecipe", "gato.train.world.setup:set_up", "gato.learners.world.agent:WorldAgent.load"
    ),
    "tecnets": Entry(
        "gato.train.one_shot.recipe:TecNetsRecipe", "gato.train.one_shot.setup:set_up", "gato.learners.one_shot.agent:OneShotAgent.load"
    ),
    "mil": Entry(
        "gato.train.one_shot.recipe:MilRecipe", "gato.train.one_shot.setup:set_up", "gato.learners.one_shot.agent:OneShotAgent.load"
    ),
    "clone": Entry("gato.train.clone_recipe:CloneRecipe", "gato.train.clone_setup:set_up", "gato.learners.folder:load_baseline"),
}


def register(name: str, recipe: str, set_up: str, load: str) -> None:
    """Makes a learner of your own known by a name: `learner: NAME` in recipes and in the folders that it writes.

    **Raises:** `ValueError` for a name that another learner has.
    """
    entry = Entry(recipe, set_up, load)
    if LEARNERS.setdefault(name, entry) != entry:
        raise ValueError(f"the learner '{name}' is known already; choose another name")


def known(name: object, where: str = "learner") -> Entry:
    """**Raises:** `ValueError` for a learner that there is not; `where`: what names it."""
    if not isinstance(name, str) or name not in LEARNERS:
        hint = given.nearest(str(name), LEARNERS) or "; if it is your own, bring its module with --import"
        raise ValueError(f"{where} is {name!r}, expected one of {', '.join(LEARNERS)}{hint}")
    return LEARNERS[name]


def found(reference: str) -> Any:
    """What `module:name` means."""
    module, _, path = reference.partition(":")
    value = import_module(module)
    for part in path.split("."):
        value = getattr(value, part)
    return value
