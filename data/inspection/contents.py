"""What one store holds, for people: its tasks, fields and episodes, without a mixture and without a tokenizer.

Episode tables are read whole; timesteps record batch by record batch, evenly spread ones where there are more than
`MAX_TIMESTEPS`, which the figures then say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from gato.data.shards.columns import timestep_columns
from gato.data.store import Store
from gato.spec import FieldSpec, Modality, TaskSpec

CHUNK_ROWS = 4096
MAX_TIMESTEPS = 2_000_000  # that are read for ranges
MAX_NUMBERS = 8  # of a range


def contents(store: Store, max_timesteps: int = MAX_TIMESTEPS) -> dict[str, Any]:
    """JSON values: `episodes`, `timesteps`, `bytes`, provenance, `unfinished` and `left_out`, `tasks` and `fields`.

    **Raises:** `ValueError` naming a damaged shard.
    """
    manifest = store.manifest
    return {
        "store": str(store.path),
        "episodes": store.num_episodes,
        "timesteps": store.num_timesteps,
        "bytes": sum(f.bytes for s in manifest.shards for f in (s.timesteps, s.episodes)),
        "unfinished": manifest.shortfall,
        "left_out": manifest.not_imported,
        "tasks": [_task(store, i, task) for i, task in enumerate(store.tasks)],
        "fields": _fields(store, max_timesteps),
        "provenance": dict(manifest.provenance),
        "fingerprint": store.fingerprint,
    }


def episode_contents(store: Store, number: int, start: int, count: int) -> dict[str, Any]:
    """JSON values of an episode: what is known of it, and `steps`, its timesteps from `start` on; pictures as their shape.

    **Raises:** `ValueError` if there is no such episode or timestep.
    """
    if not 0 <= number < store.num_episodes:
        there = f"episodes 0 to {store.num_episodes - 1}" if store.num_episodes else "no episodes"
        raise ValueError(f"store {store.path} has {there}, there is no number {number}")
    length = store.span(number)[1]
    if not 0 <= start < length or count < 1:
        raise ValueError(f"episode {number} of {store.path} has timesteps 0 to {length - 1}; found --timestep {start}, --count {count}")
    part, end = store.episode(number, start, min(start + count, length)), store.episode(number, length - 1)
    sides = (("observation", part.observations), ("action", part.actions))
    fields = {f"{f.role}.{f.name}": (f, values[f.name]) for role, values in sides for f in part.task.fields if f.role == role}
    steps = [
        {"timestep": start + t, **{name: _plain(f, values[t]) for name, (f, values) in fields.items()}, "reward": float(part.rewards[t])}
        for t in range(part.num_timesteps)
    ]
    final = end.final_observation
    return {
        "store": str(store.path), "episode": number, "task": end.task.name, "timesteps": length, "return": float(store.returns[number]),
        "terminated": end.terminated, "truncated": end.truncated, "success": end.success, "seed": end.seed,
        "behaviour": end.behaviour, "parameters": dict(end.parameters), "steps": steps,
        "final_observation": None if final is None else {f.name: _plain(f, final[f.name]) for f in end.task.observations},
    }  # fmt: skip


def _task(store: Store, index: int, task: TaskSpec) -> dict[str, Any]:
    lengths, returns = store.lengths, store.returns
    chosen = store.task_indices == index
    behaviours: Counter[str] = Counter(store.behaviours[chosen].tolist())
    known = successes = first = 0
    for shard in store.shards():
        here = chosen[first : first + shard.episodes.rows]
        known += int((here & shard.index["has_success"]).sum())
        successes += int((here & shard.index["has_success"] & shard.index["success"].astype(bool)).sum())
        first += shard.episodes.rows
    some = bool(chosen.any())
    return {
        "task": task.name, "episodes": int(chosen.sum()), "timesteps": int(lengths[chosen].sum()),
        "longest": int(lengths[chosen].max()) if some else 0,
        "return": {
            "mean": float(returns[chosen].mean()) if some else None,
            "lowest": float(returns[chosen].min()) if some else None,
            "highest": float(returns[chosen].max()) if some else None,
        },
        "random_return": task.random_return, "expert_return": task.expert_return,
        "success": successes / known if known else None, "success_known": known, "behaviours": dict(behaviours.most_common()),
        "environment": task.env_id, "licence": task.licence,
    }  # fmt: skip


def _fields(store: Store, max_timesteps: int) -> list[dict[str, Any]]:
    """Every field of the store's columns with the least and the greatest value that is there: of text its letters."""
    columns = timestep_columns(store.tasks)
    wanted = {name: f for name, f in columns.items() if f.modality is not Modality.IMAGE and f.size}
    ends: dict[str, tuple[float, float]] = {}
    scanned = 0
    for rows, values in _chunks(store, list(wanted), max_timesteps):
        scanned += rows
        for (name, f), part in zip(wanted.items(), values, strict=True):
            sizes = np.array([len(text) for text in part]) if f.modality is Modality.TEXT else part
            low, high = ends.get(name, (np.inf, -np.inf))
            ends[name] = min(low, float(sizes.min())), max(high, float(sizes.max()))
    return [
        {
            "field": name, "kind": str(f.modality), "dtype": f.dtype, "shape": "x".join(map(str, f.shape)) or "1",
            "declared": _range(store, name), "found": _found(f, ends.get(name)), "scanned": scanned,
        }
        for name, f in columns.items()
    ]  # fmt: skip


def _chunks(store: Store, names: list[str], max_timesteps: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    every, number = max(1, -(-store.num_timesteps // max_timesteps)), 0
    for shard in store.shards():
        for start in range(0, shard.timesteps.rows, CHUNK_ROWS):
            number += 1
            if (number - 1) % every == 0:
                stop = min(start + CHUNK_ROWS, shard.timesteps.rows)
                yield stop - start, shard.timesteps.read(names, start, stop) if names else []


def _range(store: Store, column: str) -> str:
    """The declared range of a field; nothing where it has none, or where the tasks' differ."""
    found = set()
    for task in store.tasks:
        (f,) = (f for f in task.fields if f"{f.role}.{f.name}" == column)
        found.add((f.low, f.high))
    if len(found) > 1:
        return "differs by task"
    low, high = found.pop()
    return "" if low is None and high is None else f"{_end(low, '-inf')} to {_end(high, 'inf')}"


def _end(bound: tuple[float | None, ...] | None, missing: str) -> str:
    words = [missing if b is None else f"{b:g}" for b in bound or (None,)]
    return words[0] if len(set(words)) == 1 else f"[{' '.join(words[:MAX_NUMBERS])}{' ...' if len(words) > MAX_NUMBERS else ''}]"


def _found(f: FieldSpec, ends: tuple[float, float] | None) -> str:
    if ends is None:
        return ""
    return f"{ends[0]:.4g} to {ends[1]:.4g}{' letters' if f.modality is Modality.TEXT else ''}"


def _plain(f: FieldSpec, value: Any) -> Any:
    if f.modality is Modality.IMAGE:
        return f"picture of {'x'.join(map(str, np.shape(value)))}"
    return value if isinstance(value, str) else np.asarray(value).tolist()
