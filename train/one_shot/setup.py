"""A learner of one-shot imitation in a run: rows of tasks of one store, the network, and the agent that is saved."""

from __future__ import annotations

from typing import Any

import torch

from gato.data.store import Store
from gato.data.stores import find_store
from gato.data.task_rows import TaskRows
from gato.learner import Setup, Weights
from gato.learners.actions import ActionVectors
from gato.learners.features import Features
from gato.learners.one_shot.agent import KINDS, OneShotAgent
from gato.learners.one_shot.config import MIL, TECNETS
from gato.learners.one_shot.demonstrated import DemonstrationInputs
from gato.learners.one_shot.mil import MilLearner
from gato.learners.one_shot.tecnets import TecNetsLearner
from gato.spec import Modality

from .recipe import MilRecipe, TecNetsRecipe

MEASURED = 2**14  # timesteps that features are measured from
LEARNERS = {TECNETS: TecNetsLearner, MIL: MilLearner}


def set_up(config: TecNetsRecipe | MilRecipe, device: Any) -> Setup:
    """**Raises:** `ValueError` for a store that `TaskRows` refuses, whose actions are texts, or that says nothing of its tasks."""
    ((name, source),) = config.data.sources.items()
    model = config.model
    batches = TaskRows(
        name, source, Store(find_store(source.store or name)), config.train.seed, model.tasks, model.support, model.query, model.timesteps,
        config.learner == MIL, config.data.all_held_out, config.data.workers,
    )  # fmt: skip
    if texts := [f.name for f in batches.task.actions if f.modality is Modality.TEXT]:
        raise ValueError(f"source '{name}' has actions of text ('{texts[0]}'), which this learner writes none of; train a Gato on it")
    inputs = DemonstrationInputs(
        Features.of(batches.task, list(batches.sample(MEASURED)), with_pictures=False), ActionVectors.all_of(batches.task)
    )
    batches.encode = inputs.batch
    num_numbers = len(batches.row(0, 0).numbers[0])
    if getattr(model, "sentence", None) == "numbers" and not num_numbers:
        raise ValueError(f"model.sentence is numbers, but the environment of source '{name}' says none of its tasks; choose another")
    torch.manual_seed(config.train.seed)
    network = KINDS[config.learner].model(batches.task, inputs.features, inputs.vectors.size, model, num_numbers)
    learner = LEARNERS[config.learner](network, inputs.vectors, name).to(device)

    def saved(weights: Weights) -> OneShotAgent:
        agent = OneShotAgent.of(config.learner, inputs, model, num_numbers, weights)
        for i in batches.numbers if config.learner == TECNETS else ():
            agent.remember(batches.store.tasks[i].name, batches.demonstrations(i, model.support))
        return agent

    return Setup(learner, batches, saved)
