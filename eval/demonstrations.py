"""The demonstrations of a few-shot grid: which episodes of a store they are, what task they are of, and how it is measured.

What a cell learns from also measures its observations; a cell of one demonstration knows no other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gato import envs
from gato.agent import Agent
from gato.data.inspection.coarseness import inferred_origins
from gato.data.spread import measured
from gato.data.store import Store
from gato.data.stores import find_store
from gato.envs.success import check_criterion
from gato.episode import Episode
from gato.learners.clone import check_pictures
from gato.spec import Modality, TaskSpec

from .rollout import RandomPolicy, rollout
from .settings import NO_CHECKPOINT, FewShotConfig

JUDGED = 1000  # demonstrations whose success is counted
RANDOM_EPISODES = 20  # that measure the random return of a task the registry does not know

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demonstrations:
    """What there is to learn from.

    - `task`: the environment's; `references`: where its returns come from, once they were seen to (`with_returns`).
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
            enough = count <= len(self.pool) + len(self.held_out)
            raise ValueError(
                f"{count} demonstrations were asked for, but {self.store.path} has {len(self.pool)} of '{self.task.name}' beside "
                f"{len(self.held_out)} held out; collect more or ask for fewer{', or learn from all of them: --held_out 0' * enough}"
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
    # actions are read as the environment's, and refused where they lie outside its range
    differences = {i: task.differences(t, raw=True, ranged=False) for i, t in enumerate(store.tasks)}
    fitting = [i for i, lines in differences.items() if not lines and (len(store.tasks) == 1 or store.tasks[i].name == name)]
    if not fitting:
        lines = differences[0] or [f"it is one of {len(store.tasks)} tasks and none is called '{name}'"]
        advice = _names_wanted(task, store.tasks[0])
        raise ValueError(f"{store.path} holds no demonstrations of '{name}': its task '{store.tasks[0].name}' differs: {lines[0]}{advice}")
    usable = np.isin(store.task_indices, fitting) & np.isin(store.behaviours, ["expert", "noisy", "human"])
    numbers = np.random.default_rng(0).permutation(np.flatnonzero(usable)).tolist()
    if not numbers:
        raise ValueError(
            f"{store.path} has {store.num_episodes} episodes, but none of an expert or a human; collect or import demonstrations"
        )
    count = min(20, len(numbers) // 10) if config.held_out is None else config.held_out
    if not 0 <= count < len(numbers):
        raise ValueError(f"held_out is {count}, but there are {len(numbers)} demonstrations; leave at least one to learn from")
    return Demonstrations(store, task, tuple(numbers[count:]), tuple(numbers[:count]), store.num_episodes - len(numbers))


def fitted(config: FewShotConfig, kind: str, demonstrations: Demonstrations, agent: Agent) -> FewShotConfig:
    """With what was not given, as `FewShotConfig.fitted` chooses it; where nobody chose `scratch`, without it for what it cannot take.

    **Raises:** `ValueError` for keypoints where no picture is shown.
    """
    task, chosen = demonstrations.task, config.modes
    has_pictures = any(f.modality is Modality.IMAGE for f in task.observations)
    config = config.fitted(kind, len(demonstrations.pool), has_pictures)
    if kind == NO_CHECKPOINT and not chosen and (fault := _unfit(task, agent)):
        _log.warning("scratch is left out: %s", fault)
        config = replace(config, modes=tuple(mode for mode in config.modes if mode != "scratch"))
    if "keypoints" in config.modes:
        check_pictures(demonstrations.task)
    return config


def _unfit(task: TaskSpec, agent: Agent) -> str | None:
    """Why an agent cannot take a task."""
    if agent.tokenizer.text is None and any(f.modality is Modality.TEXT for f in task.fields):
        return f"task '{task.name}' has texts, which only a checkpoint's tokenizer reads"
    try:
        check_fits(task, agent)
    except ValueError as error:
        return str(error)
    return None


def _names_wanted(task: TaskSpec, recorded: TaskSpec) -> str:
    """Advice where the fields of recordings are called otherwise than the environment's."""
    if {f.name for f in task.fields} == {f.name for f in recorded.fields}:
        return ""
    fields = ", ".join(f"{f.role} '{f.name}'" for f in task.fields)
    return f"; the environment's fields are {fields}: import the recordings under these names, or with --env"


_FOUND_OUT = ("random_return", "expert_return", "success", "episode_limit")


def _as_stored(task: TaskSpec, store: Store) -> TaskSpec:
    """What collecting the demonstrations found out about a task, where nothing else says it: both returns, success, the limit."""
    for known in store.tasks:
        if known.name == task.name:
            found = {name: getattr(known, name) for name in _FOUND_OUT if getattr(task, name) is None}
            return replace(task, **found)
    return task


def with_returns(demonstrations: Demonstrations, config: FewShotConfig) -> Demonstrations:
    """The demonstrations' task with what it lacks of both returns: random play is measured, the expert's is that of the demonstrations."""
    task = demonstrations.task
    random, expert, references = task.random_return, task.expert_return, {"random": "registry", "expert": "registry"}
    if envs.registered_name(task) not in envs.tasks():
        references = dict.fromkeys(references, "measured when the demonstrations were collected")
    if random is None:
        played = rollout(RandomPolicy(task, config.seed), task, RANDOM_EPISODES, config.seed, limits=config.limits)
        finished = [r.total_reward for r in played if not r.failed]
        if not finished:
            raise ValueError(f"all {len(played)} episodes of random play failed; the first: {played[0].failed}")
        random = float(np.mean(finished))
        references["random"] = f"{len(finished)} episodes of random play"
        if len(finished) < len(played):
            first = next(r.failed for r in played if r.failed)
            references["random"] += f"; {len(played) - len(finished)} more failed, the first: {first}"
    if expert is None:
        numbers = np.array([*demonstrations.pool, *demonstrations.held_out])
        returns = demonstrations.store.returns[numbers]
        if returns.any() or not random:
            expert, references["expert"] = float(returns.mean()), f"mean return of the {len(numbers)} demonstrations"
        else:  # recorded without rewards: their 0 would be a score of 100
            references["expert"] = f"unknown, since none of the {len(numbers)} demonstrations holds a reward"
    return replace(demonstrations, task=task.with_returns(random, expert), references=references)


def known(demonstrations: Demonstrations, agent: Agent) -> Demonstrations:
    """The demonstrations with their observations measured as the agent does where it knows the task.

    **Raises:** `ValueError` if the agent knows another task of this name.
    """
    task = demonstrations.task
    if task.name not in agent.tasks:
        return demonstrations
    if lines := agent.tasks[task.name].differences(task, raw=True):
        raise ValueError(f"the checkpoint means something else by task '{task.name}': {lines[0]}; give the environment another name")
    return replace(demonstrations, task=task.measured_as(agent.tasks[task.name]))


def measured_by(demonstrations: Demonstrations, agent: Agent, episodes: Sequence[Episode]) -> Demonstrations:
    """The demonstrations with their observations measured by some of them, those that a cell learns from.

    A task that the agent knows stays as it is measured, and the paper's layout keeps the origins of one that has some, and
    otherwise takes those that the episodes ask for. The compact one measures all that has no scale.
    """
    task = demonstrations.task
    if task.name in agent.tasks:
        return demonstrations
    if agent.tokenizer.layout == "compact":
        return replace(demonstrations, task=measured(task, episodes))
    if task.origins:
        return demonstrations
    inferred = inferred_origins(task, episodes)
    return replace(demonstrations, task=task.with_origins(inferred), inferred=inferred)


def check_fits(task: TaskSpec, agent: Agent) -> None:
    """**Raises:** `ValueError` where a timestep of the task has more values, or more positions, than the checkpoint takes."""
    tokenizer, context = agent.tokenizer, agent.model.config.context_length
    remedy = "name --modes retrieve clone, which take any number, or pretrain a model with a larger"
    for role, specs in (("observation", task.observations), ("action", task.actions)):
        count, most = sum(spec.num_tokens or 1 for spec in specs), tokenizer.max_local_positions
        if count > most:
            raise ValueError(
                f"a timestep of '{task.name}' has {count} {role} values and patches, but this checkpoint takes {most}; "
                f"{remedy} model.max_local_positions"
            )
    if (needed := tokenizer.positions_per_timestep(task)) > context:
        raise ValueError(
            f"a timestep of '{task.name}' takes {needed} positions, but this checkpoint has a context of {context}; "
            f"{remedy} model.context_length"
        )


def with_memory(demonstrations: Demonstrations, agent: Agent, memory: int | None) -> Demonstrations:
    """The demonstrations of a task with this memory, 0: as much as the context holds; by default what the agent knows.

    That is the memory of this task, or of its sibling where the registry holds this one out. Where it knows neither, it is one
    timestep in the compact layout, which learns more from few demonstrations so.
    """
    task = demonstrations.task
    context = agent.model.config.context_length
    if (memory or 0) > (most := context // max(1, agent.tokenizer.positions_per_timestep(task))) > 0:
        _log.warning(
            "--memory %d: the context of %d positions holds %d timesteps of '%s'; it sees so many", memory, context, most, task.name
        )
    if memory is None:
        names = task.name, envs.held_out().get(envs.registered_name(task), "")
        known = [agent.tasks[name].memory for name in names if name in agent.tasks]
        is_new = not known and agent.tokenizer.layout == "compact"
        memory = 1 if is_new else next((m for m in known if m), None)
    return replace(demonstrations, task=replace(task, memory=memory or None))
