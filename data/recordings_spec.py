"""The YAML file of own recordings: what it may say, and a first one made of the names in a file.

docs/formats/recordings.md lists its keys, which are the fields of `Spec` and `Entry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import yaml

from gato.episode import Behaviour
from gato.spec import Role

from .arrays import Arrays, Hdf5Arrays, nearest_or_all, open_arrays

MAX_SPEC_BYTES = 2**20


@dataclass(frozen=True)
class Entry:
    """One observation or action field.

    - `key`: of the array; several are put side by side. `text`: a constant text instead.
    - `next`: of the array that holds what was observed after each action.
    - `modality`, `dtype`: those of the array unless given; `shape`: of one timestep.
    - `low`, `high`: a number, or one per element; `infer`: measured in one pass over all episodes.
    - `origin`: likewise; see `FieldSpec`.
    """

    key: str | list | None = None
    text: str | None = None
    next: str | list | None = None
    modality: str | None = None
    shape: list | None = None
    dtype: str | None = None
    low: float | list | None = None
    high: float | list | None = None
    origin: float | list | None = None
    infer: bool = False

    @property
    def keys(self) -> list[str]:
        return self.key if isinstance(self.key, list) else [self.key] if self.key else []


@dataclass(frozen=True)
class Spec:
    """What the YAML file says.

    - `task`: `family/name`; `observations`, `actions`: an `Entry` or just a key by name.
    - `episodes`: HDF5 groups such as `data/*`; `{key: K}`: rows of equal K; `{ends: [K, ...]}`: up to where one is true.
      A file each by default.
    - `reward`, `terminated`, `truncated`, `success`: keys; the latter three may be constants.
    - `instruction`: a text, or `{key: K}`: the same as an observation of this name.
    - `split`: shares by name, or `{key: K}`. `behaviour`: who acted.
    - `clip_actions`: clip what leaves its range, and say in the episode how many values that changed.
    """

    task: str
    actions: dict
    observations: dict = field(default_factory=dict)
    episodes: str | dict | None = None
    reward: str | None = None
    terminated: str | bool | None = None
    truncated: str | bool | None = None
    success: str | bool | None = None
    instruction: str | dict | None = None
    split: dict = field(default_factory=lambda: {"train": 1})
    behaviour: str = "expert"
    clip_actions: bool = False
    env_id: str | None = None
    env_kwargs: dict = field(default_factory=dict)
    episode_limit: int | None = None
    licence: str | None = None
    given: dict = field(default_factory=dict)

    @property
    def entries(self) -> list[tuple[Role, str, Entry]]:
        return [("observation", *item) for item in self.observations.items()] + [("action", *item) for item in self.actions.items()]

    def types(self) -> dict[str, str]:
        """What a CSV file's columns must hold, where the spec says so."""
        flags = [self.terminated, self.truncated, self.success]
        cut = self.episodes if isinstance(self.episodes, dict) else {}
        types = {key: "bool" for key in [*flags, *cut.get("ends", ())] if isinstance(key, str)}
        types |= {key: "str" for key in (cut.get("key"), self.split.get("key")) if isinstance(key, str)}
        types |= {self.reward: "float64"} if self.reward else {}
        kinds = {"continuous": "float64", "text": "str", "discrete": "int64"}
        return types | {key: kinds[entry.modality] for *_, entry in self.entries if entry.modality in kinds for key in entry.keys}


_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}


def read_spec(path: Path) -> Spec:
    """**Raises:** `ValueError` in one line with file, key and the nearest known key."""
    if not path.is_file():
        raise ValueError(f"no spec at '{path}'")
    if path.stat().st_size > MAX_SPEC_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MAX_SPEC_BYTES}; a spec is a short YAML file")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    spec = _build(Spec, given, str(path), "")
    sides: dict[str, dict] = {"observations": dict(spec.observations), "actions": dict(spec.actions)}
    if spec.instruction is not None:
        sides["observations"]["instruction"] = {"text": spec.instruction} if isinstance(spec.instruction, str) else spec.instruction
    for side, entries in sides.items():
        for name, entry in entries.items():
            if not isinstance(name, str):
                raise ValueError(f"{path}: '{side}' names a field {name!r}; put it in quotes")
            entry = {"key": entry} if isinstance(entry, str | list) else entry
            entries[name] = found = _build(Entry, entry, str(path), f"{side}.{name}.")
            if (found.key is None) == (found.text is None):
                raise ValueError(f"{path}: '{side}.{name}' needs either a key or a text")
    if spec.behaviour not in get_args(Behaviour):
        raise ValueError(f"{path}: 'behaviour' is '{spec.behaviour}', expected one of {', '.join(get_args(Behaviour))}")
    if isinstance(cut := spec.episodes, dict) and not (
        (set(cut) == {"key"} and isinstance(cut["key"], str))
        or (set(cut) == {"ends"} and isinstance(cut["ends"], list) and cut["ends"] and all(isinstance(k, str) for k in cut["ends"]))
    ):
        raise ValueError(f"{path}: 'episodes' is {cut}, expected a pattern of HDF5 groups, {{key: K}} or {{ends: [K, ...]}}")
    if not sides["actions"]:
        raise ValueError(f"{path}: 'actions' is empty; name at least one")
    return Spec(**{f.name: getattr(spec, f.name) for f in fields(Spec)} | sides | {"given": given})


