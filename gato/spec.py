"""What a task looks like: its fields, their ranges, and how they map to an environment's spaces.

`TaskSpec` travels with every store and every checkpoint: it is the only place that says how the raw
values of a task are scaled, in which order its fields are read (Gato, section 2.1: sorted by key,
observations before actions) and how a picture is resized. Nothing here imports torch or gymnasium.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

import numpy as np

from .spec_types import FIELD, TASK, check_measures, check_types, is_known_dtype, plain, tuples_from_integer_keys

PATCH_SIZE, NUM_POSITION_BINS = 16, 128  # pixels; places of a patch along each side of its picture
NUM_DISCRETE_VALUES = NUM_BINS = 1024  # ids of discrete values, and of the bins of continuous ones
MU, LARGEST_OBSERVATION = 100.0, 256.0  # of the mu-law by which continuous observations are companded, and where it ends
MAX_ELEMENTS = 2**26  # of one value: specs come from files too, and must not make us allocate at their word

Role = Literal["observation", "action"]
Resize = Literal["exact", "pad", "stretch"]


class Modality(StrEnum):
    """The four kinds of value of the paper (section 2.1)."""

    TEXT = "text"
    IMAGE = "image"
    DISCRETE = "discrete"
    CONTINUOUS = "continuous"


@dataclass(frozen=True)
class FieldSpec:
    """One named value of every timestep.

    **Arguments:**

    - `name`: unique among the observations, and among the actions, of a task.
    - `modality`, `role`: what it is, and which side of the separator it stands on.
    - `shape`: of one timestep's value; `()` for a scalar and for text; `(rows, columns, 3)` for a picture.
    - `dtype`: NumPy name of the raw values as stored; `"str"` for text, `"uint8"` for pictures.
    - `low`, `high`: one number per element, row-major, or a single one for all; `None` where unbounded.
      A discrete value v has the token value `v - low`; a continuous action is rescaled from [low, high] to [-1, 1].
    - `origin`: of a continuous observation, one number per element or a single one: values are companded by their distance from
      it. The bins are fine near zero and coarse far from it (at 1.3 they are 0.026 wide), so positions are best measured from
      where things happen. By default zero, as in the paper. Raw values stay as they are everywhere but in the tokens.
    - `scale`: likewise, above 0: the unit that this distance is measured in, by default 1, as in the paper.
    - `path`: keys and indices that lead to the value inside a nested observation or action.
    - `resize`: how a picture reaches multiples of 16: `"exact"` (it already is), `"pad"` (zeros at the
      bottom and the right) or `"stretch"` to `image_size` (rows, columns).

    **Raises:** `ValueError` if the range is missing where the tokens need one.
    """

    name: str
    modality: Modality
    role: Role
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None
    path: tuple[str | int, ...] = ()
    resize: Resize = "exact"
    image_size: tuple[int, int] | None = None
    origin: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        label = f"{self.role} field '{self.name}'"
        if not all(isinstance(n, int) and n >= 0 for n in self.shape) or self.size > MAX_ELEMENTS:
            raise ValueError(f"{label} has shape {self.shape}; expected non-negative integers, at most {MAX_ELEMENTS} elements")
        if not is_known_dtype(self.dtype, self.modality == "text"):
            raise ValueError(f"{label} has dtype '{self.dtype}'; expected 'str' for text, else a NumPy bool, int or float")
        for bound in (self.low, self.high):
            if bound is not None and len(bound) not in (1, self.size):
                raise ValueError(
                    f"{label}: a bound has {len(bound)} numbers but the shape {self.shape} has {self.size}; "
                    "give one number or one per element"
                )
        is_measured = self.modality is Modality.CONTINUOUS and self.role == "observation"
        check_measures(label, {"origin": self.origin, "scale": self.scale}, self.size, is_measured)
        if self.modality is Modality.IMAGE:
            self._check_image(label)
        if self.modality is Modality.DISCRETE:
            low, high = self.bounds
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise ValueError(f"{label} is discrete but has no finite range; give low and high")
            if (low > high).any() or (low % 1).any() or (high % 1).any() or np.dtype(self.dtype).kind == "f":
                raise ValueError(
                    f"{label} is discrete but has dtype '{self.dtype}' and a range from {self.low} to {self.high}; "
                    "give an integer dtype and whole numbers with low <= high"
                )
            span = float((high - low).max(initial=0)) + 1
            if span > NUM_DISCRETE_VALUES:
                raise ValueError(
                    f"{label} has {int(span)} values but discrete tokens hold {NUM_DISCRETE_VALUES}; "
                    "declare it continuous or split it into several values"
                )
        if self.modality is Modality.CONTINUOUS and self.role == "action":
            low, high = self.bounds
            if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
                raise ValueError(
                    f"{label} is continuous but its range is not finite with low < high; "
                    "actions are rescaled to [-1, 1], so give both bounds"
                )

    def _check_image(self, label: str) -> None:
        if self.role == "action":
            raise ValueError(f"{label} is a picture, which has no ids to predict; only observations may be pictures")
        if len(self.shape) != 3 or self.shape[2] != 3 or self.dtype != "uint8":
            raise ValueError(f"{label}: a picture is uint8 of shape (rows, columns, 3), not {self.dtype} of shape {self.shape}")
        if self.resize == "stretch" and self.image_size is None:
            raise ValueError(f"{label}: 'stretch' needs image_size (rows, columns)")
        rows, columns = self.patched_size
        if rows % PATCH_SIZE or columns % PATCH_SIZE:
            raise ValueError(f"{label}: {rows}x{columns} pixels are not multiples of {PATCH_SIZE}; use resize 'pad' or 'stretch'")

    @property
    def size(self) -> int:
        """Number of elements of one timestep's value."""
        return math.prod(self.shape)

    @property
    def patched_size(self) -> tuple[int, int]:
        """Rows and columns of a picture after the resize rule."""
        if self.resize == "stretch" and self.image_size is not None:
            return self.image_size
        rows, columns = self.shape[:2]
        if self.resize == "pad":
            return -(-rows // PATCH_SIZE) * PATCH_SIZE, -(-columns // PATCH_SIZE) * PATCH_SIZE
        return rows, columns

    @property
    def num_tokens(self) -> int | None:
        """Tokens per timestep; `None` for text, whose length varies."""
        if self.modality is Modality.TEXT:
            return None
        if self.modality is Modality.IMAGE:
            rows, columns = self.patched_size
            return (rows // PATCH_SIZE) * (columns // PATCH_SIZE)
        return self.size

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """`(low, high)` as read-only float64 arrays of `shape`, infinite where unbounded."""

        def expand(bound: tuple[float | None, ...] | None, missing: float) -> np.ndarray:
            values = np.array([missing if b is None else b for b in bound or (None,)], dtype=np.float64)
            return np.broadcast_to(values, (self.size,)).reshape(self.shape)

        return expand(self.low, -np.inf), expand(self.high, np.inf)

    def ends_as(self, other: FieldSpec) -> bool:
        """Whether both ranges are the same float32 numbers, however they are written."""
        return all(np.array_equal(np.float32(a), np.float32(b)) for a, b in zip(self.bounds, other.bounds, strict=True))

    @cached_property
    def zero(self) -> np.ndarray:
        """`origin` as a read-only float64 array of `shape`, or `()` where it is one number."""
        return self._expanded(self.origin or (0.0,))

    @cached_property
    def unit(self) -> np.ndarray:
        """`scale` as a read-only float64 array of `shape`, or `()` where it is one number."""
        return self._expanded(self.scale or (1.0,))

    def _expanded(self, numbers: tuple[float, ...]) -> np.ndarray:
        values = np.array(numbers, dtype=np.float64)
        values.flags.writeable = False
        return values.reshape(self.shape) if len(values) == self.size else values.reshape(())


@dataclass(frozen=True)
class TaskSpec:
    """A named tuple of fields, and what is known about the task.

    **Arguments:**

    - `name`: `family/name`, for example `gymnasium/cartpole`.
    - `fields`: put into canonical order on construction: observations sorted by path, then actions.
    - `env_id`, `env_kwargs`: how `gato.envs.make` builds the environment; `None` for text and pictures.
    - `random_return`, `expert_return`: mean returns that scores are normalised by; measured, or `None`.
    - `episode_limit`: timesteps after which an episode is truncated; `success`: the criterion in words; `licence`: of the data.
    - `clip_actions`: actions outside their range are clipped and counted when collected, not refused.
    - `memory`: timesteps of a window of training, and that a policy sees, the present one among them; `prompt_steps`: a demonstration's
      last ones that are a prompt; `None`: as many as fit. `returns`: lowest and highest of the data, if told; `chunk`: of actions.
      How an agent treats the task: stores hold none of them, `==` sees none.
    """

    name: str
    fields: tuple[FieldSpec, ...]
    env_id: str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    random_return: float | None = None
    expert_return: float | None = None
    episode_limit: int | None = None
    success: str | None = None
    licence: str | None = None
    clip_actions: bool = False
    memory: int | None = field(default=None, compare=False)
    returns: tuple[float, float] | None = field(default=None, compare=False)
    chunk: int | None = field(default=None, compare=False)
    prompt_steps: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        order = sorted(self.fields, key=lambda f: (f.role != "observation", _sort_key(f.path), f.name))
        object.__setattr__(self, "fields", tuple(order))
        names = [(f.role, f.name) for f in order]
        if len(set(names)) != len(names):
            raise ValueError(f"task '{self.name}': field names repeat: {sorted(names)}")
        if not self.actions:
            raise ValueError(f"task '{self.name}' has no action field, so there is nothing to learn")

    @property
    def observations(self) -> tuple[FieldSpec, ...]:
        return tuple(f for f in self.fields if f.role == "observation")

    @property
    def actions(self) -> tuple[FieldSpec, ...]:
        return tuple(f for f in self.fields if f.role == "action")

    @property
    def is_control(self) -> bool:
        """False for captions, answers and documents: tasks whose only actions are text."""
        return any(f.modality is not Modality.TEXT for f in self.actions)

    def flatten(self, value: Any, role: Role) -> dict[str, Any]:
        """Takes a nested observation or action apart into `{field name: value}`."""
        flat = {}
        for f in self.observations if role == "observation" else self.actions:
            part = value
            for key in f.path:
                part = part[key]
            flat[f.name] = part
        return flat

    def unflatten_action(self, flat: Mapping[str, Any]) -> Any:
        """The inverse of `flatten(..., "action")`: what an environment's `step` takes, a single number of a Box as an array of no axes."""
        scalars = [f.name for f in self.actions if f.modality is Modality.CONTINUOUS and f.shape == () and f.name in flat]
        flat = {**flat, **{name: np.asarray(flat[name]) for name in scalars}}
        if len(self.actions) == 1 and not self.actions[0].path:
            return flat[self.actions[0].name]
        nested: dict = {}
        for f in self.actions:
            inner = nested
            for key in f.path[:-1]:
                inner = inner.setdefault(key, {})
            inner[f.path[-1]] = flat[f.name]
        return tuples_from_integer_keys(nested)

    def differences(self, other: TaskSpec, raw: bool = False, ranged: bool = True) -> list[str]:
        """What a checkpoint's fields and another task's fields disagree on, one line each.

        **Arguments:** `raw`: not what only tokens depend on, nor ranges of continuous observations; `ranged`: ranges of continuous actions.
        """
        found = []
        mine = {(f.role, f.name): f for f in self.fields}
        theirs = {(f.role, f.name): f for f in other.fields}
        for key in sorted(mine.keys() | theirs.keys()):
            role, name = key
            if key not in theirs:
                found.append(f"{role} '{name}' is missing")
            elif key not in mine:
                found.append(f"{role} '{name}' is unknown")
            else:
                is_loose = mine[key].modality is Modality.CONTINUOUS and (raw if role == "observation" else not ranged)
                for attribute in ("modality", "shape", *(() if is_loose else ("low", "high")), *(() if raw else ("origin", "scale"))):
                    a, b = getattr(mine[key], attribute), getattr(theirs[key], attribute)
                    if a != b and not (attribute in ("low", "high") and mine[key].ends_as(theirs[key])):
                        found.append(f"{role} '{name}' has {attribute} {b}, expected {a}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse, but for memory, returns, chunk. A field without origin or scale lacks the key."""
        parts = [{k: v for k, v in asdict(f).items() if k not in ("origin", "scale") or v is not None} for f in self.fields]
        values = asdict(self) | {"fields": parts, "env_kwargs": dict(self.env_kwargs)}
        return plain({k: v for k, v in values.items() if k not in ("memory", "returns", "chunk", "prompt_steps")})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskSpec:
        """**Raises:** `ValueError` naming a key that is unknown, missing or of another type."""
        name = values.get("name") if isinstance(values, Mapping) else None
        check_types(values, TASK, "task spec" if name is None else f"task spec '{str(name)[:80]}'", ("name", "fields"))
        return cls(**{**values, "fields": tuple(_field_from_dict(f) for f in values["fields"])})

    @classmethod
    def from_spaces(
        cls, name: str, observation_space: Any, action_space: Any, origins: Mapping[str, Sequence[float]] | None = None, **rest: Any
    ) -> TaskSpec:
        """Maps Gymnasium spaces to fields.

        **Arguments:** `origins`: of observations, by field name; see `FieldSpec`.

        **Raises:** `ValueError` for an origin of no field, or naming a space that has no token form (Sequence, Graph, OneOf,
        unknown classes, and a Dict or Tuple without parts), or a continuous action without finite bounds.
        """
        found = _space_fields(observation_space, "observation", ()) + _space_fields(action_space, "action", ())
        return cls(name=name, fields=tuple(found), **rest).with_origins(origins or {})

    @property
    def origins(self) -> dict[str, tuple[float, ...]]:
        """Of the observations that have one, by field name."""
        return {f.name: f.origin for f in self.observations if f.origin is not None}

    def with_origins(self, origins: Mapping[str, Sequence[float]]) -> TaskSpec:
        """The task with these origins of observations, by field name, and no others. **Raises:** `ValueError` for an unknown field."""
        names = [f.name for f in self.observations]
        if unknown := sorted(set(origins) - set(names)):
            raise ValueError(f"task '{self.name}' has no observation '{unknown[0]}' that could have an origin; it has {', '.join(names)}")
        given = {name: tuple(float(x) for x in origin) for name, origin in origins.items()}
        return replace(self, fields=(*(replace(f, origin=given.get(f.name)) for f in self.observations), *self.actions))

    def measured_as(self, other: TaskSpec) -> TaskSpec:
        """The task with the origins and scales, and the resize rules, of another with the same observations."""
        names = ("origin", "scale", "resize", "image_size")
        theirs = {f.name: {name: getattr(f, name) for name in names} for f in other.observations}
        return replace(self, fields=(*(replace(f, **theirs[f.name]) for f in self.observations), *self.actions))

    def with_returns(self, random_return: float | None, expert_return: float | None) -> TaskSpec:
        return replace(self, random_return=random_return, expert_return=expert_return)


def _field_from_dict(values: Mapping[str, Any]) -> FieldSpec:
    check_types(values, FIELD, f"field '{str(values.get('name'))[:80]}'", ("name", "modality", "role"))
    tuples: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return FieldSpec(**tuples | {"modality": Modality(values["modality"])})


def _sort_key(path: tuple[str | int, ...]) -> list[str]:
    """Keys in the order of their letters, indices of a tuple in the order of their numbers."""
    return [f"{part:09d}" if isinstance(part, int) else part for part in path]


def _bound(values: np.ndarray) -> tuple[float | None, ...]:
    """A JSON-ready bound, collapsed to one number where all elements agree."""
    flat = [None if not np.isfinite(v) or abs(v) > 1e30 else float(v) for v in np.ravel(values).astype(np.float64)]
    return (flat[0],) if len(set(flat)) == 1 else tuple(flat)


def _space_fields(space: Any, role: Role, path: tuple[str | int, ...]) -> list[FieldSpec]:
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple) and not len(space.spaces):
        where = f" '{'/'.join(map(str, path))}'" if path else ""
        raise ValueError(f"{role}{where} is an empty {type(space).__name__} space: nothing in it could be a token; give it a part")
    if isinstance(space, spaces.Dict):
        return [f for key in sorted(space.spaces) for f in _space_fields(space[key], role, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [f for i, part in enumerate(space.spaces) for f in _space_fields(part, role, (*path, i))]
    name = "/".join(str(p) for p in path) or role
    common: dict[str, Any] = {"name": name, "role": role, "path": path}
    if isinstance(space, spaces.Text):
        return [FieldSpec(modality=Modality.TEXT, dtype="str", **common)]
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return [FieldSpec(modality=Modality.DISCRETE, dtype="int64", low=(first,), high=(first + int(space.n) - 1,), **common)]
    if isinstance(space, spaces.MultiDiscrete):
        low = np.asarray(space.start)
        return [
            FieldSpec(
                modality=Modality.DISCRETE, dtype=str(space.dtype), shape=space.shape,
                low=_bound(low), high=_bound(low + space.nvec - 1), **common,
            )
        ]  # fmt: skip
    if isinstance(space, spaces.MultiBinary):
        return [FieldSpec(modality=Modality.DISCRETE, dtype=str(space.dtype), shape=space.shape, low=(0,), high=(1,), **common)]
    if isinstance(space, spaces.Box):
        return [_box_field(space, common)]
    kind = type(space).__name__ if isinstance(space, spaces.Space) else f"{type(space).__module__}.{type(space).__name__}, no Gymnasium"
    raise ValueError(
        f"{role} '{name}' is a {kind} space, which has no token form; "
        "wrap the environment so that it gives Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict or Tuple"
    )


def _box_field(space: Any, common: dict[str, Any]) -> FieldSpec:
    kind = np.dtype(space.dtype)
    channels_first = kind == np.uint8 and len(space.shape) == 3 and space.shape[0] in (1, 3, 4) and min(space.shape[1:]) >= PATCH_SIZE
    if kind == np.uint8 and len(space.shape) == 3 and (space.shape[2] in (1, 3, 4) or channels_first):
        rows, columns = space.shape[:2]
        if space.shape[2] != 3:
            raise ValueError(
                f"{common['role']} '{common['name']}' is a picture of shape {space.shape}; "
                "wrap the environment to give RGB of shape (rows, columns, 3)"
            )
        exact = rows % PATCH_SIZE == 0 and columns % PATCH_SIZE == 0
        return FieldSpec(modality=Modality.IMAGE, dtype="uint8", shape=tuple(space.shape), resize="exact" if exact else "pad", **common)
    low, high = _bound(space.low), _bound(space.high)
    whole = np.issubdtype(kind, np.integer) or kind == np.bool_
    if whole and None not in low + high and float(np.max(space.high.astype(float) - space.low)) < NUM_DISCRETE_VALUES:
        return FieldSpec(modality=Modality.DISCRETE, dtype=str(kind), shape=tuple(space.shape), low=low, high=high, **common)
    dtype = str(kind) if np.issubdtype(kind, np.floating) else "float32"
    return FieldSpec(modality=Modality.CONTINUOUS, dtype=dtype, shape=tuple(space.shape), low=low, high=high, **common)
