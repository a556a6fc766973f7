"""The cells of `gato finetune` as rows with intervals, and the rows as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gato.disk import spanned
from gato.eval.fewshot_choice import RUN_OFF, choice_lines
from gato.eval.score import nested_interval, normalised_score, score_scale
from gato.spec import TaskSpec
from gato.train.protocol import MODES

LAYOUT = {
    "gato": "every number has a position, as in the paper",
    "compact": "the numbers of a field share a position, and so do all actions",
}
MEANING = {  # of the modes, as few words as will do; docs/finetuning.md has more
    "zero": "the checkpoint as it is, shown nothing",
    "brief": "all weights of the checkpoint trained, for a tenth of the updates of full",
    "full": "all weights of the checkpoint trained",
    "lora": "adapters beside the checkpoint's matrices trained",
    "frozen": "the checkpoint's embeddings trained, its layers as they are",
    "scratch": "new weights of that architecture",
    "prompt": "the checkpoint as it is, with demonstrations as prompts",
    "retrieve": "the action of the nearest demonstrated timestep",
    "knn": "the mean action of the five nearest ones",
    "lwr": "a line through the actions of the 64 around",
    "darp": "a network of the difference to a near one",
    "clone": "a plain network, two hidden layers",
    "keypoints": "a plain network that sees where things are in a picture",
    "embed": "a TecNet, shown the demonstrations",
    "adapt": "MIL, a gradient step on them",
}
SMOOTHED = 5  # evaluations in the paper's moving average


def summarise_cells(task: TaskSpec, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per mode, figure and number of demonstrations, over all series.

    **Returns:** `label` (mode and figure), `mode`, `figure`, `episodes`, `series` (how many), `mean`, `low` and `high`: the
    normalised score with its interval over series and episodes (`None` for a single episode), or the return where the task has no score;
    `success`: the share of the episodes, where it is known.
    """
    is_scored = score_scale(task.random_return, task.expert_return) is None
    groups: dict[tuple[str, str, int], list[np.ndarray]] = {}
    successes: dict[tuple[str, str, int], list[float | None]] = {}
    for cell in cells:
        for figure, row in cell["figures"].items():
            returns = [r for r in row["returns"] if r is not None]
            found = normalised_score(returns, task.random_return, task.expert_return) if is_scored else np.asarray(returns)
            key = cell["mode"], figure, cell["episodes"]
            groups.setdefault(key, []).append(found)
            successes.setdefault(key, []).append(row.get("success"))
    rows = []
    for (mode, figure, episodes), values in groups.items():
        mean, low, high = nested_interval(values)
        known = [share for share in successes[mode, figure, episodes] if share is not None]
        label = f"{mode}, {figure}" if mode in MODES else mode
        rows.append(
            {
                "label": label,
                "mode": mode,
                "figure": figure,
                "episodes": episodes,
                "series": len(values),
                "mean": mean,
                "low": low if np.isfinite(low) else None,
                "high": high if np.isfinite(high) else None,
                "success": float(np.mean(known)) if len(known) == len(values) else None,
            }
        )
    return rows


