"""A first spec for recordings, made of the names, shapes and first values in a file; what it guesses is to be checked.

What cannot be used, or is not recognised, stands in it as a comment with the reason, so that nothing is passed over silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from pathlib import Path

import yaml

from gato.spec import NUM_DISCRETE_VALUES

from .frames import is_encoded, is_plain_picture, look
from .roles import Array, Contents, called_observations, comment, contents_of, guess, nexts, of_length, side_by_side


def first_spec(path: Path) -> str:
    """**Raises:** `ValueError` for a file that cannot be opened."""
    contents = contents_of(path)
    roles, notes = guess(contents.arrays)
    notes += called_observations(roles)
    length = next((a.shape[0] for a in roles.get("actions", []) if a.shape), None)
    roles, more = of_length(roles, length)
    after = nexts(roles)
    fields = {}
    for side in ("observations", "actions"):
        groups = side_by_side(roles.get(side, []))
        is_sole = len(groups) == 1 and not (side == "observations" and (roles.get("instruction") or contents.spoken))
        lines = [_field(side[:-1] if is_sole else name, arrays, side, after) for name, arrays in groups.items()]
        fields[side] = [f"{side}:", *lines] if lines else [f"{side}: {{}}  # none found by its name"]
    task = ["task: my/task  # family/name; 'gato data import recordings PATH --env ID' makes a spec for an environment"]
    return spec_text(contents, roles, [*notes, *more], task, fields, after)


def spec_text(
    contents: Contents,
    roles: Mapping[str, Sequence[Array]],
    notes: Iterable[str],
    task: Sequence[str],
    fields: Mapping[str, Sequence[str]],
    after: Mapping[str, str],
) -> str:
    """The lines of a spec.

    **Arguments:** `notes`: why arrays are left out; `task`, `fields`: lines of the task, and of each side; `after`: see `nexts`.
    """
    length = next((a.shape[0] for a in roles.get("actions", []) if a.shape), None)
    used = set(after.values())
    lines = [f"# {comment(contents.name)} holds {contents.listed()}"]
    lines += [
        f"# left out: {comment(a.name)}: no observation has its name and shape, or not every one has a next"
        for a in roles.get("next", [])
        if a.name not in used
    ]
    lines += [*(f"# read as: {note}" for note in contents.unusual), *(f"# left out: {note}" for note in (*contents.notes, *notes))]
    lines += [*task, *_cut(contents.pattern, roles, length)]
    if contents.masks:
        lines.append(f"# split: {{masks: {{train: {quoted(contents.masks[0])}}}}}  # lists of episodes, by split")
    if contents.spoken and not roles.get("instruction"):
        lines.append(f"instruction: {{key: {quoted(contents.spoken)}}}")
    elif roles.get("instruction"):
        lines.append(f"instruction: {{key: {quoted(roles['instruction'][0].name)}}}")
    if length is not None and {a.shape[0] - length for a in roles.get("observations", []) if a.shape and not a.is_single_text} == {0, 1}:
        lines.append("final_observation: false  # some observations have a last one, others not")
    lines += [*fields["observations"], *fields["actions"]]
    lines += [f"{key}: {quoted(roles[key][0].name)}" for key in ("reward", "terminated", "truncated", "success") if roles.get(key)]
    return "\n".join(lines)


def _cut(pattern: str, roles: Mapping[str, Sequence[Array]], length: int | None) -> list[str]:
    """How the episodes are divided."""
    if pattern:
        return [f"episodes: {quoted(pattern)}"]
    if roles.get("episode"):
        return [f"episodes: {{key: {quoted(roles['episode'][0].name)}}}"]
    ends = [a for role in ("terminated", "truncated") for a in roles.get(role, []) if a.shape and a.shape != (1,)]
    is_one = length is not None and any(a.shape and a.shape[0] == length + 1 for a in roles.get("observations", []))
    return [f"episodes: {{ends: [{', '.join(quoted(a.name) for a in ends)}]}}"] if ends and not is_one else []


def keys_of(arrays: Sequence[Array], after: Mapping[str, str]) -> list[str]:
    """`key: K`, and `next: K` of what was observed after each action."""
    parts = [f"key: {_one_or_list([a.name for a in arrays])}"]
    if all(a.name in after for a in arrays):
        parts.append(f"next: {_one_or_list([after[a.name] for a in arrays])}")
    return parts


def _one_or_list(names: Sequence[str]) -> str:
    return quoted(names[0]) if len(names) == 1 else f"[{', '.join(map(quoted, names))}]"


def _field(name: str, arrays: Sequence[Array], side: str, after: Mapping[str, str]) -> str:
    """The line of one field."""
    a = arrays[0]
    parts = keys_of(arrays, after if side == "observations" else {})
    note = ""
    picture = None if side == "actions" else look(a.dtype, a.shape[1:]) if a.dtype not in ("str", "bytes") else None
    encoded = a.values is not None and a.shape and is_encoded(a.values)
    if encoded and side == "observations":
        parts.append("modality: image")
        note = "  # encoded pictures, decoded when they are read"
    elif a.dtype == "uint8" and is_plain_picture(a.dtype, a.shape[1:]):
        pass
    elif picture:
        parts += ["modality: image", *(["low: 0", "high: 255"] if _reaches_255(a) else [])]
        note = f"  # {picture}; if they are numbers, 'modality: continuous'"
    elif "int" in a.dtype:
        wide = a.values is not None and a.values.size and float(a.values.max()) - float(a.values.min()) >= NUM_DISCRETE_VALUES
        parts += ["modality: continuous"] * bool(wide) + ["infer: true"] * (not wide or side == "actions")
    elif "float" in a.dtype and side == "actions":
        parts.append("infer: true")
    line = parts[0].removeprefix("key: ") if len(parts) == 1 and len(arrays) == 1 else f"{{{', '.join(parts)}}}"
    return f"  {quoted(name)}: {line}{note}"


def _reaches_255(a: Array) -> bool:
    """Whether a picture that is no uint8 has its values all the same: from 0 to 255, and not to 1."""
    return a.dtype != "uint8" and a.values is not None and bool(a.values.size) and a.values.min() >= 0 and 1 < a.values.max() <= 255


def quoted(name: str) -> str:
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
