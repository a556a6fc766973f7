"""Whether what a recipe or mixture file says has the shape of its dataclass, before it becomes one.

jsonargparse takes the values in; but of a list in a mapping's place, a key without a value or a key of a source it says too
little, or nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from gato.given import nearest
from gato.setting import Limits, expected, fields_of, is_allowed

MAX_LETTERS = 60  # of a value in a message
MAX_TEXT = 1000  # letters of a name or a path


def check_structure(content: Any, config: type, where: str, prefix: str = "") -> None:
    """**Raises:** `ValueError` in one line with the key, where it stands (a source's with the source), and what is expected.

    **Arguments:** `config`: a dataclass; `where`: ` in 'FILE'` for messages; `prefix`: of the keys in them, such as `data.`.
    """
    if not isinstance(content, dict):
        found = "" if content is None else _short(content)
        raise ValueError(f"a recipe is a mapping of options, found '{found}'; 'gato cp' gives one to start from")
    known = fields_of(config)
    for key, value in content.items():
        if key not in known:
            raise ValueError(_unknown(key, value, prefix, known, where))
        _check(f"{prefix}{key}", value, *known[key], where)


def _check(name: str, value: Any, hint: Any, limits: Limits, where: str) -> None:
    """A section, a mapping of dataclasses, or a value, of which only the shape is looked at: jsonargparse reads `1e-3` as a number."""
    kind = hint if dataclasses.is_dataclass(hint) else get_origin(hint)
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    if (longest := max(map(len, texts), default=0)) > MAX_TEXT:
        raise ValueError(f"'{name}' holds a text of {longest} letters{where}, expected at most {MAX_TEXT}")
    if dataclasses.is_dataclass(kind) or kind is Mapping:
        if not isinstance(value, dict):
            raise ValueError(f"'{name}' is {_short(value)}{where}, expected {'a mapping' if kind is Mapping else 'a mapping of options'}")
        if kind is not Mapping:
            check_structure(value, hint, where, f"{name}.")
        for key, entry in value.items() if kind is Mapping else ():
            _check_entry(name, key, entry, get_args(hint)[1], where)
    elif isinstance(value, dict) or not (is_allowed(None, hint, limits) if value is None else _is_listed(value, hint)):
        raise ValueError(f"'{name}' is {_short(value)}{where}, expected {expected(hint, limits)}")


def _check_entry(name: str, key: Any, entry: Any, config: type, where: str) -> None:
    """One of a mapping of dataclasses, such as a source; its values too, since jsonargparse does not say whose they are."""
    if not isinstance(key, str) or not key.strip() or "\0" in key or len(key) > MAX_TEXT:
        raise ValueError(f"'{name}' has the key {_short(key)}{where}, expected a name; put it in quotes")
    if not isinstance(entry, dict):
        raise ValueError(f"'{name}.{key}' is {_short(entry)}{where}, expected a mapping of options; {{}} for the defaults")
    known = fields_of(config)
    for field, value in entry.items():
        if field not in known:
            raise ValueError(f"'{name}.{key}' knows no key '{_short(field)}'{where}{nearest(str(field), known)}")
        _check(f"{name}.{key}.{field}", value, *known[field], where)
        hint, limits = known[field]
        if not is_allowed(_as_number(value, hint), hint, limits):
            raise ValueError(f"'{name}.{key}.{field}' is {_short(value)}{where}, expected {expected(hint, limits)}")


def _as_number(value: Any, hint: Any) -> Any:
    """A text that says a number, as YAML takes `1e-3` for one, where a number is meant."""
    if isinstance(value, str) and float in (hint, *get_args(hint)):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _is_listed(value: Any, hint: Any) -> bool:
    """Whether a value is a list of texts, where one is expected."""
    if list not in (get_origin(hint), *map(get_origin, get_args(hint))):
        return True
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _unknown(key: Any, value: Any, prefix: str, known: Mapping[str, tuple[Any, Limits]], where: str) -> str:
    if isinstance(key, str) and "." in key and key.split(".")[0] in known:
        first, _, rest = key.partition(".")
        return f"the key '{prefix}{key}'{where} has a dot; write '{first}: {{{rest}: ...}}'"
    name = key if isinstance(key, str) else _short(key)
    if isinstance(value, dict) and value and not prefix:
        name += f".{next(iter(value))}"  # of a section its first key is named too
    sections = {section: fields_of(hint) for section, (hint, _) in known.items() if dataclasses.is_dataclass(hint)}  # type: ignore[arg-type]
    names = [*known, *(f"{section}.{field}" for section, fields in sections.items() for field in fields)]
    return f"there is no key '{_short(prefix + name)}'{where}{nearest(f'{prefix}{name}', [prefix + n for n in names])}"


def _short(value: Any) -> str:
    text = "null" if value is None else " ".join(str(value).split()) or "''"
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}..."
