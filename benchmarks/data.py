"""Tokens per second from store to `TokenBatch`, per core and by modality; memory; and start-up against episodes and sources.

Run from the repository's root:

    python benchmarks/data.py                                                     # about six minutes of one core
    python benchmarks/data.py --seconds 1 --windows 2000 --episodes 1000 10000    # under two minutes, rougher

It makes its own stores. `datasets` with_format("numpy") reads the same windows of the same files, in turns in the same run: its
rate stands beside that of the store alone (both give values, copied once); the whole path to tokens beside the same path with
`datasets` as the reader (same tokenizer, layout and packing); and the whole path beside the rate at which gato-79m-rope on an
H200 would consume tokens:

    tokens/s = MFU * peak / (6 * N)      N = 79e6 parameters, peak = 989e12 (dense bf16), MFU = 0.4 (assumed)

Seconds are those of this process's CPU, so a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import numpy as np
import psutil
import pyarrow as pa
import torch

from gato.batch import TokenSequence, join
from gato.data.mixture import Mixture, Row
from gato.data.selection import DataConfig, SourceConfig
from gato.data.shards.columns import episode_schema, timestep_columns, timestep_schema
from gato.data.shards.manifest import FileEntry, Manifest, ShardEntry
from gato.data.shards.table import TableWriter, batch_rows
from gato.data.source import Piece, Source
from gato.data.store import StoreWriter
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.words import caption_task, document_task

CONTEXT, ROWS, CORES = 1024, 8, 16
START_UP = ("opening", "first batch", "opening a part", "first batch of a part")
CONSUMED = 0.4 * 989e12 / (6 * 79e6)
WORDS = "a the red blue green ball box key door go to pick up open put next on small large picture of cat dog house and".split()


def control_task() -> TaskSpec:
    return TaskSpec(
        "benchmark/control",
        (
            FieldSpec("state", Modality.CONTINUOUS, "observation", (17,), path=("state",)),
            FieldSpec("action", Modality.CONTINUOUS, "action", (6,), low=(-1.0,), high=(1.0,), path=("action",)),
        ),
    )


def grid_task() -> TaskSpec:
    """As BabyAI: 56x56 pictures padded to 64x64, a direction, an instruction, seven actions."""
    return TaskSpec(
        "benchmark/grid",
        (
            FieldSpec("image", Modality.IMAGE, "observation", (56, 56, 3), "uint8", path=("image",), resize="pad"),
            FieldSpec("direction", Modality.DISCRETE, "observation", (), "int64", (0,), (3,), path=("direction",)),
            FieldSpec("mission", Modality.TEXT, "observation", dtype="str", path=("mission",)),
            FieldSpec("action", Modality.DISCRETE, "action", (), "int64", (0,), (6,), path=("action",)),
        ),
    )


def sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


def episode(task: TaskSpec, length: int, words: int, rng: np.random.Generator) -> Episode:
    def values(spec: FieldSpec) -> np.ndarray:
        if spec.modality is Modality.TEXT:
            return np.array([sentence(rng, words)] * length, object)
        if spec.modality is Modality.CONTINUOUS:
            return rng.uniform(-1, 1, (length, *spec.shape)).astype(np.float32)
        return rng.integers(0, 256 if spec.dtype == "uint8" else 4, (length, *spec.shape)).astype(spec.dtype)

    observed = {f.name: values(f) for f in task.observations}
    return Episode(task, observed, {f.name: values(f) for f in task.actions}, np.zeros(length, np.float32))


def make_stores(folder: Path, rng: np.random.Generator) -> dict[str, Path]:
    kinds = {
        "control": (control_task(), 200, 500, 0), "grid pictures and text": (grid_task(), 400, 20, 5),
        "captions": (caption_task("benchmark/captions"), 2000, 1, 6), "text": (document_task("benchmark/text"), 2000, 1, 200),
    }  # fmt: skip
    for name, (task, episodes, length, words) in kinds.items():
        with StoreWriter(folder / name, [task], shard_bytes=2**31) as writer:
            for _ in range(episodes):
                writer.append(episode(task, length, words, rng))
    return {name: folder / name for name in kinds}


def rate(work: Callable[[int], int], seconds: float) -> float:
    """What `work(step)` counts, per second of CPU, after two steps of warming up."""
    work(0), work(1)
    total, step, started = 0, 2, time.process_time()
    while time.process_time() - started < seconds:
        total += work(step)
        step += 1
    return total / (time.process_time() - started)


def by_datasets(table: datasets.Dataset, source: Source, piece: Piece, tokenizer: EpisodeTokenizer) -> TokenSequence:
    """The tokens of a piece of a row, read by `datasets`."""
    first, task = source.store.span(piece.episode)[0], source.task
    start, stop = (0, 1) if source.is_text else (piece.start, piece.stop)
    values = table[first + start : first + stop]

    def fields(role: str, specs: tuple[FieldSpec, ...]) -> dict[str, np.ndarray]:
        return {f.name: np.asarray(values[f"{role}.{f.name}"]).reshape(stop - start, *f.shape) for f in specs}

    read = Episode.trusted(
        task=task, observations=fields("observation", task.observations), actions=fields("action", task.actions), rewards=values["reward"],
        terminated=False, truncated=False, final_observation=None, behaviour="expert", success=None, seed=None, parameters={},
    )  # fmt: skip
    sequence = tokenizer.encode(read)
    return sequence.drop(piece.start).cut(piece.stop - piece.start) if source.is_text else sequence


def throughput(name: str, folder: Path, tokenizer: EpisodeTokenizer, seconds: float) -> None:
    mixture = Mixture(DataConfig({name: SourceConfig(store=str(folder))}, prompt_share=0), tokenizer, CONTEXT, seed=0)
    with pa.memory_map(str(folder / "timesteps-00000.arrow")) as file:
        table = datasets.Dataset(pa.ipc.open_file(file).read_all()).with_format("numpy")
    source = mixture.sources[0]
    rows = [[mixture.row(step, r) for r in range(ROWS)] for step in range(4)]

    def ours(step: int) -> int:
        return mixture.batch(step, range(ROWS)).num_tokens

    def again(row: Row) -> Row:
        parts = [by_datasets(table, source, piece, tokenizer) for piece in row.pieces]
        return replace(row, tokens=join(parts, same_document=False).cut(CONTEXT))

    assert all(np.array_equal(again(row).tokens.ids, row.tokens.ids) for row in rows[0]), "both readers must give the same tokens"

    def over_datasets(step: int) -> int:
        """The same batch, drawn beforehand: `datasets` reads, our tokenizer encodes, packs and collates."""
        return mixture.collate([again(row) for row in rows[step % len(rows)]]).num_tokens

    def read(step: int, by_store: bool) -> int:
        """The windows behind the same batch, values only, each array copied once; counted in the tokens that we make of them."""
        tokens = 0
        for row in rows[step % len(rows)]:
            tokens += len(row.tokens)
            for piece in row.pieces:
                i, start, stop = (piece.episode, 0, 1) if source.is_text else (piece.episode, piece.start, piece.stop)
                first = source.store.span(i)[0]
                if by_store:
                    window = source.store.episode(i, start, stop)
                    arrays = [*window.observations.values(), *window.actions.values(), window.rewards]
                else:
                    arrays = table[first + start : first + stop].values()
                for values in arrays:
                    np.array(values)
        return tokens

    works = (ours, over_datasets, lambda step: read(step, True), lambda step: read(step, False))
    whole, theirs_whole, store, theirs = np.median([[rate(work, seconds / 3) for work in works] for _ in range(3)], axis=0)
    cells = [f"{whole:,.0f}", f"{CORES * whole / CONSUMED:.1f}", f"{theirs_whole:,.0f}", f"{whole / theirs_whole:.1f}"]
    cells += [f"{store:,.0f}", f"{theirs:,.0f}", f"{store / theirs:.1f}"]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def memory(stores: dict[str, Path], tokenizer: EpisodeTokenizer, windows: int) -> None:
    mixture = Mixture(DataConfig({name: SourceConfig(store=str(p)) for name, p in stores.items()}), tokenizer, 128, seed=0)
    process, marks = psutil.Process(), []
    points = set(np.linspace(windows / 10, windows - 1, 5).astype(int).tolist())
    for i in range(windows):
        mixture.row(i, 0)
        if i in points:
            full = process.memory_full_info()
            marks.append(f"{(full.rss - getattr(full, 'shared', 0)) / 2**20:.0f}")
    print(f"\nprivate memory over {windows:,} rows of all four, in MiB at five points: {', '.join(marks)}")


def many_episodes(folder: Path, n: int) -> None:
    """A store of n episodes of two timesteps, each of one number; written column by column, since appending takes minutes."""
    number = FieldSpec("x", Modality.CONTINUOUS, "observation", path=("x",))
    task = TaskSpec("benchmark/many", (number, FieldSpec("a", Modality.DISCRETE, "action", (), "int64", (0,), (1,), path=("a",))))
    columns = timestep_columns([task])
    schemas = timestep_schema(columns), episode_schema(columns)
    numbers, no = np.arange(n, dtype=np.int64), pa.array(np.zeros(n, bool))
    timesteps = {"observation.x": np.zeros(2 * n, np.float32), "action.a": np.zeros(2 * n, np.int64), "reward": np.zeros(2 * n, np.float32)}
    episodes = {
        "first_row": 2 * numbers, "length": np.full(n, 2), "task_index": np.zeros(n, np.int32), "return": np.zeros(n), "seed": numbers,
        "terminated": no, "truncated": no, "success": no, "final_observation.x": pa.nulls(n, pa.float32()),
        "behaviour": pa.repeat(pa.scalar("expert", pa.large_string()), n), "parameters": pa.repeat(pa.scalar("{}", pa.large_string()), n),
    }  # fmt: skip
    folder.mkdir()
    manifest, entries = Manifest((task,), *map(batch_rows, schemas)), []
    for name, schema, values in zip(("timesteps", "episodes"), schemas, (timesteps, episodes), strict=True):
        writer = TableWriter(folder / f"{name}-00000.arrow", schema, batch_rows(schema))
        writer.append(pa.RecordBatch.from_pydict(values, schema=schema))
        entries.append(FileEntry(**writer.finish()))
    replace(manifest, shards=(ShardEntry(*entries),)).save(folder)


def start_up(folder: Path, tokenizer: EpisodeTokenizer, episodes: int) -> list[float]:
    """Milliseconds until a mixture of one such store is open, and until its first batch; without and with a part."""
    many_episodes(folder, episodes)
    times = []
    for config in (SourceConfig(store=str(folder)), SourceConfig(store=str(folder), part="train")):
        started = time.process_time()
        mixture = Mixture(DataConfig({"many": config}), tokenizer, 32, seed=0)
        opened = time.process_time()
        mixture.batch(0, range(4))
        times += [1e3 * (opened - started), 1e3 * (time.process_time() - opened)]
    print(f"| {episodes:,} | {' | '.join(f'{t:.1f}' for t in times)} |", flush=True)
    return times


def many_sources(store: Path, tokenizer: EpisodeTokenizer, count: int) -> None:
    """A mixture of so many sources, each with a store of its own (of the same files)."""
    started = time.process_time()
    mixture = Mixture(DataConfig({f"source-{i}": SourceConfig(store=str(store)) for i in range(count)}), tokenizer, CONTEXT, seed=0)
    opened = time.process_time()
    mixture.batch(0, range(64))
    print(f"| {count:,} | {1e3 * (opened - started):.0f} | {1e3 * (time.process_time() - opened):.0f} |", flush=True)


def draw(episodes: list[int], times: list[list[float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for values, label in zip(np.transpose(times), START_UP, strict=True):
        axes.loglog(episodes, values, marker="o", label=label)
    axes.set(xlabel="episodes in the store", ylabel="milliseconds of CPU", title="Start-up of a mixture")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of CPU a modality and side")
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--episodes", type=int, nargs="*", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--sources", type=int, nargs="*", default=[10, 100, 1000, 5000])
    parser.add_argument("--plot", type=Path, help="draw start-up against episodes as this PNG (needs matplotlib)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    text = TextTokenizer.train([sentence(rng, 20) for _ in range(500)], 320)
    tokenizer = EpisodeTokenizer(text, Vocabulary.separate_discrete(text.size))
    with tempfile.TemporaryDirectory() as folder:
        stores = make_stores(Path(folder), rng)
        print(f"gato-79m-rope on an H200 would consume {CONSUMED:,.0f} tokens/s\n")
        heads = ("tokens/s a core", f"{CORES} cores / one H200", "over datasets", "ratio", "store alone", "datasets alone", "ratio")
        print(f"| {ROWS} rows of {CONTEXT} | {' | '.join(heads)} |")
        print((1 + len(heads)) * "|---" + "|")
        for name, path in stores.items():
            throughput(name, path, tokenizer, options.seconds)
        if options.windows:
            memory(stores, tokenizer, options.windows)
        print(f"\n| episodes | {' | '.join(f'{name}, ms' for name in START_UP)} |")
        print(5 * "|---" + "|")
        times = [start_up(Path(folder) / f"many-{count}", tokenizer, count) for count in options.episodes]
        if options.plot:
            draw(options.episodes, times, options.plot)
        print("\n| sources | opening, ms | first batch of 64 rows, ms |\n|---|---|---|")
        for count in options.sources:
            many_sources(stores["control"], tokenizer, count)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
