"""`gato serve`: a checkpoint acts, captions and writes for programs elsewhere."""

from __future__ import annotations

from pathlib import Path

from .command import parse, parser_of
from .threads import THREADS, THREADS_HELP, use_threads

EXTRA = "serving needs uvicorn, starlette, websockets and msgpack: pip install 'opengato[serve]'"


def serve(arguments: list[str]) -> None:
    parser = parser_of("serve", "Serve a checkpoint to robots and programs: openpi's websocket protocol, and HTTP (extra 'serve').")
    from gato.serve.settings import ServeConfig

    parser.add_argument("checkpoint", type=Path)
    parser.add_config(ServeConfig)
    parser.add_option("--threads", int, None, THREADS, THREADS_HELP)
    options = vars(parse(parser, arguments))
    checkpoint = options.pop("checkpoint")
    use_threads(options.pop("threads"), checkpoint)
    try:
        from gato.serve.server import serve
    except ImportError as error:
        if str(error.name).partition(".")[0] == "gato":
            raise
        raise ImportError(EXTRA) from None
    serve(checkpoint, ServeConfig(**options))
