"""JAT-style data sets of the Hugging Face hub: a row is an episode, a subset (`domain-task`) is a task.

    continuous_observations  List(List(float32))     continuous_actions  List(List(float32))
    discrete_observations    List(List(int64))       discrete_actions    List(int64)
    text_observations        List(string)            rewards             List(float32)
    image_observations       List(Image)             text, images        of documents and captions

The format declares no ranges, so reading looks at every row once before it begins. Fields of one kind are
concatenated in canonical order; files of ours carry the task specs that take them apart again, and the final
observation in columns of their own.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from gato.episode import Behaviour, Episode
from gato.spec import FieldSpec, Modality, Role, TaskSpec

from .captions import FORMATS, caption_task, fit_image, read_image
from .foreign import digest, exact_cast, foreign_episode
from .formats import Dataset
from .manifest import task_differences
from .rows import RowFile, layout
from .text import document_task

# column -> what it holds: the fields of this role and modality, one after the other
CONTROL: dict[str, tuple[Role, Modality]] = {
    "continuous_observations": ("observation", Modality.CONTINUOUS),
    "discrete_observations": ("observation", Modality.DISCRETE),
    "text_observations": ("observation", Modality.TEXT),
    "instruction": ("observation", Modality.TEXT),  # one text per episode: every timestep observes it
    "image_observations": ("observation", Modality.IMAGE),
    "continuous_actions": ("action", Modality.CONTINUOUS),
    "discrete_actions": ("action", Modality.DISCRETE),
}
FINAL = {name: f"final_{name.removesuffix('s')}" for name, (role, _) in CONTROL.items() if role == "observation" and name != "instruction"}
NUMBERS = (Modality.CONTINUOUS, Modality.DISCRETE)


@dataclass(frozen=True)
class JatReader:
    """Reads parquet, Arrow and JSON-lines folders whose rows are episodes, documents or captioned pictures.

    **Arguments:**

    - `subset`: which folder of several, such as atari-alien.
    - `hub`: PATH is the name of a data set, fetched with `datasets`; without it nothing is.
    - `task`: name of the task; by default the subset with a slash, such as atari/alien.
    - `image_size`: rows and columns that pictures are fitted into; by default the size of the first one for
      episodes, and 64 64 for captions.
    - `stacked_frames`: pictures of four channels are four grey frames, of which the last is kept.
    - `num_actions`: discrete actions lie in [0, num_actions); by default up to the largest one found.
    - `action_low`: bound of all continuous actions; by default the smallest value found, per element.
    - `action_high`: likewise, the largest.
    - `behaviour`: who acted, where the data does not say.
    - `licence`: of the data.
    - `clip_actions`: clip actions into their range and count them, instead of refusing them.
    """

    subset: str | None = None
    hub: bool = False
    task: str | None = None
    image_size: tuple[int, int] | None = None
    stacked_frames: bool = False
    num_actions: int | None = None
    action_low: float | None = None
    action_high: float | None = None
    behaviour: Behaviour = "expert"
    licence: str | None = None
    clip_actions: bool = False

    def open(self, path: Path) -> Dataset:
        label, found = (path.as_posix(), _from_hub(path.as_posix(), self.subset)) if self.hub else _local(path, self.subset)
        splits = {split: [RowFile.open(file) for file in files] for split, files in found.items()}
        files = [file for parts in splits.values() for file in parts]
        names = _same_columns(files)
        name = self.task or (label.replace("-", "/", 1) if "-" in label and "/" not in label else f"jat/{Path(label).stem}")
        tasks, inferred = self._tasks(name, files, names)
        return Dataset(
            source=label,
            digest=digest(files[0].path.parent, (file.path for file in files)),
            tasks=tasks,
            splits={split: sum(file.num_rows for file in parts) for split, parts in splits.items()},
            episodes=_Episodes(splits, {t.name: t for t in tasks}, self),
            provenance={"format": "jat", "licence": self.licence, **inferred, **_unknown(names)},
        )

    def _tasks(self, name: str, files: Sequence[RowFile], names: Sequence[str]) -> tuple[tuple[TaskSpec, ...], dict[str, Any]]:
        """The task specs, and what was inferred to make them."""
        if tasks := _own_tasks(files):
            inferred: dict[str, Any] = {}
            if self.task is not None and len(tasks) > 1:
                raise ValueError(f"{files[0].path} holds the tasks {[t.name for t in tasks]}, so they cannot all be named '{self.task}'")
            tasks = tuple(replace(t, name=self.task or t.name) for t in tasks)
        elif "rewards" in names and {"continuous_actions", "discrete_actions"} & set(names):
            ranges = _Ranges(self)
            for file in files:
                ranges.read(file, [n for n in names if n in CONTROL or n in ("rewards", "task")])
            fields, inferred = ranges.fields()
            tasks = tuple(TaskSpec(n, fields) for n in (ranges.tasks if self.task is None and ranges.tasks else [name]))
        elif "text" in names:
            inferred = {}
            tasks = (caption_task(name, self.image_size or (64, 64)) if "images" in names else document_task(name),)
        else:
            raise ValueError(f"{files[0].path} has the columns {list(names)}; expected 'rewards' with actions and observations, or 'text'")
        given = {"licence": self.licence, "clip_actions": self.clip_actions or None}
        return tuple(replace(t, **{k: v for k, v in given.items() if v is not None}) for t in tasks), inferred


# -- reading: which files and which fields -------------------------------------------------------------


def _local(path: Path, subset: str | None) -> tuple[str, dict[str, list[Path]]]:
    """A name for the subset, and its files by split."""
    found = layout(path)
    wanted = subset if subset is not None else next(iter(found)) if len(found) == 1 else None
    if wanted not in found:
        asked = "holds several subsets" if subset is None else f"has no subset '{subset}'"
        raise ValueError(f"'{path}' {asked}; choose one with --subset: {', '.join(sorted(found)[:20])}")
    return wanted.replace("/", "-") or path.resolve().name, found[wanted]


def _from_hub(name: str, subset: str | None) -> dict[str, list[Path]]:
    """The files that `datasets` keeps of a data set, fetched where they are not there yet."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"data sets of the hub need datasets ({error}); run: pip install 'opengato[data]'") from None
    try:
        loaded = datasets.load_dataset(name, subset)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"'{name}' could not be loaded ({type(error).__name__}: {error})") from None
    return {str(split): [Path(entry["filename"]) for entry in part.cache_files] for split, part in loaded.items()}


