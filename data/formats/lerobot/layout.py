"""Where the parts of a LeRobot dataset lie: `meta/`, and which rows of which files an episode is.

Version 3.0 puts many episodes into one file and says in `meta/episodes` where each begins; version 2.1 has a
parquet file and, per camera, a video for every episode. All of it comes from outside: counts are compared,
templates can only name files inside the folder, and nothing is read that is larger than a limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.data.formats.files import files_below, files_digest
from gato.data.formats.lines import json_rows, load_json

VERSIONS = ("v2.0", "v2.1", "v3.0")
MAX_EPISODES = 2**24
MAX_EPISODE_FRAMES = 2**20

_FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")


@dataclass(frozen=True)
class Layout:
    """A dataset's metadata, checked.

    - `features`: `{feature: {"dtype", "shape", ...}}` of `info.json`; `stats`: `{feature: (min, max)}`.
    - `lengths`: (E,) frames of each episode; `splits`: `{split: range of episodes}`.
    - `sentences`: `{task_index: text}`.
    - `rows`: episode -> (parquet file, its first row there).
    - `video`: (episode, feature) -> (video file, second at which the episode begins in it).
    """

    folder: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    stats: Mapping[str, tuple[np.ndarray, np.ndarray]]
    lengths: np.ndarray
    splits: Mapping[str, range]
    sentences: Mapping[int, str]
    rows: Callable[[int], tuple[Path, int]]
    video: Callable[[int, str], tuple[Path, float]]
    robot: str | None = None
    licence: str | None = None

    @classmethod
    def open(cls, folder: Path) -> Layout:
        """**Raises:** `ValueError` naming the file and what is wrong in it."""
        path = folder / "meta" / "info.json"
        if not path.is_file():
            raise ValueError(f"{path} does not exist; expected the folder of a LeRobot dataset")
        info = load_json(path)
        version = _get(info, "codebase_version", str, path)
        if version not in VERSIONS:
            raise ValueError(f"{path} has codebase_version '{version}'; expected one of {', '.join(VERSIONS)}: convert it with lerobot")
        features = _get(info, "features", dict, path)
        for name, feature in features.items():
            _check_feature(path, name, feature)
        total = _get(info, "total_episodes", int, path)
        fps = _get(info, "fps", (int, float), path)
        if not 0 < total <= MAX_EPISODES or not 0 < fps <= 1e6:
            raise ValueError(f"{path} has {total} episodes at {fps} frames per second; expected 1 to {MAX_EPISODES} episodes, fps > 0")
        cameras = [name for name, feature in features.items() if feature["dtype"] == "video"]
        lengths, rows, video = (_index_v3 if version == "v3.0" else _index_v2)(folder, info, total, cameras)
        if not ((lengths > 0) & (lengths <= MAX_EPISODE_FRAMES)).all():
            i = int(np.argmax((lengths <= 0) | (lengths > MAX_EPISODE_FRAMES)))
            raise ValueError(f"{folder / 'meta'}: episode {i} has {lengths[i]} frames, expected 1 to {MAX_EPISODE_FRAMES}")
        return cls(
            folder, version, float(fps), features, _stats(folder), lengths, _splits(path, info, total), _sentences(folder, version),
            rows, video, _text_or_none(info, "robot_type", path), _licence(folder / "README.md"),
        )  # fmt: skip

    def ends(self) -> dict[Path, int]:
        """`{data file: the row behind its last episode}`."""
        found: dict[Path, int] = {}
        for i, length in enumerate(self.lengths.tolist()):
            path, first = self.rows(i)
            found[path] = max(found.get(path, 0), first + length)
        return found

    def digest(self) -> str:
        """SHA-256 over the names and contents of all files, hidden ones excepted."""
        return files_digest(self.folder, files_below(self.folder))


def open_parquet(path: Path) -> pq.ParquetFile:
    """**Raises:** `ValueError` naming the file if it is missing, cut or no parquet file."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        reason = "is missing" if not path.exists() else f"is no readable parquet file ({' '.join(str(error).split())})"
        raise ValueError(f"{path} {reason}; fetch it again or restore it") from None


