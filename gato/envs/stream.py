"""Calls that may never come back: they are made in a thread of their own, which is left behind when it takes too long.

A thread, not a process, so that a simulator costs no second interpreter and what it returns is not copied; each
environment keeps to one thread, which some renderers need. It helps against endless loops in Python, locks, lost connections
and native code that lets other threads run; native code that holds the interpreter for ever stops this process too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any


class Watched:
    """Makes calls in one thread. **Arguments:** `seconds` that a call may take; 0 waits for ever."""

    def __init__(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"a call may take {seconds} s; give a time above zero, or 0 to wait for ever")
        self.seconds = seconds
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        threading.Thread(target=_work, args=(self._calls, self._answers), daemon=True).start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns or raises. **Raises:** `TimeoutError` after `seconds`; the thread is then of no more use."""
        self._calls.put((function, arguments))
        try:
            value, error = self._answers.get(timeout=self.seconds or None)
        except Empty:
            raise TimeoutError(f"no answer within {self.seconds:g} s") from None
        if error is not None:
            raise error
        return value

    def end(self, last: Callable[[], Any] | None = None) -> None:
        """Ends the thread, after a `last` call whose answer nobody waits for, as soon as it comes back from where it is."""
        if last is not None:
            self._calls.put((last, ()))
        self._calls.put(None)


def _work(calls: SimpleQueue, answers: SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        function, arguments = call
        try:
            answers.put((function(*arguments), None))
        except BaseException as error:  # the caller's to judge
            answers.put((None, error))
        del call, function, arguments  # an idle thread keeps nothing alive
