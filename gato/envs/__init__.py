"""Environments by name: `make("babyai/go-to-local")`, their task specs and their experts.

A name is `family/name` of the registry `configs/tasks.yaml`, or any Gymnasium id, also as `MODULE:ID` (`own.py`). Families
are imported when first used, so a missing simulator only matters to those who ask for it. Every
environment made here has spaces that `TaskSpec.from_spaces` maps onto exactly the task's fields.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any

from gato.disk import reason
from gato.spec import TaskSpec

from . import own
from .demonstrator import Expert

if TYPE_CHECKING:
    import gymnasium

# family -> (module of this package, the pip extra that brings its simulator)
FAMILIES = {
    "atari": ("atari", "atari"),
    "babyai": ("babyai", "babyai"),
    "babyai-symbolic": ("babyai", "babyai"),
    "babyai-view": ("babyai_view", "babyai"),
    "dm-control": ("dm_control", "dm-control"),
    "gymnasium": ("gymnasium_suite", "gym"),
    "metaworld": ("metaworld", "metaworld"),
    "metaworld-goals": ("metaworld_goals", "metaworld"),
    "minatar": ("minatar", "minatar"),
    "minatar-cells": ("minatar", "minatar"),
    "minigrid": ("babyai", "babyai"),
    "mujoco": ("mujoco", "mujoco"),
    "push2d": ("push2d", "gym"),
    "reach2d": ("reach2d", "gym"),
    "robotics": ("robotics", "robotics"),
    "toy": ("toy", "gym"),
}
_ENTRY_KEYS = {
    "env_id", "kwargs", "expert", "random_return", "expert_return",
    "episode_limit", "success", "clip_actions", "licence", "published", "held_out", "origins", "members",
}  # fmt: skip
_NOT_OF_SPECS = {"env_id", "kwargs", "expert", "published", "held_out", "members"}


def tasks() -> list[str]:
    """Names of all registered tasks, sorted."""
    return sorted(_registry())


def families() -> str:
    """The families and how many tasks each has, for messages: `atari (57 tasks), ...`."""
    counts = Counter(name.split("/")[0] for name in tasks())
    return ", ".join(f"{family} ({count} tasks)" for family, count in sorted(counts.items()))


@functools.cache
def task(name: str) -> TaskSpec:
    """The spec of a task: the registry's entry joined with the fields of the environment's spaces.

    **Arguments:**

    - `name`: of the registry (`gymnasium/cartpole`), or a Gymnasium id (`CartPole-v1`, `myenvs:Robot-v0`), whose returns
      and success criterion are then unknown. The task is called as the id, without the module.

    **Raises:** `ValueError` for an unknown name or a space without a token form, `ImportError` with the
    pip line where the simulator is missing, `RuntimeError` naming the task where an environment cannot be made.
    """
    entry = _entry(name)
    if entry is None:
        spec, env_id = _find(name)
        name, entry = spec.id, {"env_id": env_id, "episode_limit": spec.max_episode_steps}
    env = _build(name, entry["env_id"], entry.get("kwargs", {}), render_mode=None)
    try:
        return TaskSpec.from_spaces(
            name,
            *_spaces(env),
            env_id=entry["env_id"],
            env_kwargs=entry.get("kwargs", {}),
            **{k: v for k, v in entry.items() if k not in _NOT_OF_SPECS},
        )
    except ValueError as error:
        raise ValueError(f"the environment of task '{name}': {error}") from error
    finally:
        close(env)


def make(task: TaskSpec | str, render_mode: str | None = None) -> gymnasium.Env:
    """Builds the environment of a task.

    **Arguments:**

    - `task`: a name, or a spec as saved with a checkpoint or a store.
    - `render_mode`: `"rgb_array"` for film strips; needs no display.

    **Raises:** `ValueError` for an unknown name, a task without an environment (captions, documents),
    or an environment whose spaces no longer match the spec; `ImportError` with the pip line where the
    simulator is missing; `RuntimeError` with what an environment raised that cannot be made.
    """
    spec = _task_of(task)
    if spec.env_id is None:
        raise ValueError(f"task '{spec.name}' has no environment: it is data to read, not a world to act in")
    env = _build(spec.name, spec.env_id, spec.env_kwargs, render_mode)
    try:
        differences = spec.differences(TaskSpec.from_spaces(spec.name, *_spaces(env)), raw=True)
    except ValueError as error:
        differences = [str(error)]
    if differences:
        close(env)
        raise ValueError(
            f"the environment of task '{spec.name}' does not have the fields of its spec: {'; '.join(differences)}. "
            "Install the simulator's version that the spec was made with"
        )
    return env


def close(env: gymnasium.Env) -> None:
    """Closes an environment, whatever that may raise: what it was for is done."""
    with suppress(Exception, SystemExit):
        env.close()


def expert(task: TaskSpec | str) -> Expert:
    """The expert that the registry names for a task.

    **Raises:** `ValueError` where the task has none; `ImportError` where its simulator is missing.
    """
    name = task if isinstance(task, str) else task.name
    entry = _entry(name)
    if entry is None and isinstance(task, str):
        _find(name)  # an unknown name gets its nearest known one
    if entry is None or entry.get("expert") is None:
        raise ValueError(
            f"task '{name}' has no expert in the registry; collect with your own (--expert MODULE:NAME), or import recorded data"
        )
    family = _family(name, entry["env_id"])
    if entry["expert"] not in family.EXPERTS:
        raise ValueError(f"task '{name}' asks for the expert '{entry['expert']}'; its family has {sorted(family.EXPERTS)}")
    return family.EXPERTS[entry["expert"]](entry["env_id"], **entry.get("kwargs", {}))


def is_measured(task: TaskSpec) -> bool:
    """Whether the registry knows the expert's return of a task."""
    return (_entry(task.name) or {}).get("expert_return") is not None


