"""What chunks of actions do to a cloned policy: score, how rough its actions are, and how often it must be asked.

Run from the repository's root:  python benchmarks/chunks.py STORE... [--by clone] [--episodes 50] [--series 3]

Every STORE holds demonstrations of one task. A small network is cloned from the first ten, once for single actions and once for chunks of
`--chunk`, with three seeds each, and plays the same episodes: chunk by chunk (nothing overlaps), asked anew at half
of a chunk and at every timestep, with what overlaps averaged. Roughness is the mean difference of one action from the one before it, as a
share of its range. Calls are forward passes per timestep. Scores have 95 % intervals over episodes and seeds together.
With `--by gato --checkpoint CHECKPOINT` a Gato of the checkpoint's size, in the compact layout, is trained from nothing as `gato finetune`
trains it; `hz` is how many timesteps a second one environment is played at, as this process computes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from gato.agent import Agent
from gato.data.spread import measured
from gato.data.store import Store, StoreWriter
from gato.data.stores import find_store
from gato.episode import Episode
from gato.eval.realtime import Pace
from gato.eval.rollout import rollout
from gato.eval.summary import summarise
from gato.learners.chunks import ChunkPolicy
from gato.learners.folder import learned
from gato.spec import TaskSpec
from gato.train.finetune import finetune
from gato.train.protocol import PROTOCOLS


def trained(checkpoint: Path, task: TaskSpec, shown: list[Episode], held_out: list[Episode], seed: int, length: int, rounds: int) -> Agent:
    """A Gato from new weights, by the protocol of `gato finetune` for the compact layout; a `length` of 1 is single actions."""
    task = replace(measured(task, shown), memory=1, chunk=length if length > 1 else None)
    with TemporaryDirectory() as folder:
        with StoreWriter(Path(folder) / "store", [task]) as writer:
            for episode in shown:
                writer.append(replace(episode, task=task))
        kept = [replace(episode, task=task) for episode in held_out]
        agent, protocol = Agent.load(checkpoint), replace(PROTOCOLS["compact"], rounds=rounds)
        return finetune(agent, task, Path(folder) / "store", kept, protocol, "scratch", seed, Path(folder), lambda *_: []).agent


def roughness(episode: Episode) -> float:
    """Of continuous actions, each as a share of its range."""
    parts = []
    for spec in episode.task.actions:
        low, high = spec.bounds
        values = (np.asarray(episode.actions[spec.name], np.float64) - low) / (high - low)
        parts.append(np.abs(np.diff(values, axis=0)).reshape(-1))
    return float(np.concatenate(parts).mean()) if episode.num_timesteps > 1 else 0.0


class Counted:
    """A policy whose rows are counted, and that takes so many seconds longer."""

    def __init__(self, policy: Any, slow: float = 0.0) -> None:
        self.policy, self.task, self.memory, self.rows, self.slow = policy, policy.task, policy.memory, 0, slow

    def reset(self, num_streams: int, demonstrations: Any = ()) -> None:
        self.policy.reset(num_streams, demonstrations)

    def act(self, observation: Any, reward: Any = None, first: Any = None, streams: Any = None) -> Any:
        self.rows += len(next(iter(observation.values())))
        time.sleep(self.slow)
        return self.policy.act(observation, reward, first, streams)


def played(agent: Any, task: TaskSpec, episodes: int, **how: Any) -> tuple[list[Any], list[float], float, float]:
    """Results, the roughness of each episode, calls per timestep, and timesteps a second of one environment."""
    policy = agent.policy(task.name, **how)
    if is_whole := isinstance(policy, ChunkPolicy):
        counted = policy.chunks = Counted(policy.chunks)
    else:
        counted = policy = Counted(policy)
    rough: list[float] = []
    results = rollout(policy, policy.task, episodes, num_envs=10, sink=lambda episode: rough.append(roughness(episode)))
    calls = counted.rows / sum(r.num_timesteps for r in results)
    started = time.process_time()
    alone = rollout(policy, policy.task, 1, num_envs=1)
    return results, rough, calls if is_whole else 1.0, alone[0].num_timesteps / (time.process_time() - started)


def in_real_time(agent: Any, task: TaskSpec, length: int, slow: float, rate: float, episodes: int) -> list[dict[str, Any]]:
    """A policy that takes `slow` seconds longer, in a loop of `rate` Hz: asked at every timestep, chunk by chunk, and ahead."""
    rows = []
    for how in ({"every": 1}, {"every": length}, {"every": length // 2, "ahead": True}):
        policy = agent.policy(task.name, **how)
        policy.chunks, pace = Counted(policy.chunks, slow), Pace(rate)
        results = rollout(policy, policy.task, episodes, num_envs=1, pace=pace)
        row, kept = summarise(policy.task, results), pace.report()
        rows.append({
            "task": policy.task.name, "slow": slow, "rate": rate, **how, "missed": kept.missed / kept.steps, "p50_ms": 1000 * kept.p50,
            "p99_ms": 1000 * kept.p99, "waited": policy.waited, "score": row["score"], "low": row["score_low"], "high": row["score_high"],
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--series", type=int, default=3)
    parser.add_argument("--demonstrations", type=int, default=10)
    parser.add_argument("--by", default="clone", help="what learns: clone, darp, retrieve, knn, lwr or gato")
    parser.add_argument("--rounds", type=int, default=PROTOCOLS["compact"].rounds, help="of a Gato's training, see train/protocol.py")
    parser.add_argument("--checkpoint", type=Path, help="whose size a Gato has")
    parser.add_argument("--slow", type=float, default=0.0, help="seconds that a policy takes longer: real time at --rate is played instead")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.by == "gato" and options.checkpoint is None:
        parser.error("--by gato wants a --checkpoint in the compact layout")
    rows = []
    for name in options.stores:
        store = Store(find_store(name))
        shown = [store.episode(i) for i in range(options.demonstrations)]
        held_out = [store.episode(i) for i in range(options.demonstrations, min(store.num_episodes, options.demonstrations + 5))]
        task, length = shown[0].task, options.chunk

        def learner(seed: int, n: int, task: TaskSpec = task, shown: list = shown, held_out: list = held_out) -> Any:
            if options.by == "gato":
                return trained(options.checkpoint, task, shown, held_out, seed, n, options.rounds)
            return learned(options.by, task, shown, held_out, seed, n)

        if options.slow:
            agent = learner(0, length)
            rows += in_real_time(agent, task, length, options.slow, options.rate, options.episodes)
            continue
        agents = {n: [learner(seed, n) for seed in range(options.series)] for n in (1, length)}
        for n, how in ((1, {}), (length, {"every": length}), (length, {"every": length // 2}), (length, {"every": 1})):
            found = [played(agent, task, options.episodes, **how) for agent in agents[n]]
            row = summarise(task, [r for results, *_ in found for r in results])
            rows.append({
                "task": task.name, "chunk": n, **how, "score": row["score"], "low": row["score_low"], "high": row["score_high"],
                "roughness": float(np.mean([x for _, rough, *_ in found for x in rough])),
                "calls": float(np.mean([c for *_, c, _ in found])), "hz": float(np.median([hz for *_, hz in found])),
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main, may_name_a_file=True))
