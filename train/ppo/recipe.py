"""What the recipe of PPO says. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gato.learners.ppo.config import NAME, EnvConfig, MetaConfig, NetworkConfig, PPOConfig
from gato.setting import Settings, choice

from ..recipe import OptimConfig, TrainConfig, check_frames, check_unused


@dataclass(frozen=True)
class PPORecipe(Settings):
    """Everything a run of PPO is made of. `env.frames` says how long it is; `train.steps`, its updates, follow from them."""

    learner: str = choice(NAME, (NAME,))
    env: EnvConfig = field(default_factory=EnvConfig)
    model: NetworkConfig = field(default_factory=NetworkConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.env.frames is not None and self.train.steps is None and self.num_rows % self.train.batch_size == 0:
            object.__setattr__(self, "train", replace(self.train, steps=self._updates()))

    @property
    def num_rows(self) -> int:
        """Rows of a rollout, long ones too: their rows are longer, not more."""
        return self.env.num_envs * self.ppo.rollout // self.ppo.span

    @property
    def updates_per_rollout(self) -> int:
        return self.ppo.epochs * self.num_rows // self.train.batch_size

    def stretch(self, number: int) -> int:
        """How many times longer than `ppo.rollout` the rollout of this number is, and than `ppo.span` its rows."""
        factor = self.meta.slow_factor
        return factor if self.meta.has_phases and number % (factor + 1) == factor else 1

    def start(self, number: int) -> int:
        """Timesteps of each environment before the rollout of this number."""
        factor = self.meta.slow_factor if self.meta.has_phases else 0
        cycles, rest = divmod(number, factor + 1)
        return (cycles * (2 * factor if factor else 1) + rest) * self.ppo.rollout

    def _updates(self) -> int:
        assert self.env.frames is not None
        number = 0
        while self.start(number) * self.env.num_envs < self.env.frames:
            number += 1
        return number * self.updates_per_rollout

    def check(self) -> None:
        """**Raises:** `ValueError` for what makes no sense, before an environment is made."""
        if not self.env.task:
            raise ValueError("env.task names no task; give one such as --env.task gymnasium/cartpole")
        if self.ppo.rollout % self.ppo.span:
            raise ValueError(f"ppo.rollout is {self.ppo.rollout}, not a multiple of ppo.span, {self.ppo.span}; change one of them")
        if self.num_rows % self.train.batch_size:
            raise ValueError(
                f"a rollout has {self.num_rows} rows (env.num_envs {self.env.num_envs} x ppo.rollout {self.ppo.rollout} / ppo.span "
                f"{self.ppo.span}), not a multiple of train.batch_size, {self.train.batch_size}; change one of them"
            )
        check_frames(self.train, self.env.frames, None if self.env.frames is None else self._updates(), "PPO")
        if self.meta.slow != "none" and self.model.memory == "none":
            raise ValueError(f"meta.slow is {self.meta.slow}, but model.memory is none, so there is no span to be long; choose a memory")
        check_unused(self.train, "PPO")
