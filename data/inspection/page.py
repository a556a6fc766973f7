"""The pages of `gato data inspect --html` and `gato data show --html`, and the text of `gato data show`."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from gato.batch import Kind
from gato.data.mixture import Mixture, Row
from gato.data.source import Source
from gato.page import section, write_page
from gato.spec import PATCH_SIZE, Modality

from .figures import Histogram, Inspection, SourceFigures, TaskFigures

THUMBNAILS = 6  # of a task
MAX_TEXT = 300  # characters of a sample
SCALE = 2  # of the patches on a row's page


def write_inspection(found: Inspection, mixture: Mixture, name: str, out: Path) -> Path:
    """One self-contained page: the table of sources, and for each task its histograms and samples of its episodes."""
    facts = {
        "sources": f"{len(found.sources):,}", "episodes": f"{sum(t.episodes for s in found.sources for t in s.tasks):,}",
        "tokens": f"{sum(t.tokens for s in found.sources for t in s.tasks):,}",
        "updates of rows": f"{found.steps:,} of {found.batch_size:,}", "context": f"{found.context_length:,}",
    }  # fmt: skip
    lead = f"What training on {name} sees." + (f" Held out: {', '.join(found.held_out)}." if found.held_out else "")
    header = (
        f'<header>\n<p class="kicker">opengato &middot; inspection of a mixture</p>\n<h1>{escape(name)}</h1>\n{_lead(lead, facts)}</header>'
    )
    body = [header, section("Sources", _note(found), _sources_table(found)), _findings(found)]
    for source, figures in zip(mixture.sources, found.sources, strict=True):
        body.append(section(figures.source, *(_task(source, figures, task) for task in figures.tasks)))
    return write_page(out, name, body)


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
    kicker = '<p class="kicker">opengato &middot; a row of training</p>'
    header = f"<header>{kicker}<h1>{escape(name)}</h1><pre>{escape(text)}</pre></header>"
    about = "<p>A line is a timestep, numbered document.timestep; targets are bold.</p>"
    return write_page(out, name, [header, section("Tokens", about, *_timesteps(mixture, row))])


def _timesteps(mixture: Mixture, row: Row) -> Iterator[str]:
    """A paragraph for each timestep of a row."""
    fields = [f for f in mixture.sources[row.source].task.observations if f.modality is Modality.IMAGE]
    patches = iter(zip(row.tokens.patches, row.tokens.patch_boxes, strict=True))
    for (document, timestep), entries in groupby(mixture.tokenizer.table(row.tokens), lambda e: (e["document"], e["timestep"])):
        images, parts = iter(fields), []
        for is_patch, run in groupby(entries, lambda e: e["kind"] == Kind.PATCH.name.lower()):
            if not is_patch:
                marks = ((escape("|" if e["kind"] == "separator" else str(e["value"])), e["target"]) for e in run)
                parts += [f"<b>{mark}</b> " if is_target else f"{mark} " for mark, is_target in marks]
                continue
            pixels = [_patch(*next(patches)) for _ in run]
            while pixels:  # pictures follow one another; the row's end may cut the last
                rows, columns = (n // PATCH_SIZE for n in next(images).patched_size)
                grid, pixels = pixels[: rows * columns], pixels[rows * columns :]
                parts.append(f'<span class="picture" style="grid-template-columns: repeat({columns}, auto)">{"".join(grid)}</span> ')
        yield f'<p class="tokens"><small>{document}.{timestep}</small> {"".join(parts)}</p>'


def _patch(pixels: np.ndarray, box: np.ndarray) -> str:
    where = "row {}, column {}".format(*box[::2])
    return f'<img src="{_png(pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1))}" alt="patch at {where}" title="{where} of 128">'


# -- parts of the inspection -------------------------------------------------------------------------


def _lead(text: str, facts: dict[str, str]) -> str:
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f'<p class="lead">{escape(text)}</p>\n<dl class="facts">{cells}</dl>\n'


def _note(found: Inspection) -> str:
    n = found.sources[0].sampled_rows if found.sources else 0
    return (
        f"<p>Rows are exact; what has a tilde is estimated: loss, epochs, padding and cut timesteps from {n} drawn rows a source, "
        "tokens of tasks with text from the number of timesteps given with them. "
        "Loss is the share of the weighted targets: the effective weight.</p>"
    )


def _sources_table(found: Inspection) -> str:
    labels = ("rows", "tokens", "loss", "epochs", "padding", "cut", "prompts")
    head = "".join(f'<th scope="col" class="number">{label}</th>' for label in labels)
    body = "".join(_source_row(s) for s in found.sources)
    head = f'<tr><th scope="col">source</th>{head}<th scope="col" class="axis"><span>share of the loss</span></th></tr>'
    return f'<table class="scores"><thead>{head}</thead><tbody>{body}</tbody></table>'


def _source_row(s: SourceFigures) -> str:
    values = {
        "rows": f"{s.share_of_rows:.1%}", "tokens": f"~{s.share_of_tokens:.1%}", "loss": f"~{s.share_of_loss:.1%}",
        "epochs": f"~{s.epochs:.3g}", "padding": f"~{s.padding:.1%}", "cut": f"~{s.cut:.0%}", "prompts": f"~{s.prompts:.0%}",
    }  # fmt: skip
    cells = "".join(f'<td class="number" data-label="{k}">{v}</td>' for k, v in values.items())
    bar = f'<rect class="bar" width="{100 * s.share_of_loss:.2f}%" y="7" height="10"/>'
    bar = f'<svg class="interval" height="24" role="img" aria-label="share of the loss">{bar}</svg>'
    return f'<tr><th scope="row">{escape(s.source)}</th>{cells}<td class="axis">{bar}</td></tr>'


def _findings(found: Inspection) -> str:
    if not found.findings:
        return section("Findings", '<p class="absent">Nothing out of the ordinary.</p>')
    return section("Findings", "".join(f"<p>{escape(line)}</p>" for line in found.findings))


def _task(source: Source, s: SourceFigures, t: TaskFigures) -> str:
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
    rows = "".join(f"<tr><th scope='row'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    plots = [_plot(("action" if name == "action" else f"action {name}") + scanned, h) for name, h in t.actions.items()]
    if t.return_histogram:
        marks = {"random": t.random_return, "expert": t.expert_return}
        plots.append(_plot("returns", t.return_histogram, {name: value for name, value in marks.items() if value is not None}))
    charts = f'<div class="curves">{"".join(plots)}</div>' if plots else ""
    return f'<h3>{escape(t.task)}</h3><table class="scores">{rows}</table>{charts}{_samples(source, t.task)}'


def _odd_values(t: TaskFigures, scanned: str) -> dict[str, str]:
    """Shares of the numeric values; tasks that have none say nothing."""
    counts = {
        "observations out of bounds": (t.out_of_bounds, t.observation_values),
        "observations clipped by the tokenizer": (t.clipped, t.observation_values),
        "actions at an end of their range": (t.actions_at_bounds, t.action_values),
    }
    shares = {name: f"{count / total:.2%} ({count:,} of {total:,} values{scanned})" for name, (count, total) in counts.items() if total}
    return shares | ({"actions clipped when recorded": f"{t.clipped_actions:,} values"} if t.action_values else {})


def _plot(title: str, h: Histogram, marks: Mapping[str, float] = {}) -> str:
    """Bars from zero, the highest as high as the plot; `marks` are lines at values."""
    top, width = max(1, *h.counts), 100 / len(h.counts)
    bars = "".join(
        f'<rect class="bin" x="{i * width:.2f}" y="{100 - height:.2f}" width="{0.9 * width:.2f}" height="{height:.2f}"/>'
        for i, height in enumerate(100 * count / top for count in h.counts)
    )
    for name, value in marks.items():
        x = 100 * (value - h.low) / (h.high - h.low)
        bars += f'<line class="mark {name}" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="100"/>'
    known = "; " + ", ".join(f"{name} {'dashed' if name == 'random' else 'solid'}" for name in marks) if marks else ""
    half = 0.5 if h.is_discrete else 0.0
    label = escape(f"{title}: {sum(h.counts):,} values{known}")
    return (
        f'<figure class="curve"><figcaption><span>{label}</span></figcaption><div class="plot"><svg viewBox="0 0 100 100" '
        f'preserveAspectRatio="none" role="img" aria-label="{label}">{bars}</svg></div>'
        f'<div class="steps"><span>{h.low + half:.4g}</span><span>{h.high - half:.4g}</span></div></figure>'
    )


def _samples(source: Source, task: str) -> str:
    """The first timesteps of episodes spread evenly over the task: pictures where it has some, and texts."""
    index = next(i for i, t in enumerate(source.store.tasks) if t.name == task)
    places = source.places_of_task(index)
    if places is None or not any(f.modality in (Modality.IMAGE, Modality.TEXT) for f in source.task.fields):
        return ""
    cards = []
    for place in np.linspace(0, places.total - 1, min(THUMBNAILS, places.num_episodes), dtype=np.int64).tolist():
        episode = source.store.episode(places.find(place), 0, 1)
        values = {**episode.observations, **episode.actions}
        texts = [str(values[f.name][0]) for f in episode.task.fields if f.modality is Modality.TEXT]
        words = "".join(f"<span>{escape(t[:MAX_TEXT] + ('…' if len(t) > MAX_TEXT else ''))}</span>" for t in texts)
        pictures = "".join(
            f'<img src="{_png(values[f.name][0])}" alt="{escape(f.name)}">'
            for f in episode.task.observations
            if f.modality is Modality.IMAGE
        )
        cards.append(f"<figure>{pictures}<figcaption>{words}</figcaption></figure>" if pictures else f"<blockquote>{words}</blockquote>")
    joined = "".join(cards)
    return joined if joined.startswith("<blockquote") else f'<div class="cards">{joined}</div>'


def _png(pixels: np.ndarray) -> str:
    """uint8 (rows, columns, 3) as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
