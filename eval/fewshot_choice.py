"""Which policy of a few-shot grid to take, why, and the lines that run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gato.envs.recording import EPISODE_STEPS
from gato.spec import TaskSpec

from .settings import EpisodeLimits

SIMPLEST_FIRST = ("embed", "adapt", "retrieve", "knn", "lwr", "clone", "darp", "frozen", "lora", "scratch", "full")
OTHER_STARTS = 1_000_000  # seeds from here on are none that a cell was measured on
LOOP = """import gato
from gato import envs

policy = gato.load("{folder}").policy("{task}"{temperature})
env = envs.make(policy.task)
observation, _ = env.reset(seed=0)
policy.reset()
for timestep in range({steps}):
    observation, reward, terminated, truncated, info = env.step(policy.act_one(observation))
    if terminated or truncated:
        break"""


def saved_figure(cell: dict[str, Any]) -> str:
    """The figure that a cell's saved policy has: of the step chosen on held-out demonstrations, else of the last one."""
    return next(name for name in ("chosen on held-out", "last step", "no learning") if name in cell["figures"])


def policy_to_take(
    out: Path, task: TaskSpec, cells: Sequence[dict[str, Any]], rollouts: int, temperature: float | None, limits: EpisodeLimits
) -> dict[str, Any] | None:
    """The saved policy with the highest mean return; `None` where no cell left one behind.

    All were measured on the same starts, within the `limits` of the run. Where means are equal, fewer demonstrations win, then the
    simpler way of learning.

    **Returns:** `folder`, `mode`, `episodes`, `series`, `figure`, its `row`, `why`, `python`, `command` and `serve`.
    """
    found = []
    for cell in cells:
        folder = out / "cells" / f"{cell['mode']}-{cell['episodes']}-{cell['series']}" / "policy"
        if folder.is_dir():
            row = cell["figures"][saved_figure(cell)]
            found.append((-row["mean"], cell["episodes"], SIMPLEST_FIRST.index(cell["mode"]), cell["series"], folder, cell, row))
    if not found:
        return None
    *_, folder, cell, row = min(found, key=lambda entry: entry[:4])
    why = (
        f"the highest mean return of {len(found)} saved policies on the same {rollouts} episodes; where equal, fewer demonstrations, "
        "then the simpler one. The best of several is flattered by chance: the command plays other starts"
    )
    said = "" if temperature is None else f", temperature={temperature:g}"
    option = "" if temperature is None else f" --temperature {temperature:g}"
    steps = limits.episode_steps
    option += "" if steps is None else f" --episode_steps {steps}"
    longest = min((n for n in (task.episode_limit, steps) if n), default=EPISODE_STEPS)
    return {
        "folder": str(folder), "mode": cell["mode"], "episodes": cell["episodes"], "series": cell["series"], "figure": saved_figure(cell),
        "row": {name: value for name, value in row.items() if name != "returns"}, "why": why,
        "python": LOOP.format(folder=folder, task=task.name, temperature=said, steps=longest),
        "command": f"gato eval {folder} --tasks {task.name} --episodes {rollouts} --seed {OTHER_STARTS}{option}",
        "serve": f"gato serve {folder} --task {task.name}",
    }  # fmt: skip


def choice_lines(take: dict[str, Any] | None) -> list[str]:
    """What a run says at its end."""
    if take is None:
        return ["no policy was saved: prompts leave none behind; add a mode such as full, retrieve or clone"]
    count = take["episodes"]
    head = f"take {take['mode']} from {count} demonstration{'s' * (count > 1)} ({take['figure']}, series {take['series']})"
    return [f"{head}: {take['folder']}", f"  why: {take['why']}", "", take["python"], "", take["command"], take["serve"]]
