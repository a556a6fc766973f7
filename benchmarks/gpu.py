"""Everything that wants a GPU, in one run of at most eight minutes: correctness, then speed.

    python benchmarks/gpu.py                        # on a GPU: docs/results/gpu.md and gpu.json
    python benchmarks/gpu.py --only training acting # some sections
    python benchmarks/gpu.py --toy                  # anywhere, with toys: written only with --out

No network, simulator or store is needed. Every part is a process of its own with a time of its
own; each figure is printed and written as soon as it is there, and a part that fails or hangs is
printed and passed over. Parts of the first stage, which measures no time, run side by side; those
after it alone, by worth. The variable COMMIT names the commit where git does not know it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.on_gpu import page
from benchmarks.on_gpu.worker import ROOT, Lanes, Options, Part

HERE = "benchmarks.on_gpu"
SECONDS = 470.0  # of the whole, so that it has ended and written within eight minutes
SIZES = ("gato-364m", "gato-1b", "gato-79m")
NO_GPU = "there is no GPU here; --toy runs all parts on the CPU at toy size"
COMPILED = {
    "packed rows": ("compiled layers, packed rows",),
    "rows of one": ("compiled layers", "compiled layers, transformer_xl"),
    "again": ("compiled layers, computed again",),
}
ZERO = ("plain", "zero1", "zero2", "zero3", "zero3-offload", "plain again")


def correctness() -> list[list[Part]]:
    def paths(name: str, which: tuple[str, ...] = ()) -> Part:
        return Part(name, "correctness", f"{HERE}.paths:check", 100, {"which": list(which)})

    def engine(mode: str) -> Part:
        return Part(f"engine {mode}", "engines", f"{HERE}.zero:check", 60, {"mode": mode})

    return [
        [
            paths("paths"),
            Part("layers", "correctness", f"{HERE}.paths:parts", 30),
            Part("token layouts", "correctness", f"{HERE}.layouts:check", 40),
        ],
        [paths(f"compiled {name}", names) for name, names in COMPILED.items()],
        [
            Part("policies", "correctness", f"{HERE}.policies:check", 120),
            Part("generate", "correctness", f"{HERE}.policies:generate", 40),
        ],
        [Part("pytest -m gpu", "tests", f"{HERE}.marked:run", 150)],
        [engine(mode) for mode in ZERO],
    ]


def timed() -> list[Part]:
    """By worth: what does not fit in any more is at the end."""

    def train(size: str, mode: str, seconds: float = 60) -> Part:
        arguments = {"size": size, "mode": mode}
        return Part(f"{size} {mode}", "training", f"{HERE}.training:line", seconds, arguments)

    def act(size: str, streams: list[int]) -> Part:
        arguments = {"size": size, "streams": streams}
        return Part(f"act {size} {streams}", "acting", f"{HERE}.acting:latency", 60, arguments)

    def largest(size: str) -> Part:
        arguments = {"size": size}
        return Part(f"largest {size}", "largest", f"{HERE}.training:largest", 60, arguments)

    small, big, smallest = (f"{size}-rope" for size in SIZES)
    one = {"size": small}
    return [
        Part("ceilings", "ceilings", f"{HERE}.training:ceilings", 20),
        train(small, "compiled"), train(small, "llama"), train(small, "gpt2"),
        train(big, "compiled"), act(small, [1, 16]), act(big, [1]),
        Part("feed", "data", f"{HERE}.feed:waiting", 75, one),
        Part("captions", "captions", f"{HERE}.acting:captions", 30, one),
        train("gato-364m", "compiled"), train(small, "muon"), largest("24x3072x24"),
        train(smallest, "compiled"),
        Part("layouts", "layouts", f"{HERE}.layouts:compare", 80, one),
        act(small, [256]), largest("48x3072x24"),
        train(big, "llama"), train(big, "gpt2"), train(small, "eager"),
        train("gato-1b", "compiled"), train("gato-79m", "compiled"),
        train(smallest, "llama"), train(smallest, "gpt2"), act(big, [16, 256]),
        train(big, "checkpointed"), largest("64x3072x24"), largest("80x3072x24"),
    ]  # fmt: skip


def unlike(parts: list[Part]) -> list[Part]:
    """At toy size those of another size are alike: the first of each kind, with twice the time,
    since a CPU may be busy."""

    def kind(part: Part) -> tuple[Any, ...]:
        relative = "-rope" not in part.arguments.get("size", "-rope") and part.section == "training"
        return part.function, part.arguments.get("mode"), relative

    firsts = {kind(part): part for part in reversed(parts)}
    return [replace(p, seconds=2 * p.seconds) for p in parts if firsts[kind(p)] is p]


class Results:
    """Prints and writes what comes. **Arguments:** `folder`: `None` writes nothing."""

    def __init__(self, about: dict[str, Any], folder: Path | None) -> None:
        self.about, self.folder, self.figures = about, folder, list[dict[str, Any]]()

    def __call__(self, part: Part, figure: dict[str, Any]) -> None:
        self.figures.append({"part": part.name, "section": part.section, **figure})
        if "what" in figure:
            print(f"[{part.name}] {page.line(figure)}", flush=True)
        self.write()

    def write(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"about": self.about, "figures": self.figures}, indent=1)
        texts = {"gpu.json": content + "\n", "gpu.md": page.page(self.about, self.figures)}
        for name, text in texts.items():
            (self.folder / f"{name}.tmp").write_text(text, encoding="utf-8")
            (self.folder / f"{name}.tmp").replace(self.folder / name)

    @property
    def are_good(self) -> bool:
        return not any("failed" in f or f.get("holds") is False for f in self.figures)


def chosen(only: list[str] | None) -> tuple[list[list[Part]], list[Part]]:
    """The parts of the sections, or of the names, in `only`."""

    def wanted(parts: list[Part]) -> list[Part]:
        return [part for part in parts if not only or {part.section, part.name} & set(only)]

    return [lane for lane in map(wanted, correctness()) if lane], wanted(timed())


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def about(device: str, is_toy: bool) -> dict[str, Any]:
    import torch
    import transformers

    given = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    card = torch.cuda.get_device_name() if device == "cuda" else f"none: {os.cpu_count()} CPU cores"
    return {
        "card": card, "commit": os.environ.get("COMMIT") or given.stdout.strip() or "unknown",
        "command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    } | ({"sizes": "toys: no figure says anything of speed"} if is_toy else {})  # fmt: skip


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--only", nargs="+", help="sections, or parts by name")
    parser.add_argument("--toy", action="store_true", help="toy sizes, on the CPU if it must be")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--out", type=Path, help="a folder; on a GPU docs/results")
    words = parser.parse_args()
    device = "cuda" if has_gpu() else "cpu"
    if device == "cpu" and not words.toy:
        sys.exit(NO_GPU)
    os.environ.setdefault("DS_ACCELERATOR", device)
    lanes, alone = chosen(words.only)
    if not lanes and not alone:
        known = [p.section for p in [part for lane in correctness() for part in lane] + timed()]
        sys.exit(f"no part is called {words.only}; sections are {', '.join(dict.fromkeys(known))}")
    is_real = device == "cuda" and not words.toy
    folder = words.out or (ROOT / "docs" / "results" if is_real else None)
    if words.toy:
        print(f"toy sizes on {device}: no figure says anything of speed", flush=True)
        alone = unlike(alone)
    if folder is None:
        print("nothing is written without --out", flush=True)
    results = Results(about(device, words.toy), folder)
    with tempfile.TemporaryDirectory() as shared:
        started = time.monotonic()
        work = Lanes(Options(device, words.toy, shared), results, started + words.seconds)
        work.run(lanes)
        work.run([alone])
    print(page.page(results.about, results.figures))
    print(f"all of it took {time.monotonic() - started:.0f} s", flush=True)
    sys.exit(0 if results.are_good else 1)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
