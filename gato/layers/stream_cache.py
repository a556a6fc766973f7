"""A key-value cache whose rows are independent streams, each at its own position.

Environments reset one by one and instructions differ in length, so the rows of a batch are never
aligned. Every stream owns a ring of slots: position p lies in slot p modulo the capacity. Where the streams
stand is kept on the host, so that a pass needs no answer from the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class _StreamLayer(CacheLayerMixin):
    """Keys and values (S, H, slots, d) of one layer, `ring` (2, S, H, slots, d) in one; the slot behind the ring takes what is
    padding."""

    def __init__(self, cache: StreamCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.ring = key_states.new_zeros(2, self.cache.num_streams, key_states.shape[1], self.cache.capacity + 1, key_states.shape[3])
        self.keys, self.values = self.ring.unbind()
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        rows, slots, used = self.cache.rows, self.cache.slots, self.cache.used
        if isinstance(slots, slice):
            self.keys[rows, :, slots] = key_states
            self.values[rows, :, slots] = value_states
        else:
            index = self.cache.row_index[:, None]
            self.keys[index, :, slots] = key_states.transpose(1, 2)
            self.values[index, :, slots] = value_states.transpose(1, 2)
        return self.keys[rows, :, :used], self.values[rows, :, :used]  # views, unless the rows are scattered

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.used, 0

    def get_seq_length(self) -> int:
        return self.cache.used

    def get_max_length(self) -> int:
        return self.cache.capacity


class StreamCache(Cache):
    """transformers' cache interface over S streams.

    **Arguments:** `capacity`: slots per stream; `window`: how many positions back a query may look,
    itself included, or `None` for all that is there. A window needs a capacity of at least itself plus the
    longest chunk, less one: a chunk is written before its first query looks back.

    Call `begin` before every forward: it says where the new tokens go and what they may see.
    """

    rows: slice | Tensor  # where the next tokens go
    slots: slice | Tensor

    def __init__(
        self, num_layers: int, num_streams: int, capacity: int, window: int | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.num_streams, self.capacity, self.window, self.place = num_streams, capacity, window, torch.device(device)
        self.next = np.zeros(num_streams, np.int64)  # position of each stream's next token
        super().__init__(layers=[_StreamLayer(self) for _ in range(num_layers)])

    def forget(self, stream: int) -> None:
        """Empties a stream. What its slots hold is behind its next position, where no query looks before it is overwritten."""
        self.next[stream] = 0

    def begin(self, streams: np.ndarray, counts: np.ndarray) -> tuple[Tensor | None, Tensor, Tensor]:
        """Makes room for `counts[i]` >= 1 new tokens of stream `streams[i]`, in a chunk padded to the longest.

        **Returns:** the mask (n, 1, M, K), `None` where each stream's single query sees every key; the queries' positions (n, M)
        and the keys' positions (n or 1, K).
        """
        longest = int(counts.max())
        assert longest <= self.capacity - (self.window or 1) + 1, f"{longest} tokens at once, {self.capacity} slots, window {self.window}"
        offsets, starts = np.arange(longest), self.next[streams]
        self.next[streams] = ends = starts + counts
        queries = starts[:, None] + np.minimum(offsets, counts[:, None] - 1)  # padding looks where the last token does
        self.used = min(int(ends.max()), self.capacity)
        self._find_place(streams, starts, counts, queries, offsets)
        slots = np.arange(self.used)
        is_ring = self.used < ends.max()
        keys = (ends[:, None] - 1) - (ends[:, None] - 1 - slots) % self.capacity if is_ring else slots[None]
        q, k = torch.from_numpy(queries).to(self.place), torch.from_numpy(keys).to(self.place)
        if longest == 1 and ends.min() == self.used and (self.window is None or self.used <= self.window):
            return None, q, k
        mask = k[:, None] <= q[:, :, None]
        if is_ring:
            mask &= k[:, None] >= 0
        if self.window is not None:
            mask &= k[:, None] > q[:, :, None] - self.window
        return mask[:, None], q, k

    def fits_few(self, stream: int, count: int) -> bool:
        """Whether the next `count` tokens of a stream lie side by side in its ring."""
        return int(self.next[stream]) % self.capacity + count <= self.capacity

    def begin_few(self, stream: int, count: int, dtype: torch.dtype) -> tuple[int, int, int, Tensor]:
        """As `begin` for tokens of one stream that `fits_few`, on the CPU.

        **Returns:** the first one's position and its slot, how many slots are used, and what is added to the scores of these:
        (1, M, K) of 0 or minus infinity, or (1, 1, 1) of 0.
        """
        first = int(self.next[stream])
        self.next[stream] = end = first + count
        used = min(end, self.capacity)
        if count == 1 and (self.window is None or used <= self.window):
            return first, first % self.capacity, used, torch.zeros(1, 1, 1, dtype=dtype)
        slots, queries = np.arange(used), np.arange(first, end)[:, None]
        keys = slots if end <= self.capacity else (end - 1) - (end - 1 - slots) % self.capacity
        is_hidden = keys > queries
        if self.window is not None:
            is_hidden |= keys <= queries - self.window
        mask = np.where(is_hidden, np.float32(-np.inf), np.float32(0))[None]
        return first, first % self.capacity, used, torch.from_numpy(mask).to(dtype)

    def rings(self, like: Tensor, heads: int, width: int) -> list[Tensor]:
        """Of every layer keys and values (2, S, H, slots, d), of the type of `like`."""
        layers: list[Any] = self.layers  # each a `_StreamLayer`, made by `__init__`
        for layer in layers:
            if not layer.is_initialized:
                layer.lazy_initialization(like.new_empty(1, heads, 1, width), like)
        return [layer.ring for layer in layers]

    def begin_static(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """As `begin` for M tokens of every stream, at positions (S, M) that lie on the device: no shape depends on them.

        **Returns:** the mask (S, 1, M, capacity) and the keys' positions (S, capacity). The caller moves `next` on.
        """
        slots = torch.arange(self.capacity, device=self.place)
        self.rows, self.row_index = slice(None), torch.arange(self.num_streams, device=self.place)
        self.slots, self.used = queries % self.capacity, self.capacity
        last = queries[:, -1:]
        keys = last - (last - slots) % self.capacity
        mask = (keys >= 0)[:, None] & (keys[:, None] <= queries[..., None])
        if self.window is not None:
            mask &= keys[:, None] > queries[..., None] - self.window
        return mask[:, None], keys

    def _find_place(self, streams: np.ndarray, starts: np.ndarray, counts: np.ndarray, queries: np.ndarray, offsets: np.ndarray) -> None:
        """Slices where rows or slots lie side by side, which costs no copy; index tensors where not."""
        first, longest, slot = int(streams[0]), len(offsets), int(starts[0]) % self.capacity
        are_neighbours = bool((streams == first + np.arange(len(streams))).all())
        are_aligned = bool((starts == starts[0]).all() and (counts == longest).all()) and slot + longest <= self.capacity
        self.row_index = torch.from_numpy(streams).to(self.place)
        self.rows = slice(first, first + len(streams)) if are_neighbours else self.row_index
        if are_neighbours and are_aligned:
            self.slots = slice(slot, slot + longest)
        else:
            self.slots = torch.from_numpy(np.where(offsets < counts[:, None], queries % self.capacity, self.capacity)).to(self.place)
