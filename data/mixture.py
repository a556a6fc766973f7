"""Weighted sources -> rows -> batches, each a pure function of (seed, global step, row).

A row is drawn by index: the mixture picks a source (weights are expected shares of rows), the source an
episode and a window, and a quarter of the control rows start with a prompt from another episode
(Gato, section 2.2). There is no shuffle buffer and no iterator state: resuming at any step is free,
and neither ranks nor workers change what a row holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gato import envs
from gato.batch import Kind, TokenBatch, TokenSequence, collate, join
from gato.data.stores import named_store, stores_folder
from gato.given import nearest
from gato.layers.layout import Layout
from gato.spec import TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.image import draw_positions
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

from .loading import WORKER_TIMEOUT, load, rank_rows
from .selection import DataConfig, check, is_held_out
from .source import Piece, Source
from .store import Store


@dataclass(frozen=True)
class Row:
    """One drawn row: its tokens with drawn patch positions, its source's index, its parts, its numbers for stochastic depth.

    `wants_prompt` without a prompt among the `pieces`: not even one timestep fitted into half the context.
    """

    tokens: TokenSequence
    source: int
    pieces: tuple[Piece, ...]
    wants_prompt: bool
    depth_noise: np.ndarray


class Mixture:
    """The rows and batches of a run.

    **Arguments:**

    - `config`; `tokenizer`: turns windows into tokens.
    - `context_length`: L, tokens in a row; `seed`: of the data order.
    - `num_depth_draws`: numbers per row for stochastic depth (two per layer), drawn here so that all
      randomness of a step follows from (seed, step, row) and travels with the batch.

    **Raises:** `ValueError` in one line for settings out of range, weights that are negative or all zero, a
    source that is missing, empty, held out or unfit for the tokenizer and the context, and two sources
    that mean different things by one task.
    """

    def __init__(self, config: DataConfig, tokenizer: EpisodeTokenizer, context_length: int, seed: int, num_depth_draws: int = 0) -> None:
        check(config)
        self.config, self.tokenizer, self.context_length, self.seed = config, tokenizer, context_length, seed
        self.num_depth_draws = num_depth_draws
        held_out = config.all_held_out
        stores = {name: Store(s.store or named_store(name)) for name, s in config.sources.items()}
        _check_held_out(config.held_out, stores)
        self.sources = [Source(name, s, stores[name], tokenizer, context_length, held_out) for name, s in config.sources.items()]
        self._check_tasks()
        if tokenizer.layout == "compact":
            for i, source in enumerate(self.sources):
                source.measure({t.name: t for earlier in self.sources[:i] for t in earlier.tasks})
        sizes = {s.name: s.places.total * (1 if s.is_text else s.per_timestep) for s in self.sources} if config.temperature else {}
        weights = row_weights(config, sizes)
        self.shares = weights / weights.sum()
        self._cumulative = np.cumsum(self.shares)

    @property
    def tasks(self) -> dict[str, TaskSpec]:
        """The task specs of all sources with their memories, prompts, returns and chunks, by task name; without those held out."""
        return {
            task.name: replace(
                task, memory=source.config.memory, prompt_steps=source.config.prompt_steps, returns=source.returns, chunk=source.chunk
            )
            for source in self.sources
            for i, task in enumerate(source.tasks)
            if i not in source.left_out_tasks
        }

    @property
    def fingerprint(self) -> dict[str, str]:
        return {source.name: source.store.fingerprint for source in self.sources}

    def _check_tasks(self) -> None:
        """Whether every task means the same in all sources; that a run goes on with the same ones, its fingerprint says."""
        seen: dict[str, tuple[TaskSpec, Source]] = {}
        for source in self.sources:
            for task in source.store.tasks:
                other, first = seen.setdefault(task.name, (task, source))
                if lines := other.differences(task):
                    raise ValueError(
                        f"source '{source.name}': task '{task.name}' is not the one of source '{first.name}': {lines[0]}; "
                        "rename or import it again"
                    )
                if first.returns != source.returns:
                    raise ValueError(
                        f"task '{task.name}' has the returns {first.returns} in source '{first.name}' and {source.returns} in "
                        f"'{source.name}', but is told of one scale; give it one source with return_token"
                    )
                for name in ("memory", "chunk", "prompt_steps"):
                    mine, other_s = getattr(source.config, name), getattr(first.config, name)
                    if mine != other_s:
                        raise ValueError(
                            f"task '{task.name}' has {name} {other_s} in source '{first.name}' and {mine} in '{source.name}', "
                            "but is played with one; give both the same"
                        )

    def _generator(self, step: int, row: int, lane: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, lane, row, step]))

    def row(self, step: int, row: int, source: int | None = None) -> Row:
        """What row `row` of the global batch of update `step` holds; or would hold if its source were `source`."""
        rng, noise = self._generator(step, row, 0), self._generator(step, row, 1)
        drawn = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.sources) - 1)
        index = drawn if source is None else source
        wants_prompt = self.sources[index].is_control and rng.random() < self.config.prompt_share
        tokens, pieces = self._fill(self.sources[index], rng, wants_prompt)
        depth = noise.random(self.num_depth_draws)
        boxes = draw_positions(tokens.patch_boxes, noise.random((len(tokens.patches), 2)))
        return Row(replace(tokens, patch_boxes=boxes), index, tuple(pieces), wants_prompt, depth)

    def _fill(self, source: Source, rng: np.random.Generator, wants_prompt: bool) -> tuple[TokenSequence, list[Piece]]:
        """A prompt and its window, or windows packed as documents until the context is full; with a memory prompted ones too."""
        parts: list[TokenSequence] = []
        pieces: list[Piece] = []
        left = self.context_length
        while left > 0:
            if source.has_short_windows and not wants_prompt:
                sequence, drawn = source.windows(rng, left)
                parts.append(sequence)
                pieces += drawn
                left -= len(sequence)
                continue
            sequence, piece = source.window(rng, left)
            prompt = source.prompt(rng, left // 2, piece.episode) if wants_prompt and left > 1 else None
            if prompt is not None:
                shown = prompt[0] if self.config.loss_on_prompts else prompt[0].without_targets()
                sequence = join([shown, sequence], same_document=True).cut(left)
                pieces.append(prompt[1])
            elif parts and not source.is_text and len(sequence) == left and sequence.timestep[-1] == 0:
                break  # not even its first timestep fits: leave the rest to padding
            parts.append(sequence)
            pieces.append(piece)
            left -= len(sequence)
            if prompt is not None and not source.config.memory:
                break
            wants_prompt = wants_prompt and bool(source.config.memory)
        return join(parts, same_document=False), pieces

    def counts(self, batch: TokenBatch) -> dict[str, float]:
        """`tokens` that are not padding, `places`, and timesteps of control (`transitions`), each of which has one separator."""
        is_control = torch.tensor([source.is_control for source in self.sources])[batch.sources]
        transitions = int((batch.kind == Kind.SEPARATOR)[is_control].sum())
        return {"tokens": batch.num_tokens, "places": batch.ids.numel(), "transitions": transitions}

    def sources_of(self, step: int, rows: Sequence[int]) -> list[str]:
        """The names of the sources that rows of an update come from."""
        return [self.sources[self.row(step, row).source].name for row in rows]

    def batch(self, step: int, rows: Sequence[int]) -> TokenBatch:
        """The given rows of one global batch, with this step's random draws."""
        return self.collate([self.row(step, r) for r in rows])

    def collate(self, drawn: Sequence[Row]) -> TokenBatch:
        return collate(
            [d.tokens for d in drawn], self.context_length, self.tokenizer.vocabulary.pad,
            sources=[d.source for d in drawn],
            weights=[self.sources[d.source].config.loss_weight for d in drawn],
            depth_noise=np.stack([d.depth_noise for d in drawn]) if self.num_depth_draws else None,
        )  # fmt: skip

    def loader(
        self, steps: range, batch_size: int, micro_batch_size: int, rank: int = 0, ranks: int = 1, timeout: int = WORKER_TIMEOUT
    ) -> Iterator[list[TokenBatch]]:
        """Micro-batches of every step in `steps`, as lists: the rows of `rank`, whose own targets make the denominator.

        **Raises:** `RuntimeError` naming the worker that died, or that took longer than `timeout` seconds for an
        update; `ValueError` for damaged data, in one line from a worker too.
        """
        return load(self, steps, rank_rows(batch_size, rank, ranks), micro_batch_size, self.config.workers, timeout)


