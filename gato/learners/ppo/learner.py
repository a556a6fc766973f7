"""Proximal policy optimisation (Schulman et al. 2017) as the learner of a run: a batch of what was done -> the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gato.learners.tensors import TensorBatch

from .config import MetaConfig, PPOConfig
from .network import ActorCritic
from .speeds import parameter_groups

PARTS = ("policy_loss", "value_loss", "entropy", "kl", "clipped")  # of the loss, and of how far the policy moved
TOTALS = ("frames", "episodes", "failed", "episode_return", "success", "episode_length")  # of the run so far; the last three: means


@dataclass(frozen=True)
class PPOBatch(TensorBatch):
    """B rows of `span` timesteps each, as they were played.

    - `observations`: (B, T, *shape) each; `actions`: (B, T, elements); `first`: (B, T), where episodes begin; `state`: (B, memory).
    - `log_prob`, `value`: of the network that played; `advantage`: estimated and, if wanted, normalised over the update's rows;
      `weight`: 0 where an environment failed, else 1; (B, T) each.
    - `totals`: (len(TOTALS),), of the run, in one batch of an update; zero in the others.
    - `denominator`: weights of the whole update.
    """

    observations: dict[str, Tensor]
    actions: Tensor
    first: Tensor
    state: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    returns: Tensor
    weight: Tensor
    totals: Tensor
    denominator: float | Tensor


class PPOLearner(nn.Module):
    """**Arguments:** `model`: what acts, and its critic; `meta`: which parameters are slow; `updates`: of a rollout."""

    def __init__(self, model: ActorCritic, config: PPOConfig, meta: MetaConfig, updates: int) -> None:
        super().__init__()
        self.model, self.config, self.meta, self.updates = model, config, meta, updates

    def forward(self, batch: PPOBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """
        **Returns:** the batch's share of the update's loss, and sums over its timesteps, (1,) each, but `totals`.
        """
        config, weight = self.config, batch.weight
        with torch.autocast(batch.weight.device.type, enabled=False):  # the ratio is 1 where acting and learning round alike
            outputs, value, _ = self.model(batch.observations, batch.state, batch.first)
            choices, log_deviation = self.model.choices, self.model.log_deviation
            log_ratio = choices.log_prob(outputs, log_deviation, batch.actions) - batch.log_prob
            ratio = log_ratio.exp()
            within = ratio.clamp(1 - config.clip, 1 + config.clip)
            policy_loss = -torch.minimum(ratio * batch.advantage, within * batch.advantage)
            value_loss = 0.5 * (value - batch.returns) ** 2
            if config.clip_values:
                near = batch.value + (value - batch.value).clamp(-config.clip, config.clip)
                value_loss = torch.maximum(value_loss, 0.5 * (near - batch.returns) ** 2)
            entropy = choices.entropy(outputs, log_deviation)
            loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
            total = (loss * weight).sum()
        with torch.no_grad():
            kl = ratio - 1 - log_ratio  # never negative (Schulman 2020, "Approximating KL divergence")
            clipped = ((ratio - 1).abs() > config.clip).float()
            parts = zip(PARTS, (policy_loss, value_loss, entropy, kl, clipped), strict=True)
            sums = {name: (part * weight).sum().reshape(1) for name, part in parts}
            sums |= {"loss_sum": total.detach().reshape(1), "targets": weight.sum().reshape(1), "totals": batch.totals}
        return total / batch.denominator, sums

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return parameter_groups(self.model, self.meta, self.updates, weight_decay)

    def report(self, sums: dict[str, list[float]]) -> dict[str, Any]:
        """Means over the update's timesteps, and the run's totals; means over episodes are left out before the first has ended."""
        targets = max(1.0, sums["targets"][0])
        totals = dict(zip(TOTALS, sums["totals"], strict=True))
        counts = {name: round(totals.pop(name)) for name in TOTALS[:3]}
        known = {name: value for name, value in totals.items() if value == value} if counts["episodes"] else {}
        means = {name: sums[name][0] / targets for name in PARTS}
        return {"loss_by_source": {self.model.task.name: sums["loss_sum"][0] / targets}, **means, **counts, **known}

    def flops(self, tokens: int, targets: int) -> float | None:
        return None
