"""What a recipe says of PPO: the environments, the network, and the updates. Imports no torch, so that a wrong key is refused
before the seconds that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gato.envs.stream import EPISODE_SECONDS, STEP_SECONDS, EpisodeLimits
from gato.setting import MAX_COUNT, Settings, bounded, choice

NAME = "ppo"
MEMORIES = ("none", "lstm", "gru", "rim")
CELLS = ("lstm", "gru")
SLOW = ("none", "attention", "cells")


@dataclass(frozen=True)
class EnvConfig(Settings):
    """Where the policy acts.

    - `task`: of the registry, or any Gymnasium id.
    - `num_envs`: environments side by side, of all ranks together.
    - `frames`: timesteps of all environments together, repeated frames of a wrapper not counted; rounded up to whole rollouts.
    - `reward_scale`: rewards are multiplied by it before anything is learned of them; what is reported is not.
    - `eval_every`: after so many updates, and after the last, the policy plays `eval_episodes` episodes, which are not trained on; 0:
      never.
    - `step_seconds`, `episode_steps`, `episode_seconds`: as in `gato eval`; an episode beyond the first or last has failed.
    """

    section: ClassVar[str] = "env"

    task: str | None = None
    num_envs: int = bounded(8, 1, 2**16)
    frames: int | None = bounded(None, 1, MAX_COUNT)
    reward_scale: float = bounded(1.0, 0, 1e9, above=True)
    eval_every: int = bounded(0, 0, MAX_COUNT)
    eval_episodes: int = bounded(20, 1, 1000)
    step_seconds: float = bounded(STEP_SECONDS, 0, 1e7)
    episode_steps: int | None = bounded(None, 0, MAX_COUNT)
    episode_seconds: float = bounded(EPISODE_SECONDS, 0, 1e7)

    @property
    def limits(self) -> EpisodeLimits:
        return EpisodeLimits(self.step_seconds, self.episode_steps, self.episode_seconds)


@dataclass(frozen=True)
class NetworkConfig(Settings):
    """The network: what is seen becomes a vector, a memory takes it in, an actor and a critic read the memory.

    - `width`: of the vector and of the hidden layers of actor and critic; `channels`: of the convolutions over grids of cells.
    - `memory`: `none`, `lstm`, `gru` or `rim`; `memory_width`: its hidden size.
    - `num_blocks`, `num_active`, `cell`: of a RIM: its blocks share `memory_width`, so many of them take part in a timestep.
    - `normalise`: continuous observations are standardised by the mean and deviation of what was seen in training so far.
    """

    section: ClassVar[str] = "model"

    width: int = bounded(64, 1, 2**14)
    channels: int = bounded(32, 1, 2**12)
    memory: str = choice("none", MEMORIES)
    memory_width: int = bounded(64, 1, 2**14)
    num_blocks: int = bounded(4, 1, 256)
    num_active: int = bounded(2, 1, 256)
    cell: str = choice("lstm", CELLS)
    normalise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory == "rim" and (self.memory_width % self.num_blocks or self.num_active > self.num_blocks):
            raise ValueError(
                f"'model.memory_width' is {self.memory_width} with model.num_blocks {self.num_blocks} and model.num_active "
                f"{self.num_active}, expected a multiple of the blocks, and no more active ones than there are"
            )


@dataclass(frozen=True)
class PPOConfig(Settings):
    """Rollouts, and what is made of them (Schulman et al. 2017).

    - `start`: a checkpoint of PPO whose weights the run begins with, of a task with the same fields; its words are all that are known.
    - `rollout`: timesteps of each environment between two collections; `span`: timesteps of a row of a batch, through which
      gradients reach back in time; without a memory 1. `train.batch_size` counts such rows.
    - `epochs`: how often every row of a rollout is used.
    - `gamma`: discount; `gae_lambda`: of generalised advantage estimation (Schulman et al. 2016).
    - `clip`: how far from 1 the ratio of new to old probability may pay; `clip_values`: whether the critic's change is clipped by it, too.
    - `value_weight`, `entropy_weight`: of the critic's squared error and of the entropy in the loss.
    - `normalise_advantages`: to mean 0 and deviation 1 in every update.
    """

    section: ClassVar[str] = "ppo"

    start: str | None = None
    rollout: int = bounded(128, 1, 2**20)
    span: int = bounded(1, 1, 2**16)
    epochs: int = bounded(4, 1, 1000)
    gamma: float = bounded(0.99, 0, 1)
    gae_lambda: float = bounded(0.95, 0, 1)
    clip: float = bounded(0.2, 0, 1e6, above=True)
    clip_values: bool = False
    value_weight: float = bounded(0.5, 0, 1e6)
    entropy_weight: float = bounded(0.01, 0, 1e6)
    normalise_advantages: bool = True


@dataclass(frozen=True)
class MetaConfig(Settings):
    """Two speeds of learning (Meta-RIM): fast parameters learn from short spans, slow ones from long spans.

    - `slow`: `attention`: a RIM's attentions and the critic are slow, its cells and the actor fast; `cells`: the other way round; `none`:
      all learn alike. A memory without attentions has its critic alone, or all but it, among the slow ones.
    - `encoder`: to which of them what looks and reads belongs, `fast` or `slow`.
    - `slow_factor`: m; after m rollouts of which only fast parameters learn comes one that is m times as long, whose rows span m times
      as many timesteps, of which only slow ones learn.
    - `phases`: false: there are no such phases, and the slow parameters differ by their learning rate alone.
    - `slow_rate`: their learning rate, by default that of the others.
    """

    section: ClassVar[str] = "meta"

    slow: str = choice("none", SLOW)
    encoder: str = choice("fast", ("fast", "slow"))
    slow_factor: int = bounded(4, 1, 64)
    phases: bool = True
    slow_rate: float | None = bounded(None, 0, 100, above=True)

    @property
    def has_phases(self) -> bool:
        return self.slow != "none" and self.phases
