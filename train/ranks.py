"""The processes of a run: which of them speaks, and the three things they tell each other.

A rank is one process with one device. Ranks are started by `gato pretrain --nproc`, `torchrun` or
`accelerate launch`, which set RANK and WORLD_SIZE; alone, all of this does nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist


def rank() -> int:
    """This process among the run's, 0 for the first or only one; known before the processes have met."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", 1))


def say(text: str) -> None:
    """Prints on the first rank only."""
    if rank() == 0:
        print(text, flush=True)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Adds up `values` of all ranks, in place and in the same order everywhere."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def from_first_rank(value: int, device: torch.device | str) -> int:
    """The first rank's whole number, on all ranks."""
    if world_size() == 1:
        return value
    number = torch.tensor([int(value)], device=device)
    dist.broadcast(number, src=0)
    return int(number)


def wait_for_first_rank(device: torch.device | str) -> None:
    """Returns when the first rank has come here too: one that left before would make a launcher end it while it still writes."""
    from_first_rank(0, device)


DOING = ("drawing rows", "computing", "playing", "saving")  # what a rank does for an update, in this order


class Presence:
    """Where every rank is, told in the ranks' common store, so that an exchange that fails can say who did not come."""

    def __init__(self) -> None:
        # private in torch, but the one store that is there with every launcher
        self._store = dist.PrefixStore("gato", dist.distributed_c10d._get_default_store()) if world_size() > 1 else None
        self._mine = (0, 0)

    def tell(self, step: int, doing: str) -> None:
        """This rank starts with `doing`, one of `DOING`, for update `step`."""
        self._mine = (step, DOING.index(doing))
        if self._store is not None:
            self._store.set(str(rank()), f"{step} {self._mine[1]} {time.time()}")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """While entered, an exchange that fails names the ranks behind this one. **Raises:** `RuntimeError`."""
        try:
            yield
        except RuntimeError as error:
            if self._store is None or not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
                raise
            raise RuntimeError(self._who()) from error

    def _who(self) -> str:
        behind = [text for r in range(world_size()) if r != rank() and (text := self._behind(r))]
        who = "; ".join(behind) or "every rank came as far, so one has died or the network failed"
        return f"rank {rank()} waited in vain for the others in update {self._mine[0]}: {who}; start the run again, it goes on"

    def _behind(self, other: int) -> str | None:
        assert self._store is not None
        try:
            self._store.wait([str(other)], timedelta(seconds=5))
            step, doing, since = map(float, self._store.get(str(other)).split())
        except RuntimeError:  # the store lives in the first rank's process or in torchrun's
            return f"rank {other} does not answer"
        if (step, doing) >= self._mine:
            return None
        return f"rank {other} has been {DOING[int(doing)]} for update {step:.0f} since {max(0.0, time.time() - since):.0f} s"


def check_rows(batch_size: int, ranks: int) -> None:
    """**Raises:** `ValueError` unless every rank gets the same number of rows: gradients are exchanged as often on each."""
    if batch_size % ranks:
        fitting = ", ".join(str(n) for n in range(ranks, 0, -1) if batch_size % n == 0)
        raise ValueError(f"train.batch_size is {batch_size}, not a multiple of {ranks} ranks; change it, or start {fitting} ranks")
