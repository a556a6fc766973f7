"""Which parameters learn fast and which slowly, and in which updates (Meta-RIM)."""

from __future__ import annotations

from typing import Any

from ..network import decay_groups
from .config import MetaConfig
from .network import ActorCritic

CELLS = ("cell_input", "cell_state", "cell_bias", "cell.")  # of a RIM; all of an LSTM's or a GRU's


def is_slow(name: str, config: MetaConfig) -> bool:
    """Whether a parameter of `ActorCritic` is slow."""
    part, _, rest = name.partition(".")
    if part == "encoder" or rest.startswith("embedding"):  # what a memory embeds of its input belongs to what looks
        return config.encoder == "slow"
    is_of_cells = part in ("actor", "log_deviation") or (part == "memory" and rest.startswith(CELLS))
    return is_of_cells == (config.slow == "cells")


def parameter_groups(model: ActorCritic, config: MetaConfig, updates: int, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for the optimiser, matrices apart, which alone are decayed. **Arguments:** `updates`: of a rollout."""
    groups, cycle = [], (config.slow_factor + 1) * updates
    for slow in (False, True):
        extra: dict[str, Any] = {"learning_rate": config.slow_rate} if slow and config.slow_rate else {}
        if config.has_phases:
            extra["turns"] = (cycle - updates, cycle, cycle) if slow else (0, cycle - updates, cycle)
        chosen = [p for name, p in model.named_parameters() if (config.slow != "none" and is_slow(name, config)) == slow]
        groups += [group | extra for group in decay_groups(chosen, weight_decay)]
    return [group for group in groups if group["params"]]
