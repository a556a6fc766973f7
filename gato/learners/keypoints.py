"""Where things are in a picture: the keypoints of a convolution's maps, their spatial softmax.

What the maps hold at every place is thousands of numbers, with which a network learns few demonstrations by heart. One place for each
map (Levine et al. 2016, End-to-End Training of Deep Visuomotor Policies) is a few dozen, and says the same of a thing wherever it lies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAPS = 32  # of an eye: each is a place
SPREAD = 2.0  # keypoints lie from -2 to 2, since most stay near the middle


def places_of(maps: Tensor) -> Tensor:
    """(N, C, rows, columns) -> (N, 2 C): where the softmax of every map lies on average, x from -1 (left) to 1, y from -1 (top) to 1."""
    weights = maps.flatten(2).softmax(dim=2).unflatten(2, maps.shape[2:])
    x, y = (torch.linspace(-1, 1, n, device=maps.device) for n in (maps.shape[3], maps.shape[2]))
    return torch.cat([(weights.sum(dim=2) * x).sum(dim=2), (weights.sum(dim=3) * y).sum(dim=2)], dim=1)


class KeypointEye(nn.Module):
    """Pictures (N, 3, rows, columns) -> keypoints (N, 2 * `MAPS`).

    **Arguments:** `size`, `step`: of the first convolution. The others look at every place of its maps, so that keypoints are fine.
    """

    def __init__(self, size: int, step: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 16, size, step, padding=2), nn.ReLU(), nn.Conv2d(16, MAPS, 3, padding=1), nn.ReLU(),
            nn.Conv2d(MAPS, MAPS, 3, padding=1),
        )  # fmt: skip
        self.sharpness = nn.Parameter(torch.zeros(MAPS))  # log of what a map is multiplied by before the softmax

    def forward(self, pictures: Tensor) -> Tensor:
        return SPREAD * places_of(self.maps(pictures) * self.sharpness.exp()[:, None, None])
