"""How long an action takes and how many captions are written, through CUDA graphs and without."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import torch

from benchmarks import caption
from benchmarks.act import Clock, model_of, observations, vector_task
from gato.eval.realtime import Pace
from gato.model import Gato
from gato.policy import GatoPolicy
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary

from .training import profiled
from .worker import Options, Report

TASK = vector_task(17, 10)  # ten action tokens behind 18 of what is seen
WAYS = {"CUDA graph": True, "eager": False}
RATE = 20.0


def latency(options: Options, report: Report, size: str, streams: list[int]) -> None:
    """p50 and p99 of an action of every stream at once, once the context is full."""
    model = model_of("32x2x2" if options.toy else size, 64 if options.toy else 1024, options.device)
    _at_a_rate(options, report, size, model)
    failed = []
    for count in streams:
        for way, is_static in WAYS.items():
            if count > 1 and not is_static:
                continue  # which the launching of kernels takes as long as for one
            what = f"{size}, {count} streams, {way}"
            try:
                seconds, where = _seconds(options, model, count, is_static)
            except Exception as error:  # too many streams for one way may do for the other
                report(what, failed=f"{type(error).__name__}: {error}"[:200])
                failed.append(error)
                continue
            finally:
                gc.collect()
                if options.device == "cuda":
                    torch.cuda.empty_cache()
            p50, p99 = (float(np.percentile(seconds, q)) for q in (50, 99))
            report(
                what, p50=p50, p99=p99, actions=len(seconds), steps_per_second=count / p50,
                memory=torch.cuda.max_memory_allocated() if options.device == "cuda" else None,
                **where,
            )  # fmt: skip
    if failed:
        raise failed[0]


def _policy(options: Options, model: Gato, streams: int, is_static: bool) -> GatoPolicy:
    """One whose context is full: the window moves on with every token."""
    tokenizer, rng = EpisodeTokenizer(None, Vocabulary()), np.random.default_rng(0)
    policy = GatoPolicy(model, tokenizer, TASK, overflow="rolling", static=is_static)
    policy.reset(streams)
    for _ in range(model.config.context_length // tokenizer.tokens_per_timestep(TASK) + 2):
        policy.act(observations(TASK, streams, rng))
    return policy


def _seconds(options: Options, model: Gato, streams: int, is_static: bool) -> tuple[list[float], dict[str, Any]]:
    """Of as many actions as 4 seconds hold, but 5 at least and 200 at most; and what one spends its
    time on."""
    policy, rng = _policy(options, model, streams, is_static), np.random.default_rng(1)
    clock = Clock("wall", options.device)
    seconds: list[float] = []
    end = time.monotonic() + (0.2 if options.toy else 4)
    while len(seconds) < 5 or (len(seconds) < 200 and time.monotonic() < end):
        seen = observations(TASK, streams, rng)
        seconds.append(clock(lambda seen=seen: policy.act(seen)))
    seen = observations(TASK, streams, rng)
    where = profiled(lambda: policy.act(seen), options.device, float(np.median(seconds)))
    return seconds, where


def _at_a_rate(options: Options, report: Report, size: str, model: Gato) -> None:
    """One stream at 20 Hz on the wall clock: deadlines missed."""
    policy, rng = _policy(options, model, 1, True), np.random.default_rng(2)
    pace = Pace(rate=RATE)
    steps = 5 if options.toy else 60
    for _ in range(steps):
        seen = observations(TASK, 1, rng)
        pace.wait()
        policy.act(seen)
        pace.done()
    missed = pace.report().missed
    report(f"{size}, 1 stream at {RATE:.0f} Hz", missed=missed, of=steps)


def captions(options: Options, report: Report, size: str) -> None:
    """Captions a second beside those of transformers' GPT-2 of equal size."""
    clock = Clock("wall", options.device)
    for batch in (1, 2) if options.toy else (1, 32):
        name, rounds = ("demo", 1) if options.toy else (size, 3)
        row: dict[str, Any] = caption.compare(name, batch, rounds, options.device, clock)
        kept = ("parameters", "captions/s", "gpt2 captions/s", "ratio")
        report(f"{size}, {batch} pictures at once", **{key: row[key] for key in kept})
