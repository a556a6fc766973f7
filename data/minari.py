"""Minari datasets, both ways, through the `minari` package and without a network.

    NAMESPACE/NAME-vN/data/metadata.json      spaces, environment, counts
    NAMESPACE/NAME-vN/data/main_data.hdf5     all episodes; or EPISODE/part-0.parquet (or .arrow) for each

An episode holds T + 1 observations, so the final one is kept. What Minari has no place for (task specs, who
acted, success) travels under the key `gato` of its free metadata, so that our own round trip is exact.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from gato.episode import Behaviour, Episode
from gato.spec import MAX_ELEMENTS, FieldSpec, Modality, Role, TaskSpec

from .foreign import digest, exact_cast, foreign_episode, joined_tasks, new_folder, to_json
from .formats import Dataset
from .store import Store

if TYPE_CHECKING:
    import gymnasium
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

MAX_METADATA_BYTES = 2**27  # a picture's space alone lists every bound of every pixel
MAX_EPISODE_BYTES = 2**33

_NAME = re.compile(r"[\w-]+-v\d+")
# what minari, h5py and pyarrow raise for files that are not what they expect
_DAMAGE = (OSError, KeyError, ValueError, TypeError, AssertionError, AttributeError, IndexError, RuntimeError, MemoryError, pa.ArrowException)


@dataclass(frozen=True)
class MinariReader:
    """Reads a Minari dataset.

    **Arguments:**

    - `root`: folder of datasets; PATH is then a dataset's id below it. Without it, PATH is a dataset's
      folder, or an id below $MINARI_DATASETS_PATH (else ~/.minari/datasets).
    - `task`: name of the task; by default the dataset's id.
    - `behaviour`: who acted, where the dataset does not say.
    - `licence`: of the data.
    - `clip_actions`: clip actions into the action space and count them, instead of refusing them.
    """

    root: Path | None = None
    task: str | None = None
    behaviour: Behaviour = "expert"
    licence: str | None = None
    clip_actions: bool = False

    def open(self, path: Path) -> Dataset:
        folder = _find(path, self.root)
        metadata = _metadata(folder)
        storage = _storage(folder)
        tasks = self._tasks(folder, metadata, storage)
        episodes = _Episodes(folder, storage, {t.name: t for t in tasks}, self.behaviour)
        num_episodes = metadata.get("total_episodes")
        if type(num_episodes) is not int or num_episodes < 1:
            raise ValueError(f"{folder} has {num_episodes!r} episodes; expected at least one")
        return Dataset(
            source=str(metadata["dataset_id"]),
            digest=digest(folder, (p for p in folder.rglob("*") if p.is_file())),
            tasks=tasks,
            splits={"train": num_episodes},
            episodes=episodes,
            provenance={**_provenance(metadata, storage), "licence": tasks[0].licence, "infos_left_out": episodes.info_keys()},
        )

    def _tasks(self, folder: Path, metadata: Mapping[str, Any], storage: MinariStorage) -> tuple[TaskSpec, ...]:
        if tasks := _own_tasks(folder, metadata):
            if self.task is not None and len(tasks) > 1:
                raise ValueError(f"{folder} holds the tasks {[t.name for t in tasks]}, so they cannot all be named '{self.task}'")
        else:
            name = str(metadata["dataset_id"])
            try:
                task = TaskSpec.from_spaces(name if "/" in name else f"minari/{name}", storage.observation_space, storage.action_space)
                tasks = (replace(task, **_environment(metadata)),)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{folder}: {error}") from None
        given = {"name": self.task, "licence": self.licence, "clip_actions": self.clip_actions or None}
        return tuple(replace(t, **{k: v for k, v in given.items() if v is not None}) for t in tasks)


@dataclass(frozen=True)
class MinariWriter:
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
        # Not `create_dataset_from_buffers`: it wants all episodes at once and a place given by the process's
        # environment. The storage below it takes episodes one by one, in any folder.
        minari, storages = _import_minari()
        name = self._id(out)
        tasks = _equal_tasks(stores)
        texts = _texts(stores, self.data_format)
        counts = {"episodes": 0, "timesteps": 0, "repeated_final_observations": 0}
        with new_folder(out) as folder:
            storage = storages.MinariStorage.new(
                folder / "data", _space(tasks[0], "observation", texts), _space(tasks[0], "action", texts),
                _environment_spec(tasks), self.data_format, jpeg_encoding=False,
            )  # fmt: skip
            storage.update_metadata({"dataset_id": name, "minari_version": minari.__version__, **_described(tasks)})
            storage.update_episodes(_buffers(stores, self.repeat_final_observation, counts))
            storage.update_episode_metadata(
                ({"gato": to_json(_note(e))} for e in _episodes(stores)), range(counts["episodes"])
            )
        return counts

    def _id(self, out: Path) -> str:
        name = self.dataset_id
        if name is None:
            root = _datasets_folder()
            name = out.resolve().relative_to(root).as_posix() if out.resolve().is_relative_to(root) else out.name
        if not all(re.fullmatch(r"[\w-]+", part) for part in name.split("/")) or not _NAME.fullmatch(name.split("/")[-1]):
            raise ValueError(f"'{name}' is no id of a Minari dataset; name the folder NAME-v0, or give --dataset_id NAMESPACE/NAME-v0")
        if name.split("/")[-1] != out.name:
            raise ValueError(f"the dataset '{name}' must lie in a folder '{name.split('/')[-1]}', not '{out.name}'; minari finds it by its id")
        return name


# -- reading -----------------------------------------------------------------------------------------


class _Episodes:
    """Reads episode by episode, so that those before the start are not touched."""

    def __init__(self, folder: Path, storage: MinariStorage, tasks: Mapping[str, TaskSpec], behaviour: Behaviour) -> None:
        self.folder, self.storage, self.tasks, self.behaviour = folder, storage, tasks, behaviour

    def __call__(self, split: str, start: int) -> Iterator[Episode]:
        for i in range(start, self.storage.total_episodes):
            yield self._episode(i)

    def info_keys(self) -> list[str]:
        """Of the first episode: per-timestep values that a store has no column for."""
        return sorted(set(self._record(0)[1]["infos"] or {}) - {"success", "is_success"})

    def _record(self, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What Minari knows of episode i, and its values."""
        label = f"{self.folder}, episode {i}"
        try:
            self._check_size(i)
            (notes,) = self.storage.get_episode_metadata([i])
            (record,) = self.storage.get_episodes([i])
            return dict(notes), record
        except _DAMAGE as error:
            raise ValueError(f"{label} cannot be read ({type(error).__name__}: {error}); fetch the dataset again") from None

    def _check_size(self, i: int) -> None:
        """HDF5 may promise far more values than the file has bytes."""
        if self.storage.FORMAT != "hdf5":
            return
        import h5py

        sizes: list[int] = []
        with h5py.File(self.folder / "main_data.hdf5", "r") as file:
            file[f"episode_{i}"].visititems(lambda _, item: sizes.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
        if sum(sizes) > MAX_EPISODE_BYTES:
            raise ValueError(f"it promises {sum(sizes)} bytes, more than {MAX_EPISODE_BYTES}")

    def _episode(self, i: int) -> Episode:
        notes, record = self._record(i)
        try:
            return self._mapped(notes, record)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            text = f"has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{self.folder}, episode {i}: {text}") from None

    def _mapped(self, notes: Mapping[str, Any], record: Mapping[str, Any]) -> Episode:
        own = json.loads(notes.get("gato", "{}"))
        task = self.tasks[own["task"]] if len(self.tasks) > 1 else next(iter(self.tasks.values()))
        rewards = np.asarray(record["rewards"])
        length = len(rewards)
        if length != notes.get("total_steps", length):
            raise ValueError(f"{length} timesteps were read but its metadata says {notes['total_steps']}; the file is cut, or minari reads a part")
        observed = _columns(task, "observation", record["observations"], length + 1)
        terminations, truncations = (np.asarray(record[key]).astype(bool) for key in ("terminations", "truncations"))
        for key, flags in (("terminations", terminations), ("truncations", truncations)):
            if flags.shape != (length,):
                raise ValueError(f"{key} have the shape {flags.shape}, expected ({length},)")
            if flags[:-1].any():
                raise ValueError(f"{key} are set at timestep {np.argmax(flags)} of {length}; only the last may be, so split the episode")
        is_repeated = bool(own.get("final_observation_repeated", False))
        known = {"seed": notes.get("seed"), "options": notes.get("options")}
        return foreign_episode(
            task,
            _columns(task, "action", record["actions"], length),
            own.get("parameters", {"options": known["options"]} if known["options"] else {}),
            observations={name: values[:-1] for name, values in observed.items()},
            final_observation=None if is_repeated else {name: values[-1] for name, values in observed.items()},
            rewards=rewards.astype(np.float32),
            terminated=bool(length and terminations[-1]),
            truncated=bool(length and truncations[-1]),
            behaviour=own.get("behaviour", self.behaviour),
            success=own["success"] if "success" in own else _reported_success(record["infos"] or {}),
            seed=None if known["seed"] is None else int(known["seed"]),
        )


