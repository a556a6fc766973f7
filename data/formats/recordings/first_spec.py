"""A first spec for recordings, made of the names, shapes and first values in a file; what it guesses is to be checked.

What cannot be used, or is not recognised, stands in it as a comment with the reason, so that nothing is passed over silently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import yaml

from gato.spec import NUM_DISCRETE_VALUES

from .arrays import Arrays
from .csv_file import CsvArrays
from .files import open_arrays
from .frames import is_encoded, is_plain_picture, look
from .hdf5 import Hdf5Arrays

LOOK_BYTES = 2**24  # of whole numbers, to see whether they are few

_ROLES = {
    "reward": {"reward", "rewards", "rew", "rews"},
    "terminated": {"terminated", "terminals", "terminations", "terminal", "termination", "term", "terms", "dones", "done", "is_terminal",
                   "is_last"},
    "truncated": {"truncated", "truncations", "truncation", "trunc", "truncs", "timeouts", "timeout"},
    "success": {"success", "successes", "is_success", "succeeded"},
    "episode": {"episode", "episodes", "episode_id", "episode_index", "trajectory", "traj", "traj_id", "trajectory_id", "ep", "run",
                "run_id"},
    "instruction": {"instruction", "instructions", "language", "language_instruction", "task_description", "natural_language_instruction"},
    "clock": {"step", "steps", "timestep", "timesteps", "t", "time", "timestamp", "frame_index", "index", "unnamed: 0", "is_first"},
}  # fmt: skip
_ACTIONS = {"act", "acts", "a", "u", "ctrl", "control", "controls", "command", "commands", "cmd"}
_SPOKEN = _ROLES["instruction"] | {"lang", "task", "prompt", "goal"}  # of attributes


@dataclass(frozen=True)
class _Array:
    """One array; `wrong` says why it cannot be used."""

    name: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    wrong: str = ""
    values: np.ndarray | None = None  # some of them, of pictures and whole numbers

    @property
    def last(self) -> str:
        return self.name.split("/")[-1].lower()

    @property
    def is_single_text(self) -> bool:
        return self.dtype == "str" and self.shape in ((), (1,), (1, 1))


def first_spec(path: Path) -> str:
    """**Raises:** `ValueError` for a file that cannot be opened."""
    with closing(open_arrays(path)) as arrays:
        pattern, prefix = _groups(arrays)
        found = [_array(arrays, key, key.removeprefix(prefix)) for key in arrays.keys() if key.startswith(prefix)]
        spoken = _spoken(arrays, prefix)
        masks = [key for key in arrays.keys() if key.split("/")[0] in ("mask", "masks") and "/" in key] if pattern else []
        nameless = arrays.nameless if isinstance(arrays, CsvArrays) else []
        written = arrays.dialect.unusual if isinstance(arrays, CsvArrays) else []
    roles, notes = _guess(found)
    notes = [*(f"column {i} has no name" for i in nameless), *notes]
    length = next((a.shape[0] for a in roles.get("actions", []) if a.shape), None)
    roles, more = _of_length(roles, length)
    lines = [f"# {_comment(path.name)} holds {', '.join(_listed(found, prefix))}"]
    lines += [*(f"# read as: {note}" for note in written), *(f"# left out: {note}" for note in notes + more)]
    lines.append("task: my/task  # family/name")
    lines += _cut(pattern, roles, length)
    if masks:
        lines.append(f"# split: {{masks: {{train: {_quoted(masks[0])}}}}}  # lists of episodes, by split")
    if spoken and not roles.get("instruction"):
        lines.append(f"instruction: {{key: {_quoted(spoken)}}}")
    elif roles.get("instruction"):
        lines.append(f"instruction: {{key: {_quoted(roles['instruction'][0].name)}}}")
    if length is not None and {a.shape[0] - length for a in roles.get("observations", []) if a.shape and not a.is_single_text} == {0, 1}:
        lines.append("final_observation: false  # some observations have a last one, others not")
    nexts = _nexts(roles)
    used = set(nexts.values())
    lines[1:1] = [
        f"# left out: {_comment(a.name)}: no observation has its name and shape, or not every one has a next"
        for a in roles.get("next", [])
        if a.name not in used
    ]
    for side in ("observations", "actions"):
        lines.append(f"{side}:" if roles.get(side) else f"{side}: {{}}  # none found by its name")
        lines += [_field(name, arrays_, side, nexts) for name, arrays_ in _side_by_side(roles.get(side, [])).items()]
    lines += [f"{key}: {_quoted(roles[key][0].name)}" for key in ("reward", "terminated", "truncated", "success") if roles.get(key)]
    return "\n".join(lines)


def listing(path: Path, limit: int = 24) -> list[str]:
    """What the file, or the first episode in it, holds."""
    with closing(open_arrays(path)) as arrays:
        _, prefix = _groups(arrays)
        keys = [key for key in arrays.keys() if key.startswith(prefix)]
        found = [_array(arrays, key, key, look_into=False) for key in keys[:limit]]
        return [_described(a) for a in found] + (["..."] if len(keys) > limit else [])


def _listed(found: Sequence[_Array], prefix: str, limit: int = 24) -> list[str]:
    names = [_described(_Array(prefix + a.name, a.dtype, a.shape, a.wrong)) for a in found[:limit]]
    return names + (["..."] if len(found) > limit else [])


def _described(a: _Array) -> str:
    return (
        f"{_comment(a.name)} ({'it cannot be used' if a.wrong else f'{a.shape} {a.dtype}'})"
        if a.wrong
        else f"{_comment(a.name)} {a.shape} {a.dtype}"
    )


def _array(arrays: Arrays, key: str, name: str, look_into: bool = True) -> _Array:
    try:
        dtype, shape = arrays.dtype(key), arrays.shape(key)
        values = None
        size = np.prod(shape, dtype=float) * (np.dtype(dtype).itemsize if dtype not in ("str", "bytes") else 8)
        if look_into and shape and ("int" in dtype or dtype == "bytes"):
            values = arrays.read(key) if size <= LOOK_BYTES and dtype != "bytes" and "u" not in dtype[:1] else arrays.read(key, 0, 1)
        return _Array(name, dtype, shape, values=values)
    except ValueError as error:
        return _Array(name, wrong=str(error).removeprefix(f"{arrays.path}").lstrip(": "))


def _groups(arrays: Arrays) -> tuple[str, str]:
    """The pattern of the groups that are episodes and the first of them, or nothing."""
    if not isinstance(arrays, Hdf5Arrays):
        return "", ""
    try:
        for pattern in ("*", "*/*"):
            groups = arrays.groups(pattern)
            for parent in dict.fromkeys(g.rpartition("/")[0] for g in groups):
                here = [g for g in groups if g.rpartition("/")[0] == parent]
                if found := _alike(arrays, here):
                    stem = f"{parent}/" if parent else ""
                    start = found[0].removeprefix(stem).rstrip("0123456789")
                    exact = f"{stem}*" if len(found) == len(here) else f"{stem}{start}*"
                    return exact, f"{found[0]}/"
    except ValueError:
        pass  # groups that lead out of the file are named when they are asked for
    return "", ""


def _alike(arrays: Hdf5Arrays, groups: Sequence[str]) -> list[str]:
    """Those that are numbered, or all of several that hold arrays of the same names with actions among them."""
    numbered = [g for g in groups if g[-1].isdigit()]
    if numbered:
        return numbered
    keys = arrays.keys()
    held = [{k.removeprefix(f"{g}/") for k in keys if k.startswith(f"{g}/")} for g in groups]
    has_actions = bool(held) and any(_is_action(name.split("/")[-1].lower()) for name in held[0])
    return list(groups) if len(held) > 1 and has_actions and all(h == held[0] for h in held) else []


def _spoken(arrays: Arrays, prefix: str) -> str | None:
    """The attribute that tells what to do, as a key."""
    if not isinstance(arrays, Hdf5Arrays):
        return None
    for place, key in ((prefix.rstrip("/"), "@{}"), ("", "/@{}")):
        for name in arrays.attributes(place):
            if name.lower() in _SPOKEN and not _array(arrays, f"{place}@{name}", name).wrong and arrays.dtype(f"{place}@{name}") == "str":
                return key.format(name)
    return None


def _guess(found: Sequence[_Array]) -> tuple[dict[str, list[_Array]], list[str]]:
    """Which arrays may be what, and why the others are left out."""
    roles: dict[str, list[_Array]] = {}
    notes: list[str] = []
    for a in found:
        if a.wrong or (a.dtype == "str" and _is_action(a.last)):
            notes.append(
                f"{_comment(a.name)}: {_comment(a.wrong) or 'it holds text; give a column or an array of numbers for each action'}"
            )
            continue
        role = next((role for role, words in _ROLES.items() if a.last in words), None)
        if role is None or (role == "instruction" and a.dtype != "str"):
            if _is_next(a.name):
                role = "next"
            else:
                role = "actions" if _is_action(a.last) and a.dtype not in ("str", "bytes") else "observations"
        roles.setdefault(role, []).append(a)
    observed = roles.get("observations", [])
    if seen := [a for a in observed if a.name.lower().startswith(("obs", "state"))]:
        roles["observations"] = seen
        notes += [f"{_comment(a.name)}: no observation by its name" for a in observed if a not in seen]
    for role in ("reward", "terminated", "truncated", "success", "episode", "instruction"):
        notes += [
            f"{_comment(a.name)}: there is {_comment(roles[role][0].name)}" for a in roles.get(role, [])[1:] if not (role == "terminated")
        ]
    notes += [f"{_comment(a.name)}: it counts or times the rows" for a in roles.pop("clock", [])]
    return roles, notes


def _of_length(roles: dict[str, list[_Array]], length: int | None) -> tuple[dict[str, list[_Array]], list[str]]:
    """The roles without what has not as many rows as the actions, or one more of what is observed."""
    if length is None:
        return roles, []
    kept: dict[str, list[_Array]] = {}
    notes = []
    for role, arrays in roles.items():
        allowed = (length, length + 1) if role == "observations" else (length,)
        for a in arrays:
            rows = a.shape[0] if a.shape else None
            is_fine = rows in allowed or (role in ("observations", "instruction") and a.is_single_text)
            if is_fine or (role in ("terminated", "truncated", "success") and a.shape in ((), (1,))):
                kept.setdefault(role, []).append(a)
            else:
                notes.append(f"{_comment(a.name)}: it has {'no' if rows is None else rows} rows, the actions have {length}")
    return kept, notes


def _cut(pattern: str, roles: dict[str, list[_Array]], length: int | None) -> list[str]:
    """How the episodes are divided."""
    if pattern:
        return [f"episodes: {_quoted(pattern)}"]
    if roles.get("episode"):
        return [f"episodes: {{key: {_quoted(roles['episode'][0].name)}}}"]
    ends = [a for role in ("terminated", "truncated") for a in roles.get(role, []) if a.shape and a.shape != (1,)]
    is_one = length is not None and any(a.shape and a.shape[0] == length + 1 for a in roles.get("observations", []))
    return [f"episodes: {{ends: [{', '.join(_quoted(a.name) for a in ends)}]}}"] if ends and not is_one else []


def _nexts(roles: dict[str, list[_Array]]) -> dict[str, str]:
    """`{observation: the array of what was observed after}`, where every observation that is no single text has one."""
    found = {}
    following = {_plain(a.name): a for a in roles.get("next", [])}
    for a in roles.get("observations", []):
        after = following.get(_plain(a.name))
        if after is not None and after.dtype == a.dtype and after.shape == a.shape:
            found[a.name] = after.name
        elif not a.is_single_text:
            return {}
    return found


def _plain(name: str) -> str:
    """A name without what says that it is the next one: next_obs/x and obs/x become the same."""
    parts = [p for p in (part.removeprefix("next_").removesuffix("_next") for part in name.lower().split("/")) if p != "next"]
    return "/".join(parts)


def _is_next(name: str) -> bool:
    return _plain(name) != name.lower()


def _is_action(last: str) -> bool:
    stem = re.sub(r"[\[_ -]?\d+\]?$", "", last)
    return (
        last.startswith("action")
        or (stem in _ACTIONS and last not in ("u8", "u16", "u32", "u64"))
        or stem.split("_")[0] in _ACTIONS - {"a", "u"}
    )


def _side_by_side(arrays: Sequence[_Array]) -> dict[str, list[_Array]]:
    """Columns of numbers such as x_0, x_1 make one field x; every other array is one by itself, named by its last part."""
    found: dict[str, list[_Array]] = {}
    for a in arrays:
        last = a.name.split("/")[-1]
        bare = last[:-1] if last.endswith("]") else last
        is_column = len(a.shape) == 1 and a.dtype not in ("str", "bytes") and bare[-1:].isdigit()
        stem = bare.rstrip("0123456789").rstrip("_[") if is_column else last
        parent = a.name[: len(a.name) - len(last)]
        others = found.get(stem or last, [])
        alike = is_column and all(o.name.startswith(parent + stem) and o.dtype == a.dtype and o.shape == a.shape for o in others)
        name = (stem or last) if not others or alike else a.name
        found.setdefault(name if name.strip("/ ") else a.name, []).append(a)
    return found


def _field(name: str, arrays: Sequence[_Array], side: str, nexts: dict[str, str]) -> str:
    """The line of one field."""
    a = arrays[0]
    names = [_quoted(x.name) for x in arrays]
    parts = [f"key: {names[0] if len(names) == 1 else '[' + ', '.join(names) + ']'}"]
    if all(x.name in nexts for x in arrays) and side == "observations":
        after = [_quoted(nexts[x.name]) for x in arrays]
        parts.append(f"next: {after[0] if len(after) == 1 else '[' + ', '.join(after) + ']'}")
    note = ""
    picture = None if side == "actions" else look(a.dtype, a.shape[1:]) if a.dtype not in ("str", "bytes") else None
    encoded = a.values is not None and a.shape and is_encoded(a.values)
    if encoded and side == "observations":
        parts.append("modality: image")
        note = "  # encoded pictures, decoded when they are read"
    elif a.dtype == "uint8" and is_plain_picture(a.dtype, a.shape[1:]):
        pass
    elif picture:
        parts.append("modality: image")
        note = f"  # {picture}; if they are numbers, 'modality: continuous'"
    elif "int" in a.dtype:
        wide = a.values is not None and a.values.size and float(a.values.max()) - float(a.values.min()) >= NUM_DISCRETE_VALUES
        parts += ["modality: continuous"] * bool(wide) + ["infer: true"] * (not wide or side == "actions")
    elif "float" in a.dtype and side == "actions":
        parts.append("infer: true")
    line = parts[0].removeprefix("key: ") if len(parts) == 1 and len(names) == 1 else f"{{{', '.join(parts)}}}"
    return f"  {_quoted(name)}: {line}{note}"


def _quoted(name: str) -> str:
    """A name as YAML reads it back, in braces too."""
    plain = bool(name) and all(c.isascii() and (c.isalnum() or c in "_./*") for c in name) and not name.startswith("*")
    if plain and isinstance(_loaded(name), str):
        return name
    return yaml.safe_dump(name, default_style='"', allow_unicode=True, width=inf).strip()


def _loaded(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return None


def _comment(text: str) -> str:
    """Fit for a comment and for any terminal: in one line, without what cannot be printed."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
