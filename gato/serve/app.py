"""The wires of a policy server: openpi's websocket protocol, and HTTP.

    ws /                  metadata once, then an action for every observation (msgpack); a text frame is a refusal in one line
    POST /act             the same in JSON or msgpack, in a `session`
    POST /caption         a picture's file, or JSON with its base64; POST /generate: a text to continue
    GET  /healthz /metadata /metrics

Nobody gets past `Door` without the token, where there is one, nor with the address of another page's server in `Host` or `Origin`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from .batcher import Busy
from .service import MAX_UPLOAD, Leaving, Place, Service
from .wire import FAULT, Refused, read_json, read_msgpack, write_json, write_msgpack

BODY_SECONDS = 30.0  # for a request to arrive whole
SEND_SECONDS = 10.0  # for a client to take its answer
MAX_LINE = 2000
MSGPACK = "application/msgpack"

_log = logging.getLogger(__name__)


class Answer(Exception):
    """A refusal of HTTP with its status."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def make_app(service: Service, token: str | None, is_local: bool) -> ASGIApp:
    """**Arguments:** `token`: asked of everybody but `/healthz`; `is_local`: only addresses of this computer are answered to."""
    routes = [
        WebSocketRoute("/", _socket), WebSocketRoute("/act", _socket),
        Route("/act", _act, methods=["POST"]), Route("/caption", _caption, methods=["POST"]),
        Route("/generate", _generate, methods=["POST"]), Route("/healthz", _health), Route("/metadata", _metadata),
        Route("/metrics", _metrics),
    ]  # fmt: skip
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _fault})
    app.state.service = service
    return Door(app, token, is_local)


class Door:
    """Turns away who may not come in, before anything is read."""

    def __init__(self, app: ASGIApp, token: str | None, is_local: bool) -> None:
        self.app, self.token, self.is_local = app, token, is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (why := self._refusal(scope)):
            response = JSONResponse({"error": why[1]}, why[0], {"Connection": "close"})
            if scope["type"] == "websocket":
                await receive()
                await WebSocket(scope, receive, send).send_denial_response(response)
            else:
                await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.is_local and not is_this_computer(_without_port(host)):
            return 403, f"host '{host[:80]}' is not this computer, which alone is served; name another --host to let others in"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "requests from other web pages are not answered"
        if self.token is None or scope["path"] == "/healthz":
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() in ("bearer", "api-key") and hmac.compare_digest(given.strip().encode(), self.token.encode()):
            return None
        return 401, "the token is missing or another one; send it as 'Authorization: Bearer TOKEN' or 'Api-Key TOKEN'"


