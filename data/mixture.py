"""Weighted sources -> rows -> batches, each a pure function of (seed, global step, row).

A row is drawn by index: the mixture picks a source (weights are expected shares of rows), the source an
episode and a window, and a quarter of the control rows start with a prompt from another episode
(Gato, section 2.2). There is no shuffle buffer and no iterator state: resuming at any step is free,
and neither ranks nor workers change what a row holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gato.batch import NO_LOCAL, Kind, TokenBatch, TokenSequence, collate, join
from gato.spec import Modality, TaskSpec

from ..tokenizers.episode import EpisodeTokenizer
from ..tokenizers.image import draw_positions
from .augment import augmented
from .store import Store, stores_folder
from .text import TokenisedText


@dataclass(frozen=True)
class SourceConfig:
    """- `weight`: expected share of rows, relative to the other sources.
    - `store`: a folder; by default the one of the source's name in the stores folder.
    - `loss_weight`: factor on every target of this source.
    - `augment`: pictures are cropped, scaled and mirrored anew at every draw; see `augmented`.
    """

    weight: float = 1.0
    store: str | None = None
    loss_weight: float = 1.0
    augment: bool = False


@dataclass(frozen=True)
class DataConfig:
    """The mixture.

    - `sources`: by name, for example `gymnasium/cartpole`.
    - `prompt_share`: share of control rows that start with a prompt.
    - `loss_on_text_observations`: whether instructions are targets (the paper's literal rule).
    - `tokenizer`: a SentencePiece model file; by default `tokenizer.model` in the stores folder.
    - `workers`: processes that read and tokenise; 0 does it in the training process.
    """

    sources: Mapping[str, SourceConfig] = field(default_factory=dict)
    prompt_share: float = 0.25
    loss_on_text_observations: bool = True
    tokenizer: str | None = None
    workers: int = 0


@dataclass(frozen=True)
class Piece:
    """Where a part of a row came from: `start` and `stop` count timesteps, or tokens of a document."""

    role: Literal["window", "prompt from the end", "prompt"]
    episode: int
    start: int
    stop: int


@dataclass(frozen=True)
class Row:
    """One drawn row: its tokens, its source's index and its parts."""

    tokens: TokenSequence
    source: int
    pieces: tuple[Piece, ...]


class Source:
    """One store, seen as windows of tokens."""

    def __init__(self, name: str, store: Store, tokenizer: EpisodeTokenizer, augment: bool = False) -> None:
        if store.num_episodes == 0:
            raise ValueError(f"source '{name}' holds no episodes; collect or import some first")
        self.name, self.store, self.tokenizer, self.augment = name, store, tokenizer, augment
        self.task: TaskSpec = store.tasks[0]
        self.is_control = self.task.is_control
        self.is_text = not self.task.observations and all(a.modality is Modality.TEXT for a in self.task.actions)
        self._documents: TokenisedText | None = None
        if self.is_text:
            assert tokenizer.text is not None, "a mixture with text has a text tokenizer"
            self._documents = TokenisedText.open(store, tokenizer.text.encode_documents, tokenizer.text.hash)
        lengths = self._documents.lengths if self._documents else store.lengths
        self._ends = np.cumsum(lengths)
        self._by_task: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # episodes of a task, and the running sum of their lengths
        self._per_timestep = tokenizer.tokens_per_timestep(self.task)

    def _length(self, episode: int) -> int:
        return int(self._ends[episode] - (self._ends[episode - 1] if episode else 0))

    def _draw_episode(self, rng: np.random.Generator) -> int:
        """An episode with a probability proportional to its length."""
        return int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))

    def _draw_other_episode(self, rng: np.random.Generator, task_index: int, avoid: int) -> int:
        """The same among the other episodes of a task; `avoid` itself only where the task has no other."""
        if task_index not in self._by_task:
            episodes = np.flatnonzero(self.store.task_indices == task_index)
            self._by_task[task_index] = episodes, np.cumsum(self.store.lengths[episodes])
        episodes, ends = self._by_task[task_index]
        if len(episodes) == 1:
            return avoid
        own, end = self._length(avoid), int(ends[np.searchsorted(episodes, avoid)])
        place = int(rng.integers(ends[-1] - own))
        return int(episodes[np.searchsorted(ends, place if place < end - own else place + own, side="right")])

    def window(self, rng: np.random.Generator, budget: int) -> tuple[TokenSequence, Piece]:
        """At most `budget` tokens, starting on a timestep boundary (in a document: at any token)."""
        episode = self._draw_episode(rng)
        length = self._length(episode)
        wanted = budget if self.is_text else -(-budget // self._per_timestep)
        start = self._draw_start(rng, length, wanted)
        piece = Piece("window", episode, start, min(start + wanted, length))
        return self._read(piece, rng).cut(budget), piece

    @staticmethod
    def _draw_start(rng: np.random.Generator, length: int, wanted: int) -> int:
        """A start that reaches all of an episode: a timestep within one window of an end is up to twice as likely as
        one in the middle, never less likely (uniform starts would hardly ever show the two ends)."""
        return int(np.clip(rng.integers(1 - wanted, length), 0, max(length - wanted, 0)))

    def prompt(self, rng: np.random.Generator, budget: int, task_index: int, avoid: int) -> tuple[TokenSequence, Piece] | None:
        """Whole timesteps of another episode of the same task, at most `budget` tokens; half of them from the end."""
        episode = self._draw_other_episode(rng, task_index, avoid)
        from_end, tokens = rng.random() < 0.5, int(rng.integers(1, budget + 1))
        length = self._length(episode)
        steps = min(max(1, tokens // self._per_timestep), length)
        start = length - steps if from_end else int(rng.integers(0, length - steps + 1))
        piece = Piece("prompt from the end" if from_end else "prompt", episode, start, start + steps)
        sequence = _drop_first_timesteps(self._read(piece, rng), budget)
        return (sequence, replace(piece, start=start + int(sequence.timestep[0]))) if len(sequence) else None

    def _read(self, piece: Piece, rng: np.random.Generator) -> TokenSequence:
        if self._documents is not None:
            return _document_sequence(self._documents.ids(piece.episode, piece.start, piece.stop))
        episode = self.store.episode(piece.episode, piece.start, piece.stop)
        return self.tokenizer.encode(augmented(episode, rng) if self.augment else episode)


def _drop_first_timesteps(sequence: TokenSequence, budget: int) -> TokenSequence:
    """The last whole timesteps that fit into `budget` tokens; possibly none."""
    starts = np.flatnonzero(np.diff(sequence.timestep, prepend=-1))
    fits = starts[len(sequence) - starts <= budget]
    return sequence.drop(int(fits[0]) if len(fits) else len(sequence))


def _document_sequence(ids: np.ndarray) -> TokenSequence:
    n = len(ids)
    return TokenSequence(
        ids=np.asarray(ids, np.int32), kind=np.full(n, Kind.TEXT, np.uint8), local_position=np.full(n, NO_LOCAL, np.int16),
        timestep=np.zeros(n, np.int32), document=np.zeros(n, np.int16), is_target=np.ones(n, bool),
        patches=np.zeros((0, 16, 16, 3), np.uint8), patch_boxes=np.zeros((0, 4), np.uint8),
    )  # fmt: skip


class Mixture:
    """The rows and batches of a run.

    **Arguments:**

    - `config`; `tokenizer`: turns windows into tokens.
    - `context_length`: L, tokens in a row; `seed`: of the data order.
    - `num_depth_draws`: numbers per row for stochastic depth (two per layer), drawn here so that all
      randomness of a step follows from (seed, step, row) and travels with the batch.

    **Raises:** `ValueError` for weights that are negative or all zero, and for a missing or empty store.
    """

    def __init__(self, config: DataConfig, tokenizer: EpisodeTokenizer, context_length: int, seed: int, num_depth_draws: int = 0) -> None:
        weights = np.array([s.weight for s in config.sources.values()], dtype=np.float64)
        if len(weights) == 0 or (weights < 0).any() or weights.sum() <= 0:
            raise ValueError(
                f"mixture weights are {dict(zip(config.sources, weights, strict=True))}; give at least one above zero and none below"
            )
        self.config, self.tokenizer, self.context_length, self.seed = config, tokenizer, context_length, seed
        self.num_depth_draws = num_depth_draws
        self.sources = [Source(name, Store(store_path(name, s)), tokenizer, s.augment) for name, s in config.sources.items()]
        self.shares = weights / weights.sum()
        self._cumulative = np.cumsum(self.shares)

    @property
    def tasks(self) -> dict[str, TaskSpec]:
        """The task specs of all sources, by task name."""
        return {task.name: task for source in self.sources for task in source.store.tasks}

    @property
    def fingerprint(self) -> dict[str, str]:
        return {source.name: source.store.fingerprint for source in self.sources}

    def _generator(self, step: int, row: int, lane: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, lane, row, step]))

    def row(self, step: int, row: int) -> Row:
        """What row `row` of the global batch of update `step` holds."""
        rng = self._generator(step, row, 0)
        index = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.sources) - 1)
        source = self.sources[index]
        wants_prompt = source.is_control and rng.random() < self.config.prompt_share
        budget = self.context_length
        sequence, piece = source.window(rng, budget)
        prompt = None
        if wants_prompt:
            prompt = source.prompt(rng, budget // 2, int(source.store.task_indices[piece.episode]), piece.episode)
        if prompt is not None:
            sequence = join([prompt[0], sequence], same_document=True).cut(budget)
            return Row(sequence, index, (prompt[1], piece))
        parts, pieces = [sequence], [piece]
        while (left := budget - sum(map(len, parts))) > 0:
            sequence, piece = source.window(rng, left)
            if not source.is_text and len(sequence) == left and sequence.timestep[-1] == 0:
                break  # not even its first timestep fits: leave the rest to padding
            parts.append(sequence)
            pieces.append(piece)
        return Row(join(parts, same_document=False), index, tuple(pieces))

    def batch(self, step: int, rows: Sequence[int]) -> TokenBatch:
        """The given rows of one global batch, with this step's random draws."""
        drawn = [self.row(step, r) for r in rows]
        noise = [self._generator(step, r, 1) for r in rows]
        depth = np.stack([g.random(self.num_depth_draws) for g in noise]) if self.num_depth_draws else None
        tokens = [
            replace(d.tokens, patch_boxes=draw_positions(d.tokens.patch_boxes, g.random((len(d.tokens.patches), 2))))
            for d, g in zip(drawn, noise, strict=True)
        ]
        names = list(self.config.sources)
        return collate(
            tokens, self.context_length, self.tokenizer.vocabulary.pad,
            sources=[d.source for d in drawn],
            weights=[self.config.sources[names[d.source]].loss_weight for d in drawn],
            depth_noise=depth,
        )  # fmt: skip

    def loader(self, steps: range, batch_size: int, micro_batch_size: int) -> Any:
        """Micro-batches of every step in `steps`, as lists; a torch DataLoader whose order is the steps'."""
        return torch.utils.data.DataLoader(
            _Steps(self, batch_size, micro_batch_size),
            sampler=steps,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self.config.workers,
            timeout=300 if self.config.workers else 0,
            multiprocessing_context="spawn" if self.config.workers else None,
            persistent_workers=False,
        )


class _Steps(torch.utils.data.Dataset):
    """Index: the update; item: its micro-batches."""

    def __init__(self, mixture: Mixture, batch_size: int, micro_batch_size: int) -> None:
        self.mixture, self.batch_size, self.micro_batch_size = mixture, batch_size, micro_batch_size

    def __getitem__(self, step: int) -> list[TokenBatch]:
        rows = [range(r, min(r + self.micro_batch_size, self.batch_size)) for r in range(0, self.batch_size, self.micro_batch_size)]
        batches = [self.mixture.batch(step, part) for part in rows]
        denominator = sum(b.denominator for b in batches)
        return [b.with_denominator(denominator) for b in batches]


def store_path(name: str, source: SourceConfig) -> Path:
    return Path(source.store) if source.store else stores_folder() / name
