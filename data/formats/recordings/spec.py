"""The YAML file of own recordings: what it may say.

docs/formats/recordings.md lists its keys, which are the fields of `Spec` and `Entry`.
"""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from gato.episode import Behaviour
from gato.spec import Modality, Role
from gato.yaml_file import load_yaml

from .arrays import nearest_or_all


@dataclass(frozen=True)
class Entry:
    """One observation or action field.

    - `key`: of the array; several are put side by side. `text`: a constant text instead.
    - `next`: of the array that holds what was observed after each action.
    - `modality`, `dtype`: those of the array unless given; `shape`: of one timestep.
    - `low`, `high`: a number, or one per element; `infer`: measured in one pass over all episodes. Of pictures that are no uint8:
      what is black and white.
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
        return self.key if isinstance(self.key, list) else [] if self.key is None else [self.key]


@dataclass(frozen=True)
class Spec:
    """What the YAML file says.

    - `task`: `family/name`; `observations`, `actions`: an `Entry` or just a key by name.
    - `episodes`: HDF5 groups such as `data/*`; `{key: K}`: rows of equal K; `{ends: [K, ...]}`: up to where one is true.
      A file each by default.
    - `reward`, `terminated`, `truncated`, `success`: keys; the latter three may be constants.
    - `instruction`: a text, or `{key: K}`: the same as an observation of this name.
    - `split`: shares by name, `{key: K}`, or `{masks: {NAME: K, ...}}`: K lists the names of the groups. `behaviour`: who acted.
    - `final_observation`: false leaves out what was observed after the last action.
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
    final_observation: bool = True
    clip_actions: bool = False
    env_id: str | None = None
    env_kwargs: dict = field(default_factory=dict)
    episode_limit: int | None = None
    licence: str | None = None
    given: dict = field(default_factory=dict)

    @property
    def entries(self) -> list[tuple[Role, str, Entry]]:
        return [("observation", *item) for item in self.observations.items()] + [("action", *item) for item in self.actions.items()]

    @property
    def keys(self) -> list[str]:
        """Of all arrays that are read for every episode."""
        nexts = [k for *_, e in self.entries if e.next for k in (e.next if isinstance(e.next, list) else [e.next])]
        flags = [key for key in (self.reward, self.terminated, self.truncated, self.success) if isinstance(key, str)]
        return [*(key for *_, entry in self.entries for key in entry.keys), *nexts, *flags]

    def types(self) -> dict[str, str]:
        """What a CSV file's columns must hold, where the spec says so."""
        flags = [self.terminated, self.truncated, self.success]
        cut = self.episodes if isinstance(self.episodes, dict) else {}
        observed = {key for *_, entry in self.entries for key in entry.keys}
        types = {key: "bool" for key in [*flags, *cut.get("ends", ())] if isinstance(key, str)}
        types |= {key: "str" for key in (cut.get("key"), self.split.get("key")) if isinstance(key, str) and key not in observed}
        types |= {self.reward: "float64"} if self.reward else {}
        kinds = {"continuous": "float64", "text": "str", "discrete": "int64"}
        return types | {key: kinds[entry.modality] for *_, entry in self.entries if entry.modality in kinds for key in entry.keys}


MAX_NAME = 500
_LONG = ("text", "instruction", "licence")
_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}


def read_spec(path: Path) -> Spec:
    """**Raises:** `ValueError` in one line with file, key and the nearest known key."""
    given = load_yaml(path)
    if given is None:
        raise ValueError(f"{path} is empty; 'gato data import recordings FILE' without --spec prints one to start from")
    return spec_of(given, path)


def spec_of(given: Any, path: Path) -> Spec:
    """The spec of a mapping that was read from a file. **Raises:** as `read_spec`."""
    spec = _build(Spec, given, str(path), "")
    sides: dict[str, dict] = {"observations": dict(spec.observations), "actions": dict(spec.actions)}
    if spec.instruction is not None:
        if "instruction" in sides["observations"]:
            raise ValueError(f"{path}: 'instruction' is there and among the observations too; remove one")
        sides["observations"]["instruction"] = {"text": spec.instruction} if isinstance(spec.instruction, str) else spec.instruction
    for side, entries in sides.items():
        for name, entry in entries.items():
            if not isinstance(name, str) or not name.strip("/ ") or len(name) > MAX_NAME:
                raise ValueError(f"{path}: '{side}' names a field {_short(name)}; put a name in quotes")
            entries[name] = _entry(path, f"{side}.{name}", {"key": entry} if isinstance(entry, str | list) else entry)
    _check(path, spec)
    if not sides["actions"]:
        raise ValueError(f"{path}: 'actions' is empty; name at least one")
    plain = json.loads(json.dumps(_text_keys(given), default=str))
    return Spec(**{f.name: getattr(spec, f.name) for f in fields(Spec)} | sides | {"given": plain})


