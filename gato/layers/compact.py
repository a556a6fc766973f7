"""What the compact layout has beside the paper's model: numbers that share a position, and actions predicted all at once.

    numbers of a field, or of an action:   W2 sum_j gelu(x_j * g(place_j) + p(place_j)) / sqrt(J)
    an action's slot:                      z = norm(y + mlp(y)),  y = hidden + slot + earlier slots
        discrete                           rows of the token table times z, over the legal ids
        continuous                         a few Gaussian bumps over the bins, whose means are read from z and from a direct path
                                           (direct.py), which adds to y, too

x_j is a token's row for a discrete value. For a continuous one it is a linear function of its bin's centre, companded and not:
both are smooth in the value and low in frequency, since features of a higher one memorise few data (docs/results/compact.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.spec import LARGEST_OBSERVATION, MU, NUM_BINS

from .direct import DirectPath
from .numbers import Numbers

MU_RANGE = math.log1p(MU * LARGEST_OBSERVATION)  # of the companding in `tokenizers/continuous.py`
FAR = 10.0  # scales of a field: a value farther from its origin counts as this far in what is not companded
FLOOR = 0.03  # smallest width of a bump, in units of an action's half range
TARGET_WIDTH = 12 * 2 / NUM_BINS  # of the soft target around an action: 12 bins
LAST_BIN = 1 - 2 / NUM_BINS  # from here on an action is in the last bin on its side
NODES, NODE_WEIGHTS = (torch.tensor(a, dtype=torch.float32) for a in np.polynomial.hermite_e.hermegauss(5))


class NumberEmbedding(nn.Module):
    """Numbers -> features (M, width) that are added up by position, and those sums -> (G, width).

    **Arguments:** `continuous_start`: the id of the first bin; `places`: local positions, and as many slots of actions;
    `row_scale`: what makes rows of the token table of about unit size.
    """

    def __init__(self, width: int, places: int, continuous_start: int, row_scale: float) -> None:
        super().__init__()
        self.continuous_start, self.places, self.row_scale = continuous_start, places, row_scale
        self.value = nn.Linear(2, width, bias=False)
        self.gain = nn.Embedding(2 * places, width)
        self.offset = nn.Embedding(2 * places, width)
        self.project = nn.Linear(width, width)

    def features(self, ids: Tensor, place: Tensor, table: Tensor) -> Tensor:
        """`ids`, `place` (..., ), as `Numbers` has them; `table`: rows of the token table."""
        is_bin = self.is_continuous(ids)
        x = torch.where(is_bin[..., None], self.value(self.measures(ids)), F.embedding(ids, table) * self.row_scale)
        return self.placed(x, torch.where(place < 0, self.places - 1 - place, place))

    def placed(self, values: Tensor, row: Tensor) -> Tensor:
        """`values` (..., width) of numbers, `row` (...): their place, or behind all places their slot -> their features."""
        return F.gelu(torch.addcmul(self.offset(row), values, self.gain(row)))

    def bin_values(self) -> Tensor:
        """(1024, width): the values of all bins."""
        return self.value(self.measures(self.continuous_start + torch.arange(NUM_BINS, device=self.value.weight.device)))

    def is_continuous(self, ids: Tensor) -> Tensor:
        return (ids >= self.continuous_start) & (ids < self.continuous_start + NUM_BINS)

    def centres(self, ids: Tensor) -> Tensor:
        """Bins' centres in [-1, 1]; 0 for other ids."""
        centre = (2 * (ids - self.continuous_start).to(self.value.weight.dtype) + 1) / NUM_BINS - 1
        return torch.where(self.is_continuous(ids), centre, 0.0)

    def measures(self, ids: Tensor) -> Tensor:
        """(..., 2): the bin's centre as it is (companded where observations are), and expanded, at most `FAR`."""
        centre = self.centres(ids)
        return torch.stack([2 * centre, self.expanded(centre)], dim=-1)

    @staticmethod
    def expanded(centre: Tensor) -> Tensor:
        """What an observation is in units of its scale; a number no farther than `FAR` from 0."""
        return (centre.sign() * torch.expm1(centre.abs() * MU_RANGE) / MU).clamp(-FAR, FAR)

    def forward(self, numbers: Numbers, table: Tensor) -> Tensor:
        """(G, width): a vector for every position that holds numbers."""
        features = self.features(numbers.ids, numbers.place, table)
        count = torch.bincount(numbers.group, minlength=len(numbers.position)).to(features.dtype)
        pooled = features.new_zeros(len(numbers.position), features.shape[1]).index_add(0, numbers.group, features)
        return self.project(pooled * count.rsqrt()[:, None])


