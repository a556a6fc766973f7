"""Runs that are interrupted in every way, against runs that are not: prints the table of docs/results/resume.md.

    python benchmarks/resume.py matrix points kills --kills 200

Every rank is a real process that meets the others through gloo and runs `gato pretrain` on the CPU. They are forked
from one process that has imported everything, so that a start takes a fraction of a second. A kill is SIGKILL.
tests/test_distributed.py asserts what is printed here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.sabotage import POINTS, killed_at, killed_in_save

os.environ.setdefault("DS_ACCELERATOR", "cpu")

# Two steps of each rank an update (accumulation), stochastic depth, weighted sources, rows with and without pictures.
# With AdamW's usual eps a gradient that is nothing but rounding would move its weight by a whole step.
RECIPE = """
model: {num_layers: 2, num_heads: 2, width: 32, head_width: 16, feed_forward: 64, context_length: 64, drop_path: 0.1}
data:
  sources:
    toy/corridor: {weight: 2, loss_weight: 3}
    documents: {weight: 1}
    pictures: {weight: 1}
optim: {learning_rate: 0.003, warmup_steps: 2, eps: 1.0e-5}
train: {name: small, steps: 20, batch_size: 8, micro_batch_size: 2, save_every: 3, threads: 1, device: cpu, timeout: 60}
"""
PRELOADED = ["gato.train.zero", "gato.train.pretrain", "gato.cli.train", "gato.cli.arguments", "deepspeed", "sentencepiece", "pyarrow"]


def make_stores(home: Path) -> None:
    """Corridor episodes, forty documents, twenty pictures with captions, and a tokenizer of 300 pieces."""
    import numpy as np

    from gato.data.collection.collect import CollectConfig, collect
    from gato.data.store import StoreWriter
    from gato.episode import Episode
    from gato.spec import FieldSpec, Modality, TaskSpec
    from gato.tokenizers.text import TextTokenizer
    from gato.words import document_task

    collect(CollectConfig(tasks=["toy/corridor"], episodes=30, workers=0, out=str(home / "stores")))
    sentences = ["the agent goes right until it reaches the end of the corridor", "left and right are two actions"] * 20
    task = document_task("text/sentences")
    with StoreWriter(home / "stores" / "documents", [task], {}) as writer:
        for sentence in sentences:
            writer.append(Episode(task, {}, {"text": np.array([sentence], object)}, np.zeros(1, np.float32)))
    picture = FieldSpec("image", Modality.IMAGE, "observation", (16, 16, 3), "uint8")
    task = TaskSpec("toy/pictures", (picture, FieldSpec("caption", Modality.TEXT, "action", dtype="str")))
    rng = np.random.default_rng(0)
    with StoreWriter(home / "stores" / "pictures", [task], {}) as writer:
        for _ in range(20):
            pixels = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
            writer.append(Episode(task, {"image": pixels}, {"caption": np.array(["left"], object)}, np.zeros(1, np.float32)))
    TextTokenizer.train(sentences, 300).save(home / "stores" / "tokenizer.model")


# -- a run -----------------------------------------------------------------------------------------


@dataclass
class Run:
    """Runs of RECIPE called `name` in a folder of its own.

    **Arguments:** `home`: of the stores; `folder`: that `runs/` stands in; `options`: further words of the command line; `recipe`: in
    RECIPE's place.
    """

    home: Path
    folder: Path
    name: str = "small"
    options: Sequence[str] = ()
    processes: list[BaseProcess] = field(default_factory=list)
    recipe: str = RECIPE

    @property
    def path(self) -> Path:
        return self.folder / "runs" / self.name

    def start(self, ranks: int = 1, stage: int = 0, sabotage: Sequence[Any] = ()) -> Run:
        """Starts the ranks; `sabotage`: a function of `sabotage.py` and its arguments, which every rank calls first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "small.yaml").write_text(self.recipe)
        words = ["pretrain", "small.yaml", "--train.name", self.name, *self.options]
        if stage:
            # DeepSpeed's own threshold would leave a tiny model whole on every rank
            zero = {"stage": stage, "stage3_param_persistence_threshold": 0} if stage == 3 else {"stage": stage}
            (self.folder / f"zero{stage}.json").write_text(json.dumps({"zero_optimization": zero}))
            words += ["--train.deepspeed", f"zero{stage}.json"]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        port = _free_port()
        self.processes = [
            context.Process(target=_rank, args=(self.home, self.folder, words, r, ranks, port, tuple(sabotage))) for r in range(ranks)
        ]
        for process in self.processes:
            process.start()
        return self

    def wait(self, seconds: float = 300.0) -> list[int]:
        """The ranks' exit codes. **Raises:** `TimeoutError` if one still runs; it is killed."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        if late := [r for r, process in enumerate(self.processes) if process.is_alive()]:
            self.kill()
            raise TimeoutError(f"ranks {late} still ran after {seconds:.0f} s; they said: {self.said()[-2000:]}")
        return [int(process.exitcode or 0) for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def finish(self, ranks: int = 1, stage: int = 0, sabotage: Sequence[Any] = ()) -> Run:
        """Runs to the end. **Raises:** `AssertionError` with what was said if a rank failed."""
        codes = self.start(ranks, stage, sabotage).wait()
        assert codes == [0] * ranks, (codes, self.said()[-3000:])
        return self

    def said(self) -> str:
        """What all ranks printed, since the run's first start."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"{self.name}.*.log")))

    def losses(self) -> list[float]:
        from gato.train.metrics import read_metrics

        path = self.path / "metrics.jsonl"
        lines = read_metrics(path) if path.exists() else []
        assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)), "a step is missing or there twice"
        return [line["loss"] for line in lines]

    def weights(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.path / "final" / "model.safetensors")

    def newest(self) -> int:
        """The newest checkpoint that is there and intact, 0 if none; every one that is there must be."""
        from gato.train import checkpoint

        done = checkpoint.steps(self.path) + ([self.path / "final"] if (self.path / "final" / "manifest.json").is_file() else [])
        for path in done:
            checkpoint.verify(path)
        return json.loads((done[-1] / "training.json").read_text())["progress"]["step"] if done else 0


