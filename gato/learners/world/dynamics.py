"""The world model: what was seen, done and earned so far -> what is seen next, the reward, and whether the game goes on.

A timestep is one token, the sum of three embeddings, or three tokens: the reward before, what is seen, the action. The last token's
state h says all there is to say of the timestep: a reward comes into the sequence one timestep later, so none is told before it is
predicted. On a board, what is seen next depends on a choice among a few outcomes, which is made for all cells together (a paddle is in
one place, not half in each of two), and, given that, on every cell's own probability, which convolutions say of the cells now, the
action and h. h knows the path that was played; in training it is kept from the convolutions now and then, so that they foresee also
boards to which no such path led. Of a picture every symbol has probabilities of its own, which h says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.layers.stream_cache import StreamCache
from gato.layers.transformer import Transformer

from .board import Board, Scene
from .config import WorldConfig

COPY = 4.0  # logit by which a cell stays as it is, at first
GOES_ON = 3.0  # logit of the discount, at first


@dataclass(frozen=True)
class Next:
    """What follows n timesteps.

    - `outcomes`: (n, K) logits; `cells`: (n, K, kinds, rows, columns) logits given each.
    - `reward`: (n,), its mean; `discount`: (n,) logit.
    """

    outcomes: Tensor
    cells: Tensor
    reward: Tensor
    discount: Tensor

    def nll(self, cells: Tensor) -> Tensor:
        """Negative log-likelihood in nats, (n,), of the next cells (n, rows, columns, kinds) of 0 and 1."""
        truth = cells.permute(0, 3, 1, 2)[:, None].expand_as(self.cells)
        given = -F.binary_cross_entropy_with_logits(self.cells, truth, reduction="none").sum(dim=(2, 3, 4))
        return -torch.logsumexp(self.outcomes.log_softmax(dim=-1) + given, dim=-1)

    def draw(self, noise: Tensor | None, sharpness: float = 1.0) -> Tensor:
        """The next cells (n, rows, columns, kinds) of 0 and 1, drawn by `noise` (n, K + cells) in [0, 1); the likeliest where `None`.

        **Arguments:** `sharpness`: the cells' logits given the outcome are multiplied by it.
        """
        n, k = self.outcomes.shape
        scores = self.outcomes if noise is None else self.outcomes + gumbel(noise[:, :k])
        logits = self.cells[torch.arange(n), scores.argmax(dim=-1)]
        if noise is None:
            found = logits > 0
        else:
            found = noise[:, k:].view_as(logits) < (sharpness * logits).sigmoid()
        return found.to(logits.dtype).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class NextSymbols:
    """What follows n timesteps of pictures: `symbols` (n, groups, classes) logits, `reward` and `discount` as of `Next`."""

    symbols: Tensor
    reward: Tensor
    discount: Tensor

    def nll(self, symbols: Tensor) -> Tensor:
        """Cross-entropy in nats, (n,), of probabilities (n, groups, classes) of the next symbols."""
        return -(symbols * self.symbols.log_softmax(dim=-1)).sum(dim=(1, 2))

    def draw(self, noise: Tensor | None, sharpness: float = 1.0) -> Tensor:
        """As of `Next`: the next symbols (n, groups, classes) of 0 and 1, drawn by the last of `noise`."""
        if noise is None:
            return one_hot(self.symbols)
        return one_hot(sharpness * self.symbols + gumbel(noise[:, -self.symbols[0].numel() :]).view_as(self.symbols))


def gumbel(uniform: Tensor) -> Tensor:
    return -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))


def one_hot(logits: Tensor) -> Tensor:
    """The likeliest of the last axis, as 0 and 1."""
    return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)


class WorldModel(nn.Module):
    """**Arguments:** `scene`: what is seen and done.

    **Attributes:** `moves` (2, kinds): by how many at least and at most the cells of each kind of a board became more in a timestep, of
    all that were shown to `notice`.
    """

    moves: Tensor

    def __init__(self, scene: Scene, config: WorldConfig) -> None:
        super().__init__()
        width = config.width
        self.register_buffer("moves", torch.zeros(2, scene.kinds if isinstance(scene, Board) else 0))
        self.scene, self.config = scene, config
        self.see = nn.Linear(scene.size, width)
        self.do = nn.Linear(scene.choices.num_outputs, width)
        self.earn = nn.Linear(1, width) if config.reward_token else None
        self.transformer = Transformer(config.num_layers, config.num_heads, width, width // config.num_heads, 4 * width, config.positions)
        self.ahead = BoardAhead(scene, config) if isinstance(scene, Board) else SymbolsAhead(config)

    @property
    def tokens(self) -> int:
        """Of a timestep."""
        return 1 if self.config.tokens == "one" else 3 if self.earn is not None else 2

    def embed(self, cells: Tensor, actions: Tensor, before: Tensor) -> Tensor:
        """Timesteps as tokens.

        **Arguments:** `cells` (B, T, *codes) of 0 and 1; `actions` (B, T, `choices.size`); `before` (B, T): the reward of the
        timestep before in the same episode, 0 where there is none.

        **Returns:** (B, T, `tokens`, width).
        """
        parts = [] if self.earn is None else [F.silu(self.earn(before[..., None]))]
        parts += [F.silu(self.see(cells.flatten(2))), self.do(self.scene.one_hot(actions))]
        if self.config.tokens == "one":
            return torch.stack(parts).sum(dim=0)[:, :, None]
        return torch.stack(parts, dim=2)

    def forward(self, tokens: Tensor, episode: Tensor) -> Tensor:
        """One masked pass over whole windows.

        **Arguments:** `tokens` (B, T, `tokens`, width); `episode` (B, T): timesteps with different numbers do not see each other.

        **Returns:** (B, T, width): h of every timestep.
        """
        n, length = self.tokens, tokens.shape[1] * self.tokens
        places = torch.arange(length, device=tokens.device)
        back = places[:, None] - places
        mask = (back >= 0) & (back < self.config.memory * n)
        owner = episode.repeat_interleave(n, dim=1)
        mask = mask & (owner[:, :, None] == owner[:, None, :])
        hidden = self.transformer(tokens.flatten(1, 2), mask[:, None])
        return hidden[:, n - 1 :: n]

    def predict(self, hidden: Tensor, cells: Tensor, actions: Tensor, blind: Tensor | None = None) -> Next | NextSymbols:
        """What follows.

        **Arguments:** `hidden` (n, width); `cells` (n, *codes) and `actions` (n, `choices.size`) of the same timesteps; `blind`
        (n,) bool: of these the convolutions are not told h.
        """
        return self.ahead(hidden, cells, self.scene.one_hot(actions), blind)

    @torch.no_grad()
    def notice(self, cells: Tensor, later: Tensor) -> None:
        """**Arguments:** `cells` and `later` (n, *codes): real timesteps and those behind them."""
        if self.moves.numel() and len(cells):
            more = (later - cells).sum(dim=(1, 2))
            self.moves.copy_(torch.stack([torch.minimum(self.moves[0], more.amin(dim=0)), torch.maximum(self.moves[1], more.amax(dim=0))]))

    def can_follow(self, cells: Tensor, later: Tensor) -> Tensor:
        """(n,) bool: whether no kind of cells becomes more, or fewer, at once than it ever really did; always of pictures."""
        if not self.moves.numel():
            return torch.ones(len(cells), dtype=torch.bool, device=cells.device)
        more = (later - cells).sum(dim=(1, 2))
        return ((more >= self.moves[0]) & (more <= self.moves[1])).all(dim=1)

    def remember(self, num_streams: int, chunk: int = 1) -> Memory:
        """An empty memory of streams of timesteps, of which at most `chunk` come at once."""
        return Memory(self, num_streams, chunk)


class BoardAhead(nn.Module):
    """h of timesteps (n, width), their cells and actions (n, `choices.num_outputs`) -> `Next`: convolutions over the cells, shifted by the
    action and by h.

    Reward and discount are read off what the convolutions found, and how many cells of each kind come and go. h itself tells the paths
    apart that were played: what is read off it holds for them, and not where the policy never was.
    """

    def __init__(self, board: Board, config: WorldConfig) -> None:
        super().__init__()
        width, channels = config.width, config.channels
        self.outcomes, self.kinds = config.outcomes, board.kinds
        self.local = nn.Conv2d(board.kinds, channels, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(channels, board.rows, board.columns))
        self.told = nn.Linear(width, 2 * channels)
        self.do = nn.Linear(board.choices.num_outputs, 2 * channels)
        self.wider = nn.Conv2d(channels + board.kinds, channels, 3, padding=1)
        self.change = nn.Conv2d(channels, config.outcomes * board.kinds, 1)
        self.copy = nn.Parameter(torch.full((board.kinds, 1, 1), COPY))
        self.choose = nn.Linear(width, config.outcomes)
        self.reward, self.discount = _ends(2 * channels + 2 * board.kinds, width)

    def forward(self, hidden: Tensor, cells: Tensor, actions: Tensor, blind: Tensor | None = None) -> Next:
        planes, choice = cells.permute(0, 3, 1, 2), self.choose(hidden)
        told = self.told(hidden if blind is None else hidden * ~blind[:, None])
        first, second = (told + self.do(actions))[:, :, None, None].chunk(2, dim=1)
        features = F.relu(self.local(planes) + self.place + first)
        features = F.relu(self.wider(torch.cat([features, planes], dim=1)) + second)
        change = self.change(features).unflatten(1, (self.outcomes, self.kinds))
        logits = change + ((2 * planes - 1) * self.copy)[:, None]
        with torch.no_grad():  # rewards do not teach the cells
            share = (choice.softmax(dim=-1)[:, :, None, None, None] * logits.sigmoid()).sum(dim=1)
            moved = [(share * (1 - planes)).sum(dim=(2, 3)), ((1 - share) * planes).sum(dim=(2, 3))]
        seen = torch.cat([features.amax(dim=(2, 3)), features.mean(dim=(2, 3)), *moved], dim=-1)
        return Next(choice, logits, self.reward(seen)[:, 0], self.discount(seen)[:, 0])


class SymbolsAhead(nn.Module):
    """h of timesteps (n, width) and their symbols -> `NextSymbols`: a network of two hidden layers; a symbol rather stays as it is. It is
    always told h, which knows the action."""

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        width, inside = config.width, config.picture_width
        self.shape = (config.groups, config.classes)
        self.change = nn.Sequential(
            nn.Linear(width, inside), nn.SiLU(), nn.Linear(inside, inside), nn.SiLU(), nn.Linear(inside, config.groups * config.classes)
        )
        self.copy = nn.Parameter(torch.ones(config.groups, 1))
        self.reward, self.discount = _ends(width, width)

    def forward(self, hidden: Tensor, symbols: Tensor, actions: Tensor, blind: Tensor | None = None) -> NextSymbols:
        logits = self.change(hidden).unflatten(1, self.shape) + self.copy * symbols
        return NextSymbols(logits, self.reward(hidden)[:, 0], self.discount(hidden)[:, 0])


def _ends(inputs: int, width: int) -> tuple[nn.Sequential, nn.Sequential]:
    """What says the reward, and what the discount's logit."""
    reward, discount = (nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, 1)) for _ in range(2))
    nn.init.constant_(discount[-1].bias, GOES_ON)  # type: ignore[arg-type]
    return reward, discount


class Memory:
    """Keys and values of the last timesteps of n streams, so that a further timestep costs no second pass over them."""

    def __init__(self, world: WorldModel, num_streams: int, chunk: int) -> None:
        n, device = world.tokens, world.see.weight.device
        window = world.config.memory * n
        self.world, self.streams = world, np.arange(num_streams)
        self.cache = StreamCache(world.config.num_layers, num_streams, window + chunk * n - 1, window, device)

    @torch.no_grad()
    def step(self, tokens: Tensor, counts: np.ndarray | None = None) -> Tensor:
        """Takes timesteps (N, c, `tokens`, width) in, of each stream the first `counts` (N,) of them.

        **Returns:** h of the last, (N, width), without a gradient.
        """
        n, chunk = self.world.tokens, tokens.shape[1]
        counts = np.full(len(tokens), chunk) if counts is None else counts
        mask, queries, keys = self.cache.begin(self.streams, counts * n)
        hidden = self.world.transformer(tokens[:, : int(counts.max())].flatten(1, 2), mask, queries, keys, cache=self.cache)
        last = torch.from_numpy(counts * n - 1).to(hidden.device)
        return hidden[torch.arange(len(tokens), device=hidden.device), last]