def _entry(path: Path, label: str, given: Any) -> Entry:
    found: Entry = _build(Entry, given, str(path), f"{label}.")
    if (found.key is None) == (found.text is None):
        raise ValueError(f"{path}: '{label}' needs either a key or a text")
    for name, keys in (("key", found.key), ("next", found.next)):
        if keys is not None and (not keys or not all(keys) or (isinstance(keys, list) and len(set(keys)) < len(keys))):
            raise ValueError(f"{path}: '{label}.{name}' is {_short(keys)}, expected the name of an array, or several different ones")
    if found.shape is not None and not all(type(n) is int and 0 < n < 2**31 for n in found.shape):
        raise ValueError(f"{path}: '{label}.shape' is {_short(found.shape)}, expected whole numbers above zero")
    if found.modality is not None and found.modality not in list(Modality):
        what = f"{label.partition('s.')[0]} '{label.partition('.')[2]}'"
        raise ValueError(f"{path}: {what} has modality {_short(found.modality)}, expected one of {', '.join(Modality)}")
    if found.dtype is not None and found.dtype not in {np.dtype(c).name for c in "?bBhHiIqQefd"} | {"str"}:
        raise ValueError(f"{path}: '{label}.dtype' is {_short(found.dtype)}, expected one such as float32, int64, uint8 or bool")
    for name in ("low", "high", "origin"):
        bound = getattr(found, name)
        if bound is not None and any(math.isnan(v) for v in (bound if isinstance(bound, list) else [bound])):
            raise ValueError(f"{path}: '{label}.{name}' is {_short(bound)}, which is no number")
    return found


def _check(path: Path, spec: Spec) -> None:
    """What holds several values at once."""
    if spec.behaviour not in get_args(Behaviour):
        raise ValueError(f"{path}: 'behaviour' is {_short(spec.behaviour)}, expected one of {', '.join(get_args(Behaviour))}")
    if isinstance(cut := spec.episodes, dict) and not (
        (set(cut) == {"key"} and isinstance(cut["key"], str))
        or (set(cut) == {"ends"} and isinstance(cut["ends"], list) and cut["ends"] and all(isinstance(k, str) for k in cut["ends"]))
    ):
        raise ValueError(f"{path}: 'episodes' is {_short(cut)}, expected a pattern of HDF5 groups, {{key: K}} or {{ends: [K, ...]}}")
    if "masks" in spec.split and not (
        isinstance(masks := spec.split["masks"], dict) and len(spec.split) == 1 and masks
        and all(isinstance(part, str) and part for item in masks.items() for part in item)
    ):  # fmt: skip
        raise ValueError(f"{path}: 'split' is {_short(spec.split)}, expected {{masks: {{train: K, ...}}}}, where K lists names of groups")
    if isinstance(spec.split.get("masks"), dict) and not isinstance(spec.episodes, str):
        raise ValueError(f"{path}: 'split' has masks, which name HDF5 groups; give 'episodes' as a pattern such as data/*")


def _build(kind: type, given: Any, path: str, prefix: str) -> Any:
    """A dataclass from a mapping of YAML. **Raises:** `ValueError` with file, key and the nearest known key."""
    if not isinstance(given, dict):
        raise ValueError(f"{path}: '{prefix.rstrip('.') or 'the spec'}' is {_short(given)}, expected a mapping")
    known = {f.name: f for f in fields(kind) if f.name != "given"}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{path}: there is no key '{prefix}{str(key)[:80]}'{nearest_or_all(str(key)[:80], list(known))}")
        words = str(known[key].type).split(" | ")
        values[key] = value = _number(value) if "float" in words else value
        kinds = [k for k in _WORDS if k.__name__ in words] + ([int] if "float" in words else [])
        if value is None and "None" not in words and known[key].name not in ("task", "actions"):
            del values[key]  # a key without a value says as much as none
            continue
        if type(value) not in kinds and not (value is None and "None" in words):
            raise ValueError(f"{path}: '{prefix}{key}' is {_short(value)}, expected {' or '.join(_WORDS[k] for k in kinds)}")
        if any(isinstance(v, str) and len(v) > MAX_NAME for v in (value if isinstance(value, list) else [value])) and key not in _LONG:
            raise ValueError(f"{path}: '{prefix}{key}' is a text of more than {MAX_NAME} characters, expected a name")
        inner = (str,) if key in ("key", "next") else (int, float)
        if isinstance(value, list) and not ((value or key == "shape") and all(type(v) in inner for v in value)):
            raise ValueError(
                f"{path}: '{prefix}{key}' is {_short(value)}, expected {'texts' if inner == (str,) else 'numbers'} in the list"
            )
    if missing := [name for name in ("task", "actions") if name in known and name not in given]:
        raise ValueError(f"{path} lacks the key '{missing[0]}'")
    return kind(**values)


def _number(value: Any) -> Any:
    """YAML takes 1e-3 for a text, since it has no point."""
    if isinstance(value, list):
        return [_number(v) for v in value]
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(value) if abs(value) < 10**300 else math.nan
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _text_keys(v) for k, v in value.items()}
    return [_text_keys(v) for v in value] if isinstance(value, list | tuple) else value


def _short(value: object) -> str:
    """What was found, for a message."""
    return _REPR.repr(value)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
