"""Demonstrations by a policy of one's own: `gato data collect --policy RUN`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gato import envs
from gato.envs.recording import episode_seed, expert_episode
from gato.episode import Behaviour
from gato.progress import Progress

from .attempt import load_expert
from .collect import CollectConfig, collect, least_return
from .policy_expert import policy_name

MEASURED = 20  # episodes that say whether a policy is as good as an expert


def tasks_of(run: Path) -> list[str]:
    """The tasks that the policy of a checkpoint can be put into an environment for."""
    from gato.agent import load

    return [task.name for task in load(checkpoint_of(run), "cpu").tasks.values() if task.is_control and task.env_id]


def collect_policy(config: CollectConfig, run: Path) -> list[dict[str, Any]]:
    """As `collect`, with a policy in the expert's place.

    Where the mean of 20 episodes is at least what an expert's episode must reach, 80 % of the way from random play to the registry's
    expert, it plays as an expert: half of the episodes are noisy, those that fall short are played anew. Else it plays as a
    learner, and all its episodes are kept as they were played.

    **Arguments:** `run`: the folder of a checkpoint, or of a run, whose final one is meant.
    """
    folder, rows = checkpoint_of(run), []
    for task in config.tasks:
        behaviour, mean = measured_behaviour(task, folder, config)
        noisy = config.noisy_share if behaviour == "expert" else 0.0
        played = replace(config, tasks=[task], expert=policy_name(folder, behaviour), noisy_share=noisy)
        rows += [row | {"played_as": behaviour, "measured_return": mean} for row in collect(played)]
    return rows


def measured_behaviour(task: str, folder: Path, config: CollectConfig) -> tuple[Behaviour, float]:
    """What a policy's episodes are to be called, and the mean return that says so."""
    spec, expert, returns = envs.task(task), load_expert(task, policy_name(folder, "learner")), []
    env = envs.make(spec)
    with Progress(f"measure the policy in {task}", MEASURED) as progress:
        for i in range(MEASURED):
            seed = episode_seed("measure", config.seed, i)
            returns.append(expert_episode(spec, env, expert, seed, keep=False, episode_steps=config.episode_steps).total_reward)
            progress.advance()
    envs.close(env)
    least, mean = least_return(spec), float(np.mean(returns))
    return ("expert" if least is not None and mean >= least else "learner"), mean


def checkpoint_of(run: Path) -> Path:
    return run / "final" if (run / "final").is_dir() else run
