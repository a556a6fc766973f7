"""What a run costs, by arithmetic: memory of a rank, split of the batch, bytes exchanged, floating-point operations.

Nothing is started and no store is opened: the parameters are counted on the meta device. Measured points
belong to docs/training.md; what is estimated here says so.
"""

from __future__ import annotations

from typing import Any

import torch

from gato.head import CHUNK
from gato.model import Gato, GatoConfig

from .ranks import check_rows

# Dense bf16 operations a second, by the makers' data sheets; the longer name first where one contains the other.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
ADAM_BYTES = 8  # two float32 moments per parameter


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


def flops_per_update(config: GatoConfig, tokens: int, targets: int) -> float:
    """Operations of forward and backward: 6 per weight of the layers and token, of the head and target, and causal attention.

    Attention counts the half that a causal mask leaves: 6 * layers * context * heads * head width a token. The patch
    embedder, relative scores and recomputation are left out, so an MFU made of this is rather too low than too high.
    """
    ff = config.width * config.feed_forward * 3 // 2  # GEGLU: width -> hidden, then half of it back
    inner = config.num_heads * config.head_width
    layer = 4 * config.width * inner + ff
    per_token = 6 * config.num_layers * (layer + config.context_length * inner)
    return float(tokens * per_token + targets * 6 * config.width * config.vocab_size)


def plan(config: GatoConfig, batch_size: int, micro_batch_size: int, ranks: int, stage: int, offload: bool, bf16: bool) -> dict[str, Any]:
    """A run on `ranks` ranks with ZeRO `stage` (0: DistributedDataParallel) without the processes.

    **Returns:** bytes of a rank by kind, rows and micro-batches of a rank, bytes that a rank sends in an update.

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
        "moments": ADAM_BYTES * -(-parameters // share[0]),
        "activations (estimate)": _activations(config, micro, 2 if bf16 else 4),
    }
    host = memory.pop("masters") + memory.pop("moments") if offload else 0
    memory = {kind: size for kind, size in memory.items() if size}
    return {
        "parameters": counts, "ranks": ranks, "zero_stage": stage,
        "rows_per_rank": rows, "rows_at_a_time": micro, "micro_batches": -(-rows // micro),
        "tokens_per_update": batch_size * config.context_length,
        "device_bytes": memory | {"total": sum(memory.values())}, "host_bytes": host,
        "sent_bytes": _sent(parameters, ranks, stage, -(-rows // micro), width),
        "flops_per_update": flops_per_update(config, batch_size * config.context_length, batch_size * config.context_length // 4),
    }  # fmt: skip


def _activations(config: GatoConfig, rows: int, width: int) -> int:
    """What backward needs: per token and layer inputs of norms and projections, q, k, v, GEGLU; and one chunk of the head."""
    tokens = rows * config.context_length
    inner = config.num_heads * config.head_width
    per_layer = 4 * config.width + 4 * inner + 2 * config.feed_forward
    relative = (
        config.num_heads * config.context_length * 2 if config.positions == "transformer_xl" else 0
    )  # scores by distance and their mask
    return tokens * config.num_layers * (per_layer + relative) * width + min(tokens, CHUNK) * config.vocab_size * 4 * 2


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
            f"{content['flops_per_update']:.3g} floating-point operations an update, a quarter of the tokens being targets",
        ]
    )  # fmt: skip
