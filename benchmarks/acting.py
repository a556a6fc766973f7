"""Memories that learn by acting, at equal frames: the tables of docs/results/rim.md.

    python benchmarks/acting.py sanity --seeds 3                      # CartPole and DoorKey by their recipes
    python benchmarks/acting.py memories --frames 200000 --seeds 5    # an LSTM, a RIM, and both at two speeds, on a BabyAI level
    python benchmarks/acting.py transfer --frames 200000 --seeds 5    # those go on to a harder level: adaptation, and what is forgotten
    python benchmarks/acting.py modules --frames 200000 --seeds 5     # which blocks of a RIM take part where, and what fewer of them do

Runs go to `runs/acting-...`, one after the other on one core, and one that is finished is not trained again: the same line goes on after an
interruption, and prints the table of what is there. Frames to 80 % (90 %) are those after which the mean success of the last
hundred episodes first reached it, once there were a hundred; the area is the mean of that success over all frames, 0 before.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gato.agent import load
from gato.cli import main as gato
from gato.eval.insight.trace import Observed
from gato.eval.rollout import rollout
from gato.eval.score import mean_interval
from gato.train.metrics import read_metrics

RIM, SLOW = ["--model.memory", "rim"], ["--meta.slow", "attention"]
VARIANTS = {
    "lstm": [],
    "meta-lstm": SLOW,
    "rim": RIM,
    "meta-rim": [*RIM, *SLOW],
    "reversed": [*RIM, "--meta.slow", "cells"],
    "slow-rate": [*RIM, *SLOW, "--meta.phases", "false", "--meta.slow_rate", "0.00025"],
}
LEVELS = "babyai-symbolic"
HARDER = {
    f"{LEVELS}/go-to-obj-s4": [f"{LEVELS}/go-to-obj-s6", f"{LEVELS}/go-to-obj"],  # whose sentences have the same words
    f"{LEVELS}/go-to-local-s5-n2": [f"{LEVELS}/go-to-local-s6-n3", f"{LEVELS}/go-to-local-s8-n4"],
}
SHARES, EPISODES = (80, 90), 100


def trained(name: str, recipe: str, options: Sequence[str]) -> Path:
    """The run of this name, which is trained or goes on where it is not finished."""
    if not (Path("runs") / name / "final").is_dir() and gato(["pretrain", recipe, "--train.name", name, *options]):
        raise SystemExit(f"{name} was not trained to its end")
    return Path("runs") / name


def played(run: Path, tasks: Sequence[str], episodes: int) -> list[dict[str, Any]]:
    """Rows of `gato eval` of the run's end, measured once."""
    out = run / f"eval-{episodes}.json"
    if not out.is_file() and gato(["eval", str(run / "final"), "--tasks", *tasks, "--episodes", str(episodes), "--out", str(out)]):
        raise SystemExit(f"{run} could not be played")
    return json.loads(out.read_text())["tasks"]


def learning(run: Path) -> dict[str, float]:
    """How fast a run learned: frames to 80 and 90 % success, and the mean success over its frames."""
    points = {line["frames"]: line for line in read_metrics(run / "metrics.jsonl") if "success" in line}
    frames, success = np.array(list(points)), np.array([line["success"] for line in points.values()])
    is_sure = np.array([line["episodes"] >= EPISODES for line in points.values()])  # the first few that end have succeeded
    found = {}
    for share in SHARES:
        reached = frames[(success >= share / 100 - 1e-6) & is_sure]  # written down as a float32
        found[f"to_{share}"] = float(reached[0]) if len(reached) else math.inf
    spans = np.diff(frames, prepend=0) * is_sure
    return found | {"area": float((success * spans).sum() / frames[-1])}


def num_parameters(run: Path) -> int:
    return sum(p.numel() for p in load(run / "final").model.parameters())


def sanity(options: argparse.Namespace) -> None:
    for recipe, task in (("ppo-cartpole", "gymnasium/cartpole"), ("ppo-door-key", "minigrid/door-key-5x5")):
        for seed in range(options.seeds):
            run = trained(f"acting-{recipe}-{seed}", recipe, ["--train.seed", str(seed)])
            (row,) = played(run, [task], options.episodes)
            last = read_metrics(run / "metrics.jsonl")[-1]
            row = {name: row[name] for name in ("mean", "low", "high", "success", "success_low", "success_high")}
            row = {"task": task, "seed": seed, "frames": last["frames"], "seconds": last["seconds"], **learning(run), **row}
            print(json.dumps(row), flush=True)


