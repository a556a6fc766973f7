"""Stores as a Minari dataset that `minari.load_dataset` opens, without loss: pictures are not made JPEGs.

Not by `create_dataset_from_buffers`, which wants all episodes at once and a place given by the process's environment:
the storage below it takes episodes one by one, in any folder.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gato.data.shards.columns import to_json
from gato.data.store import Store
from gato.episode import Episode
from gato.setting import Settings
from gato.spec import FieldSpec, Modality, Role, TaskSpec

from .foreign import joined_tasks, new_folder
from .minari import datasets_folder, import_minari

if TYPE_CHECKING:
    import gymnasium
    from minari.data_collector import EpisodeBuffer

MAX_PART_ROWS = 2**15  # minari 0.5 reads one batch of a parquet or arrow part, which newer pyarrow makes of this many rows
HDF5_UNWRITTEN_BYTES = 2**26  # more than it keeps back until a file is closed

_NAME = re.compile(r"[\w-]+-v\d+")


@dataclass(frozen=True)
class MinariWriter(Settings):
    """Writes stores of equal spaces as one Minari dataset, without loss: pictures are not made JPEGs.

    **Arguments:**

    - `dataset_id`: NAMESPACE/NAME-vN; by default the folder below $MINARI_DATASETS_PATH, else its last part.
    - `data_format`: of Minari's storages. Parquet and arrow keep a file per episode, and minari counts all
      of them after each one.
    - `repeat_final_observation`: where an episode lacks its final observation, repeat the last one, count
      it and mark it. Refused by default: Minari needs T + 1 observations, and a repeated one claims that
      the last action changed nothing.
    """

    dataset_id: str | None = None
    data_format: Literal["hdf5", "parquet", "arrow"] = "hdf5"
    repeat_final_observation: bool = False

    def write(self, stores: Sequence[Store], out: Path) -> dict[str, Any]:
        minari, storages = import_minari()
        name = self._id(out)
        tasks = _equal_tasks(stores)
        texts = _texts(stores, self.data_format)
        counts = {"episodes": 0, "timesteps": 0, "repeated_final_observations": 0}
        with new_folder(out.absolute()) as folder:  # minari 0.5.4 counts the bytes of absolute folders only
            storage = storages.MinariStorage.new(
                folder / "data", _space(tasks[0], "observation", texts), _space(tasks[0], "action", texts),
                _environment_spec(tasks), self.data_format, jpeg_encoding=False,
            )  # fmt: skip
            storage.update_metadata({"dataset_id": name, "minari_version": minari.__version__, **_described(tasks)})
            storage.update_episodes(self._buffers(stores, counts, folder))
            storage.update_episode_metadata(({"gato": to_json(_note(e))} for e in _episodes(stores)), range(counts["episodes"]))
        return counts

    def _id(self, out: Path) -> str:
        name = self.dataset_id
        if name is None:
            root = datasets_folder()
            name = out.resolve().relative_to(root).as_posix() if out.resolve().is_relative_to(root) else out.name
        if not all(re.fullmatch(r"[\w-]+", part) for part in name.split("/")) or not _NAME.fullmatch(name.split("/")[-1]):
            raise ValueError(f"'{name}' is no id of a Minari dataset; name the folder NAME-v0, or give --dataset_id NAMESPACE/NAME-v0")
        if name.split("/")[-1] != out.name:
            raise ValueError(
                f"the dataset '{name}' must lie in a folder '{name.split('/')[-1]}', not '{out.name}'; minari finds it by its id"
            )
        return name

    def _buffers(self, stores: Sequence[Store], counts: dict[str, int], folder: Path) -> Iterator[EpisodeBuffer]:
        """Minari's records one at a time; `counts` grows with them."""
        from minari.data_collector import EpisodeBuffer

        for episode in _episodes(stores):
            label = f"episode {counts['episodes']} of task '{episode.task.name}'"
            if self.data_format == "hdf5":
                _check_room(folder, episode)
            if self.data_format != "hdf5" and episode.num_timesteps >= MAX_PART_ROWS:
                raise ValueError(
                    f"{label} has {episode.num_timesteps} timesteps, but minari reads {MAX_PART_ROWS - 1} of a part; export as hdf5"
                )
            final = episode.final_observation
            if final is None:
                if not self.repeat_final_observation:
                    raise ValueError(
                        f"{label} has no final observation, but Minari needs T + 1; "
                        "--repeat_final_observation true repeats the last one and counts it"
                    )
                final = {name: values[-1] for name, values in episode.observations.items()}
                counts["repeated_final_observations"] += 1
            flags = np.zeros((2, episode.num_timesteps), bool)
            flags[:, -1] = episode.terminated, episode.truncated
            yield EpisodeBuffer(
                seed=episode.seed,
                observations=_values(episode.task.observations, episode.observations, final),
                actions=_values(episode.task.actions, episode.actions),
                rewards=episode.rewards,
                terminations=flags[0],
                truncations=flags[1],
            )
            counts["episodes"] += 1
            counts["timesteps"] += episode.num_timesteps


def _check_room(folder: Path, episode: Episode) -> None:
    """Where HDF5 meets a full disk it ends the process with a segmentation fault, so it must not."""
    values = (*episode.observations.values(), *episode.actions.values())
    size = sum(v.nbytes if v.dtype != object else sum(4 * len(text) for text in v) for v in values)
    if shutil.disk_usage(folder).free < size + HDF5_UNWRITTEN_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _equal_tasks(stores: Sequence[Store]) -> tuple[TaskSpec, ...]:
    """The tasks of all stores. **Raises:** `ValueError` if they do not share one pair of spaces."""
    first, *others = tasks = tuple(joined_tasks(stores).values())
    for task in others:
        moved = [f"{f.role} '{f.name}' has another path" for f, g in zip(first.fields, task.fields, strict=False) if f.path != g.path]
        if lines := first.differences(task) or moved:
            raise ValueError(
                f"a Minari dataset has one observation and one action space, but '{first.name}' and '{task.name}' differ: {lines[0]}"
            )
    if not first.observations:
        raise ValueError(f"task '{first.name}' observes nothing, and a Minari dataset needs observations; export it with jat")
    return tasks


