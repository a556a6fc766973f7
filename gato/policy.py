"""Acting: observations -> tokens -> one action id at a time -> an action (Gato, section 2.5).

The observation's tokens are one forward pass; each action token is sampled among the legal ids of its
slot and fed back. Streams (environments) are independent: each has its own place in the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from gato.action_step import ActionStep
from gato.layers.stream_cache import StreamCache

from .batch import ACTION_LOCAL, NO_LOCAL, TokenSequence, join
from .episode import Episode
from .model import Gato
from .setting import SEED, TEMPERATURE, check_value
from .spec import Modality, TaskSpec

if TYPE_CHECKING:
    from gato.tokenizers.episode import EpisodeTokenizer

Overflow = Literal["rebuild", "rolling"]
MAX_PROMPT = 1024  # tokens of a demonstration (section 2.5)
MAX_CHUNK = 128  # tokens that a sliding window takes in at once: its ring needs as many slots beside the context


class Policy(Protocol):
    """What `rollout` drives.

    `observation` holds one row per acting stream, `{field name: (n, *shape)}`; `reward` (n,) is what
    the stream's last action earned; `first` (n,) marks streams that start an episode; `streams` (n,)
    says which streams the rows belong to. Actions come back as `{field name: (n, *shape)}`, always
    inside the task's ranges.
    """

    def reset(self, num_streams: int, demonstrations: Sequence[Episode] = ()) -> None: ...

    def act(
        self, observation: Mapping[str, np.ndarray], reward: np.ndarray, first: np.ndarray, streams: np.ndarray
    ) -> dict[str, np.ndarray]: ...


@dataclass
class _Stream:
    """What one stream has seen: whole timesteps of tokens, and the tokens not yet in the cache."""

    timesteps: list[TokenSequence] = field(default_factory=list)
    num_prompt: int = 0  # of these timesteps, the first ones
    pending: list[TokenSequence] = field(default_factory=list)
    cached: int = 0
    generator: np.random.Generator | None = None


class GatoPolicy:
    """A Gato acting in one task.

    **Arguments:**

    - `tokenizer`, `task`: how observations and actions become tokens.
    - `temperature`: of the sampling, 1 as in the paper; 0 takes the most likely id.
    - `overflow`: when the context is full, `"rebuild"` drops the oldest half in whole timesteps and
      prefills the rest, which always equals a fresh forward of what was kept; `"rolling"` keeps a
      sliding window of keys (the paper's memory), which equals one forward over the whole history
      under the same banded mask.
    - `seed`: of the sampling. The k-th episode that begins draws from a generator of its own, whichever stream it is in, so
      that episodes side by side go as they would one after the other.
    - `static`: action tokens go through `ActionStep`, a pass of fixed shapes, while all streams act together; for GPUs.
    - `prompt`: a demonstration that stands before every episode where `reset` is given none: its first whole timesteps,
      at most 1,024 tokens (the paper's rule) and at most half of the context.
    - `memory`: how many timesteps are seen, the present one among them, behind the prompt; by default as many as the context
      holds, as in the paper. Experts repeat themselves, so a policy trained on few data may do what it did last, whatever it
      sees; 1 leaves it nothing to repeat.

    **Raises:** `ValueError` if one timestep does not fit into the context, if learned positions are combined with `"rolling"`,
    or for a memory below 1 or together with `"rolling"`.
    """

    def __init__(
        self,
        model: Gato,
        tokenizer: EpisodeTokenizer,
        task: TaskSpec,
        temperature: float = 1.0,
        overflow: str = "rebuild",
        seed: int = 0,
        prompt: Episode | None = None,
        static: bool = False,
        memory: int | None = None,
    ) -> None:
        if memory is not None and (type(memory) is not int or memory < 1 or overflow != "rebuild"):
            raise ValueError(f"memory is {memory} with overflow '{overflow}'; give at least 1 timestep, and overflow 'rebuild'")
        check_value("seed", seed, int, SEED)
        if overflow not in ("rebuild", "rolling"):
            raise ValueError(f"overflow is '{overflow}', expected 'rebuild' or 'rolling'")
        check_value("temperature", temperature, float, TEMPERATURE)
        if overflow == "rolling" and model.config.positions == "learned":
            raise ValueError("learned positions end with the context, so 'rolling' cannot go on; use overflow 'rebuild'")
        self.model, self.tokenizer, self.task = model.eval(), tokenizer, task
        self.temperature, self.overflow, self.memory = temperature, overflow, memory
        self.context_length = model.config.context_length
        self.device = model.device
        self._legal = [slice(ids.start, ids.stop) for ids in tokenizer.legal_ids(task)]
        self.seed, self.static = seed, static
        self._default = () if prompt is None else (prompt,)
        self._use(self._new_cache(1))
        if tokenizer.tokens_per_timestep(task) > self.context_length:
            raise ValueError(
                f"a timestep of '{task.name}' has {tokenizer.tokens_per_timestep(task)} tokens but the context holds {self.context_length}"
            )
        self.reset(1)

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        """Forgets everything; the k-th episode to begin has demonstration k (modulo their number) as its prompt.

        Without demonstrations the policy's own `prompt` is taken, if it has one.
        """
        if self._cache.num_streams != num_streams:
            self._use(self._new_cache(num_streams))
        for stream in range(num_streams):  # the same memory again, and the graph that was recorded over it
            self._cache.forget(stream)
        self._streams = [_Stream() for _ in range(num_streams)]
        self._num_begun = 0
        self._prompts = [self._prompt(d) for d in demonstrations or self._default]

    def _new_cache(self, num_streams: int) -> StreamCache:
        rolling, context = self.overflow == "rolling", self.context_length
        capacity, window = (context + MAX_CHUNK - 1, context) if rolling else (context, None)
        return StreamCache(self.model.config.num_layers, num_streams, capacity, window, self.device)

    def _use(self, cache: StreamCache) -> None:
        self._cache, self._step = cache, ActionStep(self.model, cache) if self.static else None

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

    def _prompt(self, demonstration: Episode) -> list[TokenSequence]:
        """The first timesteps of a demonstration that leave half of the context free, at most `MAX_PROMPT` tokens."""
        if differences := self.task.differences(demonstration.task):
            raise ValueError(f"the demonstration is not of task '{self.task.name}': {differences[0]}")
        room = min(MAX_PROMPT, self.context_length // 2)
        steps = max(1, room // self.tokenizer.tokens_per_timestep(self.task))
        window = demonstration.window(0, steps)
        parts = _by_timestep(self.tokenizer.encode(window))
        while sum(map(len, parts)) > room:
            parts.pop()
        return parts

    def act_one(self, observation: Any) -> Any:
        """For a single environment: its observation as `step` and `reset` give it -> the action `step` takes.

        Call `reset()` before every episode.
        """
        flat = self.task.flatten(observation, "observation")
        batch = {f.name: np.array([flat[f.name]], dtype=object if f.modality is Modality.TEXT else f.dtype) for f in self.task.observations}
        return self.task.unflatten_action({name: values[0] for name, values in self.act(batch).items()})

    @torch.inference_mode()
    def act(
        self,
        observation: Mapping[str, np.ndarray],
        reward: np.ndarray | None = None,
        first: np.ndarray | None = None,
        streams: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """See `Policy`. By default all streams act, and those start an episode that have not acted since `reset`."""
        if streams is None:
            streams = np.arange(len(next(iter(observation.values()))))
        if first is None:
            first = np.array([self._streams[s].generator is None for s in streams])
        seen = _by_timestep(self.tokenizer.encode_observation(self.task, observation))
        for tokens, is_first, s in zip(seen, first, streams, strict=True):
            if is_first:
                self._begin_episode(int(s))
            self._streams[s].pending.append(tokens)
            self._make_room(int(s))
        rows = np.asarray(streams, np.int64)
        hidden = self._feed_pending(rows)
        ids = np.empty((len(rows), len(self._legal)), np.int32)
        for slot, legal in enumerate(self._legal):
            ids[:, slot] = self._sample(hidden, legal, rows)
            if slot + 1 < len(self._legal):
                hidden = self._feed_actions(rows, ids[:, slot])
        for s, tokens, row in zip(rows, seen, ids, strict=True):
            stream = self._streams[s]
            stream.pending.append(_action_tokens(row[-1:]))
            if self.overflow == "rebuild":
                stream.timesteps.append(join([tokens, _action_tokens(row)], same_document=True))
        return self.tokenizer.decode_actions(self.task, ids)

    def _begin_episode(self, s: int) -> None:
        self._cache.forget(s)
        prompt = list(self._prompts[self._num_begun % len(self._prompts)]) if self._prompts else []
        generator = np.random.default_rng([self.seed, self._num_begun])
        self._num_begun += 1
        self._streams[s] = _Stream(prompt, len(prompt), list(prompt), generator=generator)

    def _make_room(self, s: int) -> None:
        """Rebuild mode: forgets what is older than the memory; if this timestep still would not fit, keeps the newest of half a context."""
        stream = self._streams[s]
        length = len(stream.pending[-1]) + len(self._legal)
        if length > self.context_length:
            raise ValueError(f"a timestep of '{self.task.name}' has {length} tokens, the context {self.context_length}")
        if self.overflow == "rolling":
            stream.timesteps.clear()
            return
        past = stream.timesteps[stream.num_prompt :]
        if self.memory is not None and len(past) >= self.memory:
            self._rebuild(s, stream.timesteps[: stream.num_prompt] + past[len(past) - self.memory + 1 :])
        needed = sum(map(len, stream.pending)) + len(self._legal)
        if stream.cached + needed <= self.context_length:
            return
        room = self.context_length // 2 - length
        kept: list[TokenSequence] = []
        for timestep in reversed(stream.timesteps):
            room -= len(timestep)
            if room < 0:
                break
            kept.insert(0, timestep)
        stream.num_prompt = max(0, len(kept) - len(stream.timesteps) + stream.num_prompt)
        self._rebuild(s, kept)

    def _rebuild(self, s: int, kept: list[TokenSequence]) -> None:
        """Empties a stream's cache; these timesteps and the present observation are to be read anew."""
        stream = self._streams[s]
        self._cache.forget(s)
        stream.timesteps, stream.pending, stream.cached = kept, [*kept, stream.pending[-1]], 0

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
        shape = len(rows), int(counts.max())
        ids, local = np.full(shape, self.tokenizer.vocabulary.pad, np.int64), np.full(shape, NO_LOCAL, np.int64)
        patches, boxes = [], []
        for i, s in enumerate(rows):
            stream, at = self._streams[s], 0
            for part in stream.pending:
                ids[i, at : at + len(part)], local[i, at : at + len(part)] = part.ids, part.local_position
                at += len(part)
                if len(part.patches):
                    patches.append(part.patches)
                    boxes.append(part.patch_boxes)
            stream.cached += at
            stream.pending = []
        embedded = self.model.embedding(
            self._tensor(ids), self._tensor(local),
            self._tensor(np.concatenate(patches)) if patches else None,
            self._tensor(np.concatenate(boxes).astype(np.int64)) if patches else None,
        )  # fmt: skip
        if self.overflow == "rebuild" or shape[1] <= MAX_CHUNK:
            return self._run(embedded, rows, counts)
        hidden = embedded.new_empty(len(rows), embedded.shape[-1])
        for start in range(0, shape[1], MAX_CHUNK):
            left = np.flatnonzero(counts > start)
            chunk = embedded[self._tensor(left), start : start + MAX_CHUNK]
            hidden[self._tensor(left)] = self._run(chunk, rows[left], np.minimum(counts[left] - start, MAX_CHUNK))
        return hidden

    def _feed_actions(self, rows: np.ndarray, ids: np.ndarray) -> torch.Tensor:
        """Runs one action token per stream; as `_feed_pending`."""
        for s in rows:
            self._streams[s].cached += 1
        if self._step is not None and np.array_equal(rows, np.arange(len(self._streams))):
            return self._step(ids)
        local = np.full((len(rows), 1), ACTION_LOCAL, np.int64)
        embedded = self.model.embedding(self._tensor(ids.astype(np.int64)[:, None]), self._tensor(local), None, None)
        return self._run(embedded, rows, np.ones(len(rows), np.int64))

    def _run(self, embedded: torch.Tensor, rows: np.ndarray, counts: np.ndarray) -> torch.Tensor:
        """Embedded tokens (n, M, width), of which `counts` are no padding -> the hidden state of each row's last, (n, width)."""
        mask, queries, keys = self._cache.begin(rows, counts)
        learned = queries.clamp(max=self.context_length - 1)
        hidden = self.model.transformer(embedded, mask, queries, keys, learned_positions=learned, cache=self._cache)
        if (counts == hidden.shape[1]).all():
            return hidden[:, -1]
        return hidden[torch.arange(len(rows), device=self.device), self._tensor(counts - 1)]

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)

    def _sample(self, hidden: torch.Tensor, legal: slice, rows: np.ndarray) -> np.ndarray:
        """One legal id per stream, by the Gumbel-max rule."""
        logits = self.model.score(hidden, legal).float().cpu().numpy()
        if self.temperature > 0:
            generators = [self._streams[s].generator or np.random.default_rng(self.seed) for s in rows]
            logits = logits / self.temperature + np.stack([g.gumbel(size=logits.shape[1]) for g in generators])
        return legal.start + logits.argmax(axis=1)


def _by_timestep(sequence: TokenSequence) -> list[TokenSequence]:
    """Takes a sequence apart at its timesteps."""
    starts = np.flatnonzero(np.diff(sequence.timestep, prepend=-1))
    parts = []
    for start, stop in zip(starts, [*starts[1:], len(sequence)], strict=True):
        parts.append(sequence.cut(int(stop)).drop(int(start)))
    return parts


_NO_PATCHES = np.zeros((0, 16, 16, 3), np.uint8)
_NO_BOXES = np.zeros((0, 4), np.uint8)


def _action_tokens(ids: np.ndarray) -> TokenSequence:
    """Action tokens (A,) int32 of one timestep."""
    count = len(ids)
    return TokenSequence(
        ids=ids, kind=np.zeros(count, np.uint8), local_position=np.full(count, ACTION_LOCAL, np.int16),
        timestep=np.zeros(count, np.int32), document=np.zeros(count, np.int16), is_target=np.ones(count, bool),
        patches=_NO_PATCHES, patch_boxes=_NO_BOXES,
    )  # fmt: skip
