"""What a mixture says: its sources, and the settings of each; checked before any file is opened.

Nothing here imports torch, so that a wrong key is refused before the seconds that takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import get_args

from gato import envs
from gato.episode import Behaviour


@dataclass(frozen=True)
class SourceConfig:
    """A store's place in the mixture.

    - `weight`: expected share of rows, relative to the other sources. Where it is not given: 1, or what `temperature` says.
    - `store`: a folder; by default the one of the source's name in the stores folder.
    - `loss_weight`: factor on every target of this source.
    - `augment`: pictures are cropped, scaled and mirrored anew at every draw; see `augmented`.
    - `part`: `train` or `test` of the store's episodes; an episode's part follows from its number and the name of the store's first task.
    - `test_share`: expected share of the episodes in the part `test`.
    - `behaviours`: only episodes of these (expert, noisy, random, learner, human).
    - `max_episodes`: a cap: so many of the remaining episodes, drawn without regard to their order; a larger cap keeps a smaller one's.
    - `memory`: timesteps of a window at most, each window a document of its own behind its own prompt; by default as many as fit into
      the row. A policy of the task then acts with the same memory: trained on whole windows it may learn to repeat what it did
      before instead of looking (`GatoPolicy`).
    """

    weight: float | None = None
    store: str | None = None
    loss_weight: float = 1.0
    augment: bool = False
    part: str | None = None
    test_share: float = 0.1
    behaviours: list[str] | None = None
    max_episodes: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class DataConfig:
    """The mixture.

    - `sources`: by name, for example `gymnasium/cartpole`.
    - `prompt_share`: share of control rows that start with a prompt.
    - `loss_on_text_observations`: whether instructions are targets (the paper's literal rule).
    - `tokenizer`: a SentencePiece model file; by default `tokenizer.model` in the stores folder.
    - `workers`: processes that read and tokenise; 0 does it in the training process.
    - `temperature`: T gives each source without a weight its size ** (1 / T), in tokens and scaled so that these weights average 1.
    - `held_out`: tasks (`family/name`) and families (`family/*`) that must not be trained on, beside those that the registry
      holds out for few-shot learning.
    - `include_held_out`: which of the registry's held-out tasks and families to train on all the same.
    """

    sources: Mapping[str, SourceConfig] = field(default_factory=dict)
    prompt_share: float = 0.25
    loss_on_text_observations: bool = True
    tokenizer: str | None = None
    workers: int = 0
    temperature: float | None = None
    held_out: list[str] = field(default_factory=list)
    include_held_out: list[str] = field(default_factory=list)

    @property
    def all_held_out(self) -> list[str]:
        """`held_out`, and what the registry holds out."""
        return [*self.held_out, *(name for name in envs.held_out() if not is_held_out(name, [*self.held_out, *self.include_held_out]))]


def check(config: DataConfig) -> None:
    """**Raises:** `ValueError` for the first setting that makes no sense, before any file is opened."""
    weights = {name: 1.0 if s.weight is None else s.weight for name, s in config.sources.items()}
    if not weights or not all(0 <= w < math.inf for w in weights.values()) or sum(weights.values()) <= 0:
        raise ValueError(f"mixture weights are {weights}; give at least one above zero and none below")
    if config.temperature is not None and not config.temperature > 0:
        raise ValueError(f"temperature is {config.temperature}; give a number above zero: 1 for shares by size, more for evener ones")
    if not 0 <= config.prompt_share <= 1:
        raise ValueError(f"prompt_share is {config.prompt_share}, but it is a share: give a number from 0 to 1")
    if config.workers < 0:
        raise ValueError(f"workers is {config.workers}; give 0 to read in the training process, or a number of processes")
    for pattern in config.held_out:
        if "/" not in pattern:
            raise ValueError(f"held_out names '{pattern}'; give tasks as family/name and whole families as {pattern}/*")
    for pattern in config.include_held_out:
        if not any(is_held_out(task, [pattern]) for task in envs.held_out()):
            raise ValueError(f"include_held_out names '{pattern}', which the registry does not hold out; docs/suites.md lists what it does")
    held_out = config.all_held_out
    for name, source in config.sources.items():
        refuse_held_out(name, [name], held_out)
        if not 0 <= source.loss_weight < math.inf:
            raise ValueError(f"source '{name}' has loss_weight {source.loss_weight}; give zero or more")
        if source.part not in (None, "train", "test"):
            raise ValueError(f"source '{name}' has part '{source.part}'; give train or test")
        if not 0 < source.test_share < 1:
            raise ValueError(f"source '{name}' has test_share {source.test_share}; give a number between 0 and 1")
        if source.memory is not None and source.memory < 1:
            raise ValueError(f"source '{name}' has memory {source.memory}; give at least 1 timestep, or leave it out for whole windows")
        if source.max_episodes is not None and source.max_episodes < 1:
            raise ValueError(f"source '{name}' has max_episodes {source.max_episodes}; give at least 1, or leave the source out")
        if unknown := sorted(set(source.behaviours or ()) - set(get_args(Behaviour))):
            raise ValueError(f"source '{name}' has behaviours {unknown}; known are {', '.join(get_args(Behaviour))}")


def is_held_out(task: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of `family/name`, or matches one of `family/*`."""
    return any(fnmatchcase(task, pattern) for pattern in patterns)


def refuse_held_out(source: str, tasks: Sequence[str], patterns: Sequence[str]) -> None:
    """**Raises:** `ValueError` if one of the names is held out."""
    found = [pattern for pattern in patterns if any(is_held_out(task, [pattern]) for task in tasks)]
    if not found:
        return
    hint = "remove it from the sources or from held_out"
    if by_registry := [pattern for pattern in found if pattern in envs.held_out()]:
        hint += f"; the registry keeps {by_registry[0]} for few-shot learning: to train on it all the same, name it in include_held_out"
    raise ValueError(f"source '{source}' is held out by {found}; {hint}")
