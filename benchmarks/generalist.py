"""The tables of docs/results/generalist.md, from what evaluations and the training wrote.

    python benchmarks/generalist.py EVAL.json [EVAL.json ...] [--run runs/NAME] [--curve CHECKPOINT/eval.json ...] \\
        [--grids runs/fewshot-TASK/fewshot.json ...]

Prints Markdown: a row per family over all evaluations together, the same beside JAT's published figures, the scores of the
curve's evaluations by update (the evaluations' own scores last), the run's losses by family, few-shot grids, a row per task.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gato.data.formats.lines import load_json
from gato.eval.summary import summarise_families

# The 39 BabyAI levels that JAT was trained and measured on, and its interquartile means (Gallouedec et al., 2024).
JAT_LEVELS = """
    action-obj-door blocked-unlock-pickup boss-level-no-unlock boss-level find-obj-s5 go-to-door go-to-imp-unlock
    go-to-local go-to-obj-door go-to-obj go-to-red-ball-grey go-to-red-ball-no-dists go-to-red-ball go-to-red-blue-ball
    go-to-seq go-to key-corridor mini-boss-level move-two-across-s8-n9 one-room-s8 open-door open-doors-order-n4
    open-red-door open-two-doors open pickup-above pickup-dist pickup-loc pickup put-next-local put-next synth-loc synth-seq
    synth unblock-pickup unlock-local unlock-pickup unlock-to-unlock unlock
""".split()
JAT = {"babyai-symbolic": (39, "99 [99, 99]"), "metaworld": (50, "65 [64, 67]"), "mujoco": (11, "85 [83, 86]")}
LOSS_SPAN = 1000  # updates that a mean loss is taken over


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def interval(row: dict[str, Any], names: Sequence[str] = ("iqm", "low", "high"), scale: float = 1, digits: int = 1) -> str:
    if row[names[0]] is None:
        return ""
    mean, low, high = (f"{scale * row[name]:.{digits}f}" for name in names)
    return f"{mean} [{low}, {high}]"


def family_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        (f["family"], f"{f['tasks']} ({f['registered']})", interval(f), interval(f, ("success", "success_low", "success_high"), 100, 0),
         *(f["above"][x] for x in ("50", "75", "90")))
        for f in summarise_families(rows)
    ]  # fmt: skip
    header = ("family", "tasks (registered)", "interquartile mean", "success, %", "above 50 % of the expert", "above 75 %", "above 90 %")
    return table(header, lines)


def published_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for family, (listed, theirs) in JAT.items():
        played = [
            r for r in rows if r["task"].startswith(f"{family}/") and (family != "babyai-symbolic" or r["task"].split("/")[1] in JAT_LEVELS)
        ]
        if played:
            lines.append((family, f"{len(played)} of {listed}", interval(summarise_families(played)[0]), theirs))
    return table(("suite", "JAT's tasks played", "here", "JAT"), lines)


def task_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        (r["task"], interval(r, ("score", "score_low", "score_high")), "" if r["success"] is None else round(100 * r["success"]))
        for r in sorted(rows, key=lambda r: r["task"])
    ]
    return table(("task", "score", "success, %"), lines)


def curve_table(curve: Sequence[Path], final: Sequence[dict[str, Any]]) -> str:
    found = {
        Path(load_json(path)["checkpoint"]).name.removeprefix("step-"): {r["task"]: r["score"] for r in played([path])} for path in curve
    }
    found["final"] = {r["task"]: r["score"] for r in final}
    tasks = [task for task in next(iter(found.values())) if all(task in scores for scores in found.values())]
    lines = [(step, *(f"{scores[task]:.0f}" for task in tasks)) for step, scores in found.items()]
    return table(("updates", *(task.split("/")[1] for task in tasks)), lines)


def loss_table(run: Path) -> str:
    """Mean losses a target by family, over the `LOSS_SPAN` updates before each of seven points."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    last = lines[-1]["step"]
    points = sorted({LOSS_SPAN, *(last * k // 6 for k in range(1, 7))})
    means: dict[int, dict[str, float]] = {}
    for point in points:
        losses = defaultdict(list)
        for line in (line for line in lines if point - LOSS_SPAN < line["step"] <= point):
            for source, loss in line["loss_by_source"].items():
                losses["/".join(source.split("/")[1:3]) if source.startswith("reference/") else source.split("/")[0]].append(loss)
        means[point] = {name: sum(values) / len(values) for name, values in losses.items()}
    names = sorted(means[points[-1]])
    return table(("updates", *names), [(f"{p:,}", *(f"{means[p][n]:.2f}" if n in means[p] else "" for n in names)) for p in points])


def grid_table(path: Path) -> str:
    """Few-shot scores, but for the maximum over evaluations."""
    found = load_json(path)
    cells = {(r["label"], r["episodes"]): r for r in found["rows"] if "maximum" not in r["label"]}
    counts = sorted({episodes for _, episodes in cells})
    labels = dict.fromkeys(label for label, _ in cells)
    lines = [
        (label, *(interval(cells[label, n], ("mean", "low", "high")) if (label, n) in cells else "" for n in counts)) for label in labels
    ]
    return table((path.parent.name, *("1 demonstration" if n == 1 else f"{n} demonstrations" for n in counts)), lines)


def played(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [row for path in paths for row in load_json(path)["tasks"] if not row["ablation"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--curve", nargs="*", type=Path, default=[])
    parser.add_argument("--grids", nargs="*", type=Path, default=[])
    given = parser.parse_args()
    rows = played(given.evaluations)
    print(family_table(rows), published_table(rows), sep="\n")
    if given.curve:
        print(curve_table(given.curve, rows))
    if given.run:
        print(loss_table(given.run))
    for path in given.grids:
        print(grid_table(path))
    print(task_table(rows))


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