def memories(options: argparse.Namespace) -> None:
    tasks, rows = [options.task, *HARDER.get(options.task, [])], []
    for seed in range(options.seeds):
        for name in options.variants:
            words = ["--train.seed", str(seed), "--env.task", options.task, "--env.frames", str(options.frames), *VARIANTS[name]]
            run = trained(run_name(options.task, options.frames, name, seed), "ppo-babyai", words)
            row = {"variant": name, "seed": seed, "parameters": num_parameters(run), **learning(run)}
            row["updates"] = read_metrics(run / "metrics.jsonl")[-1]["step"]
            row |= {f"success {r['task']}": r["success"] for r in played(run, tasks, options.episodes)}
            print(json.dumps(row), flush=True)
            rows.append(row)
    print(memory_table(rows, tasks))


def transfer(options: argparse.Namespace) -> None:
    """A harder level after the easy one and from nothing, in equal frames of it; and the easy one before and after."""
    easy, hard = options.task, HARDER[options.task][0]
    for seed in range(options.seeds):
        for name in options.variants:
            words = ["--train.seed", str(seed), "--env.frames", str(options.frames), *VARIANTS[name]]
            first = trained(run_name(easy, options.frames, name, seed), "ppo-babyai", [*words, "--env.task", easy])
            words += ["--env.task", hard]
            alone = trained(run_name(hard, options.frames, name, seed), "ppo-babyai", words)
            after = trained(
                run_name(hard, options.frames, f"after-{name}", seed), "ppo-babyai", [*words, "--ppo.start", str(first / "final")]
            )
            row: dict[str, Any] = {"variant": name, "seed": seed}
            for label, run in (("alone", alone), ("after", after)):
                row |= {f"{label} {what}": value for what, value in learning(run).items()}
            for label, run in (("before", first), ("after", after)):
                row[f"{easy} {label}"] = played(run, [easy, hard], options.episodes)[0]["success"]
            print(json.dumps(row), flush=True)


def modules(options: argparse.Namespace) -> None:
    """By level: the share of timesteps in which each block took part, and success where fewer of them may than in training."""
    for seed in range(options.seeds):
        for name in [name for name in options.variants if "rim" in VARIANTS[name]]:
            words = ["--train.seed", str(seed), "--env.frames", str(options.frames), *VARIANTS[name], "--env.task", options.task]
            run = trained(run_name(options.task, options.frames, name, seed), "ppo-babyai", words)
            agent = load(run / "final")
            memory = agent.model.memory
            most = memory.num_active
            for task in [options.task, *HARDER.get(options.task, [])]:
                row: dict[str, Any] = {"variant": name, "seed": seed, "task": task}
                for memory.num_active in range(most, 0, -1):
                    observed = Observed(agent.policy(task))
                    results = rollout(observed, task, options.episodes, num_envs=1)  # type: ignore[arg-type]
                    row[f"success of {memory.num_active}"] = float(np.mean([bool(result.success) for result in results]))
                    if memory.num_active == most:
                        row["active"] = np.mean(observed.active, axis=0).round(3).tolist()
                memory.num_active = most
                print(json.dumps(row), flush=True)


def run_name(task: str, frames: int, name: str, seed: int) -> str:
    return f"acting-{task.rpartition('/')[2]}-{frames}-{name}-{seed}"


def memory_table(rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    """A line a variant: means over its seeds with 95 % bootstrap intervals, and its area beside the first variant's, seed by seed."""
    names, areas = list(dict.fromkeys(row["variant"] for row in rows)), {(row["variant"], row["seed"]): row["area"] for row in rows}
    columns = [
        "variant",
        "parameters",
        "updates",
        "seeds",
        "reached 80 %",
        "frames to 80 %, median [least, most]",
        "area",
        f"more than {names[0]}",
    ]
    lines = [" | ".join([*columns, *tasks])]
    for name in names:
        own = [row for row in rows if row["variant"] == name]
        reached = sorted(row["to_80"] for row in own)
        more = [row["area"] - areas[names[0], row["seed"]] for row in own]
        cells = [name, f"{own[0]['parameters']:,}", f"{own[0]['updates']:,}", str(len(own))]
        cells += [f"{sum(map(math.isfinite, reached))} of {len(own)}"]
        cells += [f"{reached[len(reached) // 2]:,.0f} [{reached[0]:,.0f}, {reached[-1]:,.0f}]"]
        for values in ([row["area"] for row in own], more, *([row[f"success {task}"] for row in own] for task in tasks)):
            mean, low, high = mean_interval(values)
            cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(" | ".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sanity", "memories", "transfer", "modules"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--task", default="babyai-symbolic/go-to-local-s5-n2")
    for name, default in (("seeds", 5), ("frames", 200_000), ("episodes", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    {"sanity": sanity, "memories": memories, "transfer": transfer, "modules": modules}[options.what](options)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
