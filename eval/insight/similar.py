"""Which known tasks a new one is like, by what a TecNet makes of its demonstrations or by their plain statistics, and acting by
looking up theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.agent import load
from gato.description import learner_of
from gato.disk import read_json
from gato.episode import Episode
from gato.eval.sets import Shown
from gato.learners.nearest import NearestPolicy
from gato.learners.one_shot.agent import OneShotAgent
from gato.learners.one_shot.config import TECNETS
from gato.learners.one_shot.tecnets import EMBEDDED
from gato.learners.other import DESCRIPTION
from gato.spec import Modality, TaskSpec

LOOKED_UP = 20  # known tasks


def embeds(checkpoint: Path) -> bool:
    """Whether it is one of TecNets with an embedding of demonstrations."""
    if learner_of(checkpoint) != TECNETS:
        return False
    return (read_json(checkpoint / DESCRIPTION).get("model") or {}).get("sentence") in EMBEDDED


class KnownTasks:
    """The tasks that a TecNets' checkpoint knows by name. **Raises:** `ValueError` for another learner's, or one that knows none."""

    def __init__(self, agent: Any, checkpoint: Path) -> None:
        known: dict[str, Any] = agent.memories if isinstance(agent, OneShotAgent) else {}
        self.agent, self.names = agent, [name for name, memory in known.items() if "sentence" in memory]
        if not self.names:
            raise ValueError(
                f"'{checkpoint}' holds no embeddings of tasks; name a checkpoint of TecNets, such as runs/tecnets-reach2d/final"
            )
        self.embedded = torch.stack([known[name]["sentence"] for name in self.names])

    def nearest(self, demonstrations: Sequence[Episode], count: int) -> list[tuple[str, float]]:
        """Names of the known tasks that these demonstrations are most like, the nearest first, and the cosines."""
        sentence = self.agent.model.remember(self.agent.inputs, demonstrations)["sentence"].cpu()
        cosine = self.embedded @ sentence
        return [(self.names[place], float(cosine[place])) for place in cosine.topk(min(count, len(self.names))).indices.tolist()]


class LookUp:
    """Retrieval on the learned embedding: the action of the nearest timestep among all demonstrations of the nearest known tasks.

    **Arguments:** `store`: where the demonstrations of the known tasks are.
    """

    def __init__(self, known: KnownTasks, store: Shown) -> None:
        self.known, self.store = known, store

    def policy(self, task: TaskSpec, demonstrations: Sequence[Episode]) -> NearestPolicy:
        """**Raises:** `ValueError` where the store holds none of the nearest tasks."""
        names = [name for name, _ in self.known.nearest(demonstrations, LOOKED_UP)]
        found = [episode for name in names for episode in self.store.of(name, max(1, len(self.store.numbers.get(name, ()))))]
        return NearestPolicy.of(task, [*demonstrations, *found])


def similar(store: str, checkpoint: Path, demonstrations: int = 1, count: int = 5, device: str | None = None) -> list[dict[str, Any]]:
    """**Returns:** for every task of a store the nearest of the checkpoint's known tasks, `count` of them, and their `cosine`.

    **Raises:** `ValueError` for a checkpoint of another learner, for one that knows no task by name, or too few demonstrations.
    """
    known = KnownTasks(load(checkpoint, device), checkpoint)
    shown, rows = Shown(store), []
    for task in shown.numbers:
        for name, cosine in known.nearest(shown.of(task, demonstrations), count):
            rows.append({"task": task, "like": name, "cosine": round(cosine, 4)})
    return rows


def similar_by_statistics(store: str, known: str, demonstrations: int = 1, count: int = 5) -> list[dict[str, Any]]:
    """For tasks whose observations are numbers, without a model: how far apart are means, standard deviations and the change from the
    first to the last observation?

    **Returns:** for every task of a store the nearest tasks of the store `known`, `count` of them, and their `distance`: the root mean
    square over all of these, each in standard deviations over the known tasks.

    **Raises:** `ValueError` for tasks with other observations, or with none that are numbers, and for too few demonstrations.
    """
    ours, theirs = Shown(store), Shown(known)
    first = theirs.store.tasks[0]
    for task in [*theirs.store.tasks, *ours.store.tasks]:
        if lines := [line for line in first.differences(task, raw=True) if line.startswith("observation")]:
            raise ValueError(f"tasks '{first.name}' and '{task.name}' cannot be compared: {lines[0]}; give stores of one robot")
    fields = [f.name for f in first.observations if f.modality in (Modality.CONTINUOUS, Modality.DISCRETE)]
    if not fields:
        raise ValueError(
            f"'{first.name}' observes no numbers, which have statistics; give --checkpoint, of TecNets, which looks at pictures"
        )
    new, old = ({name: statistics_of(shown.of(name, demonstrations), fields) for name in shown.numbers} for shown in (ours, theirs))
    names, table = list(old), np.stack(list(old.values()))
    spread = table.std(axis=0)
    spread[spread == 0] = 1.0
    rows = []
    for name, values in new.items():
        distances = np.sqrt(np.mean(((table - values) / spread) ** 2, axis=1))
        for place in np.argsort(distances, kind="stable")[:count]:
            rows.append({"task": name, "like": names[place], "distance": round(float(distances[place]), 4)})
    return rows


def statistics_of(demonstrations: Sequence[Episode], fields: Sequence[str]) -> np.ndarray:
    """(3 * D,) for D numbers in these fields: mean, standard deviation, and the mean change within a demonstration."""
    seen = [
        np.concatenate([np.asarray(e.observations[name], np.float64).reshape(e.num_timesteps, -1) for name in fields], axis=1)
        for e in demonstrations
    ]
    timesteps, changes = np.concatenate(seen), np.stack([values[-1] - values[0] for values in seen])
    return np.concatenate([timesteps.mean(axis=0), timesteps.std(axis=0), changes.mean(axis=0)])
