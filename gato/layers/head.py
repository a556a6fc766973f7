"""The loss of the targets: vocabulary head and cross-entropy in one, a chunk of targets at a time.

Logits are by far the largest tensor of a small model (a row of 33,000 for each target), so a chunk of them
is made, scored and used for the gradients at once, and then overwritten; nothing of them is kept or computed
twice. That is possible because the loss is a weighted sum: the weight of each target is known beforehand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessor, SuppressTokensLogitsProcessor

CHUNK = 4096  # targets per chunk: bounds the logits held at once
CPU_CHUNK = 256  # few enough that the logits stay near the core


def weighted_loss(hidden: Tensor, table: Tensor, targets: Tensor, scale: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """The sum of `scale` times the cross-entropy of each target, and the cross-entropies themselves, (K,), without gradient.

    **Arguments:** `hidden` (K, width); `table` (rows, width), of which rows from `vocab_size` on take no part;
    `targets` (K,) ids; `scale` (K,), zero for targets that only fill a buffer.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden, table = (x.to(torch.get_autocast_dtype(device)) for x in (hidden, table))
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or table.requires_grad)
    with torch.autocast(device, enabled=False):
        return _WeightedLoss.apply(hidden, table, targets, scale, vocab_size, needs_gradient)


class _WeightedLoss(torch.autograd.Function):
    """Softmax and cross-entropy in float32 or better, matrix products in the dtype of `hidden` and `table`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, scale: Tensor, vocab_size: int, needs_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        scale = scale.to(exact)
        losses = torch.empty(len(targets), dtype=exact, device=hidden.device)
        by_hidden = torch.empty_like(hidden) if needs_gradient else None
        by_table = torch.zeros_like(table, dtype=exact) if needs_gradient else None
        size = CPU_CHUNK if hidden.device.type == "cpu" else CHUNK
        buffer = hidden.new_empty(min(size, len(targets)), len(table))
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            h, target = hidden[part], targets[part, None]
            logits = torch.mm(h, table.T, out=buffer[: len(h)]).to(exact)
            logits[:, vocab_size:] = float("-inf")
            highest = logits.amax(dim=1, keepdim=True)
            losses[part] = (highest - logits.gather(1, target))[:, 0]
            odds = logits.sub_(highest).exp_()
            total = odds.sum(dim=1, keepdim=True)
            losses[part] += total.log()[:, 0]
            if by_hidden is not None and by_table is not None:
                # The gradient by the logits is scale * (odds / total - 1 at the target). Both factors are applied to the
                # narrow side of the products, which spares two passes over the logits.
                odds, share, weight = odds.to(h.dtype), scale[part, None] / total, scale[part, None]
                by_hidden[part] = (odds @ table) * share - weight * table[target[:, 0]]
                if odds.dtype == exact:
                    by_table.addmm_(odds.T, h * share)
                else:
                    by_table += odds.T @ (h * share).to(h.dtype)
                by_table.index_add_(0, target[:, 0], h.to(exact) * weight, alpha=-1)
        if by_hidden is not None and by_table is not None:
            ctx.save_for_backward(by_hidden, by_table.to(table.dtype))
        ctx.mark_non_differentiable(losses)
        return (losses * scale).sum(), losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        by_hidden, by_table = ctx.saved_tensors
        return (
            by_hidden * gradient if ctx.needs_input_grad[0] else None,
            by_table * gradient if ctx.needs_input_grad[1] else None,
            None, None, None, None,
        )  # fmt: skip


class Suppress(LogitsProcessor):
    """What transformers' `SuppressTokensLogitsProcessor` does, with a mask that is made once."""

    def __init__(self, suppressed: SuppressTokensLogitsProcessor, vocab_size: int) -> None:
        ids = suppressed.suppress_tokens
        self.mask = torch.zeros(vocab_size, dtype=torch.bool, device=ids.device).index_fill_(0, ids, True)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        return scores.masked_fill(self.mask.to(scores.device), float("-inf"))
