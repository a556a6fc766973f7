"""Shown once: the runs and tables of docs/results/one-shot.md.

    python benchmarks/one_shot.py --seeds 3
    python benchmarks/one_shot.py --family push2d --collected 4 --seeds 1 --train.steps 1200
    python benchmarks/one_shot.py --family hidden-reach --collected 4 --seeds 3 --retrieve      # needs Meta-World

Collects, trains and plays what is not there yet in `--out`, by the commands that a reader would type, and prints the seconds of
processor time that each training took and the table of `gato arena`. Every seed has its own weights and order of the data.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gato.cli import main
from gato.data.stores import stores_folder

SETS = {
    "reach2d": ("reach2d/train", "reach2d/test"),
    "push2d": ("push2d/train", "push2d/test"),
    "hidden-reach": ("metaworld-goals/reach-train", "metaworld-goals/reach-test"),
    "hidden-push": ("metaworld-goals/push-train", "metaworld-goals/push-test"),
    "open-close": ("metaworld-goals/open-close-train", "metaworld-goals/open-close-test"),
}
USUAL = "reach2d"  # the recipes'
# one timestep behind what a demonstration came to: with a history it learns to do what it did last (docs/results/one-shot.md)
GATO_SOURCES = "{reach2d/train: {memory: 1, prompt_steps: 1}}"
GATO = (
    *("--model.pool_patches", "1", "--data.prompt_share", "1", "--data.loss_on_prompts", "false"),
    *("--train.seconds", "null", "--train.reduced_below", "null"),
)
AS_LONG = ("--train.steps", "400")  # of MIL about the processor time that TecNets take; the seconds are printed
SYSTEMS = {
    "TecNets": ("tecnets-reach2d",),
    "not told (cloning)": ("tecnets-reach2d", "--model.sentence", "none"),
    "told by its first observation": ("tecnets-reach2d", "--model.sentence", "first"),
    "untrained embedding": ("tecnets-reach2d", "--model.sentence", "untrained"),
    "without the margin loss": ("tecnets-reach2d", "--model.embedding_weight", "0"),
    "told the colour": ("tecnets-reach2d", "--model.sentence", "numbers"),
    "MIL": ("mil-reach2d", *AS_LONG),
    "MIL, fixed rate": ("mil-reach2d", "--model.learned_rates", "false", *AS_LONG),
    "MIL, video alone": ("mil-reach2d", "--model.video", "true", *AS_LONG),
    "Gato, prompted": ("demo", "--data.sources", GATO_SOURCES, *GATO, *AS_LONG),
}


def run(system: str, seed: int, family: str, out: Path, changes: Sequence[str]) -> Path:
    """Trains one seed of a system, if that is not done. **Returns:** the checkpoint."""
    name = f"{system.replace(' ', '-').replace(',', '').replace('(', '').replace(')', '')}-{seed}"
    if family != USUAL:
        name, changes = f"{family}-{name}", ["--data.sources", f"{{{SETS[family][0]}: {{}}}}", *changes]
    checkpoint, note = Path("runs") / name / "final", out / f"{name}.json"
    if not note.is_file():
        started = time.process_time()
        _do("pretrain", *SYSTEMS[system], "--train.name", name, "--train.seed", str(seed), *changes)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"seconds": time.process_time() - started}))
    return checkpoint


def draw(checkpoint: Path, family: str, file: Path) -> None:
    """The embeddings of all tasks by their first two principal components, each point in its task's colour; held-out ones are ringed."""
    import numpy as np
    from matplotlib.figure import Figure

    import gato
    from gato.eval.sets import Shown

    agent, points, colours, is_new = gato.load(checkpoint), [], [], []
    for name in SETS[family]:
        shown = Shown(name)
        for task in shown.numbers:
            episodes = shown.of(task, 1)
            points.append(agent.model.remember(agent.inputs, episodes)["sentence"].numpy())
            colours.append(episodes[0].parameters["numbers"][:3])
            is_new.append(name.endswith("test"))
    values = np.array(points) - np.mean(points, axis=0)
    flat = values @ np.linalg.svd(values, full_matrices=False)[2][:2].T
    new = np.array(is_new)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*flat[~new].T, c=np.array(colours)[~new], s=9)
    axes.scatter(*flat[new].T, c=np.array(colours)[new], s=60, edgecolors="black", linewidths=1.2)
    train, test = SETS[family]
    axes.set(title=f"{train}, and {test} (ringed): one demonstration each", xticks=[], yticks=[])
    figure.savefig(file, dpi=110)


def save_films(results: Path, family: str, folder: Path) -> None:
    """The film strips of a success and of a failure of TecNets and of what is not told, as they are in the arena's results."""
    for cell in json.loads(results.read_text())["cells"]:
        for how, film in (cell.get("films") or {}).items():
            path = folder / f"{_named(family)}-{cell['label'].split()[0].lower()}-{how}.png"
            if film and cell["label"] in ("TecNets", "not told (cloning)") and not path.exists():
                path.write_bytes(base64.b64decode(film))


def _named(family: str) -> str:
    """How the files of a family begin."""
    return "one-shot" if family == USUAL else f"one-shot-{family}"


def _do(*words: str) -> None:
    """A command of `gato`, in this process. **Raises:** `SystemExit` with its exit code if it fails."""
    print("gato", *words, flush=True)
    if code := main(words):
        raise SystemExit(code)


def run_all() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--family", choices=SETS, default=USUAL)
    parser.add_argument("--collected", type=int, default=12, help="demonstrations of each task, where none are there yet")
    parser.add_argument("--noisy_share", type=float, default=0.0, help="of these, see `gato data collect`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shown", nargs="+", default=["1"], help="numbers of demonstrations")
    parser.add_argument("--episodes", type=int, default=160)
    parser.add_argument("--temperature", default=None, help="of Gato's actions, see `gato arena`")
    parser.add_argument("--baselines", nargs="*", default=["retrieve"])
    parser.add_argument("--retrieve", action="store_true", help="looking up what TecNets' embedding finds alike, as a line of its own")
    parser.add_argument("--out", type=Path, default=Path("one-shot"))
    parser.add_argument("--figures", type=Path, help="a folder for the map of embeddings and the film strips")
    options, changes = parser.parse_known_args()
    family, (train, test) = options.family, SETS[options.family]
    for name in (train, test):
        manifest = stores_folder() / name / "manifest.json"
        if not manifest.is_file() or not json.loads(manifest.read_text())["num_episodes"]:  # nothing yet, or broken off
            share = ("--noisy_share", str(options.noisy_share))
            _do("data", "collect", name, "--episodes", str(options.collected), *share, "--workers", "0")
    seeds = range(options.seeds)
    found = [f"{system}={run(system, seed, family, options.out, changes)}" for seed in seeds for system in options.systems]
    seconds = {path.stem: round(json.loads(path.read_text())["seconds"]) for path in sorted(options.out.glob("*-[0-9].json"))}
    print("seconds of processor time:", ", ".join(f"{name} {value}" for name, value in seconds.items()))
    arena = options.out / ("arena" if family == USUAL else f"arena-{family}")
    shown = ["--demonstrations", *options.shown, *(["--retrieve", train] if options.retrieve else [])]
    shown += ["--baselines", *options.baselines] if options.baselines else []
    shown += ["--temperature", options.temperature] if options.temperature else []
    _do("arena", *found, "--tasks", test, *shown, "--episodes", str(options.episodes), "--out", str(arena))
    if options.figures:
        draw(run("TecNets", 0, family, options.out, changes), family, options.figures / f"{_named(family)}.png")
        save_films(arena / "arena.json", family, options.figures)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(run_all))
