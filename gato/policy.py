"""Acting: observations -> tokens -> one action id at a time -> an action (Gato, section 2.5).

The observation's tokens are one forward pass; each action token is sampled among the legal ids of its slot and fed back. In the compact
layout all slots are chosen behind that pass, and the action is fed back as one position together with the next observation. Streams
(environments) are independent: each has its own place in the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from gato.layers.acting import ActingTransformer
from gato.layers.acting_compact import ActingCompact
from gato.layers.history import Parts, Stream, num_positions, spoken, spoken_anew
from gato.layers.layout import check_layouts
from gato.layers.stream_cache import StreamCache
from gato.static_passes import StaticPasses

from .batch import ACTION_LOCAL, Kind, TokenSequence, join, pack_numbers, padded, patch_places
from .episode import Episode, StreamPolicy, Values
from .model import Gato
from .setting import SEED, TEMPERATURE, check_value
from .spec import PATCH_SIZE, Modality, TaskSpec

if TYPE_CHECKING:
    from gato.tokenizers.episode import EpisodeTokenizer

MAX_PROMPT = 1024  # tokens of a demonstration (section 2.5)
FEW = 4  # tokens of a single stream that have a pass of their own
MAX_CHUNK = 128  # tokens that a sliding window takes in at once: its ring needs as many slots beside the context


class Policy(Protocol):
    """What `rollout` drives.

    `observation` holds one row per acting stream, `{field name: (n, *shape)}`; `reward` (n,) is what the stream's last action earned;
    `first` (n,) marks streams that start an episode; `streams` (n,) says which streams the rows belong to. Actions come back as
    `{field name: (n, *shape)}`, always inside the task's ranges.
    """

    def reset(self, num_streams: int, demonstrations: Sequence[Episode] = ()) -> None: ...

    def act(
        self, observation: Mapping[str, np.ndarray], reward: np.ndarray, first: np.ndarray, streams: np.ndarray
    ) -> dict[str, np.ndarray]: ...


class GatoPolicy(StreamPolicy):
    """A Gato acting in one task.

    **Arguments:**

    - `tokenizer`, `task`: how observations and actions become tokens.
    - `temperature`: of the sampling; 0 takes the most likely id, and of a continuous action in the compact layout the best mean.
      By default 1 as in the paper, and for continuous actions in the compact layout 0.
    - `overflow`: when the context is full, `"rebuild"` drops the oldest half in whole timesteps and prefills the rest, which always
      equals a fresh forward of what was kept; `"rolling"` keeps a sliding window of keys (the paper's memory), which equals one
      forward over the whole history under the same banded mask.
    - `seed`: of the sampling. The k-th episode that begins draws from a generator of its own, whichever stream it is in, so
      that episodes side by side go as they would one after the other.
    - `static`: while all streams act together, passes have fixed shapes (`StaticPasses`); by default on a GPU, where they are recorded as
      CUDA graphs, unless positions are `transformer_xl`.
    - `prompt`: a demonstration that stands before every episode where `reset` is given none: its first whole timesteps, or the task's
      `prompt_steps` last ones, at most 1,024 tokens (the paper's rule) and at most half of the context.
    - `memory`: how many timesteps are seen, the present one among them, behind the prompt; by default as many as the context holds, as in
      the paper. Experts repeat themselves, so a policy trained on few data may do what it did last, whatever it sees; 1 leaves it
      nothing to repeat.

    **Raises:** `ValueError` if model and tokenizer differ in their layout, if one timestep does not fit into the context, if learned
    positions are combined with `"rolling"`, or for a memory below 1 or together with `"rolling"`.
    """

    def __init__(
        self,
        model: Gato,
        tokenizer: EpisodeTokenizer,
        task: TaskSpec,
        temperature: float | None = None,
        overflow: str = "rebuild",
        seed: int = 0,
        prompt: Episode | None = None,
        static: bool | None = None,
        memory: int | None = None,
    ) -> None:
        if memory is not None and (type(memory) is not int or memory < 1 or overflow != "rebuild"):
            raise ValueError(f"memory is {memory} with overflow '{overflow}'; give at least 1 timestep, and overflow 'rebuild'")
        check_value("seed", seed, int, SEED)
        if overflow not in ("rebuild", "rolling"):
            raise ValueError(f"overflow is '{overflow}', expected 'rebuild' or 'rolling'")
        if temperature is not None:
            check_value("temperature", temperature, float, TEMPERATURE)
        check_layouts(model.config, tokenizer)
        if overflow == "rolling" and model.config.positions == "learned":
            raise ValueError("learned positions end with the context, so 'rolling' cannot go on; use overflow 'rebuild'")
        self.model, self.tokenizer, self.task = model.eval(), tokenizer, task
        self.temperature, self.overflow, self.memory = temperature, overflow, memory
        self.context_length = model.config.context_length
        self.device = model.device
        self._legal = tokenizer.legal_ids(task)
        self._is_compact = tokenizer.layout == "compact"
        self._slots = _slots(task, self._is_compact)
        self.seed, self.static = seed, (self.device.type == "cuda" and StaticPasses.fits(model)) if static is None else static
        self._default = () if prompt is None else (prompt,)
        self._quick: ActingTransformer | None = None
        self._compact: ActingCompact | None = None
        self._use(self._new_cache(1))
        if (needed := tokenizer.positions_per_timestep(task)) > self.context_length:
            raise ValueError(f"a timestep of '{task.name}' has {needed} {self._unit} but the context holds {self.context_length}")
        self.reset(1)

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        """Forgets everything; the k-th episode to begin has demonstration k (modulo their number) as its prompt.

        Without demonstrations the policy's own `prompt` is taken, if it has one.
        """
        self._renew()
        if self._cache.num_streams != num_streams:
            self._use(self._new_cache(num_streams))
        for stream in range(num_streams):  # the same memory again, and the graph that was recorded over it
            self._cache.forget(stream)
        self._streams = [Stream() for _ in range(num_streams)]
        self._num_begun = 0
        self._prompts = [self._prompt(d) for d in demonstrations or self._default]

    def begin(self, stream: int, number: int) -> None:
        """Starts an episode in a stream, which goes as the `number`-th to begin goes whatever the other streams did."""
        self._cache.forget(stream)
        prompt = list(self._prompts[number % len(self._prompts)]) if self._prompts else []
        generator = np.random.default_rng([self.seed, number])
        self._num_begun = number + 1
        begun = self._streams[stream] = Stream(prompt, len(prompt), generator=generator)
        begun.pending = spoken_anew(begun)

    def _renew(self) -> None:
        """Somebody may have trained the model since, or put something into its layers."""
        if self._static is not None and self._static.are_stale:
            self._use(self._cache)
        if self._is_compact:
            kinds = [self._slots.kind[slot] == Kind.CONTINUOUS for slot in range(len(self._legal))]
            pad = self.tokenizer.vocabulary.pad
            self._compact = ActingCompact(self.model.embedding, self.model.slots, pad, self._legal, kinds)
        if not ActingTransformer.fits(self.model.transformer):
            self._quick = None
        elif self._quick is None:
            self._quick = ActingTransformer(self.model.transformer)
        else:
            self._quick.renew()

    def _new_cache(self, num_streams: int) -> StreamCache:
        rolling, context = self.overflow == "rolling", self.context_length
        capacity, window = (context + MAX_CHUNK - 1, context) if rolling else (context, None)
        return StreamCache(self.model.config.num_layers, num_streams, capacity, window, self.device)

    def _use(self, cache: StreamCache) -> None:
        self._cache, self._static = cache, StaticPasses(self.model, cache, MAX_CHUNK) if self.static else None

    @property
    def _unit(self) -> str:
        return "positions" if self._is_compact else "tokens"

    def state(self) -> dict[str, Any]:
        """A copy of all that the streams hold: tokens, keys and values, prompts and the generators of the sampling.

        A policy with the same weights and settings that is given it by `load_state` goes on exactly from here.
        """
        return copy.deepcopy(
            {
                "cache": self._cache, "streams": self._streams, "prompts": self._prompts,
                "overflow": self.overflow, "num_begun": self._num_begun,
            }
        )  # fmt: skip

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state`, which is left as it is. **Raises:** `ValueError` for one of the other overflow mode."""
        if state["overflow"] != self.overflow:
            raise ValueError(f"the state is of overflow '{state['overflow']}', the policy of '{self.overflow}'; make both the same")
        state = copy.deepcopy(dict(state))
        self._use(state["cache"])
        self._streams, self._prompts, self._num_begun = state["streams"], state["prompts"], state["num_begun"]

    def _prompt(self, demonstration: Episode) -> list[Parts]:
        """The timesteps of a demonstration that are shown: they leave half of the context free and are at most `MAX_PROMPT` tokens."""
        if differences := self.task.differences(demonstration.task, raw=True):
            raise ValueError(f"the demonstration is not of task '{self.task.name}': {differences[0]}")
        room = min(MAX_PROMPT, self.context_length // 2)
        steps, end = self.task.prompt_steps, demonstration.num_timesteps
        span = (max(0, end - steps), end) if steps else (0, max(1, room // self.tokenizer.positions_per_timestep(self.task)))
        seen = replace(demonstration.window(*span), task=demonstration.task.measured_as(self.task))
        shown: list[Parts] = [(tokens,) for tokens in self.tokenizer.encode(seen, is_once=False).by_timestep()]
        while sum(map(len, spoken(Stream(), shown))) > room:
            shown.pop()
        return shown

    @torch.inference_mode()
    def act_in(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> dict[str, np.ndarray]:
        seen = self.tokenizer.encode_observation(self.task, observation).by_timestep()
        self._check_lengths(seen)
        for tokens, is_first, s in zip(seen, first, streams, strict=True):
            if is_first:
                self.begin(int(s), self._num_begun)
            self._make_room(int(s), tokens)
            stream = self._streams[s]
            stream.pending += spoken(stream, [(tokens,)])
        rows = np.asarray(streams, np.int64)
        hidden = self._feed_pending(rows)
        ids = self._choose_slots(hidden, rows, seen) if self._is_compact else self._choose_tokens(hidden, rows)
        for s, tokens, row in zip(rows, seen, ids, strict=True):
            if self.memory == 1:  # neither this timestep nor its action will be looked at again
                continue
            stream, action = self._streams[s], self._action(row)
            stream.pending.append(action if self._is_compact else self._action(row[-1:]))
            if self.overflow == "rebuild":
                stream.timesteps.append((tokens, action))
        return self.tokenizer.decode_actions(self.task, ids)

    def _choose_tokens(self, hidden: torch.Tensor, rows: np.ndarray) -> np.ndarray:
        """(n, A) ids, each read from the state behind the one before it."""
        ids = np.empty((len(rows), len(self._legal)), np.int32)
        for slot, legal in enumerate(self._legal):
            ids[:, slot] = self._sample(self.model.score(hidden, slice(legal.start, legal.stop)), legal, rows)
            if slot + 1 < len(self._legal):
                hidden = self._feed_actions(rows, ids[:, slot])
        return ids

    def _choose_slots(self, hidden: torch.Tensor, rows: np.ndarray, seen: Sequence[TokenSequence]) -> np.ndarray:
        """(n, A) ids, all read from the state behind the observation."""
        assert self._compact is not None, "only of the compact layout"
        return self._compact.choose(hidden, seen, lambda scores, legal: self._sample(scores, legal, rows), not self.temperature)

    def has_begun(self, stream: int) -> bool:
        return self._streams[stream].generator is not None

    def _length(self, tokens: TokenSequence) -> int:
        """Of a timestep with its action."""
        return len(tokens) + (1 if self._is_compact else len(self._legal))

    def _check_lengths(self, seen: Sequence[TokenSequence]) -> None:
        """**Raises:** `ValueError` for a timestep that no context holds, before any stream has changed."""
        if (length := max(map(self._length, seen))) > self.context_length:
            raise ValueError(f"a timestep of '{self.task.name}' has {length} {self._unit}, the context {self.context_length}")

    def _make_room(self, s: int, tokens: TokenSequence) -> None:
        """Rebuild mode: forgets what is older than the memory; if this timestep still would not fit, keeps the newest of half a context.

        Rolling mode: what was said half a context ago is to be said again, before it leaves the context.
        """
        stream, length = self._streams[s], self._length(tokens)
        if self.overflow == "rolling":
            stream.timesteps.clear()
            if stream.cached + sum(map(len, stream.pending)) - stream.said_at > self.context_length // 2:
                stream.said = None
            return
        past = stream.timesteps[stream.num_prompt :]
        if self.memory is not None and (len(past) >= self.memory or (self.memory == 1 and stream.cached)):
            self._rebuild(s, stream.timesteps[: stream.num_prompt] + past[len(past) - self.memory + 1 :])
        if stream.cached + sum(map(len, stream.pending)) + length <= self.context_length:
            return
        room = self.context_length // 2 - length
        kept: list[Parts] = []
        for timestep in reversed(stream.timesteps):
            room -= num_positions(timestep)
            if room < 0:
                break
            kept.insert(0, timestep)
        stream.num_prompt = max(0, len(kept) - len(stream.timesteps) + stream.num_prompt)
        self._rebuild(s, kept)
        while sum(map(len, stream.pending)) + length > self.context_length:  # texts of many timesteps
            stream.num_prompt = max(0, stream.num_prompt - 1)
            self._rebuild(s, stream.timesteps[1:])

    def _rebuild(self, s: int, kept: list[Parts]) -> None:
        """Empties a stream's cache; these timesteps, and behind them the present observation, are to be read anew."""
        stream = self._streams[s]
        self._cache.forget(s)
        stream.timesteps, stream.cached = kept, 0
        stream.pending = spoken_anew(stream)

    def _feed_pending(self, rows: np.ndarray) -> torch.Tensor:
        """Runs all pending tokens of these streams and gives the hidden state behind each one's last, (n, width).

        Streams with much to catch up (a prompt, a rebuild) run apart from those that feed one timestep.
        """
        counts = np.array([sum(map(len, self._streams[s].pending)) for s in rows])
        is_long = counts > 4 * counts.min()
        if not is_long.any():
            return self._feed_together(rows, counts)
        hidden = torch.empty(len(rows), self.model.config.width, device=self.device, dtype=self.model.dtype)
        for group in (is_long, ~is_long):
            hidden[torch.from_numpy(group).to(self.device)] = self._feed_together(rows[group], counts[group])
        return hidden

    def _feed_together(self, rows: np.ndarray, counts: np.ndarray) -> torch.Tensor:
        pending = [self._streams[s].pending for s in rows]
        for s, count in zip(rows, counts, strict=True):
            self._streams[s].cached += int(count)
            self._streams[s].pending = []
        quickly = None if self._compact is None else self._compact.embed(pending)
        embedded = self._embedded(pending, int(counts.max())) if quickly is None else quickly
        if self._static is not None and self._are_all(rows) and (counts == counts[0]).all():
            hidden = self._static.take(embedded)
            if hidden is not None:
                return hidden
        if self.overflow == "rebuild" or embedded.shape[1] <= MAX_CHUNK:
            return self._run(embedded, rows, counts)
        hidden = embedded.new_empty(len(rows), embedded.shape[-1])
        for start in range(0, embedded.shape[1], MAX_CHUNK):
            left = np.flatnonzero(counts > start)
            chunk = embedded[self._tensor(left), start : start + MAX_CHUNK]
            hidden[self._tensor(left)] = self._run(chunk, rows[left], np.minimum(counts[left] - start, MAX_CHUNK))
        return hidden

    def _embedded(self, pending: Sequence[list[TokenSequence]], length: int) -> torch.Tensor:
        """What is to be fed to each of n streams -> (n, length, width)."""
        fed = [join(parts, same_document=True) for parts in pending]
        arrays = padded(fed, length, self.tokenizer.vocabulary.pad)
        patches, boxes = np.concatenate([f.patches for f in fed]), np.concatenate([f.patch_boxes for f in fed]).astype(np.int64)
        pictures = (patches, boxes, patch_places(fed, length)) if len(patches) else ()
        return self.model.embedding(
            self._tensor(arrays["ids"]), self._tensor(arrays["local_position"]),
            *([self._tensor(values) for values in pictures] or (None, None)),
            numbers=pack_numbers(fed, length).to(self.device) if self._is_compact else None,
        )  # fmt: skip

    def _feed_actions(self, rows: np.ndarray, ids: np.ndarray) -> torch.Tensor:
        """Runs one action token per stream; as `_feed_pending`."""
        for s in rows:
            self._streams[s].cached += 1
        if self._static is not None and self._are_all(rows):
            return self._static.act(ids)
        if self._quick is not None and len(rows) == 1:
            return self._quick.few(self.model.embedding.action(self._tensor(ids.astype(np.int64))), int(rows[0]), self._cache)
        local = np.full((len(rows), 1), ACTION_LOCAL, np.int64)
        embedded = self.model.embedding(self._tensor(ids.astype(np.int64)[:, None]), self._tensor(local), None, None)
        return self._run(embedded, rows, np.ones(len(rows), np.int64))

    def _are_all(self, rows: np.ndarray) -> bool:
        return np.array_equal(rows, np.arange(len(self._streams)))

    def _run(self, embedded: torch.Tensor, rows: np.ndarray, counts: np.ndarray) -> torch.Tensor:
        """Embedded tokens (n, M, width), of which `counts` are no padding -> the hidden state of each row's last, (n, width)."""
        if len(rows) == 1 and self._quick is not None and counts[0] <= FEW and self._cache.fits_few(int(rows[0]), int(counts[0])):
            return self._quick.few(embedded[0], int(rows[0]), self._cache)
        mask, queries, keys = self._cache.begin(rows, counts)
        if self._quick is not None:
            last = None if (counts == embedded.shape[1]).all() else self._tensor(counts - 1)
            return self._quick.several(embedded, mask, queries, last, self._cache)
        learned = queries.clamp(max=self.context_length - 1)
        hidden = self.model.transformer(embedded, mask, queries, keys, learned_positions=learned, cache=self._cache)
        if (counts == hidden.shape[1]).all():
            return hidden[:, -1]
        return hidden[torch.arange(len(rows), device=self.device), self._tensor(counts - 1)]

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)

    def _sample(self, scores: torch.Tensor, legal: range, rows: np.ndarray) -> np.ndarray:
        """One legal id per stream, by the Gumbel-max rule."""
        logits, temperature = scores.float().cpu().numpy(), 1.0 if self.temperature is None else self.temperature
        if temperature > 0:
            generators = [self._streams[s].generator or np.random.default_rng(self.seed) for s in rows]
            logits = logits / temperature + np.stack([g.gumbel(size=logits.shape[1]) for g in generators])
        return legal.start + logits.argmax(axis=1)

    def _action(self, ids: np.ndarray) -> TokenSequence:
        """Action tokens (n,) int32 of one timestep; the last n slots."""
        slots = self._slots if len(ids) == len(self._slots.ids) else self._slots.drop(len(self._slots) - len(ids))
        return replace(slots, ids=ids)


def _slots(task: TaskSpec, is_compact: bool) -> TokenSequence:
    """The action tokens of a timestep without their ids, of one position in the compact layout."""
    kinds = [Kind.CONTINUOUS if f.modality is Modality.CONTINUOUS else Kind.DISCRETE for f in task.actions for _ in range(f.size)]
    count = len(kinds)
    return TokenSequence(
        ids=np.zeros(count, np.int32), kind=np.array(kinds, np.uint8), local_position=np.full(count, ACTION_LOCAL, np.int32),
        timestep=np.zeros(count, np.int32), document=np.zeros(count, np.int16), is_target=np.zeros(count, bool),
        patches=np.zeros((0, PATCH_SIZE, PATCH_SIZE, 3), np.uint8), patch_boxes=np.zeros((0, 4), np.uint8),
        position=np.zeros(count, np.int32) if is_compact else np.arange(count, dtype=np.int32),
        layout="compact" if is_compact else "gato",
    )  # fmt: skip
