"""The settings of learners of one-shot imitation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gato.setting import Settings, bounded, choice

TECNETS, MIL = "tecnets", "mil"
SENTENCES = ("demonstrations", "first", "untrained", "numbers", "none")


@dataclass(frozen=True)
class OneShotConfig(Settings):
    """What both learners have: the same eyes and hidden layers, and rows of the same kind.

    - `filters` of each of `num_convolutions` convolutions; the first has `kernel` x `kernel` pixels, the others 3 x 3, the first two
      a stride of 2.
    - `width` of `num_layers` hidden layers behind them.
    - `tasks` of a row, each with `support` demonstrations that tell what it is, and `query` others; `timesteps` of each of the two kinds
      are cloned. Memory grows with the rows of a micro-batch, not with those of an update.
    """

    section: ClassVar[str] = "model"

    filters: int = bounded(16, 1, 1024)
    num_convolutions: int = bounded(3, 1, 10)
    kernel: int = bounded(5, 1, 15)
    width: int = bounded(200, 1, 2**14)
    num_layers: int = bounded(2, 1, 20)
    tasks: int = bounded(16, 2, 4096)
    support: int = bounded(1, 1, 100)
    query: int = bounded(1, 1, 100)
    timesteps: int = bounded(2, 1, 1000)


@dataclass(frozen=True)
class TecNetsConfig(OneShotConfig):
    """James et al. 2018, Task-Embedded Control Networks; beside what `OneShotConfig` has:

    - `embedding`: numbers of a task's embedding (the paper calls it a sentence).
    - `margin`: by how much a demonstration must be nearer to its own task than to another one, as a cosine.
    - `embedding_weight`, `support_weight`, `query_weight`: of the three losses.
    - `sentence`: what the control network is told of the task. `demonstrations`: the embedding. `first`: an embedding of a first
      observation alone, at play of the episode's own, for tasks that it tells; nothing is shown then. Controls: `untrained`, an
      embedding whose network keeps its first weights; `numbers`, what the environment says of the task; `none`, which is behaviour
      cloning.
    """

    embedding: int = bounded(20, 1, 4096)
    margin: float = bounded(0.1, 0, 2)
    embedding_weight: float = bounded(1.0, 0, 1e6)
    support_weight: float = bounded(0.1, 0, 1e6)
    query_weight: float = bounded(0.1, 0, 1e6)
    sentence: str = choice("demonstrations", SENTENCES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.support_weight + self.query_weight:
            raise ValueError("model.support_weight and model.query_weight are both 0, so nothing would learn to act; raise one")


@dataclass(frozen=True)
class MilConfig(OneShotConfig):
    """Finn et al. 2017, One-Shot Visual Imitation Learning via Meta-Learning; beside what `OneShotConfig` has:

    - `video`: the step is taken on pictures alone, by a learned loss of `temporal_filters` filters over `temporal_kernel` frames; else on
      states and actions too. Of every demonstration the step sees `timesteps` frames, evenly spread.
    - `inner_rate` of the step, whose gradients are clipped to `inner_clip` one by one; with `learned_rates` it is what the rates
      begin with, one of every matrix, filter and bias vector, which are trained like weights (Li et al. 2017, Meta-SGD, by number).
    - `bias`: numbers of the bias transformation; 0 leaves it out.
    - `second_order`: whether gradients go through the step's own gradient.
    """

    tasks: int = bounded(8, 2, 4096)
    timesteps: int = bounded(8, 1, 1000)
    video: bool = False
    temporal_filters: int = bounded(32, 1, 1024)
    temporal_kernel: int = bounded(5, 1, 99)
    inner_rate: float = bounded(0.1, 0, 1e4, above=True)
    learned_rates: bool = False
    inner_clip: float = bounded(10.0, 0, 1e6, above=True)
    bias: int = bounded(20, 0, 4096)
    second_order: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.video and not self.second_order:
            raise ValueError("model.video is true and model.second_order false, but only gradients of second order teach a video's loss")
