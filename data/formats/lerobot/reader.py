"""LeRobot datasets as episodes, versions 3.0 and 2.1, without the lerobot package.

`observation.state` becomes the observation `state`, cameras become pictures of one size, the sentence of a
timestep becomes the observation `instruction`, and `action` takes its range from the dataset's statistics. The
format has no last observation; datasets that we wrote (data/formats/lerobot/writer.py) carry it, with the exact task,
in a folder `gato` that lerobot does not look at.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gato.data.formats.dataset import Dataset
from gato.data.formats.left_out import LeftOut
from gato.data.formats.lines import load_json
from gato.data.formats.recordings.frames import look
from gato.data.shards.columns import FINAL
from gato.data.video import frames_at
from gato.episode import Behaviour, Episode, OutOfRange, clip_actions
from gato.picture import fit_image
from gato.setting import MAX_FLOAT32, MAX_SIDE, Settings, bounded
from gato.spec import NUM_DISCRETE_VALUES, FieldSpec, Modality, Role, TaskSpec

from .layout import Layout, open_parquet
from .rows import Rows, check_rows, column_of, numbers_of, pictures_of

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index", "subtask_index")
OUTCOMES = ("next.reward", "next.done", "next.success")
MARGIN = 0.01  # of the range seen, by which an action's range is widened on both sides
MAX_EPISODE_BYTES = 2**31  # of one episode as we hold it
TASKS_FILE, EPISODES_FILE = Path("gato", "tasks.json"), Path("gato", "episodes.parquet")


@dataclass(frozen=True)
class LeRobotReader(Settings):
    """How `gato data import lerobot` reads a dataset.

    **Arguments:**

    - `image_size`: rows and columns of the pictures; those of our own export, else 64 and 64.
    - `instruction`: false leaves the sentence of each timestep out.
    - `action_low`: smallest action, one number or one per element; by default the smallest seen, less 1 % of the range.
    - `action_high`: largest action, likewise.
    - `leave_out`: features to leave out.
    - `behaviour`: who acted.
    - `clip_actions`: clip actions into their range and count them, instead of refusing them.
    """

    image_size: tuple[int, int] | None = bounded(None, 1, MAX_SIDE)
    instruction: bool = True
    action_low: list[float] | None = bounded(None, -MAX_FLOAT32, MAX_FLOAT32)  # noqa: RUF009  # the default is None
    action_high: list[float] | None = bounded(None, -MAX_FLOAT32, MAX_FLOAT32)  # noqa: RUF009
    leave_out: list[str] = field(default_factory=list)
    behaviour: Behaviour = "human"
    clip_actions: bool = False

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` naming the file and what is wrong in it."""
        layout = Layout.open(Path(path))
        if unknown := sorted(set(self.leave_out) - set(layout.features)):
            raise ValueError(f"{path} has no features {unknown} to leave out; it has {sorted(layout.features)}")
        is_ours = self == LeRobotReader() and (layout.folder / TASKS_FILE).exists()
        left_out = left_out or LeftOut()
        source = _Ours(layout, left_out) if is_ours else _Theirs(layout, self, left_out)
        episodes = {name: len(places) for name, places in layout.splits.items()}
        features = sorted(set(layout.features) - set(source.fields) - set(BOOKKEEPING) - set(source.outcomes))
        if features:
            left_out.count("features", features[0], len(features))
        if unsplit := sorted(set(range(len(layout.lengths))).difference(*layout.splits.values())):
            left_out.count("episodes that no split of info.json names", f"episode {unsplit[0]}", len(unsplit))
        facts = {
            "format": "lerobot",
            "version": layout.version,
            "licence": layout.licence,
            "fps": layout.fps,
            "robot": layout.robot,
            "features_left_out": features,
            "rewards": "next.reward" if "next.reward" in source.outcomes else "absent, so zeros",
        }
        return Dataset(layout.folder.resolve().name, layout.digest(), source.tasks, episodes, source, facts, left_out)


def features_of(task: TaskSpec) -> tuple[dict[str, FieldSpec], FieldSpec | None]:
    """The names that our fields have in LeRobot, and the text observation that becomes its `task`.

    **Raises:** `ValueError` for what the format cannot hold.
    """
    texts = [f for f in task.observations if f.modality is Modality.TEXT]
    sentence = next((f for f in texts if f.name == "instruction"), texts[0] if texts else None)
    features: dict[str, FieldSpec] = {}
    for f in task.fields:
        name = f.name.replace("/", ".")
        if f is sentence:
            continue
        if f.role == "action":
            feature = "action" if len(task.actions) == 1 else f"action.{name}"
        elif f.modality is Modality.IMAGE:
            feature = "observation.image" if name in ("image", "observation") else f"observation.images.{name.removeprefix('images.')}"
        else:
            feature = "observation.state" if name == "observation" else f"observation.{name}"
        if f.role == "action" and f.modality is Modality.TEXT:
            raise ValueError(f"task '{task.name}': action '{f.name}' is text, which LeRobot has no actions for; export control tasks only")
        if feature in features or len(f.shape) > 5:
            raise ValueError(f"task '{task.name}': {f.role} '{f.name}' finds no place as '{feature}' in LeRobot; rename or reshape it")
        features[feature] = f
    return features, sentence


