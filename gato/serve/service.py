"""What a policy server does, without the wires: sessions, queues, metrics, and the shutdown that loses no answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gato import __version__
from gato.agent import Agent
from gato.disk import shown
from gato.spec import TaskSpec

from . import words
from .acting import Acting, Session
from .batcher import Batcher, Busy
from .demonstrated import Demonstrated
from .metrics import SECONDS, SIZES, Metrics, resident_bytes
from .settings import ServeConfig
from .wire import ENVELOPE, Refused, most_bytes, split

MAX_UPLOAD = 16 * 2**20  # bytes of a picture's file
MAX_UPLOADS = 8  # pictures that are in memory at once
MAX_SESSIONS = 4096  # of HTTP, by name
WORDS_AT_ONCE = 8
DRAIN_SECONDS = 10.0
_NAME = re.compile(r"[\w.:-]{1,64}")


class Leaving(Exception):
    """The server is about to end and takes no more requests."""


class Place:
    """Where a client stands: a connection, or a session of HTTP with a name. It acts in one task at a time."""

    def __init__(self, task: Any = None) -> None:
        self.task, self.used_at = task, time.monotonic()
        self.session: Session | None = None


class Service:
    """**Arguments:** `agent`: whatever `gato.load` gives; `name`: of the checkpoint; `config`; `demonstrated`: see `Acting`."""

    def __init__(self, agent: Any, name: str, config: ServeConfig, demonstrated: Sequence[Demonstrated] = ()) -> None:
        self.agent, self.name, self.config = agent, name, config
        self.metrics = _metrics(self)
        self.acting = Acting(agent, config, self.metrics, demonstrated)
        self.actions = Batcher(self.acting.answer, config.batch, config.waiting, config.wait_ms / 1000, self.acting.num_active)
        self.speaks = isinstance(agent, Agent)
        self.words = Batcher(lambda wishes: words.answer(agent, wishes), WORDS_AT_ONCE, 2 * WORDS_AT_ONCE)
        self.places: dict[str, Place] = {}
        self.num_answering = self.num_connections = self.num_uploads = 0
        self.is_leaving = False
        self.most_bytes = max([ENVELOPE, *map(most_bytes, self.acting.tasks.values())])

    # -- acting --------------------------------------------------------------------------------------------

    async def act(self, place: Place, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one message of a client.

        **Raises:** `Refused`, `Busy`, `Leaving`; anything else is a fault of ours.
        """
        started = time.perf_counter()
        controls, values = split(message)
        async with self._answering("act"):
            task = self.acting.task(controls.get("task", place.session.task.name if place.session else place.task))
            session = self._session(place, task)
            session.used_at = place.used_at = time.monotonic()
            if not values:
                answer = self._begun_later(session, controls)
            else:
                request = self.acting.ask(session, controls, values)
                session.is_busy, error = True, None
                try:
                    answer = await self.actions.submit(request)
                except Busy:
                    raise
                except Exception as caught:
                    error = caught
                    self.acting.answered(request, error)
                    raise
                finally:
                    session.is_busy = False
                self.acting.answered(request, None)
            if controls.get("end"):
                self.leave(place)
        seconds = time.perf_counter() - started
        self.metrics.observe("gato_request_seconds", seconds, route="act")
        return {**answer, "server_timing": {"infer_ms": 1000 * seconds}}

    def _session(self, place: Place, task: TaskSpec) -> Session:
        """The session of a place in a task; the one that it had in another is over. **Raises:** `Busy` while that is being answered."""
        if place.session is not None and place.session.is_busy:  # its stream is nobody else's until then
            raise Busy("the last request of this session is still being answered; wait for it")
        if place.session is not None and place.session.task.name != task.name:
            self.leave(place)
        if place.session is None:
            self._forget_old()
            place.session = self.acting.open(task)
        return place.session

    @staticmethod
    def _begun_later(session: Session, controls: Mapping[str, Any]) -> dict[str, Any]:
        """A message without an observation only says that the next one begins an episode."""
        if controls.get("reset") is not True and controls.get("end") is not True:
            raise Refused("the message holds no observation; send one, or reset")
        session.timestep = None
        return {}

    def leave(self, place: Place) -> None:
        if place.session is not None:
            self.acting.leave(place.session)
            place.session = None

    def place(self, name: Any) -> Place:
        """The session of HTTP with a name; without one a place for this request alone."""
        if name is None:
            return Place()
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Refused(f"session is {shown(name)}, expected 1 to 64 letters, digits and any of . : - _")
        if name not in self.places:
            self._forget_old()
            if len(self.places) >= MAX_SESSIONS:
                raise Busy(f"{MAX_SESSIONS} sessions are open; try again")
            self.places[name] = Place()
        return self.places[name]

    def _forget_old(self) -> None:
        now = time.monotonic()
        for name, place in list(self.places.items()):
            busy = place.session is not None and place.session.is_busy
            if not busy and now - place.used_at > self.config.session_seconds:
                self.leave(place)
                del self.places[name]

    # -- words ---------------------------------------------------------------------------------------------

    async def write(self, verb: str, message: Mapping[str, Any], picture: bytes | None = None) -> dict[str, Any]:
        """What `gato caption` or `gato generate` would say. **Raises:** as `act`."""
        started = time.perf_counter()
        async with self._answering(verb):
            if not self.speaks:
                raise Refused(f"'{self.name}' acts and has no words; serve a Gato that was trained on text")
            answer = await self.words.submit(words.read_wish(verb, message, picture))
        self.metrics.observe("gato_request_seconds", time.perf_counter() - started, route=verb)
        return answer

    @asynccontextmanager
    async def upload(self) -> AsyncIterator[None]:
        """Room in memory for one picture's file. **Raises:** `Busy` where there is none."""
        if self.num_uploads >= MAX_UPLOADS:
            raise Busy(f"{MAX_UPLOADS} pictures are being captioned; try again")
        self.num_uploads += 1
        try:
            yield
        finally:
            self.num_uploads -= 1

    # -- the whole -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _answering(self, route: str) -> AsyncIterator[None]:
        """Counts a request and how it ended."""
        if self.is_leaving:
            self.metrics.add("gato_requests_total", route=route, outcome="leaving")
            raise Leaving("the server is shutting down")
        self.num_answering += 1
        outcome = "failed"
        try:
            yield
            outcome = "answered"
        except Refused:
            outcome = "refused"
            raise
        except Busy:
            outcome = "busy"
            raise
        finally:
            self.num_answering -= 1
            self.metrics.add("gato_requests_total", route=route, outcome=outcome)

    async def drain(self) -> None:
        """Takes no more requests, and waits until those that it has are answered, at most `DRAIN_SECONDS`."""
        self.is_leaving = True
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.num_answering and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        self.actions.close()
        self.words.close()

    def metadata(self) -> dict[str, Any]:
        """What clients are told first: tasks with their fields, ranges and licences, and what the checkpoint can do beside acting."""
        config = getattr(self.agent.model, "config", None)
        return {
            "server": f"opengato {__version__}",
            "checkpoint": self.name,
            "learner": _learner(self.agent),
            "context_length": getattr(config, "context_length", None),
            "default_task": self.acting.default,
            "tasks": {name: task.to_dict() for name, task in self.acting.tasks.items()},
            "by_demonstrations": {name: d.by for name, d in self.acting.demonstrated.items()},
            "chunks": self.acting.chunk_lengths(),
            "words": self._words(),
            "controls": ["task", "session", "reset", "end", "episode", "reward"],
            "most_bytes": self.most_bytes,
            "sessions_per_task": self.config.sessions,
        }

    def _words(self) -> dict[str, bool]:
        if not self.speaks or self.agent.tokenizer.text is None:
            return {"captions": False, "answers": False, "text": False}
        writes = any(not task.observations and not task.is_control for task in self.agent.tasks.values())
        return {"captions": self.agent.picture_task(0) is not None, "answers": self.agent.picture_task(1) is not None, "text": writes}


