"""Calls of other people's code that may never come back.

They are made in a thread of their own, which is left behind when one of them takes too long.
A thread, not a process, so that a simulator costs no second interpreter and what it returns is not copied. It helps
against endless loops in Python, locks, lost connections and native code that lets other threads run; native code that
holds the interpreter for ever stops this process too.

Several calls can be handed over at once: going to another thread and back for each takes longer than a timestep of a light simulator,
above all on a busy machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

Call = tuple[Callable[..., Any], tuple]


@dataclass(frozen=True)
class Answer:
    """What a call gave or raised, the seconds that it took, and whether it was waited for no longer."""

    value: Any
    error: BaseException | None
    seconds: float
    is_late: bool = False

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Watched:
    """Makes calls in one thread. **Arguments:** `seconds` that a call may take; 0 waits for ever."""

    def __init__(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"a call may take {seconds} s; give a time above zero, or 0 to wait for ever")
        self.seconds = seconds
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=_run, args=(self._work,), daemon=True)
        self._thread.start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns or raises. **Raises:** `TimeoutError` after `seconds`; the thread is then of no more use."""
        return self.all([(function, arguments)])[0].get()

    def all(self, calls: Sequence[Call]) -> list[Answer]:
        """What calls give that are made one after the other.

        One that takes longer than `seconds` is late, and its error a `TimeoutError`. It is the last answer: the calls after it
        are never begun, and the thread is of no more use.
        """
        work = _Work(calls)
        self._work.put(work)
        answers = work.wait(self.seconds)
        if len(answers) < len(calls):
            answers.append(Answer(None, TimeoutError(f"no answer within {self.seconds:g} s"), self.seconds, is_late=True))
        return answers

    def end(self, *last: Callable[[], Any], wait: float = 0.0) -> None:
        """Ends the thread as soon as it comes back from where it is, after some `last` calls, whose answers are of no interest.

        **Arguments:** `wait`: seconds at most that all this is waited for.
        """
        self._work.put(_Work([(function, ()) for function in last]))
        self._work.put(None)
        self._thread.join(wait)


class _Work:
    """Some calls, and how far they are."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls, self.answers = list(calls), list[Answer]()
        self._began, self._is_left, self._lock = time.monotonic(), False, threading.Lock()
        self._done: SimpleQueue[None] = SimpleQueue()

    def make(self) -> None:
        for function, arguments in self.calls:
            value, error = None, None
            try:
                value = function(*arguments)
            except BaseException as raised:  # the caller's to judge
                error = raised
            with self._lock:  # or it could be left behind while it begins the next one
                if self._is_left:
                    return
                now = time.monotonic()
                self.answers.append(Answer(value, error, now - self._began))
                self._began = now
        self._done.put(None)

    def wait(self, seconds: float) -> list[Answer]:
        """All answers, or those before the call that takes longer than `seconds`."""
        while True:
            try:
                self._done.get(timeout=max(0.0, self._began + seconds - time.monotonic()) if seconds else None)
                return self.answers
            except Empty:
                with self._lock:
                    self._is_left = len(self.answers) < len(self.calls) and time.monotonic() - self._began >= seconds
                    if self._is_left:
                        return self.answers


def _run(queue: SimpleQueue) -> None:
    while (work := queue.get()) is not None:
        work.make()
        del work  # an idle thread keeps nothing alive
