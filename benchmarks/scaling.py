"""The cost of training on many GPUs by the formulas of train/plan.py, and those formulas against what is measured here.

    python benchmarks/scaling.py                  # both, a minute of one core
    python benchmarks/scaling.py --rows 4096      # another global batch

The first table is computed: nothing of it was run. The second one is measured on this machine on small models: floating-point operations
by PyTorch's counter, bytes kept for backward by its hooks, bytes of weights, gradients and moments from the tensors.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from gato.batch import Kind, TokenBatch, TokenSequence, collate
from gato.config import GatoConfig, preset
from gato.learners.gato import GatoLearner, flops_per_update
from gato.model import Gato
from gato.train.optim import OptimConfig, make_optimizer
from gato.train.plan import PATCH_BYTES, PLACE_BYTES, TARGET_SHARE, Cluster, plan, planned_seconds

MODES = {"DDP": (0, False), "ZeRO-1": (1, False), "ZeRO-2": (2, False), "ZeRO-3": (3, False), "ZeRO-3, offload": (3, True)}


def computed(size: str, rows: int, at_once: int) -> None:
    cluster, config = Cluster(), preset(size)
    print(f"\n{size}, {rows} rows of {config.context_length} an update, at most {at_once} rows at a time, bf16; {cluster}\n")
    print(
        "| GPUs | mode | rows a rank | device memory, GB | sent by a rank, GB | computing, s | exchange, s | tokens/s, both at once "
        "| one after the other | loaded by a rank, MB/s |\n" + "|---" * 10 + "|"
    )
    for ranks in (8, 64, 512):
        for mode, (stage, offload) in MODES.items():
            content = plan(config, rows, at_once, ranks, stage, offload, bf16=True)
            t = planned_seconds(content, cluster)
            patches = config.context_length * content["rows_per_rank"] * (1 - TARGET_SHARE)  # at most: all that is no target
            loaded = (content["loaded_bytes"] + patches * PATCH_BYTES) / t["shortest"]
            cells = [
                str(ranks), mode, str(content["rows_per_rank"]), f"{content['device_bytes']['total'] / 1e9:.1f}",
                f"{content['sent_bytes']['total'] / 1e9:.2f}", f"{t['compute']:.3f}", f"{t['exchange']:.3f}",
                *(f"{content['tokens_per_update'] / t[way]:,.0f}" for way in ("shortest", "longest")), f"{loaded / 1e6:,.0f}",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |")


# -- measured --------------------------------------------------------------------------------------


def _attention(query: tuple, key: tuple, value: tuple, *rest: object, out_shape: object = None, **more: object) -> int:
    """Two products, of which a causal mask leaves half."""
    b, h, length, d = query
    return 2 * b * h * length * key[2] * d


def _attention_backward(
    gradient: tuple, query: tuple, key: tuple, value: tuple, *rest: object, out_shape: object = None, **more: object
) -> int:
    """Twice the forward's; that the scores are computed again is no work of the model's."""
    return 2 * _attention(query, key, value)


def _addmm(total: tuple, left: tuple, right: tuple, *rest: object, out_shape: object = None, **more: object) -> int:
    """Sums up the gradient of the token table."""
    return 2 * left[0] * left[1] * right[1]


_COUNTED = {  # in place of torch's own, of which versions have some and count the whole square
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.addmm_: _addmm,
}


def batch_of(config: GatoConfig, rows: int, patches: int = 0) -> TokenBatch:
    rng, length = np.random.default_rng(0), config.context_length
    sequences = []
    for _ in range(rows):
        ids = rng.integers(0, config.continuous_start, length, dtype=np.int32)
        ids[:patches] = config.image_token_id
        kind = np.where(np.arange(length) < patches, Kind.PATCH, Kind.CONTINUOUS).astype(np.uint8)
        is_target = (np.arange(length) % round(1 / TARGET_SHARE) == 3) & (np.arange(length) >= patches)
        sequences.append(
            TokenSequence(
                ids, kind, np.full(length, -1, np.int16), np.zeros(length, np.int32), np.zeros(length, np.int16), is_target,
                np.zeros((patches, 16, 16, 3), np.uint8), np.zeros((patches, 4), np.uint8),
            )
        )  # fmt: skip
    return collate(sequences, length, config.pad_token_id or 0)


def measured(config: GatoConfig, rows: int) -> dict[str, tuple[float, float]]:
    """`{what: (formula, measured)}` of one update in float32."""
    learner, batch = GatoLearner(Gato(config)).train(), batch_of(config, rows)
    optimizer = make_optimizer(OptimConfig(), learner.parameter_groups(0.1))
    mine = {p.untyped_storage().data_ptr() for p in learner.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss, _ = learner(batch)
        loss.backward()
    optimizer.step()
    tokens, targets = batch.num_tokens, len(batch.target_index)
    planned = plan(config, rows, rows, 1, 0, False, bf16=False)["device_bytes"]
    moments = sum(v.nbytes for state in optimizer.state.values() for name, v in state.items() if name.startswith("exp"))
    return {
        "operations": (flops_per_update(config, tokens, targets), counter.get_total_flops()),
        "kept for backward, bytes": (planned["activations (estimate)"], sum(kept.values())),
        "weights, bytes": (planned["weights"], sum(p.nbytes for p in learner.parameters())),
        "gradients, bytes": (planned["gradients"], sum(p.grad.nbytes for p in learner.parameters() if p.grad is not None)),
        "moments, bytes": (planned["moments"], moments),
    }


def loaded(config: GatoConfig) -> tuple[float, float]:
    """Bytes of a batch with pictures, by formula and in its tensors; targets and depth noise are left out of the formula."""
    batch, tensors = batch_of(config, 2, config.context_length // 4), 0
    for value in vars(batch).values():
        tensors += value.nbytes if isinstance(value, torch.Tensor) else 0
    return batch.ids.numel() * PLACE_BYTES + len(batch.patches) * PATCH_BYTES, tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="gato-1b-rope")
    parser.add_argument("--rows", type=int, default=512, help="of the global batch")
    parser.add_argument("--at-once", type=int, default=8, help="rows that a rank computes at a time")
    parser.add_argument("--measure", nargs="*", default=["2x128x4", "4x256x8", "6x512x8"], help="LAYERSxWIDTHxHEADS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    computed(options.size, options.rows, options.at_once)
    print("\n| model | what | by formula | measured | formula / measured |\n|---|---|---|---|---|")
    for size in options.measure:
        layers, width, heads = map(int, size.split("x"))
        config = GatoConfig(
            num_layers=layers, num_heads=heads, width=width, head_width=width // heads, feed_forward=4 * width, context_length=512
        )
        for what, (formula, found) in [*measured(config, 2).items(), ("a batch, bytes", loaded(config))]:
            print(f"| {size} | {what} | {formula:,.0f} | {found:,.0f} | {formula / found:.3f} |", flush=True)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
