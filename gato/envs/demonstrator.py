"""The contract of an expert, and the two experts that need no family of their own.

Experts may look at the environment's inner state, which the student never sees: they are sources of
demonstrations, not baselines of equal standing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import gymnasium

    from gato.episode import Behaviour


class Expert(Protocol):
    """Acts in one environment, one episode after the other.

    It may have an attribute `behaviour`, `"random"` or `"learner"`, if it is none: see `behaviour_of`.
    """

    def reset(self, env: gymnasium.Env) -> None:
        """Called once after the environment's own reset."""

    def act(self, env: gymnasium.Env, observation: Any) -> Any:
        """The action for an observation, both as the environment's spaces have them.

        The previous action may not have been executed as returned: `data.collect` perturbs some. An
        expert that plans must therefore look at the environment instead of its own last answer.
        """


@dataclass(frozen=True)
class RuleExpert:
    """An expert without memory: a function of the environment and the observation."""

    rule: Callable[[gymnasium.Env, Any], Any]

    def reset(self, env: gymnasium.Env) -> None:
        """Nothing to forget."""

    def act(self, env: gymnasium.Env, observation: Any) -> Any:
        return self.rule(env, observation)


class RandomExpert:
    """Uniformly random actions; repeatable, because recordings seed the action space."""

    behaviour = "random"

    def reset(self, env: gymnasium.Env) -> None:
        """Nothing to forget."""

    def act(self, env: gymnasium.Env, observation: Any) -> Any:
        return env.action_space.sample()


def behaviour_of(expert: Expert) -> Behaviour:
    """What its episodes are called: `"expert"`, unless it says that it is `"random"` or a `"learner"`.

    Of an expert only episodes near its level are kept, and some actions may be perturbed; of the others every episode is kept as
    it was played. **Raises:** `ValueError` for another word.
    """
    found: Any = getattr(expert, "behaviour", "expert")
    if found not in ("expert", "random", "learner"):
        raise ValueError(f"an expert's behaviour is {found!r}, expected 'expert', 'random' or 'learner'")
    return found
