"""The devices of a run, and the exchange between its ranks: accelerate, with DeepSpeed where the recipe asks for it."""

from __future__ import annotations

import os
import statistics
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, LoggerType

from gato.device import pick_device
from gato.disk import read_json
from gato.layers.transformer import Transformer

from .ranks import say, world_size
from .recipe import OptimConfig, TrainConfig

WORTH = 1.2  # times that bf16 must be as fast in a layer, since what is around the layers gains less


def set_up_torch(config: TrainConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def settled_precision(folder: Path, settings: TrainConfig) -> str:
    """The precision of a run, where it is to be the fastest: on a CPU what a probe says at its first start and its folder
    records, elsewhere that of `auto`.

    **Raises:** `ValueError` for several ranks, whose probes might differ.
    """
    if settings.precision != "fastest":
        return settings.precision
    if pick_device(settings.device, "--train.device") != "cpu":
        return "auto"
    recorded = folder / "run.json"
    if recorded.is_file() and (known := read_json(recorded).get("train", {}).get("precision")):
        return known
    if world_size() > 1:
        raise ValueError(f"train.precision is fastest, which {world_size()} ranks might answer differently; give bf16 or fp32")
    ratio = seconds_of_a_layer(torch.float32) / seconds_of_a_layer(torch.bfloat16)
    found = "bf16" if ratio >= WORTH else "fp32"
    say(f"precision {found}: bf16 computes a layer {ratio:.2f} times as fast as fp32 here")
    return found


def seconds_of_a_layer(dtype: torch.dtype, repeats: int = 5) -> float:
    """The median time of forward and backward of a layer 256 wide over 512 tokens on the CPU."""
    with torch.random.fork_rng(devices=[]):
        layer, x = Transformer(1, 8, 256, 32, 1024), torch.randn(2, 256, 256)
    times = []
    for _ in range(repeats + 1):
        started = time.thread_time()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = layer(x)
        out.float().square().mean().backward()
        times.append(time.thread_time() - started)
    return statistics.median(times[1:])


def make_accelerator(optim: OptimConfig, settings: TrainConfig) -> Accelerator:
    """The devices and the exchange between ranks; with DeepSpeed where the recipe asks for it.

    **Raises:** `ValueError` if accelerate understood the processes differently from what was asked for, or knows no such
    tracker; `ImportError` for one that is not installed.
    """
    _check_tracker(settings.report_to)
    device = pick_device(settings.device, "--train.device")
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "no"
    precision = {"fp32": "no"}.get(precision, precision)
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where installed, warns that it found no GPU
    common: dict[str, Any] = {"mixed_precision": precision, "log_with": settings.report_to}
    common["project_dir"] = str(Path("runs") / settings.name)
    if world_size() > 1 or settings.deepspeed is not None:
        backend = "nccl" if device.startswith("cuda") else "gloo"
        common["kwargs_handlers"] = [InitProcessGroupKwargs(backend=backend, timeout=timedelta(seconds=settings.timeout))]
    if world_size() == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # else a process keeps the device and precision of its first run
    if settings.deepspeed is None:
        accelerator = Accelerator(cpu=device == "cpu", **common)
    else:
        from . import zero

        accelerator = zero.make_accelerator(optim, settings, precision, common)
    if accelerator.num_processes != world_size():
        raise ValueError(
            f"accelerate sees {accelerator.num_processes} ranks, but WORLD_SIZE is {world_size()}; start with gato or torchrun"
        )
    if accelerator.device.type != device.split(":")[0]:
        raise ValueError(f"accelerate took the device '{accelerator.device}' where '{device}' was asked for; unset its environment")
    if settings.deepspeed is None and accelerator.distributed_type == "DEEPSPEED":
        raise ValueError("accelerate was told to use DeepSpeed, but the recipe was not; name train.deepspeed instead, for example zero1")
    return accelerator


def _check_tracker(name: str | None) -> None:
    """accelerate would go without one that is not installed."""
    known = [str(tracker) for tracker in LoggerType]
    if name is not None and name not in known:
        raise ValueError(f"train.report_to is '{name}'; known are {', '.join(known)}")
    if name not in (None, "all", *map(str, get_available_trackers())):
        raise ImportError(f"train.report_to is '{name}', which is not installed; pip install {name}")