def _build(kind: type, given: Any, path: str, prefix: str) -> Any:
    """A dataclass from a mapping of YAML. **Raises:** `ValueError` with file, key and the nearest known key."""
    if not isinstance(given, dict):
        raise ValueError(f"{path}: '{prefix.rstrip('.') or 'the spec'}' is {given!r}, expected a mapping")
    known = {f.name: f for f in fields(kind) if f.name != "given"}
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{path}: there is no key '{prefix}{key}'{nearest_or_all(str(key), list(known))}")
        words = str(known[key].type).split(" | ")
        kinds = [k for k in _WORDS if k.__name__ in words] + ([int] if "float" in words else [])
        if type(value) not in kinds and not (value is None and "None" in words):
            raise ValueError(f"{path}: '{prefix}{key}' is {value!r}, expected {' or '.join(_WORDS[k] for k in kinds)}")
        inner = str if key in ("key", "next") else int | float
        if isinstance(value, list) and not all(isinstance(v, inner) for v in value):
            raise ValueError(f"{path}: '{prefix}{key}' is {value!r}, expected {'texts' if inner is str else 'numbers'} in the list")
    if missing := [name for name in ("task", "actions") if name in known and name not in given]:
        raise ValueError(f"{path} lacks the key '{missing[0]}'")
    return kind(**given)


def suggestion(path: Path) -> str:
    """A spec to start from, made of the names in a file; what it guesses is to be checked."""
    with closing(open_arrays(path)) as arrays:
        pattern, prefix = _groups(arrays)
        kinds = {k.removeprefix(prefix): (arrays.dtype(k), len(arrays.shape(k))) for k in arrays.keys() if k.startswith(prefix)}
    found = _guess(list(kinds), {name for name, (dtype, _) in kinds.items() if dtype == "str"})
    lines = [f"# {path.name} holds {', '.join(listing(path))}", "task: my/task  # family/name"]
    if pattern:
        lines.append(f"episodes: {pattern}")
    elif "episode" in found:
        lines.append(f"episodes: {{key: {found['episode'][0]}}}")
    elif ends := found.get("terminated", []) + found.get("truncated", []):
        lines.append(f"episodes: {{ends: [{', '.join(ends)}]}}")
    for side in ("observations", "actions"):
        lines.append(f"{side}:" if side in found else f"{side}: {{}}  # none found by its name")
        for name, keys in _side_by_side(found.get(side, [])).items():
            dtype, num_axes = kinds[keys[0]]
            is_picture = dtype == "uint8" and num_axes == 4
            needs_range = ("int" in dtype and not is_picture) or ("float" in dtype and side == "actions")
            key = keys[0] if len(keys) == 1 else f"[{', '.join(keys)}]"
            lines.append(f"  {name}: {{key: {key}, infer: true}}" if needs_range else f"  {name}: {key}")
    lines += [f"{key}: {found[key][0]}" for key in ("reward", "terminated", "truncated", "success") if key in found]
    return "\n".join(lines)


# -- a first spec ----------------------------------------------------------------------------------

_ROLES = {
    "reward": {"reward", "rewards"},
    "terminated": {"terminated", "terminals", "terminations", "dones", "done"},
    "truncated": {"truncated", "truncations", "timeouts"},
    "success": {"success", "successes", "is_success"},
    "episode": {"episode", "episode_id", "episode_index", "trajectory"},
}


def _groups(arrays: Arrays) -> tuple[str, str]:
    """The pattern of numbered groups and the first of them, or nothing."""
    if not isinstance(arrays, Hdf5Arrays):
        return "", ""
    for pattern in ("*", "*/*"):
        if numbered := [g for g in arrays.groups(pattern) if g[-1].isdigit()]:
            return pattern.replace("*", numbered[0].split("/")[0], 1) if "/" in pattern else pattern, f"{numbered[0]}/"
    return "", ""


def _guess(names: Sequence[str], texts: set[str]) -> dict[str, list[str]]:
    """Which names may be what."""
    found: dict[str, list[str]] = {}
    for name in names:
        last = name.split("/")[-1].lower()
        role = next((role for role, words in _ROLES.items() if last in words), None)
        if role is None and not last.startswith("next_") and not name.startswith("next_"):
            role = "actions" if last.startswith("action") and name not in texts else "observations"
        if role:
            found.setdefault(role, []).append(name)
    seen = [n for n in found.get("observations", []) if n.startswith(("obs", "state"))]
    return found | ({"observations": seen} if seen else {})


def _side_by_side(names: Sequence[str]) -> dict[str, list[str]]:
    """x_0, x_1 make one field x."""
    found: dict[str, list[str]] = {}
    for name in names:
        stem = name.split("/")[-1]
        stem = stem.rstrip("0123456789").rstrip("_") if stem[-1].isdigit() else stem
        found.setdefault(stem or name, []).append(name)
    return found


def listing(path: Path, limit: int = 24) -> list[str]:
    """What the file, or the first episode in it, holds."""
    with closing(open_arrays(path)) as arrays:
        _, prefix = _groups(arrays)
        keys = [k for k in arrays.keys() if k.startswith(prefix)]
        return [f"{k} {arrays.shape(k)} {arrays.dtype(k)}" for k in keys[:limit]] + (["..."] if len(keys) > limit else [])
