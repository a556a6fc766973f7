"""Actor and critic: each looks at the cells of one timestep alone, so acting needs no transformer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gato.spec import TaskSpec

from .board import Board


class ActorCritic(nn.Module):
    """What `gato.learners.ppo.policy.PPOPolicy` asks of a network that acts; it has no state."""

    log_deviation: Tensor

    def __init__(self, board: Board, width: int) -> None:
        super().__init__()
        self.encoder, self.choices = board, board.choices
        self.actor, self.critic = _network(board.size, width, self.choices.num_outputs), _network(board.size, width, 1)
        for head in (self.actor, self.critic):
            nn.init.zeros_(head[-1].weight)  # type: ignore[arg-type]  # all actions are equally likely at first
        self.register_buffer("log_deviation", torch.zeros(0), persistent=False)

    @property
    def task(self) -> TaskSpec:
        return self.encoder.task

    def start(self, n: int) -> Tensor:
        return torch.zeros(n, 0, device=self.log_deviation.device)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """(n, rows, columns, kinds) of 0 and 1 -> the actor's outputs (n, `choices.num_outputs`) and the critic's values (n,)."""
        flat = cells.flatten(1)
        return self.actor(flat), self.critic(flat)[:, 0]

    def step(self, values: Mapping[str, Tensor], state: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One timestep of n streams."""
        outputs, value = self(values[self.encoder.field.name].float())
        return outputs, value, state


def _network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Layer norms bound what is said of boards that never were. Without them the value of imagined boards that fill with balls grows from
    timestep to timestep, each learns from the next, and all values grow without end (Gallici et al. 2024)."""
    first, second = (nn.Sequential(nn.Linear(n, width), nn.LayerNorm(width), nn.SiLU()) for n in (inputs, width))
    return nn.Sequential(first, second, nn.Linear(width, outputs))
