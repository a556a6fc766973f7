"""Latency and throughput of `gato serve`: so many clients at once, their requests in one forward pass or one by one.

Run from the repository's root:  python benchmarks/serve.py CHECKPOINT --task gymnasium/cartpole [--clients 1 8] [--json FILE]
                                 python benchmarks/serve.py CHECKPOINT --task gymnasium/cartpole --soak 100000 --drops 1000

Every client is a websocket that asks again as soon as it has its answer, about drawn observations, and begins an episode every
200 timesteps. All clients are one process, the server another; they are plain sockets, so that their own work is hundredths of a
millisecond. Times are on the wall, from sending a message to having its answer, and beside that from the server's having read it to
its having the answer. Servers of both modes run side by side and are asked in turn.
`--soak` sends so many requests over 8 connections and reads the server's memory before (when as many as fill every context were
answered), half-way and at the end; `--drops` opens so many connections and drops them without a word.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import selectors
import socket
import subprocess
import sys
import time
import urllib.request
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from websockets.asyncio.client import connect

from gato.serve.wire import read_msgpack, write_msgpack
from gato.spec import FieldSpec, Modality, TaskSpec

EPISODE = 200
MOST_KEPT = 20_000  # answers of a row, read for what the server says of its own time
MODES = {"batched": [], "one by one": ["--batch", "1", "--wait_ms", "0"]}


@contextmanager
def serving(checkpoint: str, *options: str) -> Iterator[str]:
    """HOST:PORT of a server in a process of its own, which is terminated at the end and must leave with 0."""
    command = [sys.executable, "-m", "gato.cli", "serve", checkpoint, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if "ws://" not in line:
        raise SystemExit(f"the server did not start: {line}")
    try:
        yield line.split("ws://")[1].split()[0]
    finally:
        process.terminate()
        code = process.wait(30)
    if code:
        raise SystemExit(f"the server ended with {code}")


def drawn(spec: FieldSpec, rng: np.random.Generator) -> Any:
    """A value of a field."""
    low, high = spec.bounds
    if spec.modality is Modality.TEXT:
        return "go to the red ball"
    if spec.modality is Modality.IMAGE:
        return rng.integers(0, 256, spec.shape, np.uint8)
    if spec.modality is Modality.DISCRETE:
        return rng.integers(low.astype(int), high.astype(int) + 1).astype(spec.dtype)
    return np.clip(rng.normal(size=spec.shape), low, high).astype(spec.dtype)


class Client:
    """A websocket that costs the machine little: its messages are packed before the clock starts, and its answers read behind it."""

    def __init__(self, address: str, task: TaskSpec, seed: int) -> None:
        rng = np.random.default_rng(seed)
        values = [{f.name: drawn(f, rng) for f in task.observations} for _ in range(16)]
        self.frames = [[framed(write_msgpack({**v, "reset": reset, "reward": 0.0})) for v in values] for reset in (False, True)]
        host, port = address.rsplit(":", 1)
        self.socket, self.held, self.step, self.sent = socket.create_connection((host, int(port))), b"", 0, 0.0
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(
            f"GET /?task={task.name} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.held:
            self.held += self.socket.recv(65536)
        head, _, self.held = self.held.partition(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise SystemExit(f"the server says: {head.decode(errors='replace')}")
        while self.frame() is None:  # what it serves
            self.receive()

    def ask(self) -> None:
        self.sent = time.perf_counter()
        self.socket.sendall(self.frames[self.step % EPISODE == 0][self.step % 16])
        self.step += 1

    def receive(self) -> None:
        if not (arrived := self.socket.recv(65536)):
            raise SystemExit("the server has closed a connection")
        self.held += arrived

    def frame(self) -> bytes | None:
        """What the next frame holds, `None` while it is not whole."""
        size, start = self.held[1] & 127 if len(self.held) > 1 else 0, 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(self.held[2:start], "big")
        if len(self.held) < start + max(size, 1):
            return None
        kind, content, self.held = self.held[0], self.held[start : start + size], self.held[start + size :]
        if kind == 0x89:  # a ping
            self.socket.sendall(b"\x8a" + framed(content)[1:])
            return self.frame()
        if kind != 0x82:
            raise SystemExit(f"the server says: {content.decode(errors='replace')}")
        return content


def framed(payload: bytes) -> bytes:
    """A client's binary frame, masked with zeros."""
    size = len(payload)
    short = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big") if size < 2**16 else b"\xff" + size.to_bytes(8, "big")
    return b"\x82" + short + bytes(4) + payload


