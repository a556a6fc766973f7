"""One shard of a store: the mapped timesteps, and the index of the episodes in them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gato.episode import Episode

from .columns import FINAL, REWARD, episode_schema, final_columns, timestep_columns, timestep_schema
from .manifest import Manifest, ShardEntry
from .table import Table


class Shard:
    """Two mapped files and the index of the episodes in them."""

    def __init__(self, folder: Path, manifest: Manifest, entry: ShardEntry, verify: bool) -> None:
        self.tasks = manifest.tasks
        columns = timestep_columns(self.tasks)
        self.label = f"shard {folder / entry.timesteps.file}"
        for file in (entry.timesteps, entry.episodes):
            file.check_size(folder)
            if verify:
                file.check_digest(folder)
        rows = entry.timesteps.rows, manifest.timestep_batch_rows
        self.timesteps = Table(folder / entry.timesteps.file, timestep_schema(columns), {**columns, "reward": REWARD}, *rows)
        rows = entry.episodes.rows, manifest.episode_batch_rows
        self.episodes = Table(folder / entry.episodes.file, episode_schema(columns), final_columns(columns), *rows)
        self._names = list(columns)
        self._num_observations = len(self.tasks[0].observations)
        self._fields = [name.split(".", 1)[1] for name in columns]

    @cached_property
    def index(self) -> dict[str, np.ndarray]:
        """The columns that are needed to find and label an episode, (episodes of the shard,) each."""

        def column(name: str, missing: Any = None) -> np.ndarray:
            parts = self.episodes.column(name)
            parts = parts if missing is None else [p.fill_null(missing) for p in parts]
            return np.concatenate([p.to_numpy(zero_copy_only=False) for p in parts])

        names = ("first_row", "length", "task_index", "return", "terminated", "truncated")
        index = {name: column(name) for name in names}
        index["behaviour"] = self._behaviours()
        for name, missing in (("success", False), ("seed", 0)):
            index[name] = column(name, missing)
            index[f"has_{name}"] = np.concatenate([~p.is_null().to_numpy(False) for p in self.episodes.column(name)])
        finals = [n for n in self.episodes.names if n.startswith(FINAL)]
        index["has_final"] = (
            np.concatenate([~p.is_null().to_numpy(False) for p in self.episodes.column(finals[0])])
            if finals
            else np.zeros(self.episodes.rows, bool)
        )
        first, length, task = index["first_row"], index["length"], index["task_index"]
        wrong = (first < 0) | (length < 1) | (first > self.timesteps.rows - length) | (task < 0) | (task >= len(self.tasks))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{self.label}: episode {row} of the shard claims rows {first[row]} to {first[row] + length[row]} of task "
                f"{task[row]}, but there are {self.timesteps.rows} rows and {len(self.tasks)} tasks"
            )
        return index

    def _behaviours(self) -> np.ndarray:
        """(episodes,) strings; decodes each distinct one once."""
        encoded = pa.chunked_array(self.episodes.column("behaviour")).dictionary_encode().unify_dictionaries()
        try:
            names = encoded.chunk(0).dictionary.to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.label}: a behaviour is damaged text: {error}") from None
        return np.array(names, dtype=str)[encoded.combine_chunks().indices]

    def episode(self, row: int, start: int, stop: int | None) -> Episode:
        index = self.index
        length = int(index["length"][row])
        stop = length if stop is None else min(stop, length)
        if not 0 <= start < stop:
            raise ValueError(f"{self.label}: the window {start} to {stop} of an episode of {length} timesteps is empty")
        first = int(index["first_row"][row])
        *values, rewards = self.timesteps.read([*self._names, "reward"], first + start, first + stop)
        fields, split = self._fields, self._num_observations
        ends = stop == length
        return Episode.trusted(
            task=self.tasks[index["task_index"][row]],
            observations=dict(zip(fields[:split], values[:split], strict=True)),
            actions=dict(zip(fields[split:], values[split:], strict=True)),
            rewards=rewards,
            terminated=ends and bool(index["terminated"][row]),
            truncated=ends and bool(index["truncated"][row]),
            final_observation=self._final_observation(row) if ends and index["has_final"][row] else None,
            behaviour=str(index["behaviour"][row]),
            success=bool(index["success"][row]) if index["has_success"][row] else None,
            seed=int(index["seed"][row]) if index["has_seed"][row] else None,
            parameters=self._parameters(row),
        )

    def rewards(self, row: int, start: int) -> np.ndarray:
        first, length = (int(self.index[name][row]) for name in ("first_row", "length"))
        return self.timesteps.read(["reward"], first + start, first + length)[0]

    def validate(self, first_episode: int) -> None:
        for table in (self.timesteps, self.episodes):
            for _ in table.batches(full=True):
                pass
        expected_row = 0
        for row in range(self.episodes.rows):
            label = f"{self.label}, episode {first_episode + row}"
            if (found := int(self.index["first_row"][row])) != expected_row:
                raise ValueError(f"{label} begins at row {found}, expected {expected_row}")
            try:
                episode = replace(self.episode(row, 0, None))  # constructs it anew, with all checks
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from None
            if episode.total_reward != self.index["return"][row]:
                raise ValueError(f"{label} has return {episode.total_reward}, expected {self.index['return'][row]}")
            expected_row += episode.num_timesteps
        if expected_row != self.timesteps.rows:
            raise ValueError(f"{self.label} has {self.timesteps.rows} rows, but its episodes end at row {expected_row}")

    def _parameters(self, row: int) -> dict[str, Any]:
        text = self.episodes.value("parameters", row)
        if text == "{}":
            return {}
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"shard {self.episodes.path}, row {row}: parameters are not valid JSON: {error}") from None

    def _final_observation(self, row: int) -> dict[str, Any]:
        names = self._fields[: self._num_observations]
        return {name: self.episodes.value(FINAL + name, row) for name in names}
