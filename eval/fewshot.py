"""`gato finetune`: how well an agent does a task it never saw, over the number of demonstrations, beside what needs no pretraining.

The grid is mode x demonstrations x series. A series is an order in which the demonstrations are drawn, so that 1, 10 and 100
of them are nested; it also seeds the training. A finished cell is a `result.json`, which a later run reads:

    OUT/settings.json                  what every cell was made with
    OUT/cells/full-10-0/               mode, demonstrations, series: result.json, metrics.jsonl, demonstrations/, policy/
    OUT/fewshot.json, .md, .svg        the table, the same as text, the curve
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gato import envs
from gato.agent import Agent, load
from gato.data.inspection.coarseness import inferred_origins
from gato.data.spread import measured
from gato.data.store import Store, StoreWriter
from gato.data.stores import find_store
from gato.description import check_gato, learner_of
from gato.device import pick_device
from gato.disk import finite
from gato.envs.success import check_criterion
from gato.episode import Episode
from gato.eval.report.chart import score_curves
from gato.eval.report.fewshot_table import SMOOTHED, few_shot_table, labels, summarise_cells
from gato.learners.contradictions import contradictions
from gato.learners.folder import learned
from gato.learners.one_shot.agent import OneShotAgent
from gato.policy import GatoPolicy, Policy
from gato.spec import TaskSpec
from gato.train.finetune import finetune, merged
from gato.train.protocol import MODES

from .fewshot_choice import policy_to_take
from .fewshot_shown import LEARNER_OF, shown_agents, shown_cell
from .recorder import weights_sha256
from .rollout import RandomPolicy, rollout
from .score import score_scale
from .settings import LEARNED_ALONE, SHOWN, FewShotConfig
from .summary import summarise

WITHOUT_CHECKPOINT = ("scratch", *LEARNED_ALONE)  # whose cells another checkpoint of the same architecture may share
MEASURED = 50  # demonstrations that origins are inferred from
JUDGED = 1000  # demonstrations whose success is counted
RANDOM_EPISODES = 20  # that measure the random return of a task the registry does not know

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demonstrations:
    """What there is to learn from.

    - `task`: the environment's, with both returns as far as they could be had; `references`: where these come from.
    - `pool`, `held_out`: numbers of the store's episodes; `left_out`: how many are no demonstrations, or of another task.
    - `inferred`: origins of observations that follow from the demonstrations.
    """

    store: Store
    task: TaskSpec
    pool: tuple[int, ...]
    held_out: tuple[int, ...]
    left_out: int
    references: dict[str, str] = field(default_factory=dict)
    inferred: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def series(self, seed: int, count: int) -> list[Episode]:
        """The first `count` demonstrations in the order of a series; a larger count begins with those of a smaller one.

        **Raises:** `ValueError` if there are fewer.
        """
        if count > len(self.pool):
            raise ValueError(
                f"{count} demonstrations were asked for, but {self.store.path} has {len(self.pool)} of '{self.task.name}' beside "
                f"{len(self.held_out)} held out; collect more or ask for fewer"
            )
        return self.read(np.random.default_rng(seed).permutation(self.pool)[:count])

    def succeeded(self) -> dict[str, int] | None:
        """How many of the demonstrations succeeded by their own flags, and how many have one; `None` where none has."""
        flags = [self.store.episode(i).success for i in (*self.pool, *self.held_out)[:JUDGED]]
        known = [flag for flag in flags if flag is not None]
        return {"succeeded": sum(known), "judged": len(known)} if known else None

    def read(self, numbers: Sequence[int] | np.ndarray) -> list[Episode]:
        return [replace(self.store.episode(int(i)), task=self.task) for i in numbers]


def open_demonstrations(config: FewShotConfig) -> Demonstrations:
    """Finds the store and the environment, and makes sure that they mean the same.

    **Raises:** `ValueError` if there is no such store or environment, if no episode fits the environment's fields (naming
    the first field that differs), or if too few demonstrations are left.
    """
    store = Store(find_store(config.data, "train"))
    if unfinished := store.manifest.shortfall:
        _log.warning("store %s holds %s", store.path, unfinished)
    name = config.env or store.tasks[0].name
    if config.env is None and store.tasks[0].env_id is None:
        raise ValueError(f"{store.path} does not say which environment its task '{name}' belongs to; give --env, such as CartPole-v1")
    check_criterion(config.success)
    task = _as_stored(envs.task(name), store) if config.env else store.tasks[0]
    name = task.name
    if config.success is not None:
        task = replace(task, success=config.success)
    differences = {i: task.differences(t, raw=True) for i, t in enumerate(store.tasks)}
    fitting = [i for i, lines in differences.items() if not lines and (len(store.tasks) == 1 or store.tasks[i].name == name)]
    if not fitting:
        lines = differences[0] or [f"it is one of {len(store.tasks)} tasks and none is called '{name}'"]
        raise ValueError(f"{store.path} holds no demonstrations of '{name}': its task '{store.tasks[0].name}' differs: {lines[0]}")
    usable = np.isin(store.task_indices, fitting) & np.isin(store.behaviours, ["expert", "noisy", "human"])
    numbers = np.random.default_rng(0).permutation(np.flatnonzero(usable)).tolist()
    if not numbers:
        raise ValueError(
            f"{store.path} has {store.num_episodes} episodes, but none of an expert or a human; collect or import demonstrations"
        )
    count = min(20, len(numbers) // 10) if config.held_out is None else config.held_out
    if not 0 <= count < len(numbers):
        raise ValueError(f"held_out is {count}, but there are {len(numbers)} demonstrations; leave at least one to learn from")
    task, references = _with_returns(task, store, numbers, config)
    return Demonstrations(store, task, tuple(numbers[count:]), tuple(numbers[:count]), store.num_episodes - len(numbers), references)


_FOUND_OUT = ("random_return", "expert_return", "success", "episode_limit")


def _as_stored(task: TaskSpec, store: Store) -> TaskSpec:
    """What collecting the demonstrations found out about a task, where nothing else says it: both returns, success, the limit."""
    for known in store.tasks:
        if known.name == task.name:
            found = {name: getattr(known, name) for name in _FOUND_OUT if getattr(task, name) is None}
            return replace(task, **found)
    return task


def _with_returns(task: TaskSpec, store: Store, numbers: Sequence[int], config: FewShotConfig) -> tuple[TaskSpec, dict[str, str]]:
    """The task with what it lacks of both returns: random play is measured, the expert's is that of the demonstrations."""
    random, expert, references = task.random_return, task.expert_return, {"random": "registry", "expert": "registry"}
    if envs.registered_name(task) not in envs.tasks():
        references = dict.fromkeys(references, "measured when the demonstrations were collected")
    if random is None:
        played = rollout(RandomPolicy(task, config.seed), task, RANDOM_EPISODES, config.seed, limits=config.limits)
        finished = [r.total_reward for r in played if not r.failed]
        random = float(np.mean(finished)) if finished else None
        references["random"] = f"{len(finished)} episodes of random play"
    if expert is None:
        expert = float(store.returns[np.asarray(numbers)].mean())
        references["expert"] = f"mean return of the {len(numbers)} demonstrations"
    return task.with_returns(random, expert), references


