"""Correct, learn again, repeat (DAgger): a cloned policy that drifts, an expert that takes over where it does, and scores.

Run from the repository's root:  python benchmarks/corrections.py STORE [--demonstrations 1] [--rounds 3] [--json FILE]

STORE holds demonstrations of a task that has an expert. A network is cloned from the first few; in each round it plays `--corrected`
episodes while the expert takes over for ten timesteps wherever three actions in a row are apart, and the network is cloned anew from the
demonstrations and the pieces in which the expert acted. The control gets, in place of the corrections, whole episodes of the same
expert, until they have at least as many timesteps. Every figure is over the same `--episodes` starts, 95 % intervals over episodes and
series together; a series has its own training seed, its own demonstrations and its own starts of corrections.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gato import envs
from gato.data.store import Store
from gato.data.stores import find_store
from gato.envs.recording import episode_seed, expert_episode
from gato.episode import Episode
from gato.eval.corrector import ExpertCorrector
from gato.eval.rollout import rollout
from gato.eval.summary import summarise
from gato.eval.takeover import correct
from gato.learners.folder import BaselineAgent, learned
from gato.spec import TaskSpec


def timesteps(episodes: Sequence[Episode]) -> int:
    return sum(e.num_timesteps for e in episodes)


def corrections(agent: BaselineAgent, task: TaskSpec, episodes: int, seed: int) -> tuple[list[Episode], float]:
    """The pieces in which the expert acted, and its share of the timesteps."""
    corrector = ExpertCorrector(task, envs.expert(task))
    found = correct(agent.policy(task), task, corrector, episodes, seed)
    human = [piece for episode in found for piece in episode.pieces if piece.behaviour == "human"]
    return human, timesteps(human) / sum(episode.num_timesteps for episode in found)


def whole_episodes(task: TaskSpec, least: int, series: int) -> list[Episode]:
    """Episodes of the expert with at least so many timesteps."""
    env, expert, found = envs.make(task), envs.expert(task), []
    while timesteps(found) < least:
        found.append(expert_episode(task, env, expert, episode_seed("control", series, len(found))).episode("expert"))
    envs.close(env)
    return found


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--demonstrations", type=int, default=1)
    parser.add_argument("--corrected", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--series", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--by", default="clone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    store, count = Store(find_store(options.store)), options.demonstrations
    held_out = [store.episode(i) for i in range(store.num_episodes - 3, store.num_episodes)]
    task = held_out[0].task
    played: dict[tuple[str, int], list[Any]] = {}
    learned_from: dict[tuple[str, int], list[int]] = {}

    def score(name: str, done: int, series: int, episodes: list[Episode]) -> BaselineAgent:
        agent = learned(options.by, task, episodes, held_out, series)
        played.setdefault((name, done), []).extend(rollout(agent.policy(task), task, options.episodes, num_envs=10))
        learned_from.setdefault((name, done), []).append(timesteps(episodes))
        return agent

    for series in range(options.series):
        first = [store.episode(series * count + i) for i in range(count)]
        known, agent = list(first), score("start", 0, series, first)
        for done in range(1, options.rounds + 1):
            pieces, share = corrections(agent, task, options.corrected, 1000 * series + done)
            known += pieces
            print(f"series {series} round {done}: {timesteps(pieces)} timesteps of corrections, {share:.0%} of what was played", flush=True)
            agent = score("corrected", done, series, known)
            score("whole episodes", done, series, first + whole_episodes(task, timesteps(known) - timesteps(first), series))
    rows = []
    for (name, done), results in sorted(played.items(), key=lambda item: (item[0][1], item[0][0])):
        row = summarise(task, results)
        steps = learned_from[name, done]
        rows.append(
            {"from": name, "round": done, "timesteps": sum(steps) / len(steps)} | {k: row[k] for k in ("score", "score_low", "score_high")}
        )
        print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main, may_name_a_file=True))
