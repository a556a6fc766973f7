"""Gato as a learner: unpacks a `TokenBatch` into the transformers model and counts losses by source."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gato.batch import Kind, TokenBatch
from gato.model import Gato


class GatoLearner(nn.Module):
    """**Arguments:** `model`; `num_sources`: how many sources the batches' `sources` index."""

    def __init__(self, model: Gato, num_sources: int = 1) -> None:
        super().__init__()
        self.model = model
        self.num_sources = num_sources

    def forward(self, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """
        **Returns:** the batch's share of the global loss (weighted sum over `batch.denominator`), and unweighted sums:
        `loss_sum` and `targets` (num_sources,) by source, `loss_by_kind` and `targets_by_kind` (6,) by the `Kind` of the target.
        """
        out = self.model(
            input_ids=batch.ids,
            local_positions=batch.local_position,
            pixel_values=batch.patches,
            patch_boxes=batch.patch_boxes,
            document_ids=batch.document if batch.is_packed else None,
            labels=batch.labels,
            row_weights=batch.weights,
            num_items_in_batch=batch.denominator,
            depth_noise=batch.depth_noise if self.training else None,
            target_index=batch.target_index,
            patch_index=batch.patch_index,
        )
        source = batch.sources[torch.div(out.token_index, batch.ids.shape[1], rounding_mode="floor")]
        kind = batch.kind.flatten()[out.token_index]
        losses, counted = out.token_losses.float(), (batch.labels.flatten()[out.token_index] >= 0).float()
        of_sources, of_kinds = (torch.zeros(n, device=batch.ids.device) for n in (self.num_sources, len(Kind)))
        metrics = {
            "loss_sum": of_sources.index_add(0, source, losses),
            "targets": of_sources.index_add(0, source, counted),
            "loss_by_kind": of_kinds.index_add(0, kind, losses),
            "targets_by_kind": of_kinds.index_add(0, kind, counted),
        }
        return out.loss, metrics

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """Matrices of the layers (marked `hidden`), tables and the patch embedder are decayed; norms and biases are not (appendix C)."""
        hidden: list[nn.Parameter] = []
        decayed: list[nn.Parameter] = []
        kept: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            is_matrix = parameter.ndim >= 2 and not name.endswith("bias")
            (kept if not is_matrix else hidden if ".layers." in name else decayed).append(parameter)
        return [
            {"params": hidden, "weight_decay": weight_decay, "hidden": True},
            {"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ]