def _columns(task: TaskSpec, role: Role, nested: Any, length: int) -> dict[str, np.ndarray]:
    """`{field name: (length, *shape)}`."""
    columns = {}
    for spec, part in zip(task.observations if role == "observation" else task.actions, task.flatten(nested, role).values(), strict=True):
        if spec.modality is Modality.TEXT:
            values = np.empty(len(part), object)
            values[:] = part
        else:
            values = exact_cast(np.asarray(part), spec.dtype)
        if len(values) != length:
            raise ValueError(f"{role} '{spec.name}' has {len(values)} values, expected {length}" + " (T + 1)" * (role == "observation"))
        columns[spec.name] = values
    return columns


def _reported_success(infos: Mapping[str, Any]) -> bool | None:
    for key in ("success", "is_success"):
        if key in infos and np.size(infos[key]):
            return bool(np.ravel(infos[key])[-1])
    return None


def _find(path: Path, root: Path | None) -> Path:
    """The folder that holds `metadata.json`."""
    tried = [Path(root) / path] if root is not None else [path, _datasets_folder() / path]
    for folder in tried:
        for place in (folder / "data", folder):
            if (place / "metadata.json").is_file():
                return place
    raise ValueError(f"there is no Minari dataset at {' or '.join(map(str, tried))}: expected a folder with data/metadata.json")


