"""Few-shot modes that only look at the demonstrations: `embed` (TecNets) and `adapt` (MIL), which were trained to act on them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gato.agent import load
from gato.learners.one_shot.agent import OneShotAgent, num_bytes
from gato.learners.one_shot.config import MIL, TECNETS
from gato.train.protocol import MODES

from .settings import AS_IT_IS, SHOWN, FewShotConfig

LEARNER_OF = {"embed": TECNETS, "adapt": MIL}


def shown_agents(checkpoint: Path | None, agent: Any, config: FewShotConfig) -> dict[str, OneShotAgent]:
    """Who acts in which of these modes: the checkpoint itself where it is one of theirs, else those that `--embed` and `--adapt` name.

    **Raises:** `ValueError` for a mode that the checkpoint is not for, or a checkpoint of another learner.
    """
    is_shown = isinstance(agent, OneShotAgent)
    if is_shown and (wrong := [mode for mode in config.modes if mode in (*MODES, *AS_IT_IS)]):
        raise ValueError(
            f"'{checkpoint}' holds {agent.learner}, and the modes {', '.join(wrong)} train a Gato; leave them out, or name one"
        )
    found: dict[str, OneShotAgent] = {}
    for mode in [mode for mode in config.modes if mode in SHOWN]:
        folder = getattr(config, mode)
        one = agent if folder is None else load(folder, config.device, config.verify)
        if not isinstance(one, OneShotAgent) or one.learner != LEARNER_OF[mode]:
            named = folder or checkpoint
            held = f"'{named}' holds {getattr(one, 'learner', None) or 'a Gato'}" if named else "none is named"
            raise ValueError(f"the mode '{mode}' acts with {LEARNER_OF[mode]}, but {held}; name a checkpoint of it by --{mode}")
        found[mode] = one
    return found


def shown_cell(agent: OneShotAgent, task: Any, episodes: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A policy that has seen the demonstrations, and how long that took; the agent, which now knows the task, is saved."""
    started = time.monotonic()
    kept = agent.remember(task.name, episodes)
    seconds = time.monotonic() - started
    agent.save(folder)
    del agent.memories[task.name]  # the next cell has other demonstrations
    policy = agent.policy(task, demonstrations=episodes)
    return policy, {"seconds": round(seconds, 4), "bytes": num_bytes(kept), "updates": 0}
