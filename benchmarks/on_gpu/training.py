"""Tokens per second, MFU and memory of training: ours in every mode, and transformers' peers.

A size is one of `gato-79m`, `gato-364m`, `gato-1b`, their `-rope` twins, or LAYERSxWIDTHxHEADS. The
modes `eager`, `compiled`, `checkpointed` (compiled, with layers computed again), `muon` (compiled),
`zero1`, `zero2`, `zero3` and `zero3-offload` go through the engines of `gato pretrain`. `gpt2` and `llama` are an
ordinary loop over the same ids and labels, their layers compiled too on a GPU: loss of every
position, AdamW fused, gradients clipped. Llama has the same GEGLU weights, GPT-2 as many
feed-forward weights.

MFU counts the operations of `gato.learners.gato.flops_per_update`, whatever the peers compute
beside. Ceilings are the best of ten large matrix products, and of ten copies within the device's
memory.
"""

from __future__ import annotations

import gc
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gato.batch import ACTION_LOCAL, Kind, TokenBatch, TokenSequence, collate
from gato.config import GatoConfig, preset
from gato.learners.gato import GatoLearner, flops_per_update
from gato.model import Gato
from gato.train.devices import make_accelerator
from gato.train.engine import Engine, PlainEngine
from gato.train.optim import make_optimizer
from gato.train.plan import peak_flops
from gato.train.recipe import OptimConfig, TrainConfig

from .worker import Options, Report

COMPILED = ("compiled", "checkpointed", "muon")
OURS = ("eager", *COMPILED, "zero1", "zero2", "zero3", "zero3-offload")
ROWS = {  # of the first try on a GPU; transformer_xl holds the scores of all pairs
    "gato-79m-rope": 128, "gato-364m-rope": 64, "gato-1b-rope": 32, "gato-79m": 32,
    "gato-364m": 16, "gato-1b": 8,
}  # fmt: skip
# What an operation's or a kernel's name holds -> the part of the step it is counted to, the first
# that fits.
PARTS = {
    "triton_poi": "compiled elementwise", "triton_red": "compiled elementwise",
    "triton_per": "compiled elementwise", "adam": "optimizer", "attention": "attention",
    "flex": "attention", "flash": "attention",
    "fmha": "attention", "mm": "matrix products", "linear": "matrix products",
    "nvjet": "matrix products", "cutlass": "matrix products", "conv": "patches",
    "group_norm": "patches", "memcpy": "copies", "copy_": "copies", "nccl": "exchange",
}  # fmt: skip
TOP = 40  # kernels that are named
ROUNDS = 3


@dataclass(frozen=True)
class Load:
    """What a step is given: `targets` and `patches` are shares of the positions."""

    device: str
    rows: int
    context: int = 1024
    vocabulary: int = 33027
    steps: int = 2  # updates timed together
    parts: int = 4  # micro-batches of an update
    targets: float = 0.25
    patches: float = 0.25
    fp32: bool = False  # instead of bf16 on a GPU; the CPU has float32


TOY = Load("cpu", rows=2, context=64, vocabulary=2000, steps=1, parts=2)


def load_of(options: Options, size: str) -> Load:
    if options.toy:
        return replace(TOY, device=options.device)
    return Load(options.device, ROWS.get(size, 4))


# -- parts -----------------------------------------------------------------------------------------


