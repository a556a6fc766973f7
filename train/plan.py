"""What a run costs, by arithmetic: memory of a rank, split of the batch, bytes exchanged, floating-point operations.

Nothing is started and no store is opened: the parameters are counted on the meta device. What is estimated says so;
`benchmarks/scaling.py` sets these formulas against what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gato.layers.head import CHUNK
from gato.learners.gato import flops_per_update
from gato.model import Gato, GatoConfig
from gato.spec import PATCH_SIZE

from .ranks import check_rows

# Dense bf16 operations a second, by the makers' data sheets; the longer name first where one contains the other.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12}
ADAM_BYTES = 8  # two float32 moments per parameter


PLACE_BYTES = 5 * 8  # ids, kind, local position, document and label of a place, int64 each
PATCH_BYTES = PATCH_SIZE * PATCH_SIZE * 3 + 4 * 8 + 8  # pixels, box, place
TARGET_SHARE = 0.25  # of a mixture of text and control; `gato data inspect` prints that of a recipe


@dataclass(frozen=True)
class Cluster:
    """Rates of a machine by the makers' data sheets, an H200 in nodes of eight by default; `mfu` is an assumption.

    - `peak`: operations a second of a GPU; `mfu`: the share of them that a rank reaches while it computes.
    - `inside`: bytes a second that a GPU sends to others of its node.
    - `between`: bytes a second that the network cards of one node send together (eight of 400 Gbit/s).
    - `node`: GPUs of a node.
    """

    peak: float = PEAK_FLOPS["H200"]
    mfu: float = 0.5
    inside: float = 450e9
    between: float = 400e9
    node: int = 8


def planned_seconds(content: dict[str, Any], cluster: Cluster) -> dict[str, float]:
    """How long an update of `plan` takes: computing and exchanging, beside each other (`shortest`) or one after the other (`longest`).

    A ring through several nodes uses all cards of a node at once, each for its part of the data, so that a rank sends at the
    smaller of both rates. Latency, waiting for the slowest rank, and data loading are left out.
    """
    rate = cluster.inside if content["ranks"] <= cluster.node else min(cluster.inside, cluster.between)
    compute = content["flops_per_update"] / content["ranks"] / (cluster.peak * cluster.mfu)
    exchange = content["sent_bytes"]["total"] / rate
    return {"compute": compute, "exchange": exchange, "shortest": max(compute, exchange), "longest": compute + exchange}


def peak_flops(device: torch.device) -> float | None:
    """Of a known GPU; `None` where nobody wrote it down."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)


def count(config: GatoConfig) -> dict[str, int]:
    """Parameters by part and in total, without making any."""
    with torch.device("meta"):
        return Gato(config).count_parameters()


