"""`metrics.jsonl`: one line per update, and what a terminal shows of it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm


class MetricsLog:
    """Appends to `metrics.jsonl`; on resume the lines behind the checkpoint are cut off first.

    **Arguments:** `path`; `step`: updates already done; `total`: updates of the whole run.
    """

    def __init__(self, path: Path, step: int, total: int) -> None:
        _cut_behind(path, step)
        self._file = path.open("a", buffering=1)
        self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty())
        self._total, self._first, self._start = total, step, time.monotonic()
        self._printed = self._start

    def write(self, values: dict[str, Any]) -> None:
        self._file.write(json.dumps(values) + "\n")

    def show(self, step: int, loss: float, tokens_per_second: float) -> None:
        """A bar on a terminal; elsewhere a plain line every ten seconds."""
        text = f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s"
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        if self._bar.disable and (now - self._printed >= 10 or step == self._total):
            self._printed = now
            left = (now - self._start) / max(1, step - self._first) * (self._total - step)
            print(f"step {step}/{self._total}: {text}, {left:.0f} s left", flush=True)

    def close(self) -> None:
        self._bar.close()
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut by a crash is left out."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _cut_behind(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    os.replace(temporary, path)
