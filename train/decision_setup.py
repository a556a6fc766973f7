"""A Decision Transformer as a run's learner: windows of one store, the model, and the agent that is
saved."""

from __future__ import annotations

from typing import Any

import torch

from gato.data.store import Store
from gato.data.stores import named_store
from gato.data.trajectories import Trajectories
from gato.learner import Setup, Weights
from gato.learners.decision_agent import DecisionAgent
from gato.learners.decision_transformer import DecisionLearner, DecisionTransformer

from .decision_recipe import DecisionRecipe


def set_up(config: DecisionRecipe, device: Any) -> Setup:
    """**Raises:** `ValueError` for a store or a context that does not fit, see `Trajectories`."""
    ((name, source),) = config.data.sources.items()
    model = config.model
    batches = Trajectories(
        name, source, Store(source.store or named_store(name)), config.train.seed, model.context, model.best_share,
        model.shuffled_returns, model.delayed_reward, model.return_scale, model.is_conditioned, config.data.all_held_out,
        config.data.workers,
    )  # fmt: skip
    described = batches.task, model, batches.statistics, _num_timesteps(config, batches)
    torch.manual_seed(config.train.seed)
    learner = DecisionLearner(DecisionTransformer(*described)).to(device)

    def saved(weights: Weights) -> DecisionAgent:
        return DecisionAgent.of(*described, weights)

    return Setup(learner, batches, saved)


def _num_timesteps(config: DecisionRecipe, batches: Trajectories) -> int:
    """**Raises:** `ValueError` for a table that is shorter than an episode."""
    longest, asked = batches.statistics.longest, config.model.max_timesteps
    if asked is not None and asked < longest:
        raise ValueError(f"model.max_timesteps is {asked}, but an episode of '{batches.name}' has {longest} timesteps; raise it")
    return asked or max(longest, batches.task.episode_limit or 0)