def _datasets_folder() -> Path:
    """Where minari keeps datasets; its own function would make the folder."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets").resolve()


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    if path.stat().st_size > MAX_METADATA_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MAX_METADATA_BYTES}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if missing := {"dataset_id", "minari_version", "data_format", "observation_space", "action_space"} - set(values):
            # minari would build the environment that the file names to ask for its spaces
            raise ValueError(f"it lacks {sorted(missing)}; write it again with a newer minari")
        for key in ("observation_space", "action_space"):
            _check_shapes(json.loads(values[key]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no metadata of a Minari dataset: {error}") from None
    return values


def _check_shapes(space: Mapping[str, Any]) -> None:
    """Shapes are claims of a file: they are bounded before anything is allocated."""
    inner = space.get("subspaces", [])
    for part in inner.values() if isinstance(inner, dict) else inner:
        _check_shapes(part)
    sizes = space.get("shape", space.get("n") if space["type"] == "MultiBinary" else [])
    if np.prod(np.ravel(sizes).astype(float)) > MAX_ELEMENTS:
        raise ValueError(f"a space has the shape {sizes}, more than {MAX_ELEMENTS} elements")


def _storage(folder: Path) -> MinariStorage:
    """**Raises:** `ValueError` for what minari cannot open, a dataset of another version included."""
    minari, _ = _import_minari()
    try:
        return minari.MinariDataset(folder).storage
    except ImportError as error:
        raise ImportError(f"{folder}: {error}; run: pip install 'opengato[minari]'") from None
    except (NotImplementedError, *_DAMAGE) as error:
        raise ValueError(f"{folder} cannot be opened ({type(error).__name__}: {error})") from None


def _import_minari() -> tuple[Any, Any]:
    try:
        import minari
        from minari.dataset import minari_storage
    except ImportError as error:
        raise ImportError(f"Minari datasets need minari ({error}); run: pip install 'opengato[minari]'") from None
    return minari, minari_storage


def _environment(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the dataset says of its environment, as arguments of `TaskSpec`."""
    spec = json.loads(metadata.get("env_spec") or "{}")
    return {
        "env_id": spec.get("id"),
        "env_kwargs": spec.get("kwargs") or {},
        "episode_limit": spec.get("max_episode_steps"),
        "random_return": metadata.get("ref_min_score"),
        "expert_return": metadata.get("ref_max_score"),
    }


