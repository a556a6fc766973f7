"""`gato eval` and `gato plot`: scores of a checkpoint, the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .command import parse, parser_of, print_rows

EVAL_LISTS = {
    "tasks": "control tasks (default: all of the checkpoint; 'none' for none)",
    "suite": "families such as babyai: their tasks that the checkpoint knows",
    "captions": "stores of held-out pictures, such as pictures/unseen_picture",
    "prompts": "texts to continue",
    "text": "stores of documents, for bits per byte",
}


def evaluate(arguments: list[str]) -> int:
    about = "Act in environments, caption held-out pictures, continue text; scores with 95 % intervals. Exit code 1 if a task could not be played."
    parser = parser_of("eval", about)
    from gato.eval.control import EvalConfig, evaluate_checkpoint
    from gato.eval.table import score_table

    parser.add_argument("checkpoint", type=Path)
    for name, text in EVAL_LISTS.items():
        parser.add_argument(f"--{name}", nargs="*", type=str, default=[], help=text)
    parser.add_config(EvalConfig, skip=set(EVAL_LISTS))
    parser.add_argument("--follow", type=bool, default=False, help="CHECKPOINT is a run: play its checkpoints as they appear, until the final one")
    parser.add_argument("--json", action="store_true")
    options = parse(parser, arguments)
    as_json, checkpoint, whole_run = (vars(options).pop(name) for name in ("json", "checkpoint", "follow"))
    if whole_run:
        return _follow(checkpoint, EvalConfig(**vars(options)), as_json)
    results = evaluate_checkpoint(checkpoint, EvalConfig(**vars(options)))
    print_rows(results, as_json, lambda: score_table(results))
    return int(bool(results["errors"]))


def _follow(run: Path, config: Any, as_json: bool) -> int:
    from gato.eval.follow import follow, scores_line

    has_errors = False
    for name, results in follow(run, config):
        print_rows({"checkpoint": name, "results": results}, as_json, lambda name=name, found=results: scores_line(name, found))
        has_errors |= bool(results and results["errors"])
    return int(has_errors)


def plot(arguments: list[str]) -> None:
    parser = parser_of("plot", "A run's loss curves, scores, captions and film strips as one self-contained HTML page.")
    parser.add_argument("run", type=Path, help="folder of a run, such as runs/demo")
    parser.add_argument("--out", type=Path, help="default: report.html in the run's folder")
    options = parse(parser, arguments)
    from gato.eval.report import write_report

    print(write_report(options.run, options.out or options.run / "report.html"))
