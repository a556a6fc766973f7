"""What an agent does without its eyes or ears: pictures blanked, instructions of other episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gato.spec import Modality, TaskSpec

from .rollout import Transform


class Instructions:
    """Changes nothing of what is observed, and keeps the different instructions that episodes begin with, by field: `known`."""

    def __init__(self, task: TaskSpec) -> None:
        self.known: dict[str, list[str]] = {f.name: [] for f in task.observations if f.modality is Modality.TEXT}

    def __call__(self, observation: dict[str, np.ndarray], streams: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
        for name, texts in self.known.items():
            texts[:] = dict.fromkeys([*texts, *observation[name][first]])
        return observation


def ablations(task: TaskSpec, known: Mapping[str, Sequence[str]] | None = None) -> Sequence[tuple[str, Transform]]:
    """What this task can be deprived of: its pictures, its instructions.

    **Arguments:** `known`: instructions of the episodes that will be played, see `Instructions`. Without them an episode that begins
    before any with another instruction keeps its own; with them none does, and a field whose instruction is always the same stays.
    """
    pictures = [f.name for f in task.observations if f.modality is Modality.IMAGE]
    texts = {f.name: list((known or {}).get(f.name, ())) for f in task.observations if f.modality is Modality.TEXT}
    if known is not None:
        texts = {name: given for name, given in texts.items() if len(given) > 1}

    def blank(observation: dict[str, np.ndarray], streams: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
        return observation | {name: np.zeros_like(observation[name]) for name in pictures}

    return ([("blank picture", blank)] if pictures else []) + ([("swapped instructions", _Swap(texts))] if texts else [])


class _Swap:
    """Gives every episode the instructions of another one, for the whole episode.

    The instruction comes from the nearest later stream whose own instruction differs, or else is the first other one of those seen.

    **Arguments:** `seen`: instructions that are known before, by field.
    """

    def __init__(self, seen: dict[str, list[str]]) -> None:
        self.seen = seen
        self.given: dict[tuple[str, int], str] = {}

    def __call__(self, observation: dict[str, np.ndarray], streams: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
        changed = dict(observation)
        for name, seen in self.seen.items():
            own = list(observation[name])
            seen[:] = dict.fromkeys([*seen, *own])
            swapped = np.empty(len(own), dtype=object)
            for i, (text, stream, starts) in enumerate(zip(own, streams, first, strict=True)):
                key = (name, int(stream))
                if starts or key not in self.given:
                    others = [t for t in own[i + 1 :] + own[:i] + seen if t != text]
                    self.given[key] = others[0] if others else text
                swapped[i] = self.given[key]
            changed[name] = swapped
        return changed
