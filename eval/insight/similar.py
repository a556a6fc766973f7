"""Which known tasks a new one is like: by what a TecNet makes of its demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gato.agent import load
from gato.eval.sets import Shown
from gato.learners.one_shot.agent import OneShotAgent


def similar(store: str, checkpoint: Path, demonstrations: int = 1, count: int = 5, device: str | None = None) -> list[dict[str, Any]]:
    """**Returns:** for every task of a store the nearest of the checkpoint's known tasks, `count` of them, and their `cosine`.

    **Raises:** `ValueError` for a checkpoint of another learner, for one that knows no task by name, or too few demonstrations.
    """
    agent = load(checkpoint, device)
    known: dict[str, Any] = agent.memories if isinstance(agent, OneShotAgent) else {}
    names = [name for name, memory in known.items() if "sentence" in memory]
    if not names or not isinstance(agent, OneShotAgent):
        raise ValueError(f"'{checkpoint}' holds no embeddings of tasks; name a checkpoint of TecNets, such as runs/tecnets-reach2d/final")
    embedded = torch.stack([known[name]["sentence"] for name in names])
    rows = []
    shown = Shown(store)
    for task in shown.numbers:
        sentence = agent.model.remember(agent.inputs, shown.of(task, demonstrations))["sentence"].cpu()
        cosine = embedded @ sentence
        for place in cosine.topk(min(count, len(names))).indices.tolist():
            rows.append({"task": task, "like": names[place], "cosine": round(float(cosine[place]), 4)})
    return rows
