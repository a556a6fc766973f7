"""`metrics.jsonl`: one line per update, and what a terminal shows of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from gato.disk import write_text

from .ranks import rank


class MetricsLog:
    """Appends to `metrics.jsonl`; on resume the lines behind the checkpoint are cut off first. Only the first rank's writes and speaks.

    **Arguments:** `path`; `step`: updates already done; `total`: updates of the whole run; `track`: takes the
    values of an update and its number, for trackers.
    """

    def __init__(self, path: Path, step: int, total: int, track: Callable[[dict[str, Any], int], None] | None = None) -> None:
        self._file: TextIO | None = None
        self._track = track
        self.run = path.parent if (path.parent / "run.json").is_file() else None  # which `gato data show` can show
        if rank() == 0:
            _cut_behind(path, step)
            self._file = path.open("a", buffering=1)
        silent = rank() != 0 or not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, disable=silent)
        self._total, self._first, self._start = total, step, time.monotonic()
        self._printed = self._start

    def write(self, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(values) + "\n")
        if self._track is not None:
            self._track(_flat(values), values["step"])

    def show(self, line: dict[str, Any], total: int) -> None:
        """An update's line as a bar on a terminal; elsewhere a plain one every ten seconds. `total`: updates of the run, as known now."""
        if self._file is None:
            return
        self._total = self._bar.total = total
        step, text = line["step"], f"loss {line['loss']:.3f}, {line['tokens_per_second']:,.0f} tokens/s"
        if "frames" in line:  # of what acts
            text += f", {line['frames']:,} frames" + (f", return {line['episode_return']:.4g}" if "episode_return" in line else "")
        if "eval_return" in line:
            text += f", {line['eval_return']:.4g} in evaluation"
        text += _phases(line)
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        if self._bar.disable and (now - self._printed >= 10 or step == self._total):
            self._printed = now
            left = (now - self._start) / max(1, step - self._first) * (self._total - step)
            print(f"step {step}/{self._total}: {text}, {left:.0f} s left", flush=True)

    def close(self) -> None:
        self._bar.close()
        if self._file is not None:
            self._file.close()


def _phases(line: dict[str, Any]) -> str:
    """How an update's time was spent, in percent: drawing its data (or waiting for them), forward and backward, changing the weights."""
    spent = {"data": line["wait_seconds"], "compute": line["compute_seconds"], "update": line["update_seconds"]}
    whole = max(1e-9, sum(spent.values()))
    return f" ({', '.join(f'{name} {100 * seconds / whole:.0f}' for name, seconds in spent.items())} %)"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut by a crash is left out."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def memory_bytes(device: torch.device) -> int | None:
    """The most memory this process has held so far: of the GPU, else of the machine where the system says."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _flat(values: dict[str, Any]) -> dict[str, float]:
    """Numbers as trackers want them: `train/loss`, `train/loss/SOURCE`, and of what else has parts `train/loss_by_modality/PART`."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            whole = "loss" if name == "loss_by_source" else name
            named |= {f"train/{whole}/{part}": number for part, number in value.items()}
        else:
            named[f"train/{name}"] = value
    return {name: value for name, value in named.items() if isinstance(value, (int, float))}


def _cut_behind(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
