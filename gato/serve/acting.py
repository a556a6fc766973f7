"""Sessions that act: each is a stream of its task's policy, and those that ask together share one forward pass.

    request --> Acting.ask (names, types and ranges are checked) --> Batcher --> Acting.answer: one `policy.act` per task

A session's k-th episode draws its chance as the k-th episode of `gato eval` with the same seed does, whatever other sessions do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gato.disk import shown
from gato.episode import outside
from gato.learners.chunks import ChunkPolicy
from gato.learners.folder import BaselineAgent
from gato.learners.one_shot.agent import OneShotAgent
from gato.spec import Modality, TaskSpec

from .batcher import Busy
from .demonstrated import Demonstrated
from .metrics import Metrics
from .settings import ServeConfig
from .wire import Refused, read_observation

ACTIVE_SECONDS = 1.0  # a session that acted so lately is expected to ask again
MAX_EPISODE = 2**31 - 1

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Session:
    """A robot's place in a task. Only the event loop changes it.

    **Attributes:** `slot`: its stream; `number`: of the episode that begins next; `timestep`: of the next observation, `None` before an
    episode; `is_busy`: a request of it is being answered; `used_at`: when it last asked, in seconds.
    """

    task: TaskSpec
    slot: int
    number: int = 0
    timestep: int | None = None
    is_busy: bool = False
    used_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Request:
    """`observation` (1, ...) by field; `begins`: the number of the episode that begins with it, `None` where one goes on."""

    session: Session
    observation: dict[str, np.ndarray]
    reward: float | None
    begins: int | None


class Acting:
    """**Arguments:** `agent`: whatever `gato.load` gives; `config`; `metrics`: where values out of range are counted; `demonstrated`:
    tasks that are acted in by their demonstrations, in place of those of the same name. The last of them is the default.

    **Raises:** `ValueError` for a default task that the checkpoint does not know.
    """

    def __init__(self, agent: Any, config: ServeConfig, metrics: Metrics, demonstrated: Sequence[Demonstrated] = ()) -> None:
        self.agent, self.config, self.metrics = agent, config, metrics
        self.demonstrated = {d.task.name: d for d in demonstrated}
        self.tasks: dict[str, TaskSpec] = {name: task for name, task in agent.tasks.items() if task.is_control}
        if isinstance(agent, OneShotAgent):  # those that it was shown; the set that it was trained on is none of them
            shown = {name: agent.task(name) for name in agent.memories}
            self.tasks = shown if agent.model.needs_demonstration else self.tasks | shown
        self.tasks |= {name: d.task for name, d in self.demonstrated.items()}
        self.default = next(reversed(self.tasks)) if len(self.tasks) == 1 or demonstrated else None
        if config.task is not None:
            self.default = config.task if config.task in self.tasks else agent.task(config.task).name
        self._free = {name: list(range(config.sessions))[::-1] for name in self.tasks}
        self._sessions: set[Session] = set()
        self._policies: dict[str, Any] = {}  # of the answering thread alone
        self._chunks: dict[str, int] = {}  # likewise, how many timesteps' actions they give at once

    # -- the event loop's part ---------------------------------------------------------------------------

    def task(self, name: Any) -> TaskSpec:
        """**Raises:** `Refused` for a task that it does not act in, and for none where there is no default."""
        if name is None:
            if self.default is None:
                known = ", ".join(sorted(self.tasks)) or "none"
                raise Refused(f"no task is named, and there is no default; add task, one of {known[:1000]}")
            return self.tasks[self.default]
        try:
            is_known = isinstance(name, str) and name in self.tasks
            found = self.tasks[name] if is_known else self.agent.task(name) if isinstance(name, str) else None
        except ValueError as error:
            raise Refused(str(error)) from None
        if found is None or found.name not in self.tasks:
            raise Refused(f"task is {shown(name)}, expected the name of a task with actions")
        return self.tasks[found.name]

    def open(self, task: TaskSpec) -> Session:
        """**Raises:** `Busy` if all places of the task are taken."""
        free = self._free[task.name]
        if not free:
            raise Busy(f"all {self.config.sessions} sessions of task '{task.name}' are taken; try again, or serve with more --sessions")
        session = Session(task, free.pop())
        self._sessions.add(session)
        return session

    def leave(self, session: Session) -> None:
        if session in self._sessions:
            self._sessions.discard(session)
            self._free[session.task.name].append(session.slot)

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    def num_active(self) -> int:
        """Sessions that are expected to ask soon."""
        now = time.monotonic()
        return sum(now - session.used_at < ACTIVE_SECONDS for session in list(self._sessions))

    def ask(self, session: Session, controls: Mapping[str, Any], values: Mapping[str, Any]) -> Request:
        """**Raises:** `Refused` for what is not as the task's spec says."""
        begins = self._begins(session, controls)
        timestep = 0 if begins is not None or session.timestep is None else session.timestep
        reward = controls.get("reward")
        if isinstance(reward, (np.ndarray, np.generic)) and reward.size == 1:
            reward = reward.item()
        if reward is not None and (type(reward) not in (int, float) or not abs(reward) <= 1e30):  # NaN is not
            raise Refused(f"reward is {shown(reward)}, expected a finite number: what the last action earned")
        observation = read_observation(session.task, values, timestep)
        for spec in session.task.observations:
            if spec.modality is Modality.CONTINUOUS and (count := int(outside(spec, observation[spec.name]).sum())):
                self.metrics.add("gato_observed_values_out_of_range_total", count, task=session.task.name)
        return Request(session, observation, reward, begins)

    def _begins(self, session: Session, controls: Mapping[str, Any]) -> int | None:
        for name in ("reset", "end"):
            if not isinstance(controls.get(name, False), bool):
                raise Refused(f"{name} is {shown(controls[name])}, expected true or false")
        episode = controls.get("episode")
        if episode is not None and (type(episode) is not int or not 0 <= episode <= MAX_EPISODE):
            raise Refused(f"episode is {shown(episode)}, expected a whole number from 0: which of the seed's episodes begins here")
        if episode is not None:
            return episode
        return session.number if controls.get("reset") or session.timestep is None else None

    def answered(self, request: Request, error: BaseException | None) -> None:
        """What the session knows after its request. One whose memory may be spoilt begins an episode with its next observation."""
        session = request.session
        if error is not None:
            if request.begins is not None or not isinstance(error, Refused):
                session.timestep = None
        elif request.begins is not None:
            session.number, session.timestep = request.begins + 1, 1
        else:
            session.timestep = (session.timestep or 0) + 1

    def chunk_lengths(self) -> dict[str, int]:
        """Of the tasks whose answers hold the actions of several timesteps."""
        found = {name: d.chunk for name, d in self.demonstrated.items()}
        of_agent = self.agent.chunk if isinstance(self.agent, BaselineAgent) else 1
        found = {name: task.chunk or of_agent for name, task in self.agent.tasks.items()} | found
        return {name: length for name, length in found.items() if length > 1}

    # -- the answering thread's part -----------------------------------------------------------------------

    def answer(self, requests: Sequence[Request]) -> list[Any]:
        """An action, or an exception, for every request; those of one task share a forward pass."""
        answers: dict[int, Any] = {}
        by_task: dict[str, list[Request]] = {}
        for request in requests:
            by_task.setdefault(request.session.task.name, []).append(request)
        for group in by_task.values():
            group.sort(key=lambda request: request.session.slot)
            self.metrics.observe("gato_batch_size", len(group))
            for request, answer in zip(group, self._answer_task(group), strict=True):
                answers[id(request)] = answer
        return [answers[id(request)] for request in requests]

    def _answer_task(self, group: list[Request]) -> list[Any]:
        task = group[0].session.task
        try:
            policy = self.prepare(task)
            if hasattr(policy, "target_return"):
                missing = [r for r in group if r.begins is None and r.reward is None]
                if missing:
                    why = Refused(f"task '{task.name}' is played for a return: add reward, what the last action earned")
                    rest = [r for r in group if r not in missing]
                    found = dict(zip(map(id, rest), self._answer_task(rest) if rest else [], strict=True))
                    return [found.get(id(r), why) for r in group]
            return self._act(policy, task, group)
        except ValueError as error:  # of one of them, and no stream has changed
            if len(group) > 1:
                return [answer for request in group for answer in self._answer_task([request])]
            return [Refused(str(error))]
        except Exception as error:
            _log.error("task %s: %s: %s", task.name, type(error).__name__, " ".join(str(error).split()), exc_info=_log.isEnabledFor(10))
            return [error] * len(group)

    def _act(self, policy: Any, task: TaskSpec, group: list[Request]) -> list[Any]:
        begins = hasattr(policy, "begin")  # a learner of somebody's own may number its episodes itself
        for request in group if begins else ():
            if request.begins is not None:
                policy.begin(request.session.slot, request.begins)
        actions = policy.act(
            {f.name: np.concatenate([r.observation[f.name] for r in group]) for f in task.observations},
            np.array([r.reward or 0.0 for r in group], np.float32),
            np.array([r.begins is not None and not begins for r in group]),
            np.array([r.session.slot for r in group]),
        )
        rows = [{name: values[i] for name, values in actions.items()} for i in range(len(group))]
        return [reply(task, row if task.name in self._chunks else {name: value[None] for name, value in row.items()}) for row in rows]

    def prepare(self, task: TaskSpec) -> Any:
        """The policy that all sessions of a task share, made when it is first asked for."""
        if task.name not in self._policies:
            given = {name: getattr(self.config, name) for name in ("temperature", "memory", "target_return")}
            given = {name: value for name, value in given.items() if value is not None}
            if self.config.overflow != "rebuild":  # a word of Gato's alone
                given["overflow"] = self.config.overflow
            shown = self.demonstrated.get(task.name)
            policy = shown.policy(self.config.seed, **given) if shown else self.agent.policy(task, seed=self.config.seed, **given)
            if isinstance(policy, ChunkPolicy):  # chunks are the client's to play and to average
                self._chunks[task.name], policy = policy.length, policy.chunks
            policy.reset(self.config.sessions)
            self._policies[task.name] = policy
        return self._policies[task.name]


def reply(task: TaskSpec, actions: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`actions`: (H, *shape), by field where there are several, for the next H timesteps; `action`: the first, as `env.step` takes it."""
    parts = {name: values.tolist() if values.dtype == object else np.asarray(values) for name, values in actions.items()}
    first = task.unflatten_action({name: values[0] for name, values in actions.items()})
    only = next(iter(parts.values())) if len(parts) == 1 and not task.actions[0].path else parts
    return {"actions": only, "action": first}
