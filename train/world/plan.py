"""What a run of a world model costs, by counting on the meta device: parameters, operations, timesteps, memory. Nothing is played."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gato import envs
from gato.learners.world.learner import Dreamer
from gato.learners.world.pictures import scene_of

from ..plan import PEAK_FLOPS
from .recipe import WorldRecipe

GPU, SHARE = "H200", 0.02  # small networks in float32: so much of a GPU's bf16 operations is assumed, and not measured
LAUNCHED = 60  # kernels of a timestep of imagination, beside those of a layer of the transformer
PER_LAYER, KERNEL_SECONDS = 25, 8e-6  # kernels of a layer and a timestep, and how long it takes to start one; an assumption too
DRAW_SECONDS = 4e-9  # of a random number, which the host draws
PRODUCT = 1024  # rows of the matrices whose product says how fast this machine is


def plan(config: WorldRecipe) -> dict[str, Any]:
    """**Raises:** `ValueError` for a recipe that makes no sense, or that reads a store."""
    config.check()
    if config.is_offline or config.train.steps is None:
        raise ValueError("--dry-run plans a world model that plays; name env.task and env.frames")
    task, dream = envs.task(str(config.env.task)), config.dream
    scene = scene_of(task, config.model)
    with torch.device("meta"):
        model = Dreamer(scene, config.model)
    windows = config.train.batch_size * dream.window
    streams = config.train.batch_size * dream.starts
    flops = _flops(model, windows, streams, dream.window, dream.horizon)
    updates, alone = config.train.steps, min(config.train.steps, config.env.first_updates)
    total = alone * flops["windows"] + (updates - alone) * sum(flops.values())
    kernels = dream.horizon * (LAUNCHED + PER_LAYER * config.model.num_layers)
    drawn = streams * dream.horizon * (config.model.outcomes + scene.size + scene.choices.num_outputs + 1)
    drawn += 0 if model.eye is None else config.train.batch_size * (dream.window + 1) * scene.size
    device = "cuda" if torch.cuda.is_available() else "cpu"
    computed, started = total / (PEAK_FLOPS[GPU] * SHARE), (updates - alone) * kernels * KERNEL_SECONDS
    return {
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
        "frames": config.env.frames, "updates": updates,
        "timesteps_per_update": {"windows": windows, "imagined": streams * dream.horizon},
        "flops_per_update": flops, "flops": total,
        "stored_bytes": (config.env.frames or 0) * math.prod(scene.shape),  # of a store that is there nothing is added
        "hours": {
            "computing": computed / 3600, "starting kernels": started / 3600, "drawing": (updates - alone) * drawn * DRAW_SECONDS / 3600,
        },
        "here": {"device": device, "flops_per_second": (speed := _speed(device)), "hours": total / speed / 3600},
    }  # fmt: skip


def _speed(device: str) -> float:
    """Operations a second of a float32 product of two square matrices, the best of three."""
    square = torch.ones(PRODUCT, PRODUCT, device=device)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        float((square @ square)[0, 0])  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    return 2 * PRODUCT**3 / min(seconds)


def _flops(model: Dreamer, windows: int, streams: int, window: int, horizon: int) -> dict[str, float]:
    """Of an update: of the windows, forward and backward; of imagination, forward alone; of actor and critic on what was imagined."""
    scene, world = model.scene, model.world

    def counted(call: Any) -> float:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            call()
        return float(counter.get_total_flops())

    def codes(n: int) -> torch.Tensor:
        return torch.zeros(n, *scene.codes)

    def acts(n: int) -> torch.Tensor:
        return torch.zeros(n, scene.choices.size)

    def tokens(n: int) -> torch.Tensor:
        return world.embed(codes(n)[:, None], acts(n)[:, None], torch.zeros(n, 1))

    seen = 0.0
    if model.eye is not None:
        eye = model.eye
        stacks = (windows + windows // window, scene.stack, *scene.shape)
        seen = counted(lambda: eye.decode(eye.encode(torch.zeros(stacks, dtype=torch.uint8))))
    passed = counted(lambda: world.transformer(tokens(windows // window * window).view(windows // window, -1, world.config.width)))
    ahead = counted(lambda: world.predict(torch.zeros(windows, world.config.width), codes(windows), acts(windows)))
    step = counted(lambda: world.transformer(tokens(streams).flatten(1, 2)))
    step += counted(lambda: world.predict(torch.zeros(streams, world.config.width), codes(streams), acts(streams)))
    step += counted(lambda: model.policy.actor(codes(streams).flatten(1)))
    learned = counted(lambda: model.policy(codes(streams * (horizon + 1))))
    return {"windows": 3 * (seen + passed + ahead), "imagination": horizon * step, "actor and critic": 3 * learned}


def describe(content: dict[str, Any]) -> str:
    """The plan as text."""
    parts = ", ".join(f"{name} {count:,}" for name, count in content["parameters"].items())
    flops = ", ".join(f"{name} {value:.3g}" for name, value in content["flops_per_update"].items())
    hours, timesteps, here = content["hours"], content["timesteps_per_update"], content["here"]
    return "\n".join(
        [
            f"{sum(content['parameters'].values()):,} parameters ({parts})",
            f"{content['frames']:,} frames, {content['updates']:,} updates of {timesteps['windows']:,} timesteps of windows and "
            f"{timesteps['imagined']:,} imagined ones",
            f"floating-point operations of an update: {flops}; {content['flops']:.3g} in all",
            f"{content['stored_bytes'] / 1e9:.2f} GB of what was seen, on the host",
            f"one {GPU}, by assumption and not by measurement: {hours['computing']:.1f} h of computing at {SHARE:.0%} of its bf16 "
            f"operations, {hours['starting kernels']:.1f} h of starting the kernels of imagination ({KERNEL_SECONDS * 1e6:.0f} us each), "
            f"{hours['drawing']:.1f} h of drawing random numbers on the host",
            f"this machine's {here['device']}, measured just now at {here['flops_per_second'] / 1e9:.0f} GFLOP/s in a product of matrices: "
            f"at least {here['hours']:.1f} h of computing; small operations and playing come on top",
        ]
    )
