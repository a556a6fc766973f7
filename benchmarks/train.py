"""Tokens per second, MFU and memory of training: ours in every mode, beside transformers' GPT-2 and Llama of equal size.

    python benchmarks/train.py                                        # on a GPU: the whole table, in bf16
    python benchmarks/train.py --size gato-364m-rope --mode compiled  # one line of it
    python benchmarks/train.py --size 2x64x2 --vocabulary 2000 --context 64 --rows 2 --steps 3 --mode eager gpt2   # CPU, seconds
    python benchmarks/train.py --largest                              # what ZeRO-3 with offload still trains

A size is one of `gato-79m`, `gato-364m`, `gato-1b`, their `-rope` twins, or LAYERSxWIDTHxHEADS. Every line is measured in a process of its
own, so that one which runs out of memory leaves the others alone; it is tried again with half of the rows. The modes `eager`,
`compiled`, `checkpointed` (compiled, with layers computed again), `zero1`, `zero2`, `zero3` and `zero3-offload` go through the engines
of `gato pretrain`. `gpt2` and `llama` are an ordinary loop over the same ids and labels, compiled too on a GPU: loss of every
position, AdamW fused, gradients clipped. Llama has the same GEGLU weights, GPT-2 as many feed-forward weights.

MFU counts the operations of gato/train/plan.py, whatever the peers compute beside. Ceilings are the best of ten large matrix
products, and of ten copies within the device's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

SIZES = ("gato-79m-rope", "gato-364m-rope", "gato-1b-rope", "gato-79m", "gato-364m", "gato-1b")
OURS = ("eager", "compiled", "checkpointed", "zero1", "zero2", "zero3", "zero3-offload")
MODES = (*OURS, "gpt2", "llama")
ROWS = {"gato-79m": 64, "gato-364m": 32, "gato-1b": 16}  # of the first try on a GPU
LARGEST = [f"{layers}x3072x24" for layers in (24, 32, 48, 64, 80)]
# What an operation's name holds -> the part of the step it is counted to, the first that fits.
PARTS = {
    "adam": "optimizer", "attention": "attention", "flex": "attention", "mm": "matrix products", "linear": "matrix products",
    "conv": "patches", "group_norm": "patches", "memcpy": "copies", "copy_": "copies", "nccl": "exchange",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=SIZES)
    parser.add_argument("--mode", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, help="at a time; by default as many as fit")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=33027)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--targets", type=float, default=0.25, help="share of the positions")
    parser.add_argument("--patches", type=float, default=0.25, help="share of the positions")
    parser.add_argument("--fp32", action="store_true", help="instead of bf16 on a GPU; the CPU has float32")
    parser.add_argument("--largest", action="store_true", help="only look for the largest model that ZeRO-3 with offload trains")
    parser.add_argument("--out", type=Path, help="also write the lines as JSON")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.size[0], options.mode[0], options)))
    elif options.largest:
        largest(options)
    else:
        table(options)


def table(options: argparse.Namespace) -> None:
    ceiling = ceilings(options)
    print(
        f"{device_name(options)}: {ceiling['matmul'] / 1e12:,.2f} TFLOP/s in matrix products, {ceiling['copy'] / 1e9:,.0f} GB/s in copies\n"
    )
    print(
        "| size | mode | parameters | rows | tokens/s | MFU | of the matmul ceiling | memory, GB | of GPT-2 | of Llama | the step's time |"
    )
    print("|---" * 11 + "|")
    lines = []
    for size in options.size:
        found = {mode: in_a_process(size, mode, options) for mode in options.mode}
        for mode, line in found.items():
            print(describe(size, mode, line, found, ceiling["matmul"], options), flush=True)
            lines.append({"size": size, "mode": mode, **line})
    if options.out:
        options.out.write_text(json.dumps({"device": device_name(options), "ceilings": ceiling, "lines": lines}, indent=1) + "\n")


def describe(size: str, mode: str, line: dict, found: dict[str, dict], ceiling: float, options: argparse.Namespace) -> str:
    if "error" in line:
        return f"| {size} | {mode} | {line['error']} |" + " |" * 8
    from gato.train.plan import peak_flops

    peak = peak_flops(torch.device(options.device))
    ours = mode in OURS
    peers = [found.get(name, {}).get("tokens_per_second") for name in ("gpt2", "llama")]
    cells = [
        size, mode, f"{line['parameters']:,}", str(line["rows"]), f"{line['tokens_per_second']:,.0f}",
        f"{line['flops'] / peak:.1%}" if ours and peak else "-", f"{line['flops'] / ceiling:.1%}" if ours else "-",
        f"{line['memory'] / 1e9:.2f}", *(f"{line['tokens_per_second'] / peer:.2f}" if peer else "-" for peer in peers),
        ", ".join(f"{part} {share:.0%}" for part, share in line["parts"].items()),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def largest(options: argparse.Namespace) -> None:
    """Tries ever deeper models of width 3,072, one row at a time, until one fails."""
    for size in LARGEST:
        line = in_a_process(size, "zero3-offload", argparse.Namespace(**{**vars(options), "rows": options.rows or 1, "steps": 3}))
        print(
            f"{size}: " + (line.get("error") or f"{line['parameters']:,} parameters, {line['tokens_per_second']:,.0f} tokens/s"), flush=True
        )
        if "error" in line:
            break


def in_a_process(size: str, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """The line of one measurement, or its `error`; out of memory halves the rows."""
    rows = options.rows or (ROWS.get(size.removesuffix("-rope"), 4) if options.device == "cuda" else 2)
    names = ("device", "context", "vocabulary", "steps", "targets", "patches")
    while True:
        command = [sys.executable, __file__, "--one", "--size", size, "--mode", mode, "--rows", str(rows)]
        command += [word for name in names for word in (f"--{name}", str(getattr(options, name)))] + (["--fp32"] if options.fp32 else [])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        if "out of memory" not in done.stderr or rows == 1:
            return {"error": last[:200]}
        rows //= 2


# -- one measurement -------------------------------------------------------------------------------


def measure(size: str, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of `steps` updates after three that warm up."""
    from gato.learners.gato import flops_per_update

    torch.manual_seed(0)
    config = model_config(size, options)
    batch = make_batch(config, options)
    step, parameters = (ours if mode in OURS else peer)(config, mode, batch, options)
    for _ in range(3):
        step()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(step, options.device) for _ in range(options.steps))
    tokens = options.rows * options.context
    return {
        "parameters": parameters, "rows": options.rows, "seconds": seconds, "tokens_per_second": tokens / seconds,
        "flops": flops_per_update(config, tokens, int((batch.labels >= 0).sum())) / seconds, "memory": memory(options.device),
        "parts": parts(step, options.device),
    }  # fmt: skip


