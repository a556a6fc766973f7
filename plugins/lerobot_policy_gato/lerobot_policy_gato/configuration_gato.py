"""The configuration that `config.json` holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim import AdamWConfig


@PreTrainedConfig.register_subclass("gato")
@dataclass
class GatoConfig(PreTrainedConfig):
    """`task`: the one of the checkpoint's tasks that it acts in. Nothing is scaled: the checkpoint's tokenizers do that."""

    task: str = ""
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("STATE", "VISUAL", "ENV", "ACTION"), NormalizationMode.IDENTITY)
    )

    @property
    def observation_delta_indices(self) -> None:
        """The policy remembers by itself."""

    @property
    def action_delta_indices(self) -> None:
        """One action for each timestep."""

    @property
    def reward_delta_indices(self) -> None:
        """Rewards are not seen."""

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig()

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        if not self.task:
            raise ValueError("the configuration names no task; write the folder with 'gato export CHECKPOINT FOLDER --to lerobot'")
