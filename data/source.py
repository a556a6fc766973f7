"""One source of a mixture: which episodes of its store take part, and how windows and prompts are drawn from them.

Drawing an episode costs a binary search in the store's mapped index, so a source of a million episodes opens as
fast as one of ten. Only a source that leaves episodes out (a part, a cap, behaviours, held-out tasks) reads
the index of all its episodes once, as NumPy arrays.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from gato import envs
from gato.batch import NO_LOCAL, Kind, TokenSequence
from gato.data.documents import TokenisedText
from gato.episode import Episode, in_line
from gato.layers.history import without_repeated_texts
from gato.layers.layout import Layout
from gato.learners.chunks import chunked, chunked_episode
from gato.learners.returns import told, told_episode
from gato.spec import PATCH_SIZE, Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer

from .augment import augmented
from .returns import check_returns
from .selection import SourceConfig, is_held_out, refuse_held_out
from .spread import EPISODES, measured
from .store import Store

SEVERAL = 16  # short windows that are read at once
NEAR = 64  # timesteps between the first and the last of them at most, where there are pictures

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Where a part of a row came from: `start` and `stop` count timesteps, or tokens of a document."""

    role: Literal["window", "prompt from the end", "prompt"]
    episode: int
    start: int
    stop: int


class Places(Protocol):
    """Episodes laid end to end: a place is one timestep of theirs, or one token of a document."""

    total: int
    num_episodes: int

    def find(self, place: int) -> int:
        """The episode that holds a place."""

    def span(self, episode: int) -> tuple[int, int]:
        """An episode's first place and its length."""


class AllEpisodes:
    """The places of a whole store, found in its mapped index: nothing is read before it is needed."""

    def __init__(self, store: Store) -> None:
        self.total, self.num_episodes = store.num_timesteps, store.num_episodes
        self.find, self.span = store.episode_at, store.span


class SomeEpisodes:
    """The places of some episodes, by running sums.

    **Arguments:** `episodes`: (E,) their numbers, ascending; `lengths`: (E,) places of each.
    """

    def __init__(self, episodes: np.ndarray, lengths: np.ndarray) -> None:
        self._episodes, self._ends = episodes, np.cumsum(lengths)
        self.total, self.num_episodes = int(self._ends[-1]), len(episodes)

    def find(self, place: int) -> int:
        return int(self._episodes[np.searchsorted(self._ends, place, side="right")])

    def span(self, episode: int) -> tuple[int, int]:
        i = int(np.searchsorted(self._episodes, episode))
        first = int(self._ends[i - 1]) if i else 0
        return first, int(self._ends[i]) - first


