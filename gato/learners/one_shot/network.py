"""The network of learners of one-shot imitation: eyes for every picture, hidden layers behind them.

James et al. and Finn et al. flatten the last maps of their convolutions. Here every map is read as where it is highest (its
softmax's mean place), its mean and its largest value: the same for a map of any size, and it learns the tasks here with a small
part of the updates. What is told of the task scales and shifts the maps of every layer; the paper repeats it at every pixel of the
picture, which shifts those of the first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.learners.keypoints import places_of
from gato.spec import Modality, TaskSpec

from .config import OneShotConfig
from .demonstrated import Seen

SHARPNESS = 4.0  # of the softmax that finds a map's highest place


class SeenNetwork(nn.Module):
    """What is seen at N timesteps and, where `told` is above 0, a vector (N, `told`) -> (N, `outputs`).

    **Arguments:** `num_features`: of what is no picture; `together`: so many timesteps lie side by side in what is seen. Of several only
    the pictures are looked at, as in the paper, where there are any.
    """

    def __init__(self, task: TaskSpec, num_features: int, outputs: int, config: OneShotConfig, told: int = 0, together: int = 1) -> None:
        super().__init__()
        cameras = sum(f.modality is Modality.IMAGE for f in task.observations)
        self.with_states = not (cameras and together > 1)
        eyes = [Eye(config, 3 * together, told) for _ in range(cameras)]
        self.eyes = nn.ModuleList(eyes)
        inputs = sum(eye.size for eye in eyes) + num_features * together * self.with_states + told
        layers: list[nn.Module] = []
        for _ in range(config.num_layers):
            layers += [nn.Linear(inputs, config.width), nn.ELU()]
            inputs = config.width
        self.hidden, self.head = nn.Sequential(*layers), nn.Linear(inputs, outputs)

    def forward(self, seen: Seen, told: Tensor | None = None) -> Tensor:
        return self.head(self.features(seen, told))

    def features(self, seen: Seen, told: Tensor | None = None) -> Tensor:
        """(N, width): what the last layer sees."""
        parts = [eye(picture, told) for eye, picture in zip(self.eyes, seen.pictures, strict=True)]
        parts += [seen.states] if self.with_states else []
        return self.hidden(torch.cat([*parts, *([] if told is None else [told])], dim=1))


class Eye(nn.Module):
    """Pictures (N, channels, rows, columns) uint8 -> features (N, `size`)."""

    def __init__(self, config: OneShotConfig, channels: int, told: int) -> None:
        super().__init__()
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for i in range(config.num_convolutions):
            kernel = config.kernel if i == 0 else 3
            self.convolutions.append(nn.Conv2d(channels, config.filters, kernel, stride=2 if i < 2 else 1, padding=kernel // 2))
            self.norms.append(nn.GroupNorm(1, config.filters))
            channels = config.filters
        self.told = nn.ModuleList(nn.Linear(told, 2 * config.filters) for _ in self.convolutions) if told else None
        self.size = 4 * config.filters

    def forward(self, pictures: Tensor, told: Tensor | None) -> Tensor:
        x = pictures.float() / 127.5 - 1
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x))
            if told is not None and self.told is not None:
                scale, shift = self.told[i](told)[:, :, None, None].chunk(2, dim=1)
                x = torch.addcmul(shift, x, 1 + scale)
            x = F.elu(x)
        return torch.cat([places_of(SHARPNESS * x), x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
