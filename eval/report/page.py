"""`gato plot`: a run's scores, film strips, captions, texts and loss curves as one HTML page.

The page needs nothing but itself: the style is inlined, pictures are data URIs, charts are inline SVG, there
is no script, and its content policy forbids every load. All text that comes from data is escaped.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from gato.eval.words.captioning import pictures_kind, wording_lines
from gato.page import absent, section, write_page
from gato.train.metrics import read_metrics

from .chart import curve, interval_bar, score_axis
from .table import task_notes, tasks_of
from .values import cell, counted, data_uri, decimals_of, duration, interval, is_number, number, percent, short


def write_report(run: Path, out: Path) -> Path:
    """Writes the page of a run's folder; a section for which the folder holds nothing is left out.

    **Arguments:** `run`: holds `run.json`, `metrics.jsonl` and `final/eval.json`, as far as they exist;
    `out`: the HTML file.

    **Returns:** `out`.

    **Raises:** `ValueError` if the folder holds none of the three, or one that cannot be read.
    """
    settings, results = _read_json(run / "run.json"), _read_json(run / "final" / "eval.json")
    metrics = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else []
    if not (settings or results or metrics):
        raise ValueError(f"'{run}' holds no run: neither run.json nor metrics.jsonl nor final/eval.json; name a folder such as runs/demo")
    results = results or {}
    name = str((settings or {}).get("train", {}).get("name") or run.resolve().name)
    body = [
        _header(name, _num_parameters(run / "final"), metrics, results),
        _scores(results), _films(results), _captions(results), _texts(results), _curves(metrics), _settings(settings),
    ]  # fmt: skip
    return write_page(out, name, body)


# -- headline --------------------------------------------------------------------------------------


def _header(name: str, parameters: int | None, metrics: Sequence[dict[str, Any]], results: dict[str, Any]) -> str:
    scores = [row["score"] for row in _plain_rows(results) if is_number(row.get("score"))]
    facts = [("parameters", f"{parameters:,}" if parameters else "unknown")]
    if metrics:
        last = metrics[-1]
        facts += [
            ("tokens", short(last["tokens"])), ("training time", duration(last["seconds"])), ("updates", f"{last['step']:,}"),
        ]  # fmt: skip
    if scores:
        facts.append(("tasks with a score of 50 or more", f"{sum(s >= 50 for s in scores)} of {len(scores)}"))
    cells = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in facts)
    missing = "" if metrics else absent("How long this run trained is not known: metrics.jsonl is missing or empty.")
    return (
        f'<header>\n<p class="kicker">opengato &middot; report of a run</p>\n<h1>{escape(name)}</h1>\n'
        f'<p class="lead">{escape(_lead(results))}</p>\n<dl class="facts">{cells}</dl>\n{missing}</header>'
    )


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
    """Counted from the headers of the safetensors files: 8 bytes of length, then JSON with every tensor's shape."""
    total = 0
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total or None


# -- control ---------------------------------------------------------------------------------------


def _scores(results: dict[str, Any]) -> str:
    rows = results.get("tasks") or []
    if not rows and not results.get("errors"):
        return ""
    if not rows:
        return section("Control", _notes(results))
    numbers = [row[k] for row in rows for k in ("score", "score_low", "score_high") if is_number(row.get(k))]
    axis = score_axis(numbers)
    has_success = any(is_number(row.get("success")) for row in rows)
    body = "\n".join(_score_row(row, axis, has_success) for row in rows)
    head = "".join(f'<th scope="col" class="number">{label}</th>' for label in ("random", "expert", "this model"))
    head += '<th scope="col" class="number">success</th>' if has_success else ""
    head += f'<th scope="col" class="number">score</th><th scope="col" class="axis">{_axis_labels(axis)}</th>'
    about = (
        f"Mean return over {counted(results.get('episodes'))} episodes a task, with its 95 % interval in grey. "
        f"The score puts the random policy at 0 and the expert at 100. Start seed {counted(results.get('seed'))}."
    )
    if any(row.get("ablation") for row in rows):
        about += " Indented rows repeat a task with part of its observation taken away."
    table = f'<table class="scores"><thead><tr><th scope="col">task</th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    return section(
        "Control", f"<p>{escape(about)}</p>", table, _notes(results), _families(results.get("families") or []), _against(results)
    )


