"""A world model and the policy that is trained in it, as the learner of a run: windows of episodes -> the loss.

One update teaches the world model these windows, imagines on from places in them with the policy, and teaches actor and critic what was
imagined. Parameters of the world model get no gradient of what was imagined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.learners.network import decay_groups
from gato.learners.ppo.choices import ActionChoices
from gato.learners.tensors import TensorBatch
from gato.spec import TaskSpec

from .board import Scene
from .config import DreamConfig, WorldConfig
from .dream import Dream
from .dynamics import WorldModel, gumbel, one_hot
from .pictures import Autoencoder, Pictures
from .policy import ActorCritic
from .returns import advantages, weights

PARTS = ("next_loss", "reward_loss", "discount_loss")
SEEN = ("picture_loss", "symbol_loss")  # of pictures
DREAMED = ("policy_loss", "value_loss", "entropy", "imagined_reward", "imagined_discount")
DONE = 0.1  # a discount below it ends what is imagined, as in the authors' code
TOTALS = ("frames", "episodes", "failed", "episode_return", "success", "episode_length")  # of the run so far; the last three: means


@dataclass(frozen=True)
class WorldBatch(TensorBatch):
    """B windows of T timesteps of episodes laid end to end.

    - `cells`: (B, T + 1, *shape) uint8, of the timestep behind the window too; of pictures (B, T + 1, stack, *shape), with those before.
    - `actions`: (B, T, `choices.size`).
    - `rewards`: (B, T); `before`: (B, T), the reward before in the same episode.
    - `terminated`: (B, T) bool; `has_next`: (B, T) bool, whether the cells behind a timestep are of its episode.
    - `episode`: (B, T), a number of each episode in the window; `blind`: (B, T) bool, see `WorldModel.predict`.
    - `starts`: (B, J) places from which imagination begins; J is 0 where nothing is imagined.
    - `noise`: (B, J, H, ...) in [0, 1), of which outcomes, cells and actions are drawn; `symbol_noise`: (B, (T + 1) * symbols), of which
      those of real pictures are; (B, 0) of boards.
    - `totals`: (len(TOTALS),), of the run; `denominator`: timesteps of the whole update.
    """

    cells: Tensor
    actions: Tensor
    rewards: Tensor
    before: Tensor
    terminated: Tensor
    has_next: Tensor
    episode: Tensor
    blind: Tensor
    starts: Tensor
    noise: Tensor
    symbol_noise: Tensor
    totals: Tensor
    denominator: float | Tensor


@dataclass(frozen=True)
class Imagined:
    """N imagined stretches: `cells` (N, H + 1, *codes), `actions` (N, H, size), `rewards` and `discounts` (N, H); `taught`, `tried`
    and `possible` (N, H) bool: whether anything is learned of a timestep, whether its action was not the policy's own, and whether it and
    all before it led to boards that can follow on each other."""

    cells: Tensor
    actions: Tensor
    rewards: Tensor
    discounts: Tensor
    taught: Tensor
    tried: Tensor
    possible: Tensor


class Dreamer(nn.Module):
    """All networks: `world`, `policy`, which alone acts, and `eye`, which makes symbols of pictures (`None` for a board).

    It has what `gato.learners.ppo.policy.PPOPolicy` asks of a network that acts; its state is what was seen in the timesteps before.
    """

    def __init__(self, scene: Scene, config: WorldConfig) -> None:
        super().__init__()
        self.scene, self.config = scene, config
        self.world, self.policy = WorldModel(scene, config), ActorCritic(scene, config.policy_width)
        self.eye = Autoencoder(config) if isinstance(scene, Pictures) else None

    @property
    def task(self) -> TaskSpec:
        return self.scene.task

    @property
    def encoder(self) -> Scene:
        return self.scene

    @property
    def choices(self) -> ActionChoices:
        return self.scene.choices

    @property
    def log_deviation(self) -> Tensor:
        return self.policy.log_deviation

    def codes(self, cells: Tensor) -> Tensor:
        """Boards (n, *shape), or stacks of pictures (n, stack, *shape), uint8 -> (n, *codes) of 0 and 1."""
        return cells.float() if self.eye is None else self.eye.codes(cells)

    def start(self, n: int) -> Tensor:
        return self.scene.begin(n, self.log_deviation.device)

    def step(self, values: Mapping[str, Tensor], state: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One timestep of n streams -> outputs, values, and the state after it."""
        stacks = self.scene.stacked(state, values[self.scene.field.name], first)
        outputs, value = self.policy(self.codes(stacks if self.eye is not None else stacks[:, 0]))
        return outputs, value, stacks[:, 1:]

    @torch.no_grad()
    def imagine(self, tokens: Tensor, counts: np.ndarray, cells: Tensor, last: Tensor, noise: Tensor, stray: int = 0) -> Imagined:
        """Goes on from N moments with actions of the policy.

        **Arguments:** as of `Dream`; `noise` (N, H, outcomes + cells + `choices.num_outputs` + 1) in [0, 1); `stray`: see `DreamConfig`.
        """
        choices, k = self.policy.choices, self.config.outcomes + self.scene.size
        dream = Dream(self.world, tokens, counts, cells, last)
        found: dict[str, list[Tensor]] = {"cells": [cells], **{f.name: [] for f in fields(Imagined) if f.name != "cells"}}
        possible = torch.ones(len(cells), dtype=torch.bool, device=cells.device)
        # half of them stray for 0 timesteps, the others for 0 to `stray` - 1, before the one whose action is drawn at random and taught
        strayed = ((2 * noise[:, 0, -1] - 1).clamp(min=0) * stray).long() if stray else noise.new_full((len(cells),), -1).long()
        held: Tensor | None = None
        for step, drawn in enumerate(noise.unbind(dim=1)):
            outputs = self.policy.actor(dream.cells.flatten(1))
            outputs = torch.where((step <= strayed)[:, None], 0.0, outputs)
            actions = choices.choose(outputs, self.policy.log_deviation, gumbel(drawn[:, k:-1]))
            held = actions if held is None else held
            actions = torch.where((step < strayed)[:, None], held, actions)
            before = dream.cells
            reward, discount = dream.step(actions, drawn[:, :k])
            discount = discount * (discount >= DONE)
            possible = possible & (self.world.can_follow(before, dream.cells) | (discount == 0))  # nothing is seen behind an end
            told = (dream.cells, actions, reward, discount, step >= strayed, step <= strayed, possible)
            for name, value in zip(found, told, strict=True):
                found[name].append(value)
        return Imagined(**{name: torch.stack(values, dim=1) for name, values in found.items()})


