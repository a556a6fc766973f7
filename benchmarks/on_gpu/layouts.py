"""The same episodes in every token layout there is: transitions per second of training."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from benchmarks import ablation
from gato.batch import collate
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.train.recipe import ModelConfig

from .training import Load, halving, load_of, ours, pace
from .worker import Options, Report

LAYOUTS = ("gato", "compact")
KEPT = ("parameters", "rows", "tokens_per_second", "transitions_per_second", "memory", "gaps")


def known() -> list[str]:
    """Those that models have here."""
    has_layouts = "layout" in {field.name for field in fields(ModelConfig)}
    return list(LAYOUTS if has_layouts else LAYOUTS[:1])


def compare(options: Options, report: Report, size: str) -> None:
    layouts = known()
    for kind, task in ablation.tasks().items():
        for layout in layouts:
            what = f"{size}, {kind}, {layout}"
            found = halving(
                load_of(options, size),
                lambda load, args=(options, size, layout, task): _measure(*args, load),
            )
            report(what, **{name: found[name] for name in KEPT if name in found})
    if len(layouts) == 1:
        report("the other layout", note="models have one layout here")


def _measure(options: Options, size: str, layout: str, task: Any, load: Load) -> dict[str, Any]:
    """Rows of one window each, which fill the context but for less than a transition."""
    chosen: dict[str, Any] = {} if len(known()) == 1 else {"layout": layout}
    vocabulary = Vocabulary()
    tokenizer = EpisodeTokenizer(None, vocabulary, **chosen)
    sizes: dict[str, Any] = {"size": size}
    if options.toy:
        sizes = {"num_layers": 1, "num_heads": 2, "width": 32, "head_width": 16}
    model = ModelConfig(**sizes, **chosen, context_length=load.context)
    config, rng = model.build(vocabulary), np.random.default_rng(0)
    one = len(tokenizer.encode(ablation.window(task, 2, rng)))
    steps = 2 * load.context // one
    windows = [ablation.window(task, steps, rng) for _ in range(load.rows)]
    rows = [tokenizer.encode(window).cut(load.context) for window in windows]
    noise = rng.random((load.rows, 2 * config.num_layers))
    batch = collate(rows, load.context, vocabulary.pad, depth_noise=noise)
    targets = int((batch.labels >= 0).sum())
    step, parameters = ours(config, "compiled", batch, replace(load, vocabulary=vocabulary.size))
    found = {"parameters": parameters, **pace(step, load, config, targets)}
    return found | {"transitions_per_second": load.rows * steps / found["seconds"]}
