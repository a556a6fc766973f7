"""Returns of imagined timesteps, whose discounts are predicted one by one."""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(rewards: Tensor, values: Tensor, discounts: Tensor, gae_lambda: float) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016), (N, H).

    **Arguments:** `rewards`, `discounts`: (N, H) of each timestep, the discount 0 where an episode ends; `values`: (N, H + 1), with that of
    what is seen after the last one.
    """
    surprise = rewards + discounts * values[:, 1:] - values[:, :-1]
    found, trace = [], torch.zeros_like(surprise[:, 0])
    for t in reversed(range(rewards.shape[1])):
        trace = surprise[:, t] + gae_lambda * discounts[:, t] * trace
        found.append(trace)
    return torch.stack(found[::-1], dim=1)


def weights(discounts: Tensor) -> Tensor:
    """How much every timestep still counts: the product of the discounts before it, (N, H); 1 at the first."""
    before = torch.cat([torch.ones_like(discounts[:, :1]), discounts[:, :-1]], dim=1)
    return before.cumprod(dim=1)
