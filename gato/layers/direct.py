"""The way of a timestep's numbers to its action past the transformer: what a user would write for one task alone.

    r = sum_j v_j * column(place_j) / sqrt(J)                 the numbers of the timestep, in units of their scales
    b = tanh(second(tanh(first(r) + context(hidden))))        two layers; the transformer's state says which task it is
    mean of a slot += r . line(slot, state) + b . bent(slot, state)

The line keeps a law that is nearly linear valid beyond what was demonstrated, and tanh is smooth: from ten demonstrations the
transformer alone learns wiggles (docs/results/compact.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DIRECT_WIDTH = 256


class DirectPath(nn.Module):
    """**Arguments:** `width`: of the transformer; `places`: local positions, and as many slots of actions."""

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        inner = DIRECT_WIDTH
        self.column = nn.Embedding(places, inner)
        self.first = nn.Linear(inner, inner)
        self.context = nn.Linear(width, inner, bias=False)
        self.second = nn.Linear(inner, inner)
        self.into_state = nn.Linear(inner, width, bias=False)
        self.slot = nn.Embedding(places, 2 * inner)
        self.slot_context = nn.Linear(width, 2 * inner, bias=False)

    def sums(self, values: Tensor, place: Tensor, owner: Tensor, count: int) -> Tensor:
        """(count, inner): columns times `values` (M,), added up for the action that follows in their timestep, `owner`.

        Those of owner `count`, and of actions, are left out.
        """
        rows = self.column(place.clamp(min=0)) * values[:, None]
        sums = rows.new_zeros(count + 1, rows.shape[1]).index_add(0, owner, rows)
        number = torch.bincount(owner, minlength=count + 1).clamp(min=1).to(rows.dtype)
        return (sums * number.rsqrt()[:, None])[:count]

    def forward(self, sums: Tensor, hidden: Tensor) -> Tensor:
        """(A, 2 inner): the sums and what two layers make of them, for actions whose states are `hidden` (A, width)."""
        bent = torch.tanh(self.second(torch.tanh(self.first(sums) + self.context(hidden))))
        return torch.cat([sums, bent], dim=-1)

    def state(self, direct: Tensor) -> Tensor:
        """(A, width): what is added to the states that an action's slots are read from."""
        return self.into_state(direct[..., direct.shape[-1] // 2 :])

    def mean(self, direct: Tensor, state: Tensor, slot: Tensor) -> Tensor:
        """(N, 1): what is added to the means of slots (N,) or (1,), read from `direct` (N, 2 inner) and their `state` (N, width)."""
        return (direct * (self.slot(slot) + self.slot_context(state))).sum(dim=-1, keepdim=True)

    @torch.no_grad()
    def initialise(self) -> None:
        """Two random layers of unit size, of which nothing is heard yet."""
        nn.init.normal_(self.column.weight)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        for silent in (self.context, self.into_state, self.slot, self.slot_context):
            nn.init.zeros_(silent.weight)
