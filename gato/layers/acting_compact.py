"""What the compact layout has beside the transformer, while acting: numbers are embedded and an action's slots chosen.

On a CPU by `acting_numbers.py` and `acting_slots.py`, elsewhere, and where something was put into the layers, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gato.batch import TokenSequence

from .acting_numbers import ActingNumbers
from .acting_slots import QuickChoice, SlotWeights, fits
from .embedding import Embedding
from .slots import SlotChoice, SlotReader

Draw = Callable[[Tensor, range], np.ndarray]  # logits (n, len(legal)), legal ids -> ids (n,)


class ActingCompact:
    """**Arguments:** `embedding`, `reader`: of a model, with the weights of this moment; `pad`: the id at positions of numbers.

    `legal`: the ids of each action slot; `is_continuous`: which of them are.
    """

    def __init__(self, embedding: Embedding, reader: SlotReader, pad: int, legal: Sequence[range], is_continuous: Sequence[bool]) -> None:
        self.reader, self.legal, self.is_continuous = reader, legal, is_continuous
        self.numbers: ActingNumbers | None = None
        self.bins: Tensor | None = None
        with torch.inference_mode():
            if fits(reader):
                self.numbers = ActingNumbers(embedding, reader.head.direct, reader.discrete_start, pad)
                self.weights = SlotWeights(reader, self.numbers.bins, len(legal))
            else:
                self.bins = reader.embedding.bin_values()

    def embed(self, fed: Sequence[Sequence[TokenSequence]]) -> Tensor | None:
        """See `ActingNumbers.embed`; `None` also where it does not fit."""
        return None if self.numbers is None else self.numbers.embed(fed)

    def choose(self, hidden: Tensor, seen: Sequence[TokenSequence], draw: Draw, takes_best: bool) -> np.ndarray:
        """(n, A) ids, all read from the states (n, width) behind the observations `seen`.

        **Arguments:** `draw`: chooses an id of each row; `takes_best`: of continuous slots the best one is taken instead.
        """
        choice = self._choice(hidden, seen)
        ids = np.empty((len(hidden), len(self.legal)), np.int32)
        for slot, (legal, is_continuous) in enumerate(zip(self.legal, self.is_continuous, strict=True)):
            if is_continuous and takes_best:
                ids[:, slot] = legal.start + choice.best_bins()
            else:
                ids[:, slot] = draw(choice.scores(legal, is_continuous), legal)
            if slot + 1 < len(self.legal):
                choice.take(ids[:, slot], is_continuous)
        return ids

    def _choice(self, hidden: Tensor, seen: Sequence[TokenSequence]) -> QuickChoice | SlotChoice:
        if self.numbers is not None:
            return QuickChoice(self.weights, hidden, self.numbers.sums(seen))
        owner = np.repeat(np.arange(len(seen)), [int(tokens.is_number.sum()) for tokens in seen])
        ids, places = (np.concatenate([getattr(t, name)[t.is_number] for t in seen]) for name in ("ids", "local_position"))
        at = [torch.from_numpy(values.astype(np.int64)).to(hidden.device) for values in (ids, places, owner)]
        assert self.bins is not None, "made where the quicker way does not fit"
        return SlotChoice(self.reader, hidden, self.reader.direct_of(at[0], at[1], at[2], hidden), self.bins)
