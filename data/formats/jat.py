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

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from gato.data.shards.manifest import task_differences
from gato.episode import Behaviour, Episode, OutOfRange
from gato.picture import fit_image, read_image
from gato.setting import MAX_FLOAT32, MAX_SIDE, Settings, bounded
from gato.spec import FieldSpec, TaskSpec
from gato.words import caption_task, document_task

from .dataset import Dataset
from .files import files_digest
from .foreign import foreign_episode
from .jat_columns import CONTROL, FINAL, as_float32, columns_of, decode, elements, numbers, picture_bytes, required, take_apart
from .jat_ranges import Ranges, check_columns
from .left_out import LeftOut
from .lines import json_object
from .rows import RowFile, layout, strangers

# optional columns -> the name of the parameter they become, where they are no attribute of an episode
_LABELS = {
    "episode_id": "episode_id", "source": "source", "license": "licence", "task": None, "terminated": None, "truncated": None,
    "success": None, "behaviour": None, "seed": None, "parameters": None,
}  # fmt: skip


@dataclass(frozen=True)
class JatReader(Settings):
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
    image_size: tuple[int, int] | None = bounded(None, 1, MAX_SIDE)
    stacked_frames: bool = False
    num_actions: int | None = bounded(None, 1, 2**20)
    action_low: float | None = bounded(None, -MAX_FLOAT32, MAX_FLOAT32)
    action_high: float | None = bounded(None, -MAX_FLOAT32, MAX_FLOAT32)
    behaviour: Behaviour = "expert"
    licence: str | None = None
    clip_actions: bool = False

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        left_out = left_out or LeftOut()
        label, found = (path.as_posix(), _from_hub(path.as_posix(), self.subset)) if self.hub else _local(path, self.subset)
        if not self.hub and (others := strangers(path)):
            left_out.count("files that are no parquet, Arrow or JSON lines", others[0], len(others))
        splits = {split: [RowFile.open(file) for file in files] for split, files in found.items()}
        files = [file for parts in splits.values() for file in parts]
        names = _same_columns(files)
        name = self.task or (label.replace("-", "/", 1) if "-" in label and "/" not in label else f"jat/{Path(label).stem}")
        tasks, inferred = self._tasks(name, files, names, left_out)
        known = {*_LABELS, *CONTROL, *FINAL.values(), "rewards"} if tasks[0].is_control else {*_LABELS, "text", "images"}
        if unread := sorted(set(names) - known):
            left_out.count("columns that are not read", unread[0], len(unread))
        return Dataset(
            source=label,
            digest=files_digest(files[0].path.parent, (file.path for file in files)),
            tasks=tasks,
            splits={split: sum(file.num_rows for file in parts) for split, parts in splits.items()},
            episodes=_Episodes(splits, {t.name: t for t in tasks}, self, left_out),
            provenance={"format": "jat", "licence": self.licence, **inferred, **_unknown(names)},
            left_out=left_out,
        )

    def _tasks(
        self, name: str, files: Sequence[RowFile], names: Sequence[str], left_out: LeftOut
    ) -> tuple[tuple[TaskSpec, ...], dict[str, Any]]:
        """The task specs, and what was inferred to make them."""
        if tasks := _own_tasks(files):
            inferred: dict[str, Any] = {}
            if self.task is not None and len(tasks) > 1:
                raise ValueError(f"{files[0].path} holds the tasks {[t.name for t in tasks]}, so they cannot all be named '{self.task}'")
            tasks = tuple(replace(t, name=self.task or t.name) for t in tasks)
        elif "rewards" in names and {"continuous_actions", "discrete_actions"} & set(names):
            ranges = Ranges(self, left_out.skip)
            for file in files:
                ranges.read(file, [n for n in names if n in CONTROL or n in ("rewards", "task")])
            try:
                fields, inferred = ranges.fields()
            except ValueError as error:
                raise ValueError(f"{files[0].path.parent}: {error}") from None
            tasks = tuple(TaskSpec(n, fields) for n in (ranges.tasks if self.task is None and ranges.tasks else [name]))
        elif "text" in names:
            inferred = {}
            tasks = (caption_task(name, self.image_size or (64, 64)) if "images" in names else document_task(name),)
        else:
            raise ValueError(f"{files[0].path} has the columns {list(names)}; expected 'rewards' with actions and observations, or 'text'")
        given: dict[str, Any] = {"licence": self.licence, "clip_actions": self.clip_actions or None}
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
    if twice := sorted({n for n in first.schema.names if first.schema.names.count(n) > 1}):
        raise ValueError(f"{first.path} has the column '{twice[0]}' twice; rename one")
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


# -- reading: rows ---------------------------------------------------------------------------------------


