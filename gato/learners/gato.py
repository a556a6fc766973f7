"""Gato as a learner: unpacks a `TokenBatch` into the transformers model and counts losses by source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gato.batch import Kind, TokenBatch
from gato.model import Gato, GatoConfig

from .network import layer_groups

# What a target's kind is called in `loss_by_modality`.
MODALITIES = {"text": Kind.TEXT, "discrete": Kind.DISCRETE, "continuous": Kind.CONTINUOUS}


class GatoLearner(nn.Module):
    """**Arguments:** `model`; `sources`: the names of what the batches' `sources` index."""

    def __init__(self, model: Gato, sources: Sequence[str] = ("data",)) -> None:
        super().__init__()
        self.model = model
        self.sources = tuple(sources)

    def forward(self, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """
        **Returns:** the batch's share of the global loss (weighted sum over `batch.denominator`), and unweighted sums:
        `loss_sum` and `targets` (sources,) by source, `loss_by_kind` and `targets_by_kind` (6,) by the `Kind` of the target.
        """
        layout = "gato" if batch.numbers is None else "compact"
        if layout != self.model.config.layout:
            raise ValueError(
                f"the batch is of layout '{layout}', the model of '{self.model.config.layout}'; use the tokenizer saved with the weights"
            )
        out = self.model(
            **batch.inputs(),
            labels=batch.labels,
            target_index=batch.target_index,
            row_weights=batch.weights,
            num_items_in_batch=batch.denominator,
            depth_noise=batch.depth_noise if self.training else None,
        )
        source = batch.sources[torch.div(out.token_index, batch.ids.shape[1], rounding_mode="floor")]
        kind, numbers = batch.kind.flatten()[out.token_index], batch.numbers
        if numbers is not None:  # an action of both kinds has one position; its discrete slots come first
            slots = len(numbers.discrete) + len(numbers.continuous)
            kind = torch.cat([kind[: len(kind) - slots], torch.full_like(numbers.discrete, Kind.DISCRETE),
                              torch.full_like(numbers.continuous, Kind.CONTINUOUS)])  # fmt: skip
        losses, counted = out.token_losses.float(), out.token_counts.float()
        of_sources, of_kinds = (torch.zeros(n, device=batch.ids.device) for n in (len(self.sources), len(Kind)))
        metrics = {
            "loss_sum": of_sources.index_add(0, source, losses),
            "targets": of_sources.index_add(0, source, counted),
            "loss_by_kind": of_kinds.index_add(0, kind, losses),
            "targets_by_kind": of_kinds.index_add(0, kind, counted),
        }
        return out.loss, metrics

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """Matrices of the layers (marked `hidden`), tables and the patch embedder are decayed; norms and biases are not (appendix C)."""
        return layer_groups(self, weight_decay, lambda name, parameter: parameter.ndim >= 2 and not name.endswith("bias"))

    def report(self, sums: dict[str, list[float]]) -> dict[str, Any]:
        """The mean loss per target by source and by kind of target; what had no target is left out."""
        by_source = zip(self.sources, sums["loss_sum"], sums["targets"], strict=True)
        losses, targets = sums["loss_by_kind"], sums["targets_by_kind"]
        return {
            "loss_by_source": {name: total / n for name, total, n in by_source if n > 0},
            "loss_by_modality": {name: losses[k] / targets[k] for name, k in MODALITIES.items() if targets[k] > 0},
        }

    def flops(self, tokens: int, targets: int) -> float:
        """Of forward and backward; see `flops_per_update`."""
        return flops_per_update(self.model.config, tokens, targets)


def flops_per_update(config: GatoConfig, tokens: int, targets: int) -> float:
    """Operations of forward and backward: 6 per weight and token that meet, and causal attention.

    Attention counts the half that a causal mask leaves: 6 * layers * context * heads * head width a token. Head, and what stands
    behind the last layer's attention, meet targets only. The patch embedder, relative scores and recomputation are left out, so
    an MFU made of this is rather too low than too high.
    """
    inner = config.num_heads * config.head_width
    before = 3 * config.width * inner + config.context_length * inner  # queries, keys and values, attention
    behind = config.width * inner + config.width * config.feed_forward * 3 // 2  # output; GEGLU: width -> hidden, then half of it back
    per_token = config.num_layers * (before + behind) - behind
    return float(6 * (tokens * per_token + targets * (behind + config.width * config.vocab_size)))
