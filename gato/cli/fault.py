"""The last resort of `gato`: an exception that no verb foresaw becomes one line, and its traceback a file.

What we refuse we `raise` ourselves, as a `ValueError` and its like in words that help. Anything else, a `KeyError` of ours or
an error that a library raised far below, is for whoever repairs it: the line says whose it seems to be (ours, a library's, an
environment's or an adapter's of the user's own) and where the traceback lies.
"""

from __future__ import annotations

import opcode
import os
import platform
import sys
import sysconfig
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

BUG = 70  # the exit code for what is no fault of the input; sysexits.h calls it EX_SOFTWARE
REFUSALS = (ValueError, ImportError, OSError, RuntimeError)
MAX_LETTERS = 300

_RAISE = opcode.opmap["RAISE_VARARGS"]
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_refusal(error: BaseException) -> bool:
    """Whether its message was written for whoever typed the command: by a `raise` of ours, or by the system about a file or a module."""
    if isinstance(error, ImportError) and str(error.name).partition(".")[0] == "gato":  # nothing that could be installed
        return False
    if isinstance(error, (ImportError, OSError)):
        return True
    if not isinstance(error, REFUSALS) or isinstance(error, (RecursionError, NotImplementedError, UnicodeError)):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and _package(frames[-1][0]) == "gato" and _raised(error)


def describe(error: BaseException, arguments: list[str]) -> tuple[str, int]:
    """One line about an exception that is no refusal, and the exit code; its traceback is written to a file."""
    place = _written(error, arguments)
    text = _short(error)
    if isinstance(error, MemoryError):
        return f"not enough memory: {text}; {place}", BUG
    frames = [(frame, line, _package(frame)) for frame, line in traceback.walk_tb(error.__traceback__)]
    for frame, line, package in reversed(frames):
        if package is None:
            return f"{frame.f_code.co_filename}, line {line} fails: {text}; {place}", 2
    package = frames[-1][2] if frames else "gato"
    if package == "gato" or not isinstance(error, REFUSALS) or isinstance(error, ImportError):
        return f"this is a bug of ours, not of your input: {text}; please report it: {place}", BUG
    return f"{package} refuses, in words that are not ours: {text}; {place}", 2


@contextmanager
def threads_reported(arguments: list[str]) -> Iterator[None]:
    """Until its end, what a thread fails of is one line too."""

    def report(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
            print(f"gato: a thread ended: {describe(failed.exc_value, arguments)[0]}", file=sys.stderr)

    before = threading.excepthook
    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


def _package(frame: FrameType) -> str | None:
    """`gato`, or the library that a frame belongs to; `None` for a file of the user's own."""
    name, file = str(frame.f_globals.get("__name__", "")), frame.f_code.co_filename
    package = name.partition(".")[0]
    if package == "gato" or name == "__main__":
        return "gato"
    is_library = file.startswith(("<", *_LIBRARIES)) or not os.path.exists(file)
    return package if is_library else None


def _raised(error: BaseException) -> bool:
    """Whether the last frame raised it itself, unlike a call of `int` there."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_lasti >= 0 and trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE


def _short(error: BaseException) -> str:
    """Type and message; of an error that a worker process sent, whose message is its traceback, the last line."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        lines = []
    text = " ".join((lines[-1] if "Traceback" in "".join(lines) else " ".join(lines)).split()) if lines else ""
    text = text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}..."
    name = type(error).__name__
    return text if text.startswith(name) else f"{name}: {text}" if text else name


def _written(error: BaseException, arguments: list[str]) -> str:
    """Where its traceback is; never fails itself."""
    try:
        from gato import __version__

        head = f"gato {__version__}, Python {platform.python_version()}, {platform.platform()}\ngato {' '.join(arguments)}\n\n"
        text = head + "".join(traceback.format_exception(error))
        with tempfile.NamedTemporaryFile(
            "w", prefix="gato-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
        return f"its traceback is in {file.name}"
    except Exception as why:
        return f"its traceback could not be written ({type(why).__name__}), GATO_DEBUG=1 shows it"
