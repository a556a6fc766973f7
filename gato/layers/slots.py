"""An action's slots in the compact layout: what they cost while training, and how they are chosen while acting.

All slots of a timestep are read from one state of the transformer. A slot sees the values of the slots before it: those that were
demonstrated while training, those that were chosen while acting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gato.spec import NUM_BINS

from .compact import ActionHead, Bumps, NumberEmbedding
from .numbers import ALL_BINS, Numbers


@dataclass(frozen=True)
class SlotReader:
    """**Arguments:** `head`, `embedding`: of a model; `table`: its token table; `discrete_start`: the id of the discrete value 0."""

    head: ActionHead
    embedding: NumberEmbedding
    table: Tensor
    discrete_start: int

    def losses(self, hidden: Tensor, numbers: Numbers, mean_weight: float | None) -> SlotLosses:
        """`hidden` (A, width): the states before the actions. Without a `mean_weight` the losses are negative log-likelihoods."""
        count, slots = numbers.actions.shape
        ids = numbers.actions.clamp(min=0)
        place = -1 - torch.arange(slots, device=ids.device)
        features = self.embedding.features(ids, place.expand(count, slots), self.table)
        direct = self.direct_of(numbers.ids, numbers.place, numbers.owner, hidden)
        states = self.head.states(hidden, features, direct).flatten(0, 1)
        legal, ids = numbers.legal.flatten(), ids.flatten()
        discrete, continuous = numbers.discrete, numbers.continuous
        logits = F.linear(states[discrete], self.table[self.discrete_start : self.discrete_start + numbers.most])
        is_legal = torch.arange(numbers.most, device=ids.device) < legal[discrete, None]
        wanted = ids[discrete] - self.discrete_start
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        classes = F.cross_entropy(logits.masked_fill(~is_legal, float("-inf")), wanted, reduction="none")
        owned = direct[torch.div(continuous, slots, rounding_mode="floor")]
        bumps = self.head.bumps_of(states[continuous], continuous % slots, owned)
        if mean_weight is None:
            bins = (ids[continuous] - self.embedding.continuous_start).clamp(0, NUM_BINS - 1)
            values = -bumps.log_probabilities().gather(1, bins[:, None])[:, 0]
        else:
            values = bumps.loss(self.embedding.centres(ids[continuous]).to(bumps.means.dtype), mean_weight)
        counts = torch.cat([torch.ones_like(discrete, dtype=torch.bool), legal[continuous] == ALL_BINS])
        owner = torch.div(torch.cat([discrete, continuous]), slots, rounding_mode="floor")
        return SlotLosses(torch.cat([classes, values]) * counts, counts, numbers.before[owner] + 1)

    def direct_of(self, ids: Tensor, place: Tensor, owner: Tensor, hidden: Tensor) -> Tensor:
        """What the numbers (M,) of observations say past the transformer to each action, whose state is `hidden` (A, width)."""
        values = self.embedding.expanded(self.embedding.centres(ids)) * self.embedding.is_continuous(ids)
        return self.head.direct(self.head.direct.sums(values, place, owner, len(hidden)), hidden)


@dataclass(frozen=True)
class SlotLosses:
    """Of discrete slots, then of continuous ones (K,): `losses`; `counts` bool: no spare one; `places`: flat positions of the actions."""

    losses: Tensor
    counts: Tensor
    places: Tensor


class SlotChoice:
    """One action of n streams while its slots are chosen, first to last.

    **Arguments:** `hidden` (n, width): the states behind the observations; `direct` (n, ...): see `SlotReader.direct_of`;
    `bins`: `NumberEmbedding.bin_values`, so that they are not computed anew for every slot.
    """

    def __init__(self, reader: SlotReader, hidden: Tensor, direct: Tensor, bins: Tensor) -> None:
        self.reader, self.direct, self.bins = reader, direct, bins
        self.begun = hidden + reader.head.direct.state(direct)
        self.slot = torch.zeros(1, dtype=torch.long, device=hidden.device)
        self.earlier = torch.zeros_like(hidden)

    def _state(self) -> Tensor:
        return self.reader.head.state(self.begun, self.slot, self.earlier)

    def _bumps(self) -> Bumps:
        return self.reader.head.bumps_of(self._state(), self.slot, self.direct)

    def scores(self, legal: range, is_continuous: bool) -> Tensor:
        """Logits (n, len(legal)) of the present slot's ids."""
        if is_continuous:
            return self._bumps().log_probabilities()
        return F.linear(self._state(), self.reader.table[legal.start : legal.stop])

    def best_bins(self) -> np.ndarray:
        """(n,): the bin that a continuous slot takes where it is not drawn."""
        return ((self._bumps().best() + 1) * (NUM_BINS / 2)).long().clamp(0, NUM_BINS - 1).cpu().numpy()

    def take(self, chosen: np.ndarray, is_continuous: bool) -> None:
        """Goes on to the next slot. `chosen` (n,): the ids of the present one."""
        embedding, ids = self.reader.embedding, torch.from_numpy(chosen.astype(np.int64)).to(self.begun.device)
        if is_continuous:
            values = F.embedding(ids - embedding.continuous_start, self.bins)
        else:
            values = F.embedding(ids, self.reader.table) * embedding.row_scale
        self.earlier = self.earlier + embedding.placed(values, embedding.places + self.slot)
        self.slot = self.slot + 1