def _same_columns(files: Sequence[RowFile]) -> list[str]:
    """**Raises:** `ValueError` if the files differ in their columns, or hold no row."""
    files = [file for file in files if file.num_rows]
    if not files:
        raise ValueError("the data set has no rows")
    first = files[0]
    for file in files[1:]:
        if set(file.schema.names) != set(first.schema.names):
            odd = sorted(set(file.schema.names) ^ set(first.schema.names))
            raise ValueError(f"{file.path} and {first.path} differ in the columns {odd}; import them one by one")
    return first.schema.names


def _own_tasks(files: Sequence[RowFile]) -> tuple[TaskSpec, ...]:
    """The task specs that our writer left in every file."""
    tasks: dict[str, TaskSpec] = {}
    for file in files:
        noted = (file.schema.metadata or {}).get(b"gato")
        if noted is None:
            return ()
        try:
            task = TaskSpec.from_dict(json.loads(noted))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file.path}, metadata 'gato': {error}") from None
        if lines := task_differences([tasks.setdefault(task.name, task)], [task]):
            raise ValueError(f"{file.path} holds another task: {'; '.join(lines)}")
    return tuple(tasks.values())


def _unknown(names: Sequence[str]) -> dict[str, str]:
    """What the rows do not say, for the provenance."""
    if "rewards" not in names:
        return {}
    found = {} if {"terminated", "truncated"} & set(names) else {"ends": "not stored: neither terminated nor truncated"}
    return found | ({} if set(FINAL.values()) & set(names) else {"final_observation": "not stored"})


