"""Which policy of a few-shot grid to take, why, and the lines that run it.

Every saved policy plays the same episodes from starts of their own, which no figure of the table is measured on: so the choice
does not flatter the figures of what it takes. Where they do not settle which is the best, those that may be it play more of them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gato.agent import load
from gato.disk import write_json
from gato.eval.score import score_scale
from gato.setting import MAX_SEED
from gato.spec import TaskSpec

from .rollout import rollout
from .settings import EpisodeLimits, FewShotConfig
from .summary import summarise

SIMPLEST_FIRST = (
    "retrieve", "knn", "lwr", "clone", "keypoints", "darp", "embed", "adapt", "zero", "frozen", "lora", "brief", "scratch", "full",
)  # fmt: skip
OTHER_STARTS = 1_000_000  # seeds from here on are none that a cell was measured on; those of the choice lie as far behind again
RUN_OFF = 3  # times as many episodes are played by those that may be the best, from starts of their own
CLOSE = 0.01  # of the way from random to expert: policies as near to the best as this are taken to be as good
LOOP = """import gato
policy = gato.load({folder!r}).policy({task!r}{temperature})
print(gato.evaluate(policy, episodes={episodes}, seed={seed}{steps})["mean"])  # your loop: policy.reset(), policy.act_one(observation)"""


def folder_of(out: Path, cell: dict[str, Any]) -> Path:
    return out / "cells" / f"{cell['mode']}-{cell['episodes']}-{cell['series']}"


def saved_figure(cell: dict[str, Any]) -> str:
    """The figure that a cell's saved policy has: of the step chosen on held-out demonstrations, else of the last one."""
    return next(name for name in ("chosen on held-out", "last step", "no learning") if name in cell["figures"])


def validate(out: Path, task: TaskSpec, cells: Sequence[dict[str, Any]], config: FewShotConfig) -> list[dict[str, Any]]:
    """The cells that left a policy, each with its `validation`: what the saved policy reaches on the starts of the choice.

    They are played where there is a choice: among all saved policies of as many demonstrations. Those of a series that may be the
    best then have a `run_off`, too. What was played before, with as many episodes, is read.
    """
    saved = [cell for cell in cells if (folder_of(out, cell) / "policy").is_dir()]
    for cell in saved:
        if sum(c["episodes"] == cell["episodes"] for c in saved) > 1:
            _play(out, task, cell, "validation", config.validation, 2, config)
    for place in dict.fromkeys((cell["episodes"], cell["series"]) for cell in saved):
        for cell in contenders(task, [c for c in saved if (c["episodes"], c["series"]) == place]):
            _play(out, task, cell, "run_off", RUN_OFF * config.validation, 3, config)
    return saved


def _play(out: Path, task: TaskSpec, cell: dict[str, Any], name: str, episodes: int, starts: int, config: FewShotConfig) -> None:
    """What a cell's saved policy reaches in the episodes of the choice, kept under this name with the cell; what is there is read."""
    known, seed = cell.get(name, {}), (starts * OTHER_STARTS + config.seed) % MAX_SEED
    if (known.get("seed"), len(known.get("returns", ()))) == (seed, episodes):
        return
    policy = load(folder_of(out, cell) / "policy", config.device, config.verify).policy(task.name, config.temperature, seed=config.seed)
    row = summarise(task, rollout(policy, task, episodes, seed, min(episodes, 50), limits=config.limits))
    cell[name] = {"seed": seed} | {kept: row[kept] for kept in ("failed", "mean", "score", "success", "returns")}
    write_json(folder_of(out, cell) / "result.json", cell)


