"""Random windows per second: `Store.episode` against `datasets` with_format("numpy") on the same shard.

Run from the repository's root:  python benchmarks/store.py [--windows 2000] [--timesteps 64]
Both read the same windows of the same memory-mapped file in the same run, in turns, and every array is then
copied once, because the store's are views whose bytes nobody has touched yet; the ratio counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import numpy as np
import pyarrow as pa

from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec


def vectors_task() -> TaskSpec:
    continuous = Modality.CONTINUOUS
    return TaskSpec(
        "benchmark/vectors",
        (
            FieldSpec("position", continuous, "observation", (8,), path=("position",)),
            FieldSpec("velocity", continuous, "observation", (9,), path=("velocity",)),
            FieldSpec("action", continuous, "action", (6,), low=(-1.0,), high=(1.0,)),
        ),
    )


def pictures_task() -> TaskSpec:
    return TaskSpec(
        "benchmark/pictures",
        (
            FieldSpec("image", Modality.IMAGE, "observation", (64, 64, 3), "uint8"),
            FieldSpec("action", Modality.DISCRETE, "action", (), "int64", (0,), (3,)),
        ),
    )


def episode(task: TaskSpec, length: int, rng: np.random.Generator) -> Episode:
    def values(spec: FieldSpec) -> np.ndarray:
        if spec.dtype == "float32":
            return rng.uniform(-1, 1, (length, *spec.shape)).astype(np.float32)
        return rng.integers(0, 256 if spec.dtype == "uint8" else 4, (length, *spec.shape)).astype(spec.dtype)

    observations = {f.name: values(f) for f in task.observations}
    return Episode(task, observations, {f.name: values(f) for f in task.actions}, np.ones(length, np.float32))


def rate(read: Callable[[int, int, int], Iterable[np.ndarray]], windows: np.ndarray) -> float:
    started = time.perf_counter()
    for i, start, stop in windows.tolist():
        for values in read(i, start, stop):
            values.copy()
    return len(windows) / (time.perf_counter() - started)


def compare(task: TaskSpec, num_episodes: int, length: int, num_windows: int, timesteps: int) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(folder, [task], shard_bytes=2**31) as writer:
            for _ in range(num_episodes):
                writer.append(episode(task, length, rng))
        store = Store(folder)
        with pa.memory_map(str(Path(folder) / "timesteps-00000.arrow")) as file:
            rows = datasets.Dataset(pa.ipc.open_file(file).read_all()).with_format("numpy")
        starts = rng.integers(0, length - timesteps, num_windows)
        windows = np.stack([rng.integers(0, num_episodes, num_windows), starts, starts + timesteps], axis=1)

        def ours_read(i: int, start: int, stop: int) -> Iterable[np.ndarray]:
            window = store.episode(i, start, stop)
            return [*window.observations.values(), *window.actions.values(), window.rewards]

        def theirs_read(i: int, start: int, stop: int) -> Iterable[np.ndarray]:
            return rows[i * length + start : i * length + stop].values()

        readers = (ours_read, theirs_read)
        for read in readers:
            rate(read, windows[:20])
        rates = np.array([[rate(read, part) for read in readers] for part in np.array_split(windows, 5)])
        ours, theirs = np.median(rates, axis=0)
        print(
            f"{task.name}: {timesteps} timesteps: store {ours:,.0f} windows/s ({1e6 / ours:.1f} us), "
            f"datasets {theirs:,.0f} windows/s ({1e6 / theirs:.1f} us), ratio {ours / theirs:.1f} "
            f"(lowest of five parts {(rates[:, 0] / rates[:, 1]).min():.1f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--timesteps", type=int, default=64)
    arguments = parser.parse_args()
    compare(vectors_task(), 200, 500, arguments.windows, arguments.timesteps)
    compare(pictures_task(), 20, 300, arguments.windows // 10, arguments.timesteps)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
