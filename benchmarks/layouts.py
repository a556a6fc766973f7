"""The two token layouts beside each other: positions of a timestep, training, acting.

    OMP_NUM_THREADS=1 python benchmarks/layouts.py            # one thread; prints the tables of docs/results/compact.md
    python benchmarks/layouts.py --families STORE ...         # only positions: of the first task of each store, beside the toy tasks
    python benchmarks/layouts.py --steps 300                  # only acting on numbers; two checkouts in turn compare their code

Training is forward and backward of rows as full as the context of 1,024 tokens makes them in the paper's layout, and of as many
timesteps in the compact one, without stochastic depth and updates; the vocabulary has 32,000 pieces. Both run in turn, so that other
work on the machine meets both; times are those of the process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.act import observations, picture_task, vector_task
from gato.batch import collate
from gato.config import GatoConfig
from gato.episode import Episode
from gato.learners.gato import GatoLearner
from gato.model import Gato
from gato.policy import GatoPolicy
from gato.spec import Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer

LAYOUTS = ("gato", "compact")
POOLED = (2, 3)  # rows and columns of patches that share a position of the compact layout, beside none
CONTEXT, SIZE = 1024, {"width": 256, "num_layers": 4, "num_heads": 8, "head_width": 32, "feed_forward": 1024}


def episode(task: TaskSpec, steps: int, rng: np.random.Generator) -> Episode:
    (spec,) = task.actions
    if spec.modality is Modality.DISCRETE:
        actions = rng.integers(0, 18, steps)
    else:
        actions = rng.uniform(-1, 1, (steps, *spec.shape)).astype(np.float32)
    return Episode(task, observations(task, steps, rng), {spec.name: actions}, np.zeros(steps, np.float32))


def tokenizer_of(layout: str, pool: int) -> EpisodeTokenizer:
    return EpisodeTokenizer(None, layout=layout, pool_patches=pool if layout == "compact" else 1)


def model_of(tokenizer: EpisodeTokenizer, context: int) -> Gato:
    torch.manual_seed(0)
    settings = {"layout": tokenizer.layout, "pool_patches": tokenizer.pool_patches}
    return Gato(GatoConfig(**SIZE, context_length=context, drop_path=0.0, **settings))


def training_step(layout: str, task: TaskSpec, rows: int, pool: int):
    """A function that runs one update's forward and backward, and its timesteps."""
    tokenizer, rng = tokenizer_of(layout, pool), np.random.default_rng(0)
    steps = CONTEXT // EpisodeTokenizer(None).positions_per_timestep(task)
    length = steps * tokenizer.positions_per_timestep(task)
    batch = collate([tokenizer.encode(episode(task, steps, rng)) for _ in range(rows)], length, tokenizer.vocabulary.pad)
    learner = GatoLearner(model_of(tokenizer, length)).train()

    def step() -> None:
        loss, _ = learner(batch)
        loss.backward()
        learner.zero_grad()

    return step, rows * steps


def in_turn(works: Sequence, repeats: int) -> list[float]:
    """Median seconds of this process for each, one after the other in every round, after a round that warms up."""
    seconds: list[list[float]] = [[] for _ in works]
    for i in range(repeats + 1):
        for kept, work in zip(seconds, works, strict=True):
            start = time.process_time()
            work()
            if i:
                kept.append(time.process_time() - start)
    return [statistics.median(one) for one in seconds]


def acting(layout: str, task: TaskSpec, pool: int):
    """A function that plays one timestep of a policy whose context is full."""
    tokenizer, rng = tokenizer_of(layout, pool), np.random.default_rng(0)
    steps = CONTEXT // EpisodeTokenizer(None).positions_per_timestep(task)
    context = steps * tokenizer.positions_per_timestep(task)
    policy = GatoPolicy(model_of(tokenizer, context), tokenizer, task, overflow="rolling")
    for _ in range(steps + 1):
        policy.act(observations(task, 1, rng))
    return lambda: policy.act(observations(task, 1, rng))


def positions(stores: Sequence[str]) -> None:
    from gato.data.store import Store
    from gato.data.stores import find_store

    tasks = [vector_task(), picture_task(), *(Store(find_store(name)).tasks[0] for name in stores)]
    print("| task | paper's layout | compact |\n| --- | --- | --- |")
    for task in tasks:
        counts = [EpisodeTokenizer(None, layout=layout).positions_per_timestep(task) for layout in LAYOUTS]
        kinds = {f.modality for f in task.observations}
        has_text, is_seen = Modality.TEXT in kinds, Modality.IMAGE in kinds  # words stand once where there are no pictures
        words = (" + words", " + words" if is_seen else " (words once)") if has_text else ("", "")
        counts = [counts[0] - has_text, counts[1] - (has_text and is_seen)]
        print(f"| {task.name} | {counts[0]}{words[0]} | {counts[1]}{words[1]} |", flush=True)


def steps_of_numbers(count: int) -> None:
    """Milliseconds of this thread, both layouts in turn."""
    works = {layout: acting(layout, vector_task(), 1) for layout in LAYOUTS}
    seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for i in range(count + 30):
        for layout, work in works.items():
            start = time.thread_time()
            work()
            seconds[layout] += [time.thread_time() - start] if i >= 30 else []
    print("| layout | fastest tenth, ms | p50, ms | p99, ms |\n| --- | --- | --- | --- |")
    for layout, kept in seconds.items():
        print("| {} | {:.2f} | {:.2f} | {:.2f} |".format(layout, *np.percentile(kept, [10, 50, 99]) * 1e3), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", help="stores; only positions are printed")
    parser.add_argument("--steps", type=int, help="of a policy that acts on numbers; nothing else is measured")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.steps:
        return steps_of_numbers(options.steps)
    positions(options.families or [])
    if options.families is not None:
        return
    print("\n| task | training, timesteps/s | compact | times | a step, ms | compact | times |\n" + "| --- " * 7 + "|")
    pictures = picture_task()
    for task, pool in ((vector_task(), 1), (pictures, 1), *((pictures, pool) for pool in POOLED)):
        (paper, count), (compact, _) = (training_step(layout, task, options.rows, pool) for layout in LAYOUTS)
        slow, fast = in_turn((paper, compact), options.repeats)
        long, short = in_turn([acting(layout, task, pool) for layout in LAYOUTS], 10 * options.repeats)
        blocks = f", blocks of {pool} x {pool} patches" if pool > 1 else ""
        print(
            f"| {task.name}{blocks} | {count / slow:,.0f} | {count / fast:,.0f} | {slow / fast:.1f} "
            f"| {long * 1e3:.1f} | {short * 1e3:.1f} | {long / short:.1f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
