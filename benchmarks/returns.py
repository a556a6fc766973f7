"""What asking for a return does: the runs and tables of docs/results/decision-transformer.md.

    python benchmarks/returns.py key-to-door-1k key-to-door-10k lottery cartpole --seeds 3
    python benchmarks/returns.py key-to-door-1k-long key-to-door-10k-long --seeds 3 --only DT BC

Collects, trains and plays what is not there yet in `--out`, by the commands that a reader would
type, and prints a table for each experiment. Every seed has its own walks (or players), weights and
data order.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gato import envs
from gato.cli import main
from gato.cli.recipes import recipe_path
from gato.eval.returns import rank_correlation
from gato.eval.score import nested_interval

NO_RETURN = ("--model.condition", "none", "--model.return_scale", "null")


class Careless:
    """CartPole's expert, who in every episode plays a share of the actions at random; the share is
    drawn anew from 0 to 1."""

    behaviour = "learner"

    def __init__(self) -> None:
        self.expert = envs.expert("gymnasium/cartpole")

    def reset(self, env: Any) -> None:
        self.expert.reset(env)
        self.share = env.action_space.np_random.random()

    def act(self, env: Any, observation: Any) -> Any:
        is_random = env.action_space.np_random.random() < self.share
        return env.action_space.sample() if is_random else self.expert.act(env, observation)


@dataclass(frozen=True)
class Experiment:
    """Runs of one recipe on one kind of data.

    - `recipe`, `task`, `episodes`, `collect`: what is trained on what, and the options of its
      collection.
    - `variants`: options of training by name; `targets`: returns asked for; `play`: options of the
      evaluation.
    """

    recipe: str
    task: str
    episodes: int
    collect: Sequence[str]
    variants: Mapping[str, Sequence[str]]
    targets: Sequence[float]
    play: Sequence[str]


CONTROLS = {
    "DT": (),
    "BC": NO_RETURN,
    "10 % BC": (*NO_RETURN, "--model.best_share", "0.1"),
    "25 % BC": (*NO_RETURN, "--model.best_share", "0.25"),
    "shuffled returns": ("--model.shuffled_returns", "true"),
}
PAID = {**CONTROLS, "3 % BC": (*NO_RETURN, "--model.best_share", "0.03")}
WALKS = ("--expert", "random")
DRAWN = ("--episodes", "200", "--temperature", "0.5")
KEY_TO_DOOR = "decision-transformer-key-to-door"


def _longer(variants: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """With four times the updates of the recipe."""
    return {name: (*changes, "--train.steps", "2000") for name, changes in variants.items()}


EXPERIMENTS = {
    "key-to-door-1k": Experiment(KEY_TO_DOOR, "toy/key-to-door", 1000, WALKS, PAID, (1,), DRAWN),
    "key-to-door-10k": Experiment(KEY_TO_DOOR, "toy/key-to-door", 10_000, WALKS, CONTROLS, (1,), DRAWN),
    "key-to-door-1k-long": Experiment(KEY_TO_DOOR, "toy/key-to-door", 1000, WALKS, _longer(PAID), (1,), DRAWN),
    "key-to-door-10k-long": Experiment(KEY_TO_DOOR, "toy/key-to-door", 10_000, WALKS, _longer(PAID), (1,), DRAWN),
    "lottery": Experiment(
        KEY_TO_DOOR, "toy/key-to-door-lottery", 10_000, WALKS,
        {"DT": ("--model.return_scale", "1"), "BC": NO_RETURN, "10 % BC": CONTROLS["10 % BC"]}, (2, 1), DRAWN,
    ),
    "cartpole": Experiment(
        "decision-transformer-cartpole", "gymnasium/cartpole", 300, ("--expert", "benchmarks.returns:Careless"),
        {
            "DT": (), "context 1": ("--model.context", "1"), "delayed reward": ("--model.delayed_reward", "true"),
            "shuffled returns": CONTROLS["shuffled returns"], "BC": NO_RETURN,
        },
        (20, 50, 100, 200, 300, 500), ("--episodes", "10"),
    ),
    "return-token": Experiment(
        "return-token-cartpole", "gymnasium/cartpole", 300, ("--expert", "benchmarks.returns:Careless"),
        {"Gato + return token": ()}, (20, 50, 100, 200, 300, 500), ("--episodes", "10"),
    ),
}  # fmt: skip


def run(name: str, experiment: Experiment, seed: int, out: Path, only: Sequence[str] = ()) -> None:
    """Collects, trains and plays one seed, as far as that is not done; `only` some variants."""
    stores = out / "stores" / f"{experiment.task.replace('/', '-')}-{experiment.episodes}" / str(seed)  # shared by experiments
    if not (stores / experiment.task / "manifest.json").is_file():
        options = [
            "--noisy_share",
            "0",
            "--episodes",
            str(experiment.episodes),
            "--seed",
            str(seed),
            "--out",
            str(stores),
            "--workers",
            "0",
        ]
        _do("data", "collect", experiment.task, *experiment.collect, *options)
    recipe = yaml.safe_load(recipe_path(experiment.recipe).read_text())
    (settings,) = recipe["data"]["sources"].values()
    recipe["data"]["sources"] = {experiment.task: {**settings, "store": str(stores / experiment.task)}}
    file = out / "recipes" / f"{name}-{seed}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe))
    for variant, changes in experiment.variants.items():
        found = result_path(name, variant, seed, out)
        if played(found) or (only and variant not in only):
            continue
        train = f"{name}-{found.stem}"
        _do("pretrain", str(file), "--train.name", train, "--train.seed", str(seed), *changes)
        asked = [] if "none" in changes else ["--target_return", *(f"{target:g}" for target in experiment.targets)]
        found.parent.mkdir(parents=True, exist_ok=True)
        _do("eval", f"runs/{train}/final", *asked, *experiment.play, "--seed", str(seed), "--out", str(found))


def played(path: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation, one per target; none where there was none, or where it failed."""
    found = json.loads(path.read_text()) if path.is_file() else {"errors": None}
    return [] if found["errors"] or found["errors"] is None else found["tasks"]


