"""Captions per CPU second beside transformers' GPT-2 of equal size that writes as many tokens, in the same run.

Run from the repository's root, with one thread:

    OMP_NUM_THREADS=1 python benchmarks/caption.py [--sizes demo gato-79m-rope] [--batches 1 32] [--rounds 5]

Both are untrained (the time does not depend on the weights), both use `generate` with its cache, greedily, and are kept
from stopping early. GPT-2 has Gato's width, heads, vocabulary and context and as many layers as bring it nearest to
Gato's parameters; it is prompted with as many tokens as a picture of 64 x 64 pixels has patches and a separator. Gato's
time includes the patches' embedding. The two take turns, and the median ratio of the rounds' times counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gato.config import GatoConfig, preset
from gato.model import Gato
from gato.tokenizers.image import patch_boxes, patchify

NEW_TOKENS = 24
SIDE = 64  # pixels of a picture


def config_of(size: str) -> GatoConfig:
    """A preset, or `demo`: the sizes of configs/demo.yaml."""
    if size != "demo":
        return preset(size)
    return GatoConfig(
        vocab_size=3075, continuous_start=2048, image_token_id=3074, pad_token_id=3073, num_layers=3, num_heads=4, width=128,
        feed_forward=512, context_length=256,
    )  # fmt: skip


def gpt2_like(gato: Gato) -> GPT2LMHeadModel:
    """GPT-2 of Gato's width, heads and vocabulary, with the number of layers that brings its parameters nearest."""
    config, wanted = gato.config, gato.num_parameters()

    def make(layers: int) -> GPT2LMHeadModel:
        heads, length = max(1, config.width // 64), config.context_length
        sizes = {"vocab_size": config.vocab_size, "n_positions": length, "n_embd": config.width, "n_layer": layers, "n_head": heads}
        return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))

    with torch.device("meta"):
        sizes = {layers: make(layers).num_parameters() for layers in range(1, 40)}
    return make(min(sizes, key=lambda layers: abs(sizes[layers] - wanted))).eval()


def prompts_of(config: GatoConfig, batch: int) -> dict[str, torch.Tensor]:
    """Pictures of noise, each followed by the separator."""
    patches = patchify(np.random.default_rng(0).integers(0, 256, (batch, SIDE, SIDE, 3), dtype=np.uint8))
    count, separator = patches.shape[1], config.continuous_start + 1024
    ids = torch.tensor([[config.image_token_id] * count + [separator]] * batch)
    boxes = torch.from_numpy(patch_boxes(SIDE, SIDE).astype(np.int64)).repeat(batch, 1)
    pixels = torch.from_numpy(patches.reshape(-1, *patches.shape[2:]))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "patch_boxes": boxes}


def cpu_seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def compare(
    size: str, batch: int, rounds: int, device: str = "cpu", clock: Callable[[Callable[[], Any]], float] = cpu_seconds
) -> dict[str, Any]:
    """One line; in bf16 on a GPU. **Arguments:** `clock`: the seconds that a call takes."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):  # where weights are drawn faster
        model = Gato(config_of(size)).eval()
        other = gpt2_like(model).to(dtype)
    shown = {name: value.to(device) for name, value in prompts_of(model.config, batch).items()}
    model.to(dtype)
    length = shown["input_ids"].shape[1]
    read = {"input_ids": torch.randint(3, 1000, (batch, length), device=device), "attention_mask": shown["attention_mask"]}
    writing = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: model.generate(**shown, **writing),
        "gpt2": lambda: other.generate(**read, **writing, pad_token_id=0),
    }
    for run in runs.values():
        assert run().shape == (batch, length + NEW_TOKENS)
    seconds = [{name: clock(run) for name, run in runs.items()} for _ in range(rounds)]
    ratios = [s["gpt2"] / s["ours"] for s in seconds]
    return {
        "size": size, "parameters": model.num_parameters(), "gpt2 parameters": other.num_parameters(), "batch": batch,
        "captions/s": batch / statistics.median(s["ours"] for s in seconds),
        "gpt2 captions/s": batch / statistics.median(s["gpt2"] for s in seconds),
        "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", nargs="+", default=["demo", "gato-79m-rope"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {NEW_TOKENS} new tokens, CPU seconds")
    for size in options.sizes:
        for batch in options.batches:
            row = compare(size, batch, options.rounds)
            print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}), flush=True)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
