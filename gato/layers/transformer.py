"""A decoder-only transformer over embeddings; it knows nothing of modalities.

Pre-norm blocks with GEGLU (Gato, section 2.3 and appendix C). Three position schemes: `rope`;
`transformer_xl`, whose relative attention with one projection per layer reproduces the paper's
parameter counts; and `learned`. Attention reads transformers' caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

PositionScheme = Literal["rope", "transformer_xl", "learned"]


@dataclass(frozen=True)
class AttentionContext:
    """What every layer needs to know of the positions, computed once per forward.

    - `mask` bool (B or 1, 1, Lq, Lk): True where a query may look; `None` for plain causal attention, in which a single
      query looks at every key.
    - `blocks`: a FlexAttention block mask instead of `mask` (see `document_blocks`).
    - `query_positions` (B or 1, Lq), `key_positions` (B or 1, Lk) int64.
    - `rotary`: (cos, sin) for the queries, (B or 1, 1, Lq, d / 2), for `rope`.
    - `distances` int64 (B or 1, 1, Lq, Lk) and `sinusoids` (D, width) of the distances 0..D-1, for `transformer_xl`.
    """

    mask: Tensor | None
    query_positions: Tensor
    key_positions: Tensor
    blocks: Any = None
    rotary: tuple[Tensor, Tensor] | None = None
    distances: Tensor | None = None
    sinusoids: Tensor | None = None


class Transformer(nn.Module):
    """(B, L, D) embeddings -> (B, L, D) normalised hidden states.

    **Arguments:** `feed_forward`: the hidden size of GEGLU counting both halves; `drop_path`: the
    probability with which a row skips a sub-layer in training; `max_positions`: for `learned` only.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        width: int,
        head_width: int,
        feed_forward: int,
        positions: PositionScheme = "rope",
        max_positions: int = 1024,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if positions not in get_args(PositionScheme):
            raise ValueError(f"there is no position scheme '{positions}'; known are {', '.join(get_args(PositionScheme))}")
        self.positions, self.width, self.head_width = positions, width, head_width
        self.drop_path = drop_path
        self.layers = nn.ModuleList(
            Block(i, num_heads, width, head_width, feed_forward, positions == "transformer_xl", dropout) for i in range(num_layers)
        )
        self.norm = nn.LayerNorm(width, bias=False)
        self.position_table = nn.Embedding(max_positions, width) if positions == "learned" else None

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        query_positions: Tensor | None = None,
        key_positions: Tensor | None = None,
        learned_positions: Tensor | None = None,
        cache: Cache | None = None,
        depth_noise: Tensor | None = None,
        keep: Tensor | None = None,
        blocks: Any = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """
        **Arguments:**

        - `mask`, `blocks`: see `AttentionContext`; with neither attention is plainly causal, without a cache.
        - `query_positions`, `key_positions`: by default 0..L-1; only their differences matter.
        - `learned_positions` (B, L): positions counted within each document, for `learned`.
        - `depth_noise` (B, 2 * num_layers) in [0, 1): a row skips a sub-layer where it is below `drop_path`.
        - `keep` (K,): the flat places (b * L + l) whose states are wanted; nothing behind the last attention is computed
          for others.
        - `states`: a list that is given what goes into each layer, and what is returned.

        **Returns:** (B, L, D), or (K, D) with `keep`.
        """
        length = hidden.shape[1]
        if query_positions is None:
            query_positions = torch.arange(length, device=hidden.device)[None]
        if key_positions is None:
            key_positions = query_positions
        if self.position_table is not None:
            hidden = hidden + self.position_table(query_positions if learned_positions is None else learned_positions)
        context = self._context(mask, blocks, query_positions, key_positions, hidden.dtype)
        kind = hidden.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            hidden = hidden.to(torch.get_autocast_dtype(kind))  # layers add up what is as wide as what they read: half the bytes moved
        scales = None
        if depth_noise is not None and self.drop_path > 0:
            scales = (depth_noise >= self.drop_path).to(hidden.dtype) / (1 - self.drop_path)  # (B, 2 * num_layers)
        for i, layer in enumerate(self.layers):
            if states is not None:
                states.append(hidden)
            pair = (None, None) if scales is None else (scales[:, 2 * i, None, None], scales[:, 2 * i + 1, None, None])
            hidden = layer(hidden, context, cache, pair, keep if i == len(self.layers) - 1 else None)
        hidden = self.norm(hidden)
        if states is not None:
            states.append(hidden)
        return hidden

    def compile_layers(self, **settings: Any) -> None:
        """Has `torch.compile` make one kernel graph of a layer, which all layers share; parameters and their names stay.

        **Arguments:** `settings` of `torch.compile`.
        """
        for layer in self.layers:
            layer.compile(**settings)

    def _context(self, mask: Tensor | None, blocks: Any, queries: Tensor, keys: Tensor, dtype: torch.dtype) -> AttentionContext:
        if self.positions == "rope":
            cos, sin = rotary_angles(queries, self.head_width)
            return AttentionContext(mask, queries, keys, blocks, rotary=(cos[:, None].to(dtype), sin[:, None].to(dtype)))
        if self.positions == "transformer_xl":
            assert blocks is None, "relative scores are added to a dense mask"
            distances = (queries[:, None, :, None] - keys[:, None, None, :]).clamp(min=0)
            if mask is None:
                mask = queries[:, None, :, None] >= keys[:, None, None, :]
            distances = distances.masked_fill(~mask, 0)
            longest = keys.shape[-1] if queries is keys else int(distances.max()) + 1
            return AttentionContext(
                mask, queries, keys, None, distances=distances, sinusoids=sinusoids(longest, self.width, keys.device).to(dtype)
            )
        return AttentionContext(mask, queries, keys, blocks)


