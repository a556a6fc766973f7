"""Demonstrations that contradict each other: the same is seen, and something else is done."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from gato.episode import Episode
from gato.spec import Modality, TaskSpec

from .actions import ActionVectors

TOLERANCE = 0.02  # a hundredth of a continuous action's range, in units of [-1, 1]


def contradictions(task: TaskSpec, episodes: Sequence[Episode]) -> int:
    """How many timesteps have exactly the observation of another one, and another action than it.

    Continuous actions differ from a hundredth of their range on.
    """
    vectors = ActionVectors.of(task, episodes)
    seen: dict[bytes, list[np.ndarray]] = {}
    for episode in episodes:
        played = vectors.encode(episode.actions)
        for t in range(episode.num_timesteps):
            seen.setdefault(_digest(task, episode, t), []).append(played[t])
    groups = [np.stack(group) for group in seen.values() if len(group) > 1]
    return sum(len(group) for group in groups if np.ptp(group, axis=0).max(initial=0) > TOLERANCE)


def _digest(task: TaskSpec, episode: Episode, t: int) -> bytes:
    """Of all that is seen in a timestep; pictures would fill the memory."""
    digest = hashlib.blake2b(digest_size=16)
    for spec in task.observations:
        value = episode.observations[spec.name][t]
        is_text = spec.modality is Modality.TEXT
        digest.update(str(value).encode() + b"\0" if is_text else np.asarray(value).tobytes())
    return digest.digest()