def asked(address: str, task: TaskSpec, clients: int, seconds: float = 1e9, most: int = 10**9) -> dict[str, float]:
    """A row: requests a second, and in milliseconds the times of their answers, here and as the server says."""
    selector, times, answers, left = selectors.DefaultSelector(), array("d"), [], clients
    for seed in range(clients):
        made = Client(address, task, seed)
        selector.register(made.socket, selectors.EVENT_READ, made)
    started = time.perf_counter()
    for key in list(selector.get_map().values()):
        key.data.ask()
    while left:
        for key, _ in selector.select():
            key.data.receive()
            if (answer := key.data.frame()) is None:
                continue
            now = time.perf_counter()
            times.append(now - key.data.sent)
            if len(answers) < MOST_KEPT:
                answers.append(answer)
            if now < started + seconds and key.data.step < most:
                key.data.ask()
            else:
                left -= 1
                selector.unregister(key.fileobj)
                key.fileobj.close()
    took = time.perf_counter() - started
    inside = [read_msgpack(answer)["server_timing"]["infer_ms"] for answer in answers]
    (p50, p99), server = np.percentile(times, [50, 99]) * 1000, np.percentile(inside, 99)
    return {
        "clients": clients,
        "requests": len(times),
        "per_second": len(times) / took,
        "p50_ms": p50,
        "p99_ms": p99,
        "server_p99_ms": server,
    }


def read(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}") as answer:
        return answer.read().decode()


def metric(address: str, name: str) -> float:
    return float(next(line.split()[-1] for line in read(address, "/metrics").splitlines() if line.startswith(name)))


def latencies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both modes and all numbers of clients in turn, `--rounds` times: of every figure the median over the rounds."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        sessions = ("--sessions", str(max(options.clients)))
        servers = {m: stack.enter_context(serving(options.checkpoint, *sessions, *extra, *options.server)) for m, extra in MODES.items()}
        for mode, address in [*servers.items()] * options.rounds:
            task = task_of(address, options.task)
            asked(address, task, max(options.clients), most=20)
            for clients in options.clients:
                names = ("gato_batch_size_sum", "gato_batch_size_count", "process_cpu_seconds_total")
                before = [metric(address, name) for name in names]
                row = asked(address, task, clients, options.seconds)
                requests, passes, computed = (metric(address, name) - b for name, b in zip(names, before, strict=True))
                row |= {"per_pass": requests / passes, "cpu_ms": 1000 * computed / requests}
                found.setdefault((mode, clients), []).append(row)
    rows = [{"mode": mode, **{k: float(np.median([r[k] for r in kept])) for k in kept[0]}} for (mode, _), kept in found.items()]
    for row in rows:
        row["p99_times"] = row["p99_ms"] / next(r["p99_ms"] for r in rows if r["mode"] == row["mode"])
        print("{mode:10}  {clients:3.0f} clients  {per_second:7.1f}/s  p50 {p50_ms:7.2f} ms  p99 {p99_ms:7.2f} ms ({p99_times:.1f} times "
              "the first)  in the server {server_p99_ms:7.2f} ms  {per_pass:5.2f} requests a pass  {cpu_ms:6.2f} ms of CPU a request"
              .format(**row), flush=True)  # fmt: skip
    return rows


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Memory over many requests, and whether the server lives on after many dropped connections."""
    found: dict[str, Any] = {}
    with serving(options.checkpoint, "--sessions", "8", *options.server) as address:
        task = task_of(address, options.task)
        asked(address, task, 8, most=2 * EPISODE)
        found["megabytes"] = [metric(address, "process_resident_memory_bytes") / 1e6]
        for _ in range(2 if options.soak else 0):
            row = asked(address, task, 8, most=options.soak // 16)
            found["megabytes"].append(metric(address, "process_resident_memory_bytes") / 1e6)
            print(f"{row['requests']:,} requests, {row['per_second']:.1f}/s: {found['megabytes'][-1]:.1f} MB", flush=True)
        if options.drops:
            asyncio.run(dropped(address, options.drops))
            deadline = time.monotonic() + 60
            while metric(address, "gato_sessions") + metric(address, "gato_connections") and time.monotonic() < deadline:
                time.sleep(0.1)
            found["after_drops"] = {name: metric(address, f"gato_{name}") for name in ("sessions", "connections")}
            found["after_drops"]["megabytes"] = metric(address, "process_resident_memory_bytes") / 1e6
            found["after_drops"]["p50_ms"] = asked(address, task, 1, most=100)["p50_ms"]
            print(f"{options.drops:,} connections dropped: {found['after_drops']}", flush=True)
    return found


async def dropped(address: str, count: int) -> None:
    host, port = address.rsplit(":", 1)
    for start in range(0, count, 50):
        opened = await asyncio.gather(*(connect(f"ws://{address}/", compression=None) for _ in range(min(50, count - start))))
        raw = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
        for websocket in opened:
            websocket.transport.abort()
        for _, writer in raw:
            writer.write(b"GET / HT")
            writer.transport.abort()


def task_of(address: str, name: str | None) -> TaskSpec:
    metadata = json.loads(read(address, "/metadata"))
    chosen = name or metadata["default_task"]
    if chosen not in metadata["tasks"]:
        raise SystemExit(f"name a --task: one of {', '.join(metadata['tasks'])}")
    return TaskSpec.from_dict(metadata["tasks"][chosen])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--task")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--drops", type=int, default=0)
    parser.add_argument("--server", nargs="*", default=[], help="more options of gato serve, as --server=--device --server=cuda")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    results: dict[str, Any] = soak(options) if options.soak or options.drops else {"rows": latencies(options)}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main, may_name_a_file=True))