def opened(checkpoint: Path, config: FewShotConfig) -> Agent:
    if learner_of(checkpoint) not in LEARNER_OF.values():
        check_gato(checkpoint, "be fine-tuned")
    return load(checkpoint, config.device, config.verify)


def understood(demonstrations: Demonstrations, agent: Agent) -> Demonstrations:
    """The demonstrations with their observations measured as the agent does where it knows the task.

    A task that is new to it keeps the origins it has; one that has none gets those that the demonstrations ask for.

    **Raises:** `ValueError` if the agent knows another task of this name.
    """
    task = demonstrations.task
    is_compact = agent.tokenizer.layout == "compact"
    if task.name in agent.tasks:
        if lines := agent.tasks[task.name].differences(task, raw=True):
            raise ValueError(f"the checkpoint means something else by task '{task.name}': {lines[0]}; give the environment another name")
        return replace(demonstrations, task=task.measured_as(agent.tasks[task.name]))
    if is_compact:
        return replace(demonstrations, task=measured(task, demonstrations.read(demonstrations.pool[:MEASURED])))
    if task.origins:
        return demonstrations
    inferred = inferred_origins(task, demonstrations.read(demonstrations.pool[:MEASURED]))
    return replace(demonstrations, task=task.with_origins(inferred), inferred=inferred)


