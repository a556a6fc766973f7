"""`gato eval`: returns with intervals beside random and expert, and what the agent does without its eyes or ears."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gato import envs
from gato.agent import Agent, load
from gato.data.store import Store
from gato.data.stores import find_store, named_store
from gato.description import check_gato
from gato.disk import check_writable, reason, refusal, write_json
from gato.eval.words.captioning import caption_results, was_trained_on
from gato.eval.words.text import text_results
from gato.spec import TaskSpec
from gato.weights import TRAINED

from .ablation import Instructions, ablations
from .realtime import Pace
from .recorder import Recorder, recording_settings
from .replay import ActionKeeper, strip_of, write_films
from .returns import takes_returns, target_results
from .rollout import EpisodeResult, Transform, rollout
from .sets import Shown, rollout_set
from .settings import EpisodeLimits, EvalConfig
from .summary import paired_comparison, summarise, summarise_families

if TYPE_CHECKING:
    from gato.episode import Episode
    from gato.policy import GatoPolicy

SIDE_BY_SIDE = 50  # environments at most, where no number is given

_log = logging.getLogger(__name__)


def evaluate(
    policy: GatoPolicy,
    episodes: int = 50,
    seed: int = 0,
    num_envs: int | None = None,
    rate: float | None = None,
    episode_steps: int | None = None,
) -> dict[str, Any]:
    """Rolls out a policy in its own task.

    **Arguments:** `num_envs`: environments side by side, by default as many as episodes, at most 50, which changes nothing of what is
    measured; `rate`: in Hz; one environment is then played in real time, and `deadlines` says what was missed;
    `episode_steps`: see `EvalConfig`.

    **Returns:** one row: mean return with a 95 % bootstrap interval, the normalised score (0 random,
    100 expert) with its own, success, mean length and the number of failed episodes.
    """
    pace = None if rate is None else Pace(rate)
    side_by_side = num_envs or (1 if pace else min(episodes, SIDE_BY_SIDE))
    limits = EpisodeLimits(episode_steps=episode_steps)
    results = rollout(policy, policy.task, episodes, seed, side_by_side, limits=limits, pace=pace)
    return summarise(policy.task, results) | _deadlines(pace)


def evaluate_checkpoint(checkpoint: Path, config: EvalConfig) -> dict[str, Any]:
    """Everything `gato eval` measures; written to `config.out` as well, after every task.

    Where that file holds an earlier evaluation, a file beside it that ends in `.partial.json` is written, and takes its place when
    all is measured; it stays beside it where nothing could be.

    **Returns:** among others `errors`: the tasks that could not be played, and why; the others are not held up by them.

    **Raises:** `ValueError` if `config.record` exists and was not made with these weights and settings, for a family of
    which the checkpoint knows no task, or if `config.against` knows none of the tasks.
    """
    started = time.monotonic()
    if config.rate is not None and config.num_envs > 1:
        config = replace(config, num_envs=1)
    if config.captions or config.text or config.prompts:
        check_gato(checkpoint, "caption or write")
    agent = load(checkpoint, config.device, config.verify)
    if config.target_return and not takes_returns(agent):
        raise ValueError(f"'{checkpoint}' was trained without returns, so none can be asked of it; leave out --target_return")
    tasks = [agent.task(name) for name in _task_names(agent, config)]
    overflows = {task.name: _overflow(agent, task, config) for task in tasks}
    settings = recording_settings(Path(checkpoint), config, overflows) if config.record else {}
    if config.ablations and not any(map(ablations, tasks)):
        _log.warning("no task shows a picture or an instruction, so --ablations has nothing to take away")
    other = _other_agent(agent, [task.name for task in tasks], config)
    out = config.out or Path(checkpoint) / "eval.json"
    check_writable(out)
    for store in (*config.captions, *config.text, *([config.nearest] if config.nearest else [])):
        Store(find_store(store))  # what is not there is found before the first episode
    partial = out.with_name(f"{out.stem}.partial.json") if out.exists() else out
    results: dict[str, Any] = {
        "checkpoint": str(checkpoint), "seed": config.seed, "episodes": config.episodes, "demonstrations": config.demonstrations,
        "temperature": config.temperature, "memory": config.memory,
        "tasks": [], "errors": [], "films": {},
    }  # fmt: skip
    if (Path(checkpoint) / TRAINED).is_file():
        results["weights"] = "averages"
    if config.videos:
        results["videos"] = {}
    for task in tasks:
        with _noted(results, task):
            _add_task(results, agent, task, config, settings, out)
        write_json(partial, results)  # what was measured so far outlives whatever comes, and so does the last evaluation
    results["families"] = summarise_families(results["tasks"])
    if other is not None:
        theirs = _rows_of(other, results, config)
        results["against"] = {"checkpoint": str(config.against), "tasks": paired_comparison(results["tasks"], theirs)}
    results |= _words(agent, Path(checkpoint), config)
    results["seconds"] = time.monotonic() - started
    measured = any(results[name] for name in ("tasks", "captions", "bits_per_byte", "text"))
    write_json(partial, results)
    if measured:
        partial.replace(out)
    return results


@contextmanager
def _noted(results: dict[str, Any], task: TaskSpec, by: str = "") -> Iterator[None]:
    """A task that cannot be played is among the errors; the others go on."""
    try:
        yield
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        results["errors"].append({"task": task.name, "error": f"{by}{refusal(error)}"})


def _rows_of(other: Agent, results: dict[str, Any], config: EvalConfig) -> list[dict[str, Any]]:
    """The rows of another agent in the tasks that were played and that it knows."""
    rows = []
    for task in [other.task(row["task"]) for row in _plain(results) if row["task"] in other.tasks]:
        with _noted(results, task, f"by {config.against}: "):
            target = config.target_return[0] if config.target_return and takes_returns(other) else None
            played, how = _played(other, task, config, _demonstrations(task, config.demonstrations), target=target)
            rows.append(summarise(task, played) | how)
    return rows


def _words(agent: Agent, checkpoint: Path, config: EvalConfig) -> dict[str, Any]:
    """What is measured without an environment: captions, bits per byte and continued texts."""
    captions = [
        caption_results(agent, store, config.caption_examples, nearest=config.nearest)
        | {"trained_on": was_trained_on(checkpoint, Store(find_store(store)))}
        for store in config.captions
    ]
    bits = [text_results(agent, Store(find_store(store)), config.documents) for store in config.text]
    texts = [{"prompt": p, "continuation": agent.generate(p, 48, temperature=0.7)[len(p) :]} for p in config.prompts]
    return {"captions": captions, "bits_per_byte": bits, "text": texts}


def _add_task(results: dict[str, Any], agent: Agent, task: TaskSpec, config: EvalConfig, settings: dict[str, Any], out: Path) -> None:
    """Plays a task, once more for every further target return, and for everything that it can be deprived of."""
    prompts, instructions = _demonstrations(task, config.demonstrations), Instructions(task)
    folder = out.with_name(f"{out.stem}-videos")
    row, films, videos = _task_row(agent, task, config, settings, folder, prompts, instructions if config.ablations else None)
    results["tasks"].append(row)
    results["films"] |= films
    if config.videos:
        results["videos"][task.name] = videos
    rows = [row]
    for target in config.target_return[1:]:
        played, how = _played(agent, task, config, prompts, target=target)
        rows.append(summarise(task, played, f"asked for {target:g}") | how)
    results["tasks"] += rows[1:]
    if len(rows) > 1:
        results.setdefault("targets", {})[task.name] = target_results(task, rows, out)
    if config.ablations and (alike := [name for name, texts in instructions.known.items() if len(texts) < 2]):
        _log.warning("task '%s': all episodes have the same '%s', so it is not swapped", task.name, "', '".join(alike))
    for label, transform in ablations(task, instructions.known) if config.ablations else ():
        played, how = _played(agent, task, config, prompts, transform, target=next(iter(config.target_return), None))
        results["tasks"].append(summarise(task, played, label) | how)


def _plain(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in results["tasks"] if not row["ablation"]]


def _task_names(agent: Agent, config: EvalConfig) -> list[str]:
    """The tasks to play: as given, those of the given families, or all control tasks."""
    known = [t.name for t in agent.tasks.values() if t.is_control and t.env_id]
    names = [] if config.tasks == ["none"] else list(config.tasks)
    for family in config.suite:
        of_family = [name for name in known if name.split("/")[0] == family]
        if not of_family:
            families = ", ".join(sorted({name.split("/")[0] for name in known})) or "none"
            raise ValueError(f"this checkpoint knows no task of the suite '{family}'; it knows tasks of {families}")
        names += of_family
    return list(dict.fromkeys(names)) if config.tasks or config.suite else known


def _other_agent(agent: Agent, names: Sequence[str], config: EvalConfig) -> Agent | None:
    if config.against is None:
        return None
    other = load(config.against, config.device, config.verify)
    common = [name for name in names if name in other.tasks]
    if not common:
        raise ValueError(f"'{config.against}' knows none of the tasks {', '.join(names)}, so there is nothing to compare")
    for name in common:
        if lines := agent.task(name).differences(other.task(name)):
            raise ValueError(f"'{config.against}' means something else by task '{name}': {lines[0]}; leave it out with --tasks")
    return other


def _task_row(
    agent: Agent,
    task: TaskSpec,
    config: EvalConfig,
    settings: dict[str, Any],
    folder: Path,
    prompts: Sequence[Episode],
    transform: Transform | None = None,
) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """A task's row, its film strip and its videos, the latter two as far as they are wanted."""
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(config.record, task, settings[task.name])) if config.record else None
        keeper = ActionKeeper() if config.films or config.videos else None
        sinks = [sink for sink in (recorder, keeper) if sink is not None]

        def sink(episode: Episode) -> None:
            for each in sinks:
                each(episode)

        target = next(iter(config.target_return), None)
        results, how = _played(agent, task, config, prompts, transform, sink=sink if sinks else None, target=target)
        if recorder is not None:
            recorder.num_failed = sum(r.failed is not None for r in results)
    row = summarise(task, results) | how
    films, videos, row["not_filmed"] = {}, {}, {}
    assert keeper is None or keeper.episodes, "a row has a finished episode"
    if keeper is not None and config.films:
        with _named(row["not_filmed"], "film strip"):
            films = {task.name: strip_of(keeper, config.step_seconds)}
    if keeper is not None and config.videos:
        with _named(row["not_filmed"], "videos"):
            videos = write_films(task, keeper, folder, config.step_seconds)
    return row, films, videos


