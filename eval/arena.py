"""`gato arena`: several checkpoints, and what needs none, on the same tasks, demonstrations and starts.

A cell is a checkpoint (or a way to learn from the demonstrations alone), a task or set of tasks, and a number of demonstrations.
Checkpoints of one label, `LABEL=FOLDER`, are seeds of one system and share a line. A finished cell is a file, which a later run reads:

    OUT/cells/KEY.json       one cell; KEY follows from the weights and all that decides what is measured
    OUT/arena.json, .html    the lines of all cells, and the page
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gato import envs
from gato.agent import Agent, load
from gato.disk import make_folder, refusal, write_json
from gato.envs.recording import episode_seed
from gato.episode import Episode
from gato.learners.folder import KINDS
from gato.learners.one_shot.agent import OneShotAgent, num_bytes
from gato.progress import Progress
from gato.spec import TaskSpec

from .insight.similar import KnownTasks, LookUp, embeds
from .recorder import weights_sha256
from .replay import film_of
from .rollout import EpisodeResult, rollout
from .score import mean_interval, nested_interval, success_interval
from .sets import Shown, shares
from .settings import ArenaConfig
from .summary import judged, summarise


class Entry(NamedTuple):
    """Who takes part: `label` as in the table, and the folder of a checkpoint; none for what learns from the demonstrations alone.

    `known`: a store, where the checkpoint only says which of its tasks are looked up there (`insight.similar.LookUp`).
    """

    label: str
    folder: Path | None = None
    known: str | None = None

    def agent(self, config: ArenaConfig) -> Any:
        """Who acts. **Raises:** `ValueError` for a checkpoint or a store that cannot be read."""
        if self.folder is None:
            return self.label
        agent = load(self.folder, config.device, config.verify)
        return agent if self.known is None else LookUp(KnownTasks(agent, self.folder), Shown(self.known))


@dataclass(frozen=True)
class Ready:
    """Who acts in one task: `act_on` what `rollout` is handed as demonstrations; `seconds` to get ready and `bytes` kept of the task."""

    policy: Any
    act_on: Sequence[Episode]
    seconds: float
    bytes: int


class Films:
    """A sink that keeps the first success and the first failure."""

    def __init__(self) -> None:
        self.kept: dict[str, Episode] = {}

    def __call__(self, episode: Episode) -> None:
        self.kept.setdefault("success" if episode.success else "failure", episode)


def entries(words: Sequence[str], baselines: Sequence[str], known: str | None = None) -> list[Entry]:
    """**Raises:** `ValueError` for a folder that is not there or named twice, and for systems of one label where nobody gave it to them."""
    found: list[Entry] = []
    given: set[Path] = set()
    for word in words:
        label, _, folder = word.rpartition("=")
        given |= {Path(folder)} if label else set()
        found.append(Entry(label or Path(folder).parent.name or folder, Path(folder)))
        if not found[-1].folder.is_dir():  # type: ignore[union-attr]
            raise ValueError(f"there is no checkpoint '{folder}'; name folders such as runs/demo/final, with a label as LABEL=FOLDER")
    folders = [entry.folder for entry in found]
    if len(set(folders)) < len(folders):
        raise ValueError("a checkpoint is named twice; name every one once")
    looked_up = [
        Entry(f"{entry.label}, looked up", entry.folder, known)
        for entry in found
        if known is not None and entry.folder is not None and embeds(entry.folder)
    ]
    everybody = found + looked_up + [Entry(name) for name in dict.fromkeys(baselines)]
    labels = [entry.label for entry in everybody]
    for entry in everybody:
        if labels.count(entry.label) > 1 and entry.known is None and entry.folder not in given:
            raise ValueError(
                f"several would be called '{entry.label}', and those of one label count as seeds of one system; name checkpoints as "
                "LABEL=FOLDER, of different labels unless that is meant"
            )
    return everybody


def arena(words: Sequence[str], config: ArenaConfig) -> dict[str, Any]:
    """Measures the cells that are not finished yet, or ended in an error that may not last. **Returns:** `lines` of the table, all `cells`.

    **Raises:** `ValueError` for a task or checkpoint that is not there. What one of them cannot do is said in its cell.
    """
    taking_part = entries(words, config.baselines, config.retrieve)
    if not taking_part:
        raise ValueError("nobody takes part; name checkpoints, or --baselines such as retrieve")
    tasks = [envs.task(name) for name in config.tasks]
    shown = {task.name: Shown(config.store or task.name) for task in tasks}
    make_folder(config.out / "cells")
    cells = []
    for entry in taking_part:
        agent: Any = None
        for task in tasks:
            for count in sorted(set(config.demonstrations)):
                made_with = _made_with(entry, task, shown[task.name], count, config)
                path = config.out / "cells" / f"{hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:16]}.json"
                if (cell := _finished(path)) is None:
                    agent = agent or entry.agent(config)
                    write_json(path, _cell(entry, agent, task, shown[task.name], count, config) | {"made_with": made_with})
                    cell = json.loads(path.read_text(encoding="utf-8"))
                cells.append(cell | {"label": entry.label, "checkpoint": str(entry.folder or "")})
    results = {"lines": lines_of(cells), "cells": cells, "settings": asdict(config)}
    write_json(config.out / "arena.json", results)
    return results


def _finished(path: Path) -> dict[str, Any] | None:
    """The cell of a file; `None` where there is none, or one with an error that may not last, as older ones do not say."""
    cell = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return None if cell is None or (cell["error"] is not None and not cell.get("lasts")) else cell


def _made_with(entry: Entry, task: TaskSpec, shown: Shown, count: int, config: ArenaConfig) -> dict[str, Any]:
    """All that decides what a cell holds, ready for JSON."""
    who = weights_sha256(entry.folder) if entry.folder else entry.label
    known: dict[str, Any] = {"known": Shown(entry.known).store.fingerprint} if entry.known else {}
    known |= {"temperature": config.temperature} if config.temperature is not None and entry.folder else {}
    return known | {
        "who": who, "task": task.to_dict(), "demonstrations": count, "store": shown.store.fingerprint,
        "episodes": config.episodes, "seed": config.seed, "films": config.films,
    }  # fmt: skip


def _cell(entry: Entry, agent: Any, task: TaskSpec, shown: Shown, count: int, config: ArenaConfig) -> dict[str, Any]:
    about = {"task": task.name, "demonstrations": count, "parameters": num_parameters(agent)}
    results: list[EpisodeResult] = []
    films, ready = Films(), []
    try:
        parts = shares(config.episodes, envs.members(task) or (task,))
        with Progress(f"{entry.label}, {count} of {task.name}", config.episodes) as progress:
            for i, (member, episodes) in enumerate(parts):
                one = made_ready(agent, member, shown.of(member.name, count), config.seed, config.temperature)
                ready.append((one.seconds, one.bytes))
                results += rollout(
                    one.policy, member, episodes, episode_seed("set", config.seed, i), min(episodes, config.num_envs),
                    demonstrations=one.act_on, sink=films if config.films else None, progress=progress,
                )  # fmt: skip
        row = summarise(task, results)
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        # what a policy refuses it will refuse again; a library, memory or an environment may be there the next time
        return about | {"error": refusal(error), "lasts": isinstance(error, ValueError) and not any(r.failed for r in results)}
    seconds, kept = np.mean(ready, axis=0)
    return about | {
        "error": None, "row": row, "seconds": float(seconds), "bytes": int(kept),
        "successes": [None if r.success is None else bool(r.success) for r in results],  # None: failed, or not defined
        "films": {how: _film(episode) for how, episode in films.kept.items()},
    }  # fmt: skip


def made_ready(agent: Any, task: TaskSpec, demonstrations: Sequence[Episode], seed: int, temperature: float | None = None) -> Ready:
    """**Arguments:** `agent`: of a checkpoint, or the name of what learns from the demonstrations alone; `temperature`: of a Gato.

    **Raises:** `ValueError` for a task that it cannot take.
    """
    started = time.monotonic()
    if isinstance(agent, str | LookUp):
        alone = agent.policy(task, demonstrations) if isinstance(agent, LookUp) else KINDS[agent].of(task, demonstrations, (), seed)
        size = sum(tensor.numel() * tensor.element_size() for tensor in alone.tensors().values())
        return Ready(alone, (), time.monotonic() - started, size)
    if isinstance(agent, OneShotAgent):
        told = agent.policy(task, demonstrations=demonstrations)
        return Ready(told, (), time.monotonic() - started, num_bytes(told.kept or {}))
    policy = agent.policy(task, temperature=temperature, seed=seed) if isinstance(agent, Agent) else agent.policy(task)
    return Ready(policy, demonstrations if isinstance(agent, Agent) else (), time.monotonic() - started, 0)


def num_parameters(agent: Any) -> int:
    """Of a checkpoint's model; 0 for what has none before it has learned."""
    agent = agent.known.agent if isinstance(agent, LookUp) else agent
    return 0 if isinstance(agent, str) else sum(p.numel() for p in agent.model.parameters())


