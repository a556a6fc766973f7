"""`gato plot RUN RUN...`: the losses of several runs over one another, with what they cost, as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gato.page import write_page
from gato.train.metrics import read_metrics

from .chart import curves
from .page import ACTING

MAX_RUNS = 12
TITLES = ("run", "updates", "tokens", "seconds", "tokens a second", "skipped", "loss at the end")


def write_comparison(runs: Sequence[Path], out: Path) -> Path:
    """Writes the page of several runs' folders.

    **Raises:** `ValueError` for a folder without updates, more runs than colours can tell apart, or two of one name.
    """
    if len(runs) > MAX_RUNS:
        raise ValueError(f"{len(runs)} runs in one chart cannot be told apart; name at most {MAX_RUNS}")
    metrics: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        lines = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else []
        if not lines:
            raise ValueError(f"'{run}' has no update in its metrics.jsonl; name folders such as runs/demo")
        if str(run) in metrics:
            raise ValueError(f"'{run}' is named twice; name every run once")
        metrics[str(run)] = lines
    colours = {name: f"hsl({round(360 * i / len(metrics))} 65% 45%)" for i, name in enumerate(metrics)}
    last_step = max(lines[-1]["step"] for lines in metrics.values())
    names = ["all sources", *sorted({name for lines in metrics.values() for line in lines for name in line.get("loss_by_source", {})})]
    charts = [chart for name in names if (chart := _chart(name, metrics, colours, last_step))]
    charts += [chart for name in ACTING if (chart := _chart(name, metrics, colours, last_step, is_loss=False))]
    rows = [{"name": run, "colour": colours[run], "cells": _cells(lines)} for run, lines in metrics.items()]
    return write_page(out, "comparison.html", f"{len(metrics)} runs", titles=TITLES, runs=rows, charts=charts, last_step=f"{last_step:,}")


def _chart(
    name: str, metrics: dict[str, list[dict[str, Any]]], colours: dict[str, str], last_step: int, is_loss: bool = True
) -> dict[str, Any] | None:
    """One source's losses in all runs that have it, or another metric."""
    drawn: dict[str, tuple[list[float], list[float]]] = {}
    for run, lines in metrics.items():
        values = ({"all sources": line["loss"], **line.get("loss_by_source", {})} if is_loss else line for line in lines)
        points = [(line["step"], found.get(name)) for line, found in zip(lines, values, strict=True)]
        if finite := [(step, value) for step, value in points if value is not None and math.isfinite(value)]:
            drawn[colours[run]] = ([step for step, _ in finite], [value for _, value in finite])
    title, label = (name, f"loss of {name}") if is_loss else (ACTING[name], ACTING[name])
    return {"name": title, "drawn": curves(drawn, last_step, label, is_linear=not is_loss)} if drawn else None


def _cells(lines: list[dict[str, Any]]) -> list[str]:
    """What a run cost, by `TITLES`."""
    last, tail = lines[-1], [line["loss"] for line in lines[-max(1, len(lines) // 50) :]]
    return [
        f"{last['step']:,}", f"{last['tokens']:,}", f"{last['seconds']:,.0f}", f"{last['tokens'] / max(last['seconds'], 1e-9):,.0f}",
        f"{last.get('skipped', 0)}", f"{sum(tail) / len(tail):.4f}",
    ]  # fmt: skip