class _Source(ABC):
    """Reads episodes; `fields` and `tasks` say what they are made of."""

    tasks: tuple[TaskSpec, ...]
    fields: dict[str, FieldSpec]
    instruction: str | None

    def __init__(self, layout: Layout, left_out: LeftOut) -> None:
        self.layout, self.left_out = layout, left_out
        self.outcomes = [name for name in OUTCOMES if name in layout.features]

    def __call__(self, split: str, start: int) -> Iterator[Episode]:
        wanted = [f for f, spec in self.fields.items() if self.layout.features[f]["dtype"] != "video"]
        rows = Rows([*wanted, *self.outcomes, *BOOKKEEPING])
        ends = self.layout.ends()
        for i in self.layout.splits[split][start:]:
            path, first = self.layout.rows(i)
            length = int(self.layout.lengths[i])
            size = length * sum(f.size * (8 if f.modality is Modality.TEXT else np.dtype(f.dtype).itemsize) for f in self.fields.values())
            if size > MAX_EPISODE_BYTES:
                raise ValueError(f"{path}, episode {i} would take {size} bytes, more than {MAX_EPISODE_BYTES}; choose a smaller image_size")
            try:
                table = rows.read(path, first, length)
                check_rows(table, i, first)
                if path in ends and ends[path] == first + length:
                    rows.check_end(path, first + length)
                episode = self.episode(i, self._values(i, table), table)
            except OutOfRange as error:
                remedy = "--clip_actions true clips it, --action_low and --action_high widen the range"
                self.left_out.episode(ValueError(f"{path}, episode {i}: {error.found}; {remedy}"))
            except ValueError as error:
                text = str(error).removeprefix(str(path)).lstrip(", ")
                self.left_out.episode(ValueError(f"{path}, episode {i}: {text}"))
            else:
                yield episode

    @abstractmethod
    def episode(self, i: int, values: dict[tuple[Role, str], np.ndarray], table: pa.Table) -> Episode:
        """Episode i of its fields' values and its rows."""

    def _values(self, i: int, table: pa.Table) -> dict[tuple[Role, str], np.ndarray]:
        """`{(role, field name): array (T, *shape)}`."""
        values: dict[tuple[Role, str], np.ndarray] = {}
        for name, spec in self.fields.items():
            try:
                values[spec.role, spec.name] = self._column(i, name, spec, table)
            except ValueError as error:
                raise ValueError(f"field '{name}': {error}") from None
        if self.instruction is not None:
            numbers = numbers_of(column_of(table, "task_index"), (), "int64")
            if unknown := set(numbers.tolist()) - set(self.layout.sentences):
                raise ValueError(f"task_index is {min(unknown)}, which the file of tasks lacks; restore it, or say --instruction false")
            values["observation", self.instruction] = np.array([self.layout.sentences[int(k)] for k in numbers], object)
        return values

    def _column(self, i: int, name: str, spec: FieldSpec, table: pa.Table) -> np.ndarray:
        kind = self.layout.features[name]["dtype"]
        if spec.modality is Modality.IMAGE:
            frames = self._frames(i, name, table) if kind == "video" else pictures_of(column_of(table, name))
            rows, columns = spec.shape[:2]
            pictures = np.empty((len(table), *spec.shape), np.uint8)
            for k, picture in enumerate(frames):
                pictures[k] = fit_image(picture, (rows, columns))
            return pictures
        if spec.modality is Modality.TEXT:
            texts = column_of(table, name).to_pylist()
            return np.array(texts, object)
        declared = tuple(self.layout.features[name]["shape"])
        shape = () if declared == (1,) else declared
        return numbers_of(column_of(table, name), shape, spec.dtype).reshape(len(table), *spec.shape)

    def _frames(self, i: int, name: str, table: pa.Table) -> Iterator[np.ndarray]:
        path, start = self.layout.video(i, name)
        seconds = numbers_of(column_of(table, "timestamp"), (), "float64")
        if not np.isfinite(seconds).all() or (np.diff(seconds) < 0).any():
            raise ValueError("the timestamps do not ascend, so no frame can be found for them")
        return frames_at(path, [start + float(s) for s in seconds], 0.5 / self.layout.fps)

    def _rewards(self, table: pa.Table) -> np.ndarray:
        if "next.reward" not in self.outcomes:
            return np.zeros(len(table), np.float32)
        return numbers_of(column_of(table, "next.reward"), (), "float32")


