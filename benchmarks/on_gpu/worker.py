"""One part of the GPU script: a process of its own, which imports first and begins when told.

    python -m benchmarks.on_gpu.worker '{"function": "MODULE:NAME", "arguments": {...}, ...}'

A part is a function `(options, report, **arguments)`. What it reports is printed as one line of
JSON behind a mark; the parent reads it as it comes. So a part that is killed leaves what it had.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "@figure "
SHOWN = 40  # lines of a part that failed
LEAST = 8.0  # seconds; with less a part is not begun

Report = Callable[..., None]  # report("what it is", name=value, ...)


@dataclass(frozen=True)
class Options:
    """`device`: cuda or cpu; `toy`: sizes of seconds on a CPU; `folder`: what parts hand on."""

    device: str
    toy: bool
    folder: str


@dataclass(frozen=True)
class Part:
    """`section`: the table that its figures stand in; `seconds`: the time that it may take."""

    name: str
    section: str
    function: str
    seconds: float
    arguments: dict[str, Any] = field(default_factory=dict)


Take = Callable[[Part, dict[str, Any]], None]


class Worker:
    """Starts `part` in a process that imports what it needs and waits, with more `settings` in its
    environment."""

    def __init__(self, part: Part, options: Options, settings: dict[str, str]) -> None:
        self.part = part
        task = {"function": part.function, "arguments": part.arguments, "options": asdict(options)}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.on_gpu.worker", json.dumps(task)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", cwd=ROOT, env={**os.environ, **settings, "PYTHONPATH": path},
            start_new_session=True,
        )  # fmt: skip

    def run(self, seconds: float, take: Callable[[dict[str, Any]], None]) -> str | None:
        """Begins, hands every figure to `take`, and ends the process after `seconds`.

        **Returns:** `None`, or what went wrong with the last lines of the process.
        """
        said: deque[str] = deque(maxlen=SHOWN)
        reader = threading.Thread(target=self._read, args=(said, take), daemon=True)
        reader.start()
        self._begin(seconds)
        try:
            code: int | None = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        self.stop()  # what it has started, too
        reader.join(5)
        if code == 0:
            return None
        fault = f"cut off after {seconds:.0f} s" if code is None else f"exit code {code}"
        return "\n".join([fault, *said])

    def _begin(self, seconds: float) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has failed while it imported, and its exit code and lines say so

    def _read(self, said: deque[str], take: Callable[[dict[str, Any]], None]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                take(json.loads(line.removeprefix(MARK)))
            elif line.strip():
                said.append(line.rstrip())

    def stop(self) -> None:
        """Ends the process and all that it has started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (
            ProcessLookupError,
            PermissionError,
        ):  # the latter on a group of which all have ended
            pass
        self.process.wait()


class Lanes:
    """Runs parts. Those of a lane follow each other, each imported while the one before it runs.

    **Arguments:** `take`: is given every figure, `(part, figure)`; `end`: on `time.monotonic`.
    """

    def __init__(self, options: Options, take: Take, end: float) -> None:
        self.options, self.take, self.end = options, take, end
        self._lock = threading.Lock()

    def run(self, lanes: list[list[Part]]) -> None:
        """On a GPU the lanes run side by side, on a CPU one after the other.

        Side by side each has its share of the cores, and no thread spins: what a CPU computes to
        compare with took tenfold with all cores for every lane.
        """
        settings = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
        if not self.options.device.startswith("cuda"):
            lanes = [[part for lane in lanes for part in lane]]
        elif len(lanes) > 1:
            share = max(1, len(os.sched_getaffinity(0)) // len(lanes))
            settings["OMP_NUM_THREADS"] = str(share)
        threads = [threading.Thread(target=self._lane, args=(lane, settings)) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _lane(self, parts: list[Part], settings: dict[str, str]) -> None:
        following = Worker(parts[0], self.options, settings) if parts else None
        for i, part in enumerate(parts):
            worker, following = following, None
            assert worker is not None
            if i + 1 < len(parts):
                following = Worker(parts[i + 1], self.options, settings)
            self._one(worker, part)

    def _one(self, worker: Worker, part: Part) -> None:
        started = time.monotonic()
        left = self.end - started
        if left < LEAST:
            worker.stop()
            self._put(part, {"what": part.name, "failed": "left out: no time was left"})
            return
        fault = worker.run(min(part.seconds, left), lambda figure: self._put(part, figure))
        if fault is not None:
            shown = f"{part.name}: {fault}".replace("\n", "\n    ")
            with self._lock:
                print(shown, flush=True)
            first, *rest = fault.splitlines()
            last = rest[-1] if rest else ""
            found = next((line for line in reversed(rest) if _is_error(line)), last).strip()
            self._put(part, {"what": part.name, "failed": f"{first}: {found[:200]}"})
        self._put(part, {"took": round(time.monotonic() - started, 1)})

    def _put(self, part: Part, figure: dict[str, Any]) -> None:
        with self._lock:
            self.take(part, figure)


def _is_error(line: str) -> bool:
    """The line of a traceback that says what it was; others may follow it."""
    name = line.split(":", 1)[0]
    return name.isprintable() and " " not in name and name.endswith(("Error", "Exception"))


def report(what: str, **values: Any) -> None:
    # on a line of its own, whatever a library has printed before without ending its line
    print("\n" + MARK + json.dumps({"what": what, **values}), flush=True)


def main() -> None:
    task = json.loads(sys.argv[1])
    module, name = task["function"].split(":")
    function = getattr(importlib.import_module(module), name)
    words = sys.stdin.readline()
    if not words.strip():
        return  # never begun
    with contextlib.suppress(OSError):  # where memory runs out, this one goes, not its parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    # which shows where it hangs
    faulthandler.dump_traceback_later(max(1.0, float(words) - 2), exit=False)
    code = 0
    try:
        function(Options(**task["options"]), report, **task["arguments"])
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not held up by threads of a library


if __name__ == "__main__":
    main()
