"""Memories of a policy that acts: what is kept from timestep to timestep, as one vector a stream.

    y, state = memory(x, state, first)      x (B, T, inputs), state (B, `size`), first (B, T) -> y (B, T, `width`), (B, `size`)

Where `first` is true an episode begins and the state is zero. A single timestep is T = 1, so acting and training are one code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import NetworkConfig
from .rim import RIM


class NoMemory(nn.Module):
    """Every timestep for itself."""

    size = 0

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.width = inputs

    def forward(self, x: Tensor, state: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        return x, state


class Recurrent(nn.Module):
    """An LSTM's or a GRU's cell, step by step."""

    def __init__(self, kind: str, inputs: int, width: int) -> None:
        super().__init__()
        self.cell: Any = nn.LSTMCell(inputs, width) if kind == "lstm" else nn.GRUCell(inputs, width)
        self.width, self.size, self._is_lstm = width, 2 * width if kind == "lstm" else width, kind == "lstm"

    def forward(self, x: Tensor, state: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        keep, found = (~first).to(x.dtype)[..., None], []
        for t, seen in enumerate(x.unbind(dim=1)):
            state = state * keep[:, t]
            if self._is_lstm:
                state = torch.cat(self.cell(seen, tuple(state.chunk(2, dim=1))), dim=1)
            else:
                state = self.cell(seen, state)
            found.append(state[:, : self.width])
        return torch.stack(found, dim=1), state


def make_memory(config: NetworkConfig, inputs: int) -> Any:
    """The memory that a recipe names."""
    if config.memory == "none":
        return NoMemory(inputs)
    if config.memory == "rim":
        return RIM(inputs, config.memory_width, config.num_blocks, config.num_active, config.cell)
    return Recurrent(config.memory, inputs, config.memory_width)