def _score_row(row: dict[str, Any], axis: tuple[float, float], has_success: bool) -> str:
    ablation = row.get("ablation")
    name = escape(str(ablation or row["task"]))
    if row.get("failed"):
        name += f'<small class="failed">{row["failed"]} of {row["episodes"]} episodes failed</small>'
    decimals = decimals_of(row.get(k) for k in ("random", "expert", "mean", "low", "high"))
    score, low, high = (row.get(k) if is_number(row.get(k)) else None for k in ("score", "score_low", "score_high"))
    label = f"score {number(score, 1)}, 95 % interval {number(low, 1)} to {number(high, 1)}"
    bar = "" if score is None else interval_bar(score, low, high, axis, (0, 100), label, "control" if ablation else "main")
    cells = [
        cell("random", "" if ablation else number(row.get("random"), decimals)),
        cell("expert", "" if ablation else number(row.get("expert"), decimals)),
        cell("this model", f"{number(row.get('mean'), decimals)}{interval(row.get('low'), row.get('high'), decimals)}"),
    ]
    if has_success:
        cells.append(cell("success", percent(row["success"], 0) if is_number(row.get("success")) else ""))
    cells.append(cell("score", f"<b>{number(score, 1)}</b>{interval(low, high, 1)}" if score is not None else "undefined"))
    kind = ' class="ablation"' if ablation else ""
    return f'<tr{kind}><th scope="row">{name}</th>{"".join(cells)}<td class="axis">{bar}</td></tr>'


def _notes(results: dict[str, Any]) -> str:
    """What must be known beside the numbers, and the tasks that could not be played."""
    notes = [(row["task"], note) for row in _plain_rows(results) if "first_failure" in row for note in task_notes(row)]
    notes += [(error["task"], f"not played: {error['error']}") for error in results.get("errors") or []]
    lines = "".join(f"<li>{escape(str(task))}: {escape(note)}</li>" for task, note in notes)
    return f"<ul>{lines}</ul>" if lines else ""