def with_memory(demonstrations: Demonstrations, agent: Agent, memory: int | None) -> Demonstrations:
    """The demonstrations of a task with this memory, 0: as much as the context holds; by default what the agent knows.

    That is the memory of this task, or of its sibling where the registry holds this one out.
    """
    task = demonstrations.task
    if memory is None:
        names = task.name, envs.held_out().get(envs.registered_name(task), "")
        known = [agent.tasks[name].memory for name in names if name in agent.tasks]
        memory = next((m for m in known if m), None)
    return replace(demonstrations, task=replace(task, memory=memory or None))


def few_shot(checkpoint: Path, config: FewShotConfig) -> dict[str, Any]:
    """Runs the cells that are not finished yet, and writes table and curve of all.

    **Returns:** what `OUT/fewshot.json` holds: `task`, `references`, `seen` (whether the checkpoint was trained on the task),
    `sibling` (the nearest trained task where the registry holds this one out, and whether the checkpoint was trained on it),
    `rows` (see `summarise_cells`) and `cells`.

    **Raises:** `ValueError` for bad settings and data (see `open_demonstrations`), or if `config.out` holds cells that were
    made with other settings.
    """
    pick_device(config.device)  # before an environment is played
    demonstrations = open_demonstrations(config)
    for count in config.episodes:  # before the first cell, not after hours
        demonstrations.series(0, count)
    agent = opened(checkpoint, config)
    shown = shown_agents(checkpoint, agent, config)
    config = config.fitted("gato" if isinstance(agent, OneShotAgent) else agent.tokenizer.layout)
    if not isinstance(agent, OneShotAgent):
        demonstrations = with_memory(understood(demonstrations, agent), agent, config.memory)
    task = demonstrations.task
    seen, sibling = (
        task.name in getattr(agent, "memories" if isinstance(agent, OneShotAgent) else "tasks"),
        envs.held_out().get(envs.registered_name(task)),
    )
    out = _claim(checkpoint, config, demonstrations, shown)
    cells = []
    for series in range(config.series):
        for count in sorted(set(config.episodes)):
            cells += [_cell(shown.get(mode, agent), demonstrations, config, mode, count, series, out) for mode in config.modes]
    rows, most = summarise_cells(task, cells), demonstrations.series(0, max(config.episodes))
    results = {
        "checkpoint": str(checkpoint), "task": task.name, "seen": seen,
        "sibling": sibling and {"task": sibling, "seen": sibling in agent.tasks},
        "random": task.random_return, "expert": task.expert_return,
        "references": demonstrations.references, "unscored": score_scale(task.random_return, task.expert_return),
        "memory": task.memory or 0,
        "origins": {name: list(origin) for name, origin in demonstrations.inferred.items()},
        "store": str(demonstrations.store.path), "pool": len(demonstrations.pool), "held_out": len(demonstrations.held_out),
        "left_out": demonstrations.left_out, "series": config.series, "rollouts": config.rollouts, "protocol": config.protocol,
        "training": asdict(config.training), "rows": rows, "cells": cells, "succeeded": demonstrations.succeeded(),
        "contradictions": contradictions(task, most), "timesteps": sum(e.num_timesteps for e in most),
        "take": policy_to_take(out, task, cells, config.rollouts, config.temperature, config.limits),
    }  # fmt: skip
    _write(out / "fewshot.json", json.dumps(finite(results), indent=1))
    _write(out / "fewshot.md", few_shot_table(results) + "\n")
    curves = {label: [(r["episodes"], r["mean"], r["low"], r["high"]) for r in rows if r["label"] == label] for label in labels(rows)}
    marks = {"random": 0.0, "expert": 100.0} if results["unscored"] is None else {}
    title = f"{task.name}: {'score' if marks else 'return'} over demonstrations"
    _write(out / "fewshot.svg", score_curves(curves, title, marks, _best(rows)))
    return results | {"out": str(out)}


def _best(rows: Sequence[dict[str, Any]]) -> tuple[str, int]:
    """Label and demonstrations of the highest row; the paper's maximum flatters and does not count."""
    row = max((r for r in rows if "maximum" not in r["figure"]), key=lambda r: r["mean"])
    return row["label"], row["episodes"]


# -- cells -----------------------------------------------------------------------------------------


