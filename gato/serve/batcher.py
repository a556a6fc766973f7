"""Requests of all connections, answered several at a time by one thread, which wakes the event loop once for all of them.

The thread takes what waits, at most `most` requests. Where more are expected it waits for them, at most `patience` seconds from
the first, so robots that act in step share one forward pass, and a single one never waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
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
        self._waiting: Queue[tuple[Any, asyncio.Future] | None] = Queue(waiting)
        self._thread = Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, request: Any) -> asyncio.Future:
        """To be called, and awaited, in an event loop. **Raises:** `Busy` where as many wait as may."""
        future = asyncio.get_running_loop().create_future()
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
            batch = [(request, future) for request, future in batch if not future.cancelled()]
            try:
                answers = self.work([request for request, _ in batch]) if batch else []
            except Exception as error:  # a fault of ours or of a learner: the server goes on
                answers = [error] * len(batch)
            _hand_out([future for _, future in batch], answers)
            del batch, answers

    def _next(self) -> list[tuple[Any, asyncio.Future]] | None:
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


def _hand_out(futures: Sequence[asyncio.Future], answers: Sequence[Any]) -> None:
    """From another thread than the event loop's; one that has ended wants none."""
    for loop in {future.get_loop() for future in futures}:
        mine = [(future, answer) for future, answer in zip(futures, answers, strict=True) if future.get_loop() is loop]
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, mine)


def _settle(answered: Sequence[tuple[asyncio.Future, Any]]) -> None:
    for future, answer in answered:
        if future.done():  # its client is gone
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
