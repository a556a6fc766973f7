"""The page of `gato arena`: who does what of a task, with films of a success and of a failure side by side."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from gato.eval.arena import percent
from gato.page import section, write_page

HEADS = ("shown", "who", "seeds", "success", "wrong object", "score", "seconds to adapt", "bytes a task", "parameters")


def write_arena(results: dict[str, Any], out: Path) -> Path:
    """Writes the page of what `arena` returned."""
    body = ["<header><h1>Arena</h1></header>"]
    for task in dict.fromkeys(line["task"] for line in results["lines"]):
        lines = [line for line in results["lines"] if line["task"] == task]
        body.append(section(task, _table(lines), *(f"<p>{escape(_why(line))}</p>" for line in lines if line["error"])))
        body += [section(f"{task}: films", *films)] if (films := _films(results, task)) else []
    return write_page(out, "Arena", body)


def _table(lines: list[dict[str, Any]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in HEADS)
    rows = []
    for line in lines:
        numbers = [f"{line.get('score'):.1f}" if line.get("score") is not None else "", f"{line.get('seconds') or 0:.3g}"]
        cells = [
            str(line["demonstrations"]), line["label"], str(line["seeds"]), percent(line, "success"), percent(line, "wrong_object"),
            *numbers, f"{line.get('bytes', 0):,}", f"{line.get('parameters', 0):,}",
        ]  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _why(line: dict[str, Any]) -> str:
    return f"{line['label']}, {line['demonstrations']} shown: {line['error']}"


def _films(results: dict[str, Any], task: str) -> list[str]:
    """One success and one failure of every label, of the first of its cells that has them."""
    found, seen = [], set()
    for cell in results["cells"]:
        for how, film in (cell.get("films") or {}).items():
            key = cell["label"], cell["demonstrations"], how
            if cell["task"] == task and film and key not in seen:
                seen.add(key)
                caption = f"{cell['label']}, {cell['demonstrations']} shown: a {how}"
                picture = f'<img alt="{escape(caption)}" src="data:image/png;base64,{film}">'
                found.append(f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>")
    return found
