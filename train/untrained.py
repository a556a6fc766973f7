"""A Gato that knows nothing yet, for those who fine-tune without a checkpoint."""

from __future__ import annotations

from gato.agent import Agent
from gato.device import pick_device
from gato.model import Gato
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary

from .recipe import ModelConfig

ARCHITECTURE = ModelConfig(layout="compact", context_length=192, drop_path=0.0, initializer_range=0.05)  # as of configs/compact-cpu.yaml


def untrained(device: str | None) -> Agent:
    """New weights of the compact layout, 128 wide in 4 layers, without a task and without text."""
    places, layout, pooled = ARCHITECTURE.layout_settings
    tokenizer = EpisodeTokenizer(None, Vocabulary.of(0), max_local_positions=places, layout=layout, pool_patches=pooled)
    model = Gato(ARCHITECTURE.build(tokenizer.vocabulary))
    return Agent(model.eval().to(pick_device(device)), tokenizer, {})  # type: ignore[arg-type]  # transformers wraps it
