"""Minari datasets, read through the `minari` package and without a network.

    NAMESPACE/NAME-vN/data/metadata.json      spaces, environment, counts
    NAMESPACE/NAME-vN/data/main_data.hdf5     all episodes; or EPISODE/part-0.parquet (or .arrow) for each

An episode holds T + 1 observations, so the final one is kept. What Minari has no place for (task specs, who acted,
success) travels under the key `gato` of its free metadata, where minari_writer.py puts it: our round trip is exact.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gato.episode import Behaviour, Episode, OutOfRange
from gato.setting import MAX_FLOAT32, Settings, bounded
from gato.spec import MAX_ELEMENTS, Modality, Role, TaskSpec

from .dataset import Dataset
from .files import files_digest
from .foreign import exact_cast, foreign_episode
from .left_out import LeftOut
from .lines import json_object
from .minari_spaces import leaves_of, refuse_pictures, with_bounds, with_remedy

if TYPE_CHECKING:
    from minari.dataset.minari_storage import MinariStorage

MAX_METADATA_BYTES = 2**27  # a picture's space alone lists every bound of every pixel
MAX_EPISODE_BYTES = 2**33

_TEXTS = ("dataset_id", "minari_version", "data_format", "observation_space", "action_space")

# what minari, h5py and pyarrow raise for files that are not what they expect
_DAMAGE = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    AssertionError,
    AttributeError,
    IndexError,
    RuntimeError,
    MemoryError,
    pa.ArrowException,
)


@dataclass(frozen=True)
class MinariReader(Settings):
    """Reads a Minari dataset.

    **Arguments:**

    - `root`: folder of datasets; PATH is then a dataset's id below it. Without it, PATH is a dataset's
      folder, or an id below $MINARI_DATASETS_PATH (else ~/.minari/datasets).
    - `task`: name of the task; by default the dataset's id.
    - `behaviour`: who acted, where the dataset does not say.
    - `licence`: of the data.
    - `clip_actions`: clip actions into the action space and count them, instead of refusing them.
    - `action_low`: bound of actions whose space has none.
    - `action_high`: likewise.
    """

    root: Path | None = None
    task: str | None = None
    behaviour: Behaviour = "expert"
    licence: str | None = None
    clip_actions: bool = False
    action_low: float | None = bounded(None, -MAX_FLOAT32, MAX_FLOAT32)
    action_high: float | None = bounded(None, -MAX_FLOAT32, MAX_FLOAT32)

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        left_out = left_out or LeftOut()
        folder = _find(path, self.root)
        metadata = _metadata(folder)
        storage = _storage(folder)
        tasks = self._tasks(folder, metadata, storage)
        episodes = _Episodes(folder, storage, {t.name: t for t in tasks}, self.behaviour, left_out)
        num_episodes = metadata.get("total_episodes")
        if type(num_episodes) is not int or num_episodes < 1:
            raise ValueError(f"{folder} has {num_episodes!r:.80} episodes; expected at least one")
        _check_count(folder, storage, num_episodes)
        infos = episodes.info_keys()
        if infos:
            left_out.count("infos, each a value a timestep", infos[0], len(infos))
        return Dataset(
            source=str(metadata["dataset_id"]),
            digest=files_digest(folder, (p for p in folder.rglob("*") if p.is_file())),
            tasks=tasks,
            splits={"train": num_episodes},
            episodes=episodes,
            provenance={**_provenance(metadata, storage), "licence": tasks[0].licence, "infos_left_out": infos},
            left_out=left_out,
        )

    def _tasks(self, folder: Path, metadata: Mapping[str, Any], storage: MinariStorage) -> tuple[TaskSpec, ...]:
        if tasks := _own_tasks(folder, metadata):
            if self.task is not None and len(tasks) > 1:
                raise ValueError(f"{folder} holds the tasks {[t.name for t in tasks]}, so they cannot all be named '{self.task}'")
        else:
            name = str(metadata["dataset_id"])
            try:
                action_space = with_bounds(storage.action_space, self.action_low, self.action_high)
                refuse_pictures(storage.observation_space)
                task = TaskSpec.from_spaces(name if "/" in name else f"minari/{name}", storage.observation_space, action_space)
                tasks = (replace(task, **_environment(metadata)),)
            except (ValueError, TypeError, AttributeError, OverflowError) as error:
                text = str(error) if isinstance(error, ValueError) else _reason(error)
                raise ValueError(f"{folder}: {with_remedy(text)}") from None
        given: dict[str, Any] = {"name": self.task, "licence": self.licence, "clip_actions": self.clip_actions or None}
        return tuple(replace(t, **{k: v for k, v in given.items() if v is not None}) for t in tasks)


# -- reading -----------------------------------------------------------------------------------------


class _Episodes:
    """Reads episode by episode, so that those before the start are not touched."""

    def __init__(
        self, folder: Path, storage: MinariStorage, tasks: Mapping[str, TaskSpec], behaviour: Behaviour, left_out: LeftOut
    ) -> None:
        self.folder, self.storage, self.tasks, self.behaviour, self.left_out = folder, storage, tasks, behaviour, left_out

    def __call__(self, split: str, start: int) -> Iterator[Episode]:
        yield from self.left_out.made(range(start, self.storage.total_episodes), self._episode)

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
            raise ValueError(f"{label} cannot be read ({_reason(error)}); fetch the dataset again") from None

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
        except OutOfRange as error:
            raise ValueError(f"{self.folder}, episode {i}: {error.found}; --clip_actions true clips them into their space") from None
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            text = f"has no {error}" if isinstance(error, KeyError) else error if isinstance(error, ValueError) else _reason(error)
            raise ValueError(f"{self.folder}, episode {i}: {text}") from None

    def _mapped(self, notes: Mapping[str, Any], record: Mapping[str, Any]) -> Episode:
        own = json.loads(notes.get("gato", "{}"))
        task = self.tasks[own["task"]] if len(self.tasks) > 1 else next(iter(self.tasks.values()))
        rewards = np.asarray(record["rewards"])
        length = len(rewards)
        if length != notes.get("total_steps", length):
            raise ValueError(
                f"{length} timesteps were read but its metadata says {notes['total_steps']}; the file is cut, or longer than minari reads"
            )
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


def _check_count(folder: Path, storage: MinariStorage, num_episodes: int) -> None:
    """**Raises:** `ValueError` if the files hold other episodes than the metadata counts: minari would pass over the rest."""
    if storage.FORMAT == "hdf5":
        import h5py

        try:
            with h5py.File(folder / "main_data.hdf5", "r") as file:
                found = sum(name.startswith("episode_") for name in file)
        except _DAMAGE as error:
            raise ValueError(f"{folder} cannot be read ({type(error).__name__}: {error}); fetch the dataset again") from None
    else:
        found = sum(part.is_dir() and part.name.isdigit() for part in folder.iterdir())
    if found != num_episodes:
        raise ValueError(f"{folder} holds {found} episodes, but its metadata says {num_episodes}; fetch it again, or mend total_episodes")


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
    tried = [Path(root) / path] if root is not None else [path, datasets_folder() / path]
    for folder in tried:
        for place in (folder / "data", folder):
            if (place / "metadata.json").is_file():
                return place
    raise ValueError(f"there is no Minari dataset at {' or '.join(map(str, tried))}: expected a folder with data/metadata.json")


def datasets_folder() -> Path:
    """Where minari keeps datasets; its own function would make the folder."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets").resolve()


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    if path.stat().st_size > MAX_METADATA_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MAX_METADATA_BYTES}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a JSON {type(values).__name__}, expected an object")
        if missing := set(_TEXTS) - set(values):
            # minari would build the environment that the file names to ask for its spaces
            raise ValueError(f"it lacks {sorted(missing)}; write it again with a newer minari")
        for key in _TEXTS:
            if not isinstance(values[key], str):
                raise ValueError(f"'{key}' is {values[key]!r:.80}, expected a text")
        for key in ("observation_space", "action_space"):
            _check_shapes(json_object(values[key], f"'{key}'"))
        env_spec = values.get("env_spec")
        if not (env_spec is None or (isinstance(env_spec, str) and isinstance(json.loads(env_spec or "{}"), dict | None))):
            raise ValueError(f"'env_spec' is {env_spec!r:.80}, expected an object as text")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no metadata of a Minari dataset: a space is not written as minari does ({type(error).__name__})"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no metadata of a Minari dataset: it is not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no metadata of a Minari dataset: {str(error)[:300]}") from None
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
    minari, _ = import_minari()
    try:
        return minari.MinariDataset(folder).storage
    except ImportError as error:
        raise ImportError(f"{folder}: {error}; run: pip install 'opengato[minari]'") from None
    except (NotImplementedError, *_DAMAGE) as error:
        raise ValueError(f"{folder} cannot be opened ({_reason(error)}); write it again with minari, or fetch it again") from None


def _reason(error: BaseException) -> str:
    """What a library says of a file; of a type that it did not expect, only that."""
    if isinstance(error, TypeError | AttributeError | AssertionError | IndexError):
        return f"{type(error).__name__}: a value is not written as minari does"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def import_minari() -> tuple[Any, Any]:
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
        text = str(error)[:300] if isinstance(error, ValueError) else f"it holds no task specs ({type(error).__name__})"
        raise ValueError(f"{folder / 'metadata.json'}, key 'gato': {text}") from None


def _provenance(metadata: Mapping[str, Any], storage: MinariStorage) -> dict[str, Any]:
    keys = ("dataset_id", "minari_version", "data_format", "author", "algorithm_name", "code_permalink", "description")
    found = {"format": "minari", **{key: metadata[key] for key in keys if metadata.get(key)}}
    if storage.jpeg_encoding:
        is_image = import_minari()[1].is_image_space
        spaces = {"observation": storage.observation_space, "action": storage.action_space}
        if lossy := [name for role, space in spaces.items() for name in leaves_of(space, role) if is_image(leaves_of(space, role)[name])]:
            found["lossy_jpeg"] = lossy
    return found
