"""The same episodes in every token layout there is: transitions per second of training."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import ablation
from gato.batch import TokenBatch, collate
from gato.config import GatoConfig
from gato.layers.layout import LAYOUTS
from gato.spec import TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.train.recipe import ModelConfig

from .checks import exactly
from .paths import against_cpu, bucketed, learner_of
from .training import Load, halving, load_of, ours, pace
from .worker import Options, Report

SMALL = {"num_layers": 2, "num_heads": 2, "width": 32, "head_width": 16}
KEPT = ("parameters", "rows", "tokens_per_second", "transitions_per_second", "memory", "gaps")


def compare(options: Options, report: Report, size: str) -> None:
    sizes = SMALL if options.toy else {"size": size}
    for kind, task in ablation.tasks().items():
        for layout in LAYOUTS:

            def work(load: Load, layout: str = layout, task: TaskSpec = task) -> dict[str, Any]:
                return _measure(*episodes(sizes, layout, task, load), load)

            found = halving(load_of(options, size), work)
            report(f"{size}, {kind}, {layout}", **{n: found[n] for n in KEPT if n in found})


def check(options: Options, report: Report) -> None:
    """Loss and gradients of episodes in every layout against the CPU."""
    sizes = SMALL | {"context_length": 128, "initializer_range": 0.1}
    load = Load("cpu", rows=2, context=128)
    for kind, task in ablation.tasks().items():
        for layout in LAYOUTS:
            config, batch, _ = episodes(sizes, layout, task, load)
            moved = bucketed(batch, options.device)
            with exactly():
                what = f"layout {layout}, {kind}"
                against_cpu(options, report, what, learner_of(config), batch, moved)


def episodes(
    sizes: dict[str, Any],
    layout: str,
    task: TaskSpec,
    load: Load,
) -> tuple[GatoConfig, TokenBatch, int]:
    """Rows of one window each, which fill the context but for less than a transition.

    **Returns:** the model's configuration, the batch, and how many transitions it holds.
    """
    chosen: dict[str, Any] = {"layout": layout}
    vocabulary, rng = Vocabulary(), np.random.default_rng(0)
    tokenizer = EpisodeTokenizer(None, vocabulary, **chosen)
    model = ModelConfig(**(sizes | chosen | {"context_length": load.context}))
    config = model.build(vocabulary)
    one = len(tokenizer.encode(ablation.window(task, 1, rng)))
    steps = load.context // one
    windows = [ablation.window(task, steps, rng) for _ in range(load.rows)]
    noise = rng.random((load.rows, 2 * config.num_layers))
    rows = [tokenizer.encode(window) for window in windows]
    batch = collate(rows, load.context, vocabulary.pad, depth_noise=noise)
    return config, batch, load.rows * steps


def _measure(config: GatoConfig, batch: TokenBatch, transitions: int, load: Load) -> dict[str, Any]:
    step, parameters = ours(config, "compiled", batch, load)
    found = {"parameters": parameters, **pace(step, load, config, int((batch.labels >= 0).sum()))}
    return found | {"transitions_per_second": load.parts * transitions / found["seconds"]}
