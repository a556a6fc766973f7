"""One action token of every stream as a pass of fixed shapes, recorded once as a CUDA graph and replayed.

A small pass costs a GPU less than launching its kernels one by one costs the host. So the pass reads where the streams
stand from tensors, always looks at the whole ring of the cache, and asks the device nothing; what differs from token to
token is written into its inputs. On another device the same pass runs unrecorded.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .batch import ACTION_LOCAL
from .layers.stream_cache import StreamCache
from .model import Gato


class ActionStep:
    """**Arguments:** `model`: rotary or learned positions; `cache`: whose streams all act together.

    **Raises:** `ValueError` for `transformer_xl`, whose table of distances has the length of the longest one.
    """

    def __init__(self, model: Gato, cache: StreamCache) -> None:
        if model.config.positions == "transformer_xl":
            raise ValueError("a pass of fixed shapes needs rope or learned positions, and these are transformer_xl; leave `static` out")
        self.model, self.cache = model, cache
        shape = (cache.num_streams, 1)
        self.ids, self.queries = (torch.zeros(shape, dtype=torch.long, device=cache.place) for _ in range(2))
        self.local = torch.full(shape, ACTION_LOCAL, dtype=torch.long, device=cache.place)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.hidden: Tensor | None = None

    def __call__(self, ids: np.ndarray) -> Tensor:
        """Ids (S,), one for every stream -> the hidden states behind them (S, width)."""
        self.ids.copy_(torch.from_numpy(ids.astype(np.int64)[:, None]))
        self.queries.copy_(torch.from_numpy(self.cache.next[:, None]))
        self.cache.next += 1
        if self.cache.place.type != "cuda":
            return self._pass()
        if self.graph is None:
            self._record()
        assert self.graph is not None and self.hidden is not None
        self.graph.replay()
        return self.hidden.clone()

    def _pass(self) -> Tensor:
        mask, keys = self.cache.begin_static(self.queries)
        embedded = self.model.embedding(self.ids, self.local, None, None)
        learned = self.queries.clamp(max=self.model.config.context_length - 1)
        return self.model.transformer(embedded, mask, self.queries, keys, learned_positions=learned, cache=self.cache)[:, -1]

    def _record(self) -> None:
        """Runs the pass on a stream of its own first, as graphs ask for; it writes the same keys each time."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._pass()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.hidden = self._pass()
