"""PPO as a run's learner: environments to act in, an actor and a critic, and the agent that is saved."""

from __future__ import annotations

from typing import Any

import torch

from gato import envs
from gato.envs.recording import Recording, episode_seed
from gato.learner import Setup, Weights
from gato.learners.ppo.agent import PPOAgent
from gato.learners.ppo.learner import PPOLearner
from gato.learners.ppo.network import ActorCritic
from gato.learners.ppo.observations import Words
from gato.spec import Modality, TaskSpec

from ..evaluation import EpisodesBeside
from .recipe import PPORecipe
from .rollouts import Rollouts

FIRST_LOOKS = 500  # beginnings of episodes whose texts say which words there are


def set_up(config: PPORecipe, device: Any) -> Setup:
    """**Raises:** `ValueError` for a task that shows nothing to look at or takes texts, or that is not there."""
    task = envs.task(config.env.task)
    words = words_of(task, config.train.seed)
    torch.manual_seed(config.train.seed)
    learner = PPOLearner(ActorCritic(task, config.model, words), config.ppo, config.meta, config.updates_per_rollout).to(device)

    def saved(weights: Weights) -> PPOAgent:
        return PPOAgent.of(task, config.model, words, weights)

    evaluation = None
    if config.env.eval_every:
        evaluation = EpisodesBeside(task, saved, config.env.eval_every, config.env.eval_episodes, config.env.limits, config.train.seed)
    return Setup(learner, Rollouts(task, learner, config), saved, evaluation)


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
