"""The page of `gato dream`: a board inside the world model and the real one beside it, played with keys (extra `serve`).

It is served to this computer alone unless another host is named; nothing is fetched from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .app import Door, is_this_computer
from .dream import Busy, Games

MOST_BYTES = 1000  # of a request
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


def make_app(games: Games, is_local: bool) -> ASGIApp:
    """**Arguments:** `is_local`: only addresses of this computer are answered to."""
    page = resources.files("gato.configs").joinpath("pages/dream.html").read_text(encoding="utf-8")

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    routes = [
        Route("/", show),
        Route("/begin", _asked(lambda values: games.begin(values.get("seed"))), methods=["POST"]),
        Route("/act", _asked(lambda v: games.act(v.get("game"), v.get("action"), v.get("chance"))), methods=["POST"]),
        Route("/dream", _asked(lambda values: games.dream_on(values.get("game"))), methods=["POST"]),
    ]
    return Door(Starlette(routes=routes), None, is_local)


def _asked(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
    """A route that takes an object in JSON; what is refused is said in one line."""

    async def route(request: Request) -> Response:
        body = b""
        try:
            async for part in request.stream():
                body += part
                if len(body) > MOST_BYTES:
                    return JSONResponse({"error": f"the request is longer than {MOST_BYTES} bytes"}, 413)
            values = _object(body)
            return JSONResponse(await run_in_threadpool(answer, values))
        except ClientDisconnect:
            return Response(status_code=400)
        except Busy as error:
            return JSONResponse({"error": str(error)}, 503)
        except ValueError as error:
            return JSONResponse({"error": " ".join(str(error).split())[:300]}, 400)

    return route


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError('the request is no object in JSON, such as {"seed": 0} for /begin or {"game": ID, "action": 1} for /act')
    return values


def serve(checkpoint: Path, host: str, port: int) -> None:
    """Serves the page until it is interrupted; port 0 takes a free one.

    **Raises:** `ValueError` for a port that is taken, or another learner's folder.
    """
    import uvicorn

    from gato.eval.dream.report import load_world

    from .server import listen

    agent = load_world(checkpoint)
    agent.model.eval()
    listener = listen(host, port)
    games = Games(agent)
    name, port = listener.getsockname()[:2]
    print(f"http://{f'[{name}]' if ':' in name else name}:{port} ({games.task.name}; Ctrl-C ends it)", flush=True)
    app = make_app(games, is_this_computer(host))
    try:
        uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", server_header=False)).run(sockets=[listener])
    finally:
        games.close()