class Source:
    """One store, seen as windows of tokens.

    **Arguments:**

    - `name`, `config`: as in the mixture; `store`: opened.
    - `tokenizer`, `context_length`: what windows become, and how long a row may be.
    - `held_out`: patterns of task names, their own or the registry's for the same world, whose episodes do not take part.

    **Raises:** `ValueError` naming the source if no episode is left, if all its tasks are held out, or if the
    tokenizer or the context cannot hold one of its timesteps.
    """

    def __init__(
        self, name: str, config: SourceConfig, store: Store, tokenizer: EpisodeTokenizer, context_length: int, held_out: Sequence[str] = ()
    ) -> None:
        if store.num_episodes == 0:
            raise ValueError(f"source '{name}' holds no episodes; collect or import some first")
        if unfinished := store.manifest.shortfall:
            _log.warning("source '%s' holds %s", name, unfinished)
        self.name, self.config, self.store, self.tokenizer = name, config, store, tokenizer
        worlds = [(task.name, envs.registered_name(task)) for task in store.tasks]
        self.left_out_tasks = {i for i, names in enumerate(worlds) if any(is_held_out(n, held_out) for n in names)}
        refuse_held_out(name, [name], held_out)
        if len(self.left_out_tasks) == len(store.tasks):
            refuse_held_out(name, sorted({n for names in worlds for n in names}), held_out)
        self.tasks: list[TaskSpec] = [_stretched(task, config.image_size) for task in store.tasks]
        self.task: TaskSpec = self.tasks[0]
        self.is_control = self.task.is_control
        self.is_text = not self.task.observations and all(a.modality is Modality.TEXT for a in self.task.actions)
        if config.memory and not self.is_control:
            raise ValueError(f"source '{name}' has memory {config.memory} but no timesteps that follow one another; leave it out")
        self.chunk = config.chunk if config.chunk > 1 else None
        if self.chunk is not None:
            self._check_chunks(self.chunk)
        self._check(context_length)
        self._documents: TokenisedText | None = None
        if self.is_text:
            assert tokenizer.text is not None, "checked above"
            self._documents = TokenisedText.open(store, tokenizer.text.encode_documents, tokenizer.text.hash)
        self.episodes = selected_episodes(store, config, self.left_out_tasks)
        if self.episodes is not None and len(self.episodes) == 0:
            raise ValueError(
                f"source '{name}' has no episode left of {store.num_episodes} (part {config.part} with test_share {config.test_share}, "
                f"behaviours {config.behaviours}); choose others, or collect more"
            )
        self.returns = self._returns() if config.return_token else None
        self.per_timestep = tokenizer.positions_per_timestep(told(replace(self.task, returns=self.returns)))
        self._by_task: dict[int, Places] = {}

    def _check(self, context_length: int) -> None:
        """What would otherwise fail at the first draw, hours later, or never be learnt from."""
        for task in self.tasks:
            if self.tokenizer.text is None and any(f.modality is Modality.TEXT for f in task.fields):
                raise ValueError(f"source '{self.name}': task '{task.name}' has text but no text tokenizer was given; train one")
            observed = sum(f.num_tokens or 1 for f in task.observations) + self.config.return_token
            if task.is_control and observed > self.tokenizer.max_local_positions:
                raise ValueError(
                    f"source '{self.name}': task '{task.name}' has at least {observed} observation tokens in a timestep but the model has "
                    f"{self.tokenizer.max_local_positions} local positions; use smaller pictures or raise max_local_positions"
                )
            numbers = sum(f.size for f in task.actions if f.modality is not Modality.TEXT)
            if self.tokenizer.layout == "compact" and numbers > self.tokenizer.max_local_positions:
                raise ValueError(
                    f"source '{self.name}': task '{task.name}' has {numbers} action numbers in a timestep but the model has "
                    f"{self.tokenizer.max_local_positions} local positions; raise max_local_positions"
                )
            if (before := self.tokenizer.positions_observed(task)) >= context_length:
                found = f"{observed} observation tokens" if self.tokenizer.layout == "gato" else f"{before} positions of observations"
                raise ValueError(
                    f"source '{self.name}': a timestep of task '{task.name}' has at least {found}, so no action "
                    f"fits behind them into a context of {context_length}; use smaller pictures or a longer context"
                )

    def _check_chunks(self, chunk: int) -> None:
        layout, slots = self.tokenizer.layout, max(sum(f.size for f in task.actions) for task in self.store.tasks) * chunk
        found = None
        if not self.is_control or self.config.memory != 1 or layout != "compact" or self.config.return_token:
            found = f"memory {self.config.memory}, layout {layout}, return_token {self.config.return_token}"
        elif slots > self.tokenizer.max_local_positions:
            found = f"{slots} numbers in a chunk, of at most {self.tokenizer.max_local_positions}"
        if found is not None:
            wanted = "chunks are of tasks of control with memory 1 in the compact layout, without a return_token"
            raise ValueError(f"source '{self.name}' has chunk {chunk} with {found}; {wanted}: change that, or leave out chunk")
        for task in self.store.tasks:
            chunked(task, chunk)

    def measure(self, known: Mapping[str, TaskSpec]) -> None:
        """Measures observations by the data, or as the tasks `known` by their names do."""
        sets: dict[str, TaskSpec] = {}  # tasks of a set are one world, in which what is seen is to mean the same
        for i, task in enumerate(self.tasks):
            places = self.places_of_task(i)
            if task.name in known:
                self.tasks[i] = task.measured_as(known[task.name])
            elif (whole := envs.set_of(task.name)) in sets:
                self.tasks[i] = task.measured_as(sets[whole])
            elif places is not None and task.is_control:
                places = self.places if whole != task.name else places
                found = {places.find(int(place)) for place in np.linspace(0, places.total - 1, EPISODES)}
                self.tasks[i] = sets[whole] = measured(task, [self.store.episode(e) for e in sorted(found)])

    def _returns(self) -> tuple[float, float]:
        """The lowest and the highest of the episodes. **Raises:** `ValueError` where there are none to be told, or of several tasks."""
        if not self.is_control or len(self.store.tasks) > 1:
            found = f"{len(self.store.tasks)} tasks" if self.is_control else "no timesteps that follow one another"
            raise ValueError(f"source '{self.name}' has return_token but {found}; it is for a store of one control task")
        episodes = np.arange(self.store.num_episodes) if self.episodes is None else self.episodes
        check_returns(self.name, self.store, episodes, "leave out return_token")
        returns = self.store.returns[episodes]
        return float(returns.min()), float(returns.max())

    @cached_property
    def places(self) -> Places:
        """What windows are drawn from, every place equally likely."""
        if self._documents is not None:
            chosen = np.arange(self._documents.num_documents) if self.episodes is None else self.episodes
            return SomeEpisodes(chosen, self._documents.lengths[chosen])
        if self.episodes is None:
            return AllEpisodes(self.store)
        return SomeEpisodes(self.episodes, self.store.lengths[self.episodes])

    def task_index(self, episode: int) -> int:
        return 0 if len(self.store.tasks) == 1 else int(self.store.task_indices[episode])

    def places_of_task(self, index: int) -> Places | None:
        """The places of one of the store's tasks; `None` if none of its episodes takes part."""
        if len(self.store.tasks) == 1:
            return self.places
        if index not in self._by_task:
            is_task = self.store.task_indices == index
            episodes = np.flatnonzero(is_task) if self.episodes is None else self.episodes[is_task[self.episodes]]
            if len(episodes) == 0:
                return None
            self._by_task[index] = SomeEpisodes(episodes, self.store.lengths[episodes])
        return self._by_task[index]

    def _draw_other_episode(self, rng: np.random.Generator, avoid: int) -> int:
        """Another episode of the same task, with a probability proportional to its length; `avoid` itself where there is no other."""
        places = self.places_of_task(self.task_index(avoid))
        assert places is not None, "the task of a drawn episode has episodes"
        if places.num_episodes == 1:
            return avoid
        first, length = places.span(avoid)
        place = int(rng.integers(places.total - length))
        return places.find(place if place < first else place + length)

    def window(self, rng: np.random.Generator, budget: int) -> tuple[TokenSequence, Piece]:
        """At most `budget` positions, starting on a timestep boundary (in a document: at any token)."""
        episode = self.places.find(int(rng.integers(self.places.total)))
        length = self.places.span(episode)[1]
        wanted = budget if self.is_text else min(-(-budget // self.per_timestep), self.config.memory or budget)
        start = self._draw_start(rng, length, wanted)
        piece = Piece("window", episode, start, min(start + wanted, length))
        return self._read(piece, rng).cut(budget), piece

    @property
    def has_short_windows(self) -> bool:
        """Whether `windows` draws several at once: in the compact layout those of a short memory take few positions."""
        return bool(self.config.memory) and self.tokenizer.layout == "compact"

    def windows(self, rng: np.random.Generator, budget: int) -> tuple[TokenSequence, list[Piece]]:
        """`SEVERAL` windows of one episode, or as many as `budget` positions hold and one more that is cut, each a document."""
        memory, episode = self.config.memory, self.places.find(int(rng.integers(self.places.total)))
        assert memory is not None
        length = self.places.span(episode)[1]
        count = min(SEVERAL, -(-budget // (self.per_timestep * min(memory, length))))
        starts = np.array([self._draw_start(rng, length, memory) for _ in range(count)])
        has_pictures = any(f.modality is Modality.IMAGE for f in self.task.observations)
        if has_pictures and not self.config.scattered:  # what lies between them is read, too
            away = starts - starts[0]
            starts = starts[0] + np.sign(away) * (np.abs(away) % (NEAR // 2 + 1))
        stops = np.minimum(starts + memory, length)
        rows = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
        if has_pictures and self.config.scattered:
            spans = zip(starts, stops, strict=True)
            read = in_line([self.episode(Piece("window", episode, int(a), int(b)), rng) for a, b in spans])
        else:
            first = int(starts.min())
            read = self.episode(Piece("window", episode, first, int(stops.max())), rng).chosen(rows - first)
        document = np.repeat(np.arange(count), stops - starts)  # of each timestep
        tokens = self.tokenizer.encode(read, is_once=False)
        step = tokens.timestep
        within = rows - np.repeat(starts, stops - starts)
        tokens = replace(tokens, timestep=within[step].astype(np.int32), document=document[step].astype(np.int16))
        pieces = [Piece("window", episode, int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
        tokens = without_repeated_texts(tokens).cut(budget)
        return tokens, pieces[: int(tokens.document[-1]) + 1]

    @staticmethod
    def _draw_start(rng: np.random.Generator, length: int, wanted: int) -> int:
        """A start that reaches all of an episode: a timestep within one window of an end is up to twice as likely as
        one in the middle, never less likely (uniform starts would hardly ever show the two ends)."""
        return min(max(int(rng.integers(1 - wanted, length)), 0), max(length - wanted, 0))

    def prompt(self, rng: np.random.Generator, budget: int, avoid: int) -> tuple[TokenSequence, Piece] | None:
        """Whole timesteps of another episode of the same task, at most `budget` tokens; half of them from the end, or all the last so many.

        `None` where not even one timestep fits.
        """
        episode = self._draw_other_episode(rng, avoid)
        from_end, tokens = rng.random() < 0.5, int(rng.integers(1, budget + 1))
        length = self.places.span(episode)[1]
        steps = min(max(1, tokens // self.per_timestep), length)
        if self.config.prompt_steps is not None:
            from_end, steps = True, min(self.config.prompt_steps, length)
        start = length - steps if from_end else int(rng.integers(0, length - steps + 1))
        piece = Piece("prompt from the end" if from_end else "prompt", episode, start, start + steps)
        while len(sequence := self._read(piece, rng)) > budget:
            kept = _drop_first_timesteps(sequence, budget)
            if not len(kept):
                return None
            piece = replace(piece, start=piece.start + int(kept.timestep[0]))
            if self.tokenizer.layout == "gato":
                return kept, piece
        return sequence, piece  # in the compact layout read anew, since the text stands before the first timestep

    def _read(self, piece: Piece, rng: np.random.Generator) -> TokenSequence:
        if self._documents is not None:
            return _document_sequence(self._documents.ids(piece.episode, piece.start, piece.stop), self.tokenizer.layout)
        return self.tokenizer.encode(self.episode(piece, rng))

    def episode(self, piece: Piece, rng: np.random.Generator) -> Episode:
        """What is trained of an episode: measured and stretched as the source's task says, with returns to go and chunks, augmented."""
        ahead = 0 if self.chunk is None else self.chunk - 1  # what the last timesteps' chunks hold
        stop = piece.stop + min(ahead, self.places.span(piece.episode)[1] - piece.stop)
        episode = self.store.episode(piece.episode, piece.start, stop)
        if (task := self.tasks[self.task_index(piece.episode)]) is not episode.task:
            episode = replace(episode, task=task)
        if self.returns is not None:
            still = self.store.returns_to_go(piece.episode, piece.start, piece.stop)
            episode = told_episode(replace(task, returns=self.returns), episode, still)
        if self.chunk is not None:
            episode = chunked_episode(episode, self.chunk).window(0, piece.stop - piece.start)
        return augmented(episode, rng) if self.config.augment else episode


def _stretched(task: TaskSpec, size: tuple[int, int] | None) -> TaskSpec:
    """The task with its pictures stretched to `size`, rows and columns, where there is one."""
    if size is None:
        return task
    fields = (replace(f, resize="stretch", image_size=(size[0], size[1])) if f.modality is Modality.IMAGE else f for f in task.fields)
    return replace(task, fields=tuple(fields))


def selected_episodes(store: Store, config: SourceConfig, left_out_tasks: set[int]) -> np.ndarray | None:
    """(E,) numbers of the episodes that take part, ascending; `None` for all, which reads nothing."""
    cap = config.max_episodes
    if not left_out_tasks and config.part is None and config.behaviours is None and (cap is None or cap >= store.num_episodes):
        return None
    keep = ~np.isin(store.task_indices, list(left_out_tasks))
    if config.behaviours is not None:
        keep &= np.isin(store.behaviours, list(config.behaviours))
    keys = episode_keys(store.tasks[0].name, store.num_episodes)
    if config.part is not None:
        keep &= (keys < config.test_share) == (config.part == "test")
    episodes = np.flatnonzero(keep)
    if cap is not None and len(episodes) > cap:
        # by a second key, for the first one would make a capped `train` the neighbours of `test`
        keys = episode_keys(f"{store.tasks[0].name} cap", store.num_episodes)
        episodes = np.sort(episodes[np.argsort(keys[episodes], kind="stable")[:cap]])
    return episodes


def episode_keys(name: str, count: int) -> np.ndarray:
    """(count,) numbers in [0, 1) that follow from a name and the episode's number alone (SplitMix64).

    Episodes appended later therefore change no earlier one's part.
    """
    key = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    x = key + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def _drop_first_timesteps(sequence: TokenSequence, budget: int) -> TokenSequence:
    """The last whole timesteps that fit into `budget` tokens; possibly none."""
    starts = np.flatnonzero(np.diff(sequence.timestep, prepend=-1))
    starts = sequence.position[starts]
    fits = starts[len(sequence) - starts <= budget]
    return sequence.drop(int(fits[0]) if len(fits) else len(sequence))


def _document_sequence(ids: np.ndarray, layout: Layout) -> TokenSequence:
    n = len(ids)
    return TokenSequence(
        ids=np.asarray(ids, np.int32), kind=np.full(n, int(Kind.TEXT), np.uint8), local_position=np.full(n, NO_LOCAL, np.int32),
        timestep=np.zeros(n, np.int32), document=np.zeros(n, np.int16), is_target=np.ones(n, bool),
        patches=np.zeros((0, PATCH_SIZE, PATCH_SIZE, 3), np.uint8), patch_boxes=np.zeros((0, 4), np.uint8), layout=layout,
    )  # fmt: skip
