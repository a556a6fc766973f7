"""The actor and the critic: they share what is seen and remembered, and read it each with a hidden layer of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from gato.spec import TaskSpec

from .choices import ActionChoices
from .config import NetworkConfig
from .memories import make_memory
from .observations import ObservationEncoder, Words


class ActorCritic(nn.Module):
    """**Arguments:** `task`: what is seen and done; `words`: that its texts are made of."""

    def __init__(self, task: TaskSpec, config: NetworkConfig, words: Words) -> None:
        super().__init__()
        self.task, self.config, self.choices = task, config, ActionChoices(task)
        self.encoder = ObservationEncoder(task, config.width, config.channels, words)
        self.encoder.is_normalised = config.normalise
        self.memory = make_memory(config, config.width)
        self.actor = _head(self.memory.width, config.width, self.choices.num_outputs)
        self.critic = _head(self.memory.width, config.width, 1)
        if self.choices.num_continuous:
            self.log_deviation = nn.Parameter(torch.zeros(self.choices.num_continuous))
        else:
            self.register_buffer("log_deviation", torch.zeros(0), persistent=False)
        _initialise(self)

    def start(self, n: int) -> Tensor:
        """The state of n streams before their first timestep, (n, `memory.size`)."""
        return torch.zeros(n, self.memory.size, device=self.log_deviation.device)

    def forward(self, values: Mapping[str, Tensor], state: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps of B streams in their order.

        **Arguments:** `values`: (B, T, *shape) of every observation; `state`: (B, `memory.size`) before the first of them; `first`:
        (B, T), where episodes begin.

        **Returns:** the actor's outputs (B, T, `choices.num_outputs`), the critic's values (B, T), and the state after the last.
        """
        b, t = first.shape
        seen = self.encoder({name: value.flatten(0, 1) for name, value in values.items()}).unflatten(0, (b, t))
        remembered, state = self.memory(seen, state, first)
        return self.actor(remembered), self.critic(remembered)[..., 0], state

    def step(self, values: Mapping[str, Tensor], state: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One timestep, (n, ...) without the axis of time."""
        outputs, value, state = self({name: v[:, None] for name, v in values.items()}, state, first[:, None])
        return outputs[:, 0], value[:, 0], state


def _head(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs))


def _initialise(network: ActorCritic) -> None:
    """Orthogonal weights; nearly equal actions and small values at first (Huang et al. 2022, details 2 and 9)."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.orthogonal_(module.weight, math.sqrt(2))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LSTMCell, nn.GRUCell, nn.GRU)):
            for name, parameter in module.named_parameters():
                nn.init.orthogonal_(parameter) if "weight" in name else nn.init.zeros_(parameter)
    for head, size in ((network.actor, 0.01), (network.critic, 1.0)):
        nn.init.orthogonal_(cast(nn.Linear, head[-1]).weight, size)
