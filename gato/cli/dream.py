"""`gato dream`: what a world model imagines, beside what really happens: a page to play in, or numbers and pictures."""

from __future__ import annotations

from pathlib import Path

from gato.setting import Limits

from .command import parse, parser_of, print_rows
from .serving import needs_extra
from .threads import add_threads, use_threads


def dream(arguments: list[str]) -> None:
    about = "Play inside a world model, the real game beside it, on a web page (extra 'serve')"
    parser = parser_of("dream", f"{about}; with --out it is measured on episodes of no training, and what it imagines is drawn.")
    from gato.eval.dream.report import DreamReport

    parser.add_argument("checkpoint", type=Path)
    parser.add_config(DreamReport)
    parser.add_option("--host", str, "127.0.0.1", help="of the page: 127.0.0.1 is this computer alone")
    parser.add_option("--port", int, 7861, Limits(0, 65535), "of the page: 0 takes a free one")
    add_threads(parser)
    options = vars(parse(parser, arguments))
    checkpoint, as_json, host, port = (options.pop(name) for name in ("checkpoint", "json", "host", "port"))
    use_threads(options.pop("threads"), checkpoint)
    config = DreamReport(**options)
    if config.out is None:
        if given := [name for name, value in options.items() if value != getattr(DreamReport(), name)]:
            raise ValueError(f"--{given[0]} is for measuring, and there is no --out FOLDER to write to; without it there is the page alone")
        _serve(checkpoint, host, port)
        return
    from gato.eval.dream.report import lines, report

    found = report(checkpoint, config)
    print_rows(found, as_json, lambda: lines(found))


def _serve(checkpoint: Path, host: str, port: int) -> None:
    with needs_extra():
        from gato.serve.dream_page import serve
    serve(checkpoint, host, port)
