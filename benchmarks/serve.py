"""Latency and throughput of `gato serve`: so many clients at once, their requests in one forward pass or one by one.

Run from the repository's root:  python benchmarks/serve.py CHECKPOINT --task gymnasium/cartpole [--clients 1 8] [--json FILE]
                                 python benchmarks/serve.py CHECKPOINT --task gymnasium/cartpole --soak 100000 --drops 1000

Every client is a websocket that asks again as soon as it has its answer, about drawn observations, and begins an episode every
200 timesteps. All clients are one process, the server another. Times are on the wall, from sending a message to having its answer.
`--soak` sends so many requests over 8 connections and reads the server's memory before (when as many as fill every context were
answered), half-way and at the end; `--drops` opens so many connections and drops them without a word.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from websockets.asyncio.client import connect

from gato.serve.wire import write_msgpack
from gato.spec import FieldSpec, Modality, TaskSpec

EPISODE = 200
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


async def client(address: str, task: TaskSpec, seed: int, until: float, most: int, times: list[float]) -> None:
    rng = np.random.default_rng(seed)
    messages = [{f.name: drawn(f, rng) for f in task.observations} for _ in range(16)]
    async with connect(f"ws://{address}/?task={task.name}", compression=None, max_size=None) as socket:
        await socket.recv()
        step = 0
        while time.perf_counter() < until and step < most:
            packed = write_msgpack({**messages[step % 16], "reset": step % EPISODE == 0, "reward": 0.0})
            started = time.perf_counter()
            await socket.send(packed)
            answer = await socket.recv()
            times.append(time.perf_counter() - started)
            if isinstance(answer, str):
                raise SystemExit(f"the server says: {answer}")
            step += 1


async def asked(address: str, task: TaskSpec, clients: int, seconds: float = 1e9, most: int = 10**9) -> dict[str, float]:
    """A row: requests a second, and the times of their answers in milliseconds."""
    times: list[float] = []
    started = time.perf_counter()
    await asyncio.gather(*(client(address, task, seed, started + seconds, most, times) for seed in range(clients)))
    took = time.perf_counter() - started
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"clients": clients, "requests": len(times), "per_second": len(times) / took, "p50_ms": p50, "p99_ms": p99}


def read(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}") as answer:
        return answer.read().decode()


def metric(address: str, name: str) -> float:
    return float(next(line.split()[-1] for line in read(address, "/metrics").splitlines() if line.startswith(name)))


def latencies(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for mode, extra in MODES.items():
        with serving(options.checkpoint, "--sessions", str(max(options.clients)), *extra, *options.server) as address:
            task = task_of(address, options.task)
            asyncio.run(asked(address, task, 1, most=20))
            for clients in options.clients:
                names = ("gato_batch_size_sum", "gato_batch_size_count", "process_cpu_seconds_total")
                before = [metric(address, name) for name in names]
                row = asyncio.run(asked(address, task, clients, options.seconds))
                requests, passes, computed = (metric(address, name) - b for name, b in zip(names, before, strict=True))
                rows.append({"mode": mode, **row, "per_pass": requests / passes, "cpu_ms": 1000 * computed / requests})
                print("{mode:10}  {clients:3} clients  {per_second:7.1f}/s  p50 {p50_ms:7.2f} ms  p99 {p99_ms:7.2f} ms  "
                      "{per_pass:5.2f} requests a pass  {cpu_ms:6.2f} ms of CPU a request".format(**rows[-1]), flush=True)  # fmt: skip
    return rows


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Memory over many requests, and whether the server lives on after many dropped connections."""
    found: dict[str, Any] = {}
    with serving(options.checkpoint, "--sessions", "8", *options.server) as address:
        task = task_of(address, options.task)
        asyncio.run(asked(address, task, 8, most=2 * EPISODE))
        found["megabytes"] = [metric(address, "process_resident_memory_bytes") / 1e6]
        for _ in range(2 if options.soak else 0):
            row = asyncio.run(asked(address, task, 8, most=options.soak // 16))
            found["megabytes"].append(metric(address, "process_resident_memory_bytes") / 1e6)
            print(f"{row['requests']:,} requests, {row['per_second']:.1f}/s: {found['megabytes'][-1]:.1f} MB", flush=True)
        if options.drops:
            asyncio.run(dropped(address, options.drops))
            deadline = time.monotonic() + 60
            while metric(address, "gato_sessions") + metric(address, "gato_connections") and time.monotonic() < deadline:
                time.sleep(0.1)
            found["after_drops"] = {name: metric(address, f"gato_{name}") for name in ("sessions", "connections")}
            found["after_drops"]["megabytes"] = metric(address, "process_resident_memory_bytes") / 1e6
            found["after_drops"]["p50_ms"] = asyncio.run(asked(address, task, 1, most=100))["p50_ms"]
            print(f"{options.drops:,} connections dropped: {found['after_drops']}", flush=True)
    return found


async def dropped(address: str, count: int) -> None:
    host, port = address.rsplit(":", 1)
    for start in range(0, count, 50):
        opened = await asyncio.gather(*(connect(f"ws://{address}/", compression=None) for _ in range(min(50, count - start))))
        raw = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
        for socket in opened:
            socket.transport.abort()
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
    parser.add_argument("--seconds", type=float, default=20.0)
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
