"""Chunks of the next H actions: what is learned of them, and how they are played.

    timestep        t      t+1    t+2    t+3
    chunk of t      a0     a1     a2     a3
    chunk of t+2                  a0     a1     a2  a3      where chunks overlap, continuous actions are averaged

A chunk is an action whose fields have an axis of H timesteps before their own, so whatever learns actions learns chunks
(action chunking with temporal ensembling: Zhao et al. 2023, section IV).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gato.episode import Episode, StreamPolicy, Values
from gato.setting import LONGEST_CHUNK, Limits, check_value
from gato.spec import FieldSpec, Modality, TaskSpec

LENGTH = Limits(1, LONGEST_CHUNK)
DECAY = 0.5  # how fast the word of an older chunk fades, per timestep


def chunked(task: TaskSpec, length: int) -> TaskSpec:
    """The task whose action is a chunk of `length`.

    **Raises:** `ValueError` for actions of text, and for a length out of range.
    """
    check_value("chunk", length, int, LENGTH)
    if any(f.modality is Modality.TEXT for f in task.actions):
        raise ValueError(f"task '{task.name}' has actions of text, of which there are no chunks; leave out chunk")
    return replace(task, fields=(*task.observations, *(_with_axis(f, length) for f in task.actions)))


def _with_axis(spec: FieldSpec, length: int) -> FieldSpec:
    low, high = (bound if bound is None or len(bound) == 1 else bound * length for bound in (spec.low, spec.high))
    return replace(spec, shape=(length, *spec.shape), low=low, high=high)


def unchunked(task: TaskSpec, length: int) -> TaskSpec:
    """The inverse. **Raises:** `ValueError` for actions that are no chunks of this length."""

    def without(spec: FieldSpec) -> FieldSpec:
        if not spec.shape or spec.shape[0] != length:
            raise ValueError(f"action '{spec.name}' has shape {spec.shape}, which is no chunk of {length}")
        size = spec.size // length
        low, high = (bound if bound is None or len(bound) == 1 else bound[:size] for bound in (spec.low, spec.high))
        return replace(spec, shape=spec.shape[1:], low=low, high=high)

    return replace(task, fields=(*task.observations, *map(without, task.actions)))


def chunked_episode(episode: Episode, length: int, task: TaskSpec | None = None) -> Episode:
    """The same timesteps, each with the `length` actions from it on; at the end the last action is repeated.

    **Arguments:** `task`: `chunked(episode.task, length)`, where it is made already.
    """
    index = np.minimum(np.arange(episode.num_timesteps)[:, None] + np.arange(length), episode.num_timesteps - 1)
    actions = {name: np.asarray(values)[index] for name, values in episode.actions.items()}
    return Episode.trusted(**{**vars(episode), "task": task or chunked(episode.task, length), "actions": actions})


def played(policy: Any, task: TaskSpec, every: int = 1, decay: float = DECAY, ahead: bool = False) -> Any:
    """A policy of a task whose actions are predicted in chunks, as `ChunkPolicy` plays it; as it is where they are not."""
    return policy if task.chunk is None else ChunkPolicy(policy, task.chunk, every, decay, ahead)


@dataclass
class _Plan:
    """The chunks that cover the present timestep of a stream, each with its age, the newest last; and one that is being computed.

    `first`: the next chunk that is asked for begins the episode.
    """

    first: bool = True
    chunks: list[tuple[int, dict[str, np.ndarray]]] = field(default_factory=list)
    coming: Future | None = None
    age: int = 0  # of what is being computed


class ChunkPolicy(StreamPolicy):
    """Plays the chunks of another policy, timestep by timestep; see `gato.policy.Policy`.

    **Arguments:**

    - `chunks`: a policy of `chunked(task, length)` that sees the present timestep alone.
    - `every`: after so many timesteps a new chunk is asked for, 1 to `length`.
    - `decay`: where chunks overlap, the word of each is exp(-decay · age); discrete actions are the newest chunk's.
    - `ahead`: a chunk is computed in a thread while the one before it plays, so that `act` waits only where a plan ends. What it was
      computed from is then some timesteps old, and so is its beginning, which is not played.

    **Attributes:** `waited`: how often a plan had ended before the next one was there (with `ahead`, beside each episode's first).

    **Raises:** `ValueError` for a policy that remembers, and numbers out of range.
    """

    def __init__(self, chunks: Any, length: int, every: int = 1, decay: float = DECAY, ahead: bool = False) -> None:
        check_value("every", every, int, Limits(1, length))
        check_value("decay", decay, float, Limits(0, 1000))
        if getattr(chunks, "memory", None) != 1:
            raise ValueError("chunks are played of policies that see the present timestep alone; this one remembers")
        self.chunks, self.length, self.every, self.decay = chunks, length, every, decay
        self.task, self.memory = unchunked(chunks.task, length), 1
        self._pool = ThreadPoolExecutor(1) if ahead else None
        self.waited = 0
        self.reset(1)

    @property
    def seed(self) -> int:
        """Of what is drawn; that of the policy of chunks."""
        return self.chunks.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.chunks.seed = seed

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        self._wait()
        self.chunks.reset(num_streams, demonstrations)
        self._plans = [_Plan() for _ in range(num_streams)]

    def begin(self, stream: int, number: int) -> None:
        """See `GatoPolicy`."""
        self._wait()
        self.chunks.begin(stream, number)
        self._plans[stream] = _Plan(first=False)

    def _wait(self) -> None:
        """Until the thread, which takes one thing after the other, has done all that it was given: nobody else acts meanwhile."""
        if self._pool is not None:
            self._pool.submit(lambda: None).result()

    def act_in(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> dict[str, np.ndarray]:
        for s, is_first in zip(streams, first, strict=True):
            self._pass_on(int(s), bool(is_first))
        seen = {name: np.asarray(values) for name, values in observation.items()}
        if self._pool is None:
            self._ask(seen, streams)
        else:
            for row, s in enumerate(streams):
                self._ask_ahead({name: values[row : row + 1] for name, values in seen.items()}, int(s))
        rows = [self._present(int(s)) for s in streams]
        return {f.name: np.stack([row[f.name] for row in rows]) for f in self.task.actions}

    def has_begun(self, stream: int) -> bool:
        return not self._plans[stream].first

    def _pass_on(self, s: int, is_first: bool) -> None:
        """A timestep later: chunks are older, and those that have been played to their end are dropped."""
        if is_first:
            self._plans[s] = _Plan()
        plan = self._plans[s]
        plan.chunks = [(age + 1, chunk) for age, chunk in plan.chunks if age + 1 < self.length]
        plan.age += 1

    def _ask(self, seen: dict[str, np.ndarray], streams: np.ndarray) -> None:
        rows = [i for i, s in enumerate(streams) if not (c := self._plans[s].chunks) or c[-1][0] >= self.every]
        if not rows:
            return
        asking = np.asarray(streams)[rows]
        first = np.array([self._plans[s].first for s in asking])
        found = self.chunks.act({name: values[rows] for name, values in seen.items()}, first=first, streams=asking)
        for i, s in enumerate(asking):
            plan = self._plans[s]
            plan.chunks.append((0, {name: values[i] for name, values in found.items()}))
            plan.first = False

    def _ask_ahead(self, seen: dict[str, np.ndarray], s: int) -> None:
        """Takes what has been computed, and has the next one computed where none is and it is time."""
        plan = self._plans[s]
        if plan.coming is not None and (plan.coming.done() or not plan.chunks):
            self.waited += not plan.coming.done()
            found, plan.coming, plan.first = plan.coming.result(), None, False
            if plan.age < self.length:
                plan.chunks.append((plan.age, found))
        if plan.coming is None and (not plan.chunks or plan.chunks[-1][0] >= self.every):
            assert self._pool is not None, "only with a thread"
            plan.coming, plan.age = self._pool.submit(self._one, seen, plan.first, s), 0
        if not plan.chunks:  # an episode's first timestep, or what came was too late to be played
            assert plan.coming is not None, "it was just asked for"
            found, plan.coming, plan.first = plan.coming.result(), None, False
            plan.chunks.append((0, found))

    def _one(self, seen: dict[str, np.ndarray], first: bool, s: int) -> dict[str, np.ndarray]:
        return {name: values[0] for name, values in self.chunks.act(seen, first=np.array([first]), streams=np.array([s])).items()}

    def _present(self, s: int) -> dict[str, np.ndarray]:
        """The action of this timestep."""
        chunks = self._plans[s].chunks
        ages = np.array([age for age, _ in chunks], np.float64)
        weights = np.exp(-self.decay * (ages - ages.min()))  # the newest one's is 1, however old it is
        found = {}
        for f in self.task.actions:
            told = np.stack([chunk[f.name][age] for age, chunk in chunks])
            if f.modality is Modality.CONTINUOUS:
                low, high = f.bounds
                mean = np.tensordot(weights / weights.sum(), told.astype(np.float64), 1)
                found[f.name] = np.clip(mean, low, high).astype(f.dtype)  # a mean of values in range, but for its rounding
            else:
                found[f.name] = told[-1]
        return found