class _Ranges:
    """Widths and ranges of a data set's columns, and the names of its tasks, gathered row by row."""

    def __init__(self, reader: JatReader) -> None:
        self.reader = reader
        self.tasks: dict[str, None] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.low: dict[str, np.ndarray] = {}
        self.high: dict[str, np.ndarray] = {}
        self.nulls: dict[str, str] = {}  # column -> the first row that lacks it

    def read(self, file: RowFile, names: Sequence[str]) -> None:
        pictures = "image_observations"
        if pictures in names and pictures not in self.shapes and file.num_rows:  # they are large: one row says their size
            label, row = next(file.rows(columns=[pictures]))
            self._add(label, pictures, row)
        for label, row in file.rows(columns=[n for n in names if n != pictures]):
            if "task" in names and (task := row.column("task")[0].as_py()) is not None:
                self.tasks[str(task)] = None
            for name in set(row.schema.names) & CONTROL.keys():
                self._add(label, name, row, is_json=file.path.suffix == ".jsonl")

    def _add(self, label: str, name: str, row: pa.RecordBatch, is_json: bool = False) -> None:
        if row.column(name).null_count:
            self.nulls.setdefault(name, label)
            return
        modality = CONTROL[name][1]
        if modality is Modality.IMAGE and name not in self.shapes:
            self.shapes[name] = self._frame_shape(label, row.column(name).flatten())
        elif modality is Modality.TEXT:
            self.shapes[name] = ()
        elif modality in NUMBERS:
            values = _numbers(row.column(name).flatten(), f"{label}, column '{name}'")
            if is_json and values.dtype == np.float64:  # JSON has no float32, which is what the format says
                values = values.astype(np.float32)
            shape = self.shapes.setdefault(name, values.shape[1:])
            if len(values) and values.shape[1:] != shape:
                raise ValueError(f"{label}: column '{name}' has timesteps of shape {values.shape[1:]}, the rows before it {shape}")
            if len(values):
                self.dtypes[name] = np.promote_types(self.dtypes.get(name, values.dtype), values.dtype)
                self.low[name] = np.fmin(self.low.get(name, np.inf), np.fmin.reduce(values, axis=0))
                self.high[name] = np.fmax(self.high.get(name, -np.inf), np.fmax.reduce(values, axis=0))

    def _frame_shape(self, label: str, frames: pa.Array) -> tuple[int, ...]:
        if self.reader.image_size is not None or not len(frames):
            return (*(self.reader.image_size or (0, 0)), 3)
        return _frame(frames[0].as_py(), None, self.reader.stacked_frames, f"{label}, timestep 0").shape

    def fields(self) -> tuple[tuple[FieldSpec, ...], dict[str, Any]]:
        """The fields, and what was inferred in words."""
        if partly := sorted(self.nulls.keys() & self.shapes.keys()):
            raise ValueError(f"{self.nulls[partly[0]]}: column '{partly[0]}' is null, but not in all rows; import each task by itself")
        fields, inferred = [], {}
        for name, shape in self.shapes.items():
            role, modality = CONTROL[name]
            kind = "float64" if self.dtypes.get(name) == np.float64 and modality is Modality.CONTINUOUS else _DTYPES[modality]
            low, high = self._bounds(name)
            rows, columns = shape[:2] if modality is Modality.IMAGE else (0, 0)
            resize = "pad" if rows % 16 or columns % 16 else "exact"
            fields.append(FieldSpec(name, modality, role, shape, kind, low, high, (name,), resize))
            inferred[name] = {"shape": list(shape)} | ({} if low is None else {"low": low, "high": high})
        return tuple(fields), {"inferred": inferred}

    def _bounds(self, name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        role, modality = CONTROL[name]
        if modality is Modality.DISCRETE:
            most = self.reader.num_actions - 1 if role == "action" and self.reader.num_actions else int(np.max(self.high[name]))
            return (min(0, int(np.min(self.low[name]))),), (most,)
        if modality is not Modality.CONTINUOUS or role != "action":
            return None, None
        low, high = np.ravel(self.low[name]).astype(float), np.ravel(self.high[name]).astype(float)
        constant = low == high  # an action that never changes has no range of its own
        low, high = np.where(constant, low - 1, low), np.where(constant, high + 1, high)
        given = self.reader.action_low, self.reader.action_high
        return tuple(tuple(map(float, found)) if own is None else (own,) for found, own in zip((low, high), given, strict=True))  # type: ignore[return-value]


_DTYPES = {Modality.CONTINUOUS: "float32", Modality.DISCRETE: "int64", Modality.IMAGE: "uint8", Modality.TEXT: "str"}


# -- reading: rows ---------------------------------------------------------------------------------------


class _Episodes:
    """Reads row by row; whole files before the start are not opened."""

    def __init__(self, splits: Mapping[str, Sequence[RowFile]], tasks: Mapping[str, TaskSpec], reader: JatReader) -> None:
        self.splits, self.tasks, self.reader = splits, tasks, reader

    def __call__(self, split: str, start: int) -> Iterator[Episode]:
        for file in self.splits[split]:
            if start < file.num_rows:
                for label, row in file.rows(start):
                    try:
                        yield self._episode(row)
                    except ValueError as error:
                        raise ValueError(f"{label}: {error}") from None
            start = max(0, start - file.num_rows)

    def _episode(self, row: pa.RecordBatch) -> Episode:
        labels = {name: row.column(name)[0].as_py() for name in _LABELS if name in row.schema.names}
        name = labels.get("task")
        task = self.tasks[name] if len(self.tasks) > 1 and name in self.tasks else next(iter(self.tasks.values()))
        if len(self.tasks) > 1 and name not in self.tasks:
            raise ValueError(f"column 'task' is '{name}', expected one of {sorted(self.tasks)}")
        values = self._control(task, row) if task.is_control else self._said(task, row)
        if labels.get("parameters"):
            parameters = json.loads(labels["parameters"])
        else:
            parameters = {_LABELS[k]: v for k, v in labels.items() if _LABELS.get(k) and v is not None}
        return foreign_episode(
            task,
            values.pop("actions"),
            parameters,
            terminated=bool(labels.get("terminated")) if task.is_control or "terminated" in labels else True,
            truncated=bool(labels.get("truncated")),
            behaviour=labels.get("behaviour") or (self.reader.behaviour if task.is_control else "human"),
            success=labels.get("success"),
            seed=labels.get("seed"),
            **values,
        )

    def _control(self, task: TaskSpec, row: pa.RecordBatch) -> dict[str, Any]:
        rewards = _numbers(_cell(row, "rewards").flatten(), "column 'rewards'").reshape(-1)
        length, sides = len(rewards), {"observation": {}, "action": {}}
        if length == 0:
            raise ValueError("an episode of no timesteps; leave the row out")
        final: dict[str, Any] = {}
        for name, fields in columns_of(task).items():
            role, modality = CONTROL[name]
            cell = _cell(row, name)
            if name == "instruction":
                values: Any = [cell[0].as_py()] * length
            else:
                values = self._decoded(cell.flatten(), fields, f"column '{name}'")
            if len(values) != length:
                raise ValueError(f"column '{name}' has {len(values)} timesteps but 'rewards' has {length}")
            sides[role].update(_apart(fields, values))
            if role == "observation" and (last := self._final(row, name, fields)) is not None:
                final.update(last)
            elif role == "observation" and name == "instruction":
                final.update({fields[0].name: values[0]})
        has_final = any(n in row.schema.names and not row.column(n).null_count for n in FINAL.values())
        return {
            "observations": sides["observation"],
            "actions": sides["action"],
            "rewards": rewards.astype(np.float32),
            "final_observation": final if has_final else None,
        }

    def _final(self, row: pa.RecordBatch, name: str, fields: Sequence[FieldSpec]) -> dict[str, Any] | None:
        column = FINAL.get(name)
        if column not in row.schema.names or row.column(column).null_count:
            return None
        values = self._decoded(row.column(column), fields, f"column '{column}'")
        return {field: part[0] for field, part in _apart(fields, values).items()}

    def _decoded(self, cell: pa.Array, fields: Sequence[FieldSpec], label: str) -> Any:
        """(T, ...) numbers, a list of T texts, or (T, rows, columns, 3) pictures."""
        if fields[0].modality in NUMBERS:
            return _numbers(cell, label)
        if fields[0].modality is Modality.TEXT:
            return cell.to_pylist()
        size = fields[0].shape[:2]
        frames = (
            _frame(frame.as_py(), size if self.reader.image_size else None, self.reader.stacked_frames, f"{label}, timestep {t}")
            for t, frame in enumerate(cell)
        )
        found = list(frames)
        if wrong := [t for t, frame in enumerate(found) if frame.shape[:2] != tuple(size)]:
            raise ValueError(
                f"{label}, timestep {wrong[0]} is a picture of {found[wrong[0]].shape[:2]}, expected {tuple(size)}; --image_size ROWS COLUMNS fits them"
            )
        return np.stack(found) if found else np.empty((0, *size, 3), np.uint8)

    def _said(self, task: TaskSpec, row: pa.RecordBatch) -> dict[str, Any]:
        """A document or a caption."""
        text = _cell(row, "text")[0].as_py()
        if not isinstance(text, str) or not text.strip():
            raise ValueError("column 'text' holds no text; leave the row out")
        observations = {}
        for field in task.observations:
            picture = read_image(_encoded(_cell(row, "images")[0].as_py(), "column 'images'"))
            observations[field.name] = fit_image(picture, field.shape[:2])[None]
        actions = {task.actions[0].name: np.array([text], object)}
        return {"observations": observations, "actions": actions, "rewards": np.zeros(1, np.float32)}


# optional columns -> the name of the parameter they become, where they are no attribute of an episode
_LABELS = {
    "episode_id": "episode_id", "source": "source", "license": "licence", "task": None, "terminated": None, "truncated": None,
    "success": None, "behaviour": None, "seed": None, "parameters": None,
}  # fmt: skip


def columns_of(task: TaskSpec) -> dict[str, list[FieldSpec]]:
    """`{column: the fields it holds, in canonical order}` of a control task.

    **Raises:** `ValueError` for fields that the format has no column for.
    """
    if all(CONTROL.get(f.name) == (f.role, f.modality) for f in task.fields):  # fields that came from these columns
        return {f.name: [f] for f in task.fields}
    found: dict[str, list[FieldSpec]] = {}
    for spec in task.fields:
        name = next((n for n, kind in CONTROL.items() if kind == (spec.role, spec.modality)), None)
        if name is None or (name in found and spec.modality not in NUMBERS):
            more = "no" if name is None else f"one {spec.modality}"
            raise ValueError(f"task '{task.name}': {spec.role} '{spec.name}' is {spec.modality}, and JAT's rows have {more} column for that")
        found.setdefault(name, []).append(spec)
    return found


def _cell(row: pa.RecordBatch, name: str) -> pa.Array:
    if name not in row.schema.names:
        raise ValueError(f"the row lacks the column '{name}'; it has {row.schema.names}")
    column = row.column(name)
    if column.null_count:
        raise ValueError(f"column '{name}' is null")
    return column


def _numbers(values: pa.Array, label: str) -> np.ndarray:
    """(T, ...) of lists of one width each."""
    shape = [len(values)]
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        if values.null_count:
            raise ValueError(f"{label} holds a null")
        widths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        if len(set(widths.tolist())) > 1:
            t = int(np.argmax(widths != widths[0]))
            raise ValueError(f"{label} has {widths[t]} values at timestep {t}, but {widths[0]} before")
        shape.append(int(widths[0]) if len(widths) else 0)
        values = values.flatten()
    if values.null_count and len(values):
        raise ValueError(f"{label} holds a null")
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type) or not len(values)):
        raise ValueError(f"{label} holds {values.type}, expected numbers")
    return (values.to_numpy(zero_copy_only=False) if len(values) else np.empty(0)).reshape(shape)


