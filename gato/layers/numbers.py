"""The numbers of a batch in the compact layout: tokens that share positions, packed over all rows.

    o_0 o_1 o_2 |     one position of the transformer      a_0 a_1      another one
    3 tokens of observation, pooled; the separator          two slots, predicted together from the position before

Every action of a timestep is a row of `actions`. What the present observation says in numbers also reaches the action
directly (`owner`), beside the transformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

ALL_BINS = -1  # what `legal` says of a continuous slot


@dataclass(frozen=True)
class Numbers:
    """**Arguments** (int64): M numbers, G positions that hold some, A actions of at most S slots.

    - `ids` (M,); `place` (M,): local position of an observation's number, -1 - slot of an action's.
    - `group` (M,): which of the G positions it shares; `position` (G,): their flat places (b * L + l), B * L for a spare one.
    - `owner` (M,): the row of `actions` that follows in the timestep of an observation's number, A where none does, and for actions.
    - `actions` (A, S): the ids of each action's slots, -100 where it has no such slot; `legal` (A, S): how many ids a discrete slot
      may take, `ALL_BINS` for a continuous one, else 0; `before` (A,): the flat place it is predicted from.
    - `discrete` (D,), `continuous` (C,): flat places (a * S + s) of the slots of either kind. There is always an action, and a slot
      among the continuous ones, spare where its `legal` says so, so that every weight takes part in every step on every rank.
    - `most`: the largest number of legal ids of a discrete slot.
    """

    ids: Tensor
    place: Tensor
    group: Tensor
    position: Tensor
    owner: Tensor
    actions: Tensor
    legal: Tensor
    before: Tensor
    discrete: Tensor
    continuous: Tensor
    most: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Numbers:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Numbers:
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Any) -> Numbers:
        return replace(self, **{f.name: change(v) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)})

    def targets_by_row(self, rows: int, length: int) -> np.ndarray:
        """How many slots of each row of the batch are predicted, (B,)."""
        owner = torch.div(self.before, length, rounding_mode="floor")
        return np.bincount(owner.numpy(), (self.actions >= 0).sum(dim=1).numpy(), minlength=rows)


def number_arrays(tokens: Mapping[str, np.ndarray], places: int) -> Numbers:
    """From the tokens that are numbers, in their order.

    **Arguments:** `tokens`: `ids`, `place`, flat `position`, `legal`, `is_action`, `is_predicted`, and `row`, `document` and
    `timestep`, which tell timesteps apart; `places`: B * L, where what is spare goes.
    """
    position = tokens["position"].astype(np.int64)
    if len(position) == 0:
        return _numbers(
            ids=[0], place=[0], group=[0], position=[places], owner=[1], actions=[[-100]], legal=[[0]], before=[0], discrete=[],
            continuous=[0], most=1,
        )  # fmt: skip
    starts = np.flatnonzero(np.diff(position, prepend=-1))
    counts = np.diff(np.append(starts, len(position)))
    group = np.repeat(np.arange(len(starts)), counts)
    slot = np.arange(len(position)) - starts[group]
    is_action, rows = tokens["is_action"], np.flatnonzero(tokens["is_action"][starts])  # groups that are actions
    if not len(rows):
        shape, owner = (1, 1), np.ones(len(position), np.int64)
        actions, legal, before = np.full(shape, -100), np.zeros(shape, np.int64), np.zeros(1, np.int64)
    else:
        shape = len(rows), int(counts[rows].max())
        actions, legal = np.full(shape, -100), np.zeros(shape, np.int64)
        before = np.maximum(position[starts[rows]] - 1, 0)
        place = np.searchsorted(rows, group[is_action]), slot[is_action]
        actions[place] = np.where(tokens["is_predicted"], tokens["ids"], -100)[is_action]
        legal[place] = np.where(tokens["is_predicted"], tokens["legal"], 0)[is_action]
        owner = _owners(tokens, starts, rows, group)
    discrete, continuous = np.flatnonzero(legal > 0), np.flatnonzero(legal == ALL_BINS)
    return _numbers(
        ids=tokens["ids"], place=np.where(is_action, -1 - slot, tokens["place"]), group=group, position=position[starts], owner=owner,
        actions=actions, legal=legal, before=before, discrete=discrete, continuous=continuous if len(continuous) else [0],
        most=int(legal.ravel()[discrete].max(initial=1)),
    )  # fmt: skip


def _owners(tokens: Mapping[str, np.ndarray], starts: np.ndarray, rows: np.ndarray, group: np.ndarray) -> np.ndarray:
    """For each token the action that follows in its timestep, by its place among `rows`; their number where none does."""
    following = np.minimum(np.searchsorted(rows, group), len(rows) - 1)
    action = starts[rows][following]  # its first token
    is_owned = ~tokens["is_action"]
    for name in ("row", "document", "timestep"):
        is_owned &= tokens[name] == tokens[name][action]
    return np.where(is_owned, following, len(rows))


def _numbers(most: int, **arrays: Any) -> Numbers:
    return Numbers(**{name: torch.from_numpy(np.ascontiguousarray(values, np.int64)) for name, values in arrays.items()}, most=most)
