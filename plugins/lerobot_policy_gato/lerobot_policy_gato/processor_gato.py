"""LeRobot's pipelines around the policy: names, a batch axis, the device; no scaling."""

from __future__ import annotations

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action

from .configuration_gato import GatoConfig


def make_gato_pre_post_processors(config: GatoConfig, dataset_stats: Any = None) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """`dataset_stats` are not used: ranges stand in the checkpoint."""
    before = [RenameObservationsProcessorStep(rename_map={}), AddBatchDimensionProcessorStep(), DeviceProcessorStep(device=config.device)]
    after = [DeviceProcessorStep(device="cpu")]
    return (
        PolicyProcessorPipeline(steps=before, name="policy_preprocessor"),
        PolicyProcessorPipeline(
            steps=after, name="policy_postprocessor", to_transition=policy_action_to_transition, to_output=transition_to_policy_action
        ),
    )