def expert_name(task: TaskSpec | str) -> str | None:
    """What the registry calls the expert of a task, `None` where there is none."""
    return (_entry(task if isinstance(task, str) else task.name) or {}).get("expert")


def published(task: TaskSpec | str) -> Mapping[str, float]:
    """Returns that others report for a task, for example `{"random": -280.2, "expert": 12135.0}`; empty where the registry has none.

    They are for comparison only: other versions of a simulator give other returns, so scores are
    normalised by the measured ones.
    """
    return (_entry(task if isinstance(task, str) else task.name) or {}).get("published", {})


def members(task: TaskSpec) -> tuple[TaskSpec, ...]:
    """The tasks of a set, `NAME-0` and on, which differ in the environment's argument `task` alone; empty for any other task.

    The set itself, such as `reach2d/train`, is a task too: which of them is played is drawn for every episode.
    """
    count = _registry().get(task.name, {}).get("members", 0)
    return tuple(replace(task, name=f"{task.name}-{i}", env_kwargs={**task.env_kwargs, "task": i}) for i in range(count))


def set_of(name: str) -> str:
    """The set that a task is a member of; its own name where it is none."""
    whole, _, number = name.rpartition("-")
    is_member = number.isdecimal() and str(int(number)) == number and int(number) < _registry().get(whole, {}).get("members", 0)
    return whole if is_member else name


@functools.cache
def held_out() -> Mapping[str, str]:
    """The tasks that no pretraining mixture may hold, for few-shot learning, each with its nearest trained sibling."""
    return {name: entry["held_out"] for name, entry in _registry().items() if "held_out" in entry}


def known_as(name: str, known: Collection[str]) -> str | None:
    """The task itself where it is among those `known`, else one of its set, or of the set that it is held out of; `None` where none is.

    Tasks of a set are one world, so who acts in one of them knows what is seen in another.
    """
    if name in known:
        return name
    whole = set_of(name)
    if not _registry().get(whole, {}).get("members"):
        return None
    return next((other for other in known if set_of(other) in (whole, held_out().get(whole))), None)


def as_known(task: TaskSpec, known: Mapping[str, TaskSpec]) -> TaskSpec:
    """The task with what is known of it, or of another one of its set: how its observations are measured and how it is played."""
    like = known.get(known_as(task.name, known) or "", task)
    if all(f.scale is None and f.origin is None for f in task.observations) and not task.differences(like, raw=True):
        task = task.measured_as(like)
    ways = ("memory", "returns", "chunk", "prompt_steps")
    return replace(task, **{name: getattr(task, name) or getattr(like, name) for name in ways})


def registered_name(task: TaskSpec) -> str:
    """What the registry calls the world of a task: imported recordings bear another name, but the environment's id.

    Versions of the id do not count. Of several entries with that id it is the one whose `kwargs` agree best; the task's own
    name where there is none.
    """
    if task.env_id is None or _entry(task.name) is not None:
        return task.name

    def disagreement(name: str) -> int:
        kwargs = _registry()[name].get("kwargs", {})
        return sum(task.env_kwargs.get(key) != kwargs.get(key) for key in task.env_kwargs.keys() | kwargs.keys())

    return min(_by_env_id().get(_without_version(task.env_id), []), key=disagreement, default=task.name)


