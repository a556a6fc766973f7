"""A clone as the learner of a run: `learner: clone` in a recipe of `gato pretrain`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .actions import ActionVectors
from .clone import CloneBatch, CloneNetwork
from .features import Features
from .network import decay_groups


class CloneModel(nn.Module):
    """What acts, under the names of its folder: the network, and the features' means and scales."""

    def __init__(self, network: CloneNetwork, features: Features) -> None:
        super().__init__()
        self.network, self.features = network, nn.Module()
        for name in ("mean", "scale"):
            self.features.register_buffer(name, torch.from_numpy(getattr(features, name)))


class CloneLearner(nn.Module):
    """**Arguments:** `vectors`: what the outputs mean; `source`: the store's name in metrics."""

    def __init__(self, model: CloneModel, vectors: ActionVectors, source: str) -> None:
        super().__init__()
        self.model, self.vectors, self.source = model, vectors, source

    def forward(self, batch: CloneBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """
        **Returns:** the batch's share of the global loss, and sums: `loss_sum` and `targets`, (1,)
        each; a target is a timestep.
        """
        found = self.model.network(batch.states, batch.pictures).float()
        loss = self.vectors.loss(found, batch.played) * len(batch)
        targets = torch.full((1,), float(len(batch)), device=found.device)
        return loss / batch.denominator, {"loss_sum": loss.detach().reshape(1), "targets": targets}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Matrices and filters are decayed; biases are not."""
        return decay_groups(self.parameters(), weight_decay)

    def report(self, sums: dict[str, list[float]]) -> dict[str, Any]:
        return {"loss_by_source": {self.source: sums["loss_sum"][0] / sums["targets"][0]}}

    def flops(self, tokens: int, targets: int) -> float | None:
        return None
