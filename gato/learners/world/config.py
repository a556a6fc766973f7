"""What a recipe says of a world model: the games that are played, the network, and what is imagined. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from gato.learners.ppo.config import EnvConfig
from gato.setting import MAX_COUNT, Settings, bounded, choice

NAME = "world-model"
FORMS = ("one", "parts")


@dataclass(frozen=True)
class PlayConfig(EnvConfig):
    """As of PPO, and how acting and learning take turns.

    - `fill`: frames of random actions before the first update.
    - `first_updates`: updates on those alone, of the world model alone, before anything else is played.
    - `frames_per_update`: timesteps of all environments together before every later update, whole rounds of them.
    - `explore`: share of the timesteps behind `fill` in which a random action is held, in stretches of up to eight.
    """

    section: ClassVar[str] = "env"

    num_envs: int = bounded(4, 1, 2**16)
    fill: int = bounded(2000, 1, MAX_COUNT)
    first_updates: int = bounded(200, 0, MAX_COUNT)
    frames_per_update: int = bounded(16, 1, 2**20)
    explore: float = bounded(0.0, 0, 0.5)


@dataclass(frozen=True)
class WorldConfig(Settings):
    """The networks.

    - `tokens`: `one` a timestep, the sum of what is seen, done and was earned before; `parts`: one for each of them, as in the paper.
    - `reward_token`: whether the reward before is told at all.
    - `width`, `num_layers`, `num_heads`, `positions`: of the transformer (`gato/layers/transformer.py`); its feed-forward parts are four
      times as wide.
    - `memory`: timesteps that a layer looks back over, the present one included; 1: none.
    - `channels`: of the convolutions that say what the next cells are; `outcomes`: so many possibilities are told apart, of which one
      comes true for all cells together.
    - `sharpness`: in imagination a cell's logit given the outcome is multiplied by it: of 400 cells that are each right in 99 % of cases
      some are wrong in almost every timestep, and the next ones are imagined from there; 1: drawn as predicted.
    - `policy_width`: of the two hidden layers of the actor, and of the critic.
    - `groups`, `classes`: of pictures: so many symbols stand for one, each of so many classes; `stack`: pictures that are seen together.
    - `picture_channels`: of the first and the last of the convolutions between pictures and symbols; `picture_width`: of the hidden layers
      behind them, and of those that say the next symbols. `channels` and `outcomes` are of boards alone.
    """

    section: ClassVar[str] = "model"

    tokens: str = choice("one", FORMS)
    reward_token: bool = True
    width: int = bounded(96, 2, 2**14, multiple=2)
    num_layers: int = bounded(2, 1, 256)
    num_heads: int = bounded(4, 1, 256)
    positions: Literal["rope", "transformer_xl"] = "rope"
    memory: int = bounded(8, 1, 4096)
    channels: int = bounded(16, 1, 4096)
    outcomes: int = bounded(4, 1, 256)
    sharpness: float = bounded(8.0, 0, 1000, above=True)
    policy_width: int = bounded(256, 1, 2**14)
    groups: int = bounded(32, 1, 1024)
    classes: int = bounded(32, 2, 1024)
    stack: int = bounded(4, 1, 64)
    picture_channels: int = bounded(48, 1, 4096)
    picture_width: int = bounded(512, 1, 2**14)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (2 * self.num_heads):
            raise ValueError(f"'model.width' is {self.width} with model.num_heads {self.num_heads}, expected a multiple of twice the heads")


@dataclass(frozen=True)
class DreamConfig(Settings):
    """What is learned of stored episodes, and in imagination.

    - `window`: timesteps of a row, in a stretch of the episodes laid end to end; `visits`: a stretch that was drawn so many times more
      often than another is e times less likely to be drawn; 0: all are equally likely.
    - `blind`: share of these timesteps whose cells, reward and discount convolutions foresee from the board and the action alone.
    - `next_weight`, `reward_weight`, `discount_weight`: of the losses of the world model.
    - `starts`: places in a row from which imagination begins; `horizon`: timesteps of it.
    - `stray`: imagination begins with a random action, and in half of the cases with one that is held for up to so many timesteps less
      one before it, so that also what the policy never does is tried; 0: with an action of the policy.
    - `gamma`: discount, which the world model learns to say, 0 at an episode's end; `gae_lambda`: of generalised advantage estimation.
    - `learning_rate`, `clip`: of actor and critic; `optim` says those of the world model. `picture_rate`: of the autoencoder of pictures.
    - `value_weight`: of the critic's loss. `entropy_weight`: of what the policy's entropy, as a share of the largest possible one,
      lies below `least_entropy`.
    - `normalise_advantages`: to deviation 1 in every update.
    """

    section: ClassVar[str] = "dream"

    window: int = bounded(16, 2, 4096)
    visits: float = bounded(20.0, 0, 1e9)
    blind: float = bounded(0.5, 0, 1)
    next_weight: float = bounded(1.0, 0, 1e6)
    reward_weight: float = bounded(10.0, 0, 1e6)
    discount_weight: float = bounded(50.0, 0, 1e6)
    starts: int = bounded(4, 1, 4096)
    horizon: int = bounded(10, 1, 4096)
    stray: int = bounded(0, 0, 4096)
    gamma: float = bounded(0.99, 0, 1)
    gae_lambda: float = bounded(0.95, 0, 1)
    learning_rate: float = bounded(3e-4, 0, 100, above=True)
    clip: float = bounded(1.0, 0, 1e9, above=True)
    picture_rate: float = bounded(1e-4, 0, 100, above=True)
    value_weight: float = bounded(1.0, 0, 1e6)
    entropy_weight: float = bounded(0.01, 0, 1e6)
    least_entropy: float = bounded(1.0, 0, 1)
    normalise_advantages: bool = True