def few_shot_table(results: dict[str, Any]) -> str:
    """The table as text: a line per mode and figure, a column per number of demonstrations."""
    rows, scored = results["rows"], results["unscored"] is None
    counts = sorted({r["episodes"] for r in rows})
    what = f"score (0: random {results['random']:.4g}, 100: expert {results['expert']:.4g})" if scored else "return"
    training = results["training"]
    size = f"about {training['timesteps']} timesteps" if training.get("timesteps") else f"{training['batch_size']} rows"
    more = " and more while the held-out loss falls" if training.get("rounds") and results["held_out"] else ""
    begun = f"from {results['checkpoint']}" if results["checkpoint"] else "without a checkpoint"
    lines = [
        f"{results['task']} {begun}{', which was trained on it' if results['seen'] else ''}: {what}, "
        f"95 % interval over {results['series']} series x {results['rollouts']} episodes",
        f"{results['protocol']} protocol: {training['steps']} updates{more} of {size}; "
        f"{drawn_from(results['pool'], results['held_out'], results['left_out'])}",
    ]
    if sibling := results["sibling"]:
        unseen = "" if sibling["seen"] else ", which this checkpoint was not trained on either"
        lines.append(f"the registry holds the task out of pretraining; its nearest trained sibling is {sibling['task']}{unseen}")
    if layout := results["layout"]:
        lines.append(f"layout {layout}: {LAYOUT[layout]}; {_memory_line(results['memory'])}")
    if (chunk := results.get("chunk", 1)) > 1:
        lines.append(f"chunks of {chunk} actions (--chunk)")
    if (size := results.get("pooled", 1)) > 1 and any(r["mode"] == "scratch" for r in rows):
        lines.append(f"scratch: blocks of {size} x {size} patches of a picture share a position")
    lines += origin_lines(results["origins"])
    if unfinished := results.get("unfinished"):
        lines.append(f"the store holds {unfinished}")
    if judged := results["succeeded"]:
        lines.append(f"by their own flags {judged['succeeded']} of {judged['judged']} demonstrations succeeded")
    if results["contradictions"]:
        lines.append(
            f"of {results['timesteps']:,} timesteps {results['contradictions']:,} show exactly what another one shows, with another action"
        )
    lines += [] if scored else [f"no score: {results['unscored']}"]
    lines += [f"the {name} return: {where}" for name, where in results["references"].items() if where != "registry"]
    lines += ["", f"{'demonstrations':32}" + "".join(f"{c:>28}" for c in counts)]
    for label in labels(rows):
        found = {r["episodes"]: r for r in rows if r["label"] == label}
        lines.append(f"{label:32}" + "".join(f" {_cell(found.get(c)):>27}" for c in counts))
    lines += _success_lines(rows, counts)
    shown = dict.fromkeys(r["mode"] for r in rows if r["mode"] in MEANING)
    lines += ["", *(f"{mode:10}{MEANING[mode]}" for mode in shown)]
    lines += _best_lines(results)
    if failed := [row for cell in results["cells"] for row in cell["figures"].values() if row.get("failed")]:
        count, played = sum(row["failed"] for row in failed), sum(row["episodes"] for row in failed)
        lines.append(f"{count:,} of {played:,} episodes failed and count as the random return; the first: {failed[0]['first_failure']}")
    if cut := [row for cell in results["cells"] for row in cell["figures"].values() if row.get("cut")]:
        count = sum(row["cut"] for row in cut)
        lines.append(f"{count:,} episodes did not end within {cut[0]['cut_at']:,} timesteps and were truncated there (--episode_steps)")
    if any("maximum" in r["figure"] for r in rows):
        lines += [
            "",
            f"The paper's maximum is the best of noisy evaluations (moving average of {SMOOTHED}) and flatters; compare last steps.",
        ]
    if results["series"] == 1:
        lines.append("One series: the intervals say nothing of other demonstrations and training seeds.")
    return "\n".join([*lines, "", *choice_lines(results["take"])])


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['mean']:.1f} {spanned(row['low'], row['high'], '.1f')}".rstrip()


def drawn_from(pool: int, held_out: int, left_out: int) -> str:
    """How many demonstrations there are, and why there are fewer to learn from."""
    kept = f", of which {held_out} held out, to see when to stop (--held_out 0: none), so {pool} to learn from" if held_out else ""
    return f"{pool + held_out} demonstrations{kept}; {left_out} left out"


def _memory_line(memory: int) -> str:
    if memory == 1:
        return "memory 1: it is trained and acts on the present timestep alone (--memory)"
    seen = f"the last {memory} timesteps" if memory else "as many timesteps as its context holds"
    return f"memory {memory}: it is trained and acts on {seen} (--memory)"


def _best_lines(results: dict[str, Any]) -> list[str]:
    """Which mode stands behind every figure of `best`, and how it was chosen."""
    if not results["best"]:
        return []
    taken = [f"{cell['taken']} of {cell['episodes']} demonstrations in series {cell['series']}" for cell in results["best"]]
    return [
        "",
        f"best: every saved policy also played {results['validation']} episodes from starts that no figure above is measured on, "
        f"and {RUN_OFF * results['validation']} more where these do not settle it; this row is the policy with the highest mean return "
        f"there of those that do not succeed clearly less often than another, or the simplest within a point of it: {', '.join(taken)}",
    ]


def _success_lines(rows: Sequence[dict[str, Any]], counts: Sequence[int]) -> list[str]:
    """A second table: the share of successful episodes, where it is known."""
    if all(r["success"] is None for r in rows):
        return []
    lines = ["", f"{'success':32}" + "".join(f"{c:>28}" for c in counts)]
    for label in labels(rows):
        found = {r["episodes"]: r["success"] for r in rows if r["label"] == label and r["success"] is not None}
        if found:
            lines.append(f"{label:32}" + "".join(f"{f'{found[c]:.0%}' if c in found else '':>28}" for c in counts))
    return lines


def origin_lines(origins: Mapping[str, Sequence[float]]) -> list[str]:
    """What was inferred of the demonstrations' observations."""
    return [
        f"observation '{name}' lies where bins are coarse; each policy measures it from its own demonstrations' medians, here "
        + ", ".join(f"{x:g}" for x in origin)
        for name, origin in origins.items()
    ]


def labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(r["label"] for r in rows))
