"""Deadlines at a fixed rate, and how many of them were missed.

    tick k             tick k + 1          a period is 1 / rate seconds
    | act, step .......| act, step, still stepping ..|
                                           ^ deadline missed by so much; the next tick is the next whole period

What is late is not caught up in a hurry: a robot that missed a tick acts on a fresh observation at the next one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Deadlines:
    """How a loop kept its rate.

    **Arguments:** `rate` in Hz; `steps` taken; `missed`: how many ended after their deadline; `worst_lateness`: of those,
    the longest time after it, in seconds (0 without one); `p50`, `p99`: seconds from tick to end of a step.
    """

    rate: float
    steps: int
    missed: int
    worst_lateness: float
    p50: float
    p99: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Pace:
    """Holds a loop to a rate: `start` an episode, then for every step `wait` for its tick, act, and say `done`.

    **Arguments:** `rate` in Hz; `now` and `sleep`: a clock in seconds, and how to wait.

    **Raises:** `ValueError` for a rate that is not above zero.
    """

    def __init__(self, rate: float, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"the rate is {rate} Hz; give steps per second above zero, such as 20")
        self.rate, self.period = rate, 1 / rate
        self.now, self.sleep = now, sleep
        self.taken: list[float] = []
        self.start()

    def start(self) -> None:
        """The next tick is now: what came before, such as the reset of an environment, has no deadline."""
        self.tick = self.now()

    def wait(self) -> None:
        """Returns at the next tick."""
        while (left := self.tick - self.now()) > 0:
            self.sleep(left)

    def done(self) -> None:
        """The step of this tick has ended."""
        taken = self.now() - self.tick
        self.taken.append(taken)
        self.tick += self.period * max(1, math.ceil(taken / self.period))

    def report(self) -> Deadlines:
        """Over all steps so far. **Raises:** `ValueError` before the first."""
        if not self.taken:
            raise ValueError("no step was taken, so there is nothing to report")
        taken = np.array(self.taken)
        late = taken[taken > self.period] - self.period
        p50, p99 = np.percentile(taken, [50, 99])
        return Deadlines(self.rate, len(taken), len(late), float(late.max(initial=0.0)), float(p50), float(p99))
