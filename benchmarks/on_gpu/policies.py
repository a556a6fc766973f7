"""Acting and writing against a model without a cache: every way a policy keeps what it has seen."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ablation import window
from benchmarks.act import observations, picture_task, vector_task
from benchmarks.caption import prompts_of
from gato.model import Gato
from gato.policy import GatoPolicy
from gato.spec import TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary

from .checks import PRECISIONS, apart, exactly, put
from .paths import config_of
from .worker import Options, Report

STREAMS = 3
RNG = np.random.default_rng(0)  # of windows whose length alone counts
NUMBERS = vector_task(5, 3)
PICTURES = TaskSpec("picture -> 3 numbers", (*picture_task().observations, *NUMBERS.actions))
# What is kept, the positions, whether passes have fixed shapes (CUDA graphs), and where it is not
# the paper's the layout.
WAYS: dict[str, tuple[Any, ...]] = {
    "cached and rebuilt, rope": ("rebuild", "rope", False),
    "cached and rebuilt, transformer_xl": ("rebuild", "transformer_xl", False),
    "cached and rebuilt, learned": ("rebuild", "learned", False),
    "rolling, rope": ("rolling", "rope", False),
    "rolling, transformer_xl": ("rolling", "transformer_xl", False),
    "CUDA graph, rebuilt, rope": ("rebuild", "rope", True),
    "CUDA graph, rebuilt, learned": ("rebuild", "learned", True),
    "CUDA graph, rolling, rope": ("rolling", "rope", True),
    "compact layout, cached and rebuilt": ("rebuild", "rope", False, "compact"),
    "compact layout, rolling": ("rolling", "rope", False, "compact"),
    "CUDA graph, compact layout, rebuilt": ("rebuild", "rope", True, "compact"),
    "CUDA graph, compact layout, rolling": ("rolling", "rope", True, "compact"),
}


class Recorded(GatoPolicy):
    """Takes random legal ids, the same ones whatever the model says, and keeps the states that it
    would have read them from. So one id that rounding has changed does not change all that follow.
    """

    def reset(self, num_streams: int = 1, demonstrations: Any = ()) -> None:
        super().reset(num_streams, demonstrations)
        self.states: list[Tensor] = []
        self.rng = np.random.default_rng(7)

    def _sample(self, *given: Any) -> np.ndarray:
        legal, rows = given[-2:]
        return self.rng.integers(legal.start, legal.stop, len(rows))

    def _feed_pending(self, rows: np.ndarray) -> Tensor:
        self.states.append(super()._feed_pending(rows))
        return self.states[-1]

    def _feed_actions(self, rows: np.ndarray, ids: np.ndarray) -> Tensor:
        self.states.append(super()._feed_actions(rows, ids))
        return self.states[-1]


class Uncached(Recorded):
    """Computes all that a stream has been fed, from its beginning, for every token; no cache."""

    def reset(self, num_streams: int = 1, demonstrations: Any = ()) -> None:
        super().reset(num_streams, demonstrations)
        self.fed: list[list[Tensor]] = [[] for _ in range(num_streams)]

    def _run(self, embedded: Tensor, rows: np.ndarray, counts: np.ndarray) -> Tensor:
        found = []
        for tokens, s, count in zip(embedded, rows, counts, strict=True):
            if self._cache.next[s] == 0:  # it has been emptied
                self.fed[s] = []
            self._cache.next[s] += count
            self.fed[s] += list(tokens[:count])
            length = len(self.fed[s])
            place = torch.arange(length)
            back = place[:, None] - place
            mask = back >= 0
            if self.overflow == "rolling":
                mask &= back < self.context_length
            learned = place[None].clamp(max=self.context_length - 1)
            hidden = self.model.transformer(
                torch.stack(self.fed[s])[None], mask[None, None], place[None],
                learned_positions=learned,
            )  # fmt: skip
            found.append(hidden[0, -1])
        return torch.stack(found)


def model_of(options: Options, positions: str, layout: str = "gato") -> Gato:
    """A small one of the ids that `Vocabulary` has."""
    config = config_of(dataclasses.replace(options, toy=True), positions)
    vocabulary = Vocabulary()
    config.vocab_size, config.image_token_id = vocabulary.size, vocabulary.image
    config.pad_token_id, config.continuous_start = vocabulary.pad, vocabulary.continuous.start
    config.layout = layout
    torch.manual_seed(0)
    return Gato(config).eval()


def played(policy: Recorded, task: TaskSpec, steps: int) -> list[Tensor]:
    """The states of `steps` of three streams, of which the second begins anew in the middle."""
    rng = np.random.default_rng(3)
    policy.reset(STREAMS)
    for i in range(steps):
        first = np.array([i == 0, i in (0, steps // 2), i == 0])
        policy.act(observations(task, STREAMS, rng), first=first)
    return policy.states


def check(options: Options, report: Report) -> None:
    """Every way on numbers and on pictures. One that fails does not end the others."""
    failed, known = [], dict[tuple[Any, ...], tuple[Any, ...]]()
    for what, way in WAYS.items():
        for task in (NUMBERS, PICTURES):
            try:
                with exactly():
                    _check_way(options, report, f"{what}, {task.name}", known, task, *way)
            except Exception as error:  # the next may hold; the process ends as failed
                report(f"{what}, {task.name}", failed=f"{type(error).__name__}: {error}"[:300])
                failed.append(error)
    if failed:
        raise failed[0]


def _check_way(
    options: Options,
    report: Report,
    what: str,
    known: dict[tuple[Any, ...], tuple[Any, ...]],
    task: TaskSpec,
    *way: Any,
) -> None:
    """`known`: what the CPU computed for ways that differ in what is static alone."""
    (overflow, positions, static), layout = way[:3], dict(zip(["layout"], way[3:], strict=False))
    tokenizer = EpisodeTokenizer(None, Vocabulary(), **layout)
    model = model_of(options, positions, **layout)
    # that the context overflows, and more than once
    steps = 3 * model.config.context_length // len(tokenizer.encode(window(task, 1, RNG)))

    def states(kind: type[Recorded], device: str, dtype: torch.dtype, is_static: bool) -> Any:
        copied = copy.deepcopy(model).to(device, dtype)
        policy = kind(copied, tokenizer, task, 1.0, overflow=overflow, static=is_static)
        return played(policy, task, steps)

    dtypes = {"float32": torch.float32, "bf16": torch.bfloat16}
    key = (task.name, overflow, positions, *layout.values())
    if key not in known:
        truth = states(Uncached, "cpu", torch.float64, False)
        errors = [apart(states(Uncached, "cpu", dtypes[p], False), truth) for p in PRECISIONS]
        known[key] = truth, dict(zip(PRECISIONS, errors, strict=True))
    truth, of_cpu = known[key]
    for precision in PRECISIONS:
        error = apart(states(Recorded, options.device, dtypes[precision], static), truth)
        put(report, what, precision, error, of_cpu[precision])


@torch.inference_mode()
def generate(options: Options, report: Report) -> None:
    """Greedy continuations of pictures, of which one is padded on the left: the scores of every
    step, given the same ids, and how many ids are those of the CPU in float64."""
    model = model_of(options, "rope")
    shown = prompts_of(model.config, 2)
    pads = torch.full((2, 3), model.config.pad_token_id)
    shown["input_ids"] = torch.cat([pads, shown["input_ids"]], dim=1)
    shown["attention_mask"] = torch.cat([torch.zeros_like(pads), shown["attention_mask"]], dim=1)
    writing = {"max_new_tokens": 12, "min_new_tokens": 12, "return_dict_in_generate": True}

    def written(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        given = {name: value.to(device) for name, value in shown.items()}
        mine = copy.deepcopy(model).to(device, dtype)
        out = mine.generate(**given, **writing, do_sample=False)
        ids = out.sequences.cpu()
        whole = ids_in_truth if ids_in_truth is not None else ids
        mask = torch.cat([shown["attention_mask"], torch.ones(2, 12, dtype=torch.long)], dim=1)
        given |= {"input_ids": whole.to(device), "attention_mask": mask.to(device)}
        return ids, mine(**given, use_cache=False).logits[:, -13:-1].cpu()

    ids_in_truth: Tensor | None = None
    with exactly():
        ids_in_truth, truth = written("cpu", torch.float64)
        for precision in PRECISIONS:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            (ids, scores), (_, of_cpu) = (written(d, dtype) for d in (options.device, "cpu"))
            same = float((ids == ids_in_truth)[:, -12:].float().mean())
            errors = [apart([x], [truth]) for x in (scores, of_cpu)]
            put(report, "generate: scores of what was written", precision, *errors, same_ids=same)
