"""What the recipe of a world model says. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gato.data.selection import DataConfig, check
from gato.learners.world.config import NAME, DreamConfig, PlayConfig, WorldConfig
from gato.setting import Settings, choice

from ..recipe import OptimConfig, TrainConfig, check_frames, check_unused


@dataclass(frozen=True)
class WorldRecipe(Settings):
    """Everything a run is made of. It plays `env.task` for `env.frames`, from which its updates follow; or it learns from the episodes of
    one store, `data.sources`, for `train.steps`."""

    learner: str = choice(NAME, (NAME,))
    env: PlayConfig = field(default_factory=PlayConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: WorldConfig = field(default_factory=WorldConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.env.frames is not None and self.train.steps is None:
            object.__setattr__(self, "train", replace(self.train, steps=self._updates()))

    @property
    def is_offline(self) -> bool:
        return bool(self.data.sources)

    @property
    def rounds(self) -> int:
        """Timesteps of each environment before an update."""
        return -(-self.env.frames_per_update // self.env.num_envs)

    def _updates(self) -> int:
        assert self.env.frames is not None
        played = max(0, self.env.frames - self.env.fill)
        return max(1, self.env.first_updates + -(-played // (self.rounds * self.env.num_envs)))

    def check(self) -> None:
        """**Raises:** `ValueError` for what makes no sense, before an environment is made or a store opened."""
        if self.is_offline:
            self._check_offline()
        elif not self.env.task:
            raise ValueError("env.task names no task, and data.sources no store; give one such as --env.task minatar-cells/breakout")
        else:
            updates = None if self.env.frames is None else self._updates()
            check_frames(self.train, self.env.frames, updates, "a world model that plays")
        if self.train.micro_batch_size not in (0, self.train.batch_size):
            raise ValueError(
                f"train.micro_batch_size is {self.train.micro_batch_size}, but advantages are measured over all {self.train.batch_size} "
                "rows of an update; leave it out"
            )
        check_unused(self.train, "a world model")

    def _check_offline(self) -> None:
        check(self.data)
        if self.env.task or self.env.frames is not None:
            raise ValueError("env says what is played and data.sources what is read; a run does one of them: leave out the other")
        if len(self.data.sources) != 1:
            raise ValueError(f"data.sources names {', '.join(self.data.sources)}; a world model learns one game: give one source")
