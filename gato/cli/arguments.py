"""The parser of `gato`'s verbs: jsonargparse, with help from our docstrings and errors of one line.

An unknown key is answered with the file that holds it and the nearest known name; a wrong type with what was
found and what is expected.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from argparse import ArgumentError
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from inspect import cleandoc
from itertools import pairwise, takewhile
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from gato.given import nearest
from gato.setting import Limits, expected, fields_of, is_allowed, refusal
from gato.yaml_file import load_yaml

from .structure import check_structure

_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "null", "str": "a text"}
_TYPES |= {"collections.abc.Mapping": "a mapping", "dict": "a mapping", "list": "a list"}
MAX_LETTERS = 500  # of a message: a value in it may have any number


class Parser(ArgumentParser):
    """Takes configuration dataclasses, whose docstrings describe the options."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"exit_on_error": False} | settings)  # jsonargparse makes parsers of this class too
        self.known: dict[str, tuple[Any, Limits]] = {}  # type and limits by dotted key
        self._sections: dict[str, type] = {}  # the dataclasses whose values a file may hold, by option

    def add_config(self, config: type, skip: set[str] | None = None) -> None:
        """An option per field of `config`, nested ones with dots."""
        self.add_class_arguments(config, skip=skip or set())
        self.known |= {key: found for key, found in _limits_of(config) if key not in (skip or set())}
        self._sections["config"] = config
        hints = get_type_hints(config)
        self._sections |= {f.name: hints[f.name] for f in dataclasses.fields(config) if dataclasses.is_dataclass(hints[f.name])}
        texts = dict(_descriptions(config))
        for action in self._actions:
            if action.dest in texts and not action.help:
                action.help = texts[action.dest]

    def add_option(self, name: str, kind: type, default: Any, limits: Limits = Limits(), help: str | None = None) -> None:  # noqa: B008
        """An option of its own, for a number or text within limits, or for true and false.

        With the default `argparse.SUPPRESS` it is no part of a configuration: there is nothing where it is not given.
        """
        hint = kind | None if default is None else kind
        self.known[self.add_argument(name, type=hint, default=default, help=help).dest] = hint, limits

    def parse(self, arguments: Sequence[str]) -> Namespace:
        """**Raises:** `ValueError` in one line."""
        self._check_files(arguments)
        try:
            options = self.parse_args(flags_completed(self._lists_joined(arguments), self._flags()))
        except ArgumentError as error:
            text = self._explain(" ".join(str(error).split()), arguments)
            raise ValueError(text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS // 2]} ... {text[-MAX_LETTERS // 2 :]}") from None
        self._check(options, arguments)
        return options

    def _check_files(self, arguments: Sequence[str]) -> None:
        """Whether the YAML files among the options, whole recipes and sections of one, are well-formed and have the right shape."""
        words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
        for option, word in pairwise(words):
            name = option.removeprefix("--") if option.startswith("--") else ""
            config = self._sections.get(name)
            if config is None or (name != "config" and not _is_file(word)):
                continue
            check_structure(load_yaml(Path(word)), config, f" in '{word}'", "" if name == "config" else f"{name}.")

    def format_help(self, *formatter: Any) -> str:
        return re.sub(r"<class\s+'(?:[\w.]+\.)?(\w+)'>", r"\1", super().format_help(*formatter))

    def _lists_joined(self, arguments: Sequence[str]) -> list[str]:
        """`--image_size 64 64` as `--image_size [64,64]`, for the options that take several values; commas may part them too.

        After the first word, those that such an option cannot mean are left to the others.
        """
        fits = {f"--{key}": test for key, (hint, limits) in self.known.items() if (test := _test_of_item(hint, limits))}
        joined: list[str] = []
        words = deque(arguments)
        while words:
            word = words.popleft()
            name, is_joined, value = word.partition("=")
            if word == "--":
                return [*joined, word, *words]
            first = value if is_joined else words[0] if words else "--"
            if name not in fits or first.startswith(("[", "--")) or first == "null":
                joined.append(word)
                continue
            given = [value] if is_joined else [words.popleft()]
            given += [] if is_joined else [words.popleft() for _ in list(takewhile(fits[name], words))]
            items = [item.strip() for part in given for item in part.split(",")]
            joined += [name, f"[{', '.join(items)}]" if fits[name] is _is_number else json.dumps(items)]
        return joined

    def _flags(self) -> set[str]:
        flags = {key for key, (hint, _) in self.known.items() if hint in (bool, bool | None)}
        return {option for action in self._actions if action.dest in flags for option in action.option_strings}

    def _check(self, options: Namespace, arguments: Sequence[str]) -> None:
        """What jsonargparse 4.53 lets pass in a file: `train: 3`, and null where a value is needed."""
        for group in self._groups():
            if not isinstance(options.get(group), Namespace):
                raise ValueError(f"'{group}' is {options.get(group)!r}{_held_by(group, arguments)}, expected a mapping of options")
        for key, (hint, limits) in self.known.items():
            if key not in options:
                continue  # an option that was not given
            for name, value, kind, bounds in _values(key, options.get(key), hint, limits):
                if not is_allowed(value, kind, bounds):
                    raise ValueError(refusal(name, value, kind, bounds, _held_by(name, arguments)))

    def _names(self) -> list[str]:
        names = [option.lstrip("-") for action in self._actions for option in action.option_strings]
        return [*names, *self._groups()]

    def _groups(self) -> list[str]:
        return list(dict.fromkeys(action.dest.split(".")[0] for action in self._actions if "." in action.dest))

    def _explain(self, message: str, arguments: Sequence[str]) -> str:
        if found := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
            name = found[1].split("=")[0]
            return f"there is no option '{name}'{nearest(name.lstrip('-'), self._names(), '--')}" if name.startswith("-") else (
                f"'{name}' is one argument too many; '{self.prog} --help' lists what it takes"
            )  # fmt: skip
        if found := re.search(
            r"""Parser key "([\w./-]+)": Problem with given class_path '([\w.]+)': Option '(\S+)' is not accepted""", message
        ):
            group, path, name = found.groups()
            return f"'{group}' knows no key '{name}'{_held_by(f'{group}.{name}', arguments)}{nearest(name, _fields(path))}"
        if found := re.search(r"(?:Group '(\S+)' does not accept option|Option) '(\S+)'", message):
            name = f"{found[1]}.{found[2]}" if found[1] else found[2]
            return f"there is no key '{name}'{_held_by(name, arguments)}{nearest(name, self._names())}"
        if message.startswith("Unexpected config"):
            return f"a recipe is a mapping of options, found '{message.partition(': ')[2]}'; 'gato cp' gives one to start from"
        if found := re.search(r"""Parser key "([\w.]+)": Unable to load config ["']([^"']*)["']$""", message):
            return f"'{found[1]}' is {found[2]}, expected a YAML file or a mapping of options; there is no such file"
        found = re.search(r"(?:Problems parsing config:|Unable to load config \S+ -) (.*)", message)
        return self._wrong_type(message, arguments) or (f"not valid YAML: {found[1]}" if found else message)

    def _wrong_type(self, message: str, arguments: Sequence[str]) -> str | None:
        keys = re.findall(r'Parser key "([\w./-]+)"', message)
        value = re.search(r".*Given value:(.*)$", message) or re.search(r"Got value:(.*)$", message)
        kinds = re.findall(r"Expected an? <class '([\w.]+)'>|Expected (a tuple with \d+ elements)|Not a valid subclass of (\w+)", message)
        if not (keys and value):
            return None
        found, key = value[1].partition(" Subclass types expect")[0].strip() or "''", ".".join(keys)
        known = self.known | _inside(self.known)
        if key in known:
            return f"'{key}' is {found}{_held_by(key, arguments)}, expected {expected(*known[key])}"
        words = dict.fromkeys(_TYPES.get(kind, kind) or pair or f"a mapping of {name}'s options" for kind, pair, name in kinds)
        return f"'{key}' is {found}{_held_by(key, arguments)}, expected {' or '.join(words)}" if words else None


def _limits_of(config: type, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Limits]]]:
    """Type and limits of every field by its dotted key, those of nested dataclasses in place of them."""
    for name, (hint, limits) in fields_of(config).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _limits_of(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", (hint, limits)


def _inside(known: Mapping[str, tuple[Any, Limits]]) -> dict[str, tuple[Any, Limits]]:
    """What the dataclasses of mappings hold, by the name that jsonargparse gives it: `data.sources.weight`."""
    found: dict[str, tuple[Any, Limits]] = {}
    for key, (hint, _) in known.items():
        inner = get_args(hint)[1] if get_origin(hint) is Mapping else None
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            found |= {f"{key}.{name}": limits for name, limits in fields_of(inner).items()}
    return found


def _values(key: str, value: Any, hint: Any, limits: Limits) -> Iterator[tuple[str, Any, Any, Limits]]:
    """A value with its key, type and limits; of a mapping of dataclasses those inside, as far as they are given."""
    inner = get_args(hint)[1] if get_origin(hint) is Mapping else None
    if not (isinstance(inner, type) and dataclasses.is_dataclass(inner) and isinstance(value, Mapping)):
        yield key, value, hint, limits
        return
    for name, entry in value.items():
        held = vars(entry) if isinstance(entry, Namespace) else entry or {}
        for field, (kind, bounds) in fields_of(inner).items():
            if field in held:
                yield f"{key}.{name}.{field}", held[field], kind, bounds


def flags_completed(words: Sequence[str], flags: Container[str]) -> list[str]:
    """`--films` as `--films true`: a flag stands alone, or before true or false; a recipe's takes any word, which may be refused."""
    completed: list[str] = []
    for i, word in enumerate(words):
        if word == "--":
            return [*completed, *words[i:]]
        completed.append(word)
        value = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("-") else None
        if word in flags and (value is None or ("." not in word and value.lower() not in ("true", "false"))):
            completed.append("true")
    return completed


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # a name too long, or with a null character
        return False


def _test_of_item(hint: Any, limits: Limits) -> Callable[[str], bool] | None:
    """Whether a word may be one of the values of an option that takes several; `None` for options that take one."""
    kinds = [kind for kind in (get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)) if get_origin(kind) in (list, tuple)]
    if not kinds:
        return None
    if get_args(kinds[0])[0] in (int, float):
        return _is_number
    return lambda word: word in limits.choices if limits.choices else not word.startswith("-")


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", word) is not None


