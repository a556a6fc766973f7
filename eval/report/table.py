"""The results of `gato eval` as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gato.disk import spanned
from gato.eval.words.captioning import retrieval_lines, wording_lines

_SOURCES = {"jat": "JAT", "d4rl": "D4RL", "human": "the human player"}


def score_table(results: dict[str, Any]) -> str:
    """The results as text: the table, families, the comparison, captions and continuations."""
    lines = [f"{'task':38}{'random':>9}{'expert':>9}{'ours':>9}  {'95 % interval':20}{'score':>7}  {'95 % interval':>16}{'success':>9}"]
    for row in results["tasks"]:
        lines += _task_lines(row)
    lines += [line for name, found in results.get("targets", {}).items() for line in _target_lines(name, found)]
    lines += [f"{error['task']:38} not played: {error['error']}" for error in results.get("errors", ())]
    lines += _family_lines(results.get("families", [])) + _comparison_lines(results.get("against"))
    for part in results["captions"]:
        lines.append("")
        lines += retrieval_lines(part)
        lines += wording_lines(part)
        lines += [f"  {e['caption'] or '(nothing)':40} | {e['title']}" for e in part["examples"]]
    for row in results.get("bits_per_byte", []):
        found = row["bits_per_byte"]
        lines += ["", f"{row['store']}: {found['mean']:.3f} {spanned(found['low'], found['high'], '.3f')} bits per byte "
                  f"over {row['documents']} documents, {row['bytes']:,} bytes"]  # fmt: skip
    for text in results["text"]:
        lines += ["", f"{text['prompt']}|{text['continuation']}"]
    if results.get("weights") == "averages":
        lines += ["", "with the averages of the weights over the updates (optim.ema)"]
    return "\n".join(lines)


def _task_lines(row: dict[str, Any]) -> list[str]:
    name = f"  {row['ablation']}" if row["ablation"] else row["task"]
    interval = spanned(row["low"], row["high"], ".4g")
    score, span = ("", "") if row["score"] is None else (f"{row['score']:.1f}", spanned(row["score_low"], row["score_high"], ".1f"))
    reference = ["" if row[k] is None else f"{row[k]:.4g}" for k in ("random", "expert")]
    success = "" if row["success"] is None else f"{row['success']:.0%}"
    line = f"{name:38}{reference[0]:>9}{reference[1]:>9}{row['mean']:>9.4g}  {interval:20}{score:>7}  {span:>16}{success:>9}"
    return [line, *(f"  {note}" for note in task_notes(row))]


def _target_lines(task: str, found: dict[str, Any]) -> list[str]:
    rank = found["spearman"]
    said = "all the same" if rank is None else f"rank correlation of asked and achieved {rank:.2f}"
    return [f"{task}: {said} over {len(found['points'])} target returns; {found.get('plot') or found['no_plot']}"]


def task_notes(row: dict[str, Any]) -> list[str]:
    """What must be known beside a task's numbers: failures, values out of range, missed deadlines, other scales."""
    notes = []
    if row.get("target_return") is not None and not row["ablation"]:
        notes.append(f"asked for a return of {row['target_return']:g}")
    if row["failed"]:
        notes.append(
            f"{row['failed']} of {row['episodes']} episodes failed and count as the random return; the first: {row['first_failure']}"
        )
    if row.get("cut"):
        whom = f"{row['cut']} of {row['episodes']} episodes"
        notes.append(f"{whom} did not end within {row['cut_at']:,} timesteps and were truncated there (--episode_steps)")
    notes += [f"no {what}: {reason}" for what, reason in row.get("not_filmed", {}).items()]
    if row["out_of_bounds"]:
        notes.append(f"{row['out_of_bounds']:,} observed values lay outside their declared range; they were kept")
    if found := row.get("deadlines"):
        took = f"a step took {1e3 * found['p50']:.1f} ms, p99 {1e3 * found['p99']:.1f} ms"
        late = f"the worst by {1e3 * found['worst_lateness']:.1f} ms; " if found["missed"] else ""
        notes.append(f"{found['rate']:g} Hz: {found['missed']:,} of {found['steps']:,} deadlines missed; {late}{took}")
    for source, found in row["published"].items():
        notes.append(f"by the returns that {_SOURCES.get(source, source)} published: {_spanned(found['score'], found)}")
    if row["unscored"]:
        notes.append(f"no score: {row['unscored']}")
    return notes


def _spanned(value: float, found: dict[str, Any]) -> str:
    return f"{value:.1f} {spanned(found['low'], found['high'], '.1f')}".rstrip()


def tasks_of(row: dict[str, Any]) -> str:
    """How many tasks of a family were played, of those that the registry has; one's own are of no registry."""
    return f"{row['tasks']} of {row['registered']}" if row["registered"] >= row["tasks"] else str(row["tasks"])


def _family_lines(families: Sequence[dict[str, Any]]) -> list[str]:
    if not families:
        return []
    above = "".join(f"{'>' + str(x) + '%':>6}" for x in families[0]["above"])
    lines = ["", "interquartile mean of the scores, success over all episodes, and how many tasks exceed x % of the expert"]
    lines.append(f"{'family':20}{'tasks':>10}{'scored':>8}{'IQM':>8}  {'95 % interval':>16}{'success':>9}  {'95 % interval':>14}{above}")
    published: list[str] = []
    for row in families:
        iqm, span = ("", "") if row["iqm"] is None else (f"{row['iqm']:.1f}", spanned(row["low"], row["high"], ".1f"))
        success, share = "", ""
        if row["success"] is not None:
            success, share = f"{row['success']:.0%}", f"[{row['success_low']:.0%}, {row['success_high']:.0%}]"
        counts = "".join(f"{count:>6}" for count in row["above"].values())
        tasks = tasks_of(row)
        for source, found in row.get("published", {}).items():
            what = f"{row['family']}, {found['tasks']} tasks by the returns that {_SOURCES.get(source, source)} published"
            published.append(f"  {what}: {_spanned(found['iqm'], found)}")
        lines.append(f"{row['family']:20}{tasks:>10}{row['scored']:>8}{iqm:>8}  {span:>16}{success:>9}  {share:>14}{counts}")
    return lines + published


def _comparison_lines(against: dict[str, Any] | None) -> list[str]:
    if against is None:
        return []
    lines = ["", f"minus {against['checkpoint']}, on the same episodes"]
    lines.append(f"{'task':38}{'pairs':>6}{'return':>10}  {'95 % interval':20}{'score':>8}  {'95 % interval':>16}")
    for row in against["tasks"]:
        interval = spanned(row["low"], row["high"], "+.4g")
        score, span = ("", "") if row["score"] is None else (f"{row['score']:+.1f}", spanned(row["score_low"], row["score_high"], "+.1f"))
        lines.append(f"{row['task']:38}{row['pairs']:>6}{row['difference']:>+10.4g}  {interval:20}{score:>8}  {span:>16}")
    return lines