@functools.cache
def _by_env_id() -> Mapping[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, entry in _registry().items():
        names.setdefault(_without_version(entry["env_id"]), []).append(name)
    return names


def _without_version(env_id: str) -> str:
    return re.sub(r"-v\d+$", "", own.plain(env_id))


def _task_of(named: TaskSpec | str) -> TaskSpec:
    return task(named) if isinstance(named, str) else named


@functools.cache
def _registry() -> Mapping[str, Mapping[str, Any]]:
    import yaml

    text = resources.files("gato.configs").joinpath("tasks.yaml").read_text(encoding="utf-8")
    entries = {name: entry for name, entry in yaml.safe_load(text).items() if not name.startswith(".")}
    for name, entry in list(entries.items()):
        if name.startswith("babyai/"):  # every level once more as symbols: the same world, so the same returns
            kwargs = {**entry.get("kwargs", {}), "symbolic": True}
            rest = {key: value.replace("babyai/", "babyai-symbolic/") for key, value in entry.items() if key == "held_out"}
            entries[name.replace("babyai/", "babyai-symbolic/")] = {**entry, "kwargs": kwargs, **rest}
        if name.startswith("minatar/"):  # every game once more as its cells, none of them kept for few-shot learning
            rest = {key: value for key, value in entry.items() if key != "held_out"}
            entries[name.replace("minatar/", "minatar-cells/")] = {**rest, "kwargs": {**entry.get("kwargs", {}), "cells": True}}
    for name, entry in entries.items():
        if unknown := set(entry) - _ENTRY_KEYS:
            raise ValueError(f"tasks.yaml: task '{name}' has unknown keys {sorted(unknown)}; known are {sorted(_ENTRY_KEYS)}")
        if name.split("/")[0] not in FAMILIES:
            raise ValueError(f"tasks.yaml: task '{name}' is of no known family; families are {sorted(FAMILIES)}")
    return entries


def _entry(name: str) -> Mapping[str, Any] | None:
    """What the registry says of a task; of a member of a set what it says of the set, and which of its tasks it is."""
    whole = set_of(name)
    entry = _registry().get(whole)
    if entry is None or whole == name:
        return entry
    kwargs = {**entry.get("kwargs", {}), "task": int(name.rpartition("-")[2])}
    return {key: value for key, value in entry.items() if key != "members"} | {"kwargs": kwargs}


def _family_of(name: str, env_id: str) -> str:
    """The family that makes an environment: that of a registered world; Gymnasium's for all others, whatever their names begin with."""
    family = name.split("/")[0]
    worlds = _by_env_id().get(_without_version(env_id), [])
    return family if any(world.startswith(f"{family}/") for world in worlds) else "gymnasium"


def _family(name: str, env_id: str) -> Any:
    """The module of an environment's family."""
    module, extra = FAMILIES[_family_of(name, env_id)]
    try:
        return import_module(f".{module}", __name__)
    except ImportError as error:
        raise _missing(name, extra, error) from error


def _build(name: str, env_id: str, kwargs: Mapping[str, Any], render_mode: str | None) -> gymnasium.Env:
    family = _family(name, env_id)
    from gymnasium.error import DependencyNotInstalled

    try:
        return family.make(env_id, render_mode=render_mode, **kwargs)
    except KeyboardInterrupt:
        raise
    except (ImportError, DependencyNotInstalled) as error:
        if not _by_env_id().get(_without_version(env_id)):
            raise ImportError(f"the environment of task '{name}' cannot be imported: {error}") from error
        raise _missing(name, FAMILIES[_family_of(name, env_id)][1], error) from error
    except BaseException as error:  # whatever a constructor may raise, sys.exit() included
        if isinstance(error, ValueError):
            raise ValueError(f"the environment of task '{name}' cannot be made: {error}") from error
        said = f"it calls sys.exit({error.code})" if isinstance(error, SystemExit) else reason(error)
        raise RuntimeError(f"the environment of task '{name}' cannot be made: {said}") from error


def _spaces(env: gymnasium.Env) -> tuple[Any, Any]:
    """**Raises:** `ValueError` where an environment lacks one of its two spaces."""
    found = []
    for role in ("observation_space", "action_space"):
        try:
            space, why = getattr(env, role), ""
        except Exception as error:  # it may be a property, which may do anything
            space, why = None, "" if isinstance(error, AttributeError) else f" ({reason(error)})"
        if space is None:
            raise ValueError(f"it has no {role}{why}; set one of gymnasium.spaces in its __init__")
        found.append(space)
    return found[0], found[1]


def _missing(name: str, extra: str, error: Exception) -> ImportError:
    return ImportError(f"task '{name}' needs a simulator that is not installed ({error}); run: pip install 'opengato[{extra}]'")


def _find(name: str) -> tuple[Any, str]:
    """`own.find`, where an unknown name without a module is answered with the nearest of the registry too."""
    import gymnasium

    try:
        return own.find(name)
    except ValueError as error:
        if ":" in name:
            raise
        nearest = difflib.get_close_matches(name, [*_registry(), *gymnasium.registry], n=1, cutoff=0.5)
        meant = f"; did you mean '{nearest[0]}'? Known are" if nearest else "; known are"
        raise ValueError(
            f"there is no task '{name}'{meant} {families()}, listed in docs/suites.md, and every Gymnasium id; one that a module of "
            f"yours or of a package registers is MODULE:{name}, or give --import MODULE"
        ) from error
