"""Checkpoints: complete or absent.

A checkpoint is the folder of what was trained (an agent's: see `gato/agent.py`) with the training state beside it:

    optimizer.safetensors    the optimizer's state by parameter name
    data.safetensors         where data are made on the way (`OnlineBatches`): what it takes to go on with the same ones
    trained.safetensors      with `optim.ema`: the last weights, from which training goes on; the others are then averages, which act
    learner.safetensors      what the learner has beside what acts, such as a critic; where it has any
    training.json            update count, tokens seen, data fingerprint
    rng.safetensors          torch's generator state
    run.json                 the resolved configuration
    manifest.json            size and SHA-256 of every file; without it a folder is no checkpoint

It is written beside its place, hashed, synced and renamed; older ones are removed only afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from gato import digests
from gato.disk import read_json, sync
from gato.learner import OnlineBatches, Saved, Setup
from gato.weights import TRAINED

from .engine import Engine
from .ranks import rank, say

WEIGHTS, BESIDE, DATA = "model.safetensors", "learner.safetensors", "data.safetensors"
FAILED_SAVES = 3  # so many in a row end the run


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `step` updates done, `skipped` of them for want of a finite gradient, `tokens` and `targets` seen, `seconds`."""

    step: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    skipped: int = 0


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds, none of it touched by training any more: weights and moments on the host, the generator's state.

    `weights` are those of `saved`, and `trained` the last ones where these are averages.
    """

    saved: Saved
    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    generator: torch.Tensor
    progress: Progress
    run: dict[str, Any]
    fingerprint: dict[str, str]
    data: dict[str, torch.Tensor] = field(default_factory=dict)
    trained: dict[str, torch.Tensor] = field(default_factory=dict)


def save(folder: Path, snapshot: Snapshot) -> None:
    """Writes one checkpoint; a crash or an error at any moment leaves either no folder of this name or a complete one."""
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(temporary, snapshot)
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk wants its space back
        raise
    if folder.exists():  # the same step again: the one that is there was found to be damaged
        _remove(folder)
    temporary.rename(folder)
    sync(folder.parent)


def _write(folder: Path, snapshot: Snapshot) -> None:
    snapshot.saved.write(folder)
    with safe_open(folder / WEIGHTS, "pt") as file:
        acting = set(file.keys())
    if beside := {name: value.contiguous() for name, value in snapshot.weights.items() if name not in acting}:
        save_file(beside, folder / BESIDE)
    if snapshot.trained:
        save_file({name: value.contiguous() for name, value in snapshot.trained.items()}, folder / TRAINED)
    save_file(snapshot.moments, folder / "optimizer.safetensors")
    if snapshot.data:
        save_file(snapshot.data, folder / DATA)
    save_file({"torch": snapshot.generator}, folder / "rng.safetensors")
    _write_json(folder / "training.json", {"progress": vars(snapshot.progress), "data": snapshot.fingerprint})
    _write_json(folder / "run.json", snapshot.run)
    names = sorted(path.name for path in folder.iterdir() if path.name != digests.NAME)
    for name in names:
        sync(folder / name)
    digests.record(folder, names)
    sync(folder / digests.NAME)
    sync(folder)


def restore(folder: Path, engine: Any, batches: Any = None) -> Progress:
    """Loads weights and moments into the engine, the generator's state, and that of `OnlineBatches`. The folder must have been verified."""
    engine.restore(weights(folder), load_file(folder / "optimizer.safetensors"), acting_weights(folder))
    if isinstance(batches, OnlineBatches):
        batches.load_state(load_file(folder / DATA))
    torch.set_rng_state(load_file(folder / "rng.safetensors")["torch"])
    return read_progress(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All that the learner's weights are, of what acts and beside it, where training goes on."""
    return load_file(folder / TRAINED) if (folder / TRAINED).is_file() else acting_weights(folder)


def acting_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The same; of a run with `optim.ema` their averages."""
    beside = load_file(folder / BESIDE) if (folder / BESIDE).is_file() else {}
    return load_file(folder / WEIGHTS) | beside


def read_progress(folder: Path) -> Progress:
    """**Raises:** `ValueError` if `training.json` is missing or damaged."""
    values = read_json(folder / "training.json").get("progress")
    known = {f.name: (int, float) if f.name == "seconds" else (int,) for f in fields(Progress)}
    if not isinstance(values, dict) or values.keys() - known or not all(type(v) in known[k] and v >= 0 for k, v in values.items()):
        raise ValueError(f"'{folder / 'training.json'}' is damaged: its progress is no count of {', '.join(known)}; use another checkpoint")
    return Progress(**values)


def verify(folder: Path) -> None:
    """**Raises:** `ValueError` naming the file that is missing, or whose size or hash differs from the manifest."""
    digests.check(folder)


def newest_intact(run_folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are as its manifest says; damaged ones are named and passed over.

    **Raises:** `ValueError` if there are checkpoints, but none is intact.
    """
    done = steps(run_folder)
    for path in reversed(done):
        try:
            verify(path)
            return path
        except ValueError as error:
            say(f"passed over: {error}")
    if done:
        raise ValueError(f"no checkpoint of '{run_folder}' is intact; remove the folder to start anew")
    return None


def steps(run_folder: Path) -> list[Path]:
    """The complete checkpoints `step-N` of a run, oldest first."""
    found = [p for p in run_folder.glob("step-*") if p.name[5:].isdigit() and (p / "manifest.json").is_file()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def clean(run_folder: Path) -> list[str]:
    """Removes checkpoints that earlier processes wrote or removed only half, and says which."""
    leftovers = [p for p in run_folder.glob("*-*") if ".tmp-" in p.name or (p.name[5:].isdigit() and not (p / "manifest.json").is_file())]
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in leftovers]


def keep_newest(run_folder: Path, count: int) -> None:
    """Removes all but the newest `count` steps."""
    for path in steps(run_folder)[:-count]:
        _remove(path)


class Saver:
    """Writes checkpoints of a run while training goes on; every rank calls, the first one writes.

    **Arguments:** `run`: the resolved configuration; `keep`: how many checkpoints stay.

    Training waits for a copy of the state on the host, and for the checkpoint before this one. One that cannot be written (a full disk)
    leaves the older ones as they are, with a warning; `FAILED_SAVES` in a row, or the final one, end the run.
    """

    def __init__(self, folder: Path, engine: Engine, setup: Setup, run: dict[str, Any], keep: int) -> None:
        self.folder, self.engine, self.setup, self.run, self.keep = folder, engine, setup, run, keep
        self.last, self.failed = -1, 0
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Path, Future[None]] | None = None

    def __call__(self, at: Progress, name: str | None = None) -> None:
        self.wait()
        weights, moments = self.engine.weights(), self.engine.moments()  # the ranks' shares, brought together
        averages = self.engine.averages()
        batches = self.setup.batches
        data = {name: value.clone() for name, value in batches.state().items()} if isinstance(batches, OnlineBatches) else {}
        self.last = at.step
        if rank() > 0:
            return
        acting, trained = (averages, weights) if averages else (weights, {})
        saved, generator = self.setup.saved(acting), torch.get_rng_state()
        snapshot = Snapshot(saved, acting, moments, generator, at, self.run, batches.fingerprint, data, trained)
        path = self.folder / (name or f"step-{at.step}")
        self._writing = path, self._thread.submit(self._write, path, snapshot)
        if name is not None:
            self.wait()

    def _write(self, path: Path, snapshot: Snapshot) -> None:
        save(path, snapshot)
        keep_newest(self.folder, self.keep)

    def wait(self) -> None:
        """Waits until the last checkpoint is written. **Raises:** `OSError` if it was not and training cannot go on."""
        if self._writing is None:
            return
        (path, writing), self._writing = self._writing, None
        try:
            writing.result()
        except (OSError, SafetensorError) as error:
            self.failed += 1
            kept = [p.name for p in steps(self.folder)]
            text = f"{path} could not be written ({error}); kept are {', '.join(kept) or 'none'}"
            if path.name == "final" or self.failed == FAILED_SAVES:
                raise OSError(f"{text}; make room and start the run again") from error
            say(f"warning: {text}; training goes on")
        else:
            self.failed = 0

    def close(self) -> None:
        """What is being written is finished first."""
        self._thread.shutdown()


def _remove(folder: Path) -> None:
    """The manifest goes first: what is left after a crash is then no checkpoint, and not a damaged one."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))
