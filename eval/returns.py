"""What was asked for beside what was achieved: a sweep of target returns, its rank correlation and
its plot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gato.spec import TaskSpec

MISSING = "the plot needs matplotlib: pip install 'opengato[plot]'"


def takes_returns(agent: Any) -> bool:
    """Whether an agent was trained to act for a return."""
    return any(task.returns for task in agent.tasks.values())


def target_results(task: TaskSpec, rows: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """A sweep of one task, out of its rows of the score table.

    **Returns:** `points` (target, mean, low, high), `spearman` between target and mean, and the
    `plot` beside `out`, or why there is `no_plot`.
    """
    points = [{"target": row["target_return"], **{name: row[name] for name in ("mean", "low", "high")}} for row in rows]
    found: dict[str, Any] = {"points": points, "spearman": rank_correlation(points)}
    path = out.with_name(f"{out.stem}-{task.name.replace('/', '-')}-targets.png")
    try:
        draw(task.name, points, path)
    except ImportError:
        return found | {"no_plot": MISSING}
    return found | {"plot": str(path)}


def rank_correlation(points: Sequence[dict[str, Any]]) -> float | None:
    """Spearman's between targets and mean returns; `None` where one of them never changes."""
    from scipy.stats import spearmanr

    targets, means = ([point[name] for point in points] for name in ("target", "mean"))
    if len(set(targets)) < 2 or len(set(means)) < 2:
        return None
    return float(spearmanr(targets, means).statistic)


def draw(title: str, points: Sequence[dict[str, Any]], path: Path) -> None:
    """Achieved over asked, with intervals, beside the line on which both are the same. **Raises:**
    `ImportError`."""
    from matplotlib.figure import Figure

    ordered = sorted(points, key=lambda point: point["target"])
    targets, means = ([point[name] for point in ordered] for name in ("target", "mean"))
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    ends = [min(targets), max(targets)]
    axes.plot(ends, ends, color="0.7", linestyle="--", label="asked")
    spread = [[p["mean"] - p["low"] for p in ordered], [p["high"] - p["mean"] for p in ordered]]
    axes.errorbar(targets, means, spread, marker="o", capsize=3, label="achieved, 95 % interval")
    axes.set(xlabel="target return", ylabel="return", title=title)
    axes.legend()
    with suppress(FileNotFoundError):
        path.unlink()
    figure.savefig(path, dpi=120)