class Block(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); `scales` are the stochastic-depth factors (B, 1, 1).

    After `recompute_layers()` of the model it keeps only its input and is computed again in the backward pass.
    """

    def __init__(self, index: int, num_heads: int, width: int, head_width: int, feed_forward: int, relative: bool, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention = Attention(index, num_heads, width, head_width, relative)
        self.feed_forward_norm = nn.LayerNorm(width, bias=False)
        self.feed_forward = GEGLU(width, feed_forward)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        context: AttentionContext,
        cache: Cache | None,
        scales: tuple[Tensor | None, Tensor | None],
        keep: Tensor | None = None,
    ) -> Tensor:
        """(B, L, D), or the places `keep` of it, (K, D)."""
        attended = self.dropout(self.attention(self.attention_norm(hidden), context, cache, keep))
        if keep is not None:
            rows = torch.div(keep, hidden.shape[1], rounding_mode="floor")
            first, second = (None if scale is None else scale[rows, 0] for scale in scales)
            scales, hidden = (first, second), hidden.flatten(0, 1)[keep]
        hidden = hidden + (attended if scales[0] is None else (attended * scales[0]).to(hidden.dtype))
        changed = self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        return hidden + (changed if scales[1] is None else (changed * scales[1]).to(hidden.dtype))


class Attention(nn.Module):
    """Multi-head attention, with Transformer-XL's relative terms if `relative`.

    The relative score of query i and key j is (q_i + u) k_j + (q_i + v) W_R R_{i-j}. The second term is
    handed to the fused kernel as an additive mask.
    """

    def __init__(self, index: int, num_heads: int, width: int, head_width: int, relative: bool) -> None:
        super().__init__()
        self.index, self.num_heads, self.head_width = index, num_heads, head_width
        inner = num_heads * head_width
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, inner, bias=False)
        self.v_proj = nn.Linear(width, inner, bias=False)
        self.o_proj = nn.Linear(inner, width, bias=False)
        self.r_proj = nn.Linear(width, inner, bias=False) if relative else None
        if relative:
            self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, head_width))  # u
            self.position_bias = nn.Parameter(torch.zeros(num_heads, 1, head_width))  # v

    def forward(self, hidden: Tensor, context: AttentionContext, cache: Cache | None, keep: Tensor | None = None) -> Tensor:
        split = (*hidden.shape[:2], self.num_heads, self.head_width)
        q, k, v = (proj(hidden).view(split).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))  # (B, H, L, d)
        if context.rotary is not None:
            q, k = (rotate(x, *context.rotary).to(v.dtype) for x in (q, k))  # under autocast the angles are float32
        if cache is not None:
            k, v = cache.update(k, v, self.index)  # (B, H, Lk, d)
        mask = context.mask
        if self.r_proj is not None:
            mask, q = self.relative_mask(q, context), q + self.content_bias
        if context.blocks is not None:
            out = _flex_attention()(q, k, v, block_mask=context.blocks)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)
        out = out.transpose(1, 2).flatten(2)
        return self.o_proj(out if keep is None else out.flatten(0, 1)[keep])

    def relative_mask(self, q: Tensor, context: AttentionContext) -> Tensor:
        assert self.r_proj is not None and context.mask is not None and context.distances is not None
        r = rearrange(self.r_proj(context.sinusoids), "n (h d) -> h d n", h=self.num_heads)
        by_distance = (q + self.position_bias) @ r * self.head_width**-0.5  # (B, H, Lq, D)
        index = context.distances.expand(*by_distance.shape[:3], -1)
        return by_distance.gather(-1, index).masked_fill(~context.mask, float("-inf"))


class GEGLU(nn.Module):
    """gelu(a) * b with (a, b) the two halves of one projection: `hidden` counts both."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden // 2, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and hidden.is_cuda and type(self.up_proj) is nn.Linear:
            # apart, so that the gradients of both are written by one kernel, which for halves of one tensor would compute each twice
            gate, value = (F.linear(hidden, half) for half in self.up_proj.weight.chunk(2))
        else:
            gate, value = self.up_proj(hidden).chunk(2, dim=-1)
        return self.down_proj(F.gelu(gate) * value)


def document_blocks(documents: Tensor) -> Any:
    """FlexAttention's block mask of rows with several documents (B, L): causal, and within a document.

    Made once for all layers. Whole blocks of 128 x 128 that nobody may see are then skipped, where a dense mask would make
    the fused kernel compute them all.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def may_see(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (documents[b, q] == documents[b, k])

    rows, length = documents.shape
    return create_block_mask(may_see, rows, None, length, length, device=str(documents.device))


@cache
def _compiled_flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _flex_attention() -> Any:
    """Not compiled it would hold all scores; within a layer that is compiled it is compiled already."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()


def rotary_angles(positions: Tensor, width: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of position times frequency, (*positions.shape, width / 2)."""
    frequency = base ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angle = positions[..., None].float() * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of (B, H, L, d): each pair (i, i + d/2) turned by its angle."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, dim=-1)


def sinusoids(count: int, width: int, device: torch.device) -> Tensor:
    """(count, width): R_0 ... R_{count-1} of Transformer-XL."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle = torch.arange(count, device=device, dtype=torch.float32)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