def model_config(size: str, options: argparse.Namespace) -> Any:
    from gato.config import GatoConfig, preset

    v = options.vocabulary
    ids = {"vocab_size": v, "continuous_start": v - 1027, "image_token_id": v - 1, "pad_token_id": v - 2, "context_length": options.context}
    if size.startswith("gato"):
        config = preset(size)
    else:
        layers, width, heads = map(int, size.split("x"))
        config = GatoConfig(num_layers=layers, num_heads=heads, width=width, head_width=width // heads, feed_forward=4 * width)
    for name, value in ids.items():
        setattr(config, name, value)
    return config


def make_batch(config: Any, options: argparse.Namespace) -> Any:
    """Random rows, the first positions of each being patches, the others targets with the probability that gives the share."""
    import numpy as np

    from gato.batch import ACTION_LOCAL, Kind, TokenSequence, collate

    rng, length = np.random.default_rng(0), options.context
    n = round(options.patches * length)
    rows = []
    for _ in range(options.rows):
        ids = rng.integers(0, config.continuous_start, length, dtype=np.int32)
        ids[:n] = config.image_token_id
        kind = np.where(np.arange(length) < n, Kind.PATCH, Kind.CONTINUOUS).astype(np.uint8)
        is_target = (np.arange(length) >= n) & (rng.random(length) < options.targets / (1 - options.patches))
        local = np.where(is_target, ACTION_LOCAL, np.arange(length) % 64).astype(np.int16)
        rows.append(
            TokenSequence(
                ids, kind, local, np.zeros(length, np.int32), np.zeros(length, np.int16), is_target,
                rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8), rng.integers(0, 128, (n, 4), dtype=np.uint8),
            )
        )  # fmt: skip
    noise = rng.random((options.rows, 2 * config.num_layers))
    return collate(rows, length, config.pad_token_id, depth_noise=noise)


