"""An episode as the policy lived it: what the critic expected at every timestep, what was earned, and which blocks of a RIM took part.

The episode is the first that `gato eval` plays with the same seed. It is played as it always is, and its frames are drawn afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gato.disk import reason
from gato.envs.stream import STEP_SECONDS
from gato.episode import Episode
from gato.eval.replay import Replay
from gato.eval.rollout import rollout
from gato.learners.acting_agent import ActingAgent
from gato.spec import TaskSpec

from .attention import write_drawing

FRAMES, LEFT, WIDTH, CHART, BLOCK, GAP = 10, 130, 1000, 140, 16, 10  # pixels, but for the number of frames
DARK, PALE, MARK, LOSS = (40, 60, 110), (225, 228, 236), (200, 60, 40), (235, 180, 170)


@dataclass(frozen=True)
class Trace:
    """- `frames`: pictures (rows, columns, 3) uint8 of the timesteps `shown`; none where the environment cannot draw, and
      `undrawn` says why.
    - `values`, `rewards`: (T,), what the critic expected before each action, in the units it learned in, and what came of the action.
    - `active`: (T, n) bool, which blocks took part; n is 0 for a memory without blocks.
    """

    frames: Sequence[np.ndarray]
    shown: Sequence[int]
    values: np.ndarray
    rewards: np.ndarray
    active: np.ndarray
    success: bool | None
    undrawn: str | None


class Observed:
    """A policy whose critic's values and active blocks are noted at every action."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.values, self.active = policy, list[float](), list[np.ndarray]()
        self.memory = policy.memory

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        self.policy.reset(num_streams, demonstrations)

    def act(self, observation: Mapping[str, np.ndarray], *others: Any) -> dict[str, np.ndarray]:
        actions = self.policy.act(observation, *others)
        self.values.append(float(self.policy.value[0]))
        active = getattr(getattr(self.policy.model, "memory", None), "active", None)
        self.active.append(np.zeros(0, bool) if active is None else active[0, -1].cpu().numpy())
        return actions


def trace(agent: Any, task: str | None, seed: int) -> Trace:
    """Plays an episode. **Raises:** `ValueError` for an agent without a critic, or an episode that failed."""
    if not isinstance(agent, ActingAgent):
        raise ValueError("this checkpoint has no critic whose values could be shown; name one that learned by acting, such as PPO's")
    policy = agent.policy(task, seed=seed)
    observed, kept = Observed(policy), list[Episode]()
    (result,) = rollout(observed, policy.task, 1, seed, sink=kept.append)  # type: ignore[arg-type]
    if result.failed:
        raise ValueError(f"the episode of '{policy.task.name}' with seed {seed} failed: {result.failed}; mend the environment")
    (episode,) = kept
    number = min(FRAMES, episode.num_timesteps)
    shown = [int((i + 0.5) * episode.num_timesteps / number) for i in range(number)]  # the middles of equal parts
    frames, undrawn = list[np.ndarray](), None
    try:
        frames = _frames(policy.task, episode, shown)
    except Exception as error:  # whatever an environment raises that cannot draw; the values can be shown without
        undrawn = reason(error)
    active = np.stack(observed.active)
    return Trace(frames, shown, np.array(observed.values), np.asarray(episode.rewards), active, result.success, undrawn)


def _frames(task: TaskSpec, episode: Episode, shown: Sequence[int]) -> list[np.ndarray]:
    assert episode.seed is not None, "a rollout seeds every episode"
    return list(Replay(task, episode.seed, dict(episode.actions), STEP_SECONDS).frames(set(shown)))


def draw_trace(found: Trace) -> Any:
    """A PIL image: frames, the critic's values as a line with rewards as bars, and a row per block, dark where it is active."""
    from PIL import Image, ImageDraw

    steps, blocks, wide = len(found.values), found.active.shape[1], WIDTH // len(found.shown)
    pictures = [Image.fromarray(frame) for frame in found.frames]
    high = max((round(p.height * (wide - 4) / p.width) for p in pictures), default=0)
    sheet = Image.new("RGB", (LEFT + WIDTH, high + CHART + 3 * GAP + blocks * BLOCK + 20), "white")
    draw = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        scaled = picture.resize((wide - 4, round(picture.height * (wide - 4) / picture.width)), Image.Resampling.LANCZOS)
        sheet.paste(scaled, (LEFT + i * wide + 2, 0))
    middles = LEFT + (np.arange(steps) + 0.5) * WIDTH / steps
    top = high + GAP
    _draw_values(draw, found, middles, top)
    top += CHART + GAP
    for block in range(blocks):
        share = found.active[:, block].mean()
        draw.text((4, top + block * BLOCK), f"block {block + 1}, {share:.0%}", fill="black")
        for x, active in zip(middles, found.active[:, block], strict=True):
            half = WIDTH / steps / 2
            box = (x - half, top + block * BLOCK, x + half - (half > 2), top + (block + 1) * BLOCK - 3)
            draw.rectangle(box, fill=DARK if active else PALE)
    for t, x in ((t, middles[t]) for t in found.shown):
        draw.text((x - 3 * len(str(t)), top + blocks * BLOCK + 4), str(t), fill="black")
    draw.text((4, top + blocks * BLOCK + 4), "timestep", fill="black")
    return sheet


def _draw_values(draw: Any, found: Trace, middles: np.ndarray, top: int) -> None:
    """The values from their lowest to their highest, 0 among them, and bars of rewards by their share of the largest, pale for losses."""
    low, high = min(0.0, float(found.values.min())), max(0.0, float(found.values.max()))
    span = max(high - low, 1e-9)

    def at(value: float) -> float:
        return top + CHART - (value - low) / span * CHART

    largest = max(float(np.abs(found.rewards).max()), 1e-9)
    for x, reward in zip(middles, found.rewards, strict=True):
        if reward:
            draw.line((x, top + CHART, x, top + (1 - abs(reward) / largest) * CHART), fill=MARK if reward > 0 else LOSS, width=2)
    draw.line((LEFT, at(0), LEFT + WIDTH, at(0)), fill=PALE, width=1)
    draw.line([(x, at(value)) for x, value in zip(middles, found.values, strict=True)], fill=DARK, width=2)
    draw.text((4, top), f"value, to {high:.3g}", fill=DARK)
    draw.text((4, top + CHART - 12), f"from {low:.3g}", fill=DARK)
    draw.text((4, top + CHART // 2 - 6), f"reward, to {largest:.3g}" if found.rewards.any() else "no reward", fill=MARK)


def write_trace(found: Trace, name: str, out: Path) -> Path:
    """See `write_drawing`."""
    about = "Above, frames of the episode. The line is what the critic expected before each action; bars are rewards."
    if found.active.shape[1]:
        about += " Below, a row per block of the memory, dark at the timesteps in which it took part."
    return write_drawing(out, name, [{"title": name, "about": about, "label": name, "image": draw_trace(found)}])
