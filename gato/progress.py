"""How far a long piece of work has come: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType


class Progress:
    """Counts finished items with their rate and the time left, on standard error.

    **Arguments:**

    - `label`: what is being done; `unit`: what is counted.
    - `total`, `done`: how many items there are, and how many an earlier run finished.
    - `every`: seconds between plain lines.
    """

    def __init__(self, label: str, total: int, unit: str = "episode", done: int = 0, every: float = 10.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done = self.initial = done
        self.started = self.printed = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, desc=label, unit=unit, leave=True)

    def advance(self) -> None:
        """One more item is finished."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif time.monotonic() - self.printed > self.every or self.done == self.total:
            self.printed = time.monotonic()
            rate = (self.done - self.initial) / max(self.printed - self.started, 1e-9)
            left = (self.total - self.done) / rate
            line = f"{self.label}: {self.done}/{self.total} {self.unit}s, {rate:.1f} {self.unit}s/s, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def wait(self, note: Callable[[], str]) -> None:
        """Nothing is finished yet, but a line is due: `note` says what goes on."""
        if self.bar is None and time.monotonic() - self.printed > self.every:
            self.printed = time.monotonic()
            print(f"{self.label}: {self.done}/{self.total} {self.unit}s, {note()}", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
