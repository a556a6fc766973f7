"""A served policy in the place of one that is loaded here: `gato.evaluate(RemotePolicy("127.0.0.1:8000", "gymnasium/cartpole"))`.

It needs websockets, msgpack and NumPy, not torch (extra `serve`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from websockets.sync.client import ClientConnection, connect

from gato.disk import reason
from gato.episode import Episode, StreamPolicy, Values
from gato.learners.chunks import chunked
from gato.spec import Modality, TaskSpec

from .wire import FAULT, NESTED, read_msgpack, write_msgpack

CLOSE_SECONDS = 1.0


class _Refusal(ValueError):
    """What the server says, in a text, where it refuses a message."""


class RemotePolicy(StreamPolicy):
    """Acts in one task through `gato serve`; a connection for every stream. See `gato.policy.Policy`.

    **Arguments:** `address`: `HOST:PORT`, or with `ws://` or `wss://` before it; `task`: by default the server's own; `token`;
    `timeout`: seconds that an answer may take; `chunks`: whether the chunks that a server answers with are given whole, for a
    `ChunkPolicy` to play; by default the first action of each alone.

    **Raises:** `ValueError` for what the server refuses, in its words; `OSError` where there is none.
    """

    def __init__(
        self, address: str, task: str | None = None, token: str | None = None, timeout: float = 30.0, chunks: bool = False
    ) -> None:
        self.address = address if "://" in address else f"ws://{address}"
        self.token, self.timeout = token, timeout
        self._connections: list[ClientConnection] = []
        first = self._connect()
        name = task or self.metadata["default_task"]
        if name not in self.metadata["tasks"]:
            first.close()
            raise ValueError(f"the server at {address} has no task '{name}'; it has {', '.join(sorted(self.metadata['tasks']))}")
        spec = TaskSpec.from_dict(self.metadata["tasks"][name])
        self.name, self.are_whole, self.length = spec.name, chunks, self.metadata["chunks"].get(spec.name, 1)
        self.task = chunked(spec, self.length) if chunks else spec
        self.memory = 1 if chunks else None
        self._connections.append(first)
        self.reset(1)

    def _connect(self) -> ClientConnection:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
        try:
            opening = connect(self.address, compression=None, max_size=None, additional_headers=headers, close_timeout=CLOSE_SECONDS)
            found = opening.__enter__()  # left by `close`
        except OSError as error:
            raise ConnectionError(
                f"no server answers at {self.address}: {reason(error)}; start one with 'gato serve', or name another"
            ) from None
        self.metadata = read_msgpack(_as_bytes(found.recv(self.timeout)))
        return found

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        """Forgets everything. **Raises:** `ValueError` for demonstrations, which are the server's to have."""
        if demonstrations:
            raise ValueError("a served policy takes no demonstrations from here; serve the checkpoint with them")
        while len(self._connections) > num_streams:
            self._connections.pop().close()
        while len(self._connections) < num_streams:
            self._connections.append(self._connect())
        self._has_begun = [False] * num_streams
        self._num_begun = 0

    def act_in(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> dict[str, np.ndarray]:
        """All streams ask before the first answer is waited for, so that the server answers them together.

        After a failure, such as a timeout, no stream acts until `reset`: an answer that comes late would be taken for that to a later
        observation, and the streams that were answered have gone on without the others. Only where a single stream acts and is refused,
        it goes on as if it had not asked; but not after a fault of the server, which may have forgotten its episode.

        **Raises:** `ValueError` for what the server refuses, in its words, and after a failure; `OSError` where no answer comes.
        """
        if not self._connections:
            raise ValueError("this policy was closed, or an action of it failed, so that its streams are not where they were; reset it")
        number, begun = self._num_begun, list(self._has_begun)
        try:
            answers = self._answers(observation, reward, first, streams)
        except BaseException as error:  # an interruption, too, leaves an answer unread
            self._num_begun, self._has_begun = number, begun
            if not isinstance(error, _Refusal) or len(streams) > 1 or FAULT in str(error):
                self.close()
            raise
        found = {}
        for f in self.task.actions:
            rows = [a[f.name] if isinstance(a, dict) else a for a in answers]
            if self.are_whole:
                found[f.name] = np.stack(rows)
            else:
                found[f.name] = np.array([r[0] for r in rows], object if f.modality is Modality.TEXT else f.dtype)
        return found

    def _answers(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> list[Any]:
        for row, (s, is_first) in enumerate(zip(streams, first, strict=True)):
            message: dict[str, Any] = {"task": self.name}
            if is_first or not self._has_begun[s]:
                message["episode"] = self._num_begun
                self._num_begun += 1
            elif reward is not None:
                message["reward"] = float(reward[row])
            self._has_begun[s] = True
            message[NESTED] = {name: values[row] for name, values in observation.items()}  # where a field may be called as a control is
            self._connections[s].send(write_msgpack(message))
        return [read_msgpack(_as_bytes(self._connections[s].recv(self.timeout)))["actions"] for s in streams]

    def has_begun(self, stream: int) -> bool:
        return self._has_begun[stream]

    def begin(self, stream: int, number: int) -> None:
        """The next `act` of a stream starts an episode that goes as the `number`-th to begin goes."""
        self._has_begun[stream], self._num_begun = False, number

    def close(self) -> None:
        while self._connections:
            self._connections.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_bytes(answer: str | bytes) -> bytes:
    if isinstance(answer, str):
        raise _Refusal(f"the server says: {answer}")
    return answer