def _texts(stores: Sequence[Store], data_format: str) -> tuple[set[str], int]:
    """All characters of all texts and the longest text's length: a Text space declares both."""
    characters: set[str] = set()
    longest = 1
    for episode in _episodes(stores) if any(f.modality is Modality.TEXT for f in stores[0].tasks[0].fields) else ():
        sides = {"observation": episode.observations, "action": episode.actions}
        for f in episode.task.fields:
            if f.modality is Modality.TEXT:
                final = [episode.final_observation[f.name]] if f.role == "observation" and episode.final_observation else []
                for text in {*map(str, sides[f.role][f.name]), *map(str, final)}:
                    characters.update(text)
                    longest = max(longest, len(text))
    if "\0" in characters and data_format == "hdf5":
        raise ValueError("a text holds the character U+0000, which HDF5 cannot store; export with --data_format parquet")
    return characters or {" "}, longest


def _nested(fields: Sequence[FieldSpec], leaf: Callable[[FieldSpec], Any], as_dict: Callable, as_tuple: Callable, depth: int = 0) -> Any:
    """Puts what `leaf` gives for each field where its path says."""
    if len(fields) == 1 and len(fields[0].path) == depth:
        return leaf(fields[0])
    if wrong := [f for f in fields if len(f.path) <= depth or "/" in str(f.path[depth])]:
        raise ValueError(f"{wrong[0].role} '{wrong[0].name}' has the path {wrong[0].path}, which has no place in Minari's nested spaces")
    groups: dict[str | int, list[FieldSpec]] = {}
    for f in fields:
        groups.setdefault(f.path[depth], []).append(f)
    parts = {key: _nested(group, leaf, as_dict, as_tuple, depth + 1) for key, group in groups.items()}
    return as_tuple([parts[i] for i in range(len(parts))]) if all(isinstance(key, int) for key in parts) else as_dict(parts)


def _space(task: TaskSpec, role: Role, texts: tuple[set[str], int]) -> gymnasium.Space:
    from gymnasium import spaces

    def leaf(f: FieldSpec) -> gymnasium.Space:
        if f.modality is Modality.TEXT:
            return spaces.Text(texts[1], min_length=0, charset="".join(sorted(texts[0])))
        if f.modality is Modality.IMAGE:
            return spaces.Box(0, 255, f.shape, np.uint8)
        low, high = f.bounds
        kind = np.dtype(f.dtype)
        if f.modality is Modality.DISCRETE and not f.shape:
            return spaces.Discrete(int(high - low) + 1, start=int(low))
        if f.modality is Modality.DISCRETE and kind.kind in "iu":
            return spaces.MultiDiscrete((high - low + 1).astype(np.int64), dtype=kind, start=low.astype(np.int64))
        if kind.kind in "iu":  # whole numbers with more values than discrete tokens have
            low, high = np.maximum(low, np.iinfo(kind).min), np.minimum(high, np.iinfo(kind).max)
        return spaces.Box(low.astype(kind), high.astype(kind), f.shape, kind.type)

    return _nested(task.observations if role == "observation" else task.actions, leaf, spaces.Dict, spaces.Tuple)


def _values(fields: Sequence[FieldSpec], values: Mapping[str, np.ndarray], final: Mapping[str, Any] | None = None) -> Any:
    def leaf(f: FieldSpec) -> list[str] | np.ndarray:
        column, last = values[f.name], [] if final is None else [final[f.name]]
        if f.modality is Modality.TEXT:
            return [*map(str, column), *map(str, last)]
        return np.concatenate([column, np.asarray(last, column.dtype).reshape(len(last), *f.shape)])

    return _nested(fields, leaf, dict, tuple)


def _episodes(stores: Sequence[Store]) -> Iterator[Episode]:
    return (store.episode(i) for store in stores for i in range(store.num_episodes))


def _note(episode: Episode) -> dict[str, Any]:
    """What Minari has no place for."""
    return {
        "task": episode.task.name,
        "behaviour": episode.behaviour,
        "success": episode.success,
        "parameters": episode.parameters,
        "final_observation_repeated": episode.final_observation is None,
    }


def _described(tasks: Sequence[TaskSpec]) -> dict[str, Any]:
    """Metadata of the dataset: our task specs, and for a single task the returns that Minari normalises scores by."""
    scores = {"ref_min_score": tasks[0].random_return, "ref_max_score": tasks[0].expert_return} if len(tasks) == 1 else {}
    return {"gato": {"tasks": [t.to_dict() for t in tasks]}, **{key: score for key, score in scores.items() if score is not None}}


def _environment_spec(tasks: Sequence[TaskSpec]) -> Any:
    """Gymnasium's spec of the environment, so that minari can build it; `None` where ours adds wrappers to it."""
    from gato import envs

    if len(tasks) > 1 or tasks[0].env_id is None:
        return None
    try:
        env = envs.make(tasks[0])
    except (ValueError, ImportError, RuntimeError):  # of another machine, or of another version
        return None
    spec = env.spec
    env.close()
    return None if spec is None or spec.additional_wrappers else spec
