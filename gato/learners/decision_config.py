"""What a recipe says of a Decision Transformer. Imports no torch, so that a wrong key is refused
before the seconds that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gato.setting import Settings, bounded, choice

NAME = "decision-transformer"
CONDITIONS = ("return", "none")
ACTIVATIONS = ("relu", "gelu", "gelu_new")  # as transformers calls them; gelu_new is the approximation by tanh


@dataclass(frozen=True)
class DecisionConfig(Settings):
    """The architecture, and what the data are shown as. The defaults are the paper's for continuous
    control.

    - `num_layers`, `num_heads`, `width`, `feed_forward` (by default four times the width),
      `activation`, `dropout`: of the transformer.
    - `context`: timesteps that it sees, a return-to-go, a state and an action each; null: whole
      episodes.
    - `max_timesteps`: size of the table of timesteps; by default that of the longest episode, or
      the task's limit where it is higher.
    - `condition`: `return`, or `none`: behaviour cloning, by the same network without returns.
    - `best_share`: only the best episodes by return, which together hold this share of the
      timesteps; with `condition: none` it is %BC.
    - `return_scale`: returns-to-go are divided by it; by default the largest absolute return of the
      data.
    - `delayed_reward`: all reward of an episode counts as paid at its end, so the return-to-go
      stays what it was at the beginning.
    - `shuffled_returns`: a control: every window is told the return of another episode, drawn at
      random.
    """

    section: ClassVar[str] = "model"

    num_layers: int = bounded(3, 1, 1000)
    num_heads: int = bounded(1, 1, 1024)
    width: int = bounded(128, 1, 2**17)
    feed_forward: int | None = bounded(None, 1, 2**20)
    activation: str = choice("relu", ACTIVATIONS)
    dropout: float = bounded(0.1, 0, 1, below=True)
    context: int | None = bounded(20, 1, 2**16)
    max_timesteps: int | None = bounded(None, 1, 2**20)
    condition: str = choice("return", CONDITIONS)
    best_share: float | None = bounded(None, 0, 1, above=True)
    return_scale: float | None = bounded(None, 0, 1e30, above=True)
    delayed_reward: bool = False
    shuffled_returns: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.num_heads:
            raise ValueError(f"'model.width' is {self.width}, expected a multiple of model.num_heads, {self.num_heads}")
        if self.condition == "none" and (self.shuffled_returns or self.delayed_reward or self.return_scale):
            named = next(name for name in ("shuffled_returns", "delayed_reward", "return_scale") if getattr(self, name))
            raise ValueError(f"'model.{named}' is set, but with model.condition none no return is shown; remove one of them")

    @property
    def is_conditioned(self) -> bool:
        return self.condition == "return"
