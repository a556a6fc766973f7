"""Latency of acting: one control step with a full context, against no cache and against the least that must be read.

Run from the repository's root:  python benchmarks/act.py [--sizes 256x4x8] [--steps 200] [--json FILE]

*Plain* is the same policy with the layers of training in place of `gato/layers/acting.py`, step by step in turn with it.

                                 python benchmarks/act.py --device cuda

`python benchmarks/gpu.py --only acting` measures 364M and 1.18B on a GPU.

One thread. The floor of a pass is the bytes of the layers' weights and of the keys and values that it must read, over the
bandwidth of this machine: a matrix of just as many bytes times a vector, measured between the steps. Passes over many tokens
also compute; the second floor takes each pass at the longer of its reading and its operations at the speed of a plain matrix
product. Times on the CPU are of the thread (`--clock wall` for the others), since other work on the machine is not ours to measure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from gato.batch import collate, join
from gato.config import GatoConfig, preset
from gato.model import Gato
from gato.policy import GatoPolicy
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary


def vector_task(observations: int = 17, actions: int = 6) -> TaskSpec:
    state = FieldSpec("state", Modality.CONTINUOUS, "observation", (observations,))
    return TaskSpec(
        f"vector {observations} -> {actions}",
        (state, FieldSpec("action", Modality.CONTINUOUS, "action", (actions,), low=(-1.0,), high=(1.0,))),
    )


def picture_task() -> TaskSpec:
    picture = FieldSpec("image", Modality.IMAGE, "observation", (84, 84, 3), "uint8", resize="pad")
    return TaskSpec("image 84x84 -> 18", (picture, FieldSpec("action", Modality.DISCRETE, "action", (), "int64", (0,), (17,))))


def observations(task: TaskSpec, streams: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    (spec,) = task.observations
    shape = (streams, *spec.shape)
    if spec.modality is Modality.IMAGE:
        return {spec.name: rng.integers(0, 256, shape, dtype=np.uint8)}
    return {spec.name: rng.normal(size=shape).astype(np.float32)}


def model_of(size: str, context: int, device: str) -> Gato:
    """`WIDTHxLAYERSxHEADS`, or a preset's name."""
    torch.manual_seed(0)
    if size.startswith("gato"):
        config = preset(size)
        config.context_length = context
    else:
        width, layers, heads = map(int, size.split("x"))
        config = GatoConfig(
            num_layers=layers, num_heads=heads, width=width, head_width=width // heads, feed_forward=4 * width, context_length=context
        )
    with torch.device(device):  # where weights are drawn faster
        model = Gato(config)
    return model.to(torch.bfloat16 if device == "cuda" else torch.float32)


class Clock:
    """Seconds of some work: of the thread, or on the wall, where a GPU has finished too."""

    def __init__(self, kind: str, device: str) -> None:
        self.now, self.device = (time.thread_time if kind == "cpu" else time.perf_counter), device

    def __call__(self, work: Callable[[], object]) -> float:
        started = self.now()
        work()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self.now() - started


class Passes(GatoPolicy):
    """A policy that remembers of every pass how many tokens it fed, and how many keys it looked at."""

    def reset(self, num_streams: int = 1, demonstrations: Any = ()) -> None:
        super().reset(num_streams, demonstrations)
        self.passes: list[tuple[int, int]] = []

    def _feed_actions(self, rows: np.ndarray, ids: np.ndarray) -> torch.Tensor:
        if self.static or (self._quick is not None and len(rows) == 1):  # which do not come by `_run`
            self.passes.append((len(rows), int(np.minimum(self._cache.next[rows] + 1, self.context_length).sum())))
        return super()._feed_actions(rows, ids)

    def _run(self, embedded: torch.Tensor, rows: np.ndarray, counts: np.ndarray) -> torch.Tensor:
        seen = np.minimum(self._cache.next[rows] + counts, self.context_length)
        self.passes.append((int(counts.sum()), int(seen.sum())))
        return super()._run(embedded, rows, counts)


