"""Trains variants of a recipe with several seeds and prints losses and scores side by side.

    python benchmarks/compare.py demo-gato --steps 600 --seeds 0 1 2 --variant smooth "" \
        --variant independent "--model.smooth_bins false"

Each variant is the recipe plus further `gato pretrain` options; `GATO_HOME=FOLDER` in front of them takes
the stores from another folder. A finished run is not trained again. The table gives the mean over the
seeds and, in brackets, the lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

Row = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--variant", nargs=2, action="append", metavar=("NAME", "OPTIONS"), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--captions", nargs="*", default=[])
    parser.add_argument("--ablations", action="store_true", help="score without pictures and with swapped instructions too")
    parser.add_argument("--out", type=Path, help="also write the table as Markdown")
    options = parser.parse_args()
    rows: dict[str, list[Row]] = {}
    for name, extra in options.variant:
        rows[name] = [_run(options, name, extra, seed) for seed in options.seeds]
        text = _markdown(rows)
        print(text, flush=True)
        if options.out:
            options.out.write_text(text + "\n")


def _run(options: argparse.Namespace, name: str, extra: str, seed: int) -> Row:
    """Trains and evaluates one variant with one seed."""
    words = shlex.split(extra)
    environment = dict(os.environ)
    while words and "=" in words[0] and not words[0].startswith("-"):
        key, _, value = words.pop(0).partition("=")
        environment[key] = value
    run = f"compare-{name}-{seed}"
    settings = ["--train.name", run, "--train.seed", str(seed), "--train.seconds", "null", "--train.steps", str(options.steps)]
    _gato(environment, "pretrain", options.recipe, *settings, *words)
    final = Path("runs") / run / "final"
    if not (final / "eval.json").exists():
        captions = ["--captions", *options.captions] if options.captions else []
        ablations = ["--ablations", str(options.ablations).lower()]
        _gato(environment, "eval", str(final), "--episodes", str(options.episodes), *ablations, *captions)
    return {"final loss": _last_losses(final.parent / "metrics.jsonl"), "score": _scores(final / "eval.json")}


def _gato(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "gato.cli", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)


def _last_losses(path: Path) -> dict[str, float]:
    """Mean loss per source over the last tenth of the updates."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    values = defaultdict(list)
    for line in lines[-max(1, len(lines) // 10) :]:
        for source, loss in line["loss_by_source"].items():
            values[source].append(loss)
    return {source: float(np.mean(v)) for source, v in sorted(values.items())}


def _scores(path: Path) -> dict[str, float]:
    results = json.loads(path.read_text())
    scores = {", ".join(filter(None, (row["task"], row["ablation"]))): row["score"] for row in results["tasks"] if row["score"] is not None}
    for part in results["captions"]:
        for name, measured in (("right title among 10", "retrieval"), ("right title, another picture", "shuffled")):
            scores[f"{part['split']}, {name}"] = 100 * part[measured]["accuracy"]
    return scores


def _markdown(rows: dict[str, list[Row]]) -> str:
    lines = ["| | " + " | ".join(rows) + " |", "| --- |" + " --- |" * len(rows)]
    for part, digits in (("final loss", 3), ("score", 1)):
        for name in sorted({n for runs in rows.values() for run in runs for n in run[part]}):
            cells = [_spread([run[part][name] for run in runs if name in run[part]], digits) for runs in rows.values()]
            lines.append(f"| {part}, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return ""
    mean, low, high = (f"{v:.{digits}f}" for v in (np.mean(values), min(values), max(values)))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