def plan(config: GatoConfig, batch_size: int, micro_batch_size: int, ranks: int, stage: int, offload: bool, bf16: bool) -> dict[str, Any]:
    """A run on `ranks` ranks with ZeRO `stage` (0: DistributedDataParallel) without the processes.

    **Returns:** bytes of a rank by kind, rows and micro-batches of a rank, bytes that a rank sends, and loads, in an update.

    **Raises:** `ValueError` if the batch cannot be split so.
    """
    check_rows(batch_size, ranks)
    counts = count(config)
    parameters = counts["total"]
    rows = batch_size // ranks
    micro = min(micro_batch_size or rows, rows)
    half = bf16 and stage > 0  # DeepSpeed keeps bf16 weights beside float32 masters; otherwise autocast works on float32
    width = 2 if half else 4
    share = [1 if stage < n else ranks for n in (1, 2, 3)]  # into how many parts optimizer, gradients, weights are cut
    memory = {
        "weights": width * -(-parameters // share[2]),
        "gradients": width * -(-parameters // share[1]),
        "masters": 4 * -(-parameters // share[0]) if stage else 0,
        "bf16 copies": 2 * parameters if bf16 and not half else 0,  # that autocast makes of float32 weights
        "moments": ADAM_BYTES * -(-parameters // share[0]),
        "activations (estimate)": _activations(config, micro, 2 if bf16 else 4),
        "logits (estimate)": _logits(config, micro, 2 if bf16 else 4),
    }
    host = memory.pop("masters") + memory.pop("moments") if offload else 0
    memory = {kind: size for kind, size in memory.items() if size}
    return {
        "parameters": counts, "ranks": ranks, "zero_stage": stage,
        "rows_per_rank": rows, "rows_at_a_time": micro, "micro_batches": -(-rows // micro),
        "tokens_per_update": batch_size * config.context_length,
        "device_bytes": memory | {"total": sum(memory.values())}, "host_bytes": host,
        "loaded_bytes": rows * config.context_length * PLACE_BYTES,
        "loaded_bytes_per_patch": PATCH_BYTES,
        "sent_bytes": _sent(parameters, ranks, stage, -(-rows // micro), width),
        "flops_per_update": flops_per_update(
            config, batch_size * config.context_length, round(TARGET_SHARE * batch_size * config.context_length)
        ),
    }  # fmt: skip


def _activations(config: GatoConfig, rows: int, width: int) -> int:
    """What backward needs: per token and layer inputs of norms and projections, q, k, v, GEGLU; and the gradient that the head makes."""
    tokens, targets = rows * config.context_length, round(TARGET_SHARE * rows * config.context_length)
    inner = config.num_heads * config.head_width
    before, behind = 2 * config.width + 4 * inner, inner + 2 * config.width + 2 * config.feed_forward  # the end of attention
    if config.positions == "transformer_xl":
        before += config.num_heads * config.context_length * 2  # scores by distance and their mask
    values = tokens * (config.num_layers * (before + behind) - behind) + targets * (behind + 2 * config.width)
    return (values + config.table_rows * config.width) * width


def _logits(config: GatoConfig, rows: int, width: int) -> int:
    """One chunk of the head; in bf16 also as float32, and as odds."""
    targets = round(TARGET_SHARE * rows * config.context_length)
    return min(targets, CHUNK) * config.table_rows * (4 if width == 4 else 8)


def _sent(parameters: int, ranks: int, stage: int, micro_batches: int, width: int) -> dict[str, int]:
    """Bytes a rank sends in an update, by ring algorithms: each passes on (N - 1) / N of what is reduced or gathered.

    An all-reduce is a reduce-scatter and an all-gather. Stage 1 and 2 reduce gradients (stage 2 after every micro-batch) and
    gather the new weights once; stage 3 gathers the weights for each forward and each backward instead.
    """
    once = int(parameters * width * (ranks - 1) / ranks)
    gathered = {0: once, 1: once, 2: once, 3: 2 * once * micro_batches}[stage]
    reduced = once * (micro_batches if stage >= 2 else 1)
    return {"reduce": reduced, "gather": gathered, "total": reduced + gathered}


def describe(content: dict[str, Any]) -> str:
    """The plan as a page of text."""
    gigabytes = 1e9
    memory = [f"  {kind:24}{size / gigabytes:>12.3f} GB" for kind, size in content["device_bytes"].items()]
    if content["host_bytes"]:
        memory.append(f"  {'on the host':24}{content['host_bytes'] / gigabytes:>12.3f} GB")
    sent = [f"  {kind:24}{size / gigabytes:>12.3f} GB" for kind, size in content["sent_bytes"].items()]
    way = f"ZeRO stage {content['zero_stage']}" if content["zero_stage"] else "DistributedDataParallel"
    return "\n".join(
        [
            f"{content['parameters']['total']:,} parameters on {content['ranks']} ranks with {way}",
            f"each rank: {content['rows_per_rank']} rows an update, in {content['micro_batches']} micro-batches of "
            f"{content['rows_at_a_time']}; {content['tokens_per_update']:,} tokens an update in all",
            "memory of a rank:", *memory,
            "sent by a rank in an update:", *sent,
            f"loaded by a rank in an update: {content['loaded_bytes'] / 1e6:,.1f} MB and {content['loaded_bytes_per_patch']} bytes a patch",
            f"{content['flops_per_update']:.3g} floating-point operations an update, {TARGET_SHARE:.0%} of the tokens being targets",
        ]
    )  # fmt: skip