class _Theirs(_Source):
    """A dataset by anyone: the task is what `info.json` and the statistics say."""

    def __init__(self, layout: Layout, options: LeRobotReader, left_out: LeftOut) -> None:
        super().__init__(layout, left_out)
        self.options = options
        unread = {*BOOKKEEPING, *options.leave_out}
        self.outcomes = [name for name in self.outcomes if name not in unread]
        names = [n for n in layout.features if n not in unread and not n.startswith("next.")]
        paths = _paths(names)
        self.fields = {name: self._field(name, paths[name]) for name in names}
        self.instruction = "instruction" if options.instruction else None
        specs = [*self.fields.values()]
        if self.instruction:
            specs.append(FieldSpec("instruction", Modality.TEXT, "observation", dtype="str", path=("instruction",)))
        self.tasks = (
            TaskSpec(f"lerobot/{layout.folder.resolve().name}", tuple(specs), licence=layout.licence, clip_actions=options.clip_actions),
        )

    def episode(self, i: int, values: dict[tuple[Role, str], np.ndarray], table: pa.Table) -> Episode:
        flags = {n: numbers_of(column_of(table, n), (), "bool") for n in self.outcomes if n != "next.reward"}
        done = flags.get("next.done", np.zeros(len(table), bool))
        if done[:-1].any():
            t = int(np.argmax(done))
            raise ValueError(f"next.done is true at frame {t} of {len(done)}; an episode ends once; --leave_out '[\"next.done\"]' reads on")
        actions, num_clipped = {name: v for (role, name), v in values.items() if role == "action"}, 0
        if self.options.clip_actions:
            actions, num_clipped = clip_actions(self.tasks[0], actions)
        return Episode(
            task=self.tasks[0],
            observations={name: v for (role, name), v in values.items() if role == "observation"},
            actions=actions,
            rewards=self._rewards(table),
            terminated=bool(done[-1]),
            truncated=not done[-1],  # the recording was stopped
            behaviour=self.options.behaviour,
            success=bool(flags["next.success"].any()) if "next.success" in flags else None,
            parameters={"episode_index": i} | ({"clipped_actions": num_clipped} if num_clipped else {}),
        )

    def _field(self, name: str, path: tuple[str, ...]) -> FieldSpec:
        kind, shape = self.layout.features[name]["dtype"], tuple(self.layout.features[name]["shape"])
        role = _role(name)
        common: dict[str, Any] = {"name": "/".join(path) or "action", "role": role, "path": path}
        label = f"{self.layout.folder}: feature '{name}'"
        leave_out = f"leave it out: --leave_out '[\"{name}\"]'"
        notes = self.layout.features[name].get("info")
        if kind == "video" and isinstance(notes, dict) and notes.get("video.is_depth_map") is True:
            raise ValueError(f"{label} is a film of distances, which would be read as colours; {leave_out}")
        if role == "observation" and kind not in ("image", "video", "string") and (found := look(kind, shape)):
            raise ValueError(f"{label} looks like {found} {shape}, which would be read as numbers; store it as dtype image, or {leave_out}")
        if kind in ("image", "video"):
            rows, columns = self.options.image_size or (64, 64)
            return FieldSpec(modality=Modality.IMAGE, shape=(rows, columns, 3), dtype="uint8", **common)
        if kind == "string":
            return FieldSpec(modality=Modality.TEXT, dtype="str", **common)
        if kind not in ("bool", "float16", "float32", "float64", *(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64))):
            raise ValueError(f"{label} has dtype '{kind}', which has no token form; leave it out: --leave_out '[\"{name}\"]'")
        if kind == "bool":
            return FieldSpec(modality=Modality.DISCRETE, shape=shape, dtype="bool", low=(0,), high=(1,), **common)
        if kind.startswith("float") and role == "observation":
            return FieldSpec(modality=Modality.CONTINUOUS, shape=shape, dtype=kind, **common)
        low, high = self._range(name, label, role == "action" and kind.startswith("float"))
        if "int" in kind and (high - low).max() < NUM_DISCRETE_VALUES:
            common |= {"low": tuple(int(v) for v in low), "high": tuple(int(v) for v in high)}
            return FieldSpec(modality=Modality.DISCRETE, shape=shape, dtype=kind, **common)
        if role == "observation":
            return FieldSpec(modality=Modality.CONTINUOUS, shape=shape, dtype=kind, **common)
        span = np.maximum(high - low, 1e-3 * np.maximum(np.maximum(abs(low), abs(high)), 1e-3))  # a constant has none of its own
        common |= {
            "low": _given(low - MARGIN * span, self.options.action_low),
            "high": _given(high + MARGIN * span, self.options.action_high),
        }
        return FieldSpec(modality=Modality.CONTINUOUS, shape=shape, dtype=kind, **common)

    def _range(self, name: str, label: str, may_be_given: bool) -> tuple[np.ndarray, np.ndarray]:
        size = int(np.prod(self.layout.features[name]["shape"]))
        low, high = self.layout.stats.get(name, (np.empty(0), np.empty(0)))
        if low.shape == high.shape == (size,) and np.isfinite([low, high]).all() and (low <= high).all():
            return low, high
        if may_be_given and self.options.action_low is not None and self.options.action_high is not None:
            return np.zeros(size), np.zeros(size)  # not used
        remedy = "give --action_low and --action_high" if may_be_given else f"leave it out: --leave_out '[\"{name}\"]'"
        raise ValueError(f"{label} needs a range, but the statistics in meta hold no smallest and largest value of its {size}; {remedy}")


