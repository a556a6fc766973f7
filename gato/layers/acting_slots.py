"""An action's slots while acting on a CPU: the same function of the same weights as `slots.py`, in a third of the kernels.

All slots of an action read the same direct path, so what it adds to the mean of a slot s,

    direct . (slot_s + context(state_s))  =  direct . slot_s  +  (direct . context) . state_s

needs the large matrix `context` once an action and not once a slot; and of a few bumps Python finds the best faster than kernels do.
Results agree with `SlotChoice` to rounding (tests/test_compact.py).
"""

from __future__ import annotations

from math import exp, log, log1p

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.spec import NUM_BINS

from .compact import FLOOR, Bumps
from .slots import SlotReader

PLAIN = (nn.Linear, nn.Embedding, nn.LayerNorm)
FEW_ROWS = 8  # of which the best bumps are found one by one


def fits(reader: SlotReader) -> bool:
    """Whether the weights lie on a CPU, and nothing was put into the layers or hooked to them."""
    if reader.table.device.type != "cpu":
        return False
    layers = [part for whole in (reader.head, reader.embedding) for part in whole.modules() if next(part.children(), None) is None]
    return all(type(part) in PLAIN and not part._forward_hooks and not part._forward_pre_hooks for part in layers)


class SlotWeights:
    """What slots are read with, as products want it: views of the weights of a reader that `fits`.

    **Arguments:** `bins`: as of `SlotChoice`; `count`: of an action's slots.
    """

    def __init__(self, reader: SlotReader, bins: Tensor, count: int) -> None:
        head, path, embedding = reader.head, reader.head.direct, reader.embedding
        self.bins, self.table, self.row_scale, self.start = bins, reader.table, embedding.row_scale, embedding.continuous_start
        self.offset, self.gain = embedding.offset.weight[embedding.places :], embedding.gain.weight[embedding.places :]
        self.slot, self.earlier = head.slot.weight, head.earlier.weight.t()
        self.up, self.up_bias, self.down, self.down_bias = head.up.weight.t(), head.up.bias, head.down.weight.t(), head.down.bias
        self.shape, self.norm, self.eps = head.norm.normalized_shape, head.norm.weight, head.norm.eps
        self.bumps, self.bumps_bias, self.num_bumps = head.bumps.weight.t(), head.bumps.bias, head.num_bumps
        self.first, self.first_bias, self.second, self.second_bias = (
            path.first.weight.t(), path.first.bias, path.second.weight.t(), path.second.bias,
        )  # fmt: skip
        self.context, self.into_state = path.context.weight.t(), path.into_state.weight.t()
        self.slot_lines, self.slot_context = path.slot.weight[:count].t(), path.slot_context.weight
        self.state_scale, self.mean_scale = path.state_scale, path.mean_scale


class QuickChoice:
    """As `SlotChoice`: one action of n streams while its slots are chosen, first to last.

    **Arguments:** `hidden` (n, width): the states behind the observations; `sums` (n, inner): see `DirectPath.sums`.
    """

    def __init__(self, weights: SlotWeights, hidden: Tensor, sums: Tensor) -> None:
        self.w, self.slot = weights, 0
        bent = torch.addmm(weights.first_bias, sums, weights.first)
        bent = bent.addmm_(hidden, weights.context, alpha=weights.state_scale).tanh_()
        bent = torch.addmm(weights.second_bias, bent, weights.second).tanh_()
        self.direct = torch.cat([sums, bent], dim=1)
        self.begun = torch.addmm(hidden, bent, weights.into_state)
        self.earlier: Tensor | None = None
        self._bend: Tensor | None = None

    def _state(self) -> Tensor:
        w = self.w
        y = self.begun + w.slot[self.slot]
        if self.earlier is not None:
            y.addmm_(self.earlier, w.earlier, alpha=self.slot**-0.5)
        up = F.gelu(torch.addmm(w.up_bias, y, w.up))
        return torch.layer_norm(y.add_(w.down_bias).addmm_(up, w.down), w.shape, w.norm, None, w.eps)

    def _read(self) -> Tensor:
        """Of a continuous slot (n, 1 + 3 K): the mean that offsets are added to, and what `ActionHead.bumps` reads of the bumps."""
        w, state = self.w, self._state()
        if self._bend is None:
            self._bend = torch.mm(self.direct, w.slot_context).mul_(w.state_scale * w.mean_scale)
            self._lines = torch.mm(self.direct, w.slot_lines).mul_(w.mean_scale)
        read = torch.addmm(w.bumps_bias, state, w.bumps)
        read[:, 0] += (state * self._bend).sum(dim=1).add_(self._lines[:, self.slot])
        return read

    def _bumps(self, read: Tensor) -> Bumps:
        shares, offsets, widths = read[:, 1:].chunk(3, dim=1)
        return Bumps(shares.log_softmax(dim=1), read[:, :1] + offsets, FLOOR + F.softplus(widths))

    def scores(self, legal: range, is_continuous: bool) -> Tensor:
        """Logits (n, len(legal)) of the present slot's ids."""
        if is_continuous:
            return self._bumps(self._read()).log_probabilities()
        return F.linear(self._state(), self.w.table[legal.start : legal.stop])

    def best_bins(self) -> np.ndarray:
        """(n,): the bin that a continuous slot takes where it is not drawn."""
        read = self._read()
        if len(read) <= FEW_ROWS:
            return np.array([min(max(int((best_mean(row) + 1) * (NUM_BINS / 2)), 0), NUM_BINS - 1) for row in read.tolist()])
        return ((self._bumps(read).best() + 1) * (NUM_BINS / 2)).long().clamp_(0, NUM_BINS - 1).numpy()

    def take(self, chosen: np.ndarray, is_continuous: bool) -> None:
        """Goes on to the next slot. `chosen` (n,): the ids of the present one."""
        w, slot = self.w, self.slot
        table, first = (w.bins, w.start) if is_continuous else (w.table, 0)
        if len(chosen) == 1:
            index = int(chosen[0]) - first
            values = table[index : index + 1]
        else:
            values = F.embedding(torch.from_numpy(chosen.astype(np.int64) - first), table)
        if not is_continuous:
            values = values * w.row_scale
        added = F.gelu(torch.addcmul(w.offset[slot], values, w.gain[slot]))
        self.earlier = added if self.earlier is None else self.earlier.add_(added)
        self.slot += 1


def best_mean(read: list[float]) -> float:
    """As `Bumps.best` of one slot: the mean, and behind it logits, offsets and widths of K bumps as `ActionHead.bumps` gives them."""
    mean, count = read[0], len(read) // 3
    if count == 1:
        return mean + read[2]
    means = [mean + offset for offset in read[1 + count : 1 + 2 * count]]
    widths = [FLOOR + (log1p(exp(x)) if x < 20 else x) for x in read[1 + 2 * count :]]
    heights = [logit - log(width) for logit, width in zip(read[1 : 1 + count], widths, strict=True)]
    most, best, highest = 0.0, means[0], max(heights)
    for at in means:
        shares = [exp(h - highest - ((at - m) / w) ** 2 / 2) for h, m, w in zip(heights, means, widths, strict=True)]
        if (total := sum(shares)) > most:
            most, best = total, sum(share * m for share, m in zip(shares, means, strict=True)) / total
    return best
