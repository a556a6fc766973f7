"""Passes of fixed shapes over all streams at once, each recorded once as a CUDA graph and replayed.

A small pass costs a GPU less than launching its kernels one by one costs the host. So the passes read where the streams
stand from tensors, always look at the whole ring of the cache, and ask the device nothing; what differs from pass to
pass is written into their inputs. On another device the same passes run unrecorded.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .batch import ACTION_LOCAL
from .layers.stream_cache import StreamCache
from .model import Gato

MOST_LENGTHS = 8  # of passes over what was observed that are recorded


class StaticPasses:
    """**Arguments:** `model`: rotary or learned positions; `cache`: whose streams all act together; `longest`: tokens in a pass.

    **Raises:** `ValueError` for `transformer_xl`, whose table of distances has the length of the longest one.
    """

    def __init__(self, model: Gato, cache: StreamCache, longest: int) -> None:
        if not self.fits(model):
            raise ValueError("a pass of fixed shapes needs rope or learned positions, and these are transformer_xl; leave `static` out")
        self.model, self.cache, self.longest, self._weights = model, cache, longest, _places(model)
        self.action = _ActionPass(model, cache, torch.zeros(cache.num_streams, 1, dtype=torch.long, device=cache.place))
        self.by_length: dict[int, _Pass] = {}
        self._seen: set[int] = set()

    @staticmethod
    def fits(model: Gato) -> bool:
        return model.config.positions != "transformer_xl"

    @property
    def are_stale(self) -> bool:
        """Whether the model has other tensors by now: a recording reads those that it was made with."""
        return self._weights != _places(self.model)

    def act(self, ids: np.ndarray) -> Tensor:
        """Action ids (S,), one for every stream -> the hidden states behind them (S, width)."""
        return self.action(torch.from_numpy(ids.astype(np.int64)[:, None]))

    def take(self, embedded: Tensor) -> Tensor | None:
        """As many tokens of every stream (S, M, width) -> the hidden states behind each one's last (S, width); `None` for a length that
        is too long or was not seen before: what comes once is not worth a recording."""
        length = embedded.shape[1]
        if length not in self.by_length:
            if length > self.longest or length not in self._seen or len(self.by_length) == MOST_LENGTHS:
                self._seen.add(length)
                return None
            self.by_length[length] = _Pass(self.model, self.cache, torch.zeros_like(embedded))
        return self.by_length[length](embedded)


def _places(model: Gato) -> list[int]:
    return [weight.data_ptr() for weight in model.parameters()]


class _Pass:
    """**Arguments:** `given`: the place of what is embedded already, (S, M, width)."""

    def __init__(self, model: Gato, cache: StreamCache, given: Tensor) -> None:
        self.model, self.cache, self.given = model, cache, given
        self.queries = torch.zeros(given.shape[:2], dtype=torch.long, device=cache.place)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.hidden: Tensor | None = None

    def __call__(self, given: Tensor) -> Tensor:
        """**Returns:** the hidden states behind each stream's last token (S, width)."""
        length = self.given.shape[1]
        self.given.copy_(given)
        self.queries.copy_(torch.from_numpy(self.cache.next[:, None] + np.arange(length)))
        self.cache.next += length
        if self.cache.place.type != "cuda":
            return self._pass()
        if self.graph is None:
            self._record()
        assert self.graph is not None and self.hidden is not None
        self.graph.replay()
        return self.hidden.clone()

    def _embedded(self) -> Tensor:
        return self.given

    def _pass(self) -> Tensor:
        mask, keys = self.cache.begin_static(self.queries)
        learned = self.queries.clamp(max=self.model.config.context_length - 1)
        return self.model.transformer(self._embedded(), mask, self.queries, keys, learned_positions=learned, cache=self.cache)[:, -1]

    def _record(self) -> None:
        """Runs the pass on a stream of its own first, as graphs ask for; it writes the same keys each time."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._pass()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # other threads may go on: one that pins memory for batches, beside which an evaluation plays
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.hidden = self._pass()


class _ActionPass(_Pass):
    """`given` are action ids (S, 1)."""

    def __init__(self, model: Gato, cache: StreamCache, given: Tensor) -> None:
        super().__init__(model, cache, given)
        self.local = torch.full_like(given, ACTION_LOCAL)

    def _embedded(self) -> Tensor:
        return self.model.embedding(self.given, self.local, None, None)