class _Ours(_Source):
    """A dataset that we exported: the task, the ends of the episodes and the last observations are kept beside."""

    def __init__(self, layout: Layout, left_out: LeftOut) -> None:
        super().__init__(layout, left_out)
        path = layout.folder / TASKS_FILE
        try:
            self.tasks = tuple(TaskSpec.from_dict(t) for t in load_json(path)["tasks"])
            self.fields, sentence = features_of(self.tasks[0])
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} holds no task specs ({error}); without the folder 'gato' the dataset is read as any other") from None
        self.instruction = sentence.name if sentence else None
        if missing := sorted(set(self.fields) - set(layout.features)):
            raise ValueError(f"{path} expects the features {missing}; without the folder 'gato' the dataset is read as any other")
        for name, spec in self.fields.items():
            if spec.modality is not Modality.IMAGE and int(np.prod(layout.features[name]["shape"])) != spec.size:
                raise ValueError(f"{path} has '{name}' of shape {spec.shape}, but info.json has {layout.features[name]['shape']}")
        self.ends = Rows(open_parquet(layout.folder / EPISODES_FILE).schema_arrow.names)

    def episode(self, i: int, values: dict[tuple[Role, str], np.ndarray], table: pa.Table) -> Episode:
        path = self.layout.folder / EPISODES_FILE
        row = self.ends.read(path, i, 1)
        known = {name: row[name][0].as_py() for name in row.column_names if not name.startswith(FINAL)}
        if known["length"] != len(table) or not 0 <= known["task_index"] < len(self.tasks):
            raise ValueError(f"{path} does not fit the dataset; without the folder 'gato' it is read as any other")
        task = self.tasks[known["task_index"]]
        is_known = task.observations and row[FINAL + task.observations[0].name].null_count == 0
        return Episode(
            task=task,
            observations={f.name: values["observation", f.name] for f in task.observations},
            actions={f.name: values["action", f.name] for f in task.actions},
            rewards=self._rewards(table),
            final_observation={f.name: _final(row[FINAL + f.name], f) for f in task.observations} if is_known else None,
            parameters=json.loads(known["parameters"]),
            **{key: known[key] for key in ("terminated", "truncated", "behaviour", "success", "seed")},
        )


def _final(column: pa.ChunkedArray, spec: FieldSpec) -> Any:
    if spec.modality is Modality.TEXT:
        return column[0].as_py()
    return numbers_of(column, (spec.size,) if spec.shape else (), spec.dtype).reshape(spec.shape)[()]


def _paths(names: list[str]) -> dict[str, tuple[str, ...]]:
    """`observation.images.front` -> `("images", "front")`; `action` alone -> `()`.

    A key that leads both to a value and to others, such as `arm` and `arm.left`, is not taken apart.
    """
    paths: dict[str, tuple[str, ...]] = {}
    for name in names:
        role, _, rest = name.partition(".")
        if name == "action":
            paths[name] = () if sum(n.split(".")[0] == "action" for n in names) == 1 else ("action",)
        else:
            paths[name] = tuple((rest if role in ("observation", "action") and rest else name).split("."))
    for name, path in list(paths.items()):
        if any(other[: len(path)] == path and other != path and _role(n) == _role(name) for n, other in paths.items()):
            paths |= {n: (".".join(p),) for n, p in paths.items() if _role(n) == _role(name) and p[: len(path)] == path}
    return paths


def _role(name: str) -> Role:
    return "action" if name.split(".")[0] == "action" else "observation"


def _given(bound: np.ndarray, option: list[float] | None) -> tuple[float, ...]:
    return tuple(float(v) for v in (bound if option is None else option))
