"""Ids, patches and their positions -> vectors (Gato, section 2.2 and appendix C).

One table serves all ids. A patch goes through a small ResNet block and gets a row and a column vector;
every observation token gets the vector of its place within the timestep; action tokens share one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.batch import ACTION_LOCAL, NO_LOCAL
from gato.layers.numbers import Numbers
from gato.spec import NUM_POSITION_BINS

from .compact import NumberEmbedding

PLACE_STD = 0.2
PLACE_BANDWIDTH = 0.5  # places a quarter of the picture apart begin with a correlation of 0.3


class TokenTable(nn.Embedding):
    """The shared table, (rows, width). Its transpose is the output head, so it is tied by construction."""


def smooth_rows(num_rows: int, width: int, std: float, bandwidth: float, generator: torch.Generator | None = None) -> Tensor:
    """Random rows that change smoothly with their index: neighbouring bins start alike.

    Random Fourier features of the bin's value x in [-1, 1]: sums of cos(2 pi f x + phase) with
    frequencies f drawn from N(0, bandwidth^2). Each entry has the standard deviation `std`, as independent
    rows would have; only the correlation between rows differs.
    """
    features = 256
    x = torch.linspace(-1, 1, num_rows)[:, None]
    frequency = torch.randn(1, features, generator=generator) * bandwidth
    phase = torch.rand(1, features, generator=generator) * 2 * math.pi
    mixing = torch.randn(features, width, generator=generator)
    return std * math.sqrt(2 / features) * torch.cos(2 * math.pi * frequency * x + phase) @ mixing


class PatchEmbedder(nn.Module):
    """uint8 (N, 16, 16, 3) -> (N, width): a stem and one pre-activation ResNet block with GroupNorm and GELU.

    The paper gives 32 groups, GELU and the v2 order, not the channels; 32 channels keep the parameter
    counts of all three published sizes. Replaceable: anything with this signature will do
    (`Gato(config, patch_embedder=...)`).
    """

    def __init__(self, width: int, channels: int = 32, groups: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, kernel_size=4, stride=4)  # 16x16 -> 4x4
        self.block = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip
        self.activation = nn.GELU()
        self.project = nn.Linear(channels * 16, width)

    def forward(self, patches: Tensor) -> Tensor:
        pixels = (patches.permute(0, 3, 1, 2).to(self.stem.weight.dtype) / 127.5 - 1) / 4  # [-1, 1] / sqrt(16)
        x = self.stem(pixels)
        x = x + self.block(x)
        return self.project(self.activation(x).flatten(1))

    @torch.no_grad()
    def initialise(self) -> None:
        """Outputs about as large as inputs: variances of 1 / inputs (LeCun), biases of 0."""
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)


class PatchPool(nn.Module):
    """Patches that share a position in the compact layout: sum_j (x_j + W gelu(x_j * g(j) + p(j))) / sqrt(J), j their order in the block.

    A patch alone at its position stays as it is: so are those of pictures with captions, of which the sum of the patches themselves is
    to keep what they teach (how much of that reaches a block: docs/results/compact.md).

    **Arguments:** `size`: a position holds at most so many rows and columns of patches.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.gain = nn.Embedding(size * size, width)
        self.offset = nn.Embedding(size * size, width)
        self.project = nn.Linear(width, width)

    def forward(self, vectors: Tensor, index: Tensor) -> Tensor:
        """`vectors` (N, width), `index` (N,) ascending: their positions -> (N, width): what each adds to its position."""
        begins = torch.ones_like(index, dtype=torch.bool)
        begins[1:] = index[1:] != index[:-1]
        group = begins.cumsum(0) - 1
        order = torch.arange(len(index), device=index.device)
        place = order - torch.where(begins, order, 0).cummax(dim=0).values
        count = torch.zeros_like(index).index_add(0, group, torch.ones_like(index))[group]
        place = place.clamp(max=self.gain.num_embeddings - 1)  # spare patches may be many at their place behind the last one
        shared = vectors + F.linear(F.gelu(torch.addcmul(self.offset(place), vectors, self.gain(place))), self.project.weight)
        shared = shared * count.to(vectors.dtype).rsqrt()[:, None] + self.project.bias * begins[:, None].to(vectors.dtype)
        return torch.where((count > 1)[:, None], shared, vectors)

    @torch.no_grad()
    def initialise(self) -> None:
        nn.init.normal_(self.gain.weight)
        nn.init.normal_(self.offset.weight)
        nn.init.normal_(self.project.weight, std=self.project.in_features**-0.5)
        nn.init.zeros_(self.project.bias)