class PlainPasses(Passes):
    """With the layers as they are in training."""

    def _renew(self) -> None:
        self._quick = None


@dataclass
class Machine:
    """What a pass costs at least here: seconds to read bytes, seconds of operations."""

    clock: Clock
    device: str
    dtype: torch.dtype

    def seconds_per_byte(self, num_bytes: int) -> float:
        """Of the fastest of three products of a matrix of this size with a vector."""
        width = 1024
        matrix = torch.ones(max(1, num_bytes // self.dtype.itemsize // width), width, dtype=self.dtype, device=self.device)
        vector = torch.ones(width, dtype=self.dtype, device=self.device)
        return min(self.clock(lambda: torch.mv(matrix, vector)) for _ in range(3)) / (matrix.numel() * self.dtype.itemsize)

    def seconds_per_operation(self, tokens: int, width: int) -> float:
        """Of the fastest of three products of `tokens` rows with a matrix (width, 4 width)."""
        rows = torch.ones(max(2, tokens), width, dtype=self.dtype, device=self.device)
        matrix = torch.ones(width, 4 * width, dtype=self.dtype, device=self.device)
        return min(self.clock(lambda: rows @ matrix) for _ in range(3)) / (2 * rows.shape[0] * matrix.numel())


def step_floors(model: Gato, passes: list[tuple[int, int]], machine: Machine) -> tuple[float, float]:
    """Seconds of one step: reading alone, and each pass at the longer of reading and operations."""
    config, size = model.config, machine.dtype.itemsize
    weights = sum(p.numel() for layer in model.transformer.layers for p in layer.parameters())
    per_key = 2 * config.num_layers * config.num_heads * config.head_width
    read = [(weights + keys * per_key) * size for _, keys in passes]
    per_byte = machine.seconds_per_byte(max(read))
    operations = [2 * tokens * weights + 2 * tokens * keys * per_key for tokens, keys in passes]
    per_operation = machine.seconds_per_operation(max(tokens for tokens, _ in passes), config.width)
    both = (max(r * per_byte, o * per_operation) for r, o in zip(read, operations, strict=True))
    return sum(read) * per_byte, sum(both)


def without_cache(model: Gato, tokenizer: EpisodeTokenizer, task: TaskSpec, context: int, clock: Clock) -> float:
    """Seconds of a step that runs the whole context again for every action token."""
    rng = np.random.default_rng(1)
    steps = context // tokenizer.tokens_per_timestep(task)
    seen = tokenizer.encode_observation(task, observations(task, steps, rng))
    batch = collate([join([seen], same_document=True)], len(seen), tokenizer.vocabulary.pad).to(model.device)

    @torch.inference_mode()
    def step() -> None:
        for legal in tokenizer.legal_ids(task):
            embedded = model.embedding(batch.ids, batch.local_position, batch.patches, batch.patch_boxes)
            model.score(model.transformer(embedded)[:, -1], slice(legal.start, legal.stop)).argmax().item()

    return clock(step)


@dataclass
class Latency:
    """Milliseconds of a step. Ratios are medians over the steps that were set beside a floor."""

    size: str
    task: str
    overflow: str
    tokens: int
    p50: float
    p99: float
    reading: float
    roofline: float
    ratio_reading: float
    ratio_roofline: float
    uncached: float
    faster: float
    plain: float
    than_plain: float


def latency(model: Gato, size: str, task: TaskSpec, overflow: str, steps: int, clock: Clock) -> Latency:
    tokenizer, rng, device = EpisodeTokenizer(None, Vocabulary()), np.random.default_rng(0), str(model.device.type)
    kinds, machine = (Passes, PlainPasses), Machine(clock, device, model.dtype)
    policy, plain = (kind(model, tokenizer, task, overflow=overflow, static=device == "cuda") for kind in kinds)
    per_step, context = tokenizer.tokens_per_timestep(task), model.config.context_length
    for each in (policy, plain):
        each.reset(1)
        for _ in range(context // per_step + 1):
            each.act(observations(task, 1, rng))
    seconds, before, ratios, floors = [], [], [], []
    for i in range(steps):
        seen = observations(task, 1, rng)
        policy.passes.clear()
        seconds.append(clock(lambda seen=seen: policy.act(seen)))
        before.append(clock(lambda seen=seen: plain.act(seen)))
        is_rebuild = max(tokens for tokens, _ in policy.passes) > 2 * per_step
        if i % max(1, steps // 40) == 0 and not is_rebuild:
            floors.append(step_floors(model, policy.passes, machine))
            ratios.append([seconds[-1] / floor for floor in floors[-1]])
    uncached = np.median([without_cache(model, tokenizer, task, context, clock) for _ in range(3)])
    p50, p99 = np.percentile(seconds, [50, 99])
    reading, roofline = np.median(floors, axis=0) * 1e3
    ratio = np.median(ratios, axis=0)
    return Latency(
        size, task.name, overflow, per_step, p50 * 1e3, p99 * 1e3,
        float(reading), float(roofline), float(ratio[0]), float(ratio[1]), uncached * 1e3, uncached / p50,
        float(np.median(before)) * 1e3, float(np.median(np.array(before) / seconds)),
    )  # fmt: skip


def throughput(model: Gato, task: TaskSpec, streams: int, steps: int, clock: Clock) -> float:
    """Environments x steps per second, from the full context on."""
    policy, rng = (
        GatoPolicy(model, EpisodeTokenizer(None, Vocabulary()), task, overflow="rolling", static=model.device.type == "cuda"),
        np.random.default_rng(0),
    )
    policy.reset(streams)
    for _ in range(model.config.context_length // policy.tokenizer.tokens_per_timestep(task) + 1):
        policy.act(observations(task, streams, rng))
    seconds = [clock(lambda: policy.act(observations(task, streams, rng))) for _ in range(steps)]
    return streams / float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["256x4x8", "768x6x12"], help="WIDTHxLAYERSxHEADS, or a preset's name")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 16, 256], help="at the first size, in mode rolling")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--clock", choices=["cpu", "wall"], help="default: cpu on the CPU, wall on a GPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = Clock(options.clock or ("wall" if options.device == "cuda" else "cpu"), options.device)
    rows = []
    head = f"{'size':10}{'task':20}{'overflow':9}{'p50':>8}{'p99':>8}{'reading':>9}{'x':>6}{'roofline':>10}{'x':>6}"
    head += f"{'no cache':>10}{'x':>7}{'plain':>9}{'x':>6}"
    print(f"milliseconds of a step, context {options.context}, one thread\n{head}")
    for size in options.sizes:
        model = model_of(size, options.context, options.device)
        for task in (vector_task(), picture_task()):
            for overflow in ("rebuild", "rolling"):
                row = latency(model, size, task, overflow, options.steps, clock)
                rows.append(asdict(row))
                print(
                    f"{size:10}{task.name:20}{overflow:9}{row.p50:8.2f}{row.p99:8.2f}{row.reading:9.2f}{row.ratio_reading:6.1f}"
                    f"{row.roofline:10.2f}{row.ratio_roofline:6.1f}{row.uncached:10.0f}{row.faster:7.1f}"
                    f"{row.plain:9.2f}{row.than_plain:6.2f}", flush=True,
                )  # fmt: skip
    found: dict[str, Any] = {"device": options.device, "context": options.context, "latency": rows, "streams": {}}
    for streams in options.streams:
        model = model_of(options.sizes[0], options.context, options.device)
        found["streams"][streams] = throughput(model, vector_task(), streams, max(3, options.steps // (10 * streams)), clock)
        print(f"{streams} streams of {options.sizes[0]}: {found['streams'][streams]:,.0f} environments x steps/s", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main, may_name_a_file=True))
