"""The transformer while acting on a CPU: the same function of the same weights in fewer and faster kernels.

A pass over one action token is so little work that every kernel counts. Queries, keys and values come from one product,
rotations from a table, what a product is added to is its first operand, a mask becomes numbers once and not per layer, and
the last layer computes only what the last token needs. Sums are taken in another order than in training, so results agree
to rounding (tests/test_policy.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stream_cache import StreamCache
from .transformer import Block, Transformer, rotary_angles

PRODUCTS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer. Those that end in `_in` lie with their inputs as rows, which a product with a single token reads
    faster; `into_heads` are those of queries, keys and values side by side, `up_in` the feed-forward's first."""

    attention_norm: Tensor
    into_heads: Tensor
    out: Tensor
    feed_forward_norm: Tensor
    up: Tensor
    up_in: Tensor
    down: Tensor


class ActingTransformer:
    """**Arguments:** `transformer`: one that `fits`. It keeps copies of about two thirds of the layers' weights; `renew` is to
    be called before acting with weights that may have changed.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.transformer, self.norm = transformer, transformer.norm
        attention = cast(Block, transformer.layers[0]).attention
        self.num_heads, self.head_width = attention.num_heads, attention.head_width
        self.inner, self.scale = self.num_heads * self.head_width, self.head_width**-0.5
        self.shape, self.eps = (transformer.width,), transformer.norm.eps
        self._seen: list[tuple[int, int]] = []
        self._cos = self._sin = torch.empty(0, self.head_width)
        self.renew()

    @staticmethod
    def fits(transformer: Transformer) -> bool:
        """Whether it lies on a CPU, has rope, and nothing was put into its layers or hooked to them."""
        if transformer.positions != "rope" or transformer.norm.weight.device.type != "cpu":
            return False
        for layer in cast(Iterable[Block], transformer.layers):
            products = [*(getattr(layer.attention, name) for name in PRODUCTS), layer.feed_forward.up_proj, layer.feed_forward.down_proj]
            if any(type(product) is not nn.Linear for product in products):
                return False
            if any(part._forward_hooks or part._forward_pre_hooks for part in (layer, layer.attention, layer.feed_forward, *products)):
                return False
        return True

    @torch.no_grad()
    def renew(self) -> None:
        """Copies the weights anew if they are others than before."""
        seen = [(weight.data_ptr(), weight._version) for weight in self.transformer.layers.parameters()]
        if seen != self._seen:
            self._seen, self.layers = seen, [_weights(cast(Block, layer)) for layer in self.transformer.layers]

    def one(self, hidden: Tensor, row: int, cache: StreamCache) -> Tensor:
        """A single token (1, width) of a single stream -> its normalised state."""
        heads, width, half = self.num_heads, self.head_width, self.head_width // 2
        position, slot, used, mask = cache.begin_one(row, hidden.dtype)
        cos, sin = self._rotations(position)
        for layer, ring in zip(self.layers, cache.rings(hidden, heads, width), strict=True):
            three = torch.mm(torch.layer_norm(hidden, self.shape, layer.attention_norm, None, self.eps), layer.into_heads).view(
                3, heads, width
            )
            turned = three[:2]
            rolled = turned.roll(half, -1)
            turned.mul_(cos).addcmul_(rolled, sin)
            own = ring.select(1, row)
            own.select(2, slot).copy_(three[1:])
            keys, values = own.narrow(2, 0, used).unbind(0)
            scores = torch.baddbmm(mask, three[0].unsqueeze(1), keys.transpose(1, 2), alpha=self.scale)
            attended = torch.bmm(scores.softmax(-1), values).view(1, self.inner)
            hidden = torch.addmm(hidden, attended, layer.out)
            up = torch.mm(torch.layer_norm(hidden, self.shape, layer.feed_forward_norm, None, self.eps), layer.up_in)
            gate, value = up.chunk(2, 1)
            hidden = torch.addmm(hidden, F.gelu(gate).mul_(value), layer.down)
        return torch.layer_norm(hidden, self.shape, self.norm.weight, None, self.eps)

    def several(self, hidden: Tensor, mask: Tensor | None, queries: Tensor, last: Tensor | slice, cache: StreamCache) -> Tensor:
        """
        **Arguments:** `hidden` (n, M, width), `mask` bool (n, 1, M, K) and `queries` (n, M) as `StreamCache.begin` gives them;
        `last`: (n,) each row's last token, or the slice that is it in all rows.

        **Returns:** the normalised state of each row's last token, (n, width).
        """
        if mask is not None:
            mask = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill_(~mask, float("-inf"))
        cos, sin = self._rotations(int(queries.max()), queries)
        for i, layer in enumerate(self.layers[:-1]):
            projected = self._norm(hidden, layer.attention_norm) @ layer.into_heads
            q, k = self._turned(projected[..., : 2 * self.inner], cos, sin).chunk(2, dim=1)
            keys, values = cache.update(k, self._heads(projected[..., 2 * self.inner :]), i)
            hidden = self._behind(layer, hidden, _attend(q, keys, values, mask))
        layer, of_queries = self.layers[-1], self.layers[-1].into_heads[:, : self.inner]
        normed = self._norm(hidden, layer.attention_norm)
        projected = normed @ layer.into_heads[:, self.inner :]
        k, v = self._turned(projected[..., : self.inner], cos, sin), self._heads(projected[..., self.inner :])
        keys, values = cache.update(k, v, len(self.layers) - 1)
        at = (slice(None), last) if isinstance(last, slice) else (torch.arange(len(hidden))[:, None], last[:, None])
        if mask is not None:
            mask = mask[:, :, last] if isinstance(last, slice) else mask[torch.arange(len(hidden)), :, last][:, :, None]
        q = self._turned(normed[at] @ of_queries, cos[at], sin[at])
        return self._norm(self._behind(layer, hidden[at], _attend(q, keys, values, mask)), self.norm.weight)[:, 0]

    def _rotations(self, highest: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cosines, and sines whose first half is negative, (d,) of one position, or (n, M, 1, d) of several of which this is the
        highest; from a table that grows with the positions."""
        if highest >= len(self._cos):
            cos, sin = rotary_angles(torch.arange(2 * highest + 1024), self.head_width)
            dtype = self.norm.weight.dtype
            self._cos, self._sin = torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype)
        if positions is None:
            return self._cos[highest], self._sin[highest]
        return self._cos[positions][:, :, None], self._sin[positions][:, :, None]

    def _heads(self, x: Tensor) -> Tensor:
        """(n, M, h d) -> (n, h, M, d)."""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(n, M, h d) -> (n, h, M, d), by rotary positions as `rotate` does."""
        x = x.unflatten(-1, (-1, self.head_width))
        return (x * cos).addcmul_(x.roll(self.head_width // 2, -1), sin).transpose(1, 2)

    def _behind(self, layer: _Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        """What follows attention in a layer."""
        rows = torch.addmm(hidden.flatten(0, 1), attended.flatten(0, 1), layer.out)
        gate, value = F.linear(self._norm(rows, layer.feed_forward_norm), layer.up).chunk(2, dim=-1)
        return torch.addmm(rows, F.gelu(gate).mul_(value), layer.down).view(hidden.shape)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return torch.layer_norm(hidden, self.shape, weight, None, self.eps)


def _weights(layer: Block) -> _Layer:
    attention, forward = layer.attention, layer.feed_forward
    joined = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    up, down = forward.up_proj.weight, forward.down_proj.weight
    return _Layer(
        layer.attention_norm.weight, joined.t().contiguous(), attention.o_proj.weight.t(),
        layer.feed_forward_norm.weight, up, up.t().contiguous(), down.t(),
    )  # fmt: skip


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """(n, H, M, d) queries, (n, H, K, d) keys and values -> (n, M, H d)."""
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)
    return out.transpose(1, 2).flatten(2)
