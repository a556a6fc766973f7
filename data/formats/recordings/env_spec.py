"""A spec of recordings for an environment: its fields, each with the arrays that its name and shape find.

A field that is not found, or found in several ways, says so in a comment: nothing is guessed in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gato.spec import FieldSpec, Modality, Role, TaskSpec

from .first_spec import keys_of, quoted, spec_text
from .frames import is_encoded, is_plain_picture, look
from .roles import ROLES, Array, comment, contents_of, described, guess, is_action, is_next, nexts, of_length, side_by_side

FILL_IN = "FILL_IN"  # stands for the key of an array that was not found; no file has one

_SIDE = re.compile(r"^(?:(observations?|obs|ob)|(actions?|acts?))_(?=.)")
_USUAL: dict[Role, tuple[set[str], ...]] = {
    "observation": ({"observation", "ob", "o"}, {"state", "s"}),
    "action": ({"action", "act", "a", "u"}, {"ctrl", "control", "command", "cmd"}),
}


@dataclass(frozen=True)
class Match:
    """The arrays, side by side, that a field is taken from; `doubt` says why that is to be checked, or what is missing."""

    spec: FieldSpec
    arrays: Sequence[Array] = ()
    doubt: str = ""


@dataclass(frozen=True)
class EnvSpec:
    """`text` of the spec; in words: `taken`: what is read from which array; `doubts`: what is to be checked or filled in first;
    `left_out`: arrays that nothing is read from, and why.
    """

    text: str
    taken: Sequence[str]
    doubts: Sequence[str]
    left_out: Sequence[str]


def env_spec(path: Path, task: TaskSpec) -> EnvSpec:
    """**Raises:** `ValueError` for a file that cannot be opened, or holds nothing."""
    contents = contents_of(path)
    if not contents.arrays and not contents.spoken:
        raise ValueError(f"{path} holds no arrays, so no episode")
    named = {_plain(spec.name) for spec in task.fields}
    spoken = [Array(contents.spoken, "str")] if contents.spoken else []
    free = [a for a in [*contents.arrays, *spoken] if _is_free(a) or (not a.wrong and _plain(a.name) in named)]
    actions = _matched(task.actions, free, None)
    length = next((m.arrays[0].shape[0] for m in actions if m.arrays and m.arrays[0].shape), None)
    taken = {a.name for m in actions for a in m.arrays}
    observations = _matched(task.observations, [a for a in free if a.name not in taken], length)
    taken |= {a.name for m in observations for a in m.arrays}

    roles, notes = guess([a for a in contents.arrays if a.name not in taken])
    unknown = [*roles.pop("observations", []), *roles.pop("actions", []), *roles.pop("instruction", [])]
    roles["observations"] = [a for m in observations for a in m.arrays]
    roles["actions"] = [a for m in actions for a in m.arrays]
    roles, more = of_length(roles, length)
    notes = [*notes, *more, *(f"{comment(a.name)}: it is matched with no field of the environment" for a in unknown)]
    after = nexts(roles)
    fields = {
        f"{side}s": [f"{side}s:", *(_line(m, after) for m in ms)] for side, ms in (("observation", observations), ("action", actions))
    }
    text = spec_text(replace(contents, spoken=None), roles, notes, _of_task(task), fields, after)
    matches = [*observations, *actions]
    return EnvSpec(
        text,
        [f"{m.spec.role} '{m.spec.name}' from {_names(m.arrays)}" for m in matches]
        + [f"{role} from {comment(roles[role][0].name)}" for role in ("reward", "terminated", "truncated", "success") if roles.get(role)],
        [f"{m.spec.role} '{m.spec.name}' of shape {m.spec.shape}: {m.doubt}" for m in matches if m.doubt],
        notes,
    )


def _is_free(a: Array) -> bool:
    """Whether an array is no reward, end, success, clock or number of the episode, by its name."""
    return not (a.wrong or is_next(a.name) or a.is_flag or a.role not in (None, "instruction"))


def _matched(specs: Sequence[FieldSpec], arrays: Sequence[Array], length: int | None) -> list[Match]:
    """A match of each field of a side, in their order. **Arguments:** `length`: timesteps, where they are known."""
    groups = [(_stem(group), group) for group in side_by_side(arrays).values()]
    groups += [(a.name, [a]) for _, group in groups if len(group) > 1 for a in group]  # a column may be a field by itself
    found = [_by_name(spec, specs, groups, length) for spec in specs]
    used = {a.name for m in found for a in m.arrays}
    twice = {a.name for m in found for a in m.arrays if sum(a in other.arrays for other in found) > 1}
    rest = [a for a in arrays if a.name not in used]
    for i, match in enumerate(found):
        if any(a.name in twice for a in match.arrays):
            found[i] = Match(match.spec, (), f"{_names(match.arrays)} has the name of several fields")
        elif not match.arrays:
            others = [other.spec for other in found if other is not match and not other.arrays]
            found[i] = _by_shape(match, [a for a in rest if _is_free(a) and not any(_fits(spec, [a], length) for spec in others)], length)
    return found


def _by_name(spec: FieldSpec, specs: Sequence[FieldSpec], groups: Sequence[tuple[str, Sequence[Array]]], length: int | None) -> Match:
    """The arrays that are called as a field: exactly, but for the side and a plural, or as the only field of a side usually is."""
    words: list[set[str]] = [{_plain(spec.name)}]
    if spec.modality is Modality.TEXT and sum(other.modality is Modality.TEXT for other in specs) == 1:
        words.append(ROLES["instruction"] | {"@language", "mission", "task"})
    elif len(specs) == 1 or spec.name == spec.role:
        words += _USUAL[spec.role]
    misfit = ""
    for known in (None, *words):
        named = [g for stem, g in groups if (stem == spec.name if known is None else _plain(stem, spec.role) in known)]
        fitting = [g for g in named if _fits(spec, g, length, is_named=True)]
        if len(fitting) == 1:
            return Match(spec, fitting[0], misfit and f"{misfit}, so {_names(fitting[0])} is taken")
        if fitting:
            return Match(spec, (), f"{' and '.join(map(_names, fitting))} may be meant")
        misfit = misfit or (f"{described(named[0][0])} does not fit" if named else "")
    return Match(spec, (), misfit)


def _by_shape(match: Match, arrays: Sequence[Array], length: int | None) -> Match:
    """What is left and fits: one array, or as many columns of numbers as a vector has. It is to be checked."""
    spec = match.spec
    there = [a for a in arrays if is_action(a.last) == (spec.role == "action")] or list(arrays)
    fitting = [[a] for a in there if _fits(spec, [a], length)]
    if len(fitting) == 1:
        return Match(spec, fitting[0], f"{match.doubt or 'nothing has its name'}; {_names(fitting[0])} alone fits: check it")
    columns = [a for a in there if len(a.shape) == 1 and spec.size > 1 and _fits(spec, [a] * spec.size, length)]
    if not fitting and columns and len(columns) == spec.size:
        return Match(spec, columns, f"the {spec.size} columns {_names(columns)} in their order: check it")
    if fitting:
        doubt = f"{' or '.join(comment(g[0].name) for g in fitting[:8])} may be meant"
    elif len(columns) > spec.size:
        doubt = f"{spec.size} of the columns {_names(columns[:12])} as a list, such as [{_names(columns[: spec.size])}]"
    else:
        doubt = f"none of {', '.join(map(described, there[:8])) or 'the arrays'} fits"
    return Match(spec, (), match.doubt or doubt)


def _fits(spec: FieldSpec, group: Sequence[Array], length: int | None, is_named: bool = False) -> bool:
    """Whether the arrays side by side can be the values of a field, of an episode of so many timesteps; floating point of a discrete one
    where its name says so."""
    a = group[0]
    if length is not None and a.shape and a.shape[0] not in (length, length + (spec.role == "observation")) and not a.is_single_text:
        return False
    if spec.modality is Modality.TEXT:
        return len(group) == 1 and a.dtype == "str"
    if spec.modality is Modality.IMAGE:
        encoded = a.dtype == "bytes" or (a.values is not None and a.shape and is_encoded(a.values))
        is_picture = a.dtype not in ("str", "bytes") and (is_plain_picture(a.dtype, a.shape[1:]) or look(a.dtype, a.shape[1:]))
        return len(group) == 1 and bool(encoded or (is_picture and {*spec.shape[:2]} <= {*a.shape[1:]}))
    if a.dtype in ("str", "bytes") or not a.shape or (spec.modality is Modality.DISCRETE and "float" in a.dtype and not is_named):
        return False
    if len(group) > 1:
        return spec.shape == (len(group),)
    shape = a.shape[1:]
    return math.prod(shape) == spec.size and (shape == spec.shape or len(shape) <= 1 or len(spec.shape) <= 1)


def _line(match: Match, after: Mapping[str, str]) -> str:
    """The line of one field: which arrays, and all that the environment says of it."""
    spec, parts = match.spec, keys_of(match.arrays, after) if match.arrays else [f"key: {FILL_IN}"]
    parts.append(f"modality: {spec.modality}")
    is_encoded_picture = bool(match.arrays) and len(match.arrays[0].shape) <= 2
    if spec.modality is not Modality.TEXT and (spec.modality is not Modality.IMAGE or is_encoded_picture):
        parts.append(f"shape: {list(spec.shape)}")
    if spec.modality in (Modality.CONTINUOUS, Modality.DISCRETE):
        parts.append(f"dtype: {spec.dtype}")
        for name, bound, missing in (("low", spec.low, "-.inf"), ("high", spec.high, ".inf"), ("origin", spec.origin, "0")):
            if bound is not None and set(bound) != {None}:
                numbers = [missing if b is None else _number(b, spec.modality) for b in bound]
                parts.append(f"{name}: {numbers[0] if len(numbers) == 1 else '[' + ', '.join(numbers) + ']'}")
    doubt = f"  # {'' if match.arrays else 'fill in the key: '}{match.doubt}" if match.doubt else ""
    return f"  {quoted(spec.name)}: {{{', '.join(parts)}}}{doubt}"


def _of_task(task: TaskSpec) -> list[str]:
    """The lines of what the environment says beside its fields."""
    lines = [f"task: {quoted(task.name)}", f"env_id: {quoted(str(task.env_id))}"]
    lines += [f"env_kwargs: {json.dumps(dict(task.env_kwargs))}"] if task.env_kwargs else []
    rest: dict[str, Any] = {"episode_limit": task.episode_limit, "clip_actions": task.clip_actions or None, "licence": task.licence}
    return lines + [f"{key}: {json.dumps(value)}" for key, value in rest.items() if value is not None]


def _number(value: float, modality: Modality) -> str:
    return str(int(value)) if modality is Modality.DISCRETE or float(value).is_integer() else repr(float(value))


def _stem(group: Sequence[Array]) -> str:
    """The name of an array, or what columns such as x_0, x_1 have in common; x_0 alone is a vector x of one number."""
    name = group[0].name
    is_columns = len(group) > 1 or (len(group[0].shape) == 1 and name.rstrip("]").endswith(("_0", "[0")))
    return name.rstrip("]").rstrip("0123456789").rstrip("_[ -") if is_columns else name


def _plain(name: str, role: Role | None = None) -> str:
    """A name without its side, separators and plural: `obs/joint-positions` and `joint_position` become the same.

    **Arguments:** `role`: the side; what says that it is of the other one has no such name.
    """
    plain = re.sub(r"[^\w@]+", "_", name.lower())
    if (side := _SIDE.match(plain)) and role is not None and (side[1] is None) != (role == "action"):
        return ""
    plain = _SIDE.sub("", plain)
    return plain if len(plain) < 2 else plain.removesuffix("s")


def _names(arrays: Sequence[Array]) -> str:
    return ", ".join(described(a) if len(arrays) == 1 else comment(a.name) for a in arrays)
