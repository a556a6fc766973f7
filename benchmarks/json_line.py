"""`--json` of every benchmark: the last line that it prints is one JSON document, for programs.

    python benchmarks/scaling.py --json | tail -n 1

    {"benchmark": "scaling", "arguments": [...], "seconds": 12.3, "code": 0,
     "tables": [{"columns": [...], "rows": [[...], ...]}, ...], "lines": [{...}, ...], "results": ...}

`tables` are those that were printed, their cells as numbers where they are some; `lines` the lines that were JSON already; `results` what
a benchmark gives to Python, where it gives something. Benchmarks whose `--json` may name a file write that, too.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

RULE = re.compile(r"[\s|:-]*-[\s|:-]*")  # what stands between the head of a table and its rows
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?([eE][-+]?\d+)?")


class _Heard:
    """Standard output, which keeps what went through it."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.text = stream, ""

    def write(self, text: str) -> int:
        self.text += text
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def ends_in_json(main: Callable[[], Any], may_name_a_file: bool = False) -> int:
    """Runs a benchmark. **Returns:** its exit code: that of `main`, if it gives one.

    **Arguments:** `may_name_a_file`: its own `--json FILE` is left to it.
    """
    words = sys.argv[1:]
    at = words.index("--json") if "--json" in words else None
    if at is None or (may_name_a_file and at + 1 < len(words) and not words[at + 1].startswith("-")):
        return _code(main())
    del sys.argv[at + 1]
    started, heard, found = time.monotonic(), _Heard(sys.stdout), None
    sys.stdout = heard
    try:
        found = main()
        code = _code(found)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    finally:
        sys.stdout = heard.stream
    document = {
        "benchmark": Path(sys.argv[0]).stem, "arguments": sys.argv[1:], "seconds": round(time.monotonic() - started, 3), "code": code,
        "tables": tables(heard.text.splitlines()), "lines": json_lines(heard.text.splitlines()),
    }  # fmt: skip
    if isinstance(found, (dict, list)):
        document["results"] = found
    print(json.dumps(document, default=float), flush=True)
    return code


def tables(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The Markdown tables among lines of text."""
    found: list[dict[str, Any]] = []
    before: list[str] | None = None
    for line in lines:
        if not line.startswith("|"):
            before = None
        elif RULE.fullmatch(line):
            if before is not None:
                found.append({"columns": before, "rows": []})
        else:
            before = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if found and len(before) == len(found[-1]["columns"]):
                found[-1]["rows"].append([_cell(cell) for cell in before])
    return found


def json_lines(lines: Iterable[str]) -> list[Any]:
    """The objects among lines of text that are JSON."""
    found = []
    for line in lines:
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def _cell(text: str) -> Any:
    return float(text.replace(",", "")) if NUMBER.fullmatch(text) else text


def _code(found: Any) -> int:
    return found if isinstance(found, int) and not isinstance(found, bool) else 0
