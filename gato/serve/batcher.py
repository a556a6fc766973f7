"""Requests of all connections, answered several at a time by one thread.

The thread takes what waits, at most `most` requests. Where more are expected it waits for them, at most `patience` seconds from
the first, so robots that act in step share one forward pass, and a single one never waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any


class Busy(Exception):
    """So many requests wait that this one was not taken."""


class Batcher:
    """**Arguments:**

    - `work`: requests -> their answers, in the same order; an exception among the answers is raised for its request alone.
    - `most`: requests at once; `waiting`: how many may wait.
    - `patience`, `expected`: how long is waited, in seconds, while fewer requests than `expected()` are there.
    """

    def __init__(
        self,
        work: Callable[[list[Any]], Sequence[Any]],
        most: int,
        waiting: int,
        patience: float = 0.0,
        expected: Callable[[], int] = lambda: 1,
    ) -> None:
        self.work, self.most, self.patience, self.expected = work, most, patience, expected
        self._waiting: Queue[tuple[Any, Future] | None] = Queue(waiting)
        self._thread = Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, request: Any) -> Future:
        """**Raises:** `Busy` where as many wait as may."""
        future: Future = Future()
        try:
            self._waiting.put_nowait((request, future))
        except Full:
            raise Busy(f"{self._waiting.maxsize} requests wait already; try again") from None
        return future

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return self._waiting.qsize()

    def close(self) -> None:
        """Ends the thread behind what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            batch = [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
            try:
                answers = self.work([request for request, _ in batch]) if batch else []
            except Exception as error:  # a fault of ours or of a learner: the server goes on
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            del batch, answers

    def _next(self) -> list[tuple[Any, Future]] | None:
        """What is answered next; `None` at the end."""
        first = self._waiting.get()
        if first is None:
            return None
        batch, deadline = [first], time.monotonic() + self.patience
        while len(batch) < self.most:
            left = deadline - time.monotonic()
            try:
                more = self._waiting.get(timeout=left) if left > 0 and len(batch) < self.expected() else self._waiting.get_nowait()
            except Empty:
                if left <= 0 or len(batch) >= self.expected():
                    break
                continue
            if more is None:
                self._waiting.put(None)  # to be met again when this is done
                break
            batch.append(more)
        return batch
