"""Timesteps of numbers while acting: how `Embedding` and `DirectPath` see them, where nothing but the ids differs from call to call.

    values (1024 bins, then choices) --ids--> gelu(offset + value * gain) --pool--> project --> + what stands at the positions anyway

What stands where follows from the kinds of the tokens: the first time it is laid out as in training, later only looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gato.batch import Kind, TokenSequence, join, pack_numbers, padded
from gato.spec import NUM_BINS

from .direct import DirectPath
from .embedding import Embedding

MAX_LAYOUTS = 16
MAX_PARTS = 2  # an action and the observation behind it; what is longer is laid out anew


@dataclass(frozen=True)
class _Layout:
    """Of J numbers at P positions: `still` (P, width): what is there whatever they are; `pool` (P, J); `shift` (J,): from ids to rows of
    values; `gain`, `offset` (J, width) of their places."""

    still: Tensor
    pool: Tensor
    shift: np.ndarray
    gain: Tensor
    offset: Tensor
    is_number: np.ndarray


class ActingNumbers:
    """**Arguments:** `embedding`: with `numbers`; `direct`: the path past the transformer; `discrete_start`: the id of the discrete
    value 0; `pad`: the id at positions of numbers.

    **Attributes:** `bins` (1024, width): the values of all bins.
    """

    def __init__(self, embedding: Embedding, direct: DirectPath, discrete_start: int, pad: int) -> None:
        assert embedding.numbers is not None, "only of the compact layout"
        self.embedding, self.numbers, self.direct, self.pad = embedding, embedding.numbers, direct, pad
        start = self.numbers.continuous_start
        self.shifts = {int(Kind.CONTINUOUS): -start, int(Kind.DISCRETE): NUM_BINS - discrete_start}
        self.bins = self.numbers.bin_values()
        choices = embedding.tokens.weight[discrete_start : discrete_start + NUM_BINS] * self.numbers.row_scale
        self.values = torch.cat([self.bins, choices])
        bins = start + torch.arange(NUM_BINS, device=self.bins.device)
        self.expanded = F.pad(self.numbers.expanded(self.numbers.centres(bins)), (0, len(choices)))
        self._layouts: dict[tuple[bytes, ...], _Layout | None] = {}
        self._columns: dict[bytes, tuple[np.ndarray, Tensor]] = {}

    def embed(self, fed: Sequence[Sequence[TokenSequence]]) -> Tensor | None:
        """What `Embedding` makes of n rows, each of one or two parts, (n, P, width); `None` unless they are alike and numbers alone."""
        key = tuple(part.kind.tobytes() for part in fed[0])
        if len(key) > MAX_PARTS or any(tuple(part.kind.tobytes() for part in row) != key for row in fed[1:]):
            return None
        if key not in self._layouts:
            if len(self._layouts) >= MAX_LAYOUTS:
                return None
            self._layouts[key] = self._laid_out(join(fed[0], same_document=True))
        if (found := self._layouts[key]) is None:
            return None
        ids = np.concatenate([part.ids for row in fed for part in row]).reshape(len(fed), -1)[:, found.is_number]
        values = F.embedding(torch.from_numpy(ids + found.shift), self.values)
        pooled = torch.matmul(found.pool, F.gelu(torch.addcmul(found.offset, values, found.gain)))
        return F.linear(pooled, self.numbers.project.weight).add_(found.still)

    def _laid_out(self, row: TokenSequence) -> _Layout | None:
        is_number = row.is_number
        if not (is_number | (row.kind == int(Kind.SEPARATOR))).all() or not is_number.any():
            return None
        length, numbers = len(row), pack_numbers([row], len(row))
        arrays = {name: torch.from_numpy(values) for name, values in padded([row], length, self.pad).items()}
        still = self.embedding(arrays["ids"], arrays["local_position"], None, None)[0]
        still[numbers.position] += self.numbers.project.bias
        pool = still.new_zeros(length, len(numbers.ids))
        pool[numbers.position[numbers.group], torch.arange(len(numbers.ids))] = (
            torch.bincount(numbers.group).to(pool)[numbers.group].rsqrt()
        )
        place = torch.where(numbers.place < 0, self.numbers.places - 1 - numbers.place, numbers.place)
        shift = np.array([self.shifts[kind] for kind in row.kind[is_number].tolist()], np.int64)
        return _Layout(still, pool, shift, self.numbers.gain.weight[place], self.numbers.offset.weight[place], is_number)

    def sums(self, seen: Sequence[TokenSequence]) -> Tensor:
        """`DirectPath.sums` (n, inner) of the observations of n streams of one task."""
        ids, first = np.stack([tokens.ids[tokens.is_number] for tokens in seen]), seen[0]
        kinds = first.kind[first.is_number]
        key = kinds.tobytes()
        if key not in self._columns:
            place = torch.from_numpy(first.local_position[first.is_number].astype(np.int64))
            columns = self.direct.column.weight[place] * max(1, len(kinds)) ** -0.5
            self._columns[key] = np.array([self.shifts[kind] for kind in kinds.tolist()], np.int64), columns
        shift, columns = self._columns[key]
        return torch.mm(F.embedding(torch.from_numpy(ids + shift), self.expanded[:, None])[..., 0], columns)
