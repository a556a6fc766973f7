"""Returns as something to be told and asked for: the field that holds them, and targets at play.

Where `TaskSpec.returns` is known, a Gato sees one more number among the observations of every
timestep: the return that is still to come, over the largest return of its data.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gato.episode import Episode, StreamPolicy, Values
from gato.setting import Limits, check_value
from gato.spec import FieldSpec, Modality, TaskSpec

RETURN = "return_to_go"  # the name of the field

_log = logging.getLogger(__name__)


def told(task: TaskSpec) -> TaskSpec:
    """The task as an agent sees it: with the field where its returns are known, else as it is.

    **Raises:** `ValueError` if it has a field of that name.
    """
    if task.returns is None:
        return task
    if any(f.role == "observation" and f.name == RETURN for f in task.fields):
        raise ValueError(f"task '{task.name}' has an observation '{RETURN}' of its own; rename it")
    return replace(task, fields=(*task.fields, FieldSpec(RETURN, Modality.CONTINUOUS, "observation", path=(RETURN,))))


def scaled(task: TaskSpec, returns: np.ndarray) -> np.ndarray:
    """Returns as the field holds them, float32: the largest of the data, by its size, is 1 or
    -1."""
    assert task.returns is not None, "only of a task with known returns"
    return (np.asarray(returns, np.float64) / (max(map(abs, task.returns)) or 1.0)).astype(np.float32)


def told_episode(task: TaskSpec, episode: Episode, returns_to_go: np.ndarray) -> Episode:
    """An episode, or a window of one, with the returns-to-go (T,) of its timesteps among what is
    observed."""
    observations = {**episode.observations, RETURN: scaled(task, returns_to_go)}
    return Episode.trusted(**{**vars(episode), "task": told(task), "observations": observations, "final_observation": None})


def checked_target(task: str, returns: tuple[float, float], target: Any) -> float:
    """A target return, by default the highest of the data; one outside the data is said, since
    nobody knows what it will do.

    **Raises:** `ValueError` for what is no finite number.
    """
    low, high = returns
    if target is None:
        return high
    check_value("target_return", target, float, Limits(-1e30, 1e30))
    if not low <= target <= high:
        _log.warning("task %s: the target return %g lies outside the returns of the training data, %g to %g", task, target, low, high)
    return float(target)


def told_prompt(task: TaskSpec, prompt: Episode | None) -> Episode | None:
    """A whole demonstration as an agent sees it."""
    if task.returns is None or prompt is None:
        return prompt
    return told_episode(task, prompt, prompt.returns_to_go())


def asked(policy: Any, task: TaskSpec, target_return: float | None) -> Any:
    """A policy of `told(task)` that is asked for a return, where the task's returns are known.

    **Raises:** `ValueError` for a target where they are not; see `checked_target`.
    """
    if task.returns is not None:
        return ReturnPolicy(policy, task, target_return)
    if target_return is not None:
        raise ValueError(f"task '{task.name}' was trained without returns, so none can be asked for; leave out target_return")
    return policy


class Remaining:
    """What is left of the target in every stream: each reward is taken off it."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.left: dict[int, float] = {}

    def __call__(self, streams: np.ndarray, first: np.ndarray, reward: np.ndarray | None) -> np.ndarray:
        """(n,) float64 after these rewards of the streams' last actions.

        **Raises:** `ValueError` for a missing reward in an episode that has begun.
        """
        for row, (s, is_first) in enumerate(zip(streams, first, strict=True)):
            if is_first or int(s) not in self.left:
                self.left[int(s)] = self.target
            elif reward is None:
                raise ValueError("the reward of the last action is missing: what is still to come is the target less the rewards")
            else:
                self.left[int(s)] -= float(reward[row])
        return np.array([self.left[int(s)] for s in streams])


class ReturnPolicy(StreamPolicy):
    """A policy that is told what is still to come of a target return.

    **Arguments:** `policy`: of `told(task)`; `task`: as the environment has it, with its `returns`;
    `target_return`: see `checked_target`.
    """

    def __init__(self, policy: Any, task: TaskSpec, target_return: float | None = None) -> None:
        assert task.returns is not None, "only of a task with known returns"
        self.policy, self.task, self.memory = policy, task, policy.memory
        self.target_return = checked_target(task.name, task.returns, target_return)
        self._remaining = Remaining(self.target_return)

    def reset(self, num_streams: int = 1, demonstrations: Any = ()) -> None:
        self._remaining = Remaining(self.target_return)
        self.policy.reset(num_streams, [told_prompt(self.task, d) for d in demonstrations])

    def begin(self, stream: int, number: int) -> None:
        """See `GatoPolicy`."""
        self._remaining.left.pop(stream, None)
        self.policy.begin(stream, number)

    def act_in(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> dict[str, np.ndarray]:
        left = self._remaining(streams, first, reward)
        return self.policy.act({**observation, RETURN: scaled(self.task, left)}, reward, first, streams)

    def has_begun(self, stream: int) -> bool:
        return stream in self._remaining.left

    def state(self) -> dict[str, Any]:
        return {"policy": self.policy.state(), "left": dict(self._remaining.left)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.policy.load_state(state["policy"])
        self._remaining.left = dict(state["left"])
