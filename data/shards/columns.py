"""The columns of a store: from the tasks' fields, and from an episode's values to rows.

Timesteps have a column `observation.NAME` or `action.NAME` per field and `reward`; episodes have what
finds and labels them, and the final observation where the source has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from gato.episode import Behaviour, Episode
from gato.spec import FieldSpec, Modality, TaskSpec

from .table import arrow_type, to_arrow

REWARD = FieldSpec(name="reward", modality=Modality.CONTINUOUS, role="observation")
FINAL = "final_observation."


def timestep_columns(tasks: Sequence[TaskSpec]) -> dict[str, FieldSpec]:
    """`{column name: field}` in canonical order, observations first.

    **Raises:** `ValueError` if the tasks do not share their columns.
    """
    if not tasks:
        raise ValueError("a store needs at least one task")
    if len({t.name for t in tasks}) != len(tasks):
        raise ValueError(f"task names repeat: {sorted(t.name for t in tasks)}")
    first, *others = ({f"{f.role}.{f.name}": f for f in t.fields} for t in tasks)
    types = {name: (arrow_type(f), f.shape, f.dtype) for name, f in first.items()}
    for task, columns in zip(tasks[1:], others, strict=True):
        found = {name: (arrow_type(f), f.shape, f.dtype) for name, f in columns.items()}
        if wrong := sorted(n for n in types.keys() | found.keys() if types.get(n) != found.get(n)):
            raise ValueError(f"tasks '{tasks[0].name}' and '{task.name}' need different columns {wrong}; make one store per task")
    return first


def final_columns(columns: Mapping[str, FieldSpec]) -> dict[str, FieldSpec]:
    return {f"{FINAL}{f.name}": f for f in columns.values() if f.role == "observation"}


def timestep_schema(columns: Mapping[str, FieldSpec]) -> pa.Schema:
    fields = [pa.field(name, arrow_type(f), nullable=False) for name, f in columns.items()]
    return pa.schema([*fields, pa.field("reward", pa.float32(), nullable=False)])


def episode_schema(columns: Mapping[str, FieldSpec]) -> pa.Schema:
    known = {
        "first_row": pa.int64(),
        "length": pa.int64(),
        "task_index": pa.int32(),
        "return": pa.float64(),
        "terminated": pa.bool_(),
        "truncated": pa.bool_(),
        "behaviour": pa.large_string(),
        "parameters": pa.large_string(),
    }
    fields = [pa.field(name, kind, nullable=False) for name, kind in known.items()]
    fields += [pa.field("success", pa.bool_()), pa.field("seed", pa.int64())]
    return pa.schema([*fields, *(pa.field(name, arrow_type(f)) for name, f in final_columns(columns).items())])


def timestep_rows(columns: Mapping[str, FieldSpec], episode: Episode) -> dict[str, pa.Array]:
    """All timesteps of an episode, column by column."""
    sides = {"observation": episode.observations, "action": episode.actions}
    values = {name: to_arrow(f, sides[f.role][f.name]) for name, f in columns.items()}
    return {**values, "reward": to_arrow(REWARD, episode.rewards)}


def episode_row(columns: Mapping[str, FieldSpec], episode: Episode, task_index: int) -> dict[str, pa.Array]:
    """The episode's row, all but `first_row`."""
    if episode.seed is not None and not -(2**63) <= int(episode.seed) < 2**63:
        raise ValueError(f"the seed {episode.seed} does not fit into 64 bits; use a smaller one")
    if episode.behaviour not in get_args(Behaviour):
        raise ValueError(f"behaviour is '{episode.behaviour}', expected one of {list(get_args(Behaviour))}")
    values = {
        "length": pa.array([episode.num_timesteps], pa.int64()),
        "task_index": pa.array([task_index], pa.int32()),
        "return": pa.array([float(np.sum(np.asarray(episode.rewards, np.float32), dtype=np.float64))], pa.float64()),
        "terminated": pa.array([bool(episode.terminated)]),
        "truncated": pa.array([bool(episode.truncated)]),
        "behaviour": pa.array([episode.behaviour], pa.large_string()),
        "parameters": pa.array([to_json(episode.parameters)], pa.large_string()),
        "success": pa.array([None if episode.success is None else bool(episode.success)], pa.bool_()),
        "seed": pa.array([None if episode.seed is None else int(episode.seed)], pa.int64()),
    }
    for name, f in final_columns(columns).items():
        final = episode.final_observation
        if final is not None:
            values[name] = to_arrow(f, [final[f.name]] if f.dtype == "str" else np.asarray(final[f.name])[None])
        else:
            empty = [""] if f.dtype == "str" else np.zeros((1, *f.shape), f.dtype)
            values[name] = to_arrow(f, empty, is_missing=np.ones(1, bool))
    return values


def is_same_episode(columns: Mapping[str, FieldSpec], a: Episode, b: Episode) -> bool:
    """Whether a store would hold the same of both."""
    if a.task.name != b.task.name or a.num_timesteps != b.num_timesteps:
        return False
    return all(
        rows[name].equals(others[name])
        for rows, others in ((f(a), f(b)) for f in (lambda e: timestep_rows(columns, e), lambda e: episode_row(columns, e, 0)))
        for name in rows
    )


def to_json(parameters: Mapping[str, Any]) -> str:
    """What is noted of an episode, NumPy's scalars and arrays included. **Raises:** `ValueError` for what has no JSON form."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic | np.ndarray):
            return value.tolist()
        raise ValueError(f"parameters hold a {type(value).__name__}, which has no JSON form; give plain values")

    return json.dumps(dict(parameters), default=plain, ensure_ascii=False, sort_keys=True)
