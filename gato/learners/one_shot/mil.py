"""MIL (Finn et al. 2017, one-shot visual imitation learning via meta-learning): a gradient step on a demonstration adapts the weights.

    phi = theta - rate * clipped(gradient of L_inner(theta, demonstration))
    L_outer = cloning(phi, another demonstration), whose gradient goes through the step (second order)

`L_inner` clones the demonstration's actions through a head of its own. Of a video alone, which has neither actions nor states, it is
a learned function of what the hidden layers make of its frames in their order: convolutions over time, squared. A vector that is
the same for all inputs (the bias transformation) is told to the network as TecNets tell it the task; its gradient lets a step move
every bias freely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gato.episode import Episode
from gato.spec import TaskSpec

from ..actions import ActionVectors
from ..features import Features
from ..network import decay_groups
from .config import MilConfig
from .demonstrated import DemonstratedBatch, DemonstrationInputs, Seen
from .network import SeenNetwork

Weights = dict[str, Tensor]


class MilNetwork(nn.Module):
    """What a step adapts: the network with its bias vector, the head that acts, and the one that the inner loss looks at."""

    def __init__(self, task: TaskSpec, num_features: int, num_outputs: int, config: MilConfig) -> None:
        super().__init__()
        self.body = SeenNetwork(task, num_features, num_outputs, config, config.bias)
        self.before = None if config.video else nn.Linear(self.body.head.in_features, num_outputs)
        if self.before is not None and not config.second_order:
            self.before.requires_grad_(False)  # only through the step's own gradient is there anything for it to learn
        self.bias = nn.Parameter(0.1 * torch.randn(config.bias)) if config.bias else None

    def forward(self, seen: Seen, part: str) -> Tensor:
        """`part`: `acting` or `before` (N, A), of the two heads; `features` (N, width). A video's loss needs no head."""
        told = None if self.bias is None else self.bias.expand(len(seen), -1)
        features = self.body.features(seen, told)
        if part == "before" and self.before is not None:
            return self.before(features)
        return features if part == "features" else self.body.head(features)


class TemporalLoss(nn.Module):
    """Features (K, T, width) of the frames of K videos -> what is to be lowered, a number."""

    def __init__(self, width: int, filters: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(width, filters, kernel, padding="same"), nn.ELU(),
            nn.Conv1d(filters, filters, kernel, padding="same"), nn.ELU(), nn.Conv1d(filters, filters, 1),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.transpose(1, 2)).square().mean()


class Mil(nn.Module):
    """What acts: the network before its step, the temporal loss, and the scales of what is no picture."""

    needs_demonstration, sees_first = True, False

    def __init__(self, task: TaskSpec, features: Features, num_outputs: int, config: MilConfig, num_numbers: int = 0) -> None:
        super().__init__()
        self.config, self.vectors = config, ActionVectors.all_of(task)
        self.network = MilNetwork(task, len(features.mean), num_outputs, config)
        self.temporal = TemporalLoss(config.width, config.temporal_filters, config.temporal_kernel) if config.video else None
        num_steps = sum(1 for _ in self.network.parameters())
        self.rates = nn.Parameter(torch.full((num_steps,), config.inner_rate)) if config.learned_rates else None
        self.features = nn.Module()
        for name in ("mean", "scale"):
            self.features.register_buffer(name, torch.from_numpy(getattr(features, name)))

    def inner_loss(self, weights: Mapping[str, Tensor], seen: Seen, played: Tensor, num_demonstrations: int) -> Tensor:
        """Of the frames of demonstrations one behind the other, under these weights."""
        if self.temporal is None:
            return self.vectors.loss(functional_call(self.network, dict(weights), (seen, "before")), played)
        blind = Seen(torch.zeros_like(seen.states), seen.pictures)  # a video shows no states
        features = functional_call(self.network, dict(weights), (blind, "features"))
        return self.temporal(features.unflatten(0, (num_demonstrations, -1)))

    def adapted(self, seen: Seen, played: Tensor, num_demonstrations: int) -> Weights:
        """The weights after one step; it has gradients of its own, of second order unless the settings say otherwise."""
        weights = dict(self.network.named_parameters())
        gradients = grad(self.inner_loss)(weights, seen, played, num_demonstrations)
        most, through = self.config.inner_clip, self.config.second_order
        rates = [self.config.inner_rate] * len(weights) if self.rates is None else self.rates
        found = {}
        for rate, (name, weight) in zip(rates, weights.items(), strict=True):
            gradient = gradients[name].clamp(-most, most)
            found[name] = weight - rate * (gradient if through else gradient.detach())
        return found

    def remember(self, inputs: DemonstrationInputs, demonstrations: Sequence[Episode]) -> Weights:
        """What is kept of a task: all weights of the network, after the step on its demonstrations."""
        seen, played = inputs.frames(demonstrations, self.config.timesteps)
        device = self.features.get_buffer("mean").device
        seen, played = seen.each(lambda tensor: tensor.to(device)), played.to(device)
        return {name: value.detach() for name, value in self.adapted(seen, played, len(demonstrations)).items()}

    def outputs(self, seen: Seen, memory: Mapping[str, Tensor]) -> Tensor:
        """(N, A) for N timesteps of one task, of which this is kept."""
        return functional_call(self.network, dict(memory), (seen, "acting"))


class MilLearner(nn.Module):
    """**Arguments:** `vectors`: what the outputs mean; `source`: the store's name in metrics."""

    def __init__(self, model: Mil, vectors: ActionVectors, source: str) -> None:
        super().__init__()
        self.model, self.vectors, self.source = model, vectors, source

    def forward(self, batch: DemonstratedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """**Returns:** the batch's share of the global loss, and sums over tasks: `targets`, the losses before and after the step."""
        num_tasks, split, count = batch.num_rows * batch.num_tasks, batch.num_support, self.model.config.support

        def losses(states: Tensor, pictures: tuple[Tensor, ...], played: Tensor) -> tuple[Tensor, Tensor]:
            """Of one task, after the step and before it."""
            support, query = (Seen(states[part], tuple(p[part] for p in pictures)) for part in (slice(split), slice(split, None)))
            weights = self.model.adapted(support, played[:split], count)
            before = self.model.network(query, "acting").detach()
            return tuple(self.vectors.loss(o, played[split:]) for o in (self.model.outputs(query, weights), before))  # type: ignore[return-value]

        seen = batch.seen.each(lambda tensor: tensor.unflatten(0, (num_tasks, -1)))
        after, before = (each.sum() for each in vmap(losses)(seen.states, seen.pictures, batch.played.unflatten(0, (num_tasks, -1))))
        targets = torch.full((1,), float(num_tasks), device=after.device)
        return after / batch.denominator, {"targets": targets, "after": after.detach().reshape(1), "before": before.reshape(1)}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Matrices and filters are decayed; biases and norms are not."""
        return decay_groups(self.parameters(), weight_decay)

    def report(self, sums: Mapping[str, list[float]]) -> dict[str, Any]:
        return {"loss_by_part": {name: values[0] / sums["targets"][0] for name, values in sums.items() if name != "targets"}}

    def flops(self, tokens: int, targets: int) -> float | None:
        return None