class Embedding(nn.Module):
    """A batch's ids and patches -> (B, L, width).

    **Arguments:** `image_id`: ids with this value take the patches, in order, row by row; `numbers`, `pool`: of the compact layout.
    """

    def __init__(
        self, num_rows: int, width: int, image_id: int, max_local_positions: int, patch_embedder: nn.Module,
        numbers: NumberEmbedding | None = None, pool: PatchPool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.image_id, self.action_row = image_id, max_local_positions
        self.tokens = TokenTable(num_rows, width)
        self.patch_embedder = patch_embedder
        self.patch_rows = nn.Embedding(NUM_POSITION_BINS, width)
        self.patch_columns = nn.Embedding(NUM_POSITION_BINS, width)
        self.local = nn.Embedding(max_local_positions + 1, width)  # the last row is shared by all action tokens
        self.numbers = numbers
        self.pool = pool

    def forward(
        self, ids: Tensor, local_positions: Tensor | None, patches: Tensor | None, patch_boxes: Tensor | None, index: Tensor | None = None,
        numbers: Numbers | None = None, first: Tensor | None = None, patch_of: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """
        **Arguments:** `ids`, `local_positions` (B, L); `patches` uint8 (N, 16, 16, 3), `patch_boxes` (N, 4); `index` (N,): the
        flat place of each patch in `ids`, B * L for a spare one; by default the image slots, in order;
        `first` (U,), `patch_of` (N,): `TokenBatch.first_patches` and `patch_of`, so that equal patches are embedded once;
        `numbers`: in the compact layout those of the positions that hold some.

        **Raises:** `ValueError` if the patches do not match the image slots. Spare patches, and patches where there are
        no slots at all, are embedded and dropped: their gradient is zero, but there is one.
        """
        if patches is None or patch_boxes is None:
            embedded = self.tokens(ids)
        else:
            index = self._slots(ids, len(patches)) if index is None else index
            if first is None or patch_of is None:
                vectors = self.patch_embedder(patches)
            else:
                vectors = self.patch_embedder(patches[first]).index_select(0, patch_of)
            embedded = self._with_patches(ids, vectors, patch_boxes, index)
        if local_positions is not None:
            place = torch.where(local_positions == ACTION_LOCAL, self.action_row, local_positions.clamp(min=0))
            embedded = embedded + self.local(place) * (local_positions != NO_LOCAL)[..., None].to(embedded.dtype)
        if self.numbers is not None and numbers is not None:
            pooled = self.numbers(numbers, self.tokens.weight)
            flat = F.pad(embedded.flatten(0, 1), (0, 0, 0, 1))  # one place more, where spare numbers go
            embedded = flat.index_add(0, numbers.position, pooled.to(flat.dtype))[:-1].view(embedded.shape)
        return embedded

    @torch.no_grad()
    def smooth_places(self) -> None:
        """Rows and columns of patches that lie near each other begin alike, and about as large as the patches.

        In training a patch's place is drawn within it each time (appendix C.3): of a few patches in a picture each has dozens,
        which mean the same and would begin as so many random vectors (docs/results/compact.md).
        """
        for table in (self.patch_rows, self.patch_columns):
            table.weight.copy_(smooth_rows(table.num_embeddings, table.embedding_dim, PLACE_STD, PLACE_BANDWIDTH))

    def action(self, ids: Tensor) -> Tensor:
        """Action tokens (n,) -> (n, width): what `forward` makes of them, in two kernels."""
        return F.embedding(ids, self.tokens.weight) + self.local.weight[self.action_row]

    def _with_patches(self, ids: Tensor, vectors: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
        middle = ((boxes[:, 0::2] + boxes[:, 1::2] + 1) // 2).clamp(max=NUM_POSITION_BINS - 1)  # (N, 2): the rounded mean
        vectors = vectors + self.patch_rows(middle[:, 0]) + self.patch_columns(middle[:, 1])
        flat = self.tokens(F.pad(ids.flatten(), (0, 1)))  # one place more, where spare patches go
        if self.pool is None:
            flat = flat.index_copy(0, index, vectors.to(flat.dtype))
        else:
            flat = flat.index_add(0, index, self.pool(vectors, index).to(flat.dtype))  # the separator may stand at the last of them
        return flat[:-1].view(*ids.shape, -1)

    def _slots(self, ids: Tensor, num_patches: int) -> Tensor:
        slots = (ids == self.image_id).flatten().nonzero()[:, 0]
        if len(slots) == 0:
            return slots.new_full((num_patches,), ids.numel())
        if len(slots) != num_patches:
            raise ValueError(f"{num_patches} patches were given for {len(slots)} image slots")
        return slots
