"""One's own recordings: HDF5, NPZ, CSV or TSV files, and a YAML file that says which arrays are what.

An episode is a file, a group of an HDF5 file, or a run of rows. One episode is in memory at a time.
`read_spec` reads the YAML file, `first_spec` makes one to start from, `env_spec` one for an environment.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from gato import envs
from gato.data.formats.dataset import Dataset
from gato.data.formats.files import files_digest, options_digest
from gato.data.formats.left_out import BadRow, LeftOut
from gato.episode import Episode, OutOfRange, clip_actions
from gato.setting import Settings
from gato.spec import PATCH_SIZE, FieldSpec, Modality, Role, TaskSpec

from .arrays import Arrays
from .csv_file import CsvArrays
from .env_spec import EnvSpec, env_spec
from .files import open_arrays, recording_files
from .first_spec import first_spec
from .places import Place, is_unfinished, places, split_places
from .roles import listing
from .rows import EpisodeRows
from .spec import Entry, Spec, read_spec, spec_of

_TIMESTEP = re.compile(r"at timestep (\d+)")


@dataclass(frozen=True)
class Recordings(Settings):
    """Own recordings in HDF5, NPZ, CSV or TSV files.

    - `spec`: YAML file that says which arrays are what; without it and without --out one to start from is printed.
    - `env`: a task or a Gymnasium id, also as MODULE:ID: the spec is made for this environment, and with --out used at once.
    """

    spec: Path | None = None
    env: str | None = None

    def first_spec(self, path: Path) -> str:
        """The spec to start from, for the environment where one is named. **Raises:** `ValueError` naming the file."""
        file = recording_files(path, LeftOut())[0]
        return first_spec(file) if self.env is None else env_spec(file, envs.task(self.env)).text

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """`path`: a file, a folder of files, or a pattern such as `runs/*.npz`.

        **Raises:** `ValueError` naming file and key; without a spec where the environment's fields are not found by their names.
        """
        left_out = left_out or LeftOut()
        files = recording_files(path, left_out)
        made = None if self.env is None else self._made(path, files[0], left_out)
        spec, named = (self._given(path, files[0]), self.spec) if made is None else (spec_of(yaml.safe_load(made.text), path), path)
        try:
            source = _Source(files, spec, left_out)
            task, inferred = source.task()
            splits = split_places(source.places, spec, source.opened, left_out)
        except ValueError as error:
            names_a_file = any(str(error).startswith(str(file)) for file in files)
            raise error if names_a_file else (BadRow if isinstance(error, BadRow) else ValueError)(f"{named}: {error}") from None
        provenance: dict[str, Any] = {"format": "recordings", "files": len(files), "spec": spec.given, "licence": spec.licence}
        if made is not None:
            provenance["taken"] = list(made.taken)
        if inferred:
            provenance["inferred_ranges"] = inferred
        if spec.reward is None:
            provenance["rewards"] = "none recorded; all zero"
        if num_unfinished := source.num_unfinished():
            provenance["episodes_without_an_end"] = num_unfinished
        return Dataset(
            source=path.name,
            digest=options_digest(files_digest(files[0].parent, files), spec=json.dumps(spec.given, sort_keys=True)),
            tasks=(task,),
            splits={name: len(found) for name, found in splits.items()},
            episodes=lambda split, start: left_out.made(islice(splits[split], start, None), lambda place: source.episode(task, place)),
            provenance=provenance,
            left_out=left_out,
        )

    def _given(self, path: Path, file: Path) -> Spec:
        """What `spec` says. **Raises:** `ValueError` where there is none, with what the file holds."""
        if self.spec is not None:
            return read_spec(self.spec)
        raise ValueError(
            f"{file} holds {', '.join(listing(file))}; a spec must say which is what: 'gato data import recordings "
            f"{shlex.quote(str(path))} > spec.yaml' prints one, check it and give --spec spec.yaml; or name the environment with --env"
        )

    def _made(self, path: Path, file: Path, left_out: LeftOut) -> EnvSpec:
        """The spec for the environment. **Raises:** `ValueError` unless every field is found by its name."""
        if self.spec is not None:
            raise ValueError(
                f"--spec {self.spec} and --env {self.env} are both given; a spec names its environment as env_id: leave out --env"
            )
        made = env_spec(file, envs.task(str(self.env)))
        if made.doubts:
            more = f", and {len(made.doubts) - 1} more to be filled in" if made.doubts[1:] else ""
            raise ValueError(
                f"{file}: {made.doubts[0]}{more}; 'gato data import recordings {shlex.quote(str(path))} --env {shlex.quote(str(self.env))} "
                "> spec.yaml' prints a spec: complete it and give --spec spec.yaml in place of --env"
            )
        for note in made.left_out:
            left_out.count("arrays that nothing is read from", note)
        return made


class _Source:
    """Files and what the spec says of them, with one file open at a time."""

    def __init__(self, files: Sequence[Path], spec: Spec, left_out: LeftOut) -> None:
        self.spec, self.left_out = spec, left_out
        self._arrays: Arrays | None = None
        self._types, self._keys = spec.types(), spec.keys
        self.places: list[Place] = []
        for file in files:
            try:
                self.places += places(self.opened(file), spec.episodes)
            except ValueError as error:
                left_out.row(error)
        if not self.places:
            raise ValueError(f"{files[0]} holds no episode" + (f" in '{spec.episodes}'" if spec.episodes else ""))

    def opened(self, file: Path) -> Arrays:
        if self._arrays is None or self._arrays.path != file:
            if self._arrays is not None:
                self._arrays.close()
            self._arrays = None
            self._arrays = open_arrays(file, self._types, self._keys)
        return self._arrays

    def num_unfinished(self) -> int:
        return sum(is_unfinished(place, self.opened(place.file), self.spec.episodes) for place in self.places if place.stop == place.total)

    def task(self) -> tuple[TaskSpec, dict[str, Any]]:
        """The task, from the spec and the first episode, and the ranges that had to be measured."""
        s = self.spec
        asked = {(role, name): entry for role, name, entry in s.entries}
        first, rest = next(self._readable(asked)), {key: entry for key, entry in asked.items() if entry.infer}
        ranges = self._measure(rest) if rest else {}
        specs = [self._field(role, name, entry, first[role, name], ranges.get((role, name))) for role, name, entry in s.entries]
        task = TaskSpec(
            s.task, tuple(specs), s.env_id, s.env_kwargs, episode_limit=s.episode_limit, licence=s.licence, clip_actions=s.clip_actions
        )
        return task, {f"{role} {name}": {"low": low, "high": high} for (role, name), (low, high) in ranges.items()}

    def episode(self, task: TaskSpec, place: Place) -> Episode:
        """**Raises:** `ValueError` naming file, episode and field."""
        try:
            return self._episode(task, EpisodeRows(place, self.spec, self.opened))
        except ValueError as error:
            raise self._located(error, place) from None

    def _episode(self, task: TaskSpec, rows: EpisodeRows) -> Episode:
        s, length, place = self.spec, rows.length, rows.place
        sides: dict[str, dict[str, np.ndarray]] = {"observation": {}, "action": {}}
        final: dict[str, Any] = {}
        constant: dict[str, Any] = {}  # has a final value if the others have one
        for role, name, entry in s.entries:
            values = rows.values(entry, f"{role} '{name}'", with_final=role == "observation")
            if role == "observation" and rows.is_constant(entry):
                constant[name] = values[0]
            elif len(values) > length and s.final_observation:
                final[name] = values[length]
            sides[role][name] = values[:length]
        final = final | constant if final else {}
        if final and (lacking := sorted({f.name for f in task.observations} - final.keys())):
            raise ValueError(
                f"the observations {sorted(final)} have a final one, but {lacking} lack it; "
                "give 'next' to all, or say 'final_observation: false'"
            )
        actions, num_clipped = clip_actions(task, sides["action"]) if s.clip_actions else (sides["action"], 0)
        parameters: dict[str, Any] = {"recording": str(place).removeprefix(f"{place.file.parent}/")}
        parameters |= {"clipped_actions": num_clipped} if num_clipped else {}
        return Episode(
            task=task,
            observations=sides["observation"],
            actions=actions,
            rewards=rows.rewards(),
            terminated=rows.ended(s.terminated, "terminated"),
            truncated=rows.ended(s.truncated, "truncated"),
            final_observation=final or None,
            behaviour=s.behaviour,  # type: ignore[arg-type]
            success=rows.succeeded(),
            parameters=parameters,
        )

    def _readable(
        self, asked: Mapping[tuple[Role, str], Entry], made: Callable[[np.ndarray, Role, str], Any] = lambda values, role, name: values
    ) -> Iterator[dict[tuple[Role, str], Any]]:
        """What is `made` of the fields of one episode after the other; as many bad ones are passed over as may be skipped when they are
        read."""
        bad = len(self.left_out.rows)
        for place in self.places:
            try:
                rows = EpisodeRows(place, self.spec, self.opened)
                yield {
                    (role, name): made(rows.values(entry, f"{role} '{name}'", with_final=role == "observation"), role, name)
                    for (role, name), entry in asked.items()
                }
            except ValueError as error:
                bad += 1
                if bad > self.left_out.skip or bad >= len(self.places):
                    raise self._located(error, place) from None

    def _field(self, role: Role, name: str, entry: Entry, values: np.ndarray, measured: tuple[list, list] | None) -> FieldSpec:
        """The spec of a field, from what is written and what the first episode holds."""
        label = f"{role} '{name}'"
        dtype = "str" if values.dtype.kind == "O" else entry.dtype or values.dtype.name
        shape = () if dtype == "str" else values.shape[1:]
        low, high = measured or (_bound(entry.low), _bound(entry.high))
        if dtype == "str" and (low or high):
            raise ValueError(f"{label} holds text but has a range; 'modality: continuous' finds the row that is no number")
        modality = _modality(entry, dtype, shape)
        if modality is Modality.TEXT and entry.modality is None:
            self._refuse_numbers(label, entry, values)
        if modality is Modality.DISCRETE and dtype == "bool":
            low, high = low or [0], high or [1]
        if modality is Modality.IMAGE:
            dtype, low, high = "uint8", None, None
        resize: Literal["exact", "pad"] = "exact" if modality is not Modality.IMAGE or not any(n % PATCH_SIZE for n in shape[:2]) else "pad"
        parts = tuple(int(part) if self.spec.env_id and part.isdecimal() else part for part in name.split("/"))  # of a Tuple space
        path = () if name == role and len(getattr(self.spec, f"{role}s")) == 1 else parts
        try:
            lowest, highest, origin = (None if values is None else tuple(values) for values in (low, high, _bound(entry.origin)))
            return FieldSpec(name, modality, role, shape, dtype, lowest, highest, path, resize, origin=origin)
        except ValueError as error:
            raise ValueError(_with_remedy(str(error), entry)) from None

    @staticmethod
    def _refuse_numbers(label: str, entry: Entry, values: np.ndarray) -> None:
        """**Raises:** `ValueError` if a text that nobody called one is numbers but for a few words."""
        texts = [str(v) for v in values]
        wrong = [text for text in texts if not _is_number(text)]
        if entry.key is None or len(texts) < 2 or len(wrong) * 2 >= len(texts):
            return
        remedy = "'modality: continuous' finds the row, 'modality: text' keeps the words"
        if wrong:
            raise ValueError(f"{label} ({entry.key}) holds {wrong[0][:40]!r} among numbers; {remedy}")
        raise ValueError(
            f"{label} ({entry.key}) holds numbers written as text, such as {texts[0][:40]!r}; write them plainly, or say 'modality: text'"
        )

    def _measure(self, asked: Mapping[tuple[Role, str], Entry]) -> dict[tuple[Role, str], tuple[list, list]]:
        """Lowest and highest value of each element over all episodes."""
        found: dict[tuple[Role, str], tuple[np.ndarray, np.ndarray]] = {}
        for here in self._readable(asked, _range):
            for key, (low, high) in here.items():
                before = found.get(key, (low, high))
                if before[0].shape != low.shape:
                    continue  # refused when it is read
                found[key] = np.minimum(low, before[0]), np.maximum(high, before[1])
        for (role, name), (low, high) in found.items():
            if role == "action" and low.dtype.kind == "f" and (low == high).any():
                i = int(np.argmax(low == high))
                raise ValueError(f"action '{name}' always is {low[i]:g} in element {i}, which is no range; give low and high")
        return {key: (low.tolist(), high.tolist()) for key, (low, high) in found.items()}

    def _located(self, error: ValueError, place: Place) -> ValueError:
        """Names the episode, and the line of a table in which a timestep is."""
        text = str(error)
        if isinstance(error, OutOfRange):
            theirs = self.spec.env_id
            remedy = (
                f"the range of {theirs} ends there, so repair it or leave the episode out"
                if theirs
                else "widen the field's 'low' and 'high'"
            )
            clip = ", or say 'clip_actions: true' in the spec" if ": action '" in error.found else ""
            text = f"{error.found}; {remedy}{clip}"
        if text.startswith(str(place.file)):
            return ValueError(text)
        arrays = self.opened(place.file)
        found = _TIMESTEP.search(text) if place.stop is not None or isinstance(arrays, CsvArrays) else None
        where = f", {arrays.place(place.start + int(found[1]))}" if found else ""
        return ValueError(f"{place}{where}: {text}")


def _range(values: np.ndarray, role: Role, name: str) -> tuple[np.ndarray, np.ndarray]:
    values = values.reshape(len(values), -1)
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise ValueError(f"{role} '{name}' holds what is no finite number, so it has no range; repair it or leave the episode out")
    return values.min(axis=0), values.max(axis=0)


def _modality(entry: Entry, dtype: str, shape: tuple[int, ...]) -> Modality:
    if entry.modality is not None:
        return Modality(entry.modality)
    if dtype == "str":
        return Modality.TEXT
    if dtype == "uint8" and len(shape) == 3:
        return Modality.IMAGE
    return Modality.CONTINUOUS if np.dtype(dtype).kind == "f" else Modality.DISCRETE


def _with_remedy(text: str, entry: Entry) -> str:
    if "discrete tokens hold" in text:
        return f"{text.partition(';')[0]}; say 'modality: continuous', or give the numbers that it is made of"
    return f"{text}; or say 'infer: true'" if "give" in text and not entry.infer else text


def _bound(value: float | list | None) -> list | None:
    return value if value is None or isinstance(value, list) else [value]


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