def contenders(task: TaskSpec, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells of one series that may be the best: less than two standard errors of the difference below the highest mean, of those
    that succeed.

    None where that settles it: a single one, or several that differ by no more than does not count.
    """
    cells = succeeding(cells, "validation")
    if len(cells) < 2:
        return []
    margin = _margin(task)
    means, errors = zip(*(_mean_and_error(cell["validation"]["returns"]) for cell in cells), strict=True)
    top = int(np.argmax(means))
    reach = [2 * math.hypot(errors[top], error) for error in errors]
    found = [i for i in range(len(cells)) if means[i] >= means[top] - max(reach[i], margin)]
    is_settled = all(means[top] - means[i] + reach[i] <= margin for i in found if i != top)
    return [] if is_settled else [cells[i] for i in found]


def succeeding(cells: Sequence[dict[str, Any]], played: str) -> list[dict[str, Any]]:
    """The cells that succeed as often as the best of them, or less often by under two standard errors of the difference; all of them
    where success is not known.

    A policy that never does what is asked may have the highest return: doing nothing costs little.
    """
    if len(cells) < 2 or any(cell[played].get("success") is None for cell in cells):
        return list(cells)
    shares = [(cell[played]["success"], len(cell[played]["returns"])) for cell in cells]
    # two episodes more, one of them a success: so that a share of 0 or 1 has an error, too
    odds = [((share * n + 1) / (n + 2), n + 2) for share, n in shares]
    errors = [math.sqrt(p * (1 - p) / n) for p, n in odds]
    top = max(range(len(cells)), key=lambda i: shares[i][0])
    return [cell for i, cell in enumerate(cells) if shares[i][0] >= shares[top][0] - 2 * math.hypot(errors[i], errors[top])]


def _mean_and_error(returns: Sequence[float | None]) -> tuple[float, float]:
    known = np.array([r for r in returns if r is not None])
    return float(known.mean()), float(known.std() / math.sqrt(len(known)))


def _margin(task: TaskSpec) -> float:
    is_scored = score_scale(task.random_return, task.expert_return) is None
    return CLOSE * (task.expert_return - task.random_return) if is_scored else 0.0  # type: ignore[operator]


def best_of(task: TaskSpec, saved: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The cell with the highest mean return on the starts of the choice, of those that succeed; among those that are as good the simplest.

    In a series that was not settled at once it is one of those that played on. One that another made settled has none, though a
    run-off of before may be kept with some of its cells.
    """
    if len(saved) == 1:
        return saved[0]
    if len(series := dict.fromkeys(cell["series"] for cell in saved)) > 1:
        return _highest(task, [best_of(task, [c for c in saved if c["series"] == number]) for number in series])
    return _highest(task, contenders(task, saved) or saved)


def _highest(task: TaskSpec, saved: Sequence[dict[str, Any]]) -> dict[str, Any]:
    played = "run_off" if all("run_off" in cell for cell in saved) else "validation"
    saved = succeeding(saved, played)
    means = [cell[played]["mean"] for cell in saved]
    good = [i for i, mean in enumerate(means) if mean >= max(means) - _margin(task)]
    return saved[min(good, key=lambda i: (SIMPLEST_FIRST.index(saved[i]["mode"]), -means[i], saved[i]["series"]))]


def best_cells(task: TaskSpec, saved: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A cell of mode `best` for every number of demonstrations and series that has a choice: `taken`, and the figure of what was taken."""
    found = []
    for place in dict.fromkeys((cell["episodes"], cell["series"]) for cell in saved):
        group = [cell for cell in saved if (cell["episodes"], cell["series"]) == place]
        if len(group) > 1:
            taken = best_of(task, group)
            figures = {"chosen by validation": taken["figures"][saved_figure(taken)]}
            found.append({"mode": "best", "episodes": place[0], "series": place[1], "taken": taken["mode"], "figures": figures})
    return found


def policy_to_take(
    out: Path, task: TaskSpec, saved: Sequence[dict[str, Any]], config: FewShotConfig, judged: dict[str, int] | None
) -> dict[str, Any] | None:
    """The best policy of the most demonstrations, copied into `OUT/best`; `None` where no cell left one behind.

    **Arguments:** `judged`: how many of the demonstrations succeeded by their own flags.

    **Returns:** `folder`, `cell` (where it comes from), `mode`, `episodes`, `series`, `figure`, its `row`, `why`, `candidates`,
    `python`, `command` and `serve`. `OUT/best/choice.json` holds the same but for what runs it.
    """
    if not saved:
        return None
    most = max(cell["episodes"] for cell in saved)
    among = [cell for cell in saved if cell["episodes"] == most]
    cell = best_of(task, among)
    folder = out / "best"
    candidates = [
        {"cell": str(folder_of(out, c)), "mode": c["mode"], "series": c["series"]}
        | {name: c.get("run_off", c["validation"])[name] for name in ("mean", "score", "success") if "validation" in c}
        for c in among
    ]  # fmt: skip
    why = "the only saved policy of as many demonstrations"
    if len(among) > 1:
        why = (
            f"the highest mean return of {len(among)} saved policies in {config.validation} episodes each, from the same starts, none of "
            f"which a figure above is measured on, and in {RUN_OFF * config.validation} more where these do not settle it; where a point "
            "of the score or less lies between them, the simpler one"
        )
        if cell.get("run_off", cell["validation"])["success"] is not None:
            why += "; one that succeeds clearly less often than another is left out"
    row = cell["figures"][saved_figure(cell)]
    choice = {
        "cell": str(folder_of(out, cell)), "mode": cell["mode"], "episodes": most, "series": cell["series"], "task": task.name,
        "figure": saved_figure(cell), "why": why, "candidates": candidates,
        "row": {name: value for name, value in row.items() if name != "returns"}, "doubt": _doubt(task, row, judged),
    }  # fmt: skip
    _copy(folder_of(out, cell) / "policy", folder, choice)
    return choice | {"folder": str(folder)} | _lines(folder, task, config)


def _doubt(task: TaskSpec, row: dict[str, Any], judged: dict[str, int] | None) -> str | None:
    """Why a policy may be worth nothing, though it is the best there is, and what to do; `None` where it is worth something."""
    more = "so these demonstrations were not enough; record more, from more starts, or see what a film of it does"
    if row["success"] == 0:
        found = f"it did not succeed once in {row['episodes']} episodes"
        if judged is not None and not judged["succeeded"]:
            return f"{found}, and none of {judged['judged']} demonstrations did; see whether success is told as meant, and what they show"
        return f"{found}, {more}"
    is_told = row["success"] is not None or score_scale(task.random_return, task.expert_return) is None
    if row["random"] is not None and not is_told:
        return (
            "neither success nor the return tells the demonstrations from random play, so nothing here says which policy is good; "
            "say what success is (--success), or give the environment rewards"
        )
    # of a single episode the interval is NaN, in a cell that was read none: it says nothing
    if row["random"] is not None and row["low"] is not None and row["low"] <= row["random"]:
        returns = f"{row['mean']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"
        return f"its return of {returns} is not told apart from random play's, {row['random']:.4g}, {more}"
    return None


def _copy(policy: Path, folder: Path, choice: dict[str, Any]) -> None:
    """Puts a copy of a policy's folder in place of what an earlier run left."""
    whole = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(policy, whole)
    write_json(whole / "choice.json", choice)
    shutil.rmtree(folder, ignore_errors=True)
    whole.replace(folder)


def _lines(folder: Path, task: TaskSpec, config: FewShotConfig) -> dict[str, str]:
    """What runs a policy, in Python and as commands, within the limits of the run."""
    limits: EpisodeLimits = config.limits
    temperature, steps, seed = config.temperature, limits.episode_steps, (OTHER_STARTS + config.seed) % MAX_SEED
    said = "" if temperature is None else f", temperature={temperature:g}"
    option = "" if temperature is None else f" --temperature {temperature:g}"
    option += "" if steps is None else f" --episode_steps {steps}"
    limit = "" if steps is None else f", episode_steps={steps}"
    python = LOOP.format(folder=str(folder), task=task.name, temperature=said, episodes=config.rollouts, seed=seed, steps=limit)
    command = f"gato eval {folder} --tasks {task.name} --episodes {config.rollouts} --seed {seed}{option}"
    return {"python": python, "command": command, "serve": f"gato serve {folder} --task {task.name}"}


def choice_lines(take: dict[str, Any] | None) -> list[str]:
    """What a run says at its end."""
    if take is None:
        return ["no policy was saved: prompts leave none behind; add a mode such as full, retrieve or clone"]
    count = take["episodes"]
    head = f"take {take['mode']} from {count} demonstration{'s' * (count > 1)} ({take['figure']}, series {take['series']})"
    lines = [f"{head}: {take['folder']}", f"  why: {take['why']}"]
    if doubt := take.get("doubt"):
        lines.append(f"  but: {doubt}")
    return [*lines, "", take["python"], "", take["command"], take["serve"]]
