"""Agents of other learners than Gato, as far as they are alike."""

from __future__ import annotations

from typing import NoReturn


class OtherAgent:
    """Has its own policies, and none of what a Gato's agent has beside them, such as words."""

    def described(self) -> str:
        """What it is and where it acts, for refusals: `a clone policy, which acts in 'gymnasium/cartpole'`."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> NoReturn:
        """What Gato's agent has and this one has not."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise ValueError(f"this folder holds {self.described()} and has no '{name}'; name the folder of a Gato")