def is_this_computer(host: str) -> bool:
    """Whether a name or an address is that of the loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def line_of(error: BaseException) -> str:
    """What a client is told: one line, without a traceback."""
    if isinstance(error, Busy):
        return f"busy: {error}"
    text = " ".join(str(error).split()) if isinstance(error, (Refused, Leaving, Answer)) else FAULT
    return text[:MAX_LINE]


# -- websocket ---------------------------------------------------------------------------------------------


async def _socket(socket: WebSocket) -> None:
    service: Service = socket.app.state.service
    if service.num_connections >= service.config.connections:
        line = f"busy: {service.config.connections} connections are open; try again"
        await socket.receive()
        await socket.send_denial_response(JSONResponse({"error": line}, 503))
        return
    service.num_connections += 1
    place = Place(socket.query_params.get("task"))
    try:
        await socket.accept()
        await _sent(socket, write_msgpack(service.metadata()))
        while (event := await socket.receive())["type"] == "websocket.receive":
            await _sent(socket, await _reply(service, place, event.get("bytes")))
    except (WebSocketDisconnect, OSError, RuntimeError, TimeoutError):  # the client is gone, or does not read
        pass
    finally:
        service.num_connections -= 1
        service.leave(place)


async def _reply(service: Service, place: Place, data: bytes | None) -> bytes | str:
    """An answer as bytes, a refusal as a text."""
    try:
        if data is None:
            raise Refused("a frame of text has come; send msgpack in binary frames")
        return write_msgpack(await service.act(place, read_msgpack(data)))
    except (Refused, Busy, Leaving) as error:
        return line_of(error)
    except Exception as error:
        _noted(error)
        return line_of(error)


async def _sent(socket: WebSocket, content: bytes | str) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await (socket.send_bytes(content) if isinstance(content, bytes) else socket.send_text(content))


# -- HTTP --------------------------------------------------------------------------------------------------


async def _act(request: Request) -> Response:
    service: Service = request.app.state.service
    try:
        body = await _body(request, service.most_bytes)
        is_msgpack = _type(request) == MSGPACK
        message = read_msgpack(body) if is_msgpack else read_json(body)
        name = message.pop("session", None)
        place = service.place(name)
        try:
            answer = await service.act(place, message)
        finally:
            if name is None:
                service.leave(place)
        if is_msgpack:
            return Response(write_msgpack(answer), media_type=MSGPACK)
        return Response(write_json(answer), media_type="application/json")
    except (Refused, Busy, Leaving, Answer) as error:
        return _refusal(error)


async def _caption(request: Request) -> Response:
    service: Service = request.app.state.service
    try:
        async with service.upload():
            message, picture = await _picture(request)
            return JSONResponse(await service.write("caption", message, picture))
    except (Refused, Busy, Leaving, Answer) as error:
        return _refusal(error)


async def _picture(request: Request) -> tuple[dict[str, Any], bytes]:
    """Settings and the bytes of the file: of JSON, or of the query and the body."""
    if _type(request) == "application/json":
        message = read_json(await _body(request, MAX_UPLOAD * 4 // 3 + 2**16))
        try:
            return message, base64.b64decode(message.pop("image"), validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise Refused("image is missing or no base64 of a picture's file") from None
    message = dict(request.query_params)
    for name, kind in (("max_new_tokens", int), ("seed", int), ("temperature", float)):
        try:
            message |= {name: kind(message[name])} if name in message else {}
        except ValueError:
            raise Refused(f"{name} is '{message[name][:40]}', expected a number") from None
    return message, await _body(request, MAX_UPLOAD)


async def _generate(request: Request) -> Response:
    service: Service = request.app.state.service
    try:
        return JSONResponse(await service.write("generate", read_json(await _body(request, 2**17))))
    except (Refused, Busy, Leaving, Answer) as error:
        return _refusal(error)


async def _health(request: Request) -> Response:
    return PlainTextResponse("OK\n", 503 if request.app.state.service.is_leaving else 200)


async def _metadata(request: Request) -> Response:
    return Response(write_json(request.app.state.service.metadata()), media_type="application/json")


async def _metrics(request: Request) -> Response:
    return PlainTextResponse(request.app.state.service.metrics.text(), media_type="text/plain; version=0.0.4")


async def _body(request: Request, most: int) -> bytes:
    """**Raises:** `Answer` for one that is larger, packed, or does not arrive."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Answer(415, "packed requests are not read; send it without Content-Encoding")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise Answer(413, f"the request has {length[:20]} bytes, at most {most} are read")
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise Answer(413, f"the request has more than {most} bytes")
                parts.append(part)
    except TimeoutError:
        raise Answer(408, f"the request did not arrive within {BODY_SECONDS:g} s") from None
    return b"".join(parts)


def _type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refusal(error: Exception) -> Response:
    status = 503 if isinstance(error, (Busy, Leaving)) else error.status if isinstance(error, Answer) else 400
    headers: Mapping[str, str] = {"Retry-After": "1"} if status == 503 else {"Connection": "close"} if status in (408, 413, 415) else {}
    return JSONResponse({"error": line_of(error)}, status, dict(headers))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "it is registered for these"
    known = "known are POST /act, /caption, /generate and GET /healthz, /metadata, /metrics"
    line = f"there is no {request.method} {request.url.path[:80]}; {known}"
    return JSONResponse({"error": line}, error.status_code, error.headers)


async def _fault(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": FAULT}, 500)


def _noted(error: BaseException) -> None:
    """In the server's own log: a line, with the traceback where somebody debugs."""
    _log.error("%s: %s", type(error).__name__, " ".join(str(error).split()), exc_info=error if _log.isEnabledFor(logging.DEBUG) else None)
