"""Batches of a run's updates, made in this process or in worker processes: the same whatever their
number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

WORKER_TIMEOUT = 300  # seconds that a worker may take for one update


def load(
    batches: Any, steps: range, rows: range, micro_batch_size: int, workers: int = 0, timeout: int = WORKER_TIMEOUT
) -> Iterator[list[Any]]:
    """Micro-batches of every step in `steps`, as lists: `rows` of its global batch, whose own
    targets make the denominator.

    **Arguments:** `batches`: has `batch(step, rows)`; it is sent to the workers.

    **Raises:** `RuntimeError` naming the worker that died, or that took longer than `timeout`
    seconds for an update; `ValueError` for damaged data, in one line from a worker too.
    """
    loader = torch.utils.data.DataLoader(
        _Steps(batches, rows, micro_batch_size),
        sampler=steps,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        timeout=timeout if workers else 0,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_start_worker if workers else None,
    )
    return _named(iter(loader), steps, workers) if workers else iter(loader)


class _Steps(torch.utils.data.Dataset):
    """Index: the update; item: its micro-batches."""

    def __init__(self, batches: Any, rows: range, micro_batch_size: int) -> None:
        self.batches, self.rows, self.micro_batch_size = batches, rows, micro_batch_size

    def __getitem__(self, step: int) -> list[Any]:
        size = self.micro_batch_size
        batches = [self.batches.batch(step, self.rows[r : r + size]) for r in range(0, len(self.rows), size)]
        denominator = sum(b.denominator for b in batches)
        return [b.with_denominator(denominator) for b in batches]


def _start_worker(worker: int) -> None:
    """One thread a worker: torch has seen to its own, Arrow has a pool as large as the machine."""
    import signal

    import pyarrow as pa

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C asks the training process, which needs us for its last update
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def _named(batches: Iterator[list[Any]], steps: range, workers: int) -> Iterator[list[Any]]:
    """The batches of worker processes, whose failures say which of them it was."""
    for i, step in enumerate(steps):
        try:
            yield next(batches)
        except (RuntimeError, ConnectionError, EOFError) as error:  # the latter two where one died while it handed a batch over
            dead = _dead(batches._workers) if "timed out" not in str(error) else []  # type: ignore[attr-defined]
            for process in batches._workers:  # type: ignore[attr-defined]
                process.kill()  # a stalled one would not heed the loader's polite end
                process.join()
            # the loader hands updates to its workers in turn
            who = f"data worker {i % workers} of {workers} gave no answer" if "timed out" in str(error) else "a data worker died"
            who += f" (process {dead[0]})" if dead else ""
            raise RuntimeError(f"{who} while update {step} was awaited: {error}; start the run again, it goes on") from error
        except ValueError as error:
            raise ValueError(f"data worker {i % workers} of {workers}, update {step}: {str(error).strip().splitlines()[-1]}") from None


def _dead(processes: Sequence[BaseProcess]) -> list[int | None]:
    """The numbers of those that have ended, or are about to: a process closes its pipes a moment
    before its end can be asked for."""
    ended: list[object] = []
    for seconds in (1, 0):
        with suppress(RuntimeError):  # torch raises it from its handler of SIGCHLD, wherever we are
            ended = wait([process.sentinel for process in processes], seconds)  # type: ignore[assignment]
    return [process.pid for process in processes if process.sentinel in ended]


def rank_rows(batch_size: int, rank: int, ranks: int) -> range:
    """The rows of a global batch that a rank computes: blocks whose sizes differ by one at most, in
    the order of the ranks.

    **Raises:** `ValueError` for more ranks than rows.
    """
    if not 0 <= rank < ranks <= batch_size:
        raise ValueError(f"rank {rank} of {ranks} has no row of a batch of {batch_size}; raise batch_size or use fewer ranks")
    return range(batch_size * rank // ranks, batch_size * (rank + 1) // ranks)