def _own_tasks(folder: Path, metadata: Mapping[str, Any]) -> tuple[TaskSpec, ...]:
    """The task specs that our writer left, if it was ours."""
    try:
        return tuple(TaskSpec.from_dict(values) for values in metadata.get("gato", {}).get("tasks", ()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / 'metadata.json'}, key 'gato': {error}") from None


def _provenance(metadata: Mapping[str, Any], storage: MinariStorage) -> dict[str, Any]:
    keys = ("dataset_id", "minari_version", "data_format", "author", "algorithm_name", "code_permalink", "description")
    found = {"format": "minari", **{key: metadata[key] for key in keys if metadata.get(key)}}
    if storage.jpeg_encoding:
        is_image = _import_minari()[1].is_image_space
        spaces = {"observation": storage.observation_space, "action": storage.action_space}
        if lossy := [name for role, space in spaces.items() for name in _leaves(space, role) if is_image(_leaves(space, role)[name])]:
            found["lossy_jpeg"] = lossy
    return found


def _leaves(space: gymnasium.Space, name: str) -> dict[str, gymnasium.Space]:
    from gymnasium import spaces

    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return {name: space}
    parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    return {inner: leaf for key, part in parts for inner, leaf in _leaves(part, f"{name}/{key}").items()}


# -- writing -----------------------------------------------------------------------------------------


def _equal_tasks(stores: Sequence[Store]) -> tuple[TaskSpec, ...]:
    """The tasks of all stores. **Raises:** `ValueError` if they do not share one pair of spaces."""
    first, *others = tasks = tuple(joined_tasks(stores).values())
    for task in others:
        moved = [f"{f.role} '{f.name}' has another path" for f, g in zip(first.fields, task.fields, strict=False) if f.path != g.path]
        if lines := first.differences(task) or moved:
            raise ValueError(f"a Minari dataset has one observation and one action space, but '{first.name}' and '{task.name}' differ: {lines[0]}")
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


def _buffers(stores: Sequence[Store], may_repeat: bool, counts: dict[str, int]) -> Iterator[EpisodeBuffer]:
    """Minari's records one at a time; `counts` grows with them."""
    from minari.data_collector import EpisodeBuffer

    for episode in _episodes(stores):
        final = episode.final_observation
        if final is None:
            if not may_repeat:
                raise ValueError(
                    f"episode {counts['episodes']} of task '{episode.task.name}' has no final observation, but Minari needs T + 1; "
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
    except (ValueError, ImportError):  # of another machine, or of another version
        return None
    spec = env.spec
    env.close()
    return None if spec is None or spec.additional_wrappers else spec
