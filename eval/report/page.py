"""`gato plot`: a run's scores, film strips, captions, texts and loss curves as one HTML page.

`configs/pages/report.html` is the page; what it says is made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from gato.disk import read_json
from gato.eval.words.captioning import pictures_kind, wording_lines
from gato.page import write_page
from gato.train.metrics import read_metrics
from gato.weights import read_entries

from .chart import curve, interval_bar, score_axis
from .table import task_notes, tasks_of
from .values import Cell, Row, Table, counted, decimals_of, duration, interval, is_number, number, percent, ranged, short

ACTING = {  # metrics of a run that acts, and their titles
    "episode_return": "return", "success": "success", "eval_return": "return in evaluation", "eval_success": "success in evaluation",
}  # fmt: skip


def write_report(run: Path, out: Path) -> Path:
    """Writes the page of a run's folder; a section for which the folder holds nothing is left out.

    **Arguments:** `run`: holds `run.json`, `metrics.jsonl` and `final/eval.json`, as far as they exist;
    `out`: the HTML file.

    **Returns:** `out`.

    **Raises:** `ValueError` if the folder holds none of the three, or one that cannot be read.
    """
    settings, results = (read_json(path) if path.is_file() else None for path in (run / "run.json", run / "final" / "eval.json"))
    metrics = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else []
    if not (settings or results or metrics):
        raise ValueError(f"'{run}' holds no run: neither run.json nor metrics.jsonl nor final/eval.json; name a folder such as runs/demo")
    results = results or {}
    name = str((settings or {}).get("train", {}).get("name") or run.resolve().name)
    against = results.get("against") or {}
    return write_page(
        out, "report.html", name, lead=_lead(results), headline=_headline(_num_parameters(run / "final"), metrics, results),
        episodes=counted(results.get("episodes")), seed=counted(results.get("seed")), scores=_scores(results),
        has_ablations=any(row.get("ablation") for row in results.get("tasks") or []), notes=_notes(results),
        families=_families(results.get("families") or []), against=_against(against.get("tasks") or []),
        against_name=against.get("checkpoint"), films=results.get("films") or {},
        captions=[_caption_part(part) for part in results.get("captions") or []],
        bits=_bits_per_byte(results.get("bits_per_byte") or []), texts=results.get("text") or [], curves=_curves(metrics),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else "",
    )  # fmt: skip


# -- headline --------------------------------------------------------------------------------------


def _headline(parameters: int | None, metrics: Sequence[dict[str, Any]], results: dict[str, Any]) -> dict[str, str]:
    scores = [row["score"] for row in _plain_rows(results) if is_number(row.get("score"))]
    facts = {"parameters": f"{parameters:,}" if parameters else "unknown"}
    if metrics:
        last = metrics[-1]
        facts |= {"tokens": short(last["tokens"]), "training time": duration(last["seconds"]), "updates": f"{last['step']:,}"}
    if scores:
        facts["tasks with a score of 50 or more"] = f"{sum(s >= 50 for s in scores)} of {len(scores)}"
    return facts


def _lead(results: dict[str, Any]) -> str:
    """One sentence: what this one model does, as far as it was measured."""
    num_tasks = len(_plain_rows(results))
    does = [f"acts in {num_tasks} task{'s' if num_tasks > 1 else ''}"] if num_tasks else []
    does += ["captions pictures"] if results.get("captions") else []
    does += ["continues text"] if results.get("text") or results.get("bits_per_byte") else []
    if not does:
        return "One model, not yet evaluated."
    joined = does[0] if len(does) == 1 else f"{', '.join(does[:-1])} and {does[-1]}"
    return f"One model with one set of weights {joined}."


def _num_parameters(folder: Path) -> int | None:
    """Counted from the headers of the weights; `None` where there are none."""
    if not any(folder.glob("model*.safetensors")):
        return None
    return sum(math.prod(entry.shape) for entry in read_entries(folder).values())


# -- control ---------------------------------------------------------------------------------------


def _scores(results: dict[str, Any]) -> Table | None:
    rows = results.get("tasks") or []
    if not rows:
        return None
    numbers = [row[k] for row in rows for k in ("score", "score_low", "score_high") if is_number(row.get(k))]
    axis = score_axis(numbers)
    has_success = any(is_number(row.get("success")) for row in rows)
    places = ((0, "0 random"), (100, "100 expert"))
    marks = [{"place": round(100 * (value - axis[0]) / (axis[1] - axis[0]), 2), "text": text} for value, text in places]
    return Table([_score_row(row, axis, has_success) for row in rows], "task", marks)


def _score_row(row: dict[str, Any], axis: tuple[float, float], has_success: bool) -> Row:
    ablation = row.get("ablation")
    decimals = decimals_of(row.get(k) for k in ("random", "expert", "mean", "low", "high"))
    score, low, high = (row.get(k) if is_number(row.get(k)) else None for k in ("score", "score_low", "score_high"))
    label = f"score {number(score, 1)}, 95 % interval {number(low, 1)} to {number(high, 1)}"
    bar = Markup("") if score is None else interval_bar(score, low, high, axis, (0, 100), label, "control" if ablation else "main")
    cells = {
        "random": Cell("" if ablation else number(row.get("random"), decimals)),
        "expert": Cell("" if ablation else number(row.get("expert"), decimals)),
        "this model": ranged(row.get("mean"), row.get("low"), row.get("high"), decimals),
    }
    if has_success:
        cells["success"] = Cell(percent(row["success"], 0) if is_number(row.get("success")) else "")
    cells["score"] = Cell("undefined") if score is None else ranged(score, low, high, 1, is_bold=True)
    failed = f"{row['failed']} of {row['episodes']} episodes failed" if row.get("failed") else ""
    return Row(str(ablation or row["task"]), cells, bar, "ablation" if ablation else "", failed)


def _notes(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What must be known beside the numbers, and the tasks that could not be played."""
    notes = [(str(row["task"]), note) for row in _plain_rows(results) if "first_failure" in row for note in task_notes(row)]
    return notes + [(str(error["task"]), f"not played: {error['error']}") for error in results.get("errors") or []]


