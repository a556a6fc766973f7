"""PPO as a run's learner: environments to act in, an actor and a critic, and the agent that is saved."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gato import envs
from gato.description import check_folder, learner_of
from gato.envs.recording import Recording, episode_seed
from gato.given import first_of
from gato.learner import Setup, Weights
from gato.learners.ppo.agent import PPOAgent
from gato.learners.ppo.config import NAME
from gato.learners.ppo.learner import PPOLearner
from gato.learners.ppo.network import ActorCritic
from gato.learners.ppo.observations import Words
from gato.spec import Modality, TaskSpec

from ..evaluation import episodes_beside
from .recipe import PPORecipe
from .rollouts import Rollouts

FIRST_LOOKS = 500  # beginnings of episodes whose texts say which words there are
MEASURED = 10_000  # timesteps that the measures of observations of `ppo.start` count for


def set_up(config: PPORecipe, device: Any) -> Setup:
    """**Raises:** `ValueError` for a task that shows nothing to look at or takes texts, or that is not there."""
    task = envs.task(config.env.task)
    words, start = words_of(task, config.train.seed), None
    if config.ppo.start:
        start = started(config, task, words)
        words = start.encoder.words
    torch.manual_seed(config.train.seed)
    model = ActorCritic(task, config.model, words)
    if start is not None:
        model.load_state_dict(start.state_dict())
    learner = PPOLearner(model, config.ppo, config.meta, config.updates_per_rollout).to(device)

    def saved(weights: Weights) -> PPOAgent:
        return PPOAgent.of(task, config.model, words, weights)

    rollouts = Rollouts(task, learner, config)
    if start is not None and config.model.normalise:
        rollouts.measures.start(start.encoder.mean.numpy(), start.encoder.spread.numpy(), MEASURED)
    return Setup(learner, rollouts, saved, episodes_beside(task, saved, config.env, config.train.seed))


def started(config: PPORecipe, task: TaskSpec, words: Words) -> ActorCritic:
    """The network that a run begins with. **Raises:** `ValueError` for one of another shape, or of a task that looks or acts otherwise."""
    where = f"ppo.start is '{config.ppo.start}'"
    check_folder(Path(str(config.ppo.start)))
    if (learner := learner_of(str(config.ppo.start))) != NAME:
        raise ValueError(f"{where}, a checkpoint of {learner}; name one trained by PPO")
    agent = PPOAgent.load(str(config.ppo.start), "cpu")
    model: ActorCritic = agent.model
    if differences := model.task.differences(task, raw=True):
        raise ValueError(f"{where}, of '{model.task.name}', from which '{task.name}' differs: {first_of(differences)}")
    if model.config != config.model:
        names = [name for name, value in asdict(model.config).items() if value != getattr(config.model, name)]
        told = ", ".join(f"model.{name} {getattr(model.config, name)}" for name in names)
        raise ValueError(f"{where}, which has {told}; give the same")
    if unknown := [word for word in words.known if word not in model.encoder.words.known]:
        raise ValueError(f"{where}, which never saw the word '{unknown[0]}' of '{task.name}'; begin with a level that says it")
    return model


def words_of(task: TaskSpec, seed: int) -> Words:
    """The words of a task's texts, as the first observations of many episodes show them; a later one is unknown to the network."""
    texts = [f.name for f in task.observations if f.modality is Modality.TEXT]
    if not texts:
        return Words(())
    env, found = envs.make(task), set()
    for i in range(FIRST_LOOKS):
        seen = Recording(task, env, episode_seed("words", seed, i), keep=False).observation
        found |= {str(seen[name][0]) for name in texts}
    envs.close(env)
    return Words.of(sorted(found))
