"""The pages of `gato data inspect --html` and `gato data show --html`, and the text of `gato data show`."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gato.batch import Kind
from gato.data.mixture import Mixture, Row
from gato.data.source import Source
from gato.page import write_page
from gato.spec import PATCH_SIZE, Modality

from .figures import Histogram, Inspection, SourceFigures, TaskFigures

THUMBNAILS = 6  # of a task
MAX_TEXT = 300  # characters of a sample
SCALE = 2  # of the patches on a row's page
LABELS = ("rows", "tokens", "loss", "epochs", "padding", "cut", "prompts")  # of the numbers of a source


def write_inspection(found: Inspection, mixture: Mixture, name: str, out: Path) -> Path:
    """One self-contained page: the table of sources, and for each task its histograms and samples of its episodes."""
    facts = {
        "sources": f"{len(found.sources):,}", "episodes": f"{sum(t.episodes for s in found.sources for t in s.tasks):,}",
        "tokens": f"{sum(t.tokens for s in found.sources for t in s.tasks):,}",
        "updates of rows": f"{found.steps:,} of {found.batch_size:,}", "context": f"{found.context_length:,}",
    }  # fmt: skip
    details = [
        {"name": figures.source, "tasks": [_task(source, figures, task) for task in figures.tasks]}
        for source, figures in zip(mixture.sources, found.sources, strict=True)
    ]
    return write_page(
        out, "inspection.html", name, headline=facts, held_out=found.held_out, findings=found.findings, details=details,
        sampled_rows=found.sources[0].sampled_rows if found.sources else 0, labels=LABELS,
        sources=[_source_row(s) for s in found.sources],
    )  # fmt: skip


def row_text(mixture: Mixture, step: int, index: int, row: Row) -> str:
    """A row as training saw it: where its parts come from, then a line a timestep."""
    source = mixture.sources[row.source]
    unit = "tokens" if source.is_text else "timesteps"
    pieces = [f"  {p.role}: episode {p.episode}, {unit} {p.start} to {p.stop - 1}" for p in row.pieces]
    room = "tokens" if row.tokens.layout == "gato" else "positions"  # which several tokens may share
    head = f"update {step}, row {index}: source {source.name}, {len(row.tokens)} of {mixture.context_length} {room}, "
    head += f"{int(row.tokens.is_predicted.sum())} targets"
    return "\n".join([head, *pieces, "", mixture.tokenizer.show(row.tokens)])


def write_row(mixture: Mixture, step: int, index: int, row: Row, out: Path) -> Path:
    """The same as a page on which patches lie where they lay in their picture, each as large as it is times `SCALE`."""
    name = f"update {step}, row {index}"
    text = row_text(mixture, step, index, row).split("\n\n", 1)[0]
    return write_page(out, "row.html", name, about=text, timesteps=_timesteps(mixture, row))


def _timesteps(mixture: Mixture, row: Row) -> Iterator[dict[str, Any]]:
    """The tokens and pictures of each timestep of a row."""
    task, tokenizer = mixture.sources[row.source].task, mixture.tokenizer
    fields = [f for f in task.observations if f.modality is Modality.IMAGE]
    patches = iter(zip(row.tokens.patches, row.tokens.patch_boxes, strict=True))
    for (document, timestep), entries in groupby(tokenizer.table(row.tokens), lambda e: (e["document"], e["timestep"])):
        images, parts = iter(fields), list[dict[str, Any]]()
        for is_patch, run in groupby(entries, lambda e: e["kind"] == Kind.PATCH.name.lower()):
            if not is_patch:
                parts += [{"text": "|" if e["kind"] == "separator" else str(e["value"]), "is_target": e["target"]} for e in run]
                continue
            pixels = [_patch(*next(patches)) for _ in run]
            while pixels:  # pictures follow one another; the row's end may cut the last
                order = tokenizer.patch_order(task, field := next(images))
                shown = sorted(zip(order, pixels, strict=False), key=lambda pair: pair[0])  # in raster order
                parts.append({"columns": field.patched_size[1] // PATCH_SIZE, "patches": [patch for _, patch in shown]})
                pixels = pixels[len(order) :]
        yield {"place": f"{document}.{timestep}", "parts": parts}


def _patch(pixels: np.ndarray, box: np.ndarray) -> dict[str, str]:
    return {"image": _png(pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)), "where": "row {}, column {}".format(*box[::2])}


# -- parts of the inspection -------------------------------------------------------------------------


def _source_row(s: SourceFigures) -> dict[str, Any]:
    """Its numbers by `LABELS`, and a bar."""
    numbers = [
        f"{s.share_of_rows:.1%}", f"~{s.share_of_tokens:.1%}", f"~{s.share_of_loss:.1%}", f"~{s.epochs:.3g}",
        f"~{s.padding:.1%}", f"~{s.cut:.0%}", f"~{s.prompts:.0%}",
    ]  # fmt: skip
    return {"name": s.source, "cells": numbers, "bar": f"{100 * s.share_of_loss:.2f}"}


def _task(source: Source, s: SourceFigures, t: TaskFigures) -> dict[str, Any]:
    n = t.sampled_timesteps
    kinds = ", ".join(f"{share:.0%} {kind}" for kind, share in t.modalities.items())
    estimate = f"about {t.tokens:,} (from {n} timesteps)" if n else f"{t.tokens:,}"
    scanned = f" of {t.scanned_timesteps:,} sampled timesteps" if t.scanned_timesteps is not None else ""
    facts = {
        "episodes": f"{t.episodes:,}", "timesteps": f"{t.timesteps:,}", "tokens": estimate,
        "targets": f"{t.targets / max(t.tokens, 1):.1%} of the tokens", "kinds of tokens": kinds,
        "loss": f"~{t.share_of_loss:.1%} of all weighted targets", "epochs": f"~{s.epochs:.3g}",
        "behaviours": ", ".join(f"{count:,} {name}" for name, count in t.behaviours.items()),
    }  # fmt: skip
    if t.returns:
        known = [f"{name} {value:g}" for name, value in (("random", t.random_return), ("expert", t.expert_return)) if value is not None]
        facts["returns"] = (
            f"mean {t.returns['mean']:.4g}, from {t.returns['lowest']:.4g} to {t.returns['highest']:.4g} ({', '.join(known)})"
        )
    if t.success is not None:
        facts["success"] = f"{t.success:.0%}"
    facts |= _odd_values(t, scanned)
    plots = [_plot(("action" if name == "action" else f"action {name}") + scanned, h) for name, h in t.actions.items()]
    if t.return_histogram:
        marks = {"random": t.random_return, "expert": t.expert_return}
        plots.append(_plot("returns", t.return_histogram, {name: value for name, value in marks.items() if value is not None}))
    samples = _samples(source, t.task)
    has_pictures = any(sample["images"] for sample in samples)
    return {"name": t.task, "facts": facts, "plots": plots, "samples": samples, "has_pictures": has_pictures}


def _odd_values(t: TaskFigures, scanned: str) -> dict[str, str]:
    """Shares of the numeric values; tasks that have none say nothing."""
    counts = {
        "observations out of bounds": (t.out_of_bounds, t.observation_values),
        "observations clipped by the tokenizer": (t.clipped, t.observation_values),
        "actions at an end of their range": (t.actions_at_bounds, t.action_values),
    }
    shares = {name: f"{count / total:.2%} ({count:,} of {total:,} values{scanned})" for name, (count, total) in counts.items() if total}
    return shares | ({"actions clipped when recorded": f"{t.clipped_actions:,} values"} if t.action_values else {})


def _plot(title: str, h: Histogram, marks: Mapping[str, float] = {}) -> dict[str, Any]:
    """Bars from zero, the highest as high as the plot; `marks` are lines at values."""
    top, width = max(1, *h.counts), 100 / len(h.counts)
    bars = [
        {"x": f"{i * width:.2f}", "y": f"{100 - height:.2f}", "width": f"{0.9 * width:.2f}", "height": f"{height:.2f}"}
        for i, height in enumerate(100 * count / top for count in h.counts)
    ]
    known = "; " + ", ".join(f"{name} {'dashed' if name == 'random' else 'solid'}" for name in marks) if marks else ""
    half = 0.5 if h.is_discrete else 0.0
    return {
        "label": f"{title}: {sum(h.counts):,} values{known}", "bars": bars,
        "marks": [{"name": name, "x": f"{100 * (value - h.low) / (h.high - h.low):.2f}"} for name, value in marks.items()],
        "low": f"{h.low + half:.4g}", "high": f"{h.high - half:.4g}",
    }  # fmt: skip


def _samples(source: Source, task: str) -> list[dict[str, Any]]:
    """The first timesteps of episodes spread evenly over the task: pictures where it has some, and texts."""
    index = next(i for i, t in enumerate(source.store.tasks) if t.name == task)
    places = source.places_of_task(index)
    if places is None or not any(f.modality in (Modality.IMAGE, Modality.TEXT) for f in source.task.fields):
        return []
    samples = []
    for place in np.linspace(0, places.total - 1, min(THUMBNAILS, places.num_episodes), dtype=np.int64).tolist():
        episode = source.store.episode(places.find(place), 0, 1)
        values = {**episode.observations, **episode.actions}
        texts = [str(values[f.name][0]) for f in episode.task.fields if f.modality is Modality.TEXT]
        images = [(f.name, _png(values[f.name][0])) for f in episode.task.observations if f.modality is Modality.IMAGE]
        samples.append({"images": images, "texts": [t[:MAX_TEXT] + ("…" if len(t) > MAX_TEXT else "") for t in texts]})
    return samples


def _png(pixels: np.ndarray) -> str:
    """uint8 (rows, columns, 3) as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