@contextmanager
def _named(reasons: dict[str, str], what: str) -> Iterator[None]:
    """A film that cannot be made is named; the score it was to show stands."""
    try:
        yield
    except Exception as error:  # whatever an environment may raise that cannot draw
        reasons[what] = reason(error)


def _played(
    agent: Agent,
    task: TaskSpec,
    config: EvalConfig,
    prompts: Sequence[Episode],
    transform: Transform | None = None,
    sink: Callable[[Episode], None] | None = None,
    target: float | None = None,
) -> tuple[list[EpisodeResult], dict[str, Any]]:
    """Episodes, and how they were played: in how many `seconds`, with which `memory`, for which return, at which rate."""
    started = time.monotonic()
    asked: dict[str, Any] = {} if target is None else {"target_return": target}
    overflow = _overflow(agent, task, config)

    def policy_of(task: TaskSpec) -> Any:
        return agent.policy(task, temperature=config.temperature, overflow=overflow, seed=config.seed, memory=config.memory, **asked)

    policy = policy_of(task)
    pace = None if config.rate is None else Pace(config.rate)
    how_played: dict[str, Any] = {"transform": transform, "sink": sink, "limits": config.limits, "pace": pace}
    if envs.members(task):
        shown = Shown(task.name) if config.demonstrations else None
        results = rollout_set(
            policy_of, task, config.episodes, config.seed, config.num_envs,
            lambda member: shown.of(member.name, config.demonstrations) if shown else (), **how_played,
        )  # fmt: skip
    else:
        results = rollout(policy, task, config.episodes, config.seed, config.num_envs, demonstrations=prompts, **how_played)
    how = {"seconds": time.monotonic() - started, "memory": policy.memory or 0}
    if (asked_for := getattr(policy, "target_return", None)) is not None:
        how["target_return"] = asked_for
    return results, how | _deadlines(pace)


