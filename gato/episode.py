"""The one record of experience: T timesteps of observations, actions and rewards.

A caption is an episode of one timestep whose observation is a picture and whose action is text; a
document is one of text alone. Text, pictures and control therefore share every later step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from .spec import FieldSpec, Modality, TaskSpec

Behaviour = Literal["expert", "noisy", "random", "learner", "human"]
Values = Mapping[str, np.ndarray]  # by field


class OutOfRange(ValueError):
    """A value outside its range. `found` says so without a remedy, for whoever knows one that is at hand."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; widen the range, rescale the values, or clip the actions")
        self.found = found


@dataclass(frozen=True)
class Episode:
    """Raw values of T timesteps, checked on construction.

    **Arguments:**

    - `task`: says which fields there are.
    - `observations`, `actions`: `{field name: array (T, *shape)}`; text is an object array (T,) of `str`.
      `actions[...][t]` is what the behaviour wanted in `observations[...][t]`.
    - `rewards`: (T,) float32.
    - `terminated`, `truncated`: how the episode ended; both False for a window that was cut.
    - `final_observation`: `{field name: value}` after the last action, where the source has it.
    - `behaviour`: who acted. In `"noisy"` episodes some executed actions were perturbed while the
      recorded action is still the expert's own.
    - `success`, `seed`, `parameters`: as far as known.

    **Raises:** `ValueError` (`OutOfRange` where it is that) naming task, timestep and field for a missing field, unequal lengths, a
    wrong shape or dtype, NaN or infinity, or an action outside its range. Observations outside their
    declared range are kept (simulators leave it) and counted by `count_out_of_bounds`.
    """

    task: TaskSpec
    observations: Mapping[str, np.ndarray]
    actions: Mapping[str, np.ndarray]
    rewards: np.ndarray
    terminated: bool = False
    truncated: bool = False
    final_observation: Mapping[str, Any] | None = None
    behaviour: Behaviour = "expert"
    success: bool | None = None
    seed: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.rewards) == 0:
            raise ValueError(f"task '{self.task.name}': an episode of no timesteps; leave it out of the source")
        if not np.isfinite(self.rewards).all():
            t = int(np.argwhere(~np.isfinite(self.rewards))[0, 0])
            raise ValueError(f"task '{self.task.name}': the reward at timestep {t} is not finite; leave the episode out")
        for role, given, specs in (
            ("observation", self.observations, self.task.observations),
            ("action", self.actions, self.task.actions),
        ):
            if set(given) != {f.name for f in specs}:
                raise ValueError(f"task '{self.task.name}': found {role} fields {sorted(given)}, expected {sorted(f.name for f in specs)}")
            for spec in specs:
                check_values(self.task.name, spec, given[spec.name], len(self.rewards))
        if self.final_observation is not None:
            if missing := {f.name for f in self.task.observations} - set(self.final_observation):
                raise ValueError(f"task '{self.task.name}': the final observation lacks the fields {sorted(missing)}")
            for spec in self.task.observations:
                value = np.asarray(self.final_observation[spec.name], dtype=object if spec.dtype == "str" else None)
                check_values(self.task.name, spec, value[None], 1, first=len(self.rewards))

    @classmethod
    def trusted(cls, **values: Any) -> Episode:
        """An episode of values that were checked before, such as a store's, without checking them again.

        `parameters` must be among the values; all others default as usual.
        """
        episode = object.__new__(cls)
        episode.__dict__.update(values)
        return episode

    @property
    def num_timesteps(self) -> int:
        return len(self.rewards)

    @property
    def total_reward(self) -> float:
        """The episode's return: the undiscounted sum of its rewards."""
        return float(np.sum(self.rewards, dtype=np.float64))

    def returns_to_go(self) -> np.ndarray:
        """(T,) float32: the sum of the rewards from each timestep to the end."""
        return np.cumsum(self.rewards[::-1], dtype=np.float64)[::-1].astype(np.float32)

    def window(self, start: int, stop: int) -> Episode:
        """Timesteps start to stop (exclusive) as an episode of their own; keeps the end if it holds it."""
        stop = min(stop, self.num_timesteps)
        ends = stop == self.num_timesteps
        return replace(
            self,
            observations={k: v[start:stop] for k, v in self.observations.items()},
            actions={k: v[start:stop] for k, v in self.actions.items()},
            rewards=self.rewards[start:stop],
            terminated=self.terminated and ends,
            truncated=self.truncated and ends,
            final_observation=self.final_observation if ends else None,
        )

    def chosen(self, timesteps: np.ndarray) -> Episode:
        """These timesteps, in this order, as if they were an episode."""
        return replace(
            self,
            observations={k: v[timesteps] for k, v in self.observations.items()},
            actions={k: v[timesteps] for k, v in self.actions.items()},
            rewards=self.rewards[timesteps], terminated=False, truncated=False, final_observation=None,
        )  # fmt: skip

    def count_out_of_bounds(self) -> int:
        """How many observation values leave their declared range."""
        return sum(
            int(outside(spec, self.observations[spec.name]).sum())
            for spec in self.task.observations
            if spec.modality in (Modality.CONTINUOUS, Modality.DISCRETE)
        )


