"""How many updates a run has in all: the recipe's, or as many as its seconds hold.

From seconds a speed test makes a first number. But other processes come and go, and the test may have met a busy moment:
so the number follows the clock, and with it the learning rate, which reaches its end when the time does. Which number an
update went by stands in its line of `metrics.jsonl`; a run that goes on takes it from there for the updates that it
repeats, so that they come out as they did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

OPEN = 2**53  # updates to draw rows for where only the clock knows the end
STEADY = 0.01  # a number that is right to so much stays: the rate is to be smooth
LEAST_UPDATES = 8  # before those the speed test knows more than the clock


class Schedule:
    """**Arguments:** `steps`: updates in all, at first; `seconds`: what they may take, `None` where the number of updates is
    what was asked for; `lines`: of `metrics.jsonl` (see `read_metrics`) so far; `done`: updates that need not be repeated.
    """

    def __init__(self, steps: int, seconds: float | None = None, lines: Iterable[Mapping[str, Any]] = (), done: int = 0) -> None:
        self.seconds, self.total = seconds, steps
        told = {line["step"] - 1: int(line["steps"]) for line in lines if "steps" in line}
        self._told = {step: total for step, total in told.items() if step >= done}
        if before := [step for step in told if step < done]:
            self.total = told[max(before)]

    @property
    def is_timed(self) -> bool:
        return self.seconds is not None

    def updates(self, first: int) -> range:
        """Those that rows may be needed for."""
        return range(first, OPEN if self.is_timed else self.total)

    def follow(self, step: int, elapsed: float) -> int:
        """The updates in all, as of update `step`, which is about to begin `elapsed` seconds into the run; at least `step` + 1."""
        if self.seconds is None:
            return self.total
        if step in self._told:
            self.total = self._told[step]
        elif elapsed > 0 and step > 0:
            fitting = max(step + 1, round(step * self.seconds / elapsed))  # at the mean pace so far
            is_off = abs(fitting - self.total) > STEADY * self.total
            if fitting == step + 1 or (step >= LEAST_UPDATES and is_off):
                self.total = fitting
        self.total = max(self.total, step + 1)
        return self.total
