"""What the experts of the registry reach: measures tasks, writes configs/tasks.yaml and docs/suites.md.

    python benchmarks/suites.py metaworld --episodes 50      # a family, or names of tasks
    python benchmarks/suites.py --write                      # nothing measured, pages written again

Each measured task is a line of docs/suites.jsonl, where a later one replaces an earlier one; a task that is
there with as many episodes and all figures is not measured again. Levels of BabyAI are measured as symbols, which is
faster and gives the returns of the pixels. Steps per second are of one busy core: lower bounds.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from gato import envs
from gato.data.collection.collect import measure

ROOT = Path(__file__).parent.parent
ROWS, PAGE, REGISTRY = ROOT / "docs" / "suites.jsonl", ROOT / "docs" / "suites.md", ROOT / "configs" / "tasks.yaml"
START, END = "<!-- measured -->", "<!-- /measured -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="families or tasks")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--write", action="store_true", help="write the registry's returns and the page")
    options = parser.parse_args()
    tasks = [t for t in envs.tasks() if t in options.names or t.split("/")[0] in options.names]
    rows = measured_rows()
    for task in tasks:
        if is_measured(rows.get(task), task, options.episodes):
            continue
        measured = task.replace("babyai/", "babyai-symbolic/")
        try:
            row = measure([measured], options.episodes)[0] | {"task": task}
        except RuntimeError as error:
            print(f"left out: {error}")
            continue
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    if options.write:
        write_registry(measured_rows())
        write_page(measured_rows())


def is_measured(row: dict[str, Any] | None, task: str, episodes: int) -> bool:
    """Whether the row of a task has so many episodes, and all figures: early ones lack acceptance and lengths."""
    return row is not None and row["episodes"] >= episodes and (envs.expert_name(task) is None or row["acceptance"] is not None)


def measured_rows() -> dict[str, dict[str, Any]]:
    """The newest row of each task, in the registry's order."""
    if not ROWS.exists():
        return {}
    rows = {row["task"]: row for row in map(json.loads, ROWS.read_text(encoding="utf-8").splitlines())}
    return {name: rows[name] for name in sorted(rows)}


def write_registry(rows: dict[str, dict[str, Any]]) -> None:
    """Puts the returns into the lines of the registry."""
    lines = REGISTRY.read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        row = rows.get(line.split(":")[0])
        if row is None:
            continue
        bare = re.sub(r", (random|expert)_return: [-\d.e+]+", "", line).removesuffix("}")
        returns = [(k, row[k]) for k in ("random", "expert") if row[k] is not None]
        lines[i] = bare + "".join(f", {k}_return: {float(number(v))}" for k, v in returns) + "}"
    REGISTRY.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_page(rows: dict[str, dict[str, Any]]) -> None:
    """Replaces what lies between the page's two marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{summary(rows)}\n\n{details(rows)}\n\n{END}{after}", encoding="utf-8")


def summary(rows: dict[str, dict[str, Any]]) -> str:
    """A line per suite."""
    families = defaultdict(list)
    for name in envs.tasks():
        families[name.split("/")[0]].append(name)
    lines = [
        "| suite | tasks | with expert | measured | episodes each | success of expert | acceptance | failed | steps/s |",
        "| --- " * 9 + "|",
    ]
    for family, names in sorted(families.items()):
        known = [rows[m] for n in names if (m := n.replace("babyai-symbolic", "babyai")) in rows]
        experts = [r for r in known if r["expert"] is not None]
        counts = sorted({r["episodes"] for r in known})
        lines.append(
            f"| {family} | {len(names)} | {sum(envs.expert_name(n) is not None for n in names)} | {len(known)} "
            f"| {' to '.join(str(c) for c in dict.fromkeys(counts[:1] + counts[-1:])) or '-'} "
            f"| {mean(experts, 'success')} | {mean(experts, 'acceptance')} | {sum(r['failed'] or 0 for r in experts)} "
            f"| {spread(experts, 'steps_per_second')} |"
        )
    return "\n".join(lines)


def details(rows: dict[str, dict[str, Any]]) -> str:
    """A line per measured task."""
    lines = [
        "| task | n | random | expert | spread | worst | success | acceptance | failed | steps | steps/s | published |",
        "| --- " * 12 + "|",
    ]
    for name, r in rows.items():
        published = ", ".join(f"{k} {number(v)}" for k, v in envs.published(name).items())
        keys = ("random", "expert", "expert_std", "expert_min", "success", "acceptance", "failed", "length", "steps_per_second")
        lines.append(f"| {name} | {r['episodes']} | " + " | ".join(number(r[k]) for k in keys) + f" | {published} |")
    return "\n".join(lines)


def mean(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    return f"{np.mean(values):.2f}" if values else "-"


def spread(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    return f"{number(min(values))} to {number(max(values))}" if values else "-"


def number(value: float | None) -> str:
    """Four digits, as the registry has them."""
    if value is None:
        return ""
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
