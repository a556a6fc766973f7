"""The page of `gato arena`: who does what of a task, with films of a success and of a failure side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gato.eval.arena import percent
from gato.page import write_page


def write_arena(results: dict[str, Any], out: Path) -> Path:
    """Writes the page of what `arena` returned."""
    names = dict.fromkeys(line["task"] for line in results["lines"])
    tasks = [
        {"name": name, "lines": [_row(line) for line in results["lines"] if line["task"] == name], "films": _films(results, name)}
        for name in names
    ]
    return write_page(out, "arena.html", "Arena", tasks=tasks)


def _row(line: dict[str, Any]) -> dict[str, Any]:
    """What a row of the table shows, as words."""
    score, seconds = line.get("score"), line.get("seconds")
    cells = [
        str(line["demonstrations"]), line["label"], str(line["seeds"]), percent(line, "success"), percent(line, "wrong_object"),
        "" if score is None else f"{score:.1f}", "" if seconds is None else f"{seconds:.3g}", f"{line.get('bytes', 0):,}",
        f"{line.get('parameters', 0):,}",
    ]  # fmt: skip
    return {"cells": cells, "error": line["error"]}


def _films(results: dict[str, Any], task: str) -> list[dict[str, str]]:
    """One success and one failure of every label, of the first of its cells that has them."""
    found: dict[str, str] = {}
    for cell in results["cells"]:
        for how, film in (cell.get("films") or {}).items():
            if cell["task"] == task and film:
                found.setdefault(f"{cell['label']}, {cell['demonstrations']} shown: a {how}", film)
    return [{"caption": caption, "film": film} for caption, film in found.items()]