@dataclass(frozen=True)
class Bumps:
    """Gaussians over an action's half range [-1, 1], K of them for each of N slots: `log_shares`, `means`, `widths`, (N, K)."""

    log_shares: Tensor
    means: Tensor
    widths: Tensor

    def log_density(self, values: Tensor) -> Tensor:
        """Of `values` (N, n) -> (N, n)."""
        z = (values[..., None] - self.means[:, None]) / self.widths[:, None]
        return torch.logsumexp(self.log_shares[:, None] - self.widths[:, None].log() - z.square() / 2, dim=-1) - math.log(2 * math.pi) / 2

    def loss(self, centre: Tensor, mean_weight: float) -> Tensor:
        """Cross-entropy with a soft target around the bins' centres (N,), in nats a bin, and the squared error of the means.

        The soft target is a Gaussian `TARGET_WIDTH` wide; five nodes stand for it, which is exact for a single bump. Each mean
        answers for the share of the target that its bump explains: where an expert has two ways, none is drawn to their middle.

        An action in the last bin on a side is a demand to go there or further, since what is played is clipped: its probability is
        all that lies beyond, and a mean that does has no error. So a linear law that saturates stays linear.
        """
        side = torch.where(centre.abs() > LAST_BIN, centre.sign(), 0.0)  # (N,): 0 within the range
        nodes = centre[:, None] + TARGET_WIDTH * NODES.to(centre)
        density = self.log_density(nodes) @ (NODE_WEIGHTS / NODE_WEIGHTS.sum()).to(centre) + math.log(2 / NUM_BINS)
        inside = side[:, None] * (self.means - side[:, None] * LAST_BIN)  # how far a mean lies in the last bin or beyond
        beyond = torch.logsumexp(self.log_shares + torch.special.log_ndtr(inside / self.widths), dim=-1)
        errors = (self.means - centre[:, None]).square().masked_fill(inside > 0, 0.0)
        share = torch.softmax(self.log_shares - self.widths.log() - errors / (2 * self.widths.square()), dim=-1).detach()
        return mean_weight * (share * errors).sum(dim=-1) - torch.where(side == 0, density, beyond)

    def log_probabilities(self) -> Tensor:
        """(N, 1024): of the bins; what lies beyond the range belongs to the last bin on that side."""
        inner = torch.arange(1, NUM_BINS, device=self.means.device, dtype=self.means.dtype) * (2 / NUM_BINS) - 1
        z = (inner[:, None] - self.means[:, None]) / self.widths[:, None]  # (N, 1023, K)
        below = (torch.special.ndtr(z) * self.log_shares[:, None].exp()).sum(dim=-1)
        return torch.diff(F.pad(F.pad(below, (1, 0)), (0, 1), value=1.0), dim=-1).clamp(min=1e-9).log()

    def best(self) -> Tensor:
        """(N,): the mean of the bumps that make up the highest of their tops, so that the middle of two ways is not taken."""
        tops = self.log_density(self.means)  # (N, K)
        top = self.means.gather(1, tops.argmax(dim=1, keepdim=True))
        share = torch.softmax(self.log_shares - self.widths.log() - ((top - self.means) / self.widths).square() / 2, dim=1)
        return (share * self.means).sum(dim=1)


class ActionHead(nn.Module):
    """The state before an action -> its slots, one after the other but without another pass of the transformer.

    **Arguments:** `places`: local positions, and as many slots; `num_bumps`: of a continuous slot.
    """

    def __init__(self, width: int, places: int, num_bumps: int) -> None:
        super().__init__()
        self.num_bumps = num_bumps
        self.slot = nn.Embedding(places, width)
        self.earlier = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width, bias=False)
        self.bumps = nn.Linear(width, 1 + 3 * num_bumps)
        self.direct = DirectPath(width, places)

    def states(self, hidden: Tensor, features: Tensor, direct: Tensor) -> Tensor:
        """`hidden` (A, width), `features` (A, S, width) of the slots' values, `direct`: see `DirectPath` -> (A, S, width).

        Each slot sees the values before it.
        """
        slots = torch.arange(features.shape[1], device=hidden.device)
        begun = hidden + self.direct.state(direct)
        return self.state(begun[:, None], slots, features.cumsum(dim=1) - features)

    def state(self, begun: Tensor, slot: Tensor, earlier: Tensor) -> Tensor:
        """`begun`: the state before the action with what the direct path adds; `earlier`: the sum of the features of the slots before."""
        known = self.earlier(earlier * slot.clamp(min=1).to(earlier.dtype).rsqrt()[:, None])
        y = begun + self.slot(slot) + known
        return self.norm(y + self.down(F.gelu(self.up(y))))

    def bumps_of(self, state: Tensor, slot: Tensor, direct: Tensor) -> Bumps:
        """`state` (N, width), `slot` (N,), `direct` (N, ...): of the slots' actions."""
        read = self.bumps(state)
        read = read.to(torch.promote_types(read.dtype, torch.float32))
        mean = read[:, :1] + self.direct.mean(direct, state, slot).to(read.dtype)
        shares, offsets, widths = read[:, 1:].split(self.num_bumps, dim=1)
        return Bumps(shares.log_softmax(dim=1), mean + offsets, FLOOR + F.softplus(widths))


@torch.no_grad()
def initialise(module: NumberEmbedding | ActionHead) -> None:
    """Features of numbers start at about unit size, random by place; bumps wide, the first one holding most; nothing on the direct path."""
    if isinstance(module, NumberEmbedding):
        nn.init.normal_(module.value.weight)
        nn.init.normal_(module.gain.weight)
        nn.init.normal_(module.offset.weight)
        nn.init.normal_(module.project.weight, std=module.project.in_features**-0.5)
        nn.init.zeros_(module.project.bias)
        return
    for layer in (module.earlier, module.up, module.down):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5 / 2)
    for layer in (module.up, module.down):
        nn.init.zeros_(layer.bias)
    nn.init.normal_(module.slot.weight, std=0.5)
    module.direct.initialise()
    nn.init.zeros_(module.bumps.weight)
    k = module.num_bumps
    offsets = torch.linspace(-0.5, 0.5, k) if k > 1 else torch.zeros(1)
    module.bumps.bias.copy_(torch.cat([torch.zeros(1 + k), offsets, torch.full((k,), -1.0)]))
