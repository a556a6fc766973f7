"""Recurrent independent mechanisms (Goyal et al. 2019): a memory of n blocks, of which the k that the input concerns most take part.

For every timestep:

1. Input attention: block i compares its state with the embedded input and with a null slot, which is zero: the weight on the input is
   softmax over the two, a_i = sigmoid(q_i . key / 8). The k blocks with the most weight on the input are active.
2. An active block's own LSTM or GRU cell takes a_i * value in.
3. Communication attention: active blocks read the new states of all; what the others would have become is read without a gradient.
4. The others keep their state, bit for bit.

Since the null slot is zero and the input is one slot, everything that depends on the input alone is computed for all timesteps at
once: the keys as each block's query sees them, and what each cell makes of the value. What is left for the loop over time are products
per block, which run as one batched product over the blocks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KEY, VALUE_FACTOR = 64, 4  # of the input attention: width of keys; width of the value, in widths of a block
HEADS, HEAD_WIDTH = 4, 16  # of the communication attention


class RIM(nn.Module):
    """See `memories.py` for the arguments of `forward`.

    **Arguments:** `inputs`: width of what comes in; `width`: of all blocks together; `num_blocks`, `num_active`: n and k; `cell`: `lstm` or
    `gru`.

    **Attributes:** `active`: (B, T, n) bool, which blocks took part in the last `forward`.
    """

    def __init__(self, inputs: int, width: int, num_blocks: int, num_active: int, cell: str = "lstm") -> None:
        super().__init__()
        assert width % num_blocks == 0 and 1 <= num_active <= num_blocks, (width, num_blocks, num_active)
        n, d, self._is_lstm = num_blocks, width // num_blocks, cell == "lstm"
        self.width, self.num_blocks, self.num_active = width, n, num_active
        self.size = 2 * width if self._is_lstm else width
        gates = 4 * d if self._is_lstm else 3 * d
        # embedded before the null slot joins it: else an input of zeros would be the null slot
        self.embedding = nn.Linear(inputs, width)
        self.key, self.value = nn.Linear(width, KEY, bias=False), nn.Linear(width, VALUE_FACTOR * d, bias=False)
        self.query = _weights(n, d, KEY)
        self.cell_input, self.cell_state = _weights(n, VALUE_FACTOR * d, gates), _weights(n, d, gates)
        self.cell_bias = nn.Parameter(torch.zeros(n, 1, gates))
        self.communication = _weights(n, d, 3 * HEADS * HEAD_WIDTH)  # queries, keys and values
        self.read = nn.Linear(HEADS * HEAD_WIDTH, 2 * d)  # how much of what is read is let in, and what
        self.active = torch.zeros(0, 0, n, dtype=torch.bool)
        for layer in (self.embedding, self.key, self.value, self.read):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))

    def forward(self, x: Tensor, state: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        seen, taken = (part.unbind() for part in self._prepare(x))  # a gradient of `part[t]` would be as large as all of `part`
        keep, found, active = (~first).to(x.dtype)[None, :, :, None], [], []
        parts = [self._blocks(part) for part in state.split(self.width, dim=1)]
        for t, begins in enumerate(first.any(dim=0).tolist()):
            if begins:
                parts = [part * keep[:, :, t] for part in parts]
            parts, is_active = self._step(seen[t], taken[t], parts)
            found.append(parts[0])
            active.append(is_active)
        self.active = torch.stack(active, dim=2)[..., 0].permute(1, 2, 0)
        return torch.stack(found, dim=1).permute(2, 1, 0, 3).flatten(2), torch.cat([self._flat(part) for part in parts], dim=1)

    def _prepare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, inputs) -> keys as each block's query sees them (T, n, B, d), and the inputs of each cell (T, n, B, gates)."""
        embedded = self.embedding(x).transpose(0, 1)
        t, b = embedded.shape[:2]
        key, value = self.key(embedded).flatten(0, 1), self.value(embedded).flatten(0, 1)
        seen = torch.matmul(key, self.query.transpose(1, 2)) / math.sqrt(KEY)  # (n, T * B, d)
        taken = torch.matmul(value, self.cell_input)
        return seen.unflatten(1, (t, b)).transpose(0, 1), taken.unflatten(1, (t, b)).transpose(0, 1)

    def _step(self, seen: Tensor, taken: Tensor, old: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """One timestep: (n, B, d) of the hidden state, and for an LSTM of the cell's -> the next, and which blocks are active (n, B, 1)."""
        score = (old[0] * seen).sum(dim=-1, keepdim=True)
        chosen = score.topk(self.num_active, dim=0).indices
        is_active = torch.zeros_like(score, dtype=torch.bool).scatter_(0, chosen, True)
        new = self._cells(torch.sigmoid(score) * taken, old)
        readable = torch.where(is_active, new[0], new[0].detach())
        new[0] = readable + self._communicate(readable)
        return [torch.where(is_active, after, before) for after, before in zip(new, old, strict=True)], is_active

    def _cells(self, taken: Tensor, old: list[Tensor]) -> list[Tensor]:
        """Every block's own cell: (n, B, gates) from the input -> the states that it would have next."""
        hidden, d = old[0], old[0].shape[-1]
        if self._is_lstm:
            gates = torch.baddbmm(taken + self.cell_bias, hidden, self.cell_state)
            shares, candidate = gates.split((3 * d, d), dim=-1)
            let_in, forget, let_out = torch.sigmoid(shares).chunk(3, dim=-1)
            cell = forget * old[1] + let_in * torch.tanh(candidate)
            return [let_out * torch.tanh(cell), cell]
        (kept, recalled), (taken, wanted) = (
            part.split((2 * d, d), dim=-1) for part in (torch.bmm(hidden, self.cell_state), taken + self.cell_bias)
        )
        reset, update = torch.sigmoid(taken + kept).chunk(2, dim=-1)
        candidate = torch.tanh(wanted + reset * recalled)
        return [candidate + update * (hidden - candidate)]

    def _communicate(self, hidden: Tensor) -> Tensor:
        """What each block reads of all blocks, (n, B, d) -> (n, B, d)."""
        parts = torch.bmm(hidden, self.communication).unflatten(-1, (3, HEADS, HEAD_WIDTH))
        q, k, v = parts.permute(2, 1, 3, 0, 4)  # (B, heads, n, head width)
        read = F.scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3).flatten(2)
        gate, content = self.read(read).chunk(2, dim=-1)
        return torch.sigmoid(gate) * torch.tanh(content)

    def _blocks(self, flat: Tensor) -> Tensor:
        """(B, width) -> (n, B, d)."""
        return flat.unflatten(1, (self.num_blocks, -1)).transpose(0, 1)

    def _flat(self, blocks: Tensor) -> Tensor:
        return blocks.transpose(0, 1).flatten(1)


def _weights(num_blocks: int, inputs: int, outputs: int) -> nn.Parameter:
    """A matrix for every block, (n, inputs, outputs), orthogonal: smaller ones let so little in that learning begins late."""
    return nn.Parameter(torch.stack([nn.init.orthogonal_(torch.empty(inputs, outputs)) for _ in range(num_blocks)]))
