"""Jobs played here or by worker processes; episodes come back in the order of their jobs either way.

Workers are fresh processes that share nothing. A watchdog inside each ends the process when an episode takes
too long, whatever the expert is stuck in; another one is then started, and the attempt counts as failed.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from gato.envs import own
from gato.episode import Episode

from .attempt import Job, Outcome, Stage

MAX_ATTEMPTS = 50  # for one place in the store
AHEAD = 4  # places per worker that may be finished before their turn: what bounds the memory

_log = logging.getLogger(__name__)


class Place:
    """A place in the store and the attempts to fill it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.failures: list[str] = []
        self.num_deaths = 0
        self.result: Episode | Exception | None = None

    def take(self, outcome: Outcome) -> None:
        """Takes the outcome of the current attempt; afterwards there is a result, or another attempt to make."""
        self.num_deaths = 0
        if outcome.failed is not None:
            self.failures.append(outcome.failed)
        attempts = self.job.attempt + 1
        if outcome.episode is not None:
            parameters = outcome.episode.parameters
            counts = {"attempts": attempts, "failed": len(self.failures), **parameters["collection"]}
            self.result = replace(outcome.episode, parameters={**parameters, "collection": counts})
        elif attempts == MAX_ATTEMPTS:
            self.result = self._error()
        else:
            self.job = replace(self.job, attempt=attempts)

    def _error(self) -> Exception:
        task, failed = self.job.task, len(self.failures)
        if failed > MAX_ATTEMPTS / 2:
            return RuntimeError(f"task '{task.name}': {failed} of {MAX_ATTEMPTS} episodes failed, the last with {self.failures[-1]}")
        return ValueError(
            f"task '{task.name}': {MAX_ATTEMPTS} expert episodes in a row fell short of the return {self.job.least_return:.6g} "
            f"(random {task.random_return}, expert {task.expert_return}); measure both again"
        )


class Workers:
    """Plays jobs; a context manager, which ends its processes.

    **Arguments:**

    - `workers`: processes; 0 plays in this one, where nothing stops an expert that hangs.
    - `episode_seconds`: wall-clock time after which a worker's attempt has failed.
    """

    def __init__(self, workers: int, episode_seconds: float) -> None:
        self.stage = Stage()
        self.workers = [_Worker(episode_seconds) for _ in range(workers)]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stage.close()
        for worker in self.workers:
            worker.end()

    def episodes(self, jobs: Iterable[Job]) -> Iterator[Episode]:
        """The accepted episode of each job, in the order of the jobs.

        **Raises:** when its turn comes, `ValueError` for a place whose episodes all fell short, and
        `RuntimeError` where more than half of them failed.
        """
        for result in self._in_parallel(jobs) if self.workers else self._one_by_one(jobs):
            if isinstance(result, Exception):
                raise result
            yield result

    def _one_by_one(self, jobs: Iterable[Job]) -> Iterator[Episode | Exception]:
        for job in jobs:
            place = Place(job)
            while place.result is None:
                place.take(self.stage.play(place.job))
            yield place.result

    def _in_parallel(self, jobs: Iterable[Job]) -> Iterator[Episode | Exception]:
        waiting, places = iter(jobs), deque[Place]()
        try:
            while True:
                for worker in self.workers:
                    if worker.place is None and len(places) < AHEAD * len(self.workers) and (job := next(waiting, None)):
                        places.append(Place(job))
                        worker.start(places[-1])
                if not places:
                    return
                if (result := places[0].result) is not None:
                    places.popleft()
                    yield result
                    continue
                busy: dict[Any, _Worker] = {worker.connection: worker for worker in self.workers if worker.place}
                for connection in wait(list(busy)):
                    busy[connection].finish()
        finally:
            for worker in self.workers:
                worker.drop()


class _Worker:
    """A process that plays one job at a time, and is replaced when it ends."""

    def __init__(self, episode_seconds: float) -> None:
        self.episode_seconds = episode_seconds
        self.place: Place | None = None
        self._launch()

    def start(self, place: Place) -> None:
        self.place = place
        if not self.is_ready:
            self._await_ready()
        self.started = time.monotonic()
        self.connection.send(place.job)

    def finish(self) -> None:
        """Takes in what the process sent, or that it is no more, and goes on with the place until it is filled."""
        assert self.place is not None, "only a busy worker finishes"
        place = self.place
        try:
            place.take(self.connection.recv())
        except (EOFError, OSError):
            self._replace_process(place)
        self.place = None
        if place.result is None:
            self.start(place)

    def drop(self) -> None:
        """Gives up a place that nobody waits for any more, since another one could not be filled."""
        if self.place is not None:
            self.place = None
            self.end()
            self._launch()

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()

    def _replace_process(self, place: Place) -> None:
        """A process that was killed from outside must not change the store: its attempt is made once more."""
        self.process.join()
        code, seconds = self.process.exitcode, time.monotonic() - self.started
        self.end()
        self._launch()
        if code == 1 and seconds >= self.episode_seconds:
            reason = f"not done after {self.episode_seconds:g} s"
            place.take(Outcome(failed=f"TimeoutError: {reason}"))
        else:
            reason = f"the worker died with exit code {code}"
            place.num_deaths += 1
            if place.num_deaths > 1:
                place.take(Outcome(failed=reason))
        _log.warning("task %s, episode %d: %s; a new worker goes on", place.job.task.name, place.job.index, reason)

    def _launch(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.episode_seconds, own.brought()), daemon=True)
        self.process.start()
        theirs.close()  # ours to close, so that the end of the process ends the connection
        self.is_ready = False

    def _await_ready(self) -> None:
        try:
            self.connection.recv()
        except (EOFError, OSError):
            raise RuntimeError(
                "a worker process could not start; a script must collect below `if __name__ == '__main__':`, or with workers=0"
            ) from None
        self.is_ready = True


def _work(connection: Connection, episode_seconds: float, modules: Sequence[str]) -> None:
    """What a worker does: jobs in, outcomes out, until the connection ends. `modules` are those that the parent was given."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    stage = Stage()
    for module in modules:
        with suppress(ValueError):  # the environment that needs it is answered with the same reason
            own.bring(module)
    with open(os.devnull, "w") as nowhere:
        connection.send("ready")
        while True:
            try:
                job = connection.recv()
            except (EOFError, OSError):
                return
            with suppress(Exception):  # `play` meets the same error and reports it
                stage.prepare(job)
            # A watchdog in C, which ends the process even where the expert never gives the interpreter free.
            faulthandler.dump_traceback_later(episode_seconds, exit=True, file=nowhere)
            outcome = stage.play(job)
            faulthandler.cancel_dump_traceback_later()
            connection.send(outcome)
