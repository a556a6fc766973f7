"""What each saving of the training step brings: transitions per second as they are switched on one after the other.

    python benchmarks/ablation.py                     # both tables, half an hour of one core
    python benchmarks/ablation.py --rounds 1 --rows 1 --context 128 --size 1x32x2     # seconds, to see that it runs
    python benchmarks/ablation.py --beyond            # with bf16 and compiled layers below, which are not the same kernels
    python benchmarks/ablation.py --growth docs/results/growth.svg                    # time and memory against context, rows, width

One thread, float32, AdamW, the same kernels and weights in every line; what is switched off lives here, not in the product.
A step is: windows to tokens, batch, forward, backward, clipping, update. In turn; medians of CPU seconds; equal losses are asserted.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from gato.batch import ACTION_LOCAL, NO_LOCAL, Kind, TokenBatch, TokenSequence, collate
from gato.episode import Episode
from gato.layers.head import weighted_loss
from gato.learners.gato import GatoLearner
from gato.model import Gato, GatoConfig
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers import image
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.train.optim import OptimConfig, make_optimizer

# In the order in which they are switched on; the base has the first one.
SAVINGS = {
    "array": "values to tokens array by array",
    "patches": "patches embedded only where they are",
    "targets": "head and loss at targets only",
    "fused": "the head makes its gradients while it scores",
    "last": "nothing behind the last attention but for targets",
}
BEYOND = {
    "all of these in bf16": (True, False),
    "all of these with compiled layers": (False, True),
    "all of these in bf16 with compiled layers": (True, True),
}
VOCABULARY = Vocabulary()
RESOLUTION = 16 * 2**20  # bytes: a smaller step lives in memory that the process holds already, and no peak shows it


def tasks() -> dict[str, TaskSpec]:
    vectors = (
        FieldSpec("state", Modality.CONTINUOUS, "observation", (17,)),
        FieldSpec("torques", Modality.CONTINUOUS, "action", (6,), low=(-1.0,), high=(1.0,)),
    )
    pictures = (
        FieldSpec("screen", Modality.IMAGE, "observation", (84, 84, 3), "uint8", resize="pad"),
        FieldSpec("button", Modality.DISCRETE, "action", (), "int64", (0,), (17,)),
    )
    return {"vectors": TaskSpec("benchmark/half-cheetah", vectors), "images": TaskSpec("benchmark/atari", pictures)}


def window(task: TaskSpec, steps: int, rng: np.random.Generator) -> Episode:
    def values(spec: FieldSpec) -> np.ndarray:
        if spec.modality is Modality.CONTINUOUS:
            return rng.uniform(-1, 1, (steps, *spec.shape)).astype(np.float32)
        return rng.integers(0, 256 if spec.dtype == "uint8" else 18, (steps, *spec.shape)).astype(spec.dtype)

    observations = {f.name: values(f) for f in task.observations}
    return Episode(task, observations, {f.name: values(f) for f in task.actions}, np.zeros(steps, np.float32))


# -- tokens ----------------------------------------------------------------------------------------


def tokenise_in_a_loop(episode: Episode) -> TokenSequence:
    """The same tokens as `EpisodeTokenizer` gives, one value and one patch at a time."""
    ids: list[int] = []
    kind: list[int] = []
    local: list[int] = []
    timestep: list[int] = []
    is_target: list[bool] = []
    patches, boxes = [], []

    def append(id_: int, what: Kind, place: int, t: int, target: bool) -> None:
        for values, value in zip((ids, kind, local, timestep, is_target), (id_, what, place, t, target), strict=True):
            values.append(value)  # type: ignore[attr-defined]

    for t in range(episode.num_timesteps):
        place = 0
        for spec in episode.task.observations:
            if spec.modality is Modality.IMAGE:
                picture = image.resize(spec, episode.observations[spec.name][t][None])[0]
                rows, columns = (n // 16 for n in picture.shape[:2])
                for r in range(rows):
                    for c in range(columns):
                        patches.append(picture[16 * r : 16 * r + 16, 16 * c : 16 * c + 16])
                        boxes.append(
                            [round(128 * r / rows), round(128 * (r + 1) / rows), round(128 * c / columns), round(128 * (c + 1) / columns)]
                        )
                        append(VOCABULARY.image, Kind.PATCH, place, t, False)
                        place += 1
            else:
                for x in episode.observations[spec.name][t]:
                    unit = math.copysign(math.log(abs(x) * 100 + 1) / math.log(256 * 100 + 1), x)
                    append(32000 + min(int((min(max(unit, -1.0), 1.0) + 1) / 2 * 1024), 1023), Kind.CONTINUOUS, place, t, False)
                    place += 1
        append(VOCABULARY.separator, Kind.SEPARATOR, NO_LOCAL, t, False)
        for spec in episode.task.actions:
            for x in np.atleast_1d(episode.actions[spec.name][t]):
                if spec.modality is Modality.CONTINUOUS:
                    append(32000 + min(int((x + 1) / 2 * 1024), 1023), Kind.CONTINUOUS, ACTION_LOCAL, t, True)
                else:
                    append(int(x), Kind.DISCRETE, ACTION_LOCAL, t, True)
    return TokenSequence(
        np.array(ids, np.int32), np.array(kind, np.uint8), np.array(local, np.int16), np.array(timestep, np.int32),
        np.zeros(len(ids), np.int16), np.array(is_target),
        np.stack(patches) if patches else np.zeros((0, 16, 16, 3), np.uint8), np.array(boxes, np.uint8).reshape(-1, 4),
    )  # fmt: skip


def batch_of(windows: list[Episode], context: int, savings: frozenset[str]) -> TokenBatch:
    encode = EpisodeTokenizer(None, VOCABULARY).encode if "array" in savings else tokenise_in_a_loop
    return collate([encode(w).cut(context) for w in windows], context, VOCABULARY.pad)


# -- losses ----------------------------------------------------------------------------------------


def loss_of(model: Gato, batch: TokenBatch, savings: frozenset[str]) -> torch.Tensor:
    """The loss with the named savings; all of them together are what `GatoLearner` computes."""
    embedding = model.embedding
    if "patches" in savings or batch.patch_index[0] == batch.ids.numel():
        embedded = embedding(batch.ids, batch.local_position, batch.patches, batch.patch_boxes, batch.patch_index)
    else:
        embedded = embedding(batch.ids, batch.local_position, *patches_everywhere(batch), torch.arange(batch.ids.numel()))
        is_patch = (batch.ids == model.config.image_token_id)[..., None]
        embedded = torch.where(is_patch, embedded, embedding(batch.ids, batch.local_position, None, None))
    before = batch.target_index - 1
    hidden = model.transformer(embedded, keep=before if "last" in savings else None)
    if "targets" not in savings:
        logits, following = model.score(hidden[:, :-1]).flatten(0, 1), batch.labels[:, 1:].flatten()
        return F.cross_entropy(logits, following, ignore_index=-100, reduction="sum") / batch.denominator
    if "last" not in savings:
        hidden = hidden.flatten(0, 1)[before]
    targets = batch.labels.flatten()[batch.target_index]
    if "fused" not in savings:
        return F.cross_entropy(model.score(hidden), targets, reduction="sum") / batch.denominator
    scale = torch.full((len(targets),), 1 / batch.denominator)
    return weighted_loss(hidden, embedding.tokens.weight, targets, scale, model.config.vocab_size)[0]


def patches_everywhere(batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    patches = torch.zeros(batch.ids.numel(), 16, 16, 3, dtype=torch.uint8)
    boxes = torch.zeros(batch.ids.numel(), 4, dtype=torch.int64)
    patches[batch.patch_index], boxes[batch.patch_index] = batch.patches, batch.patch_boxes
    return patches, boxes


# -- the tables ------------------------------------------------------------------------------------


def make_config(size: str, context: int) -> GatoConfig:
    layers, width, heads = map(int, size.split("x"))
    return GatoConfig(
        num_layers=layers,
        num_heads=heads,
        width=width,
        head_width=width // heads,
        feed_forward=4 * width,
        context_length=context,
        drop_path=0.0,
    )


def gpt2(config: GatoConfig) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.width, n_layer=config.num_layers,
            n_head=config.num_heads, n_inner=config.feed_forward * 3 // 4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=None, eos_token_id=None,
        )
    ).train()  # fmt: skip


def update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def cpu_seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def variants_of(kind: str) -> dict[str, frozenset[str]]:
    names = [name for name in SAVINGS if kind == "images" or name != "patches"]
    switched_on = {SAVINGS[name]: frozenset(names[: i + 1]) for i, name in enumerate(names)}
    return {"one value at a time, everything everywhere": frozenset()} | switched_on


def windows_of(kind: str, context: int, rows: int) -> list[Episode]:
    rng, task = np.random.default_rng(0), tasks()[kind]
    per_step = EpisodeTokenizer(None, VOCABULARY).tokens_per_timestep(task)
    return [window(task, -(-context // per_step), rng) for _ in range(rows)]


def steps_of(kind: str, config: GatoConfig, rows: int) -> tuple[dict[str, Callable[[], None]], float, Gato]:
    """A training step per variant, and how many transitions each learns from."""
    torch.manual_seed(0)
    context = config.context_length
    windows = windows_of(kind, context, rows)
    model = Gato(config).train()
    optimizer = make_optimizer(OptimConfig(), GatoLearner(model).parameter_groups(0.1))
    batch = batch_of(windows, context, frozenset(["array"]))

    def step(savings: frozenset[str]) -> None:
        update(model, optimizer, loss_of(model, batch_of(windows, context, savings), savings))

    steps = {text: lambda s=savings: step(s) for text, savings in variants_of(kind).items()}
    peer = gpt2(config)
    peer_optimizer = make_optimizer(OptimConfig(), [{"params": list(peer.parameters()), "weight_decay": 0.1}])
    base = frozenset(["array"])

    def peer_step() -> None:
        again = batch_of(windows, context, base)
        update(peer, peer_optimizer, peer(input_ids=again.ids, labels=again.labels).loss)

    steps["transformers' GPT-2, tokens array by array"] = peer_step
    actions = sum(spec.size for spec in tasks()[kind].actions)
    return steps, batch.denominator / actions, model


def beyond(kind: str, config: GatoConfig, rows: int) -> dict[str, Callable[[], None]]:
    """Steps with all savings, by other kernels or in another dtype."""
    windows, savings = windows_of(kind, config.context_length, rows), list(variants_of(kind).values())[-1]

    def make(half: bool, compiled: bool) -> Callable[[], None]:
        torch.manual_seed(0)
        model = Gato(config).train()
        optimizer = make_optimizer(OptimConfig(), GatoLearner(model).parameter_groups(0.1))
        if compiled:
            model.transformer.compile_layers()

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = loss_of(model, batch_of(windows, config.context_length, savings), savings)
            update(model, optimizer, loss)

        return step

    return {text: make(*settings) for text, settings in BEYOND.items()}


def check_losses(kind: str, config: GatoConfig) -> None:
    """Asserts that every variant has the loss that training has."""
    model, batch = Gato(config).train(), batch_of(windows_of(kind, config.context_length, 1), config.context_length, frozenset(["array"]))
    with torch.no_grad():
        expected = GatoLearner(model)(batch)[0].item()
        for savings in variants_of(kind).values():
            assert math.isclose(loss_of(model, batch, savings).item(), expected, rel_tol=1e-5), savings


def table(kind: str, options: argparse.Namespace) -> None:
    config = make_config(options.size, options.context)
    check_losses(kind, config)
    steps, transitions, model = steps_of(kind, config, options.rows)
    if options.beyond:
        steps |= beyond(kind, config, options.rows)
    times: dict[str, list[float]] = {text: [] for text in steps}
    for _ in range(options.rounds + 1):
        for text, step in steps.items():
            times[text].append(cpu_seconds(step))
    seconds = {text: statistics.median(t[1:]) for text, t in times.items()}
    base = seconds[SAVINGS["array"]]
    total = sum(p.numel() for p in model.parameters())
    print(
        f"\n{kind}: {total:,} parameters, {options.rows} rows of {options.context}, {transitions:.0f} transitions; {options.rounds} rounds"
    )
    print(
        "| switched on, one after the other | transitions/s | tokens/s | of the vectorised base | lowest - highest seconds |\n"
        + "|---" * 5
        + "|"
    )
    for text, t in seconds.items():
        cells = [f"{transitions / t:,.1f}", f"{options.rows * options.context / t:,.0f}", f"{base / t:.2f}"]
        print(f"| {text} | {' | '.join(cells)} | {min(times[text][1:]):.2f} - {max(times[text][1:]):.2f} |", flush=True)


# -- growth ----------------------------------------------------------------------------------------


def growth(path: Path, options: argparse.Namespace) -> None:
    """Seconds and peak memory of one step on vectors, base and ours, as context, rows and width grow up to those asked for."""
    layers, width, heads = map(int, options.size.split("x"))
    longest, short = options.context, options.context // 4
    rows_axis = f"rows of {short}"
    points = {
        "context": [(options.size, n, 1) for n in (longest // 8, short, longest // 2, longest)],
        rows_axis: [(options.size, short, n) for n in (1, 2, 4)],
        "width": [(f"{layers}x{n}x{heads}", short, 1) for n in (width // 4, width // 2, width)],
    }
    panels = []
    for axis, cases in points.items():
        found: dict[str, list[tuple[float, float, float]]] = {"base": [], "ours": []}
        for size, context, rows in cases:
            steps, _, _ = steps_of("vectors", make_config(size, context), rows)
            x = {"context": context, rows_axis: rows, "width": int(size.split("x")[1])}[axis]
            for name, text in (("base", SAVINGS["array"]), ("ours", SAVINGS["last"])):
                steps[text]()
                before = reset_peak()
                seconds = min(cpu_seconds(steps[text]) for _ in range(options.rounds))
                found[name].append((x, seconds, peak() - before))
                print(f"{axis} {x}: {name} {seconds:.3f} s, {(peak() - before) / 2**20:,.0f} MiB", flush=True)
        panels.append((axis, found))
    path.write_text(chart(panels))


def reset_peak() -> int:
    """Makes the kernel count this process's peak anew, and says where it starts, in bytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def chart(panels: list) -> str:
    """An SVG of two rows of panels, seconds above and MiB below, both axes logarithmic."""
    width, height, colours = 250, 170, {"base": "#999", "ours": "#06c"}
    frame = f'width="{width * len(panels)}" height="{2 * height + 20}" font-family="sans-serif" font-size="11"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {frame}><rect width="100%" height="100%" fill="#fff"/>']
    for column, (axis, found) in enumerate(panels):
        for row, (unit, scale) in enumerate((("s", 1.0), ("MiB", 2**20))):
            curves = {
                name: [(x, values[row] / scale) for x, *values in line if row == 0 or values[1] >= RESOLUTION]
                for name, line in found.items()
            }
            xs, ys = ([math.log(max(p[i], 1e-3)) for line in curves.values() for p in line] for i in (0, 1))

            def place(x: float, y: float, xs: list[float] = xs, ys: list[float] = ys) -> tuple[float, float]:
                across = (math.log(x) - min(xs)) / (max(xs) - min(xs))
                up = (math.log(max(y, 1e-3)) - min(ys)) / (max(ys) - min(ys))
                return 45 + across * (width - 75), height - 40 - up * (height - 75)

            parts.append(f'<g transform="translate({column * width},{row * height + 10})"><text x="45" y="12">{unit} against {axis}</text>')
            for name, line in curves.items():
                places = [place(*p) for p in line]
                spots = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
                parts.append(f'<polyline points="{spots}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
                for (x, y), (tick, value) in zip(places, line, strict=True):
                    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colours[name]}"/>')
                    if name == "ours":
                        parts.append(f'<text x="{x:.1f}" y="{height - 22}" text-anchor="middle">{tick:g}</text>')
                    if (tick, value) == line[-1]:
                        parts.append(
                            f'<text x="{x:.1f}" y="{y - 6:.1f}" text-anchor="end" fill="{colours[name]}">{name} {value:,.3g}</text>'
                        )
            parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4x256x8", help="LAYERSxWIDTHxHEADS")
    parser.add_argument("--kind", nargs="+", default=list(tasks()), choices=list(tasks()))
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beyond", action="store_true", help="also with bf16 and compiled layers, which takes a C++ compiler and a minute")
    parser.add_argument("--growth", type=Path, help="only measure how time and memory grow up to --context and --size, and draw it here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.growth:
        growth(options.growth, options)
        return
    for kind in options.kind:
        table(kind, options)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
