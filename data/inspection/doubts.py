"""What recordings hold that their recorder may not have meant: named when they are imported, and left as it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gato.data.store import Store
from gato.spec import FieldSpec, Modality

MAX_READ = 20  # episodes are looked at
NARROW = 1 / 3  # less than this of its range is little for an action
ROUNDING = 1e-3  # of a bound, by which an observation may pass it


def doubts_of(store: Store) -> list[str]:
    """What the first episodes hold that their recorder may not have meant."""
    episodes = [store.episode(i) for i in range(min(store.num_episodes, MAX_READ))]
    single = sum(episode.num_timesteps == 1 for episode in episodes)
    lines = []
    if 0 < single < len(episodes):
        lines.append(f"{single} of {len(episodes)} episodes have one timestep; does an end stay on for several rows?")
    for spec in (f for f in store.tasks[0].observations if f.modality is Modality.IMAGE):
        lines += _odd_pictures(spec.name, [episode.observations[spec.name] for episode in episodes], store.tasks[0].env_id is not None)
    for spec in (f for f in store.tasks[0].fields if f.modality is Modality.CONTINUOUS):
        fields = [episode.actions if spec.role == "action" else episode.observations for episode in episodes]
        values = [v[spec.name] for v in fields if spec.name in v]
        if values:
            least, most = np.min([v.min(axis=0) for v in values], axis=0), np.max([v.max(axis=0) for v in values], axis=0)
            lines += _little_used(spec, least.min(), most.max()) if spec.role == "action" else _beyond(spec, least, most)
    return [f"check: {line}" for line in lines]


def _odd_pictures(name: str, seen: Sequence[np.ndarray], has_env: bool) -> list[str]:
    """Whether pictures (T, rows, columns, 3) of some episodes stand still, hold next to nothing, or are grey in all of them."""
    still = sum(len(pictures) > 1 and bool((pictures == pictures[:1]).all()) for pictures in seen)
    black = sum(int(pictures.max(initial=0)) <= 1 for pictures in seen)
    lines = [f"pictures of '{name}' never change in {still} of {len(seen)} episodes; did the camera run?"] if still else []
    if black:
        lines.append(f"pictures of '{name}' hold nothing above 1 of 255 in {black} of {len(seen)} episodes; were they divided by 255?")
    if has_env and black < len(seen) and all((pictures[..., :1] == pictures).all() for pictures in seen):
        lines.append(f"pictures of '{name}' are grey; are they in the environment, too?")
    return lines


def _little_used(spec: FieldSpec, least: float, most: float) -> list[str]:
    """Whether an action that was recorded from `least` to `most` uses little of its declared range."""
    low, high = float(spec.bounds[0].min()), float(spec.bounds[1].max())
    if not max(abs(least), abs(most)) < NARROW * max(abs(low), abs(high)) < float("inf"):
        return []
    found = f"action '{spec.name}' stays within {least:.3g} to {most:.3g} of a range of {low:g} to {high:g}"
    return [f"{found}; was it recorded before a wrapper that rescales it?"]


def _beyond(spec: FieldSpec, least: np.ndarray, most: np.ndarray) -> list[str]:
    """Whether an observation whose elements were recorded from `least` to `most` leaves its declared range, by more than rounding."""
    low, high = spec.bounds
    beyond = (least < low - ROUNDING * np.abs(low)) | (most > high + ROUNDING * np.abs(high))
    if not beyond.any():
        return []
    i = np.unravel_index(int(np.argmax(beyond)), spec.shape)
    element = f" in element {', '.join(map(str, i))}" if i else ""
    found = f"observation '{spec.name}' goes from {least[i]:.3g} to {most[i]:.3g}{element}, of a range of {low[i]:g} to {high[i]:g}"
    return [f"{found}; is it in the environment's units?"]
