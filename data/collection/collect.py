"""Collecting demonstrations: an expert acts, and its episodes go into one store per task.

Half of the episodes are noisy by default: some executed actions are random while the expert's own
action is what the store holds, so a student also sees how to come back (clones of a perfect expert
drift). Every episode has its own seed, so an interrupted or repeated collection gives the same store, with
any number of workers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gato import envs
from gato.data.store import Store, StoreWriter
from gato.data.stores import stores_folder
from gato.envs.demonstrator import RandomExpert, behaviour_of
from gato.envs.recording import episode_seed, expert_episode
from gato.envs.success import check_criterion
from gato.episode import Episode
from gato.progress import Progress
from gato.setting import MAX_COUNT, MAX_SEED, MAX_WORKERS, Settings, bounded
from gato.spec import TaskSpec

from .attempt import RANDOM, Job, load_expert
from .workers import MAX_ATTEMPTS, Workers

if TYPE_CHECKING:
    import gymnasium

    from gato.envs.demonstrator import Expert

RANDOM_EPISODES = 20  # that measure the random return of a task the registry does not know
ACCEPTED_SHARE = 0.8  # of the way from random to expert, for an episode without noise
_PACKAGES = (
    "opengato", "gymnasium", "minigrid", "metaworld", "mujoco", "dm-control", "gymnasium-robotics", "ale-py", "minatar", "box2d", "numpy",
)  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectConfig(Settings):
    """What `gato data collect` records.

    **Arguments:**

    - `tasks`: names of the registry, or Gymnasium ids, also as `MODULE:ID`.
    - `episodes`: per task, those that an earlier run stored included; the tasks of a set take turns in its one store.
    - `noisy_share`: share of the episodes that are noisy.
    - `noise`: expected share of the timesteps of a noisy episode whose executed action is random.
    - `noise_steps`: how many timesteps a random action is held.
    - `seed`: of the whole collection.
    - `expert`: `MODULE:NAME` of an expert of your own, a class that is called without arguments, or `random` for uniformly random
      actions; the registry's where `None`. One whose `behaviour` is `random` or `learner` has all its episodes kept.
    - `success`: when an episode of the tasks has succeeded, see `gato/envs/success.py`: `reported`, `terminated`,
      `info KEY`, `return >= NUMBER`, or a function `MODULE:NAME`. By default as the registry or the environment's info says.
    - `expert_level`: what a clean episode must come close to. `"measured"`: the registry's expert return;
      `"window"`: the paper's, the best mean over a window of consecutive clean episodes, which are
      all played once beforehand.
    - `workers`: processes that play; 0 plays in this one, where nothing stops an expert that hangs.
    - `episode_seconds`: wall-clock time after which a worker's episode has failed.
    - `episode_steps`: timesteps after which an episode is truncated; by default 3,000 where the environment has no limit; 0: never.
    - `out`: folder of the stores, one below it per task; the stores' folder where `None`.

    **Raises:** `ValueError` for a share outside [0, 1] or a count below one.
    """

    tasks: list[str] = field(default_factory=list)
    episodes: int = bounded(200, 1, MAX_COUNT)
    noisy_share: float = bounded(0.5, 0, 1)
    noise: float = bounded(0.2, 0, 1)
    noise_steps: int = bounded(1, 1, MAX_COUNT)
    seed: int = bounded(0, 0, MAX_SEED)
    expert: str | None = None
    success: str | None = None
    expert_level: Literal["measured", "window"] = "measured"
    workers: int = bounded(1, 0, MAX_WORKERS)
    episode_seconds: float = bounded(600.0, 0, 1e7, above=True)
    episode_steps: int | None = bounded(None, 0, MAX_COUNT)
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks:
            raise ValueError(f"no tasks given; known are {envs.families()}")

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree between the parts of one store."""
        names = ["seed", "noisy_share", "noise", "noise_steps"]
        if self.expert_level != "measured":
            names.append("expert_level")
        if self.episode_steps is not None:
            names.append("episode_steps")
        return {name: getattr(self, name) for name in names}

    def is_noisy(self, index: int) -> bool:
        """Whether the episode at this place is noisy; noisy places are spread evenly."""
        return int((index + 1) * self.noisy_share) > int(index * self.noisy_share)


