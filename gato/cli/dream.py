"""`gato dream`: what a world model imagines, beside what really happens."""

from __future__ import annotations

from pathlib import Path

from .command import parse, parser_of, print_rows
from .threads import THREADS, THREADS_HELP, use_threads


def dream(arguments: list[str]) -> None:
    parser = parser_of("dream", "Measure a world model on episodes of no training, and draw what it imagines below what really happened.")
    from gato.eval.dream.report import DreamReport

    parser.add_argument("checkpoint", type=Path)
    parser.add_config(DreamReport)
    parser.add_option("--threads", int, None, THREADS, THREADS_HELP)
    parser.add_argument("--json", action="store_true")
    options = vars(parse(parser, arguments))
    checkpoint, as_json = options.pop("checkpoint"), options.pop("json")
    use_threads(options.pop("threads"), checkpoint)
    from gato.eval.dream.report import lines, report

    found = report(checkpoint, DreamReport(**options))
    print_rows(found, as_json, lambda: lines(found))
