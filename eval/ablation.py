"""What an agent does without its eyes or ears: pictures blanked, instructions of other episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gato.spec import Modality, TaskSpec

from .rollout import Transform


def ablations(task: TaskSpec) -> Sequence[tuple[str, Transform]]:
    """What this task can be deprived of: its pictures, its instructions."""
    pictures = [f.name for f in task.observations if f.modality is Modality.IMAGE]
    texts = [f.name for f in task.observations if f.modality is Modality.TEXT]

    def blank(observation: dict[str, np.ndarray], streams: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
        return observation | {name: np.zeros_like(observation[name]) for name in pictures}

    return ([("blank picture", blank)] if pictures else []) + ([("swapped instructions", _Swap(texts))] if texts else [])


class _Swap:
    """Gives every episode the instructions of another one, for the whole episode.

    The instruction comes from the nearest later stream whose own instruction differs.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.given: dict[tuple[str, int], str] = {}
        self.seen: list[str] = []

    def __call__(self, observation: dict[str, np.ndarray], streams: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
        changed = dict(observation)
        for name in self.names:
            own = list(observation[name])
            self.seen = list(dict.fromkeys([*self.seen, *own]))
            swapped = np.empty(len(own), dtype=object)
            for i, (text, stream, starts) in enumerate(zip(own, streams, first, strict=True)):
                key = (name, int(stream))
                if starts or key not in self.given:
                    others = [t for t in own[i + 1 :] + own[:i] + self.seen if t != text]
                    self.given[key] = others[0] if others else text
                swapped[i] = self.given[key]
            changed[name] = swapped
        return changed