class _Episodes:
    """Reads row by row; whole files before the start are not opened."""

    def __init__(
        self, splits: Mapping[str, Sequence[RowFile]], tasks: Mapping[str, TaskSpec], reader: JatReader, left_out: LeftOut
    ) -> None:
        self.splits, self.tasks, self.reader, self.left_out = splits, tasks, reader, left_out

    def __call__(self, split: str, start: int) -> Iterator[Episode]:
        for file in self.splits[split]:
            if start < file.num_rows:
                yield from self.left_out.made(file.rows(start), partial(self._named, file))
            start = max(0, start - file.num_rows)

    def _named(self, file: RowFile, labelled: tuple[str, pa.RecordBatch]) -> Episode:
        """**Raises:** `ValueError` naming the file and the row."""
        label, row = labelled
        try:
            check_columns(file, row, "it")
            return self._episode(row)
        except OutOfRange as error:
            raise ValueError(
                f"{label}: {error.found}; --clip_actions true clips, --action_low, --action_high and --num_actions widen"
            ) from None
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None

    def _episode(self, row: pa.RecordBatch) -> Episode:
        labels = {name: row.column(name)[0].as_py() for name in _LABELS if name in row.schema.names}
        if wrong := [name for name, value in labels.items() if isinstance(value, list | dict)]:
            raise ValueError(f"column '{wrong[0]}' holds a {type(labels[wrong[0]]).__name__}, expected one value per episode")
        name = str(labels.get("task"))
        task = self.tasks[name] if len(self.tasks) > 1 and name in self.tasks else next(iter(self.tasks.values()))
        if len(self.tasks) > 1 and name not in self.tasks:
            raise ValueError(f"column 'task' is '{name}', expected one of {sorted(self.tasks)}")
        values = self._control(task, row) if task.is_control else self._said(task, row)
        _check_labels(labels)
        if labels.get("parameters"):
            parameters = json_object(labels["parameters"], "column 'parameters'")
        else:
            parameters = {known: v for k, v in labels.items() if (known := _LABELS.get(k)) and v is not None}
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
        """Observations, actions, rewards and the final observation of an episode."""
        rewards = numbers(elements(required(row, "rewards"), "column 'rewards'"), "column 'rewards'")
        if rewards.ndim != 1:
            raise ValueError(f"column 'rewards' has the shape {rewards.shape[1:]} a timestep, expected one number")
        length = len(rewards)
        sides: dict[str, dict[str, np.ndarray]] = {"observation": {}, "action": {}}
        final: dict[str, Any] | None = {}
        for name, fields in columns_of(task).items():
            column = required(row, name)
            is_one = name == "instruction"
            values = [column[0].as_py()] * length if is_one else self._decode(elements(column, f"column '{name}'"), fields, name)
            if len(values) != length:
                raise ValueError(f"column '{name}' has {len(values)} timesteps but 'rewards' has {length}")
            parts = take_apart(fields, values)
            sides[CONTROL[name][0]].update(parts)
            if name == "instruction" and final is not None:
                final.update({field: part[-1] for field, part in parts.items()})
            elif name in FINAL:
                last = row.column(FINAL[name]) if FINAL[name] in row.schema.names else pa.nulls(1)
                if last.null_count:
                    final = None
                elif final is not None:
                    final.update({field: part[0] for field, part in take_apart(fields, self._decode(last, fields, FINAL[name])).items()})
        return {
            "observations": sides["observation"],
            "actions": sides["action"],
            "rewards": as_float32(rewards),
            "final_observation": final if set(FINAL.values()) & set(row.schema.names) else None,
        }

    def _decode(self, cell: pa.Array, fields: Sequence[FieldSpec], name: str) -> Any:
        return decode(cell, fields, self.reader.image_size is not None, self.reader.stacked_frames, f"column '{name}'")

    def _said(self, task: TaskSpec, row: pa.RecordBatch) -> dict[str, Any]:
        """The picture and the text of a caption, or the text of a document."""
        text = required(row, "text")[0].as_py()
        if not isinstance(text, str) or not text.strip():
            raise ValueError("column 'text' holds no text; leave the row out")
        observations = {}
        for field in task.observations:
            picture = read_image(picture_bytes(required(row, "images")[0].as_py(), "column 'images'"))
            observations[field.name] = fit_image(picture, (field.shape[0], field.shape[1]))[None]
        actions = {task.actions[0].name: np.array([text], object)}
        return {"observations": observations, "actions": actions, "rewards": np.zeros(1, np.float32)}


def _check_labels(labels: Mapping[str, Any]) -> None:
    """What says something of a whole episode has the type for it. **Raises:** `ValueError` naming the column."""
    for name in ("terminated", "truncated", "success"):
        if labels.get(name) not in (None, 0, 1):
            raise ValueError(f"column '{name}' is {labels[name]!r:.80}, expected true or false")
    if labels.get("behaviour") not in (None, "", *get_args(Behaviour)):
        raise ValueError(f"column 'behaviour' is {labels['behaviour']!r:.80}, expected one of {', '.join(get_args(Behaviour))}")
    if (seed := labels.get("seed")) is not None and (type(seed) is not int or not -(2**63) <= seed < 2**63):
        raise ValueError(f"column 'seed' is {seed!r:.80}, expected a whole number of 64 bits")
    if not isinstance(labels.get("parameters"), str | None):
        raise ValueError(f"column 'parameters' is {labels['parameters']!r:.80}, expected JSON as text")
