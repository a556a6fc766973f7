"""`gato eval` and `gato plot`: scores of a checkpoint, the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gato.setting import INDEX, SEED, Limits

from .command import add_loading, parse, parser_of, print_rows, table
from .output import write_document
from .threads import add_threads, use_threads

EVAL_LISTS = {
    "tasks": "control tasks (default: all of the checkpoint; 'none' for none)",
    "suite": "families such as babyai: their tasks that the checkpoint knows",
    "captions": "stores of held-out pictures, such as pictures/unseen_picture",
    "prompts": "texts to continue",
    "text": "stores of documents, for bits per byte",
}


def evaluate(arguments: list[str]) -> int:
    about = "Act in environments, caption held-out pictures, continue text; scores with 95 % intervals."
    parser = parser_of("eval", f"{about} Exit code 1 if a task could not be played.")
    from gato.eval.settings import EvalConfig

    parser.add_argument("checkpoint", type=Path)
    for name, text in EVAL_LISTS.items():
        parser.add_argument(f"--{name}", nargs="*", type=str, default=[], help=text)
    parser.add_config(EvalConfig, skip=set(EVAL_LISTS))
    parser.add_option("--follow", bool, False, help="CHECKPOINT is a run: play its checkpoints as they appear, until the final one")
    add_threads(parser)
    options = parse(parser, arguments)
    as_json, checkpoint, whole_run, threads = (vars(options).pop(name) for name in ("json", "checkpoint", "follow", "threads"))
    use_threads(threads, next((path.parent for path in checkpoint.glob("*/model*.safetensors")), checkpoint) if whole_run else checkpoint)
    if whole_run:
        return _follow(checkpoint, EvalConfig(**vars(options)), as_json)
    from gato.eval.control import evaluate_checkpoint
    from gato.eval.report.table import score_table

    results = evaluate_checkpoint(checkpoint, EvalConfig(**vars(options)))
    print_rows(results, as_json, lambda: score_table(results))
    return int(bool(results["errors"]))


def arena(arguments: list[str]) -> int:
    about = "Several checkpoints on the same tasks, demonstrations and starts: a table and a page of who wins where."
    parser = parser_of("arena", f"{about} Exit code 1 if one of them could not take a task.")
    from gato.eval.settings import ArenaConfig

    parser.add_argument("checkpoints", nargs="*", type=str, help="folders, with a label as LABEL=FOLDER; of one label: seeds of one system")
    parser.add_config(ArenaConfig)
    add_threads(parser)
    options = parse(parser, arguments)
    checkpoints, as_json, threads = (vars(options).pop(name) for name in ("checkpoints", "json", "threads"))
    config = ArenaConfig(**vars(options))
    use_threads(threads, Path(checkpoints[0].rpartition("=")[2]) if checkpoints else None)
    from gato.eval.arena import arena as run
    from gato.eval.arena import table as lines
    from gato.eval.report.arena_page import write_arena

    results = run(checkpoints, config)
    page = write_arena(results, config.out / "arena.html")
    print_rows(results, as_json, lambda: f"{lines(results, table)}\n{page}")
    return int(any(line["error"] for line in results["lines"]))


def _follow(run: Path, config: Any, as_json: bool) -> int:
    from gato.eval.follow import follow, scores_line

    has_errors = False
    for name, results in follow(run, config):
        if as_json:
            write_document({"checkpoint": name, "results": results}, indent=None)
        else:
            print(scores_line(name, results), flush=True)
        has_errors |= bool(results and results["errors"])
    return int(has_errors)


def plot(arguments: list[str]) -> None:
    parser = parser_of(
        "plot",
        "A run's loss curves, scores, captions and film strips, or the losses of several runs, as one HTML page; "
        "or a map of a checkpoint's domains.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, such as runs/demo; with --embeddings one checkpoint")
    parser.add_argument("--out", type=Path, help="default: report.html or embeddings.png in that folder; comparison.html for several")
    parser.add_argument(
        "--embeddings", action="store_true", help="draw where snippets of its sources lie in the checkpoint (extra 'embeddings')"
    )
    parser.add_argument("--stores", nargs="+", type=str, default=[], help="of --embeddings: these, not the sources it was trained on")
    parser.add_option("--snippets", int, 100, Limits(2, 100_000), "of --embeddings: rows of 128 tokens a source")
    parser.add_option("--layer", int, None, INDEX, "of --embeddings: drawn, counted from 0 (default: the middle one)")
    parser.add_option("--seed", int, 0, SEED, "of --embeddings: which rows, and the untrained weights")
    add_loading(parser)
    options = parse(parser, arguments)
    if options.embeddings:
        _embeddings(options)
        return
    if len(options.runs) > 1:
        from gato.eval.report.comparison import write_comparison

        page = write_comparison(options.runs, options.out or Path("comparison.html"))
    else:
        from gato.eval.report.page import write_report

        (run,) = options.runs
        page = write_report(run, options.out or run / "report.html")
    print_rows({"page": page, "runs": options.runs}, options.json, lambda: str(page))


def _embeddings(options: Any) -> None:
    from gato.agent import load
    from gato.description import check_gato
    from gato.eval.insight.embeddings import embedding_results, sources_of, write_embeddings

    if len(options.runs) > 1:
        raise ValueError(f"--embeddings maps one checkpoint, found {len(options.runs)}; name one")
    (checkpoint,) = options.runs
    check_gato(checkpoint, "be mapped")
    sources, agent = sources_of(checkpoint, options.stores), load(checkpoint, options.device, options.verify)
    out = options.out or checkpoint / "embeddings.png"
    figures = write_embeddings(embedding_results(agent, sources, options.snippets, options.seed), out, options.layer)
    rows = [
        {"layer": i, **{name: f"{one['mean']:.1%} [{one['low']:.1%}, {one['high']:.1%}]" for name, one in pair.items()}}
        for i, pair in enumerate({n: figures[n][i]["purity"] for n in ("trained", "untrained")} for i in range(len(figures["trained"])))
    ]
    head = f"neighbours of the same source, chance {figures['chance']:.1%}"
    print_rows(figures, options.json, lambda: f"{head}\n{table(rows)}\n{out}")
