"""How much other processes slow training, acting and tests, by the way in which OpenMP threads wait (docs/results/speed.md).

    python benchmarks/contention.py                             # some minutes of two quiet cores
    python benchmarks/contention.py --busy 0 1 --works training --rounds 1

Every cell is a process of its own, two threads where the way does not say one, beside so many processes that do nothing but
count. The ways take turns within a round, and the medians of the rounds are shown: seconds on the wall of the work alone,
without imports. What else the machine does is not ours; its load is printed before and after.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gato.cli.threads import WAITING

ROOT = Path(__file__).resolve().parents[1]
WAYS = {
    "as torch comes: they spin": {},
    "they sleep at once": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    "they spin shortly, then sleep (the command's)": WAITING,
    "one thread": {"OMP_NUM_THREADS": "1"},
}
COUNTED = "while True: pass"
SHAPE, ROWS = "3x128x4", 2  # LAYERSxWIDTHxHEADS of the demo, and rows of 256 tokens, fewer than it has
TESTS = ("tests/test_optim.py",)


def training(updates: int) -> float:
    """Seconds of so many updates of a model of the demo's shape, on vectors."""
    from benchmarks.ablation import make_config, steps_of

    steps, _, _ = steps_of("vectors", make_config(SHAPE, 256), ROWS)
    step = steps["nothing behind the last attention but for targets"]
    step()
    return _seconds(step, updates)


def acting(steps: int) -> float:
    """Seconds of so many control steps of it, with a full context."""
    import numpy as np

    from benchmarks.act import EpisodeTokenizer, GatoPolicy, Vocabulary, model_of, observations, vector_task

    layers, width, heads = SHAPE.split("x")
    task, rng = vector_task(), np.random.default_rng(0)
    policy = GatoPolicy(model_of(f"{width}x{layers}x{heads}", 256, "cpu"), EpisodeTokenizer(None, Vocabulary()), task, overflow="rolling")
    for _ in range(12):
        policy.act(observations(task, 1, rng))
    return _seconds(lambda: policy.act(observations(task, 1, rng)), steps)


def tests(_: int) -> float:
    """Seconds of some test files, imports and all."""
    command = [sys.executable, "-m", "pytest", "-q", *(str(ROOT / name) for name in TESTS)]
    return _seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL), 1)


WORKS = {"training": (training, 4), "acting": (acting, 10), "tests": (tests, 1)}


def _seconds(work: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - started


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that count, at the priority of this one."""
    others = [subprocess.Popen([sys.executable, "-c", COUNTED]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measured(work: str, way: str) -> float:
    """One cell, in a process whose environment says how threads wait."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment = plain | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)} | WAYS[way]
    done = subprocess.run([sys.executable, __file__, "--cell", work], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def table(work: str, counts: Sequence[int], rounds: int) -> None:
    found: dict[tuple[str, int], list[float]] = {(way, count): [] for way in WAYS for count in counts}
    for _ in range(rounds):
        for count in counts:
            with busy(count):
                for way in WAYS:
                    found[way, count].append(measured(work, way))
                    print(f"{work}, beside {count}, {way}: {found[way, count][-1]:.2f} s", file=sys.stderr, flush=True)
    print(f"\n| {work} | {' | '.join(f'beside {n} busy' for n in counts)} |\n|---{'|---' * len(counts)}|")
    for way in WAYS:
        cells = [f"{statistics.median(found[way, n]):.1f} s ({min(found[way, n]):.1f} - {max(found[way, n]):.1f})" for n in counts]
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cell", choices=list(WORKS), help="only this work, here and now")
    options = parser.parse_args()
    if options.cell:
        work, times = WORKS[options.cell]
        print(work(times))
        return
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before")
    for work in options.works:
        table(work, options.busy, options.rounds)
    print(f"\nload average {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