def ceilings(options: Options, report: Report) -> None:
    """Operations per second of a matrix product in the precision used, and bytes per second read
    and written by a copy."""
    device, is_big = options.device, options.device == "cuda"
    n, dtype = (8192, torch.bfloat16) if is_big else (256, torch.float32)
    matrix = torch.randn(n, n, device=device, dtype=dtype)
    source = torch.empty(2**30 if is_big else 2**22, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = min(timed(lambda: matrix @ matrix, device) for _ in range(10))
    copy = min(timed(lambda: target.copy_(source), device) for _ in range(10))
    report(
        device_name(device), matmul=2 * n**3 / product, copy=2 * source.numel() / copy,
        peak=peak_flops(torch.device(device)),
    )  # fmt: skip


def line(options: Options, report: Report, size: str, mode: str) -> None:
    """One line of the table; out of memory halves the rows."""
    load = load_of(options, size)
    if options.toy and size.startswith("gato"):
        size = "2x64x2" + ("" if size.endswith("-rope") else "-xl")
    found = halving(load, lambda smaller: measure(size, mode, smaller))
    peak = peak_flops(torch.device(options.device)) if mode in OURS else None
    report(f"{size} {mode}", size=size, mode=mode, mfu=peak and found["flops"] / peak, **found)


def largest(options: Options, report: Report, size: str) -> None:
    """Whether ZeRO-3 with offload trains a model of this size, one row at a time."""
    load = replace(load_of(options, size), rows=1, steps=1, parts=1)
    found = measure("3x64x2" if options.toy else size, "zero3-offload", load)
    names = ("parameters", "tokens_per_second", "memory")
    report(f"{size} zero3-offload", **{name: found[name] for name in names})


def halving(load: Load, work: Callable[[Load], dict[str, Any]]) -> dict[str, Any]:
    while True:
        try:
            return work(load)
        except torch.OutOfMemoryError:
            if load.rows == 1:
                raise
        load = replace(load, rows=load.rows // 2)
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()


# -- one measurement -------------------------------------------------------------------------------


def measure(size: str, mode: str, load: Load) -> dict[str, Any]:
    """The median of some rounds of `steps` updates, after two that warm up."""
    torch.manual_seed(0)
    config = model_config(size, load)
    batch = make_batch(config, load)
    step, parameters = (ours if mode in OURS else peer)(config, mode, batch, load)
    targets = int((batch.labels >= 0).sum())
    return {"parameters": parameters, **pace(step, load, config, targets)}


def pace(step: Callable[[], Any], load: Load, config: GatoConfig, targets: int) -> dict[str, Any]:
    """How fast and in how much memory `step` computes `load`, and what it spends its time on."""
    for _ in range(2):
        step()
    if load.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    rounds = (timed(lambda: [step() for _ in range(load.steps)], load.device) for _ in range(ROUNDS))
    seconds = statistics.median(rounds) / load.steps
    tokens, targets = load.parts * load.rows * load.context, load.parts * targets
    return {
        "rows": f"{load.parts} x {load.rows}", "seconds": seconds, "tokens_per_second": tokens / seconds,
        "flops": flops_per_update(config, tokens, targets) / seconds,
        "memory": memory(load.device), **profiled(step, load.device, seconds),
    }  # fmt: skip


def model_config(size: str, load: Load) -> GatoConfig:
    v = load.vocabulary
    ids = {
        "vocab_size": v, "continuous_start": v - 1027, "image_token_id": v - 1,
        "pad_token_id": v - 2, "context_length": load.context,
    }  # fmt: skip
    if size.startswith("gato"):
        config = preset(size)
    else:
        layers, width, heads = map(int, size.removesuffix("-xl").split("x"))
        config = GatoConfig(
            num_layers=layers, num_heads=heads, width=width, head_width=width // heads,
            feed_forward=4 * width, positions="transformer_xl" if size.endswith("-xl") else "rope",
        )  # fmt: skip
    for name, value in ids.items():
        setattr(config, name, value)
    return config


def make_batch(config: GatoConfig, load: Load) -> TokenBatch:
    """Random rows, the first positions of each being patches, the others targets with the
    probability that gives the share."""
    rng, length = np.random.default_rng(0), load.context
    n = round(load.patches * length)
    rows = []
    for _ in range(load.rows):
        ids = rng.integers(0, config.continuous_start, length, dtype=np.int32)
        ids[:n] = config.image_token_id
        place = np.arange(length)
        is_target = (place >= n) & (rng.random(length) < load.targets / (1 - load.patches))
        rows.append(
            TokenSequence(
                ids=ids, is_target=is_target, timestep=np.zeros(length, np.int32),
                kind=np.where(place < n, Kind.PATCH, Kind.CONTINUOUS).astype(np.uint8),
                local_position=np.where(is_target, ACTION_LOCAL, place % 64).astype(np.int32),
                document=np.zeros(length, np.int16),
                patches=rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8),
                patch_boxes=rng.integers(0, 128, (n, 4), dtype=np.uint8),
            )
        )  # fmt: skip
    noise = rng.random((load.rows, 2 * config.num_layers))
    return collate(rows, length, config.pad_token_id or 0, depth_noise=noise)


Step = Callable[[], Any]


def ours(config: GatoConfig, mode: str, batch: TokenBatch, load: Load) -> tuple[Step, int]:
    """A step through the engines of `gato pretrain`, and the number of parameters."""
    zero = mode if mode.startswith("zero") else None
    with torch.device(load.device):  # where weights are drawn faster
        learner = GatoLearner(Gato(config)).train()
    parameters = sum(p.numel() for p in learner.parameters())
    if mode == "checkpointed":
        learner.model.recompute_layers()
    on_gpu = load.device == "cuda"
    if mode in COMPILED or (zero in ("zero1", "zero2") and on_gpu):
        compile_layers(learner.model.transformer.layers, load)
    optim = OptimConfig(muon=1.0 if mode == "muon" else None)
    engine = engine_of(learner, batch, load.device, on_gpu and not load.fp32, zero, optim)
    if on_gpu:
        batch = batch.pin_memory()
    batch = replace(batch, denominator=load.parts * float(batch.denominator))
    updates = itertools.count()

    def step() -> None:  # as the loop does, which reads the device once
        for part in range(load.parts):
            engine.accumulate(batch.to(engine.device), is_last=part == load.parts - 1)
        update = next(updates)
        norm = engine.clip(update)
        engine.step(1e-4, update, 0.0 if norm is None else float(norm))

    return step, parameters


def engine_of(
    learner: GatoLearner,
    batch: TokenBatch,
    device: str,
    is_bf16: bool,
    zero: str | None,
    optim: OptimConfig | None = None,
) -> Engine:
    """What computes the updates of a run with these settings; `batch` is the global one."""
    train = TrainConfig(
        device=device, batch_size=len(batch), precision="bf16" if is_bf16 else "fp32",
        deepspeed=zero,
    )  # fmt: skip
    optim = optim or OptimConfig()
    accelerator = make_accelerator(optim, train)
    optimizer = make_optimizer(optim, learner.to(accelerator.device).parameter_groups(0.1))
    if zero is None:
        return PlainEngine(learner, optimizer, accelerator, 1.0)
    from gato.train.zero import ZeroEngine

    return ZeroEngine(learner, optimizer, accelerator, lambda: batch)


def compile_layers(layers: Iterable[torch.nn.Module], load: Load) -> None:
    """On a GPU with kernels. Making those for a CPU takes a minute and tells nothing here."""
    for layer in layers:
        layer.compile(backend="inductor" if load.device == "cuda" else "aot_eager")


def peer(config: GatoConfig, mode: str, batch: TokenBatch, load: Load) -> tuple[Step, int]:
    """transformers' model of the same layers, width, heads and vocabulary in an ordinary loop."""
    with torch.device(load.device):
        model = (gpt2 if mode == "gpt2" else llama)(config, load.context).train()
    if load.device == "cuda":
        compile_layers(model.transformer.h if mode == "gpt2" else model.model.layers, load)
    settings: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizer = torch.optim.AdamW(model.parameters(), **settings, fused=True)
    ids, labels = batch.ids.to(load.device), batch.labels.to(load.device)
    is_bf16 = load.device == "cuda" and not load.fp32

    def step() -> None:
        for _ in range(load.parts):
            with torch.autocast(load.device, torch.bfloat16, enabled=is_bf16):
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            (loss / load.parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, sum(p.numel() for p in model.parameters())


def gpt2(config: GatoConfig, context: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size, n_positions=context, n_embd=config.width,
            n_layer=config.num_layers, n_head=config.num_heads,
            n_inner=config.feed_forward * 3 // 4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def llama(config: GatoConfig, context: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.width,
            num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
            intermediate_size=config.feed_forward // 2, max_position_embeddings=context,
            tie_word_embeddings=True, head_dim=config.head_width,
        )
    )  # fmt: skip


# -- clocks ----------------------------------------------------------------------------------------


def timed(work: Step, device: str) -> float:
    """Seconds on the wall on a GPU; on the CPU those of this process, which a busy machine changes
    less."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def profiled(step: Step, device: str, seconds: float) -> dict[str, Any]:
    """Where one step's time goes.

    **Returns:** `parts`: shares by kind of operation; `kernels`: the longest, with their shares.
    On a GPU both are shares of the kernels' time, and `gaps` is the share of `seconds`, a step's
    time, in which no kernel ran.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as seen:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in seen.key_averages():
        is_kernel = event.device_type == DeviceType.CUDA
        if is_kernel == on_gpu and not event.is_user_annotation:
            spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            times[event.key] = times.get(event.key, 0.0) + spent
    whole, shares = sum(times.values()), dict.fromkeys([*PARTS.values(), "the rest"], 0.0)
    for key, spent in times.items():
        part = next((p for name, p in PARTS.items() if name in key.lower()), "the rest")
        shares[part] += spent / whole
    top = sorted(times, key=lambda key: -times[key])[:TOP]
    found: dict[str, Any] = {
        "parts": {p: s for p, s in sorted(shares.items(), key=lambda x: -x[1]) if s > 0.005},
        "kernels": {key[:200]: times[key] / whole for key in top},
    }  # fmt: skip
    return found | ({"gaps": 1 - whole / 1e6 / seconds} if on_gpu else {})


def memory(device: str) -> int:
    """Peak bytes: of the GPU's allocator, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads of {os.cpu_count()}"