class WorldLearner(nn.Module):
    """**Arguments:** `model`: what is trained, and saved."""

    def __init__(self, model: Dreamer, config: DreamConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: WorldBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """
        **Returns:** the batch's share of the update's loss, and sums over its timesteps, (1,) each, but `totals`.
        """
        world, eye, config = self.model.world, self.model.eye, self.config
        if eye is None:
            cells = truth = batch.cells.float()
        else:
            logits = eye.encode(batch.cells.flatten(0, 1)).unflatten(0, batch.cells.shape[:2])
            cells, truth = one_hot(logits.detach()), logits.detach().softmax(dim=-1)
        if self.training:
            world.notice(cells[:, :-1][batch.has_next], cells[:, 1:][batch.has_next])
        tokens = world.embed(cells[:, :-1], batch.actions, batch.before)
        hidden = world(tokens, batch.episode)
        ahead = world.predict(hidden.flatten(0, 1), cells[:, :-1].flatten(0, 1), batch.actions.flatten(0, 1), batch.blind.flatten())
        has_next, goes_on = batch.has_next.flatten(), (~batch.terminated).flatten().float()
        parts = {
            "next_loss": (ahead.nll(truth[:, 1:].flatten(0, 1)) * has_next).sum(),
            "reward_loss": 0.5 * (ahead.reward - batch.rewards.flatten()).square().sum(),
            "discount_loss": F.binary_cross_entropy_with_logits(ahead.discount, config.gamma * goes_on, reduction="sum"),
        }
        weighted = (config.next_weight, config.reward_weight, config.discount_weight)
        loss = sum((w * parts[name] for w, name in zip(weighted, PARTS, strict=True)), torch.zeros(()))
        if eye is not None:
            parts |= (seen := self._seen(eye, batch, logits, ahead))
            loss = loss + sum(seen.values(), torch.zeros(()))
        sums = {name: value.detach().reshape(1) for name, value in parts.items()}
        sums |= {"targets": has_next.new_full((1,), has_next.numel(), dtype=torch.float32), "totals": batch.totals}
        sums |= {"has_next": has_next.sum().float().reshape(1)}
        if batch.starts.shape[1]:
            share = batch.starts.shape[1] * config.horizon / batch.actions.shape[1]  # imagined timesteps for each of the window's
            dreamed, told = self._dream(batch, cells, tokens.detach())
            loss, sums = loss + dreamed / share, sums | told
        else:
            sums |= {name: sums["targets"] * 0 for name in (*DREAMED, "imagined")}
        return loss / batch.denominator, sums

    def _seen(self, eye: Autoencoder, batch: WorldBatch, logits: Tensor, ahead: Any) -> dict[str, Tensor]:
        """The autoencoder's losses: of every picture of the windows, held to what was foreseen of it where something was."""
        foreseen = torch.cat([logits[:, :1], ahead.symbols.unflatten(0, batch.rewards.shape)], dim=1)
        is_foreseen = torch.cat([torch.zeros_like(batch.has_next[:, :1]), batch.has_next], dim=1)
        share = batch.rewards.shape[1] / logits.shape[1]  # a window has one picture more than it has timesteps
        found = eye.loss(batch.cells.flatten(0, 1), logits.flatten(0, 1), batch.symbol_noise, foreseen.flatten(0, 1), is_foreseen.flatten())
        return {name: share * value for name, value in found.items()}

    def imagined(self, batch: WorldBatch, cells: Tensor, tokens: Tensor) -> Imagined:
        """What the policy does from the batch's places on, in imagination, behind what the window has of the same episode before them."""
        rows, places = torch.arange(len(cells), device=cells.device)[:, None], batch.starts
        context = batch.actions.shape[1] - 1
        back = torch.arange(-context, 0, device=cells.device)
        before = (places[..., None] + back).flatten(0, 1)  # (N, c)
        owner = rows.expand_as(places).flatten()
        inside = before.clamp(min=0)
        is_there = (before >= 0) & (batch.episode[owner[:, None], inside] == batch.episode[owner, places.flatten()][:, None])
        counts = is_there.sum(dim=1)
        # those that are there stand at the end; they come to the front
        order = (torch.arange(context, device=cells.device) + (context - counts)[:, None]).clamp(max=context - 1)
        told = tokens[owner[:, None], inside.gather(1, order)]
        now, last, noise = cells[owner, places.flatten()], batch.before[owner, places.flatten()], batch.noise.flatten(0, 1)
        return self.model.imagine(told, counts.cpu().numpy(), now, last, noise, self.config.stray)

    def _dream(self, batch: WorldBatch, cells: Tensor, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Actor's and critic's losses, summed over what is imagined."""
        config, policy = self.config, self.model.policy
        dream = self.imagined(batch, cells, tokens)
        n, horizon = dream.rewards.shape
        outputs, values = (part.unflatten(0, (n, horizon + 1)) for part in policy(dream.cells.flatten(0, 1)))
        with torch.no_grad():
            # what is imagined ends before a board that cannot be, and the value of the last one that can stands for what would follow
            rewards = torch.where(dream.possible, dream.rewards, values[:, :-1])
            discounts = dream.discounts * dream.possible
            better = advantages(rewards, values, discounts, config.gae_lambda)
            weight, target = weights(discounts) * dream.taught * dream.possible, better + values[:, :-1]
            if config.normalise_advantages:
                whole = weight.sum().clamp(min=1e-6)
                mean = (better * weight).sum() / whole
                better = (better - mean) / (((better - mean).square() * weight).sum() / whole).sqrt().clamp(min=1e-6)
            # what was only tried teaches where it was better: a policy that never does it would be pushed from it without end
            better = torch.where(dream.tried, better.clamp(min=0), better)
        outputs, choices = outputs[:, :-1], policy.choices
        log_prob = choices.log_prob(outputs, policy.log_deviation, dream.actions)
        entropy = choices.entropy(outputs, policy.log_deviation) / self.model.scene.most_entropy
        policy_loss = -(better * log_prob)
        value_loss = 0.5 * (values[:, :-1] - target).square()
        below = F.relu(config.least_entropy - entropy)
        total = ((policy_loss + config.value_weight * value_loss + config.entropy_weight * below) * weight).sum()
        told = (policy_loss * weight, value_loss * weight, entropy, dream.rewards * dream.possible, discounts)
        sums = {name: value.detach().sum().reshape(1) for name, value in zip(DREAMED, told, strict=True)}
        return total, sums | {"imagined": total.new_full((1,), float(n * horizon))}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The world model as the recipe says, actor and critic at a rate and with a clip of their own."""
        own = {"learning_rate": self.config.learning_rate, "clip": self.config.clip}
        groups = decay_groups(self.model.world.parameters(), weight_decay)
        if self.model.eye is not None:  # apart from the world model, whose gradients are of another size
            apart = {"learning_rate": self.config.picture_rate, "clip": 100.0}
            groups += [group | apart for group in decay_groups(self.model.eye.parameters(), weight_decay)]
        return groups + [group | own for group in decay_groups(self.model.policy.parameters(), weight_decay)]

    def report(self, sums: dict[str, list[float]]) -> dict[str, Any]:
        """Means over the update's timesteps, of `next_loss` over those that have a next; and the run's totals."""
        targets, imagined = max(1.0, sums["targets"][0]), sums["imagined"][0]
        counts = {"next_loss": max(1.0, sums["has_next"][0])}
        line = {name: sums[name][0] / counts.get(name, targets) for name in (*PARTS, *(n for n in SEEN if n in sums))}
        if imagined:
            line |= {name: sums[name][0] / imagined for name in DREAMED}
        totals = dict(zip(TOTALS, sums["totals"], strict=True))
        line |= {name: round(totals.pop(name)) for name in TOTALS[:3]}
        known = {name: value for name, value in totals.items() if value == value} if line["episodes"] else {}
        return {"loss_by_source": {self.model.scene.task.name: line["next_loss"]}, **line, **known}

    def flops(self, tokens: int, targets: int) -> float | None:
        return None
