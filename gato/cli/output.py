"""Standard output under `--json`: documents and nothing else.

Environments, simulators, libraries in C and child processes print what they like; a program that reads the
document must not see it. So standard output itself, the file descriptor, becomes standard error while a verb
runs, and only `write_document` reaches where it led before.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from gato.disk import finite

_reserved: TextIO | None = None  # where documents go; None: to standard output as it is


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` stands among the options; behind `--` it is a value, and `--help` answers a person."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options and not {"-h", "--help"} & set(options)


@contextmanager
def only_documents(to_the_last: bool = False) -> Iterator[None]:
    """Until its end, standard output is kept for `write_document`, and all else that is written there goes to standard error.

    **Arguments:** `to_the_last`: of the process, which is about to end: a simulator may speak once more as it is taken down, and
    one that was left behind may still be speaking.
    """
    global _reserved
    kept = sys.stdout
    if kept is None or _reserved is not None:  # closed, or reserved already
        yield
        return
    number = _descriptor(kept)
    kept.flush()
    copies = {n: copy for n in {1, number} if n is not None and (copy := _copy(n)) is not None}  # C libraries know 1 alone
    _reserved = os.fdopen(os.dup(copies[number]), "w", encoding="utf-8") if number in copies else kept
    for n in copies:
        os.dup2(_descriptor(sys.stderr) or 2, n)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        document = _reserved
        if not to_the_last:
            sys.stdout, _reserved = kept, None
        kept.flush()  # what was written to the old object still belongs on standard error
        with suppress(OSError, AttributeError):  # and what C libraries hold back; Windows has no such table of names
            ctypes.CDLL(None).fflush(None)
        for n, copy in copies.items():
            if not to_the_last:
                os.dup2(copy, n)
            os.close(copy)
        if document is not kept:
            with suppress(BrokenPipeError):  # a reader that left early
                document.close()


def write_document(content: Any, indent: int | None = 1) -> None:
    """One JSON document to standard output, without NaN and infinity; `indent=None` makes it one line, as in JSON lines."""
    file = _reserved or sys.stdout
    file.write(json.dumps(finite(content), indent=indent, default=_plain) + "\n")
    file.flush()


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's, paths as text."""
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, (Path, bytes)):
        return os.fsdecode(value)
    return str(value)


def _copy(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:  # closed
        return None


def _descriptor(file: TextIO) -> int | None:
    try:
        return file.fileno()
    except (OSError, ValueError, AttributeError):  # a test's or a notebook's stream has none
        return None
