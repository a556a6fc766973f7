"""`gato serve`: a checkpoint acts, captions and writes for programs elsewhere."""

from __future__ import annotations

from .command import parser_of
from .threads import checkpoint_options

EXTRA = "serving needs uvicorn, starlette, websockets and msgpack: pip install 'opengato[serve]'"


def serve(arguments: list[str]) -> None:
    parser = parser_of("serve", "Serve a checkpoint to robots and programs: openpi's websocket protocol, and HTTP (extra 'serve').")
    from gato.serve.settings import ServeConfig

    checkpoint, config = checkpoint_options(parser, ServeConfig, arguments)
    try:
        from gato.serve.server import serve
    except ImportError as error:
        if str(error.name).partition(".")[0] == "gato":
            raise
        raise ImportError(EXTRA) from None
    serve(checkpoint, config)
