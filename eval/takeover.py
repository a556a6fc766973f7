"""A person or a rule takes over while a policy acts, and what happened becomes demonstrations (DAgger; Kelly et al. 2019 for takeovers).

    policy   policy   HUMAN   HUMAN   policy          one episode is kept as its pieces, each with who acted as its `behaviour`
    learner--------   human--------   learner

What trains on demonstrations takes pieces of behaviour "human" and leaves those of a "learner".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from gato import envs
from gato.envs.recording import Recording, episode_seed
from gato.episode import Behaviour, Episode
from gato.spec import TaskSpec

from .realtime import Pace


class Corrector(Protocol):
    """Who may take over."""

    def begin(self, env: Any) -> None:
        """Called once after the environment's own reset."""

    def __call__(self, env: Any, observation: Any, action: Any) -> Any | None:
        """The action in place of the policy's, or `None` where it may go on; all as the environment's spaces have them."""

    def wants_kept(self) -> bool:
        """Whether the last timesteps are asked for since this was called last."""


@dataclass(frozen=True)
class Corrected:
    """One episode: its return, timesteps, how many of them a human acted in, how often they took over, and its pieces."""

    seed: int
    total_reward: float
    num_timesteps: int
    num_human: int
    num_takeovers: int
    pieces: tuple[Episode, ...]


def correct(
    policy: Any,
    task: TaskSpec,
    corrector: Corrector,
    episodes: int,
    seed: int = 0,
    keep_last: int | None = None,
    sink: Callable[[Episode], None] = lambda piece: None,
    pace: Pace | None = None,
    render_mode: str | None = None,
) -> list[Corrected]:
    """Lets a policy act with somebody beside it.

    **Arguments:**

    - `seed`: where the episodes' starts come from; never those of a collection or an evaluation.
    - `keep_last`: only so many timesteps before each moment at which the corrector wants them kept; `None` keeps all.
    - `sink`: is handed every piece, in order.
    - `pace`: the rate that acting is held to.

    **Raises:** `ValueError` for an episode that is none; what the environment and the corrector raise.
    """
    if episodes < 1 or (keep_last is not None and keep_last < 1):
        raise ValueError(f"episodes is {episodes} and keep_last {keep_last}; both must be at least 1")
    env, found = envs.make(task, render_mode), []
    try:
        policy.reset(1)
        for number in range(episodes):
            if pace is not None:
                pace.start()
            recording = Recording(task, env, episode_seed("takeover", seed, number))
            corrected = _episode(policy, recording, corrector, number, keep_last, pace)
            for piece in corrected.pieces:
                sink(piece)
            found.append(corrected)
    finally:
        envs.close(env)
    return found


def _episode(
    policy: Any, recording: Recording, corrector: Corrector, number: int, keep_last: int | None, pace: Pace | None
) -> Corrected:  # fmt: skip
    task = recording.task
    who: list[bool] = []  # whether a human acted, by timestep
    asked: list[int] = []  # timesteps behind which something was to be kept
    corrector.begin(recording.env)
    while not recording.done:
        if pace is not None:
            pace.wait()
        begins = recording.first or (bool(who) and who[-1])  # it knows nothing of what a human did
        if begins and not recording.first and hasattr(policy, "begin"):
            policy.begin(0, number)
            begins = False
        reward = np.array([recording.reward], np.float32)
        actions = policy.act(recording.observation, reward, np.array([begins]), np.array([0]))
        own = {name: values[0] for name, values in actions.items()}
        said = corrector(recording.env, recording.raw, task.unflatten_action(own))
        recording.step(own if said is None else task.flatten(said, "action"))
        who.append(said is not None)
        if corrector.wants_kept():
            asked.append(recording.num_timesteps)
        if pace is not None:
            pace.done()
    human = np.array(who)
    takeovers = int(human[0]) + int((np.diff(human.astype(int)) == 1).sum())
    kept = np.ones(len(human), bool)
    if keep_last is not None:
        kept[:] = False
        for end in asked:
            kept[max(0, end - keep_last) : end] = True
    return Corrected(
        recording.seed, recording.total_reward, recording.num_timesteps, int(human.sum()), takeovers,
        tuple(pieces(recording.episode("learner"), human, kept)),
    )  # fmt: skip


def pieces(episode: Episode, human: np.ndarray, kept: np.ndarray) -> Sequence[Episode]:
    """The kept timesteps, cut where they begin, end, or change hands; `parameters` say where each `starts` in its episode.

    **Arguments:** `human`, `kept`: (T,) bool.
    """
    state = np.where(kept, human.astype(int), -1)
    edges = [0, *(np.flatnonzero(np.diff(state)) + 1).tolist(), len(state)]
    found = []
    for start, stop in pairwise(edges):
        if state[start] >= 0:
            behaviour: Behaviour = "human" if state[start] else "learner"
            parameters = {**episode.parameters, "starts": start, "of_timesteps": episode.num_timesteps}
            found.append(replace(episode.window(start, stop), behaviour=behaviour, parameters=parameters))
    return found
