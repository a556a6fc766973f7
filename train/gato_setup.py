"""Gato as a run's learner: the mixture, the model, and the agent that is saved."""

from __future__ import annotations

from typing import Any

import torch

from gato.agent import Agent
from gato.data.mixture import Mixture, open_tokenizer
from gato.learner import Setup, Weights
from gato.learners.gato import GatoLearner
from gato.model import Gato
from gato.weights import filled_model

from .recipe import PretrainConfig


def set_up(config: PretrainConfig, device: Any) -> Setup:
    """**Raises:** `ValueError` for a mixture that does not fit, see `Mixture`."""
    tokenizer = open_tokenizer(config.data, *config.model.layout_settings)
    model_config = config.model.build(tokenizer.vocabulary)
    mixture = Mixture(config.data, tokenizer, model_config.context_length, config.train.seed, 2 * model_config.num_layers)
    torch.manual_seed(config.train.seed)
    learner = GatoLearner(Gato(model_config), [source.name for source in mixture.sources]).to(device)
    if config.train.recompute:
        learner.model.recompute_layers()
    if config.train.compile:
        learner.model.transformer.compile_layers()

    def saved(weights: Weights) -> Agent:
        return Agent(filled_model(model_config, weights), tokenizer, mixture.tasks)

    return Setup(learner, mixture, saved)
