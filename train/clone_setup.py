"""A clone as a run's learner: single timesteps of one store, the network, what is saved of it."""

from __future__ import annotations

from typing import Any

import torch

from gato.data.store import Store
from gato.data.stores import named_store
from gato.data.timesteps import Timesteps
from gato.learner import Setup, Weights
from gato.learners.actions import ActionVectors
from gato.learners.clone import CloneInputs, CloneNetwork, ClonePolicy
from gato.learners.clone_learner import CloneLearner, CloneModel
from gato.learners.features import Features
from gato.learners.folder import BaselineAgent
from gato.learners.reactive import Parts
from gato.spec import Modality

from .clone_recipe import CloneRecipe

MEASURED = 2**16  # timesteps that features are measured from


def set_up(config: CloneRecipe, device: Any) -> Setup:
    """**Raises:** `ValueError` for a store that `Timesteps` refuses, or whose actions are texts."""
    ((name, source),) = config.data.sources.items()
    store = Store(source.store or named_store(name))
    batches = Timesteps(name, source, store, config.train.seed, config.data.all_held_out, config.data.workers)
    task = batches.task
    if texts := [f.name for f in task.actions if f.modality is Modality.TEXT]:
        raise ValueError(f"source '{name}' has actions of text ('{texts[0]}'), which a clone writes none of; train a Gato on it")
    features = Features.of(task, list(batches.sample(MEASURED)), with_pictures=False)
    vectors = ActionVectors.all_of(task)
    batches.encode = CloneInputs(features, vectors).batch
    torch.manual_seed(config.train.seed)
    network = CloneNetwork(task, len(features.mean), vectors.size)
    learner = CloneLearner(CloneModel(network, features), vectors, name).to(device)

    def saved(weights: Weights) -> BaselineAgent:
        return BaselineAgent(ClonePolicy.restored(Parts(features, vectors, weights, network.settings())))

    return Setup(learner, batches, saved)
