"""The policy: LeRobot's batches in, actions out. What it does with them is `gato.serve.lerobot` in opengato."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from gato.serve.lerobot import LeRobotActor

from .configuration_gato import GatoConfig

ONLY_ACTS = "a gato policy acts under LeRobot and does not train there; use 'gato finetune', then 'gato export --to lerobot'"


class GatoPolicy(PreTrainedPolicy):
    """Acts; its memory of the episode is inside, and forgotten by `reset`."""

    config_class = GatoConfig
    name = "gato"

    def __init__(self, config: GatoConfig, actor: LeRobotActor | None = None, **_: Any) -> None:
        super().__init__(config)
        config.validate_features()
        if actor is None:
            raise ValueError("a gato policy has no weights of its own here; open a folder with --policy.path or from_pretrained")
        self.actor = actor

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, revision: str | None = None,
        local_files_only: bool = False, token: str | bool | None = None, cache_dir: str | Path | None = None, **_: Any,
    ) -> GatoPolicy:  # fmt: skip
        """Of a folder that `gato export --to lerobot` wrote, or a repository that holds one."""
        folder = Path(pretrained_name_or_path)
        if not folder.is_dir():
            found = {"revision": revision, "local_files_only": local_files_only, "token": token, "cache_dir": cache_dir}
            folder = Path(snapshot_download(str(pretrained_name_or_path), allow_patterns=["*.json", "*.safetensors", "*.model"], **found))
        config = config or PreTrainedConfig.from_pretrained(folder)
        return cls(config, LeRobotActor.load(folder, config.task, config.device)).eval()

    def reset(self) -> None:
        self.actor.reset()

    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        return torch.from_numpy(self.actor.select(batch))

    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """(B, 1, A): one timestep, which the episode then goes on from."""
        return self.select_action(batch)[:, None]

    def get_optim_params(self) -> dict:
        raise NotImplementedError(ONLY_ACTS)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict | None]:
        raise NotImplementedError(ONLY_ACTS)