def fill_template(template: str, folder: Path, **values: str | int) -> Path:
    """A path inside `folder` from a template such as `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet`.

    Only whole numbers of a given width and names are filled in: `str.format` on text from outside would reach
    attributes and make strings of any length.

    **Raises:** `ValueError` for anything else, and for a path that leads out of the folder.
    """

    def fill(found: re.Match[str]) -> str:
        name, width = found.groups()
        if name not in values:
            raise ValueError(f"{folder}: the path template '{template}' asks for '{name}'; known are {sorted(values)}")
        return str(values[name]).zfill(int(width or 0))

    if "{" in (rest := _FIELD.sub("", template)) or "}" in rest:
        raise ValueError(f"{folder}: the path template '{template}' holds more than names such as {{chunk_index:03d}}")
    name = PurePosixPath(_FIELD.sub(fill, template))
    # By its letters alone: a download cache links its files to a folder elsewhere, and those links are the user's own.
    if name.is_absolute() or ".." in name.parts or "\\" in str(name) or ":" in str(name) or "\0" in str(name):
        raise ValueError(f"{folder}: the path '{name}' leads out of the dataset's folder; such a dataset is refused")
    return folder / name


def _get(info: Mapping[str, Any], key: str, kind: Any, path: Path) -> Any:
    value = info.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{path} has {key} {value!r:.80}; that is no LeRobot dataset")
    return value


def _text_or_none(info: Mapping[str, Any], key: str, path: Path) -> str | None:
    return None if info.get(key) is None else _get(info, key, str, path)


def _check_feature(path: Path, name: str, feature: Any) -> None:
    shape = feature.get("shape") if isinstance(feature, dict) else None
    if not isinstance(shape, list) or not isinstance(feature.get("dtype"), str):
        raise ValueError(f"{path}: feature '{name}' is {feature!r:.200}; expected a dtype and a shape")
    if not all(type(n) is int and 0 < n < 2**31 for n in shape) or len(shape) > 8:
        raise ValueError(f"{path}: feature '{name}' has shape {shape!r:.80}; expected positive whole numbers")


def _splits(path: Path, info: Mapping[str, Any], total: int) -> dict[str, range]:
    splits = {}
    given = info.get("splits") or {"train": f"0:{total}"}
    if not isinstance(given, dict):
        raise ValueError(f"{path} has splits {given!r:.80}; expected names with episodes such as '0:{total}'")
    for name, text in given.items():
        found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", str(text))
        if not found or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"{path}: split '{name}' is '{text}'; expected a plain name and episodes such as '0:{total}'")
        splits[name] = range(int(found[1]), int(found[2]))
        if splits[name].stop > total or not splits[name]:
            raise ValueError(f"{path}: split '{name}' holds the episodes {text}, but there are {total}")
    for name, part in splits.items():
        if twice := [other for other, its in splits.items() if other < name and max(its.start, part.start) < min(its.stop, part.stop)]:
            raise ValueError(f"{path}: the splits '{twice[0]}' and '{name}' share episodes; give each episode to one of them")
    return splits


