"""A world model as a run's learner: what it plays or reads, its networks, and the agent that is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gato import envs
from gato.data.selection import refuse_unused
from gato.data.source import selected_episodes
from gato.data.store import Store
from gato.data.stores import find_store
from gato.learner import Setup, Weights
from gato.learners.world.agent import WorldAgent
from gato.learners.world.learner import Dreamer, WorldLearner
from gato.learners.world.pictures import scene_of

from ..evaluation import episodes_beside
from .experience import Experience
from .play import Player
from .recipe import WorldRecipe
from .windows import Windows


def set_up(config: WorldRecipe, device: Any) -> Setup:
    """**Raises:** `ValueError` for a task that shows no board and no picture, and for a store without rewards or with few timesteps."""
    store = _store(config) if config.is_offline else None
    task = store.tasks[0] if store else envs.task(str(config.env.task))
    scene = scene_of(task, config.model)
    torch.manual_seed(config.train.seed)
    learner = WorldLearner(Dreamer(scene, config.model), config.dream).to(device)
    experience = Experience(scene, config.env.reward_scale)
    if store is None:
        folder = Path("runs") / config.train.name / "episodes"
        player = Player(task, learner.model, config.env, config.train.seed, folder, experience.add)
        batches = Windows(scene, experience, config, player, task.name)
    else:
        (name,) = config.data.sources
        _read(store, config, experience)
        batches = Windows(scene, experience, config, None, name, store.fingerprint)

    def saved(weights: Weights) -> WorldAgent:
        return WorldAgent.of(task, config.model, config.dream.gamma, weights, config.env.reward_scale)

    return Setup(learner, batches, saved, episodes_beside(task, saved, config.env, config.train.seed))


def _store(config: WorldRecipe) -> Store:
    ((name, source),) = config.data.sources.items()
    refuse_unused(name, source, "a world model")
    store = Store(find_store(source.store or name))
    if len(store.tasks) != 1:
        some = ", ".join(t.name for t in store.tasks[:3])
        raise ValueError(f"source '{name}' has {len(store.tasks)} tasks, {some} among them; a world model learns one game")
    return store


def _read(store: Store, config: WorldRecipe, experience: Experience) -> None:
    """Takes the source's episodes into memory."""
    ((name, source),) = config.data.sources.items()
    chosen = selected_episodes(store, source, set())
    for i in range(store.num_episodes) if chosen is None else chosen:
        experience.add(store.episode(int(i)))
    if experience.size <= config.dream.window:
        raise ValueError(
            f"source '{name}' has {experience.size} timesteps (part, behaviours), and a window of {config.dream.window} with one behind it "
            "is more; choose others, or a smaller dream.window"
        )
    if not experience.rewards.any():
        raise ValueError(f"source '{name}' holds no reward but 0, so there is nothing to act for; choose episodes with rewards")