def result_path(name: str, variant: str, seed: int, out: Path) -> Path:
    return out / "results" / name / f"{variant.replace(' % ', '-per-cent-').replace(' ', '-')}-{seed}.json"


def _do(*words: str) -> None:
    """A command of `gato`, in this process. **Raises:** `SystemExit` with its exit code if it
    fails."""
    print("gato", *words, flush=True)
    if code := main(words):
        raise SystemExit(code)


def table(name: str, experiment: Experiment, seeds: int, out: Path) -> str:
    """A row per variant: the mean return for every target, with an interval over seeds and
    episodes."""
    asked = [f"{target:g}" for target in experiment.targets]
    is_ranked = len(asked) > 2
    heads = [name, "seeds", *(f"asked for {t}" for t in asked), *(["rank correlation"] if is_ranked else [])]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for variant in experiment.variants:
        rows = [row for seed in range(seeds) if (row := played(result_path(name, variant, seed, out)))]
        if not rows:
            continue
        cells = [_cell([one[k]["returns"] for one in rows]) if len(rows[0]) > k else "" for k in range(len(asked))]
        ranks = [rank for one in rows if (rank := _rank(one)) is not None]
        ranked = f"{np.mean(ranks):.2f} ({min(ranks):.2f} to {max(ranks):.2f})" if ranks else ""
        lines.append(f"| {' | '.join([variant, str(len(rows)), *cells, *([ranked] if is_ranked else [])])} |")
    return "\n".join(lines)


def _cell(groups: Sequence[Sequence[float]]) -> str:
    mean, low, high = nested_interval(groups)
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def _rank(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Over the targets of one seed; `None` where there is one target, or none."""
    return rank_correlation([{"target": row.get("target_return"), "mean": row["mean"]} for row in rows]) if len(rows) > 1 else None


def draw(name: str, experiment: Experiment, seeds: int, out: Path, file: Path) -> None:
    """Achieved over asked, a line per variant, means over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    ends = [min(experiment.targets), max(experiment.targets)]
    axes.plot(ends, ends, color="0.7", linestyle="--", label="asked")
    for variant, changes in experiment.variants.items():
        rows = [row for seed in range(seeds) if (row := played(result_path(name, variant, seed, out)))]
        if not rows or "none" in changes:
            continue
        points = [nested_interval([one[k]["returns"] for one in rows]) for k in range(len(experiment.targets))]
        spread = [[mean - low for mean, low, _ in points], [high - mean for mean, _, high in points]]
        axes.errorbar(experiment.targets, [mean for mean, *_ in points], spread, marker="o", capsize=3, label=variant)
    axes.set(xlabel="return asked for", ylabel="return achieved", title=experiment.task)
    axes.legend()
    figure.savefig(file, dpi=120)


def run_all() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=(), help="variants such as DT BC")
    parser.add_argument("--out", type=Path, default=Path("returns"))
    parser.add_argument("--figure", type=Path, help="draw the last experiment here")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    for name in options.names:
        for seed in range(options.seeds) if not options.table else ():
            run(name, EXPERIMENTS[name], seed, options.out, options.only)
        print(f"\n{table(name, EXPERIMENTS[name], options.seeds, options.out)}\n", flush=True)
    if options.figure:
        draw(options.names[-1], EXPERIMENTS[options.names[-1]], options.seeds, options.out, options.figure)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(run_all))
