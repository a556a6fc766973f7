"""How well a world model knows its game: timestep by timestep, and how far it stays right when it goes on alone.

Beside it stands copy-last, for which nothing ever changes. As a forecast of one timestep it flips each cell with the share with which
cells of that kind really changed, from 0 and from 1 (of pictures: each symbol with the share of those that did, to any other class), and
says the mean reward and the mean discount; all of these are taken from the very episodes that are judged, which favours it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gato.episode import Episode
from gato.learners.world.board import Scene
from gato.learners.world.dream import Dream
from gato.learners.world.dynamics import WorldModel
from gato.learners.world.learner import Dreamer
from gato.learners.world.pictures import Pictures, shown

HORIZONS = (1, 5, 10, 15)
BATCH = 64
LEAST = 1e-9  # share of changes


@dataclass(frozen=True)
class Played:
    """An episode as a world model takes it: `cells` (T, *codes), `actions` (T, size), `before`, `rewards` (T,) as it is told of them,
    `discounts` (T,): `gamma`, or 0 at the end; `pictures` (T, 64, 64) uint8 where there are some."""

    cells: Tensor
    actions: Tensor
    before: Tensor
    rewards: Tensor
    discounts: Tensor
    pictures: Tensor | None = None

    @classmethod
    def of(cls, model: Dreamer, episode: Episode, gamma: float, reward_scale: float = 1.0) -> Played:
        scene, n = model.scene, episode.num_timesteps
        cells = seen = torch.from_numpy(scene.cells(episode.observations))
        if isinstance(scene, Pictures):
            past, stacks = scene.begin(1), []
            for t in range(n):
                stacks.append(scene.stacked(past, seen[t : t + 1], torch.tensor([t == 0])))
                past = stacks[-1][:, 1:]
            cells = torch.cat(stacks)
        rewards = torch.from_numpy(np.array(episode.rewards, np.float32) * np.float32(reward_scale))
        discounts = torch.full((n,), gamma)
        if episode.terminated:
            discounts[-1] = 0
        before, actions = torch.cat([torch.zeros(1), rewards[:-1]]), torch.from_numpy(scene.numbers(episode.actions))
        return cls(model.codes(cells), actions, before, rewards, discounts, seen if isinstance(scene, Pictures) else None)


@torch.no_grad()
def one_step(model: Dreamer, episodes: Sequence[Played], world: WorldModel | None = None) -> dict[str, float]:
    """Means over all timesteps of episodes, each seen with all that went before.

    **Arguments:** `world`: in place of the model's own.

    **Returns:** `next_nats`: negative log-likelihood of the next cells; `wrong_cells` of the likeliest ones; `right_boards`: the share of
    boards without any; `reward_error`: half the squared error; `discount_nats`: cross-entropy; of pictures `picture_error`, the mean
    squared error of a pixel (0 to 1). What comes next is judged where something does.
    """
    world = world or model.world
    sums = dict.fromkeys(("next_nats", "wrong_cells", "right_boards", "reward_error", "discount_nats"), 0.0)
    followed = timesteps = 0
    for played in episodes:
        tokens = world.embed(played.cells[None], played.actions[None], played.before[None])
        hidden = world(tokens, torch.zeros(1, len(played.cells), dtype=torch.long))[0]
        ahead = world.predict(hidden, played.cells, played.actions)
        drawn = ahead.draw(None)[:-1]
        wrong = model.scene.wrong(drawn, played.cells[1:])
        sums["next_nats"] += float(ahead.nll(torch.cat([played.cells[1:], played.cells[:1]]))[:-1].sum())
        sums["wrong_cells"] += float(wrong.sum())
        sums["right_boards"] += float((wrong == 0).sum())
        sums["reward_error"] += float(0.5 * (ahead.reward - played.rewards).square().sum())
        sums["discount_nats"] += float(
            torch.nn.functional.binary_cross_entropy_with_logits(ahead.discount, played.discounts, reduction="sum")
        )
        if played.pictures is not None:
            errors = picture_errors(pictures_of(model, drawn), played.pictures[1:])
            sums["picture_error"] = sums.get("picture_error", 0.0) + float(errors.sum())
        followed, timesteps = followed + len(wrong), timesteps + len(played.cells)
    return _means(sums, followed, timesteps)


def pictures_of(model: Dreamer, codes: Tensor) -> Tensor:
    """(n, groups, classes) -> (n, 64, 64) uint8, the newest of what the autoencoder makes of them."""
    assert model.eye is not None
    return torch.from_numpy(np.concatenate([shown(model.eye.decode(part)) for part in codes.split(BATCH)]))


def picture_errors(pictures: Tensor, truth: Tensor) -> Tensor:
    """(n, 64, 64) uint8 -> (n,): the mean squared error of a pixel, 0 to 1."""
    return ((pictures.float() - truth.float()) / 255).square().mean(dim=(1, 2))


def copy_last(scene: Scene, episodes: Sequence[Played]) -> dict[str, float]:
    """As `one_step`, of copy-last."""
    pairs = [(p.cells[:-1], p.cells[1:]) for p in episodes]
    now, then = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    wrong = scene.wrong(now, then)
    nats = _symbol_nats(wrong, *scene.codes) if isinstance(scene, Pictures) else _flip_nats(now, then)
    rewards, discounts = torch.cat([p.rewards for p in episodes]), torch.cat([p.discounts for p in episodes])
    mean = discounts.mean().clamp(LEAST, 1 - LEAST)
    sums = {
        "next_nats": nats, "wrong_cells": float(wrong.sum()), "right_boards": float((wrong == 0).sum()),
        "reward_error": float(0.5 * (rewards - rewards.mean()).square().sum()),
        "discount_nats": float(-(discounts * mean.log() + (1 - discounts) * (1 - mean).log()).sum()),
    }  # fmt: skip
    pictures = [p.pictures for p in episodes if p.pictures is not None]
    if pictures:
        sums["picture_error"] = sum(float(picture_errors(p[:-1], p[1:]).sum()) for p in pictures)
    return _means(sums, len(wrong), len(rewards))


def _flip_nats(now: Tensor, then: Tensor) -> float:
    flips, nats = now != then, 0.0
    for value in (0, 1):
        held = now == value
        total, changed = held.sum(dim=(0, 1, 2)).double(), (flips & held).sum(dim=(0, 1, 2)).double()
        share = (changed / total.clamp(min=1)).clamp(LEAST, 1 - LEAST)
        nats -= float((changed * share.log() + (total - changed) * (1 - share).log()).sum())
    return nats


def _symbol_nats(wrong: Tensor, groups: int, classes: int) -> float:
    total, changed = len(wrong) * groups, int(wrong.sum())
    share = min(max(changed / max(1, total), LEAST), 1 - LEAST)
    return -(changed * math.log(share / (classes - 1)) + (total - changed) * math.log(1 - share))


def open_loop(model: Dreamer, episodes: Sequence[Played], starts: int = 4, seed: int = 0) -> list[dict[str, float]]:
    """Goes on alone, with the actions that were really played, from places of episodes that go on for the longest of `HORIZONS`.

    **Arguments:** `starts`: places of an episode at most, drawn by `seed`.

    **Returns:** a row for each horizon: `timesteps` ahead, `wrong_cells` of a board and `right_boards` of the model, the same of
    `copy_last`, and `places`, from how many it was measured; of pictures also `picture_error` and that of `copy_last`. Empty where no
    episode is long enough.
    """
    rows: dict[int, list[np.ndarray]] = {k: [] for k in HORIZONS}
    for cells, truths, real in _ahead(model.world, episodes, starts, seed):
        start = cells[0]
        for k in HORIZONS:
            columns = [model.scene.wrong(drawn, truths[k]).numpy() for drawn in (cells[k], start)]
            if real is not None:
                columns += [picture_errors(shown_ones, real[:, k]).numpy() for shown_ones in (pictures_of(model, cells[k]), real[:, 0])]
            rows[k].append(np.stack(columns, axis=1))
    if not rows[HORIZONS[0]]:
        return []
    found = []
    for k, parts in rows.items():
        measured = np.concatenate(parts)
        names = ("wrong_cells", "copy_last_wrong_cells", "picture_error", "copy_last_picture_error")
        found.append({"timesteps": k, "places": len(measured), **dict(zip(names, measured.mean(axis=0).tolist(), strict=False))})
        right = (measured[:, :2] == 0).mean(axis=0).tolist()
        found[-1] |= dict(zip(("right_boards", "copy_last_right_boards"), right, strict=True))
    return found


def _ahead(
    world: WorldModel, episodes: Sequence[Played], starts: int, seed: int
) -> Iterator[tuple[list[Tensor], list[Tensor], Tensor | None]]:
    """Batches of codes, imagined and real, 0 to the last horizon timesteps after the places; and the real pictures (n, H + 1, 64, 64)."""
    generator, last = np.random.default_rng(seed), HORIZONS[-1]
    places: list[tuple[int, int]] = []
    for i, played in enumerate(episodes):
        room = len(played.cells) - last
        chosen = generator.permutation(room)[:starts].tolist() if room > 0 else []
        places += [(i, t) for t in sorted(chosen)]
    for at in range(0, len(places), BATCH):
        part = places[at : at + BATCH]
        dream = begun_at(world, [(episodes[i], t) for i, t in part])
        actions = torch.stack([episodes[i].actions[t : t + last] for i, t in part])
        truths = torch.stack([episodes[i].cells[t : t + last + 1] for i, t in part])
        cells = [dream.cells]
        for k in range(last):
            dream.step(actions[:, k])
            cells.append(dream.cells)
        pictures = [p[t : t + last + 1] for i, t in part if (p := episodes[i].pictures) is not None]
        yield cells, list(truths.unbind(dim=1)), torch.stack(pictures) if pictures else None


@torch.no_grad()
def begun_at(world: WorldModel, places: Sequence[tuple[Played, int]]) -> Dream:
    """A dream that begins at timesteps of episodes, behind all that the model remembers of them."""
    length = world.config.memory * world.config.num_layers  # no further back than any state depends on
    tokens, counts = [], []
    for played, t in places:
        first = max(0, t - length)
        parts = (x[first:t][None] for x in (played.cells, played.actions, played.before))
        found = world.embed(*parts)[0]
        tokens.append(torch.nn.functional.pad(found, (0, 0, 0, 0, 0, length - len(found))))
        counts.append(len(found))
    cells = torch.stack([played.cells[t] for played, t in places])
    before = torch.stack([played.before[t] for played, t in places])
    return Dream(world, torch.stack(tokens), np.array(counts), cells, before)


def _means(sums: dict[str, float], followed: int, timesteps: int) -> dict[str, Any]:
    of_all = ("reward_error", "discount_nats")
    return {name: value / max(1, timesteps if name in of_all else followed) for name, value in sums.items()} | {"timesteps": timesteps}
