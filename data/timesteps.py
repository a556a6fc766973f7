"""Single timesteps of a store, for learners that see no past: trajectories whose context is one.

What a batch is made of is the learner's business: it hands over how raw values become one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .selection import SourceConfig
from .store import Store
from .trajectories import Trajectories

Encode = Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], Any]


class Timesteps(Trajectories):
    """The rows and batches of a run; see `Trajectories`.

    `encode`: observations and actions (n, *shape) by field -> a `Batch` of n rows. It is set once
    it is known, since it may be measured from `sample`.
    """

    learner = "a clone"
    encode: Encode

    def __init__(self, name: str, config: SourceConfig, store: Store, seed: int, held_out: Sequence[str] = (), workers: int = 0) -> None:
        super().__init__(name, config, store, seed, context=1, needs_returns=False, held_out=held_out, workers=workers)

    def batch(self, step: int, rows: Sequence[int]) -> Any:
        """The given rows of one global batch."""
        windows = [self.window(step, row) for row in rows]
        seen, played = (
            {f.name: np.concatenate([getattr(w, role)[f.name] for w in windows]) for f in getattr(self.task, role)}
            for role in ("observations", "actions")
        )
        return self.encode(seen, played)

    def counts(self, batch: Any) -> dict[str, float]:
        """`tokens`, `places` and `transitions` are all timesteps."""
        return dict.fromkeys(("tokens", "places", "transitions"), len(batch))