def _cell(
    agent: Any, demonstrations: Demonstrations, config: FewShotConfig, mode: str, count: int, series: int, out: Path
) -> dict[str, Any]:
    """One place of the grid, from its `result.json` where it is finished; what an interrupted run left of it is removed."""
    folder = out / "cells" / f"{mode}-{count}-{series}"
    if (folder / "result.json").is_file():
        finished = json.loads((folder / "result.json").read_text())
        if mode != "clone" or "updates" in finished:
            return finished
        _log.info("%s is of a clone that was trained for a fixed number of updates; it is made again", folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    episodes, started = demonstrations.series(series, count), time.monotonic()
    cell: dict[str, Any] = {"mode": mode, "episodes": count, "series": series, "timesteps": sum(e.num_timesteps for e in episodes)}
    task = demonstrations.task
    if mode in MODES:
        cell |= _trained(agent, demonstrations, config, mode, episodes, series, folder)
    elif mode == "prompt":
        policy = _policy(agent, task, config)
        cell["figures"] = {"no learning": _measured(policy, task, config, episodes)}
    elif mode in SHOWN:
        policy, how = shown_cell(agent, task, episodes, folder / "policy")
        cell |= how | {"figures": {"no learning": _measured(policy, task, config)}}
    else:
        found = learned(mode, task, episodes, demonstrations.read(demonstrations.held_out), series, config.chunk)
        updates = found.acting.updates
        cell |= {"seconds": round(time.monotonic() - started, 4), "updates": updates}
        cell["figures"] = {"last step" if updates else "no learning": _measured(found.policy(task), task, config)}
        found.save(folder / "policy")
    _write(folder / "result.json", json.dumps(finite(cell), indent=1))
    return cell


def _trained(
    agent: Agent, demonstrations: Demonstrations, config: FewShotConfig, mode: str, episodes: Sequence[Episode], series: int, folder: Path
) -> dict[str, Any]:
    """A cell that learns: its three figures, its curve, and its policy as a checkpoint folder."""
    task, protocol = demonstrations.task, config.training
    store = subset(demonstrations, episodes, folder / "demonstrations")
    held_out = demonstrations.read(demonstrations.held_out)

    def evaluate(tuned: Agent, step: int) -> list[float | None]:
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
        is_last = found.chosen_step == protocol.steps
        chosen = figures["last step"] if is_last else _measured(_policy(found.agent, task, config), task, config)
        figures["chosen on held-out"] = chosen
    if best := _paper_maximum(found.curve):
        figures["paper's maximum"] = {"returns": best}
    (merged(found.agent) if mode == "lora" else found.agent).save(folder / "policy")
    shutil.rmtree(store)
    return {
        "figures": figures, "chosen_step": found.chosen_step, "curve": found.curve, "seconds": round(found.seconds, 2),
        "trained_parameters": found.trained,
    }  # fmt: skip


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


def _claim(checkpoint: Path, config: FewShotConfig, demonstrations: Demonstrations, shown: Mapping[str, OneShotAgent]) -> Path:
    """The folder of the results. **Raises:** `ValueError` if cells lie there that were made with other settings."""
    out = config.out or Path("runs") / f"fewshot-{demonstrations.task.name.replace('/', '-')}"
    described = next(path for name in ("config.json", "gato.json") if (path := Path(checkpoint) / name).is_file())
    model = json.loads(described.read_text())
    model = model["model"] if described.name == "gato.json" else model
    settings = {
        "weights_sha256": weights_sha256(Path(checkpoint)), "model": model,
        "data": demonstrations.store.fingerprint, "task": demonstrations.task.to_dict(),
        "held_out": len(demonstrations.held_out), "training": asdict(config.training), "rollouts": config.rollouts,
        "seed": config.seed, "temperature": config.temperature, "memory": demonstrations.task.memory or 0, "chunk": config.chunk,
        **{mode: weights_sha256(getattr(config, mode) or Path(checkpoint)) for mode in shown},
    }  # fmt: skip
    settings = json.loads(json.dumps(settings))
    path = out / "settings.json"
    if path.is_file():
        before = {"chunk": 1} | json.loads(path.read_text())
        before["training"] = {"timesteps": 0} | before["training"]  # which older ones do not name
        finished = {p.parent.name.split("-")[0] for p in out.glob("cells/*/result.json")}
        shared = {"weights_sha256"} if finished <= set(WITHOUT_CHECKPOINT) else set()
        if changed := [name for name in settings if before.get(name) != settings[name] and name not in shared]:
            raise ValueError(f"{out} holds cells that were made with another {', '.join(changed)}; choose another --out or undo the change")
    out.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(settings, indent=1))
    return out


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(f"{path.suffix}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