def _check_held_out(patterns: Sequence[str], stores: Mapping[str, Store]) -> None:
    """Whether every name to hold out is one of a task somewhere: a slip of the pen would hold nothing out."""
    if not patterns:
        return
    known = {*envs.tasks(), *stores}
    known |= {name for store in stores.values() for task in store.tasks for name in (task.name, envs.registered_name(task))}
    known |= {path.parent.relative_to(stores_folder()).as_posix() for path in stores_folder().glob("*/*/manifest.json")}
    for pattern in patterns:
        if not any(is_held_out(name, [pattern]) for name in known):
            raise ValueError(
                f"held_out names '{pattern}', which is no task of the sources, of the registry or of the stores folder"
                f"{nearest(pattern, known) or '; docs/suites.md lists the registry'}"
            )


def row_weights(config: DataConfig, sizes: Mapping[str, int]) -> np.ndarray:
    """The weight of every source: as given, or 1, or by temperature from `sizes`; see `DataConfig`."""
    given = {name: s.weight for name, s in config.sources.items()}
    if config.temperature is not None:
        # from logarithms: a low temperature and large sizes would overflow
        logs = {name: math.log(sizes[name]) / config.temperature for name, weight in given.items() if weight is None}
        powers = {name: math.exp(log - max(logs.values())) for name, log in logs.items()}
        given |= {name: power * len(powers) / sum(powers.values()) for name, power in powers.items()}
    return np.array([1.0 if weight is None else weight for weight in given.values()], dtype=np.float64)


def open_tokenizer(config: DataConfig, max_local_positions: int = 512, layout: Layout = "gato", pool_patches: int = 1) -> EpisodeTokenizer:
    """The mixture's tokenizer, in the layout that training with it uses. **Raises:** `ValueError` if there is none."""
    text = TextTokenizer.load(config.tokenizer or stores_folder() / "tokenizer.model")
    vocabulary = Vocabulary.of(text.size)
    return EpisodeTokenizer(text, vocabulary, config.loss_on_text_observations, max_local_positions, layout, pool_patches)
