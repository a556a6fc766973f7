"""Stores as a JAT-style data set: a subset per task, parquet files that `datasets` opens with its own feature types.

README.md                                     names the subsets for `datasets.load_dataset(FOLDER, SUBSET)`
gymnasium-cartpole/train-00000-of-00001.parquet
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gato.data.shards.columns import to_json
from gato.data.store import Store
from gato.episode import Episode
from gato.setting import Settings
from gato.spec import FieldSpec, Modality, TaskSpec

from .foreign import joined_tasks, new_folder
from .jat_columns import FINAL, NUMBERS, columns_of

ROW_GROUP_BYTES = 32 * 2**20
ROW_GROUP_ROWS = 1000
FILE_BYTES = 500 * 2**20

Column = tuple[pa.DataType, dict[str, Any]]  # its type, and the same in the words of `datasets`

_TEXT: Column = (pa.string(), {"dtype": "string", "_type": "Value"})
_IMAGE: Column = (pa.struct({"bytes": pa.binary(), "path": pa.string()}), {"_type": "Image"})
_LABELS = {
    "episode_id": pa.string(), "task": pa.string(), "terminated": pa.bool_(), "truncated": pa.bool_(), "success": pa.bool_(),
    "source": pa.string(), "license": pa.string(), "behaviour": pa.string(), "seed": pa.int64(), "parameters": pa.string(),
}  # fmt: skip


@dataclass(frozen=True)
class JatWriter(Settings):
    """Writes stores as JAT-style parquet files, a folder per task; the final observation has columns of its own."""

    def write(self, stores: Sequence[Store], out: Path) -> dict[str, Any]:
        tasks = joined_tasks(stores)
        if len({_subset(name) for name in tasks}) < len(tasks):
            raise ValueError(f"the tasks {sorted(tasks)} need folders of the same name; export them one by one")
        parts: dict[tuple[str, str], _Part] = {}
        counts = {"episodes": 0, "timesteps": 0, "tasks": len(tasks)}
        with new_folder(out) as folder:
            for store in stores:
                provenance = store.manifest.provenance
                split = _plain(str(provenance.get("split") or "train"))
                for i in range(store.num_episodes):
                    episode = store.episode(i)
                    key = _subset(episode.task.name), split
                    if key not in parts:
                        parts[key] = _Part(folder / key[0], split, tasks[episode.task.name])
                    try:
                        parts[key].append(episode, i, provenance.get("source"))
                    except ValueError as error:
                        raise ValueError(f"store {store.path}, episode {i}: {error}") from None
                    counts["episodes"] += 1
                    counts["timesteps"] += episode.num_timesteps
            for part in parts.values():
                part.finish()
            if not parts:
                raise ValueError("the stores hold no episodes, so there is nothing to export")
            (folder / "README.md").write_text(_card(parts), encoding="utf-8")
        return counts


class _Part:
    """The files of one task and one split."""

    def __init__(self, folder: Path, split: str, task: TaskSpec) -> None:
        self.folder, self.split, self.task = folder, split, task
        self.columns = _columns(task)
        features = {name: feature for name, (_, feature) in self.columns.items()}
        notes = {"gato": json.dumps(task.to_dict()), "huggingface": json.dumps({"info": {"features": features}})}
        self.schema = pa.schema([pa.field(name, kind) for name, (kind, _) in self.columns.items()], metadata=notes)
        self.pending: list[pa.RecordBatch] = []
        self.pending_bytes = 0
        self.files: list[Path] = []
        self.writer: pq.ParquetWriter | None = None
        folder.mkdir(exist_ok=True)

    def append(self, episode: Episode, number: int, source: Any) -> None:
        cells = (_control if self.task.is_control else _said)(self.task, episode) | _labels(episode, number, source)
        cells = {name: cells.get(name, pa.nulls(1, kind)) for name, (kind, _) in self.columns.items()}
        self.pending.append(pa.RecordBatch.from_arrays(list(cells.values()), schema=self.schema))
        self.pending_bytes += self.pending[-1].nbytes
        if self.pending_bytes >= ROW_GROUP_BYTES or len(self.pending) >= ROW_GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        """Writes the rest and names the files: only now is it known how many there are."""
        if self.pending:
            self._flush()
        if self.writer is not None:
            self.writer.close()
        for path in self.files:
            path.rename(path.with_name(f"{path.name}-of-{len(self.files):05d}.parquet"))

    def _flush(self) -> None:
        if self.writer is None:
            self.files.append(self.folder / f"{self.split}-{len(self.files):05d}")
            self.writer = pq.ParquetWriter(self.files[-1], self.schema)
        self.writer.write_table(pa.Table.from_batches(self.pending, self.schema), row_group_size=len(self.pending))
        self.pending, self.pending_bytes = [], 0
        if self.files[-1].stat().st_size >= FILE_BYTES:
            self.writer.close()
            self.writer = None


# -- types ---------------------------------------------------------------------------------------------


def _columns(task: TaskSpec) -> dict[str, Column]:
    """`{column: its types}` of a task. **Raises:** `ValueError` for a task that rows cannot hold."""
    found: dict[str, Column] = {}
    if task.is_control:
        for name, fields in columns_of(task).items():
            value = _value(fields)
            step = _list(value) if fields[0].modality in NUMBERS and not _is_scalar(name, fields) else value
            found[name] = value if name == "instruction" else _list(step)
            if name in FINAL:
                found[FINAL[name]] = step
        found["rewards"] = _list(_number("float32"))
    elif [f.modality for f in task.observations] in ([], [Modality.IMAGE]) and len(task.actions) == 1:
        found = {"text": _TEXT} | ({"images": _IMAGE} if task.observations else {})
    else:
        raise ValueError(f"task '{task.name}' is neither a document nor a picture with a caption, the only texts that JAT's rows hold")
    return found | {name: (kind, {"dtype": str(kind), "_type": "Value"}) for name, kind in _LABELS.items()}


def _value(fields: Sequence[FieldSpec]) -> Column:
    """The type of one value: float32 as the format says, wider only where a field is."""
    modality = fields[0].modality
    if modality is Modality.CONTINUOUS:
        return _number(np.result_type(np.float32, *(np.dtype(f.dtype) for f in fields)).name)
    return {Modality.DISCRETE: _number("int64"), Modality.TEXT: _TEXT, Modality.IMAGE: _IMAGE}[modality]


def _is_scalar(name: str, fields: Sequence[FieldSpec]) -> bool:
    """A single discrete action is a number per timestep; everything else is a list of numbers."""
    return name == "discrete_actions" and [f.shape for f in fields] == [()]


def _list(column: Column) -> Column:
    return pa.list_(column[0]), {"feature": column[1], "_type": "List"}


def _number(dtype: str) -> Column:
    return pa.from_numpy_dtype(np.dtype(dtype)), {"dtype": dtype, "_type": "Value"}


# -- cells: arrays of one row --------------------------------------------------------------------------


def _control(task: TaskSpec, episode: Episode) -> dict[str, pa.Array]:
    cells = {"rewards": _cell(pa.array(np.asarray(episode.rewards, np.float32)))}
    sides = {"observation": episode.observations, "action": episode.actions}
    final = episode.final_observation
    for name, fields in columns_of(task).items():
        columns = [sides[f.role][f.name] for f in fields]
        if name == "instruction":
            said = {*map(str, columns[0]), *([] if final is None else [str(final[name])])}
            if len(said) > 1:
                raise ValueError(f"observation 'instruction' changes within the episode: {sorted(said)[:2]}; rename the field")
            cells[name] = pa.array([*said], pa.string())
            continue
        cells[name] = _cell(_steps(name, fields, columns))
        if name in FINAL and final is not None:
            last = [np.asarray(final[f.name], object if f.dtype == "str" else f.dtype)[None] for f in fields]
            cells[FINAL[name]] = _steps(name, fields, last)
    return cells


def _said(task: TaskSpec, episode: Episode) -> dict[str, pa.Array]:
    if episode.num_timesteps != 1 or episode.rewards.any() or episode.final_observation is not None:
        raise ValueError("a text of several timesteps, with a reward or a final observation has no place in JAT's rows")
    cells = {"text": pa.array([str(episode.actions[task.actions[0].name][0])], pa.string())}
    for field in task.observations:
        cells["images"] = pa.array([_png(episode.observations[field.name][0])], _IMAGE[0])
    return cells


def _labels(episode: Episode, number: int, source: Any) -> dict[str, pa.Array]:
    parameters = episode.parameters
    values = {
        "episode_id": str(parameters.get("episode_id", number)),
        "task": episode.task.name,
        "terminated": bool(episode.terminated),
        "truncated": bool(episode.truncated),
        "success": episode.success,
        "source": parameters.get("source", source),
        "license": parameters.get("licence", episode.task.licence),
        "behaviour": episode.behaviour,
        "seed": episode.seed,
        "parameters": to_json(parameters),
    }
    return {
        name: pa.array([None if v is None else str(v) if _LABELS[name] == pa.string() else v], _LABELS[name]) for name, v in values.items()
    }


def _steps(name: str, fields: Sequence[FieldSpec], columns: Sequence[np.ndarray]) -> pa.Array:
    """One entry per timestep: the fields' values one after the other."""
    if fields[0].modality is Modality.TEXT:
        return pa.array([*map(str, columns[0])], pa.string())
    if fields[0].modality is Modality.IMAGE:
        return pa.array([_png(pixels) for pixels in columns[0]], _IMAGE[0])
    flat = np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)
    values = pa.array(flat.reshape(-1).astype(_value(fields)[0].to_pandas_dtype()))
    return (
        values if _is_scalar(name, fields) else pa.ListArray.from_arrays(np.arange(0, flat.size + 1, flat.shape[1], dtype=np.int32), values)
    )


def _cell(steps: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, len(steps)], pa.int32()), steps)


def _png(pixels: np.ndarray) -> dict[str, Any]:
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, "PNG")
    return {"bytes": encoded.getvalue(), "path": None}


# -- names ---------------------------------------------------------------------------------------------


def _subset(task: str) -> str:
    return _plain(task.replace("/", "-"))


def _plain(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"'{name}' cannot name a folder or a split; use letters, digits, '.', '_' and '-'")
    return name


def _card(parts: Iterable[tuple[str, str]]) -> str:
    """The head of a data card, by which `datasets` finds the subsets."""
    lines = ["---", "configs:"]
    subsets: dict[str, list[str]] = {}
    for subset, split in parts:
        subsets.setdefault(subset, []).append(split)
    for subset, splits in subsets.items():
        lines += [f"- config_name: {subset}", "  data_files:"]
        lines += [line for split in splits for line in (f"  - split: {split}", f"    path: {subset}/{split}-*.parquet")]
    return "\n".join([*lines, "---", ""])
