"""Videos of the best, the median and the worst episode, made after the evaluation by repeating what was done.

Which episodes those are is known only at the end, and pictures of all would not fit into memory. So the actions
are kept, which are small, and three episodes are played again from their seeds with the camera on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gato import envs
from gato.spec import TaskSpec

from ..data.recording import Recording
from ..data.video import VideoWriter

if TYPE_CHECKING:
    from gato.episode import Episode


class ActionKeeper:
    """A sink of `rollout` that keeps seeds, actions and returns of the episodes, and drops what was observed."""

    def __init__(self) -> None:
        self.episodes: list[tuple[int, dict[str, np.ndarray], float]] = []

    def __call__(self, episode: Episode) -> None:
        assert episode.seed is not None, "a rollout seeds every episode"
        self.episodes.append((episode.seed, dict(episode.actions), episode.total_reward))


def write_films(task: TaskSpec, kept: ActionKeeper, folder: Path) -> dict[str, Any]:
    """Writes `FAMILY-NAME-best.mp4`, `-median.mp4` and `-worst.mp4`.

    **Returns:** per video its `file`, `seed` and `return`, and `repeated`: whether playing the actions again gave the
    same return. Where it is false the simulator is not deterministic, and the video shows another episode.
    """
    order = sorted(range(len(kept.episodes)), key=lambda i: kept.episodes[i][2])
    if not order:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for label, place in {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}.items():
        seed, actions, total = kept.episodes[place]
        path = folder / f"{task.name.replace('/', '-')}-{label}.mp4"
        again = _film(task, seed, actions, path)
        found[label] = {"file": str(path), "seed": seed, "return": total, "repeated": bool(np.isclose(again, total, rtol=1e-5, atol=1e-6))}
    return found


def _film(task: TaskSpec, seed: int, actions: dict[str, np.ndarray], path: Path) -> float:
    """Plays the actions again and films it; returns the return."""
    env = envs.make(task, render_mode="rgb_array")
    try:
        recording = Recording(task, env, seed, keep=False)
        first = _even(env.render())
        fps = float(env.metadata.get("render_fps") or 20)
        temporary = path.with_suffix(".part.mp4")
        writer = VideoWriter(temporary, fps, first.shape[:2], "h264")
        writer.write(first)
        for t in range(len(next(iter(actions.values())))):
            if recording.done:
                break
            recording.step(task.unflatten_action({name: values[t] for name, values in actions.items()}))
            writer.write(_even(env.render()))
        writer.close()
        temporary.replace(path)
    finally:
        env.close()
    return recording.total_reward


def _even(frame: Any) -> np.ndarray:
    """Without the last row or column where their number is odd: videos halve the colours."""
    frame = np.asarray(frame, dtype=np.uint8)
    return np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
