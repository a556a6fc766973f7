"""`gato pretrain` itself over a store of episodes of real shapes: how long it waits for data."""

from __future__ import annotations

import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ablation
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import StoreWriter
from gato.tokenizers.text import TextTokenizer
from gato.train.metrics import read_metrics
from gato.train.pretrain import pretrain
from gato.train.recipe import ModelConfig, OptimConfig, PretrainConfig, TrainConfig

from .training import ROWS
from .worker import Options, Report

SENTENCES = ["a run asks for a tokenizer, and these episodes hold no word", "left and right"] * 20


def waiting(options: Options, report: Report, size: str) -> None:
    """Numbers, as HalfCheetah has, and pictures, as Atari has, drawn by data workers."""
    folder = Path(options.folder) / "feed"
    folder.mkdir(parents=True)
    os.environ["GATO_HOME"] = str(folder)
    os.chdir(folder)  # runs/ is made where one is
    rng = np.random.default_rng(0)
    for name, task in ablation.tasks().items():
        with StoreWriter(folder / "stores" / name, [task], {}) as writer:
            for _ in range(4 if options.toy else 40):
                writer.append(ablation.window(task, 20 if options.toy else 200, rng))
    TextTokenizer.train(SENTENCES, 300).save(folder / "stores" / "tokenizer.model")
    for name in ablation.tasks():
        config = recipe(options, size, name)
        pretrain(config)
        run = folder / "runs" / config.train.name
        report(f"{size}, {name}", **summary(run))
        shutil.rmtree(run)  # its checkpoint has gigabytes


def recipe(options: Options, size: str, store: str) -> PretrainConfig:
    small: dict[str, Any] = {"num_layers": 1, "width": 32, "num_heads": 2, "head_width": 16}
    model = small | {"feed_forward": 64, "context_length": 64} if options.toy else {"size": size}
    workers = 1 if options.toy else min(8, os.cpu_count() or 1)
    rows = 2 if options.toy else ROWS[size]
    train = TrainConfig(
        name=store, steps=4 if options.toy else 25, batch_size=rows, device=options.device,
        compile=not options.toy, timeout=60.0,
    )  # fmt: skip
    data = DataConfig(sources={store: SourceConfig(1)}, workers=workers)
    optim = OptimConfig(warmup_steps=2)
    return PretrainConfig(model=ModelConfig(**model), data=data, optim=optim, train=train)


def summary(run: Path) -> dict[str, Any]:
    """Medians of the second half of the updates; the share of their time that was waited."""
    lines = read_metrics(run / "metrics.jsonl")
    half = lines[len(lines) // 2 :]
    seconds = half[-1]["seconds"] - lines[len(lines) // 2 - 1]["seconds"]
    found = {
        name: statistics.median(line[name] for line in half)
        for name in ("tokens_per_second", "transitions_per_second", "mfu", "memory_bytes")
        if name in half[0]
    }
    return found | {"waited": sum(line["wait_seconds"] for line in half) / max(seconds, 1e-9)}
