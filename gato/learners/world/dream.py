"""Going on inside a world model: from what was real until now, timestep by timestep, with actions that somebody chooses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .dynamics import WorldModel


class Dream:
    """N streams.

    **Arguments:** `tokens` (N, c, `world.tokens`, width): the timesteps before, of which the first `counts` (N,) are there, none for 0;
    `cells` (N, *codes) of 0 and 1: what is seen now; `before` (N,): the reward of the timestep before.

    **Attributes:** `cells`: what is seen now.
    """

    def __init__(self, world: WorldModel, tokens: Tensor, counts: np.ndarray, cells: Tensor, before: Tensor) -> None:
        self.world, self.cells, self._before = world, cells, before
        self._memory = world.remember(len(cells), tokens.shape[1] + 1)
        self._past: tuple[Tensor, np.ndarray] | None = (tokens, counts)

    @classmethod
    def begun(cls, world: WorldModel, cells: Tensor) -> Dream:
        """At the first timestep of episodes."""
        n = len(cells)
        nothing = cells.new_zeros(n, 0, world.tokens, world.config.width)
        return cls(world, nothing, np.zeros(n, np.int64), cells, cells.new_zeros(n))

    @torch.no_grad()
    def step(self, actions: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One timestep.

        **Arguments:** `actions` (N, `choices.size`); `noise` (N, outcomes + cells) in [0, 1) draws what comes, which is the likeliest
        without.

        **Returns:** the reward (N,) and the discount (N,), 0 where the episode ends.
        """
        now = self.world.embed(self.cells[:, None], actions[:, None], self._before[:, None])
        hidden = self._memory.step(now) if self._past is None else self._memory.step(*_joined(*self._past, now))
        self._past = None
        ahead = self.world.predict(hidden, self.cells, actions)
        self.cells, self._before = ahead.draw(noise, self.world.config.sharpness), ahead.reward
        return ahead.reward, ahead.discount.sigmoid()


def _joined(tokens: Tensor, counts: np.ndarray, now: Tensor) -> tuple[Tensor, np.ndarray]:
    """The timesteps before, and the present one behind the last of them."""
    joined = torch.cat([tokens, torch.zeros_like(now)], dim=1)
    joined[torch.arange(len(now)), torch.from_numpy(counts).to(now.device)] = now[:, 0]
    return joined, counts + 1