def collect(config: CollectConfig) -> list[dict[str, Any]]:
    """Records every task of the configuration; if one cannot be recorded, the others still are.

    **Returns:** one summary per task: `task`, `store`, `episodes`, `timesteps`, `noisy`, `attempts`,
    `failed`, `rejected`, `acceptance` (of the clean attempts), mean and extreme returns of both behaviours (`other` where it is neither),
    `success` (share), `cut` (by `episode_steps`), `random_return` of the task, `clipped_actions` and
    `observations_out_of_bounds` (numbers of values).

    **Raises:** `ValueError` for unknown tasks, for a store that was collected with other settings, or
    for an expert whose episodes are all rejected; `RuntimeError` where more than half of them fail, and for
    several tasks when all have been tried.
    """
    for name in config.tasks:  # all names are checked before the first hour of work
        behaviour = behaviour_of(load_expert(name, config.expert))
        if behaviour != "expert" and config.noisy_share:
            raise ValueError(
                f"expert '{config.expert}' plays as '{behaviour}', so there is no expert's action to record where one is perturbed; "
                "give --noisy_share 0"
            )
    check_criterion(config.success)
    tasks = [envs.task(name) for name in config.tasks]
    if config.success is not None:
        tasks = [replace(task, success=config.success) for task in tasks]
    rows, failed = [], []
    with Workers(config.workers, config.episode_seconds) as workers:
        for task in tasks:
            try:
                rows.append(_collect_task(task, config, workers))
            except (ValueError, RuntimeError) as error:
                if len(tasks) == 1:
                    raise
                failed.append(str(error))
                _log.warning("%s; the other tasks go on", error)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(tasks)} tasks could not be collected, the others are complete: {'; '.join(failed)}")
    return rows