def _against(results: dict[str, Any]) -> str:
    """The paired differences to another checkpoint."""
    found = results.get("against")
    if not found or not found["tasks"]:
        return ""
    lines = []
    for row in found["tasks"]:
        decimals = decimals_of((row["difference"], row["low"], row["high"]))
        score = "" if row["score"] is None else f"{number(row['score'], 1)}{interval(row['score_low'], row['score_high'], 1)}"
        values = {
            "pairs": str(row["pairs"]), "return": f"{number(row['difference'], decimals)}{interval(row['low'], row['high'], decimals)}",
            "score": score,
        }  # fmt: skip
        cells = "".join(cell(label, value) for label, value in values.items())
        lines.append(f'<tr><th scope="row">{escape(str(row["task"]))}</th>{cells}</tr>')
    head = "".join(f'<th scope="col" class="number">{label}</th>' for label in ("pairs", "return", "score"))
    about = f"This model minus {found['checkpoint']}, on the same episodes; the intervals are of the paired differences."
    return (
        f'<p>{escape(about)}</p>\n<table class="scores"><thead><tr><th scope="col">task</th>{head}</tr></thead>\n'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _families(rows: Sequence[dict[str, Any]]) -> str:
    """Interquartile means, and how many tasks exceed each share of the expert."""
    if not rows:
        return ""
    shares = list(rows[0]["above"])
    labels = ["tasks", "scored", "IQM", "success", *(f"&gt; {x} %" for x in shares)]
    head = "".join(f'<th scope="col" class="number">{label}</th>' for label in labels)
    lines = []
    for row in rows:
        success = [100 * row[k] if is_number(row[k]) else None for k in ("success", "success_low", "success_high")]
        values = [
            tasks_of(row), str(row["scored"]),
            f"{number(row['iqm'], 1)}{interval(row['low'], row['high'], 1)}",
            f"{number(success[0], 0)}{interval(success[1], success[2], 0)}", *(str(row["above"][x]) for x in shares),
        ]  # fmt: skip
        cells = "".join(cell(label, value) for label, value in zip(labels, values, strict=True))
        lines.append(f'<tr><th scope="row">{escape(str(row["family"]))}</th>{cells}</tr>')
    about = (
        "By family: tasks played of those registered, the interquartile mean of their scores, success in per cent, "
        "and how many exceed a share of the expert."
    )
    return (
        f'<p>{escape(about)}</p>\n<table class="scores"><thead><tr><th scope="col">family</th>{head}</tr></thead>\n'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _axis_labels(axis: tuple[float, float]) -> str:
    def at(value: float) -> float:
        return round(100 * (value - axis[0]) / (axis[1] - axis[0]), 2)

    return f'<span style="left:{at(0)}%">0 random</span><span style="left:{at(100)}%" class="end">100 expert</span>'


def _films(results: dict[str, Any]) -> str:
    films = results.get("films") or {}
    if not films:
        return ""
    figures = [
        f'<figure class="film"><figcaption>{escape(task)}</figcaption>'
        f'<div tabindex="0"><img src="{data_uri(film)}" alt="frames of an episode of {escape(task)}"></div></figure>'
        for task, film in films.items()
    ]
    return section("Episodes", "<p>The first evaluated episode of each task, from left to right; not selected.</p>", *figures)


# -- pictures and text -----------------------------------------------------------------------------


def _captions(results: dict[str, Any]) -> str:
    parts = results.get("captions") or []
    if not parts:
        return ""
    return section("Captions", *(_caption_part(part) for part in parts))


def _caption_part(part: dict[str, Any]) -> str:
    title = f"<h3>{escape(str(part.get('split', '')).replace('_', ' '))}</h3>"
    cards = "".join(_card(example) for example in part.get("examples") or [])
    measured = _retrieval(part) + _wording(part)
    if not cards:
        return title + measured
    legend = (
        f'<p>{escape(pictures_kind(part).capitalize())} in random order, not selected: <span class="ours">the model\'s caption</span>, '
        'and below it <span class="human">the title a human gave</span>.</p>'
    )
    return f'{title}{measured}{legend}<div class="cards">{cards}</div>'


def _wording(part: dict[str, Any]) -> str:
    """How alike the captions' words are to those of people, a row per speaker."""
    lines = [line.strip() for line in wording_lines(part)]
    return f"<p>{escape(lines[0])}</p><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines[1:])}</ul>" if lines else ""


def _card(example: dict[str, Any]) -> str:
    caption, title = str(example.get("caption") or "(nothing)"), str(example.get("title", ""))
    picture = f'<img src="{data_uri(example["image"])}" alt="{escape(title)}">' if example.get("image") else ""
    words = f'<span class="ours">{escape(caption)}</span><span class="human">{escape(title)}</span>'
    return f"<figure>{picture}<figcaption>{words}</figcaption></figure>"


def _retrieval(part: dict[str, Any]) -> str:
    chance = part.get("chance", 0.1)
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
    if not rows:
        return ""
    about = (
        f"Choosing the right title for each of {counted(part.get('pictures'))} {pictures_kind(part)} "
        f"among {round(1 / chance)} by likelihood; "
        f"chance is {percent(chance, 0)} (the upright line)."
    )
    return f'<p>{escape(about)}</p><table class="scores retrieval"><tbody>{"".join(rows)}</tbody></table>'


def _retrieval_row(label: str, found: dict[str, float], chance: float, kind: str) -> str:
    text = f"<b>{percent(found['accuracy'])}</b>{interval(100 * found['low'], 100 * found['high'], 1)}"
    values = (100 * found["accuracy"], 100 * found["low"], 100 * found["high"])
    bar = interval_bar(*values, (0, 100), (100 * chance,), f"{label}: {percent(found['accuracy'])}", kind)
    return f'<tr><th scope="row">{escape(label)}</th><td class="number" data-label="score">{text}</td><td class="axis">{bar}</td></tr>'


def _texts(results: dict[str, Any]) -> str:
    texts = results.get("text") or []
    measured = _bits_per_byte(results.get("bits_per_byte") or [])
    if not texts:
        return section("Text", measured) if measured else ""
    pairs = [(escape(str(t["prompt"])), escape(str(t["continuation"]))) for t in texts]
    quotes = [f'<blockquote><span class="human">{p}</span><span class="ours">{c}</span></blockquote>' for p, c in pairs]
    about = '<p><span class="human">The given beginning</span> and <span class="ours">how the model goes on</span>; not selected.</p>'
    return section("Text", measured, about, *quotes)


def _bits_per_byte(rows: Sequence[dict[str, Any]]) -> str:
    """How well documents are predicted, a row per store."""
    lines = []
    for row in rows:
        found = row["bits_per_byte"]
        values = {
            "bits per byte": f"<b>{number(found['mean'], 3)}</b>{interval(found['low'], found['high'], 3)}",
            "documents": counted(row["documents"]), "bytes": counted(row["bytes"]),
        }  # fmt: skip
        cells = "".join(cell(label, value) for label, value in values.items())
        lines.append(f'<tr><th scope="row">{escape(Path(str(row["store"])).name)}</th>{cells}</tr>')
    if not lines:
        return ""
    head = "".join(f'<th scope="col" class="number">{label}</th>' for label in ("bits per byte", "documents", "bytes"))
    return f'<table class="scores"><thead><tr><th scope="col">store</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


# -- training --------------------------------------------------------------------------------------


def _curves(metrics: Sequence[dict[str, Any]]) -> str:
    if not metrics:
        return ""
    last = metrics[-1]
    series = {"all sources": [(line["step"], line["loss"]) for line in metrics]}
    series |= {name: [] for name in sorted({name for line in metrics for name in line.get("loss_by_source", {})})}
    for line in metrics:
        for name, value in line.get("loss_by_source", {}).items():
            series[name].append((line["step"], value))
    finite = {name: [(s, v) for s, v in points if is_number(v)] for name, points in series.items()}
    charts = [_curve(name, points, last["step"]) for name, points in finite.items() if points]
    padding = sum(line.get("padding_share", 0) for line in metrics) / len(metrics)
    about = (
        f"Loss per target over {last['step']:,} updates, a chart for each source; smoothed, with single updates behind, "
        f"on logarithmic axes. {last['tokens'] / max(last['seconds'], 1e-9):,.0f} tokens a second; "
        f"{percent(padding)} of the places were padding."
    )
    lost = sum(len(points) for points in series.values()) - sum(len(points) for points in finite.values())
    note = [absent(f"{lost} losses were not finite and are left out.")] if lost else []
    return section("Training", f"<p>{escape(about)}</p>", *note, f'<div class="curves">{"".join(charts)}</div>')


def _curve(name: str, points: Sequence[tuple[float, float]], last_step: float) -> str:
    steps, values = zip(*points, strict=True)
    tail = values[-max(1, len(values) // 50) :]
    end = sum(tail) / len(tail)
    chart = curve(steps, values, last_step, f"loss of {name}, at the end {end:.3f}")
    caption = f"<figcaption><span>{escape(name)}</span><b>{end:.3f}</b></figcaption>"
    return f'<figure class="curve">{caption}{chart}<div class="steps"><span>0</span><span>{last_step:,}</span></div></figure>'


def _settings(settings: dict[str, Any] | None) -> str:
    if not settings:
        return ""
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return section("Settings", f"<details><summary>the resolved configuration</summary><pre>{escape(text)}</pre></details>")


# -- files ----------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not valid JSON ({error}); write it again") from None


def _plain_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in results.get("tasks") or [] if not row.get("ablation")]