def _held_by(key: str, arguments: Sequence[str]) -> str:
    """` in 'FILE'` for the last configuration file that holds the key; nothing if it stands on the command line."""
    flags = [word.lstrip("-").split("=")[0] for word in arguments if word.startswith("--")]
    if any(f"{key}.".startswith(f"{flag}.") for flag in flags):
        return ""
    first, last = key.split(".")[0], key.split(".")[-1]
    files = [file for option, file in pairwise(arguments) if option == "--config"]
    for path in reversed(files):
        try:
            keys = set(_keys(load_yaml(Path(path))))
        except (OSError, ValueError):
            continue
        if any(k == key or (k.startswith(f"{first}.") and k.endswith(f".{last}")) for k in keys):
            return f" in '{path}'"
    return ""


def _keys(content: Any, prefix: str = "") -> Iterator[str]:
    for key, value in content.items() if isinstance(content, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def _fields(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    config = getattr(sys.modules.get(module), name, None)
    return [f.name for f in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []


def _descriptions(config: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """What the list in a dataclass's docstring says of each field: "- `name`: text; `other`: text".

    docstring_parser, which jsonargparse would ask, knows the styles of Google, NumPy and Sphinx, and not this one.
    """
    text = re.split(r"\n\n(?!- )|\n\*\*Raises", cleandoc(config.__doc__ or ""))
    for item in re.split(r"^- ", "\n\n".join(part for part in text if "- `" in part), flags=re.MULTILINE)[1:]:
        for part in re.split(r"[;.]\s+(?:or )?(?=`\w+`(?::| ))", " ".join(item.split())):
            if found := re.match(r"`(\w+)`(?:: | )(.*)", part):
                yield prefix + found[1], found[2].rstrip(".")
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _descriptions(hints[field.name], f"{prefix}{field.name}.")