def _apart(fields: Sequence[FieldSpec], values: Any) -> dict[str, np.ndarray]:
    """`{field name: (T, *shape)}` of a column."""
    if fields[0].modality is Modality.TEXT:
        texts = np.empty(len(values), object)
        texts[:] = values
        return {fields[0].name: texts}
    if fields[0].modality is Modality.IMAGE:
        return {fields[0].name: values}
    flat = values.reshape(len(values), -1)
    if flat.shape[1] != sum(f.size for f in fields):
        raise ValueError(f"{[f.name for f in fields]} have {flat.shape[1]} values a timestep, expected {sum(f.size for f in fields)}")
    parts = np.split(flat, np.cumsum([f.size for f in fields])[:-1], axis=1)
    found = {}
    for f, part in zip(fields, parts, strict=True):
        part = part.reshape(-1, *f.shape)
        found[f.name] = part.astype(f.dtype) if f.modality is Modality.CONTINUOUS else exact_cast(part, f.dtype)
    return found


def _encoded(value: Any, label: str) -> bytes:
    """The bytes of an encoded picture, as `datasets` keeps it. A path is never followed."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(f"{label} holds no encoded picture; store its bytes in the file")
    return content


def _frame(value: Any, size: tuple[int, ...] | None, stacked: bool, label: str) -> np.ndarray:
    """(rows, columns, 3) uint8, fitted into `size` if one is given."""
    content = _encoded(value, label)
    try:
        pixels = read_image(content)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.mode in ("RGBA", "LA"):
            last = np.array(image)[:, :, -1]
            if stacked:
                pixels = np.repeat(last[:, :, None], 3, axis=2)
            elif last.min() < 255:
                raise ValueError(
                    f"{label} is a picture of {len(image.mode)} channels; if they are grey frames of several timesteps, "
                    "--stacked_frames true keeps the last"
                )
    return pixels if size is None else fit_image(pixels, (size[0], size[1]))