def _learner(agent: Any) -> str:
    """What kind of agent it is: `gato`, `decision-transformer`, `retrieve`, `clone`, or the name of its class."""
    if isinstance(agent, Agent):
        return "gato"
    return str(getattr(agent, "learner", None) or getattr(agent, "kind", type(agent).__name__))


def _metrics(service: Service) -> Metrics:
    metrics = Metrics()
    metrics.counter("gato_requests_total", "Requests by route and by how they ended: answered, refused, busy, failed, leaving.")
    metrics.histogram("gato_request_seconds", "Time from a request's arrival to its answer.", SECONDS)
    metrics.histogram("gato_batch_size", "Requests for actions that shared one forward pass.", SIZES)
    metrics.counter("gato_observed_values_out_of_range_total", "Observed values outside of their range; they were used as they were.")
    metrics.gauge("gato_sessions", "Sessions that hold a place in a task.", lambda: service.acting.num_sessions)
    metrics.gauge("gato_connections", "Open websockets.", lambda: service.num_connections)
    metrics.gauge("gato_requests_waiting", "Requests for actions that wait.", lambda: service.actions.depth)
    metrics.gauge("process_cpu_seconds_total", "Time that the server has computed, of all its threads.", time.process_time)
    metrics.gauge("process_resident_memory_bytes", "Memory of the server.", resident_bytes)
    return metrics
