"""The fields of T timesteps, side by side, as one flat sequence of tokens: what stands where, and at which position.

There is no Python loop over values, patches or timesteps: where every timestep has the same number of tokens one timestep is
laid out and repeated, else the tokens of each field are scattered to their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from gato.batch import ACTION_LOCAL, NO_LOCAL, Kind

Side = Literal["observation", "action"]
Positions = Literal["each", "one", "none"] | int | tuple[bool, ...]


@dataclass(frozen=True)
class Column:
    """One field, or the separator.

    - `ids`: flat, timestep by timestep; `counts`: tokens of a timestep, one number or (T,).
    - `side`: `None` for the separator. `is_target`: whether its tokens are.
    - `positions`: whether `each` token begins a position, only the first one of a timestep, every n-th one, those where a tuple says so,
      or `none`, so that they share the one before them.
    - `local`: of its first token, `None` for none; `"counted"` counts the tokens of the timestep before it.
    - `legal`: see `TokenSequence`; one number or one per token.
    """

    kind: Kind
    ids: np.ndarray
    counts: int | np.ndarray
    side: Side | None
    is_target: bool
    local: int | Literal["counted"] | None
    positions: Positions = "each"
    legal: int | tuple[int, ...] = 0


def laid_out(columns: Sequence[Column], steps: int) -> dict[str, np.ndarray]:
    """The arrays of a `TokenSequence` of T timesteps but patches and documents."""
    return (_even if all(isinstance(c.counts, int) for c in columns) else _ragged)(columns, steps)


def _even(columns: Sequence[Column], steps: int) -> dict[str, np.ndarray]:
    """For timesteps that all have the same number of tokens."""
    one = _timestep(tuple((c.kind, c.counts, c.side, c.is_target, c.local, c.positions, c.legal) for c in columns))
    arrays = {name: np.tile(values, steps) for name, values in one.items() if name != "starts"}
    ids = np.concatenate([c.ids.reshape(steps, c.counts) for c in columns], axis=1).ravel()
    within, per_step = np.cumsum(one["starts"], dtype=np.int32) - 1, int(one["starts"].sum())
    steps_of = np.arange(steps, dtype=np.int32)
    position = (steps_of[:, None] * np.int32(per_step) + within).ravel()
    return arrays | {"ids": ids, "timestep": np.repeat(steps_of, len(within)), "position": position}


def _begins(within: np.ndarray, positions: Positions) -> np.ndarray:
    """Which tokens of a field begin a position, by their places within it."""
    if positions == "none":
        return np.zeros(len(within), bool)
    if isinstance(positions, tuple):
        return np.array(positions)[within]
    return within == 0 if positions == "one" else within % positions == 0


@lru_cache(maxsize=1024)
def _timestep(parts: tuple[tuple, ...]) -> dict[str, np.ndarray]:
    """Kinds, targets, local positions, legal ids and starts of positions of one timestep."""
    length = sum(part[1] for part in parts)
    kind, target, legal = np.empty(length, np.uint8), np.empty(length, bool), np.empty(length, np.int16)
    local, starts = np.full(length, NO_LOCAL, np.int32), np.ones(length, bool)
    at = 0
    for part_kind, count, side, is_target, first, positions, part_legal in parts:
        part = slice(at, at + count)
        kind[part], target[part], legal[part] = part_kind, is_target, part_legal
        if first is not None:
            local[part] = ACTION_LOCAL if side == "action" else (at if first == "counted" else first) + np.arange(count)
        if positions != "each":
            starts[part] = _begins(np.arange(count), positions)
        at += count
    return {"kind": kind, "is_target": target, "local_position": local, "legal": legal, "starts": starts}


def _ragged(columns: Sequence[Column], steps: int) -> dict[str, np.ndarray]:
    """For timesteps whose texts differ in length: each field's tokens are scattered to their places."""
    per_field = np.stack([np.broadcast_to(c.counts, steps) for c in columns])  # (fields, T)
    in_timestep = np.cumsum(per_field, axis=0) - per_field
    totals = per_field.sum(axis=0)
    begin, length = np.cumsum(totals) - totals, int(totals.sum())
    ids, kind, legal = np.empty(length, np.int32), np.empty(length, np.uint8), np.zeros(length, np.int16)
    local, target, starts = np.full(length, NO_LOCAL, np.int32), np.zeros(length, bool), np.ones(length, bool)
    for column, counts, offset in zip(columns, per_field, in_timestep, strict=True):
        within = np.arange(len(column.ids)) - np.repeat(np.cumsum(counts) - counts, counts)
        in_step = np.repeat(offset, counts) + within
        place = np.repeat(begin, counts) + in_step
        ids[place], kind[place], target[place] = column.ids, column.kind, column.is_target
        legal[place] = column.legal if isinstance(column.legal, int) else np.array(column.legal)[within]
        if column.local is not None:
            local[place] = ACTION_LOCAL if column.side == "action" else in_step if column.local == "counted" else column.local + within
        if column.positions != "each":
            starts[place] = _begins(within, column.positions)
    timestep = np.repeat(np.arange(steps, dtype=np.int32), totals)
    position = np.cumsum(starts, dtype=np.int32) - np.int32(1)
    return {
        "ids": ids, "kind": kind, "is_target": target, "local_position": local, "legal": legal, "timestep": timestep, "position": position,
    }  # fmt: skip
