"""`gato eval` and `gato plot`: scores of a checkpoint, the report of a run."""

from __future__ import annotations

from pathlib import Path

from .command import parse, parser_of, print_rows

EVAL_LISTS = {
    "tasks": "control tasks (default: all of the checkpoint; 'none' for none)",
    "suite": "families such as babyai: their tasks that the checkpoint knows",
    "captions": "stores of held-out pictures, such as pictures/unseen_picture",
    "prompts": "texts to continue",
    "text": "stores of documents, for bits per byte",
}


def evaluate(arguments: list[str]) -> None:
    parser = parser_of("eval", "Act in environments, caption held-out pictures, continue text; scores with 95 % intervals.")
    from gato.eval.control import EvalConfig, evaluate_checkpoint
    from gato.eval.table import score_table

    parser.add_argument("checkpoint", type=Path)
    for name, text in EVAL_LISTS.items():
        parser.add_argument(f"--{name}", nargs="*", type=str, default=[], help=text)
    parser.add_config(EvalConfig, skip=set(EVAL_LISTS))
    parser.add_argument("--json", action="store_true")
    options = parse(parser, arguments)
    as_json, checkpoint = vars(options).pop("json"), vars(options).pop("checkpoint")
    results = evaluate_checkpoint(checkpoint, EvalConfig(**vars(options)))
    print_rows(results, as_json, lambda: score_table(results))


def plot(arguments: list[str]) -> None:
    parser = parser_of("plot", "A run's loss curves, scores, captions and film strips, or the losses of several runs, as one HTML page.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, such as runs/demo")
    parser.add_argument("--out", type=Path, help="default: report.html in the run's folder, for several comparison.html in the present one")
    options = parse(parser, arguments)
    if len(options.runs) > 1:
        from gato.eval.comparison import write_comparison

        print(write_comparison(options.runs, options.out or Path("comparison.html")))
        return
    from gato.eval.report import write_report

    print(write_report(options.runs[0], options.out or options.runs[0] / "report.html"))
