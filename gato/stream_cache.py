"""A key-value cache whose rows are independent streams, each at its own position.

Environments reset one by one and instructions differ in length, so the rows of a batch are never
aligned. Every stream owns a ring of slots; a slot remembers the position it holds.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class _StreamLayer(CacheLayerMixin):
    """Keys and values (S, H, slots, d) of one layer; slot 0 takes what is padding."""

    def __init__(self, cache: StreamCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.cache.num_streams, key_states.shape[1], self.cache.capacity + 1, key_states.shape[3])
        self.keys, self.values = key_states.new_zeros(shape), value_states.new_zeros(shape)
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        rows, slots, used = self.cache.rows, self.cache.slots, self.cache.used
        self.keys[rows[:, None], :, slots] = key_states.transpose(1, 2)
        self.values[rows[:, None], :, slots] = value_states.transpose(1, 2)
        if self.cache.all_rows:
            return self.keys[:, :, :used], self.values[:, :, :used]
        return self.keys[rows, :, :used], self.values[rows, :, :used]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.used, 0

    def get_seq_length(self) -> int:
        return self.cache.used

    def get_max_length(self) -> int:
        return self.cache.capacity


class StreamCache(Cache):
    """transformers' cache interface over S streams.

    **Arguments:** `capacity`: slots per stream; `window`: how many positions back a query may look,
    itself included, or `None` for all that is there.

    Call `begin` before every forward: it says where the new tokens go and what they may see.
    """

    def __init__(
        self, num_layers: int, num_streams: int, capacity: int, window: int | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.num_streams, self.capacity, self.window = num_streams, capacity, window
        self.next = torch.zeros(num_streams, dtype=torch.long, device=device)
        self.held = torch.full((num_streams, capacity + 1), -1, dtype=torch.long, device=device)
        self.used = 0
        super().__init__(layers=[_StreamLayer(self) for _ in range(num_layers)])

    def forget(self, streams: Tensor) -> None:
        """Empties some streams."""
        self.next[streams] = 0
        self.held[streams] = -1

    def begin(self, streams: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Makes room for `counts[i]` >= 1 new tokens of stream `streams[i]`, in a chunk padded to the longest.

        **Returns:** the mask (n, 1, M, K), the queries' positions (n, M) and the keys' positions (n, K).
        """
        offsets = torch.arange(int(counts.max()), device=counts.device)
        valid = offsets < counts[:, None]
        queries = self.next[streams][:, None] + offsets.minimum(counts[:, None] - 1)  # padding looks where the last token does
        self.rows, self.slots = streams, torch.where(valid, 1 + queries % self.capacity, 0)
        self.all_rows = len(streams) == self.num_streams and bool((streams == torch.arange(len(streams), device=streams.device)).all())
        self.held[streams[:, None], self.slots] = torch.where(valid, queries, -1)
        self.next[streams] += counts
        self.used = min(int(self.next.max()), self.capacity) + 1
        keys = self.held[streams, : self.used]
        mask = (keys[:, None] >= 0) & (keys[:, None] <= queries[:, :, None])
        if self.window is not None:
            mask &= keys[:, None] > queries[:, :, None] - self.window
        return mask[:, None], queries, keys
