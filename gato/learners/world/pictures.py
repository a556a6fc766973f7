"""What a world model sees of a task that shows pictures: grey pictures of the last timesteps, as symbols of a discrete autoencoder.

A stack of pictures becomes `groups` symbols, each one of `classes` (Hafner et al. 2021), so that what follows can be drawn, and a dream
can be looked at. The autoencoder learns by itself: no gradient of the world model or of the policy reaches it. What is said of a picture
is held a little to what the world model had foreseen of it, so that the symbols can be foreseen (Robine et al. 2023, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gato.spec import Modality, TaskSpec

from .board import Board, Scene
from .config import WorldConfig
from .dynamics import gumbel, one_hot

SIDE = 64  # rows and columns of a picture as it is seen
ENTROPY_WEIGHT, LEAST_ENTROPY = 5.0, 0.1  # of what the symbols' entropy lies below this share of the largest possible one
CONSISTENCY_WEIGHT = 0.01
FIRST_SCALE = 4.0
CHUNK = 256  # pictures that are encoded at once where there is no gradient


class Pictures(Scene):
    """A task that shows one picture and nothing else. It is seen grey, 64 x 64, with those of the timesteps before."""

    def __init__(self, task: TaskSpec, config: WorldConfig) -> None:
        super().__init__(task, task.observations[0])
        self.shape, self.stack, self.codes = (SIDE, SIDE), config.stack, (config.groups, config.classes)

    def cells(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, 64, 64) uint8: each pixel the mean of those it covers."""
        pictures = np.asarray(observation[self.field.name])
        found = [np.asarray(Image.fromarray(p).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)) for p in pictures]
        return np.stack(found) if found else np.zeros((0, SIDE, SIDE), np.uint8)

    def wrong(self, codes: Tensor, truth: Tensor) -> Tensor:
        return (codes != truth).any(dim=-1).sum(dim=1)


def scene_of(task: TaskSpec, config: WorldConfig) -> Scene:
    """**Raises:** `ValueError` for a task that shows neither one board nor one picture, or that has continuous actions."""
    is_picture = len(task.observations) == 1 and task.observations[0].modality is Modality.IMAGE
    return Pictures(task, config) if is_picture else Board(task)


class Autoencoder(nn.Module):
    """Stacks of pictures <-> symbols; layers as of the paper's code, `config.picture_channels` times 1, 2, 4 and 8, with
    layer norms in the encoder."""

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.groups, self.classes = config.groups, config.classes
        size, c, inside = config.groups * config.classes, config.picture_channels, config.picture_width
        layers: list[nn.Module] = []
        for before, behind in ((config.stack, c), (c, 2 * c), (2 * c, 4 * c), (4 * c, 8 * c)):
            layers += [nn.Conv2d(before, behind, 4, stride=2), nn.SiLU()]
        layers += [nn.Flatten(), nn.LayerNorm(8 * c * 4)]
        for before in (8 * c * 4, inside):
            layers += [nn.Linear(before, inside), nn.SiLU(), nn.LayerNorm(inside)]
        self.encoder = nn.Sequential(*layers, nn.Linear(inside, size))
        self.decoder = nn.Sequential(
            nn.Linear(size, 16 * c), nn.Unflatten(1, (16 * c, 1, 1)),
            nn.ConvTranspose2d(16 * c, 4 * c, 5, stride=2), nn.SiLU(), nn.ConvTranspose2d(4 * c, 2 * c, 5, stride=2), nn.SiLU(),
            nn.ConvTranspose2d(2 * c, c, 6, stride=2), nn.SiLU(), nn.ConvTranspose2d(c, config.stack, 6, stride=2),
        )  # fmt: skip
        nn.init.constant_(self.decoder[-1].bias, 0.5)  # type: ignore[arg-type]
        with torch.no_grad():  # symbols tell pictures apart from the first update on; else the mean picture is all that is learned for long
            self.encoder[-1].weight.mul_(FIRST_SCALE)  # type: ignore[operator]

    def encode(self, stacks: Tensor) -> Tensor:
        """(n, stack, 64, 64) uint8 -> logits (n, groups, classes)."""
        return self.encoder(stacks.float() / 255).unflatten(1, (self.groups, self.classes))

    def decode(self, codes: Tensor) -> Tensor:
        """(n, groups, classes) -> pictures (n, stack, 64, 64), 0 to 1 but for errors."""
        return self.decoder(codes.flatten(1))

    @torch.no_grad()
    def codes(self, stacks: Tensor) -> Tensor:
        """The likeliest symbols, (n, groups, classes) of 0 and 1."""
        return torch.cat([one_hot(self.encode(part)) for part in stacks.split(CHUNK)])

    def loss(self, stacks: Tensor, logits: Tensor, noise: Tensor, foreseen: Tensor, is_foreseen: Tensor) -> dict[str, Tensor]:
        """Sums over n stacks, of pictures alone and with the weights of the other parts.

        **Arguments:** `logits` (n, groups, classes), the encoder's; `noise`: as many in [0, 1), of which symbols are drawn; `foreseen`: the
        world model's logits of the same timesteps, which get no gradient, where `is_foreseen` (n,).
        """
        probabilities = logits.softmax(dim=-1)
        drawn = one_hot(logits + gumbel(noise.view_as(logits)))
        passed = drawn + probabilities - probabilities.detach()  # straight through: the gradient of the probabilities
        error = 0.5 * (self.decode(passed) - stacks.float() / 255).square().flatten(1).sum(dim=1)
        logs = logits.log_softmax(dim=-1)
        entropy = -(probabilities * logs).sum(dim=(1, 2)) / (self.groups * math.log(self.classes))
        against = -(foreseen.detach().softmax(dim=-1) * logs).sum(dim=(1, 2)) * is_foreseen
        others = ENTROPY_WEIGHT * F.relu(LEAST_ENTROPY - entropy) + CONSISTENCY_WEIGHT * against
        return {"picture_loss": error.sum(), "symbol_loss": others.sum()}


def shown(pictures: Tensor) -> np.ndarray:
    """The newest of stacks (n, stack, 64, 64), 0 to 1 -> (n, 64, 64) uint8."""
    return (pictures[:, -1].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
