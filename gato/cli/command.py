"""What the verbs share: a parser from our docstrings, the names of stores, and rows printed as a table or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .output import write_document

IMPORT = "--import MODULE, any number of times: imports modules of yours first, so that names can mean the environments they register"


def parser_of(verb: str, description: str, json: bool = True) -> Any:
    """**Arguments:** `json`: whether the verb takes `--json`, as all do that answer once."""
    from .arguments import Parser

    parser = Parser(prog=f"gato {verb}", description=description, epilog=IMPORT)
    if json:
        parser.add_argument("--json", action="store_true", help="the answer as JSON, for programs")
    return parser


def parse(parser: Any, arguments: Sequence[str]) -> Any:
    """**Raises:** `ValueError` with one line for bad options. A plain namespace, since jsonargparse renames `values`."""
    return SimpleNamespace(**parser.parse(arguments).as_dict())


def build_config(parser: Any, arguments: Sequence[str], file: Path | None = None) -> Any:
    """The parsed dataclasses; an error names `file`, where the parser does not know that it is one."""
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    try:
        return instantiate(parser.parse(arguments))
    except ValueError as error:
        raise ValueError(f"'{file}': {error}" if file else str(error)) from None


def place_of_name(words: Sequence[str], is_known: Callable[[str], bool]) -> int | None:
    """Where the word stands that decides which options there are, such as a recipe's name; options may come before it.

    That is the first of the right kind that is not the value of an option, else the first that might be meant; `None` without one.
    """
    pairs = enumerate(zip(["", *words], words, strict=False))
    free = [i for i, (before, word) in pairs if not word.startswith("-") and not _takes_value(before)]
    return next((i for i in free if is_known(words[i])), free[0] if free else None)


def _takes_value(word: str) -> bool:
    return word.startswith("--") and "=" not in word and word not in ("--help", "--json", "--dry-run")


def add_loading(parser: Any) -> None:
    """The options of every verb that loads a checkpoint."""
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1, mps; by default the best one here")
    parser.add_option("--verify", bool, True, help="compare the checkpoint's files with their hashes first")


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ImportError):
        return f"{text}; 'gato doctor' says what is missing"
    return text


def print_rows(rows: Any, as_json: bool, text: Callable[[], str]) -> None:
    if as_json:
        write_document(rows)
    else:
        print(text())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned columns."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
        return "" if value is None else str(value)

    if not rows:
        return "(nothing)"
    lines = [list(rows[0]), *([cell(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def open_store(name: str) -> Any:
    from gato.data.store import Store
    from gato.data.stores import find_store

    store = Store(find_store(name))
    if unfinished := store.manifest.shortfall:
        print(f"gato: {name} holds {unfinished}", file=sys.stderr)
    return store