def _overflow(agent: Any, task: TaskSpec, config: EvalConfig) -> str:
    """As asked for; else at a rate the step that reads half a context anew would miss its deadline, so a Gato's context rolls if it can."""
    if config.overflow is not None:
        return config.overflow
    memory = agent.tasks[task.name].memory if config.memory is None and task.name in agent.tasks else config.memory
    can_roll = isinstance(agent, Agent) and agent.model.config.positions != "learned" and not memory
    return "rolling" if config.rate is not None and can_roll else "rebuild"


def _deadlines(pace: Pace | None) -> dict[str, Any]:
    """How a task kept its rate; nothing where there was none, or where no episode began."""
    return {"deadlines": pace.report().to_dict()} if pace is not None and pace.taken else {}


def _demonstrations(task: TaskSpec, count: int) -> list[Episode]:
    """The first expert episodes of the task's store. **Raises:** `ValueError` where there are fewer."""
    if not count or envs.members(task):  # each task of a set has its own
        return []
    store = Store(named_store(task.name if named_store(task.name).exists() else envs.set_of(task.name)))
    found = [int(i) for i in np.flatnonzero(store.behaviours == "expert") if store.tasks[store.task_indices[i]].name == task.name]
    if len(found) < count:
        raise ValueError(f"{count} demonstrations are wanted as prompts, but {store.path} has {len(found)} expert episodes of it")
    return [store.episode(i) for i in found[:count]]
