"""`gato serve`: a checkpoint behind uvicorn, on this computer alone unless another host is named (extra `serve`)."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
import websockets  # noqa: F401  uvicorn imports it later, when it is too late for one line
from uvicorn.protocols.http.h11_impl import H11Protocol

from gato.agent import load

from .app import is_this_computer, make_app
from .demonstrated import Demonstrated
from .service import Service
from .settings import TOKEN_VARIABLE, ServeConfig

HEAD_SECONDS = 5.0  # for the head of a request to arrive
MIN_TOKEN = 8


def serve(checkpoint: Path, config: ServeConfig) -> None:
    """Serves a checkpoint until it is interrupted or terminated; what was asked before is answered.

    **Raises:** `ImportError` with the pip line if the library is missing; `ValueError` for a port that is taken, a token that is none,
    or a task that the checkpoint does not know.
    """
    is_local = is_this_computer(config.host)
    token, was_drawn = _token(config, is_local)
    listener = listen(config.host, config.port)
    folder = checkpoint.resolve()
    name = folder.parent.name if folder.name == "final" else folder.name
    try:
        service = _service(checkpoint, name, config)
    except BaseException:
        listener.close()
        raise
    host, port = listener.getsockname()[:2]
    address = f"{f'[{host}]' if ':' in host else host}:{port}"

    def ready() -> None:
        tasks = ", ".join(sorted(service.acting.tasks)[:4]) + (", ..." if len(service.acting.tasks) > 4 else "")
        print(f"{name}: ws://{address} and http://{address} ({tasks or 'no tasks'}; Ctrl-C ends it)", flush=True)
        if was_drawn:
            print(f"token: {token}", flush=True)

    gc.collect()
    gc.freeze()  # what is there stays there: nothing of it is to be looked through while somebody waits
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more when all is answered
    try:
        make_server(service, token, is_local, ready).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        service.close()


def _service(checkpoint: Path, name: str, config: ServeConfig) -> Service:
    """What is served; a task of demonstrations is learned before anybody can ask."""
    agent = load(checkpoint, config.device, config.verify)
    if config.demonstrations is None:
        return Service(agent, name, config)
    demonstrated = Demonstrated(agent, config.demonstrations, config.by, config.chunk)
    service, started = Service(agent, name, config, [demonstrated]), time.monotonic()
    service.acting.prepare(demonstrated.task)
    left_out = f", {demonstrated.left_out} left out" if demonstrated.left_out else ""
    took = f"{time.monotonic() - started:.1f} s"
    print(f"{demonstrated.task.name}: by {config.by} from {len(demonstrated.episodes)} demonstrations{left_out}, {took}", flush=True)
    return service


def make_server(service: Service, token: str | None = None, is_local: bool = True, ready: Callable[[], None] = lambda: None) -> Server:
    """A server for sockets that listen already: `make_server(...).run(sockets=[...])`."""
    config = uvicorn.Config(
        make_app(service, token, is_local), http=_Prompt, ws="websockets-sansio", loop="asyncio", lifespan="off", log_level="error",
        access_log=False, server_header=False, proxy_headers=False, ws_max_size=service.most_bytes, ws_per_message_deflate=False,
        h11_max_incomplete_event_size=2**15, timeout_graceful_shutdown=2, backlog=1024,
    )  # fmt: skip
    return Server(config, service, ready)


class Server(uvicorn.Server):
    """Answers what it was asked before it ends."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.ready = service, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.service.drain()
        await asyncio.sleep(0.05)  # the last answers are on their way
        await super().shutdown(sockets)


class _Prompt(H11Protocol):
    """A connection whose first request does not arrive is closed."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waits = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._waits.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.scope is None and not self.transport.is_closing():
            self.transport.close()


def _token(config: ServeConfig, is_local: bool) -> tuple[str | None, bool]:
    """The token, `None` where none is asked for, and whether it was drawn here."""
    token = os.environ.get(TOKEN_VARIABLE)
    if config.token_file is not None:
        try:
            token = Path(config.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ValueError(
                f"token_file '{config.token_file}' cannot be read ({why}); expected a file that holds the token alone"
            ) from None
    if token is None:
        return (None, False) if is_local else (secrets.token_urlsafe(24), True)
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"the token has {len(token)} characters, expected at least {MIN_TOKEN} printable ones without spaces")
    return token, False


def listen(host: str, port: int) -> socket.socket:
    """**Raises:** `ValueError` where nobody can listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ValueError(f"nothing can listen at {host}:{port} ({error.strerror}); name another --port or --host") from None
