"""`gato finetune`: how well an agent does a task it never saw, over the number of demonstrations, beside what needs no pretraining.

The grid is mode x demonstrations x series. A series is an order in which the demonstrations are drawn, so that 1, 10 and 100
of them are nested; it also seeds the training. A finished cell is a `result.json`, which a later run reads:

    OUT/settings.json                  what every cell was made with
    OUT/cells/full-10-0/               mode, demonstrations, series: result.json, metrics.jsonl, demonstrations/, policy/
    OUT/best/                          a copy of the policy to take, and in choice.json why
    OUT/fewshot.json, .md, .svg        the table, the same as text, the curve
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gato import envs
from gato.agent import Agent, load
from gato.data.store import StoreWriter
from gato.description import check_gato, learner_of
from gato.device import pick_device
from gato.disk import make_folder, write_json, write_text
from gato.envs.stream import EPISODE_SECONDS
from gato.episode import Episode
from gato.eval.report.chart import score_curves
from gato.eval.report.fewshot_table import SMOOTHED, few_shot_table, labels, summarise_cells
from gato.learners.contradictions import contradictions
from gato.learners.folder import learned
from gato.learners.one_shot.agent import OneShotAgent
from gato.lock import FolderLock
from gato.policy import GatoPolicy, Policy
from gato.spec import Modality, TaskSpec
from gato.train.finetune import finetune, merged, tokenizer_of
from gato.train.protocol import MODES
from gato.train.untrained import ARCHITECTURE, untrained

from .demonstrations import Demonstrations, check_fits, fitted, known, measured_by, open_demonstrations, with_memory, with_returns
from .fewshot_choice import best_cells, folder_of, policy_to_take, validate
from .fewshot_shown import LEARNER_OF, shown_agents, shown_cell
from .recorder import weights_sha256
from .rollout import rollout
from .score import score_scale
from .settings import AS_IT_IS, LEARNED_ALONE, NO_CHECKPOINT, SHOWN, FewShotConfig
from .summary import summarise

WITHOUT_CHECKPOINT = ("scratch", *LEARNED_ALONE)  # whose cells another checkpoint of the same architecture may share
OF_PICTURES = ("positions", "picture_positions")  # of a protocol: what changes nothing where there are none

_log = logging.getLogger(__name__)


def opened(checkpoint: Path | None, config: FewShotConfig) -> Agent:
    """The agent of a checkpoint, or one that knows nothing. **Raises:** `ValueError` for what cannot be fine-tuned, and for modes that
    begin from a checkpoint where there is none."""
    if checkpoint is None:
        if wanting := [mode for mode in config.modes if mode in (*MODES, *AS_IT_IS) and mode != "scratch"]:
            raise ValueError(f"the mode '{wanting[0]}' begins from a checkpoint, and none is named; name its folder first, or leave it out")
        return untrained(config.device)
    if learner_of(checkpoint) not in LEARNER_OF.values():
        check_gato(checkpoint, "be fine-tuned")
    return load(checkpoint, config.device, config.verify)


def kind_of(checkpoint: Path | None, agent: Any) -> str:
    """Layout or learner of a checkpoint, or that there is none: one of `MODES_OF`."""
    if checkpoint is None:
        return NO_CHECKPOINT
    return agent.learner if isinstance(agent, OneShotAgent) else agent.tokenizer.layout


def few_shot(checkpoint: Path | None, config: FewShotConfig) -> dict[str, Any]:
    """Runs the cells that are not finished yet, and writes table and curve of all.

    **Arguments:** `checkpoint`: a folder; without one the modes are those that need none, `scratch` among them.

    **Returns:** what `OUT/fewshot.json` holds: `task`, `references`, `seen` (whether the checkpoint was trained on the task),
    `sibling` (the nearest trained task where the registry holds this one out, and whether the checkpoint was trained on it),
    `rows` (see `summarise_cells`), `cells`, `best` (see `best_cells`) and `take` (see `policy_to_take`).

    **Raises:** `ValueError` for bad settings and data (see `open_demonstrations`), or if `config.out` holds cells that were
    made with other settings, or that another process is filling.
    """
    with ExitStack() as held:
        return _few_shot(None if checkpoint is None else Path(checkpoint), config, held)


def _few_shot(checkpoint: Path | None, config: FewShotConfig, held: ExitStack) -> dict[str, Any]:
    pick_device(config.device)  # before an environment is played
    demonstrations = open_demonstrations(config)
    agent = opened(checkpoint, config)
    is_shown = isinstance(agent, OneShotAgent)
    config = fitted(config, kind_of(checkpoint, agent), demonstrations, agent)
    for count in config.episodes:  # before the first cell, not after hours
        demonstrations.series(0, count)
    shown = shown_agents(checkpoint, agent, config)
    if not is_shown:
        demonstrations = with_memory(known(demonstrations, agent), agent, config.memory)
        check_modes(demonstrations.task, agent, config)
    demonstrations = with_returns(demonstrations, config)  # plays: last of all
    task = demonstrations.task
    seen = task.name in getattr(agent, "memories" if is_shown else "tasks")
    sibling = envs.held_out().get(envs.registered_name(task))
    out = _claim(checkpoint, config, demonstrations, shown, held)
    places = [(s, count, mode) for s in range(config.series) for count in sorted(set(config.episodes)) for mode in config.modes]
    cells = []
    for number, (series, count, mode) in enumerate(places, 1):
        place = f"cell {number} of {len(places)}: {mode} from {count} demonstration{'s' * (count > 1)}, series {series}"
        cells.append(_cell(shown.get(mode, agent), demonstrations, config, mode, count, series, out, place))
    saved = validate(out, task, cells, config)
    best, judged = best_cells(task, saved), demonstrations.succeeded()
    rows, most = summarise_cells(task, [*best, *cells]), demonstrations.series(0, max(config.episodes))
    take = policy_to_take(out, task, saved, config, judged)
    results = {
        "checkpoint": None if checkpoint is None else str(checkpoint), "task": task.name, "seen": seen,
        "sibling": sibling and {"task": sibling, "seen": sibling in agent.tasks},
        "random": task.random_return, "expert": task.expert_return,
        "references": demonstrations.references, "unscored": score_scale(task.random_return, task.expert_return),
        "memory": task.memory or 0, "layout": None if is_shown else agent.tokenizer.layout,
        "pooled": 1 if is_shown else tokenizer_of(agent, task, config.training, "scratch").pool_patches,
        "origins": cells[-1].get("origins", {}),
        "store": str(demonstrations.store.path), "pool": len(demonstrations.pool), "held_out": len(demonstrations.held_out),
        "left_out": demonstrations.left_out, "series": config.series, "rollouts": config.rollouts, "protocol": config.protocol,
        "training": asdict(config.training), "rows": rows, "cells": cells, "best": best, "succeeded": judged,
        "unfinished": demonstrations.store.manifest.shortfall,
        "contradictions": contradictions(task, most), "timesteps": sum(e.num_timesteps for e in most),
        "take": take, "validation": config.validation, "chunk": config.chunk,
    }  # fmt: skip
    write_json(out / "fewshot.json", results)
    write_text(out / "fewshot.md", few_shot_table(results) + "\n")
    drawn = [r for r in rows if r["mode"] != "best"]  # it lies on one of the others
    curves = {label: [(r["episodes"], r["mean"], r["low"], r["high"]) for r in drawn if r["label"] == label] for label in labels(drawn)}
    marks = {"random": 0.0, "expert": 100.0} if results["unscored"] is None else {}
    title = f"{task.name}: {'score' if marks else 'return'} over demonstrations"
    write_text(out / "fewshot.svg", score_curves(curves, title, marks, _marked(drawn, take)))
    return results | {"out": str(out)}


def _marked(rows: Sequence[dict[str, Any]], take: dict[str, Any] | None) -> tuple[str, int] | None:
    """Label and demonstrations of the policy that was taken."""
    wanted = take and (take["mode"], take["figure"], take["episodes"])
    return next(((r["label"], r["episodes"]) for r in rows if (r["mode"], r["figure"], r["episodes"]) == wanted), None)


# -- cells -----------------------------------------------------------------------------------------


def _cell(
    agent: Any, demonstrations: Demonstrations, config: FewShotConfig, mode: str, count: int, series: int, out: Path, place: str
) -> dict[str, Any]:
    """One place of the grid, from its `result.json` where it is finished; what an interrupted run left of it is removed.

    **Arguments:** `place`: which of all it is, in words.
    """
    folder = folder_of(out, {"mode": mode, "episodes": count, "series": series})
    if (folder / "result.json").is_file():
        finished = json.loads((folder / "result.json").read_text())
        if mode != "clone" or "updates" in finished:
            return finished
        _log.info("%s is of a clone that was trained for a fixed number of updates; it is made again", folder)
    print(place, file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    episodes, started = demonstrations.series(series, count), time.monotonic()
    if not isinstance(agent, OneShotAgent):
        demonstrations = measured_by(demonstrations, agent, episodes)
        episodes = demonstrations.series(series, count)
    cell: dict[str, Any] = {"mode": mode, "episodes": count, "series": series, "timesteps": sum(e.num_timesteps for e in episodes)}
    if demonstrations.inferred:
        cell["origins"] = {name: list(origin) for name, origin in demonstrations.inferred.items()}
    task = demonstrations.task
    if mode in MODES:
        cell |= _trained(agent, demonstrations, config, mode, episodes, series, folder)
    elif mode in AS_IT_IS:
        knowing = Agent(agent.model, agent.tokenizer, {**agent.tasks, task.name: task})
        cell["figures"] = {"no learning": _measured(_policy(knowing, task, config), task, config, episodes if mode == "prompt" else ())}
        if mode == "zero":
            knowing.save(folder / "policy")
    elif mode in SHOWN:
        policy, how = shown_cell(agent, task, episodes, folder / "policy")
        cell |= how | {"figures": {"no learning": _measured(policy, task, config)}}
    else:
        found = learned(mode, task, episodes, demonstrations.read(demonstrations.held_out), series, config.chunk)
        updates = found.acting.updates
        cell |= {"seconds": round(time.monotonic() - started, 4), "updates": updates}
        cell["figures"] = {"last step" if updates else "no learning": _measured(found.policy(task), task, config)}
        found.save(folder / "policy")
    write_json(folder / "result.json", cell)
    return cell


def _trained(
    agent: Agent, demonstrations: Demonstrations, config: FewShotConfig, mode: str, episodes: Sequence[Episode], series: int, folder: Path
) -> dict[str, Any]:
    """A cell that learns: its figures, its curve, and its policy as a checkpoint folder."""
    task, protocol = demonstrations.task, config.training
    if config.chunk > 1:
        task = replace(task, chunk=config.chunk)
    store = subset(demonstrations, episodes, folder / "demonstrations")
    held_out = demonstrations.read(demonstrations.held_out)

    def evaluate(tuned: Agent, step: int) -> list[float | None]:
        if not protocol.evaluation_episodes:
            return []
        policy = _policy(tuned, task, config)
        results = rollout(
            policy, task, protocol.evaluation_episodes, seed=config.seed + step, num_envs=protocol.evaluation_episodes,
            limits=config.limits,
        )  # fmt: skip
        return [task.random_return if r.failed else r.total_reward for r in results]

    found = finetune(agent, task, store, held_out, protocol, mode, series, folder, evaluate)
    figures = {"last step": _measured(_policy(found.agent, task, config), task, config)}
    if found.chosen is not None:
        found.agent.model.load_state_dict(found.chosen)
        is_last = found.chosen_step == found.steps
        chosen = figures["last step"] if is_last else _measured(_policy(found.agent, task, config), task, config)
        figures["chosen on held-out"] = chosen
    if best := _paper_maximum(found.curve):
        figures["paper's maximum"] = {"returns": best}
    (merged(found.agent) if mode == "lora" else found.agent).save(folder / "policy")
    shutil.rmtree(store)
    return {
        "figures": figures, "chosen_step": found.chosen_step, "curve": found.curve, "seconds": round(found.seconds, 2),
        "updates": found.steps, "trained_parameters": found.trained,
    }  # fmt: skip


def check_modes(task: TaskSpec, agent: Agent, config: FewShotConfig) -> None:
    """**Raises:** `ValueError` where a mode uses the checkpoint and the task does not fit it, or chunks are asked of a mode that trains
    a transformer which cannot have them."""
    if config.uses_checkpoint:
        check_fits(task, agent)
    if config.chunk > 1 and set(config.modes) & set(MODES) and (agent.tokenizer.layout != "compact" or task.memory != 1):
        raise ValueError(
            f"'chunk' is {config.chunk}, but the checkpoint is of layout {agent.tokenizer.layout} and task '{task.name}' has a memory of "
            f"{task.memory or 'all'}; chunks are of the compact layout with --memory 1, or of --modes {','.join(LEARNED_ALONE)}"
        )


def _policy(agent: Agent, task: TaskSpec, config: FewShotConfig) -> GatoPolicy:
    return agent.policy(task, config.temperature, seed=config.seed, memory=task.memory or 0)


def _measured(policy: Policy, task: TaskSpec, config: FewShotConfig, demonstrations: Sequence[Episode] = ()) -> dict[str, Any]:
    started = time.monotonic()
    results = rollout(
        policy, task, config.rollouts, config.seed, min(config.rollouts, 50), demonstrations=demonstrations,
        limits=config.limits,
    )  # fmt: skip
    return summarise(task, results) | {"seconds": round(time.monotonic() - started, 4)}


def _paper_maximum(curve: Sequence[dict[str, Any]]) -> list[float]:
    """The returns of those neighbouring evaluations (5, or all if there are fewer) whose mean is the highest."""
    width = min(SMOOTHED, len(curve))
    windows = [[r for point in curve[i : i + width] for r in point["returns"] if r is not None] for i in range(len(curve) - width + 1)]
    return max((w for w in windows if w), key=np.mean, default=[])


def subset(demonstrations: Demonstrations, episodes: Sequence[Episode], path: Path) -> Path:
    """A store of these episodes alone, which a mixture can read."""
    with StoreWriter(path, [demonstrations.task], {"source": "gato finetune", "of": demonstrations.store.fingerprint}) as writer:
        for episode in episodes:
            writer.append(episode)
    return path


def _claim(
    checkpoint: Path | None, config: FewShotConfig, demonstrations: Demonstrations, shown: Mapping[str, OneShotAgent], held: ExitStack
) -> Path:
    """The folder of the results, this process's alone until `held` ends. **Raises:** `ValueError` if cells lie there that were made with
    other settings, or another process has it."""
    out = config.out or Path("runs") / f"fewshot-{demonstrations.task.name.replace('/', '-')}"
    settings = {
        "weights_sha256": checkpoint and weights_sha256(checkpoint), "model": _model_of(checkpoint),
        "data": demonstrations.store.fingerprint, "task": demonstrations.task.to_dict(),
        "held_out": len(demonstrations.held_out), "training": asdict(config.training), "rollouts": config.rollouts,
        "seed": config.seed, "temperature": config.temperature, "memory": demonstrations.task.memory or 0, "chunk": config.chunk,
        "episode_steps": config.episode_steps, "episode_seconds": config.episode_seconds,
        **{mode: weights_sha256(folder) for mode in shown if (folder := getattr(config, mode) or checkpoint)},
    }  # fmt: skip
    has_pictures = any(f.modality is Modality.IMAGE for f in demonstrations.task.observations)
    if has_pictures:
        settings["scattered"] = True  # as older ones do not say: they drew timesteps near one another, and a clone saw pictures coarser
    settings = json.loads(json.dumps(settings))
    make_folder(out)
    held.callback(FolderLock(out).release)
    path = out / "settings.json"
    if path.is_file():
        before = {"chunk": 1, "episode_steps": None, "episode_seconds": EPISODE_SECONDS} | json.loads(path.read_text())
        earlier = {"timesteps": 0, "rounds": 0, "takes_last": False, "direct_rate": 1.0}  # which older ones do not name
        earlier |= dict.fromkeys(OF_PICTURES, 0)
        before["training"] = earlier | before["training"]
        if not has_pictures:
            before["training"] |= {name: settings["training"][name] for name in OF_PICTURES}
        finished = {p.parent.name.split("-")[0] for p in out.glob("cells/*/result.json")}
        shared = {"weights_sha256"} if finished <= set(WITHOUT_CHECKPOINT) else set()
        changed = [name for name in settings if before.get(name) != settings[name] and name not in shared]
        if "seed" in changed and _fields_of(before.get("task")) == _fields_of(settings["task"]):
            changed.remove("task")  # random play was measured from other starts, no more
        if changed:
            raise ValueError(f"{out} holds cells that were made with another {', '.join(changed)}; choose another --out or undo the change")
    write_json(path, settings)
    return out


def _fields_of(task: Any) -> Any:
    """What a settings file says of a task, but for its measured returns."""
    return {k: v for k, v in task.items() if k not in ("random_return", "expert_return")} if isinstance(task, dict) else task


def _model_of(checkpoint: Path | None) -> dict[str, Any]:
    """What the checkpoint's description says of its network, or what new weights are made of."""
    if checkpoint is None:
        return asdict(ARCHITECTURE)
    described = next(path for name in ("config.json", "gato.json") if (path := checkpoint / name).is_file())
    model = json.loads(described.read_text())
    return model["model"] if described.name == "gato.json" else model