def _index_v2(folder: Path, info: Mapping[str, Any], total: int, cameras: list[str]) -> tuple[np.ndarray, Any, Any]:
    path = folder / "meta" / "episodes.jsonl"
    lengths = np.full(total, -1, np.int64)
    for k, row in enumerate(row for _, row in json_rows(path)):
        if row.get("episode_index") != k or type(row.get("length")) is not int or k >= total:
            raise ValueError(f"{path}, line {k + 1} is no length of episode {k} of {total}; the file was changed or cut")
        lengths[k] = row["length"]
    if total and lengths[-1] < 0:
        raise ValueError(f"{path} lists {int((lengths >= 0).sum())} episodes, but info.json has {total}; fetch it again or restore it")
    chunks = _get(info, "chunks_size", int, folder / "meta" / "info.json")
    if chunks < 1:
        raise ValueError(f"{folder / 'meta' / 'info.json'} has chunks_size {chunks}, expected at least 1")
    data, film = _templates(folder, info, cameras)

    def place(template: str, i: int, **more: str) -> Path:
        return fill_template(template, folder, episode_chunk=i // chunks, episode_index=i, **more)

    return lengths, lambda i: (place(data, i), 0), lambda i, key: (place(film, i, video_key=key), 0.0)


def _index_v3(folder: Path, info: Mapping[str, Any], total: int, cameras: list[str]) -> tuple[np.ndarray, Any, Any]:
    names = ["episode_index", "length", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index"]
    names += [f"videos/{key}/{what}" for key in cameras for what in ("chunk_index", "file_index", "from_timestamp")]
    columns = _columns(folder, names, total)
    first, length = columns["dataset_from_index"], columns["length"]
    if (columns["episode_index"] != np.arange(total)).any() or (columns["dataset_to_index"] - first != length).any():
        raise ValueError(f"{folder / 'meta' / 'episodes'}: episodes are not numbered from 0, or their rows do not match their lengths")
    files = np.stack([columns["data/chunk_index"], columns["data/file_index"]], axis=1)
    _, file = np.unique(files, axis=0, return_inverse=True)
    start = np.full(total, np.iinfo(np.int64).max)
    np.minimum.at(start, file.reshape(-1), first)  # the row of the whole dataset with which each file begins
    rows = first - start[file.reshape(-1)]
    data, film = _templates(folder, info, cameras)

    def place(template: str, i: int, prefix: str, **more: str) -> Path:
        chunk, number = (int(columns[f"{prefix}/{what}"][i]) for what in ("chunk_index", "file_index"))
        return fill_template(template, folder, chunk_index=chunk, file_index=number, **more)

    def video(i: int, key: str) -> tuple[Path, float]:
        return place(film, i, f"videos/{key}", video_key=key), float(columns[f"videos/{key}/from_timestamp"][i])

    return length, lambda i: (place(data, i, "data"), int(rows[i])), video


def _templates(folder: Path, info: Mapping[str, Any], cameras: list[str]) -> tuple[str, str]:
    """Where data and films lie; films only where there are cameras."""
    path = folder / "meta" / "info.json"
    return _get(info, "data_path", str, path), _get(info, "video_path", str, path) if cameras else ""


def _columns(folder: Path, names: list[str], total: int) -> dict[str, np.ndarray]:
    """Number columns of all files of `meta/episodes`, (E,) each."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    count = 0
    for path in sorted((folder / "meta" / "episodes").glob("*/*.parquet")):
        file = open_parquet(path)
        count += file.metadata.num_rows
        if missing := [n for n in names if n not in file.schema_arrow.names]:
            raise ValueError(f"{path} lacks the columns {missing}; fetch it again or convert the dataset with lerobot")
        if count > total:
            break
        try:
            table = file.read(columns=names)
            for name in names:
                values = table[name].to_numpy()
                if table[name].null_count or values.dtype.kind not in "if" or not np.isfinite(values).all() or (values < 0).any():
                    raise ValueError(f"{path}: column '{name}' holds something else than numbers from 0 on")
                found[name].append(values)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged: {error}; fetch it again or restore it") from None
    if count != total:
        raise ValueError(f"{folder / 'meta' / 'episodes'} lists {count} episodes, but info.json has {total}; fetch it again or restore it")
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _sentences(folder: Path, version: str) -> dict[int, str]:
    if version != "v3.0":
        rows = [row for _, row in json_rows(folder / "meta" / "tasks.jsonl")]
        found = _numbered(folder / "meta" / "tasks.jsonl", [(r.get("task_index"), r.get("task")) for r in rows])
    else:
        path = folder / "meta" / "tasks.parquet"
        try:
            columns = open_parquet(path).read().to_pydict()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged: {error}; fetch it again or restore it") from None
        texts = [name for name in ("task", "__index_level_0__") if name in columns]
        if not texts or "task_index" not in columns:
            raise ValueError(f"{path} has the columns {sorted(columns)}; expected task_index and the tasks as its index")
        found = _numbered(path, list(zip(columns["task_index"], columns[texts[0]], strict=True)))
    return found


def _numbered(path: Path, pairs: list[tuple[Any, Any]]) -> dict[int, str]:
    """The sentences by their numbers. **Raises:** `ValueError` for anything else, and for a number that is there twice."""
    found: dict[int, str] = {}
    for number, sentence in pairs:
        if type(number) is not int or not isinstance(sentence, str):
            raise ValueError(f"{path}: task {number!r:.80} is {sentence!r:.80}; expected a number and a text")
        if found.setdefault(number, sentence) != sentence:
            raise ValueError(f"{path} names the task {number} twice; give each its own number")
    return found


def _stats(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Smallest and largest values by feature; version 2.1 has them per episode. Features without numbers are left out."""
    whole, single = folder / "meta" / "stats.json", folder / "meta" / "episodes_stats.jsonl"
    parts = (r.get("stats") for _, r in json_rows(single)) if single.exists() else [load_json(whole)] if whole.exists() else []
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for part in parts:
        for name, values in part.items() if isinstance(part, dict) else ():
            try:
                low, high = (np.array(values[key], np.float64).reshape(-1) for key in ("min", "max"))
                before = found.get(name, (low, high))
                found[name] = np.minimum(low, before[0]), np.maximum(high, before[1])
            except (KeyError, TypeError, ValueError, OverflowError):
                continue  # `_Theirs._range` asks for bounds where it needs them and names what is missing
    return found


def _licence(readme: Path) -> str | None:
    """What the dataset card's header says."""
    if not readme.is_file():
        return None
    with open(readme, encoding="utf-8", errors="replace") as file:
        header = re.match(r"---\n(.*?)\n---", file.read(2**16), re.DOTALL)
    found = re.search(r"^license:[ \t]*(\S.*)$", header[1], re.MULTILINE) if header else None
    return found[1].strip().strip("'\"") if found else None
