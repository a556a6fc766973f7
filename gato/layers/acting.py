"""The transformer while acting on a CPU: the same function of the same weights in fewer and faster kernels.

A pass over one action token is so little work that every kernel counts. Queries, keys and values come from one product,
rotations from a table, what a product is added to is its first operand, a mask becomes numbers once and not per layer, and
the last layer computes only what the last token needs. Sums are taken in another order than in training, so results agree
to rounding (tests/test_policy.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packed import can_pack, gelu_of, pack, plus, product, times
from .stream_cache import StreamCache
from .transformer import Block, Transformer, rotary_angles

PACKED_WIDTH = 512  # of models whose products are packed; smaller ones gain nothing
PRODUCTS = ("q_proj", "k_proj", "v_proj", "o_proj")


class _Layer:
    """Weights of a layer. `into_heads`, of queries, keys and values side by side, and `up_in` lie with their inputs as rows, which a
    product with few tokens reads faster. Large ones that many tokens are multiplied with are packed when they are first asked for.
    """

    def __init__(self, layer: Block) -> None:
        attention, forward = layer.attention, layer.feed_forward
        self.attention_norm, self.feed_forward_norm = layer.attention_norm.weight, layer.feed_forward_norm.weight
        self.three_proj = [part.weight for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        self.o_proj, self.up, self.down_proj = attention.o_proj.weight, forward.up_proj.weight, forward.down_proj.weight
        self.into_heads, self.up_in = torch.cat(self.three_proj).t().contiguous(), self.up.t().contiguous()
        self.out, self.down = self.o_proj.t(), self.down_proj.t()
        self.packs = self.out.dtype == torch.float32 and self.out.shape[1] >= PACKED_WIDTH and can_pack()

    @cached_property
    def packed(self) -> dict[str, Tensor]:
        gate, value = self.up.chunk(2)
        parts = {"three": torch.cat(self.three_proj), "out": self.o_proj, "gate": gate, "value": value, "down": self.down_proj}
        return {name: pack(weight) for name, weight in parts.items()}

    def three(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., 3 inner): queries, keys and values."""
        return product(x, self.packed["three"]) if self.packs else x @ self.into_heads

    def add_attended(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """`attended` (n, M, inner)."""
        if self.packs:
            return plus(attended, self.packed["out"], hidden)
        return torch.addmm(hidden.flatten(0, 1), attended.flatten(0, 1), self.out).view(hidden.shape)

    def add_forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        """`x`: `hidden` normalised."""
        if self.packs:
            return plus(times(x, self.packed["value"], gelu_of(x, self.packed["gate"])), self.packed["down"], hidden)
        gate, value = F.linear(x.flatten(0, 1), self.up).chunk(2, dim=1)
        return torch.addmm(hidden.flatten(0, 1), F.gelu(gate).mul_(value), self.down).view(hidden.shape)


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
        self._cos = self._sin = torch.empty(0, 1, 1, self.head_width)
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
        """Copies the weights anew if they are others than before; changes of weights made under `torch.inference_mode` are not counted."""
        weights = self.transformer.layers.parameters()
        seen = [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]
        if seen != self._seen:
            self._seen, self.layers = seen, [_Layer(cast(Block, layer)) for layer in self.transformer.layers]

    def few(self, hidden: Tensor, row: int, cache: StreamCache) -> Tensor:
        """M tokens (M, width) of a single stream, side by side in its ring (`StreamCache.fits_few`) -> the last one's normalised state
        (1, width)."""
        heads, width, half, count = self.num_heads, self.head_width, self.head_width // 2, len(hidden)
        first, slot, used, mask = cache.begin_few(row, count, hidden.dtype)
        cos, sin = self._rotations(first, count)
        for layer, ring in zip(self.layers, cache.rings(hidden, heads, width), strict=True):
            three = torch.mm(torch.layer_norm(hidden, self.shape, layer.attention_norm, None, self.eps), layer.into_heads)
            three = three.view(count, 3, heads, width)
            turned = three[:, :2]
            rolled = turned.roll(half, -1)
            turned.mul_(cos).addcmul_(rolled, sin)
            own = ring.select(1, row)
            own.narrow(2, slot, count).copy_(three[:, 1:].permute(1, 2, 0, 3))
            keys, values = own.narrow(2, 0, used).unbind(0)
            if count > 1 and layer is self.layers[-1]:  # of which only the last token is asked for
                three, hidden, mask = three[-1:], hidden[-1:], mask[:, -1:]
            queries = three[:, 0].transpose(0, 1)
            scores = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=self.scale)
            attended = torch.bmm(scores.softmax(-1), values).transpose(0, 1).reshape(-1, self.inner)
            hidden = torch.addmm(hidden, attended, layer.out)
            up = torch.mm(torch.layer_norm(hidden, self.shape, layer.feed_forward_norm, None, self.eps), layer.up_in)
            gate, value = up.chunk(2, 1)
            hidden = torch.addmm(hidden, F.gelu(gate).mul_(value), layer.down)
        return torch.layer_norm(hidden, self.shape, self.norm.weight, None, self.eps)

    def several(self, hidden: Tensor, mask: Tensor | None, queries: Tensor, last: Tensor | None, cache: StreamCache) -> Tensor:
        """
        **Arguments:** `hidden` (n, M, width), `mask` bool (n, 1, M, K) and `queries` (n, M) as `StreamCache.begin` gives them;
        `last`: (n,) each row's last token; `None` where that is the last place in all rows.

        **Returns:** the normalised state of each row's last token, (n, width).
        """
        if mask is not None:
            mask = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill_(~mask, float("-inf"))
        cos, sin = self._rotations_at(queries)
        for i, layer in enumerate(self.layers):
            three = layer.three(self._norm(hidden, layer.attention_norm))
            q, k = self._turned(three[..., : 2 * self.inner], cos, sin).chunk(2, dim=1)
            keys, values = cache.update(k, self._heads(three[..., 2 * self.inner :]), i)
            if i + 1 == len(self.layers):  # of which only the last token is asked for
                hidden, q = self._last(hidden[:, None], last)[:, 0], self._last(q, last)
                mask = None if mask is None else self._last(mask, last)
            hidden = layer.add_attended(hidden, _attend(q, keys, values, mask))
            hidden = layer.add_forward(hidden, self._norm(hidden, layer.feed_forward_norm))
        return self._norm(hidden, self.norm.weight)[:, 0]

    @staticmethod
    def _last(x: Tensor, last: Tensor | None) -> Tensor:
        """(n, h, M, ...) -> (n, h, 1, ...): of each row's last token, see `several`."""
        return x[:, :, -1:] if last is None else x[torch.arange(len(x)), :, last][:, :, None]

    def _rotations(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Cosines, and sines whose first half is negative, (count, 1, 1, d) of positions side by side; from a table that grows."""
        if (last := first + count) > len(self._cos):
            cos, sin = rotary_angles(torch.arange(2 * last + 1024), self.head_width)
            dtype = self.norm.weight.dtype
            self._cos = torch.cat([cos, cos], -1).to(dtype)[:, None, None]
            self._sin = torch.cat([-sin, sin], -1).to(dtype)[:, None, None]
        return self._cos[first:last], self._sin[first:last]

    def _rotations_at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The same at positions (n, M), (n, M, 1, d)."""
        self._rotations(int(positions.max()), 1)
        return self._cos[positions][:, :, 0], self._sin[positions][:, :, 0]

    def _heads(self, x: Tensor) -> Tensor:
        """(n, M, h d) -> (n, h, M, d)."""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(n, M, h d) -> (n, h, M, d), by rotary positions as `rotate` does."""
        x = x.unflatten(-1, (-1, self.head_width))
        return (x * cos).addcmul_(x.roll(self.head_width // 2, -1), sin).transpose(1, 2)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return torch.layer_norm(hidden, self.shape, weight, None, self.eps)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """(n, H, M, d) queries, (n, H, K, d) keys and values -> (n, M, H d)."""
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)
    return out.transpose(1, 2).flatten(2)