def _against(rows: Sequence[dict[str, Any]]) -> Table | None:
    """The paired differences to another checkpoint."""
    lines = []
    for row in rows:
        decimals = decimals_of((row["difference"], row["low"], row["high"]))
        score = Cell("") if row["score"] is None else ranged(row["score"], row["score_low"], row["score_high"], 1)
        difference = ranged(row["difference"], row["low"], row["high"], decimals)
        lines.append(Row(str(row["task"]), {"pairs": Cell(str(row["pairs"])), "return": difference, "score": score}))
    return Table(lines, "task") if lines else None


def _families(rows: Sequence[dict[str, Any]]) -> Table | None:
    """Interquartile means, and how many tasks exceed each share of the expert."""
    lines = []
    for row in rows:
        success, low, high = (100 * row[k] if is_number(row[k]) else None for k in ("success", "success_low", "success_high"))
        cells = {
            "tasks": Cell(tasks_of(row)), "scored": Cell(str(row["scored"])), "IQM": ranged(row["iqm"], row["low"], row["high"], 1),
            "success": ranged(success, low, high, 0), **{f"> {share} %": Cell(str(count)) for share, count in row["above"].items()},
        }  # fmt: skip
        lines.append(Row(str(row["family"]), cells))
    return Table(lines, "family") if lines else None


# -- pictures and text -----------------------------------------------------------------------------


def _caption_part(part: dict[str, Any]) -> dict[str, Any]:
    chance, kind = part.get("chance", 0.1), pictures_kind(part)
    return {
        "title": str(part.get("split", "")).replace("_", " "), "pictures": counted(part.get("pictures")), "kind": kind,
        "candidates": round(1 / chance), "chance": percent(chance, 0), "retrieval": _retrieval(part, chance),
        "wording": [line.strip() for line in wording_lines(part)],
        "examples": [{"image": "", "caption": "", "title": ""} | example for example in part.get("examples") or []],
    }  # fmt: skip


def _retrieval(part: dict[str, Any], chance: float) -> Table | None:
    rows = [
        _retrieval_row(label, part[key], chance, kind)
        for key, label, kind in (
            ("retrieval", "its own picture", "main"),
            ("shuffled", "another picture (control)", "control"),
            ("blank", "a blank picture (control)", "control"),
            ("nearest", "words of the nearest training picture's caption (control)", "control"),
        )
        if part.get(key)
    ]
    return Table(rows, kind="scores retrieval") if rows else None


def _retrieval_row(label: str, found: dict[str, float], chance: float, kind: str) -> Row:
    mean, low, high = (100 * found[key] for key in ("accuracy", "low", "high"))
    text = percent(found["accuracy"])
    bar = interval_bar(mean, low, high, (0, 100), (100 * chance,), f"{label}: {text}", kind)
    return Row(label, {"score": Cell(text, interval(low, high, 1), is_bold=True)}, bar)


def _bits_per_byte(rows: Sequence[dict[str, Any]]) -> Table | None:
    """How well documents are predicted, a row per store."""
    lines = []
    for row in rows:
        found = row["bits_per_byte"]
        cells = {
            "bits per byte": ranged(found["mean"], found["low"], found["high"], 3, is_bold=True),
            "documents": Cell(counted(row["documents"])), "bytes": Cell(counted(row["bytes"])),
        }  # fmt: skip
        lines.append(Row(Path(str(row["store"])).name, cells))
    return Table(lines, "store") if lines else None


# -- training --------------------------------------------------------------------------------------


def _curves(metrics: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not metrics:
        return None
    last = metrics[-1]
    series = {"all sources": [(line["step"], line["loss"]) for line in metrics]}
    series |= {name: [] for name in sorted({name for line in metrics for name in line.get("loss_by_source", {})})}
    for line in metrics:
        for name, value in line.get("loss_by_source", {}).items():
            series[name].append((line["step"], value))
    finite = {name: [(s, v) for s, v in points if is_number(v)] for name, points in series.items()}
    return {
        "updates": f"{last['step']:,}", "rate": f"{last['tokens'] / max(last['seconds'], 1e-9):,.0f}",
        "padding": percent(sum(line.get("padding_share", 0) for line in metrics) / len(metrics)),
        "lost": sum(len(points) for points in series.values()) - sum(len(points) for points in finite.values()),
        "charts": [_curve(name, points, last["step"], f"loss of {name}") for name, points in finite.items() if points],
        "frames": f"{last['frames']:,}" if "frames" in last else None, "acting": acting_charts(metrics),
    }  # fmt: skip


def acting_charts(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a run that acts: what its last hundred episodes came to, update by update."""
    charts = []
    for name, title in ACTING.items():
        if points := [(line["step"], line[name]) for line in metrics if is_number(line.get(name))]:
            charts.append(_curve(title, points, metrics[-1]["step"], title, is_linear=True))
    return charts


def _curve(name: str, points: Sequence[tuple[float, float]], last_step: float, label: str, is_linear: bool = False) -> dict[str, Any]:
    steps, values = zip(*points, strict=True)
    tail = values[-max(1, len(values) // 50) :]
    end = f"{sum(tail) / len(tail):.3f}"
    return {"name": name, "end": end, "drawn": curve(steps, values, last_step, f"{label}, at the end {end}", is_linear)}


def _plain_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in results.get("tasks") or [] if not row.get("ablation")]
