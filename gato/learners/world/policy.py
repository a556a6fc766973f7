"""Actor and critic: each looks at the codes of one timestep alone, so acting needs no transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .board import Scene


class ActorCritic(nn.Module):
    """**Arguments:** `scene`: what is seen and done; `width`: of the hidden layers."""

    log_deviation: Tensor

    def __init__(self, scene: Scene, width: int) -> None:
        super().__init__()
        self.choices = scene.choices
        self.actor, self.critic = _network(scene.size, width, self.choices.num_outputs), _network(scene.size, width, 1)
        for head in (self.actor, self.critic):
            nn.init.zeros_(head[-1].weight)  # type: ignore[arg-type]  # all actions are equally likely at first
        self.register_buffer("log_deviation", torch.zeros(0), persistent=False)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(n, *codes) of 0 and 1 -> the actor's outputs (n, `choices.num_outputs`) and the critic's values (n,)."""
        flat = codes.flatten(1)
        return self.actor(flat), self.critic(flat)[:, 0]


def _network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Layer norms bound what is said of boards that never were. Without them the value of imagined boards that fill with balls grows from
    timestep to timestep, each learns from the next, and all values grow without end (Gallici et al. 2024)."""
    first, second = (nn.Sequential(nn.Linear(n, width), nn.LayerNorm(width), nn.SiLU()) for n in (inputs, width))
    return nn.Sequential(first, second, nn.Linear(width, outputs))
