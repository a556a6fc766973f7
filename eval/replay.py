"""Film strips and videos, made after the evaluation by repeating what was done in another environment with a camera.

So looking never changes a score: the environments that are scored are made and stepped as they always are, whatever drawing
would do to them or draw from them. Which episodes are the best and the worst is known only at the end besides, and pictures
of all would not fit into memory; seeds and actions are small.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gato import envs
from gato.data.video import VideoWriter
from gato.disk import reason
from gato.envs.recording import Recording, ask
from gato.envs.stream import STEP_SECONDS
from gato.envs.watched import Watched
from gato.spec import TaskSpec

from .film import as_frame, film_strip

if TYPE_CHECKING:
    from gato.episode import Episode

STRIP = 8  # pictures of a film strip


class ActionKeeper:
    """A sink of `rollout` that keeps tasks, seeds, actions and returns of the episodes, and drops what was observed."""

    def __init__(self) -> None:
        self.episodes: list[tuple[TaskSpec, int, dict[str, np.ndarray], float]] = []

    def __call__(self, episode: Episode) -> None:
        assert episode.seed is not None, "a rollout seeds every episode"
        self.episodes.append((episode.task, episode.seed, dict(episode.actions), episode.total_reward))


class Replay:
    """An episode once more, from its seed and its actions, in an environment that draws.

    **Attributes:** `fps`: of the environment, else 20; `total_reward` of what was played so far.

    **Raises:** whatever an environment may raise that cannot draw; `TimeoutError` where it takes longer than `step_seconds`.
    """

    def __init__(self, task: TaskSpec, seed: int, actions: dict[str, np.ndarray], step_seconds: float) -> None:
        self.task, self.actions = task, actions
        self.watched = Watched(step_seconds)
        try:
            self.env = self.watched(envs.make, task, "rgb_array")
            self.recording = self.watched(Recording, task, self.env, seed, False, 0)
        except BaseException:
            self.watched.end()
            raise
        self.fps = float((self.env.metadata or {}).get("render_fps") or 20)

    @property
    def total_reward(self) -> float:
        return self.recording.total_reward

    @property
    def num_frames(self) -> int:
        return 1 + len(next(iter(self.actions.values())))

    def frames(self, chosen: set[int] | None = None) -> Iterator[np.ndarray]:
        """(rows, columns, 3) uint8 before the first action and after each; of `chosen` ones alone where given."""
        try:
            for t in range(self.num_frames):
                if t and self.recording.done:
                    return
                if t:
                    action = {name: values[t - 1] for name, values in self.actions.items()}
                    self.watched(self.recording.step, action)
                if chosen is None or t in chosen:
                    yield self._drawn()
        finally:
            self.watched.end(self.env.close)

    def _drawn(self) -> np.ndarray:
        try:
            return as_frame(self.watched(ask, "the environment", self.env.render))
        except Exception as error:
            modes = (self.env.metadata or {}).get("render_modes", ["rgb_array"])
            if "rgb_array" in modes:
                raise
            raise ValueError(f"the environment's render_modes are {list(modes)}, without rgb_array ({reason(error)})") from error


def strip_of(kept: ActionKeeper, step_seconds: float) -> str:
    """A film strip of the first episode that was finished, as a base64 PNG. **Raises:** see `Replay`, `as_frame`."""
    return film_of(*kept.episodes[0][:3], step_seconds)


def film_of(task: TaskSpec, seed: int, actions: dict[str, np.ndarray], step_seconds: float = STEP_SECONDS) -> str:
    """A film strip of an episode, as a base64 PNG. **Raises:** see `Replay`, `as_frame`."""
    replay = Replay(task, seed, actions, step_seconds)
    chosen = np.linspace(0, replay.num_frames - 1, min(STRIP, replay.num_frames)).astype(int)
    return film_strip(list(replay.frames(set(chosen.tolist()))))


def write_films(task: TaskSpec, kept: ActionKeeper, folder: Path, step_seconds: float) -> dict[str, Any]:
    """Writes `FAMILY-NAME-best.mp4`, `-median.mp4` and `-worst.mp4`.

    **Returns:** per video its `file`, `seed` and `return`, and `repeated`: whether playing the actions again gave the
    same return. Where it is false the simulator is not deterministic, and the video shows another episode.

    **Raises:** see `Replay`, `as_frame`; `ValueError` for pictures that change their size.
    """
    order = sorted(range(len(kept.episodes)), key=lambda i: kept.episodes[i][3])
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for label, place in {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}.items():
        played, seed, actions, total = kept.episodes[place]
        path = folder / f"{task.name.replace('/', '-')}-{label}.mp4"
        replay = Replay(played, seed, actions, step_seconds)
        _write(path, replay)
        is_close = bool(np.isclose(replay.total_reward, total, rtol=1e-5, atol=1e-6))
        found[label] = {"file": str(path), "seed": seed, "return": total, "repeated": is_close}
    return found


def _write(path: Path, replay: Replay) -> None:
    """The whole episode as an MP4, or nothing."""
    temporary = path.with_suffix(".part.mp4")
    writer, shape = None, ()
    try:
        for frame in replay.frames():
            # without the last row or column where their number is odd: videos halve the colours
            even = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
            if writer is None:
                shape = even.shape
                writer = VideoWriter(temporary, replay.fps, even.shape[:2], "h264")
            if even.shape != shape:
                raise ValueError(f"a picture has {even.shape[:2]} pixels and the first one {shape[:2]}; a video needs one size")
            writer.write(even)
        assert writer is not None, "there is a picture before the first action"
        writer.close()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
