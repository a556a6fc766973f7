"""What many episodes come to: a row per task, a row per family, and the difference between two agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gato import envs
from gato.spec import TaskSpec

from .rollout import EpisodeResult
from .score import interquartile_mean, mean_interval, normalised_score, score_scale, success_interval

EXCEEDED = (10, 25, 50, 75, 90, 100)  # per cent of the expert: the paper's figure counts the tasks above each


def summarise(task: TaskSpec, results: Sequence[EpisodeResult], ablation: str | None = None) -> dict[str, Any]:
    """A row of the score table. Failed episodes are counted, and count as the random return where that is known.

    **Raises:** `ValueError` where all have failed: what is left says nothing of the policy.

    **Returns:** also `returns`, one per episode in the order of their seeds (`None`: failed, and counted nowhere), `published`: the score
    on the scale of each source of published returns, and `unscored`: why there is no normalised score, or `None`.
    """
    failed = [r for r in results if r.failed]
    each = [r.total_reward if not r.failed else task.random_return for r in results]
    returns = np.array([r for r in each if r is not None])
    if len(failed) == len(results):
        raise ValueError(f"all {len(results)} episodes failed; the first: {failed[0].failed}")
    mean, low, high = mean_interval(returns)
    row: dict[str, Any] = {
        "task": task.name, "ablation": ablation, "episodes": len(results), "failed": len(failed),
        "random": task.random_return, "expert": task.expert_return, "mean": mean, "low": low, "high": high,
        "score": None, "score_low": None, "score_high": None, "unscored": score_scale(task.random_return, task.expert_return),
    }  # fmt: skip
    if row["unscored"] is None:
        scores = normalised_score(np.array([mean, low, high]), task.random_return, task.expert_return)
        row |= dict(zip(("score", "score_low", "score_high"), map(float, scores), strict=True))
    row["published"] = {
        source: dict(zip(("score", "low", "high"), map(float, normalised_score([mean, low, high], *references)), strict=True))
        for source, references in _published(task.name).items()
    }
    row |= {"success": None, "success_low": None, "success_high": None}
    if (flags := judged([r.success for r in results])) is not None:
        count = sum(flags)
        row["success"] = count / len(results)
        row["success_low"], row["success_high"] = success_interval(count, len(results))
    wrong = [r.wrong_object for r in results if r.wrong_object is not None]
    row["wrong_object"] = float(np.mean(wrong)) if wrong else None
    row["first_failure"] = failed[0].failed if failed else None
    row["cut"] = sum(r.is_cut for r in results)
    row["cut_at"] = max((r.num_timesteps for r in results if r.is_cut), default=None)
    row["out_of_bounds"] = sum(r.out_of_bounds for r in results)
    row["length"] = float(np.mean([r.num_timesteps for r in results]))
    row["returns"] = each
    return row


def judged(flags: Sequence[bool | None]) -> list[bool] | None:
    """Whether each episode succeeded, `None` where success is not defined: a failed one is no success, but says nothing of that."""
    return [bool(flag) for flag in flags] if any(flag is not None for flag in flags) else None


def _published(task: str) -> dict[str, tuple[float, float]]:
    """Who published both returns of a task, and these: `{"jat": (random, expert)}`; the expert of "human" is a person."""
    values = envs.published(task)
    sources = {name.rpartition("_")[0] for name in values}
    found = {}
    for source in sorted(sources):
        prefix = f"{source}_" if source else ""
        best = "expert" if f"{prefix}expert" in values else "human"
        if f"{prefix}random" in values and f"{prefix}{best}" in values:
            found[source or best] = (float(values[f"{prefix}random"]), float(values[f"{prefix}{best}"]))
    return found


def summarise_families(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per family and, where there are several, one for all: what its tasks come to.

    **Arguments:** `rows`: of `summarise`; ablations are passed over.

    **Returns:** `family`, `tasks`, `scored` (tasks with a normalised score), `registered` (tasks the registry has of
    it), interquartile mean of the scores (`iqm`, `low`, `high`), the same on published scales (`published`), `success` over
    all episodes with Wilson's interval, and `above`: how many of the scored tasks exceed each of `EXCEEDED` per cent of the expert.
    """
    rows = [row for row in rows if not row["ablation"]]
    families = {name: [r for r in rows if r["task"].split("/")[0] == name] for name in sorted({r["task"].split("/")[0] for r in rows})}
    registered = {name: sum(task.split("/")[0] == name for task in envs.tasks()) for name in families}
    if len(families) > 1:
        families["all"], registered["all"] = rows, sum(registered.values())
    return [{"family": name, "registered": registered[name], **_summarise_family(part)} for name, part in families.items()]


def _summarise_family(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    scored = [r for r in rows if r["score"] is not None]
    found: dict[str, Any] = {"tasks": len(rows), "scored": len(scored), "iqm": None, "low": None, "high": None}
    if scored:
        samples = [normalised_score([x for x in r["returns"] if x is not None], r["random"], r["expert"]) for r in scored]
        found |= dict(zip(("iqm", "low", "high"), interquartile_mean(samples), strict=True))
    found["published"] = {}
    for source in sorted({source for r in rows for source in r["published"]}):
        theirs = [r for r in rows if source in r["published"]]
        samples = [normalised_score([x for x in r["returns"] if x is not None], *_published(r["task"])[source]) for r in theirs]
        values = dict(zip(("iqm", "low", "high"), interquartile_mean(samples), strict=True))
        found["published"][source] = {"tasks": len(theirs), **values}
    found |= {"success": None, "success_low": None, "success_high": None}
    judged = [r for r in rows if r["success"] is not None]
    if judged:
        episodes = sum(r["episodes"] for r in judged)
        successes = sum(round(r["success"] * r["episodes"]) for r in judged)
        found["success"] = successes / episodes
        found["success_low"], found["success_high"] = success_interval(successes, episodes)
    found["above"] = {str(x): sum(r["score"] > x for r in scored) for x in EXCEEDED}
    return found


def paired_comparison(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Differences of returns between two agents that played the same episodes, ours minus theirs, task by task.

    The seeds fix how each episode starts, so what is resampled are the differences of pairs: luck of the start
    cancels out.

    **Returns:** `task`, `pairs`, mean `difference` with its bootstrap interval, and the same on the scale of scores
    where the task has one. Pairs with a failed episode of no known return are left out.
    """
    found = []
    others = {row["task"]: row for row in theirs if not row["ablation"]}
    for row in ours:
        if row["ablation"] or row["task"] not in others:
            continue
        pairs = [(a, b) for a, b in zip(row["returns"], others[row["task"]]["returns"], strict=True) if a is not None and b is not None]
        if not pairs:
            continue
        difference = mean_interval([a - b for a, b in pairs])
        scale = None if row["score"] is None else 100 / (row["expert"] - row["random"])
        scores = [None if scale is None else scale * d for d in difference]
        found.append(
            {"task": row["task"], "pairs": len(pairs)}
            | dict(zip(("difference", "low", "high"), difference, strict=True))
            | dict(zip(("score", "score_low", "score_high"), scores, strict=True))
        )
    return found