def ours(config: Any, mode: str, batch: Any, options: argparse.Namespace) -> tuple[Callable[[], Any], int]:
    """A step through the engines of `gato pretrain`."""
    from gato.learners.gato import GatoLearner
    from gato.model import Gato
    from gato.train.engine import PlainEngine
    from gato.train.optim import make_optimizer
    from gato.train.pretrain import make_accelerator
    from gato.train.recipe import OptimConfig, PretrainConfig, TrainConfig

    zero = mode if mode.startswith("zero") else None
    precision = "bf16" if options.device == "cuda" and not options.fp32 else "fp32"
    train = TrainConfig(device=options.device, batch_size=options.rows, precision=precision, deepspeed=zero)
    accelerator = make_accelerator(PretrainConfig(train=train))
    learner = GatoLearner(Gato(config)).to(accelerator.device).train()
    parameters = sum(p.numel() for p in learner.parameters())
    if mode == "checkpointed":
        learner.model.recompute_layers()
    if mode in ("compiled", "checkpointed") or (zero in ("zero1", "zero2") and options.device == "cuda"):
        learner.model.transformer.compile_layers()
    optimizer = make_optimizer(OptimConfig(), learner.parameter_groups(0.1))
    if zero:
        from gato.train.zero import ZeroEngine

        engine: Any = ZeroEngine(learner, optimizer, accelerator, lambda: batch)
    else:
        engine = PlainEngine(learner, optimizer, accelerator, 1.0)
    if options.device == "cuda":
        batch = batch.pin_memory()
    batch = replace(batch, denominator=float(batch.denominator))

    def step() -> None:
        engine.accumulate(batch.to(engine.device), is_last=True)
        engine.step(1e-4)

    return step, parameters


def peer(config: Any, mode: str, batch: Any, options: argparse.Namespace) -> tuple[Callable[[], Any], int]:
    """transformers' model of the same layers, width, heads and vocabulary in an ordinary loop."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if mode == "gpt2":
        model: Any = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=config.vocab_size, n_positions=options.context, n_embd=config.width, n_layer=config.num_layers,
                n_head=config.num_heads, n_inner=config.feed_forward * 3 // 4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab_size, hidden_size=config.width, num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.feed_forward // 2, max_position_embeddings=options.context, tie_word_embeddings=True,
                head_dim=config.head_width,
            )
        )  # fmt: skip
    model = model.to(options.device).train()
    run = torch.compile(model) if options.device == "cuda" else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids, labels = batch.ids.to(options.device), batch.labels.to(options.device)

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.device == "cuda" and not options.fp32):
            loss = run(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, sum(p.numel() for p in model.parameters())


# -- clocks ----------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds on the wall on a GPU; on the CPU those of this process, which a busy machine changes less."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def parts(step: Callable[[], Any], device: str) -> dict[str, float]:
    """Shares of one step's time by kind of operation, the device's own time where it has one; idle time is not in it."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities) as seen:
        step()
        if device == "cuda":
            torch.cuda.synchronize()
    clock = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times: dict[str, float] = {}
    for event in seen.key_averages():
        part = next((part for name, part in PARTS.items() if name in event.key.lower()), "the rest")
        times[part] = times.get(part, 0.0) + getattr(event, clock)
    whole = sum(times.values())
    return {part: t / whole for part, t in sorted(times.items(), key=lambda item: -item[1]) if t > 0.005 * whole}


def memory(device: str) -> int:
    """Peak bytes: of the GPU's allocator, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ceilings(options: argparse.Namespace) -> dict[str, float]:
    """Operations per second of a matrix product in the precision used, and bytes per second read and written by a copy."""
    on_gpu = options.device == "cuda"
    n, dtype = (8192, torch.float32 if options.fp32 else torch.bfloat16) if on_gpu else (1024, torch.float32)
    matrix = torch.randn(n, n, device=options.device, dtype=dtype)
    source = torch.empty(2**30 if on_gpu else 2**26, dtype=torch.uint8, device=options.device)
    target = torch.empty_like(source)
    product = min(timed(lambda: matrix @ matrix, options.device) for _ in range(10))
    copy = min(timed(lambda: target.copy_(source), options.device) for _ in range(10))
    return {"matmul": 2 * n**3 / product, "copy": 2 * source.numel() / copy}


def device_name(options: argparse.Namespace) -> str:
    return torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads of {os.cpu_count()}"


if __name__ == "__main__":
    main()
