"""The way of a timestep's numbers to its action past the transformer: what a user would write for one task alone.

    r = sum_j v_j * column(place_j) / sqrt(J)                 the numbers of the timestep, in units of their scales
    b = tanh(second(tanh(first(r) + context(hidden))))        two layers; the transformer's state says which task it is
    mean of a slot += [r, b] . (slot + slot_context(state)) / sqrt(2 * inner)

What is read from a state of `width` numbers is divided by sqrt(width), and so is the sum over [r, b]: an update of Adam moves every
weight alike, and undivided it moves a mean by several times an action's range, which a mixture of tasks does not recover from.

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
        self.state_scale, self.mean_scale = width**-0.5, (2 * inner) ** -0.5
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
        bent = torch.tanh(self.second(torch.tanh(self.first(sums) + self.context(hidden) * self.state_scale)))
        return torch.cat([sums, bent], dim=-1)

    def state(self, direct: Tensor) -> Tensor:
        """(A, width): what is added to the states that an action's slots are read from."""
        return self.into_state(direct[..., direct.shape[-1] // 2 :])

    def mean(self, direct: Tensor, state: Tensor, slot: Tensor) -> Tensor:
        """(N, 1): what is added to the means of slots (N,) or (1,), read from `direct` (N, 2 inner) and their `state` (N, width)."""
        weights = self.slot(slot) + self.slot_context(state) * self.state_scale
        return (direct * weights).sum(dim=-1, keepdim=True) * self.mean_scale

    def read_out(self) -> list[nn.Parameter]:
        """The weights between the path and the means, and those by which the transformer's state bends it."""
        return [p for layer in (self.slot, self.slot_context, self.context) for p in layer.parameters()]

    @torch.no_grad()
    def initialise(self) -> None:
        """Two random layers of unit size, of which nothing is heard yet."""
        nn.init.normal_(self.column.weight)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        for silent in (self.context, self.into_state, self.slot, self.slot_context):
            nn.init.zeros_(silent.weight)