def in_line(parts: Sequence[Episode]) -> Episode:
    """The timesteps of parts of an episode, one behind the other, as if they were an episode."""
    return replace(
        parts[0],
        observations={k: np.concatenate([p.observations[k] for p in parts]) for k in parts[0].observations},
        actions={k: np.concatenate([p.actions[k] for p in parts]) for k in parts[0].actions},
        rewards=np.concatenate([p.rewards for p in parts]), terminated=False, truncated=False, final_observation=None,
    )  # fmt: skip


def stack_values(specs: tuple[FieldSpec, ...], rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """`{field name: array (T, *shape)}`, see `in_dtype`."""
    arrays = {}
    for spec in specs:
        values = [row[spec.name] for row in rows]
        if spec.modality is Modality.TEXT:
            array = np.empty(len(values), dtype=object)
            array[:] = values
        else:
            array = in_dtype(spec, np.stack([np.asarray(v) for v in values]))
        arrays[spec.name] = array
    return arrays


def in_dtype(spec: FieldSpec, values: np.ndarray) -> np.ndarray:
    """Numbers in the spec's dtype; what it does not hold, and a foreign kind of value, is left or infinite: for `Episode` to refuse."""
    if values.dtype == spec.dtype or not np.can_cast(values.dtype, spec.dtype, "same_kind"):
        return values
    with np.errstate(over="ignore"):
        cast = values.astype(spec.dtype)
    return cast if cast.dtype.kind == "f" or (cast == values).all() else values


def act_in_one(policy: Any, observation: Any, reward: float | None = None) -> Any:
    """What a policy does in a single environment: the observation as `reset` and `step` give it, and the reward of the last action,
    where the policy asks for one -> the action that `step` takes. Call the policy's `reset()` before every episode.

    **Raises:** `ValueError` for an observation that is none of the policy's task, see `check_values`.
    """
    task = policy.task
    try:
        flat = task.flatten(observation, "observation")
    except (KeyError, IndexError, TypeError):
        wanted = ", ".join("/".join(map(str, spec.path)) or spec.name for spec in task.observations)
        found = ", ".join(map(str, observation)) if isinstance(observation, Mapping) else f"a {type(observation).__name__}"
        raise ValueError(f"task '{task.name}' observes {wanted}, and what was given is {found}; give what reset and step give") from None
    seen = stack_values(task.observations, [flat])
    for spec in task.observations:
        check_values(task.name, spec, seen[spec.name], 1)
    actions = policy.act(seen, None if reward is None else np.array([reward], np.float32))
    return task.unflatten_action({name: values[0] for name, values in actions.items()})


class StreamPolicy:
    """What is alike in all policies: whose streams act where nobody says, and acting in a single environment.

    A policy has its `task`, and the two methods that raise `NotImplementedError` here.
    """

    act_one = act_in_one

    def act(
        self, observation: Values, reward: np.ndarray | None = None, first: np.ndarray | None = None, streams: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """See `gato.policy.Policy`. By default all streams act, and those start an episode that have not acted since `reset`."""
        streams = np.arange(len(next(iter(observation.values())))) if streams is None else np.asarray(streams)
        first = np.array([not self.has_begun(int(s)) for s in streams]) if first is None else np.asarray(first, bool)
        return self.act_in(observation, reward, first, streams)

    def act_in(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> dict[str, np.ndarray]:
        """`act`, with all that was left out."""
        raise NotImplementedError

    def has_begun(self, stream: int) -> bool:
        """Whether a stream has acted since `reset`."""
        raise NotImplementedError


def clip_actions(task: TaskSpec, actions: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """Clips continuous actions into their ranges and says how many values that changed."""
    clipped, count = dict(actions), 0
    for spec in task.actions:
        if spec.modality is Modality.CONTINUOUS:
            values = np.asarray(actions[spec.name])
            low, high = spec.bounds
            count += int(outside(spec, values).sum())
            clipped[spec.name] = np.clip(values, low, high).astype(values.dtype)
    return clipped, count


def outside(spec: FieldSpec, values: np.ndarray) -> np.ndarray:
    """Which values leave the field's declared range.

    Compares as the field's own dtype: float32(0.1) is above 0.1, but not above float32(0.1).
    """
    low, high = spec.bounds
    if spec.modality is Modality.CONTINUOUS:
        values, low, high = (np.asarray(x).astype(spec.dtype, copy=False) for x in (values, low, high))
    return (values < low) | (values > high)


def check_values(task: str, spec: FieldSpec, values: np.ndarray, num_timesteps: int, first: int = 0) -> None:
    """Whether a field's values (T, *shape) are what its spec says; messages count the timesteps from `first`.

    **Raises:** `ValueError`, see `Episode`.
    """
    label = f"task '{task}': {spec.role} '{spec.name}'"
    if len(values) != num_timesteps:
        raise ValueError(f"{label} has {len(values)} timesteps but the rewards have {num_timesteps}")
    if spec.modality is Modality.TEXT:
        if wrong := [t for t, v in enumerate(values) if not isinstance(v, str)]:
            value = values[wrong[0]]
            found = "missing" if value is None else f"{type(value).__name__}, expected str"
            raise ValueError(f"{label} at timestep {first + wrong[0]} is {found}")
        return
    if values.shape[1:] != spec.shape:
        raise ValueError(f"{label} has shape {values.shape[1:]}, expected {spec.shape}")
    if values.dtype != spec.dtype and (spec.modality is Modality.IMAGE or not np.can_cast(values.dtype, spec.dtype, "same_kind")):
        raise ValueError(f"{label} has dtype {values.dtype}, expected {spec.dtype}")
    held = in_dtype(spec, values)
    if held.dtype.kind == "f" and not np.isfinite(held).all():
        where = tuple(np.argwhere(~np.isfinite(held))[0])
        found = f"{values[where]}, which {spec.dtype} cannot hold" if np.isfinite(values[where]) else "not finite"
        raise ValueError(f"{label} at timestep {first + where[0]} is {found}; repair the source or leave the episode out")
    if spec.modality is not Modality.IMAGE and (spec.role == "action" or spec.modality is Modality.DISCRETE):
        is_outside = outside(spec, values)
        if is_outside.any():
            where = tuple(np.argwhere(is_outside)[0])
            low, high = spec.bounds
            raise OutOfRange(f"{label} at timestep {first + where[0]} is {values[where]}, outside [{low.min():g}, {high.max():g}]")
    if held.dtype != spec.dtype:
        raise ValueError(f"{label} has values from {values.min()} to {values.max()}, which {spec.dtype} cannot hold")
