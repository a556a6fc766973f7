"""The settings of `gato serve`; nothing here imports torch or the server library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gato.setting import MAX_SEED, MAX_TEMPERATURE, Settings, bounded, choice

LARGEST_RETURN = 1e30
TOKEN_VARIABLE = "GATO_SERVE_TOKEN"
WAYS = ("retrieve", "knn", "lwr", "clone", "keypoints", "darp", "prompt")  # to act by demonstrations
MOST_DEMONSTRATIONS = 100


@dataclass(frozen=True)
class ServeConfig(Settings):
    """- `host`: 127.0.0.1 is this computer alone; elsewhere a token is asked of everybody.
    - `port`: 0 takes a free one.
    - `token_file`: a file that holds the token; GATO_SERVE_TOKEN may hold it instead. Without either one is drawn and printed, where
      `host` is not this computer alone.
    - `task`: what is played where a client names none; by default the only one that the checkpoint knows.
    - `demonstrations`: a store of one more task, which is acted in by its demonstrations, at most a hundred of them.
    - `by`: how: `retrieve`, `knn`, `lwr` look actions up, `clone`, `keypoints` (of pictures) and `darp` train a small network first,
      `prompt` shows the checkpoint the first one before every episode.
    - `chunk`: so many timesteps' actions are learned of the demonstrations as one, and answered together.
    - `sessions`: robots that one task may have at once, each with a memory of its own.
    - `wait_ms`: for how long a request waits for those of other active sessions, to share a forward pass with them.
    - `batch`: requests that share a forward pass at most; 1: one by one.
    - `waiting`: requests that may wait; beyond them the answer is "busy".
    - `connections`: websockets that may be open at once.
    - `session_seconds`: after how long a session of HTTP is forgotten that nobody used.
    - `temperature`, `seed`, `overflow`, `memory`, `target_return`: of the actions, as for `gato eval`.
    - `device`: cpu, cuda, cuda:1, mps; by default the best one here. `verify`: compare the checkpoint's files with their hashes.
    """

    host: str = "127.0.0.1"
    port: int = bounded(8000, 0, 65535)
    token_file: Path | None = None
    task: str | None = None
    demonstrations: str | None = None
    by: str = choice("clone", WAYS)
    chunk: int = bounded(1, 1, 1024)
    sessions: int = bounded(32, 1, 4096)
    wait_ms: float = bounded(2.0, 0, 1000)
    batch: int = bounded(64, 1, 4096)
    waiting: int = bounded(128, 1, 100_000)
    connections: int = bounded(256, 1, 100_000)
    session_seconds: float = bounded(300.0, 1, 1e7)
    temperature: float | None = bounded(None, 0, MAX_TEMPERATURE)
    seed: int = bounded(0, 0, MAX_SEED)
    overflow: str = choice("rebuild", ("rebuild", "rolling"))
    memory: int | None = bounded(None, 0, 10**6)
    target_return: float | None = bounded(None, -LARGEST_RETURN, LARGEST_RETURN)
    device: str | None = None
    verify: bool = True
