"""`gato pretrain RECIPE --nproc N`: the ranks of one machine as child processes.

`torchrun` does the same on many machines. Here the first rank that fails is named, the others are
stopped within a bounded time, and its exit code becomes that of the command; torchrun's is 1 whatever a rank
said, so that bad input (2) and a run that goes on (75) would look like a crash.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

GRACE = 20.0  # seconds that the other ranks have to leave by themselves when one has failed
STOPPED = 75  # exit code of a run that was asked to stop, saved, and goes on when started again (EX_TEMPFAIL)
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def launch(command: Sequence[str], ranks: int) -> int:
    """Runs `python -m gato.cli COMMAND` on `ranks` processes of this machine.

    **Returns:** 0, or the exit code of the first rank that failed: 128 + the signal where one killed it.

    **Raises:** `ValueError` for less than one rank.
    """
    if ranks < 1:
        raise ValueError(f"--nproc is {ranks}; give the number of processes to start, at least 1")
    common = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "LOCAL_SIZE": str(ranks)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    common["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        # The first rank speaks for all; what the others say is shown only if they are the first to fail.
        logs = [Path(folder) / str(r) for r in range(ranks)]
        errors: list[Any] = [None, *(stack.enter_context(log.open("wb")) for log in logs[1:])]
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "gato.cli", *command],
                env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r)},
                stderr=errors[r],
                start_new_session=True,  # a terminal's Ctrl-C reaches the ranks once, through us; a second one ends them at once
            )
            for r in range(ranks)
        ]
        try:
            failed = _watch(children)
        finally:
            _stop(children)
        if failed and failed[0] > 0:
            sys.stderr.write(logs[failed[0]].read_text(errors="replace")[-4000:])
    return _report(failed) if failed else 0


def _watch(children: list[subprocess.Popen]) -> tuple[int, int] | None:
    """Passes signals on to all ranks and waits: `None`, or the first rank that failed and how it ended."""

    def pass_on(number: int, frame: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    finished: float | None = None  # when the first rank left in good order: it is the last to write, so all is saved then
    try:
        while any(child.poll() is None for child in children):
            if failed := _first_failed(children):
                return failed
            if children[0].poll() == 0:
                finished = finished or time.monotonic()
                if time.monotonic() - finished > GRACE:
                    left = ", ".join(str(r) for r, child in enumerate(children) if child.poll() is None)
                    print(f"gato: all is saved, but rank {left} has not left after {GRACE:.0f} s and is stopped", file=sys.stderr)
                    return None
            time.sleep(0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return _first_failed(children) or ((0, STOPPED) if any(child.returncode == STOPPED for child in children) else None)


def _first_failed(children: list[subprocess.Popen]) -> tuple[int, int] | None:
    """A rank that a signal killed before one that failed, for the others fail because of it."""
    failed = [(r, code) for r, child in enumerate(children) if (code := child.poll()) not in (None, 0, STOPPED)]
    return min(failed, key=lambda one: (one[1] > 0, one[0]), default=None)


def _stop(children: list[subprocess.Popen]) -> None:
    """A rank whose peer has gone fails in its next exchange; one that does not is killed."""
    end = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _report(failed: tuple[int, int]) -> int:
    """Says which rank ended how, unless its own message has said enough; gives the exit code."""
    r, code = failed
    if code < 0:
        name = signal.Signals(-code).name
        print(f"gato: rank {r} was killed by {name}; the other ranks were stopped. The same command goes on", file=sys.stderr)
        return 128 - code
    if r > 0:
        print(f"gato: rank {r} was the first to fail, with exit code {code}", file=sys.stderr)
    return code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
