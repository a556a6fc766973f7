"""What the arrays of a recording may be, by their names, shapes and first values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import Arrays, natural_key
from .csv_file import CsvArrays
from .files import open_arrays
from .frames import look
from .hdf5 import Hdf5Arrays

LOOK_BYTES = 2**24  # of whole numbers, to see whether they are few, and of pictures of other numbers, to see how far they reach

ROLES = {
    "reward": {"reward", "rewards", "rew", "rews"},
    "terminated": {"terminated", "terminals", "terminations", "terminal", "termination", "term", "terms", "dones", "done", "is_terminal",
                   "is_last", "is_done", "is_terminated"},
    "truncated": {"truncated", "truncations", "truncation", "trunc", "truncs", "timeouts", "timeout", "is_truncated"},
    "success": {"success", "successes", "is_success", "succeeded", "successful", "ok", "is_ok", "solved", "is_solved"},
    "episode": {"episode", "episodes", "episode_id", "episode_index", "trajectory", "traj", "traj_id", "trajectory_id", "ep", "run",
                "run_id", "demo", "demo_id", "demo_index", "demonstration", "rollout", "rollout_id", "episode_number", "episode_num"},
    "instruction": {"instruction", "instructions", "language", "language_instruction", "task_description", "natural_language_instruction"},
    "clock": {"step", "steps", "timestep", "timesteps", "t", "time", "timestamp", "frame_index", "index", "unnamed: 0", "is_first"},
}  # fmt: skip
_ACTIONS = {"act", "acts", "a", "u", "ctrl", "control", "controls", "command", "commands", "cmd"}
_FLAGS = re.compile(r"(?:^|[^a-z])(?:success\w*|succeed\w*|ok|solved|dones?|terminat\w*|terminal|truncat\w*|timeouts?)(?:[^a-z]|$)")
_SPOKEN = ROLES["instruction"] | {"lang", "task", "prompt", "goal"}  # of attributes


@dataclass(frozen=True)
class Array:
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
    def role(self) -> str | None:
        """What its name says that it is, beside observations and actions."""
        role = next((role for role, words in ROLES.items() if self.last in words), None)
        return None if role == "instruction" and self.dtype != "str" else role

    @property
    def is_flag(self) -> bool:
        """Whether it is true or false at each timestep, and its name tells of an end or of success, which no policy may see."""
        values = self.values
        is_binary = self.dtype == "bool" or (values is not None and values.dtype.kind in "iu" and bool(np.isin(values, (0, 1)).all()))
        return is_binary and _FLAGS.search(self.last) is not None

    @property
    def is_single_text(self) -> bool:
        return self.dtype == "str" and self.shape in ((), (1,), (1, 1))


@dataclass(frozen=True)
class Contents:
    """What a file, or the first episode in it, holds.

    - `arrays`: their names without `prefix`, the group that the episode is; `pattern`: of all such groups.
    - `spoken`: key of an attribute that tells what to do; `masks`: keys of lists of episodes.
    - `notes`: why something cannot be used; `unusual`: how a table was read.
    """

    name: str
    arrays: Sequence[Array]
    prefix: str = ""
    pattern: str = ""
    spoken: str | None = None
    masks: Sequence[str] = ()
    notes: Sequence[str] = ()
    unusual: Sequence[str] = ()

    def listed(self, limit: int = 24) -> str:
        names = [described(Array(self.prefix + a.name, a.dtype, a.shape, a.wrong)) for a in self.arrays[:limit]]
        return ", ".join(names + (["..."] if len(self.arrays) > limit else []))


def contents_of(path: Path) -> Contents:
    """**Raises:** `ValueError` for a file that cannot be opened."""
    with closing(open_arrays(path)) as arrays:
        pattern, prefix = _groups(arrays)
        keys = arrays.keys()
        table = arrays if isinstance(arrays, CsvArrays) else None
        return Contents(
            name=path.name,
            arrays=[_array(arrays, key, key.removeprefix(prefix)) for key in keys if key.startswith(prefix)],
            prefix=prefix,
            pattern=pattern,
            spoken=_spoken(arrays, prefix),
            masks=[key for key in keys if key.split("/")[0] in ("mask", "masks") and "/" in key] if pattern else [],
            notes=[f"column {i} has no name" for i in table.nameless] if table else [],
            unusual=table.dialect.unusual if table else [],
        )


def listing(path: Path, limit: int = 24) -> list[str]:
    """What the file, or the first episode in it, holds."""
    with closing(open_arrays(path)) as arrays:
        _, prefix = _groups(arrays)
        keys = [key for key in arrays.keys() if key.startswith(prefix)]
        found = [_array(arrays, key, key, look_into=False) for key in keys[:limit]]
        return [described(a) for a in found] + (["..."] if len(keys) > limit else [])


def described(a: Array) -> str:
    return f"{comment(a.name)} (it cannot be used)" if a.wrong else f"{comment(a.name)} {a.shape} {a.dtype}"


def _array(arrays: Arrays, key: str, name: str, look_into: bool = True) -> Array:
    try:
        dtype, shape = arrays.dtype(key), arrays.shape(key)
        values = None
        size = np.prod(shape, dtype=float) * (np.dtype(dtype).itemsize if dtype not in ("str", "bytes") else 8)
        is_picture = "float" in dtype and look(dtype, shape[1:]) is not None
        if look_into and shape and ("int" in dtype or dtype == "bytes" or is_picture):
            values = arrays.read(key) if size <= LOOK_BYTES and dtype != "bytes" and "u" not in dtype[:1] else arrays.read(key, 0, 1)
        return Array(name, dtype, shape, values=values)
    except ValueError as error:
        return Array(name, wrong=str(error).removeprefix(f"{arrays.path}").lstrip(": "))


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
    has_actions = bool(held) and any(is_action(name.split("/")[-1].lower()) for name in held[0])
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


def guess(found: Sequence[Array]) -> tuple[dict[str, list[Array]], list[str]]:
    """Which arrays may be what, and why the others are left out."""
    roles: dict[str, list[Array]] = {}
    notes: list[str] = []
    for a in found:
        if a.wrong or (a.dtype == "str" and is_action(a.last)):
            notes.append(f"{comment(a.name)}: {comment(a.wrong) or 'it holds text; give a column or an array of numbers for each action'}")
            continue
        role = a.role
        if role is None:
            if is_next(a.name):
                role = "next"
            elif a.is_flag:
                notes.append(f"{comment(a.name)}: no policy may see an end or a success; is it 'success', 'terminated' or 'truncated'?")
                continue
            else:
                role = "actions" if is_action(a.last) and a.dtype not in ("str", "bytes") else "observations"
        roles.setdefault(role, []).append(a)
    roles.get("terminated", []).sort(key=lambda a: "done" in a.last)  # which may mean the limit, too
    for role in ("reward", "terminated", "truncated", "success", "episode", "instruction"):
        notes += [
            f"{comment(a.name)}: there is {comment(roles[role][0].name)}" for a in roles.get(role, [])[1:] if not (role == "terminated")
        ]
    notes += [f"{comment(a.name)}: it counts or times the rows" for a in roles.pop("clock", [])]
    return roles, notes


def called_observations(roles: dict[str, list[Array]]) -> list[str]:
    """Where some arrays are called observations, the others are none; why they are left out."""
    observed = roles.get("observations", [])
    seen = [a for a in observed if a.name.lower().startswith(("obs", "state"))]
    if not seen:
        return []
    roles["observations"] = seen
    return [f"{comment(a.name)}: no observation by its name" for a in observed if a not in seen]


def of_length(roles: dict[str, list[Array]], length: int | None) -> tuple[dict[str, list[Array]], list[str]]:
    """The roles without what has not as many rows as the actions, or one more of what is observed."""
    if length is None:
        return roles, []
    kept: dict[str, list[Array]] = {}
    notes = []
    for role, arrays in roles.items():
        allowed = (length, length + 1) if role == "observations" else (length,)
        for a in arrays:
            rows = a.shape[0] if a.shape else None
            is_fine = rows in allowed or (role in ("observations", "instruction") and a.is_single_text)
            if is_fine or (role in ("terminated", "truncated", "success") and a.shape in ((), (1,))):
                kept.setdefault(role, []).append(a)
            else:
                notes.append(f"{comment(a.name)}: it has {'no' if rows is None else rows} rows, the actions have {length}")
    return kept, notes


def nexts(roles: dict[str, list[Array]]) -> dict[str, str]:
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


def is_next(name: str) -> bool:
    return _plain(name) != name.lower()


def is_action(last: str) -> bool:
    stem = re.sub(r"[\[_ -]?\d+\]?$", "", last)
    return (
        last.startswith("action")
        or (stem in _ACTIONS and last not in ("u8", "u16", "u32", "u64"))
        or stem.split("_")[0] in _ACTIONS - {"a", "u"}
    )


def side_by_side(arrays: Sequence[Array]) -> dict[str, list[Array]]:
    """Columns of numbers such as x_0, x_1 make one field x, in the order of these numbers wherever the columns stand; every other array is
    one by itself, named by its last part."""
    found: dict[str, list[Array]] = {}
    for a in arrays:
        last = a.name.split("/")[-1]
        bare = last[:-1] if last.endswith("]") else last
        is_column = len(a.shape) == 1 and a.dtype not in ("str", "bytes") and bare[-1:].isdigit()
        stem = bare.rstrip("0123456789").rstrip("_[") if is_column else last
        parent = a.name[: len(a.name) - len(last)]
        others = found.get(stem or last, [])
        alike = is_column and all(
            o.name.startswith(parent + stem) and o.shape == a.shape and o.dtype not in ("str", "bytes") for o in others
        )
        name = (stem or last) if not others or alike else a.name
        found.setdefault(name if name.strip("/ ") else a.name, []).append(a)
    return {name: sorted(group, key=lambda a: natural_key(a.name)) for name, group in found.items()}


def comment(text: str) -> str:
    """Fit for a comment and for any terminal: in one line, without what cannot be printed."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