def distance(one: Run, other: Run) -> tuple[float, float]:
    """The largest difference of two finished runs' losses, and of their final weights."""
    a, b, weights, others = one.losses(), other.losses(), one.weights(), other.weights()
    assert len(a) == len(b) and weights.keys() == others.keys(), (len(a), len(b))
    return max(abs(x - y) for x, y in zip(a, b, strict=True)), max(float((weights[k] - others[k]).abs().max()) for k in weights)


def _rank(home: Path, folder: Path, words: list[str], rank: int, ranks: int, port: int, sabotage: tuple[Any, ...]) -> None:
    """One rank, in a process of its own."""
    os.chdir(folder)
    name = words[words.index("--train.name") + 1]
    log = os.open(f"{name}.{rank}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {"GATO_HOME": str(home), "OMP_NUM_THREADS": "1"}
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        os.environ |= {"LOCAL_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if sabotage:
        sabotage[0](rank, *sabotage[1:])
    from gato.cli import main

    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- what is printed -------------------------------------------------------------------------------

MODES = {0: "DDP", 1: "ZeRO-1", 2: "ZeRO-2", 3: "ZeRO-3"}
WAYS = ((1, 1), (2, 2), (2, 1), (1, 2))


def resumed(home: Path, folder: Path, stage: int, first: int, second: int, sure: bool = True) -> Run:
    """Killed in update 8 on `first` ranks and in update 14 on `second`; the end on `first` again."""
    run = Run(home, folder / f"{stage}-{first}-{second}")
    for ranks, step in ((first, 8), (second, 14)):
        codes = run.start(ranks, stage, (killed_at, step)).wait()
        assert codes == [-signal.SIGKILL] * ranks, (codes, run.said()[-3000:])
    run.finish(first, stage)
    assert "resumed from runs/small/step-6" in run.said() and "resumed from runs/small/step-12" in run.said()
    return run


def matrix(home: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Two interruptions of runs on one and two ranks, against one process and against the same layout, both uninterrupted."""
    alone = Run(home, folder / "alone").finish()
    for stage in (0, 2, 3):
        for first, second in WAYS:
            same = Run(home, folder / f"whole-{stage}-{first}")
            if not same.path.exists():
                same.finish(first, stage)
            run = resumed(home, folder, stage, first, second)
            loss, weight = distance(alone, run)
            equal = "bit for bit" if distance(same, run) == (0.0, 0.0) else f"{distance(same, run)[0]:.1e}"
            yield {
                "engine": MODES[stage], "ranks": f"{first} → {second} → {first}", "losses off one process by": f"{loss:.1e}",
                "final weights by": f"{weight:.1e}", "losses off the same layout, uninterrupted, by": equal,
            }  # fmt: skip


def cut_off(home: Path, folder: Path, stage: int, point: str, whole: Run) -> dict[str, Any]:
    """A save cut off at `point`, and the run that goes on, which must give the losses and weights of `whole` bit for bit."""
    ranks = 2 if stage else 1
    run = Run(home, folder / f"{stage}-{point.replace(' ', '-')}", options=whole.options)
    codes = run.start(ranks, stage, (killed_in_save, point)).wait()
    assert codes[0] == -signal.SIGKILL and 0 not in codes, (codes, run.said()[-3000:])
    left = run.newest()
    run.finish(ranks, stage)
    assert distance(run, whole) == (0.0, 0.0), distance(run, whole)
    return {
        "engine": MODES[stage] if stage else "one process",
        "killed": point,
        "went on from update": left,
        "losses and weights": "bit for bit",
    }


SHORT = ("--train.steps", "4", "--train.save_every", "1", "--train.keep", "1")


def points(home: Path, folder: Path) -> Iterator[dict[str, Any]]:
    for stage in (0, 1, 3):
        whole = Run(home, folder / f"whole-{stage}", options=SHORT).finish(2 if stage else 1, stage)
        for point in POINTS:
            yield cut_off(home, folder, stage, point, whole)


def random_kills(home: Path, folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Kills a run on one process at `count` random moments; whenever it comes to its end it is compared and begun anew."""
    options = ("--train.steps", "16", "--train.save_every", "2", "--train.micro_batch_size", "0")
    rng = random.Random(seed)
    whole = Run(home, folder / "whole", options=options).finish()
    before = time.monotonic()
    Run(home, folder / "timed", options=options).finish()  # the first one had to wait for the imports
    length = time.monotonic() - before
    kills = finished = torn = 0
    while kills < count:
        run, newest = Run(home, folder / f"killed-{finished}", options=options), 0
        while True:
            run.start()
            run.processes[0].join(rng.uniform(0.1, 0.8) * length)
            alive = run.processes[0].is_alive()
            run.kill()
            kills += alive
            now = run.newest()  # and all that is there is intact
            assert now >= newest, f"checkpoint {newest} was finished and is lost; the newest is {now}"
            newest = now
            if not alive:
                break
        assert run.wait() == [0] and distance(run, whole) == (0.0, 0.0), run.said()[-3000:]
        torn += run.said().count("passed over")
        finished += 1
    return {
        "SIGKILLs": kills,
        "runs that came to their end": finished,
        "checkpoints lost or torn": torn,
        "losses and weights": "bit for bit",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["matrix", "points", "kills"], help="matrix, points, kills")
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        make_stores(home)
        parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
            "matrix": lambda: matrix(home, Path(name) / "matrix"),
            "points": lambda: points(home, Path(name) / "points"),
            "kills": lambda: iter([random_kills(home, Path(name) / "kills", options.kills)]),
        }
        for part in options.parts:
            header = True
            for row in parts[part]():
                if header:
                    print(f"\n| {' | '.join(row)} |\n|{' --- |' * len(row)}")
                    header = False
                print(f"| {' | '.join(map(str, row.values()))} |", flush=True)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
