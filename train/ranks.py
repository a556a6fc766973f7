"""The processes of a run: which of them speaks, and the three things they tell each other.

A rank is one process with one device. Ranks are started by `gato pretrain --nproc`, `torchrun` or
`accelerate launch`, which set RANK and WORLD_SIZE; alone, all of this does nothing.
"""

from __future__ import annotations

import os

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


def check_rows(batch_size: int, ranks: int) -> None:
    """**Raises:** `ValueError` unless every rank gets the same number of rows: gradients are exchanged as often on each."""
    if batch_size % ranks:
        fitting = ", ".join(str(n) for n in range(ranks, 0, -1) if batch_size % n == 0)
        raise ValueError(f"train.batch_size is {batch_size}, not a multiple of {ranks} ranks; change it, or start {fitting} ranks")
