"""Stores as a LeRobot dataset of version 3.0, without the lerobot package.

    meta/info.json, stats.json, tasks.parquet, episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet           a row per timestep; pictures inside as PNG, or else
    videos/FEATURE/chunk-000/file-000.mp4     many episodes in one film
    gato/tasks.json, episodes.parquet         what the format has no place for; lerobot does not look there

One episode is in memory at a time. The dataset is written beside its place and moved there when it is complete.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gato.data.formats.foreign import new_folder
from gato.data.shards.columns import episode_row, episode_schema, timestep_columns
from gato.data.shards.manifest import task_differences
from gato.data.store import Store
from gato.data.video import VideoWriter, video_facts
from gato.episode import Episode
from gato.progress import Progress
from gato.setting import Settings, bounded
from gato.spec import FieldSpec, Modality, TaskSpec

from .reader import BOOKKEEPING, EPISODES_FILE, TASKS_FILE, features_of

CHUNK_FILES = 1000
DATA_BYTES, VIDEO_BYTES = 100 * 2**20, 200 * 2**20  # a file is finished by the first episode that finds it this large

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_SAMPLED_FRAMES, _SAMPLED_SIDE = 32, 64  # of an episode's pictures, for their statistics
_ROWS_AT_ONCE = 64
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class LeRobotWriter(Settings):
    """How `gato data export lerobot` writes a dataset.

    **Arguments:**

    - `fps`: timesteps per second; those of the dataset that the stores were imported from, else 10.
    - `images`: "png" keeps pictures exactly, inside the data files; "video" is smaller and loses some of every picture.
    - `codec`: of the videos; h264 is larger, and plays in every browser.

    **Raises:** `ValueError` for a rate that is not positive.
    """

    fps: float | None = bounded(None, 0, 1e6, above=True)
    images: Literal["png", "video"] = "png"
    codec: Literal["libsvtav1", "h264"] = "libsvtav1"

    def write(self, stores: Sequence[Store], out: Path) -> dict[str, Any]:
        """**Returns:** `episodes`, `frames`, `tasks` (distinct sentences) and `lossy_features`.

        **Raises:** `ValueError` if `out` exists, or the stores hold what one LeRobot dataset cannot.
        """
        out = Path(out)
        tasks = _tasks(stores)
        total = sum(store.num_episodes for store in stores)
        if total == 0:
            raise ValueError(f"{[str(s.path) for s in stores]} hold no episodes, so there is nothing to export")
        with new_folder(out) as folder:
            with _Export(folder, tasks, self.fps or _fps(stores), self.codec if self.images == "video" else None) as export:
                with Progress(f"export {out.name}", total) as progress:
                    for store in stores:
                        for i in range(store.num_episodes):
                            export.append(store.episode(i))
                            progress.advance()
            counts = export.save(_splits(stores))
        return counts


class _Export:
    """Writes the files of a dataset, episode after episode; `save` adds what is known at the end."""

    def __init__(self, folder: Path, tasks: Sequence[TaskSpec], fps: float, codec: str | None) -> None:
        self.folder, self.tasks, self.fps = folder, tasks, fps
        self.columns = timestep_columns(tasks)
        self.fields, self.sentence = features_of(tasks[0])
        self.indices = {t.name: i for i, t in enumerate(tasks)}
        pictures = {name: f for name, f in self.fields.items() if f.modality is Modality.IMAGE}
        self.films = {name: _Film(folder, name, f.shape[:2], fps, codec) for name, f in pictures.items()} if codec else {}
        self.features = {name: _feature(f, name in self.films) for name, f in self.fields.items()} | _fixed_features()
        self.data = _Parts(folder / "data", DATA_BYTES)
        self.meta = _Parts(folder / "meta" / "episodes", DATA_BYTES)
        (folder / EPISODES_FILE).parent.mkdir()
        self.ends = pq.ParquetWriter(folder / EPISODES_FILE, _with_free_lists(episode_schema(self.columns)))
        self.sentences: dict[str, int] = {}
        self.stats: dict[str, dict[str, np.ndarray]] = {}
        self.num_episodes = self.num_frames = 0

    def __enter__(self) -> _Export:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for part in (self.data, self.meta, self.ends, *self.films.values()):
            try:
                part.close()
            except Exception:
                if error is None:  # else the first error is the one to report
                    raise

    def append(self, episode: Episode) -> None:
        length, first = episode.num_timesteps, self.num_frames
        texts = self._sentences(episode)
        numbers = self._numbers(episode, first)
        places: dict[str, Any] = {"data": self.data.begin()} | {f"videos/{name}": film.begin() for name, film in self.films.items()}
        times = {f"videos/{name}/from_timestamp": film.seconds for name, film in self.films.items()}
        for start in range(0, length, _ROWS_AT_ONCE):
            self.data.write(self._table(episode, numbers, slice(start, start + _ROWS_AT_ONCE)))
        for name, film in self.films.items():
            for picture in episode.observations[self.fields[name].name]:
                film.write(picture)
        times |= {f"videos/{name}/to_timestamp": film.seconds for name, film in self.films.items()}
        row: dict[str, Any] = {"episode_index": self.num_episodes, "tasks": texts, "length": length}
        row |= {f"{key}/{what}": n for key, place in places.items() for what, n in zip(("chunk_index", "file_index"), place, strict=True)}
        row |= {"dataset_from_index": first, "dataset_to_index": first + length} | times
        for name, stats in self._statistics(episode, numbers).items():
            self.stats[name] = _merge(self.stats[name], stats) if name in self.stats else stats
            row |= {f"stats/{name}/{key}": value.tolist() for key, value in stats.items()}
        chunk, number = self.meta.begin()
        self.meta.write(pa.Table.from_pylist([row | {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": number}]))
        known = episode_row(self.columns, episode, self.indices[episode.task.name]) | {"first_row": pa.array([first], pa.int64())}
        self.ends.write_table(pa.table([pa.array(known[f.name].to_pylist(), f.type) for f in self.ends.schema], schema=self.ends.schema))
        self.num_episodes += 1
        self.num_frames += length

    def save(self, splits: Mapping[str, str]) -> dict[str, Any]:
        """Writes the rest of `meta` and returns counts; all other files are closed."""
        meta = self.folder / "meta"
        for name, film in self.films.items():
            self.features[name]["info"] = video_facts(film.first)
        info = {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": self.num_episodes,
            "total_frames": self.num_frames,
            "total_tasks": len(self.sentences),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": DATA_BYTES >> 20,
            "video_files_size_in_mb": VIDEO_BYTES >> 20,
            "fps": int(self.fps) if self.fps == int(self.fps) else self.fps,
            "splits": dict(splits),
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4" if self.films else None,
            "features": self.features,
        }
        stats = {name: {key: value.tolist() for key, value in part.items()} for name, part in self.stats.items()}
        tasks = {"tasks": [t.to_dict() for t in self.tasks]}
        for path, values in ((meta / "info.json", info), (meta / "stats.json", stats), (self.folder / TASKS_FILE, tasks)):
            path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
        pq.write_table(_task_table(list(self.sentences)), meta / "tasks.parquet")
        counts = {"episodes": self.num_episodes, "frames": self.num_frames}
        return counts | {"tasks": len(self.sentences), "lossy_features": len(self.films)}

    def _sentences(self, episode: Episode) -> list[str]:
        """The episode's distinct sentences; new ones get the next numbers."""
        texts = [episode.task.name] if self.sentence is None else list(dict.fromkeys(episode.observations[self.sentence.name].tolist()))
        for text in texts:
            self.sentences.setdefault(text, len(self.sentences))
        return texts

    def _numbers(self, episode: Episode, first: int) -> dict[str, np.ndarray]:
        """Every feature of numbers, (T, *shape) in the dtype that LeRobot gets."""
        length = episode.num_timesteps
        done = np.zeros(length, bool)
        done[-1] = episode.terminated or episode.truncated
        texts = [episode.task.name] * length if self.sentence is None else episode.observations[self.sentence.name]
        values = {
            "next.reward": np.asarray(episode.rewards, np.float32),
            "next.done": done,
            "timestamp": (np.arange(length) / self.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, self.num_episodes),
            "index": np.arange(first, first + length),
            "task_index": np.array([self.sentences[text] for text in texts], np.int64),
        }
        fields = {n: f for n, f in self.fields.items() if f.modality in (Modality.CONTINUOUS, Modality.DISCRETE)}
        return {n: _values(episode, f).astype(self.features[n]["dtype"]) for n, f in fields.items()} | values

    def _table(self, episode: Episode, numbers: Mapping[str, np.ndarray], rows: slice) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        for name in self.features:
            if name in numbers:
                columns[name] = _lists(numbers[name][rows])
            elif self.fields[name].modality is Modality.TEXT:
                columns[name] = pa.array(_values(episode, self.fields[name])[rows].tolist(), pa.string())
            elif name not in self.films:
                pictures = _values(episode, self.fields[name])[rows]
                columns[name] = pa.array([{"bytes": _png(p), "path": None} for p in pictures], _PICTURE)
        return pa.table(columns)

    def _statistics(self, episode: Episode, numbers: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        found = {name: _summary(values.reshape(len(values), -1), values.shape[1:] or (1,)) for name, values in numbers.items()}
        for name, f in self.fields.items():
            if f.modality is Modality.IMAGE:
                pictures = _values(episode, f)
                frames = np.unique(np.linspace(0, len(pictures) - 1, _SAMPLED_FRAMES).astype(int))
                step = -(-max(f.shape[:2]) // _SAMPLED_SIDE)
                pixels = pictures[frames, ::step, ::step].reshape(-1, 3) / 255
                found[name] = _summary(pixels, (3, 1, 1)) | {"count": np.array([len(frames)])}
        return found


def _with_free_lists(schema: pa.Schema) -> pa.Schema:
    """Lists of a fixed size may have another: pyarrow before 26 reads no Parquet file with a null among those of fixed size."""
    fields = [f.with_type(pa.list_(f.type.value_type)) if pa.types.is_fixed_size_list(f.type) else f for f in schema]
    return pa.schema(fields, schema.metadata)


class _Parts:
    """Parquet files `chunk-000/file-000.parquet` and on, each up to a size."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.number = -1
        self._sink: pa.OSFile | None = None
        self._writer: pq.ParquetWriter | None = None

    def begin(self) -> tuple[int, int]:
        """Chunk and file for the next episode."""
        if self._sink is None or self._sink.tell() >= self.limit:
            self.close()
            self.number += 1
            path = _part(self.folder, self.number, "parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = pa.OSFile(str(path), "wb")
        return divmod(self.number, CHUNK_FILES)

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, table.schema, compression="snappy")
        self._writer.write_table(table)

    def close(self) -> None:
        for file in (self._writer, self._sink):
            if file is not None:
                file.close()
        self._writer = self._sink = None


class _Film:
    """Videos `chunk-000/file-000.mp4` and on of one feature, each up to a size."""

    def __init__(self, folder: Path, name: str, size: Sequence[int], fps: float, codec: str) -> None:
        self.folder = folder / "videos" / name
        self.first = _part(self.folder, 0, "mp4")
        self.number = -1
        self._settings = fps, (size[0], size[1]), codec
        self._writer: Any = None  # a VideoWriter between `begin` and `close`

    @property
    def seconds(self) -> float:
        """Where the next frame will be."""
        return self._writer.num_frames / self._settings[0]

    def begin(self) -> tuple[int, int]:
        """Chunk and file for the next episode."""
        if self._writer is None or self._writer.bytes >= VIDEO_BYTES:
            self.close()
            self.number += 1
            path = _part(self.folder, self.number, "mp4")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = VideoWriter(path, *self._settings)
        return divmod(self.number, CHUNK_FILES)

    def write(self, picture: np.ndarray) -> None:
        self._writer.write(picture)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def _tasks(stores: Sequence[Store]) -> list[TaskSpec]:
    """The distinct tasks of the stores. **Raises:** `ValueError` unless they make the same features."""
    tasks: dict[str, TaskSpec] = {}
    for store in stores:
        for task in store.tasks:
            if lines := task_differences([tasks.get(task.name, task)], [task]):
                raise ValueError(f"store {store.path}: {'; '.join(lines)}; export it on its own")
            tasks.setdefault(task.name, task)
    for task in tasks.values():
        if list(features_of(task)[0]) != list(features_of(next(iter(tasks.values())))[0]):
            raise ValueError(f"tasks {sorted(tasks)} have different features, and a LeRobot dataset has one kind; export them one by one")
    timestep_columns(list(tasks.values()))
    return list(tasks.values())


def _fps(stores: Sequence[Store]) -> float:
    rates = {float(rate) for s in stores if isinstance(rate := s.manifest.provenance.get("fps"), int | float)}
    if len(rates) > 1:
        raise ValueError(f"the stores were recorded at {sorted(rates)} frames per second, and a LeRobot dataset has one rate; give fps")
    return rates.pop() if rates else 10.0


def _splits(stores: Sequence[Store]) -> dict[str, str]:
    """`{"train": "0:20", "test": "20:25"}` where neighbouring stores are of different splits; else all are for training."""
    names = [str(store.manifest.provenance.get("split") or "train") for store in stores]
    ends = np.cumsum([0, *(store.num_episodes for store in stores)])
    groups = [(name, [k for k, _ in group]) for name, group in groupby(enumerate(names), lambda pair: pair[1])]
    if len({name for name, _ in groups}) < len(groups):
        return {"train": f"0:{ends[-1]}"}
    return {name: f"{ends[places[0]]}:{ends[places[-1] + 1]}" for name, places in groups if ends[places[0]] < ends[places[-1] + 1]}


def _feature(f: FieldSpec, is_film: bool) -> dict[str, Any]:
    if f.modality is Modality.IMAGE:
        return {"dtype": "video" if is_film else "image", "shape": list(f.shape), "names": ["height", "width", "channels"]}
    if f.modality is Modality.TEXT:
        return {"dtype": "string", "shape": [1], "names": None}
    kind = np.dtype(f.dtype)
    dtype = "int64" if kind.kind in "biu" else "float64" if kind.itemsize == 8 else "float32"
    return {"dtype": dtype, "shape": list(f.shape) or [1], "names": None}


def _fixed_features() -> dict[str, dict[str, Any]]:
    dtypes = (
        {"next.reward": "float32", "next.done": "bool"}
        | {n: "int64" for n in BOOKKEEPING if n != "subtask_index"}
        | {"timestamp": "float32"}
    )
    return {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in dtypes.items()}


def _values(episode: Episode, f: FieldSpec) -> np.ndarray:
    return (episode.observations if f.role == "observation" else episode.actions)[f.name]


def _lists(values: np.ndarray) -> pa.Array:
    """A column of numbers, of lists of a fixed length, or of lists of lists; one element is a number by itself."""
    shape = () if values.shape[1:] == (1,) else values.shape[1:]
    column = pa.array(np.ascontiguousarray(values).reshape(-1))
    if len(shape) == 1:
        return pa.FixedSizeListArray.from_arrays(column, shape[0])
    for n in reversed(shape):
        column = pa.ListArray.from_arrays(pa.array(np.arange(0, len(column) + 1, n), pa.int32()), column)
    return column


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _summary(values: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Statistics of (T, size) values over T, each of `shape`."""
    numbers = values.astype(np.float64)
    found = {"min": numbers.min(0), "max": numbers.max(0), "mean": numbers.mean(0), "std": numbers.std(0)}
    found |= dict(zip(_QUANTILES, np.quantile(numbers, list(_QUANTILES.values()), axis=0), strict=True))
    return {key: value.reshape(shape) for key, value in found.items()} | {"count": np.array([len(values)])}


def _merge(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Statistics of both; exact but for the quantiles, which are averaged by count as lerobot does."""
    share = b["count"][0] / (a["count"][0] + b["count"][0])
    found = {key: a[key] + (b[key] - a[key]) * share for key in ("mean", *_QUANTILES)}
    variance = a["std"] ** 2 * (1 - share) + b["std"] ** 2 * share + (b["mean"] - a["mean"]) ** 2 * share * (1 - share)
    found |= {"min": np.minimum(a["min"], b["min"]), "max": np.maximum(a["max"], b["max"]), "std": np.sqrt(variance)}
    return found | {"count": a["count"] + b["count"]}


def _task_table(sentences: Sequence[str]) -> pa.Table:
    """The sentences as the index of a pandas table, which lerobot looks them up in."""
    index = "__index_level_0__"
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
        {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ]
    names = [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}]
    notes = {"index_columns": [index], "column_indexes": names, "columns": columns}
    table = pa.table({"task_index": pa.array(range(len(sentences)), pa.int64()), index: pa.array(sentences, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(notes)})


def _part(folder: Path, number: int, suffix: str) -> Path:
    chunk, file = divmod(number, CHUNK_FILES)
    return folder / f"chunk-{chunk:03d}" / f"file-{file:03d}.{suffix}"
