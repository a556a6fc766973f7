"""What of the compact layout makes ten demonstrations enough: variants of how numbers come in and go out.

    python benchmarks/compact.py gymnasium/pendulum --seeds 3         # a store, or several; prints the table of docs/results/compact.md

A model of two layers, 128 wide, is trained from nothing as `gato finetune --modes scratch --memory 1` does, on the first
demonstrations of a store in an order of the seed, and plays episodes whose starts are the same for all. `clone` is the plain
network of `gato finetune --modes clone` on the same demonstrations. Times are of the process's CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from gato.agent import Agent
from gato.config import GatoConfig
from gato.data.spread import measured
from gato.data.store import Store, StoreWriter
from gato.data.stores import find_store
from gato.episode import Episode
from gato.eval.rollout import rollout
from gato.eval.summary import summarise
from gato.layers import compact
from gato.layers.direct import DirectPath
from gato.learners.clone import ClonePolicy
from gato.model import Gato
from gato.policy import Policy
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.train.finetune import finetune
from gato.train.protocol import PROTOCOLS

SIZE = {"num_layers": 2, "num_heads": 4, "width": 128, "head_width": 32, "feed_forward": 256}
FREQUENCIES = 4  # the highest of the Fourier features is 2 to this power


def _no_direct(self: DirectPath, sums: Tensor, hidden: Tensor) -> Tensor:
    return torch.cat([sums, sums], dim=-1) * 0.0


def _line_alone(self: DirectPath, sums: Tensor, hidden: Tensor) -> Tensor:
    return torch.cat([sums, sums * 0.0], dim=-1)


def _waves(self: compact.NumberEmbedding, ids: Tensor) -> Tensor:
    """Fourier features of the bin's centre in place of the centre alone, folded into the two columns that there are."""
    centre = self.centres(ids)
    turns = torch.pi * centre[..., None] * 2.0 ** torch.arange(FREQUENCIES + 1)
    return torch.stack([turns.sin().sum(dim=-1), turns.cos().sum(dim=-1)], dim=-1)


# name: what of the configuration differs, and what is replaced
VARIANTS: dict[str, tuple[dict[str, Any], tuple[Any, str, Any] | None]] = {
    "as it is": ({}, None),
    "without the direct path": ({}, (DirectPath, "forward", _no_direct)),
    "of the direct path the line alone": ({}, (DirectPath, "forward", _line_alone)),
    "overshooting costs": ({}, (compact, "LAST_BIN", 2.0)),
    "mean_weight 10": ({"mean_weight": 10.0}, None),
    "mean_weight 0": ({"mean_weight": 0.0}, None),
    "one bump": ({"num_bumps": 1}, None),
    "Fourier features up to 2^4": ({}, (compact.NumberEmbedding, "measures", _waves)),
}
PAPER = "the paper's layout"


@contextmanager
def replaced(change: tuple[Any, str, Any] | None) -> Iterator[None]:
    if change is None:
        yield
    else:
        with patch.object(*change):
            yield


def trained(task: Any, episodes: list[Episode], seed: int, layout: str, settings: dict[str, Any]) -> Policy:
    vocabulary = Vocabulary.separate_discrete(256)
    tokenizer = EpisodeTokenizer(None, vocabulary, layout=layout)
    length = 32 * tokenizer.positions_per_timestep(task)
    v = vocabulary
    config = GatoConfig(
        **SIZE, **settings, layout=layout, context_length=length, drop_path=0.0, initializer_range=0.05, vocab_size=v.size,
        continuous_start=v.continuous.start, discrete_start=v.discrete.start, image_token_id=v.image, pad_token_id=v.pad,
    )  # fmt: skip
    protocol = PROTOCOLS["compact"]
    protocol = replace(protocol, evaluate_every=protocol.steps)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        with StoreWriter(path, [task], {"source": "benchmarks/compact.py"}) as writer:
            for episode in episodes:
                writer.append(replace(episode, task=task))
        found = finetune(
            Agent(Gato(config), tokenizer, {}), task, path, [], protocol, "scratch", seed, Path(folder), lambda agent, step: []
        )
        return found.agent.policy(task, memory=1)


def score(policy: Policy, task: Any, episodes: int) -> float:
    found = summarise(task, rollout(policy, task, episodes, seed=1000, num_envs=episodes))
    return float(found.get("score", found["mean"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--demonstrations", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--only", nargs="+", help="some of the variants")
    options = parser.parse_args()
    names = options.only or [*VARIANTS, PAPER, "clone"]
    for name in options.stores:
        store = Store(find_store(name, "train"))
        print(f"\n| `{store.tasks[0].name}` | score, mean | by seed | CPU seconds |\n| --- | --- | --- | --- |", flush=True)
        for variant in names:
            scores, seconds = [], []
            for seed in range(options.seeds):
                numbers = np.random.default_rng(seed).permutation(store.num_episodes)[: options.demonstrations]
                episodes = [store.episode(int(i)) for i in numbers]
                start = time.process_time()
                policy, task = made(variant, store.tasks[0], episodes, seed)
                seconds.append(time.process_time() - start)
                scores.append(score(policy, task, options.episodes))
            each = ", ".join(f"{x:.1f}" for x in scores)
            print(f"| {variant} | {np.mean(scores):.1f} | {each} | {np.mean(seconds):.0f} |", flush=True)


def made(variant: str, task: Any, episodes: list[Episode], seed: int) -> tuple[Policy, Any]:
    """The policy and the task as it measures it."""
    if variant == "clone":
        return ClonePolicy.of(task, episodes, [], seed), task
    if variant == PAPER:
        task = replace(task, memory=1)
        return trained(task, episodes, seed, "gato", {}), task
    task = replace(measured(task, episodes), memory=1)
    settings, change = VARIANTS[variant]
    train: Callable[..., Policy] = trained
    with replaced(change):
        policy = train(task, episodes, seed, "compact", settings)
    return _with(policy, change), task


def _with(policy: Any, change: tuple[Any, str, Any] | None) -> Any:
    """The policy, which acts with what it was trained with."""
    act = policy.act

    def acting(observations: Any, *rest: Any, **named: Any) -> Any:
        with replaced(change):
            return act(observations, *rest, **named)

    policy.act = acting
    return policy


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
