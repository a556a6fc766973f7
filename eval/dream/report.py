"""`gato dream CKPT`: what a world model knows of episodes that it never learned from, as numbers and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato import envs
from gato.data.selection import SourceConfig
from gato.data.source import selected_episodes
from gato.data.store import Store
from gato.data.stores import find_store
from gato.description import check_folder, learner_of
from gato.disk import make_folder, shown, write_json
from gato.envs.demonstrator import RandomExpert
from gato.envs.recording import Recording, episode_seed
from gato.episode import Episode
from gato.given import first_of
from gato.learners.world.agent import WorldAgent
from gato.learners.world.config import NAME
from gato.learners.world.dynamics import WorldModel
from gato.setting import MAX_COUNT, SEED, Settings, bounded, choice

from .measure import Played, copy_last, one_step, open_loop
from .strips import drawn, imagined_beside_real, write_film


@dataclass(frozen=True)
class DreamReport(Settings):
    """- `out`: a folder that is given `dream.json` and the strips; without it there is the page.
    - `episodes`: that are judged: half of them played by the policy, half by random actions, with seeds of no training.
    - `stray`: of the policy's episodes, the share of timesteps in which a random action begins to be held, for one to eight of them: places
      where it would never go.
    - `store`: judges the first episodes of a store instead; `part`: of its part `train` or `test`, see `SourceConfig`.
    - `strips`: how many pictures, from places in the longest episodes on; `horizon`: timesteps of each, fewer where an episode has no more;
      `films`: each as an MP4 too (PyAV).
    - `seed`: of the episodes and of the places.
    """

    out: Path | None = None
    episodes: int = bounded(40, 2, MAX_COUNT)
    stray: float = bounded(0.0, 0, 1)
    store: str | None = None
    part: str | None = choice(None, ("train", "test"))
    strips: int = bounded(4, 0, 1000)
    horizon: int = bounded(15, 1, 1000)
    films: bool = False
    seed: int = bounded(0, SEED.low, SEED.high)


def load_world(checkpoint: Path) -> WorldAgent:
    """**Raises:** `ValueError` where the folder holds something else."""
    check_folder(checkpoint)
    if (learner := learner_of(checkpoint)) != NAME:
        raise ValueError(
            f"'{checkpoint}' holds a {shown(learner)}, and only a {NAME} dreams; train one: gato pretrain world-model-breakout"
        )
    return WorldAgent.load(checkpoint, "cpu")


def report(checkpoint: Path, config: DreamReport) -> dict[str, Any]:
    """Measures, draws and writes.

    **Returns:** `one_step`: rows by name, of the model, of one of its shape with new weights, and of copy-last; `open_loop`: see there;
    `strips`: files, films among them; `episodes`, `timesteps`.
    """
    assert config.out is not None
    agent = load_world(checkpoint)
    make_folder(config.out)  # before anything is played
    model = agent.model.eval()
    episodes = _stored(agent, config) if config.store else _played(agent, config)
    played = [Played.of(model, episode, agent.gamma, agent.reward_scale) for episode in episodes]
    found: dict[str, Any] = {
        "checkpoint": str(checkpoint), "episodes": len(played), "timesteps": sum(len(p.cells) for p in played),
        "one_step": {
            "model": one_step(model, played), "before training": one_step(model, played, _untrained(model.world)),
            "copy last": copy_last(model.scene, played),
        },
        "open_loop": open_loop(model, played, seed=config.seed), "strips": [],
    }  # fmt: skip
    longest = sorted(played, key=lambda p: -len(p.cells))[: config.strips]
    for i, episode in enumerate(longest):
        path = config.out / f"strip-{i}.png"
        place = max(0, (len(episode.cells) - 1 - config.horizon) // 2)
        rows = imagined_beside_real(model, episode, place, config.horizon)
        drawn(rows).save(path)
        found["strips"].append(str(path))
        if config.films:
            write_film(path.with_suffix(".mp4"), rows)
            found["strips"].append(str(path.with_suffix(".mp4")))
    write_json(config.out / "dream.json", found)
    return found


def lines(found: dict[str, Any]) -> str:
    """The tables of a report as text."""
    head = ("one timestep ahead", "nats", "wrong cells", "right boards", "reward error", "discount nats")
    text = ["{:20s} {:>8s} {:>12s} {:>13s} {:>13s} {:>14s}".format(*head)]
    for name, row in found["one_step"].items():
        text.append(
            f"{name:20s} {row['next_nats']:8.3f} {row['wrong_cells']:12.3f} {100 * row['right_boards']:12.1f}% "
            f"{row['reward_error']:13.4f} {row['discount_nats']:14.4f}" + _of_pictures(row)
        )
    head = ("alone for", "wrong cells", "of copy last", "right boards", "of copy last", "places")
    text.append("\n{:20s} {:>12s} {:>13s} {:>13s} {:>13s} {:>7s}".format(*head))
    for row in found["open_loop"]:
        text.append(
            f"{row['timesteps']:3d} timesteps        {row['wrong_cells']:12.2f} {row['copy_last_wrong_cells']:13.2f} "
            f"{100 * row['right_boards']:12.1f}% {100 * row['copy_last_right_boards']:12.1f}% {row['places']:7d}" + _of_pictures(row)
        )
    return "\n".join(text + found["strips"])


def _of_pictures(row: dict[str, float]) -> str:
    names = {"picture_error": "picture error", "copy_last_picture_error": "of copy last"}
    return "".join(f"  {what} {row[name]:.5f}" for name, what in names.items() if name in row)


def _played(agent: WorldAgent, config: DreamReport) -> list[Episode]:
    (task,) = agent.tasks.values()
    env, policy, chance = envs.make(task), agent.policy(task, seed=config.seed), RandomExpert()
    episodes = []
    for i in range(config.episodes):
        recording = Recording(task, env, episode_seed("dream", config.seed, i))
        is_random = i % 2 == 1
        strays, held, left = np.random.default_rng([config.seed, i]), None, 0
        policy.reset(1)
        policy.begin(0, i)
        chance.reset(env)
        while not recording.done:
            chosen = task.flatten(chance.act(env, recording.raw), "action")
            if not is_random:
                own = {name: values[0] for name, values in policy.act(recording.observation).items()}
                if left == 0 and strays.random() < config.stray:
                    held, left = chosen, int(strays.integers(1, 9))
                chosen, left = (held, left - 1) if left and held is not None else (own, 0)
            recording.step(chosen)
        episodes.append(recording.episode("random" if is_random else "learner"))
    envs.close(env)
    return episodes


def _stored(agent: WorldAgent, config: DreamReport) -> list[Episode]:
    store = Store(find_store(str(config.store)))
    (task,) = agent.tasks.values()
    differences = ["it has several tasks"] if len(store.tasks) != 1 else task.differences(store.tasks[0], raw=True)
    if differences:
        raise ValueError(f"store {store.path} is not of '{task.name}': {first_of(differences)}")
    chosen = selected_episodes(store, SourceConfig(part=config.part), set())
    numbers = range(store.num_episodes) if chosen is None else chosen
    return [store.episode(int(i)) for i in numbers[: config.episodes]]


def _untrained(world: WorldModel) -> WorldModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WorldModel(world.scene, world.config).eval()