def _film(episode: Episode) -> str | None:
    """A strip as a base64 PNG; `None` where the environment does not draw."""
    assert episode.seed is not None
    try:
        return film_of(episode.task, episode.seed, dict(episode.actions))
    except Exception:  # whatever an environment may raise that cannot draw: the figures stand
        return None


def lines_of(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line per label, task and number of demonstrations, over all checkpoints of that label.

    `success` and `score` have 95 % intervals: over seeds and episodes where there are several, else over episodes.
    """
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["task"], cell["label"], cell["demonstrations"]), []).append(cell)
    found = []
    for (task, label, count), group in groups.items():
        played = [cell for cell in group if cell["error"] is None]
        line: dict[str, Any] = {"task": task, "label": label, "demonstrations": count, "seeds": len(played)}
        line["error"] = next((cell["error"] for cell in group if cell["error"]), None)
        if played:
            line |= _figures(played)
        found.append(line)
    return sorted(found, key=lambda line: (line["task"], line["demonstrations"], -(line.get("success") or 0)))


def _figures(played: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = [cell["row"] for cell in played]
    figures: dict[str, Any] = {
        "episodes": sum(row["episodes"] for row in rows), "wrong_object": _mean([row["wrong_object"] for row in rows]),
        "seconds": _mean([cell["seconds"] for cell in played]), "bytes": played[0]["bytes"], "parameters": played[0]["parameters"],
    }  # fmt: skip
    returns = [[x for x in row["returns"] if x is not None] for row in rows]
    mean, low, high = nested_interval(returns)
    figures |= {"mean": mean, "low": low, "high": high, "score": _mean([row["score"] for row in rows])}
    successes = [[float(s) for s in flags] for cell in played if (flags := judged(cell["successes"])) is not None]
    if len(successes) == len(played):
        interval = _success(successes)
        figures |= dict(zip(("success", "success_low", "success_high"), interval, strict=True))
    return figures


def _success(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    if len(groups) > 1:
        return nested_interval(groups)
    (one,) = groups
    return (mean_interval(one)[0], *success_interval(int(sum(one)), len(one)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def table(results: dict[str, Any], rows: Callable[[Sequence[dict[str, Any]]], str]) -> str:
    """The lines as text, and why some are missing; `rows`: prints rows of equal keys."""
    lines = [
        {
            "task": line["task"], "shown": line["demonstrations"], "who": line["label"], "seeds": line["seeds"],
            "success": percent(line, "success"), "wrong object": percent(line, "wrong_object"),
            "score": "" if line.get("score") is None else f"{line['score']:.1f}",
            "s to adapt": "" if line.get("seconds") is None else f"{line['seconds']:.3g}",
            "bytes a task": f"{line.get('bytes', 0):,}", "parameters": f"{line.get('parameters', 0):,}",
        }
        for line in results["lines"]
    ]  # fmt: skip
    why = [f"{line['label']}, {line['task']}: {line['error']}" for line in results["lines"] if line["error"]]
    return "\n".join([rows(lines), *why])


def percent(line: dict[str, Any], name: str) -> str:
    """`81 % [75, 86]`; without the interval where there is none."""
    if line.get(name) is None:
        return ""
    low, high = (line.get(f"{name}_{end}") for end in ("low", "high"))
    return f"{100 * line[name]:.1f} %" + ("" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]")