def window_expert_return(returns: Sequence[float]) -> float:
    """The paper's expert return: the highest mean of W consecutive episodes.

    **Arguments:** `returns`: of N episodes in the order they were played; W = min(1000, N / 10), rounded
    down, and at least 1.
    """
    width = max(1, min(1000, len(returns) // 10))
    sums = np.cumsum([0.0, *returns])
    return float((sums[width:] - sums[:-width]).max() / width)


def least_return(task: TaskSpec) -> float | None:
    """The return that an episode without noise needs to be stored: `ACCEPTED_SHARE` of the way from random to expert.

    The paper keeps what reaches 80 % of the expert's return, which is no filter where returns are negative:
    80 % of -100 is better than -100. Measured from the random return the rule is the same for every task.

    **Returns:** `None`, which keeps everything, where one of the two returns is not known.
    """
    if task.random_return is None or task.expert_return is None:
        return None
    return task.random_return + ACCEPTED_SHARE * (task.expert_return - task.random_return)


def store_path(task: str, out: Path | None = None) -> Path:
    """Where the store of a task lies: `out/family/name`."""
    return (stores_folder() if out is None else Path(out)) / task


def measure(tasks: Sequence[str] = (), episodes: int = 100, seed: int = 0) -> list[dict[str, Any]]:
    """Measures the random and the expert return of tasks: the numbers in `configs/tasks.yaml`.

    **Arguments:**

    - `tasks`: names; all of the registry where empty.
    - `episodes`: per task and behaviour; `seed`: of them all.

    **Returns:** per task `task`, `episodes`, `random`, `expert`, `expert_std`, `expert_min`, `success`
    (share of the expert's finished episodes), `failed` (episodes that raised), `acceptance` (share of all
    episodes that a collection would keep), `length` (mean) and `steps_per_second` of the expert. What
    concerns the expert is `None` for a task without one.

    **Raises:** `RuntimeError` where every episode of a behaviour failed.
    """
    return [_measure_task(name, episodes, seed) for name in tasks or envs.tasks()]


def _measure_task(name: str, episodes: int, seed: int) -> dict[str, Any]:
    task, env = envs.task(name), envs.make(name)
    has_expert = envs.expert_name(name) is not None
    with Progress(f"measure {name}", (1 + has_expert) * episodes) as progress:
        random = list(_measured(task, env, RandomExpert(), episodes, seed, progress))
        started = time.perf_counter()
        expert = list(_measured(task, env, envs.expert(name), episodes, seed, progress)) if has_expert else []
        seconds = time.perf_counter() - started
    envs.close(env)
    if not random or (has_expert and not expert):
        raise RuntimeError(f"task '{name}': every episode of the {'expert' if random else 'random policy'} failed")
    returns = np.array([r.total_reward for r in expert])
    measured = task.with_returns(float(np.mean([r.total_reward for r in random])), float(returns.mean()) if expert else None)
    least = least_return(measured)
    return {
        "task": name,
        "episodes": episodes,
        "random": measured.random_return,
        "expert": measured.expert_return,
        "expert_std": float(returns.std()) if expert else None,
        "expert_min": float(returns.min()) if expert else None,
        "success": float(np.mean([r.success for r in expert])) if expert and task.success else None,
        "failed": episodes - len(expert) if expert else None,
        "acceptance": float((returns >= least).sum() / episodes) if least is not None else None,
        "length": float(np.mean([r.num_timesteps for r in expert])) if expert else None,
        "steps_per_second": sum(r.num_timesteps for r in expert) / seconds if expert else None,
    }


def _measured(task: TaskSpec, env: gymnasium.Env, expert: Expert, episodes: int, seed: int, progress: Progress) -> Iterator[Any]:
    """Recordings without timesteps; an episode that raises is left out."""
    for index in range(episodes):
        progress.advance()
        try:
            recording = expert_episode(task, env, expert, episode_seed("measure", seed, index), keep=False)
        except Exception:  # whatever a planner or a simulator may raise: the episode has failed, and `measure` counts it
            continue
        yield recording


def _collect_task(task: TaskSpec, config: CollectConfig, workers: Workers) -> dict[str, Any]:
    """Fills the store of one task, or of a set, up to the number of episodes, and writes the summary into its manifest."""
    path, provenance = store_path(task.name, config.out), _provenance(task, config)
    before = _checked_provenance(path, provenance)
    tasks = envs.members(task) or (task,)
    with StoreWriter(path, tasks, provenance) as writer:
        notes = _stored_notes(path)  # read under the writer's lock: nobody else adds to them now
        assert len(notes) == writer.num_episodes, f"{len(notes)} notes of {writer.num_episodes} episodes"
        wanted = config.episodes * len(tasks)
        writer.note(expected_episodes=max(wanted, len(notes)))
        least = writer.provenance["least_return"] = _least_return(task, config, workers, before)
        with Progress(f"collect {task.name}", wanted, done=len(notes)) as progress:
            for episode in workers.episodes(_job(tasks, config, least, i) for i in range(len(notes), wanted)):
                writer.append(episode)
                notes.append(_note(episode))
                progress.advance()
                _refuse_if_most_fail(task, notes)
        summary = writer.provenance["collected"] = _summary(notes)
        writer.tasks = tuple(_with_returns(known, summary, config, workers) for known in writer.tasks)
    if summary["cut"]:
        _log.warning(
            "task %s: %d of %d episodes did not end by themselves and were truncated; --episode_steps sets when",
            task.name, summary["cut"], summary["episodes"],
        )  # fmt: skip
    return {"task": task.name, "store": str(path), **summary, "random_return": writer.tasks[0].random_return}


def _with_returns(task: TaskSpec, summary: Mapping[str, Any], config: CollectConfig, workers: Workers) -> TaskSpec:
    """What the registry does not know of both returns: random play is measured, the expert's is that of the episodes without noise.

    They hold for episodes of this length, so the task takes over the limit too.
    """
    if envs.is_measured(task):
        return task
    if config.episode_steps:
        task = replace(task, episode_limit=min(config.episode_steps, task.episode_limit or config.episode_steps))
    expert, random = summary["expert_return"], task.random_return
    if random is None:
        try:
            random = float(np.mean(_played(task, RANDOM, RANDOM_EPISODES, config, workers, f"random play of {task.name}")))
        except RuntimeError as error:
            _log.warning("the random return of task %s is not known, so it has no scores: %s", task.name, error)
    return task.with_returns(random, expert)


def _job(tasks: Sequence[TaskSpec], config: CollectConfig, least: float | None, index: int) -> Job:
    """The first attempt at a place of the store."""
    noise = config.noise if config.is_noisy(index // len(tasks)) else None
    return Job(tasks[index % len(tasks)], index, config.seed, 0, noise, config.noise_steps, least, config.expert, config.episode_steps)


def _least_return(task: TaskSpec, config: CollectConfig, workers: Workers, before: Mapping[str, Any]) -> float | None:
    """What a clean episode must reach; a store that was begun keeps the level of its beginning."""
    if config.expert_level == "measured":
        return least_return(task)
    if "least_return" in before:
        return before["least_return"]
    returns = _played(task, config.expert, config.episodes, config, workers, f"expert level of {task.name}")
    return least_return(task.with_returns(task.random_return, window_expert_return(returns)))


def _played(task: TaskSpec, expert: str | None, episodes: int, config: CollectConfig, workers: Workers, label: str) -> list[float]:
    """The returns of so many episodes, none of which is kept."""
    returns = []
    with Progress(label, episodes) as progress:
        jobs = (Job(task, i, config.seed, expert=expert, episode_steps=config.episode_steps) for i in range(episodes))
        for episode in workers.episodes(jobs):
            returns.append(episode.total_reward)
            progress.advance()
    return returns


def _refuse_if_most_fail(task: TaskSpec, notes: Sequence[Mapping[str, Any]]) -> None:
    attempts, failed = sum(n["attempts"] for n in notes), sum(n["failed"] for n in notes)
    if attempts >= MAX_ATTEMPTS and failed > attempts / 2:
        raise RuntimeError(f"task '{task.name}': {failed} of {attempts} episodes failed; its expert does not fit this environment")


def _provenance(task: TaskSpec, config: CollectConfig) -> dict[str, Any]:
    """Where the episodes come from, for the store's manifest."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "source": "gato.data.collect",
        "expert": config.expert or envs.expert_name(task),
        "licence": task.licence,
        "settings": config.settings,
        "accepted_share": ACCEPTED_SHARE,
        "versions": versions,
    }


def _checked_provenance(path: Path, provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an earlier run wrote about the store, empty where there was none.

    **Raises:** `ValueError` if that run had another expert or other settings: its episodes would not repeat.
    """
    if not (path / "manifest.json").exists():
        return {}
    before = Store(path).manifest.provenance
    found, asked = ({k: p.get(k) for k in ("expert", "settings")} for p in (before, provenance))
    if found != asked:
        raise ValueError(
            f"store {path} was collected with {found}, not with {asked}; use the same settings to continue it, or another folder (--out)"
        )
    return before


def _stored_notes(path: Path) -> list[dict[str, Any]]:
    """Notes on the episodes that an earlier run stored."""
    store = Store(path)
    windows = (store.episode(i, 0, 1) for i in range(store.num_episodes))
    return [
        _note(window) | {"return": float(total), "timesteps": int(length)}
        for window, total, length in zip(windows, store.returns, store.lengths, strict=True)
    ]


def _note(episode: Episode) -> dict[str, Any]:
    """What the summary needs to know of one stored episode."""
    return {
        "behaviour": episode.behaviour,
        "return": episode.total_reward,
        "timesteps": episode.num_timesteps,
        "success": episode.success,
        **episode.parameters["collection"],
    }


def _summary(notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    attempts, failed = sum(n["attempts"] for n in notes), sum(n["failed"] for n in notes)
    clean = [n for n in notes if n["behaviour"] == "expert"]
    noisy = [n for n in notes if n["behaviour"] == "noisy"]
    known = [n["success"] for n in notes if n["success"] is not None]
    clean_attempts = sum(n["attempts"] for n in clean)
    return {
        "episodes": len(notes),
        "timesteps": sum(n["timesteps"] for n in notes),
        "noisy": len(noisy),
        "attempts": attempts,
        "failed": failed,
        "rejected": attempts - failed - len(notes),
        "acceptance": len(clean) / clean_attempts if clean else None,
        **_returns("expert", clean),
        **_returns("noisy", noisy),
        **(_returns("other", others) if (others := [n for n in notes if n["behaviour"] not in ("expert", "noisy")]) else {}),
        "success": float(np.mean(known)) if known else None,
        "cut": sum(n.get("cut", False) for n in notes),
        "clipped_actions": sum(n["clipped_actions"] for n in notes),
        "observations_out_of_bounds": sum(n["observations_out_of_bounds"] for n in notes),
    }


def _returns(behaviour: str, notes: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean and extremes of the returns of one behaviour, `None` where there is no such episode."""
    returns = [n["return"] for n in notes]
    return {
        f"{behaviour}_return": float(np.mean(returns)) if returns else None,
        f"lowest_{behaviour}_return": min(returns, default=None),
        f"highest_{behaviour}_return": max(returns, default=None),
    }
