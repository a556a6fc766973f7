"""Environments of one's own: any Gymnasium id, of another package or of a file in the current folder.

`MODULE:ID` imports the module before it looks for the id, as `gymnasium.make` does; `--import MODULE` imports one for
all names. Specs keep `MODULE:ID`, so that a worker process, a store and a checkpoint find the environment again.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import traceback
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

_brought: list[str] = []  # modules in the order of their first import
_registered_by: dict[str, str] = {}  # Gymnasium id -> the module whose import registered it
_log = logging.getLogger(__name__)


def bring(name: str) -> ModuleType:
    """Imports a user's module: from the current folder, `PYTHONPATH`, or what is installed.

    **Raises:** `ValueError` in one line where there is none of this name, or its code fails.
    """
    if name.endswith(".py") or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        stem = Path(name).stem
        hint = f"; give the module's name, '{stem}', and have its folder on PYTHONPATH" if name.endswith(".py") else ", such as 'myenvs'"
        raise ValueError(f"'{name}' is not the name of a module{hint}")
    if os.getcwd() not in map(os.path.abspath, sys.path):  # the command `gato` does not look there by itself
        sys.path.insert(0, os.getcwd())
    import gymnasium

    before = set(gymnasium.registry)
    try:
        module = import_module(name)
    except BaseException as error:  # a module may do anything, sys.exit() included
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError(_why_not(name, error)) from error
    _registered_by.update((i, name) for i in gymnasium.registry if i not in before)
    if name not in _brought:
        _brought.append(name)
    return module


def brought() -> tuple[str, ...]:
    """The modules that were imported for the user so far: a process started later imports them too."""
    return tuple(_brought)


def attribute(named: str, what: str) -> Any:
    """`NAME` of `MODULE` for `MODULE:NAME`. **Raises:** `ValueError` where there is none; `what` it should have been."""
    module, _, name = named.partition(":")
    if not module or not name.isidentifier():
        raise ValueError(f"{what} '{named}' is not written as MODULE:NAME, such as myenvs:{what.capitalize()}")
    try:
        there = bring(module)
    except ValueError as error:
        raise ValueError(f"{what} '{named}' cannot be had: {error}") from error
    if not hasattr(there, name):
        raise ValueError(f"{what} '{named}' cannot be had: module '{module}' has no '{name}'{_nearest(name, dir(there))}")
    return getattr(there, name)


def plain(name: str) -> str:
    """The id without the module before it: what a task of one's own is called."""
    return name.rpartition(":")[2]


def find(name: str) -> tuple[EnvSpec, str]:
    """What Gymnasium knows of `ID` or `MODULE:ID`, and the `MODULE:ID` that finds it in another process.

    Without a version it is the newest one.

    **Raises:** `ValueError` where there is no such module or id.
    """
    import gymnasium

    module, _, wanted = name.rpartition(":")
    if module:
        bring(module)
    versions = [i for i in gymnasium.registry if re.fullmatch(re.escape(wanted) + r"-v\d+", i)]
    if wanted not in gymnasium.registry and versions:
        newest = max(versions, key=lambda i: int(i.rpartition("-v")[2]))
        _log.warning("'%s' names no version; taken is %s", name, newest)
        wanted = newest
    if wanted not in gymnasium.registry:
        raise ValueError(_unknown(module, wanted))
    spec = gymnasium.registry[wanted]
    origin = module or _registered_by.get(wanted) or _defined_in(spec)
    return spec, f"{origin}:{wanted}" if origin else wanted


def _defined_in(spec: EnvSpec) -> str | None:
    """The module of an environment's class; `None` where any process knows the id: Gymnasium's own, ours, and its plug-ins'."""
    entry = spec.entry_point
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", None)
    known = {"gymnasium", "gato", "__main__", *(e.module.split(".")[0] for e in metadata.entry_points(group="gymnasium.envs"))}
    return None if module is None or module.split(".")[0] in known else module


def _unknown(module: str, wanted: str) -> str:
    import gymnasium

    if module:
        theirs = sorted(i for i, by in _registered_by.items() if by == module)
        listed = f"; it registers {', '.join(theirs[:10])}{', ...' if len(theirs) > 10 else ''}" if theirs else ""
        return f"module '{module}' registers no environment '{wanted}'{_nearest(wanted, theirs or list(gymnasium.registry)) or listed}"
    name = wanted.rpartition("-v")[0]
    if others := [i for i in gymnasium.registry if i.rpartition("-v")[0] == name]:
        version = metadata.version("gymnasium")
        return (
            f"there is no environment '{wanted}' in gymnasium {version}, which has {', '.join(others)}; another version of it may have it"
        )
    return (
        f"there is no environment '{wanted}'{_nearest(wanted, list(gymnasium.registry))}; if a module of yours or of a package "
        f"registers it, name that: MODULE:{wanted}, or --import MODULE"
    )


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _why_not(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and (name == error.name or name.startswith(f"{error.name}.")):
        return f"there is no module '{error.name}' in {os.getcwd()}, on PYTHONPATH or among the installed packages"
    if isinstance(error, SyntaxError):
        return f"module '{name}' cannot be imported: {error.filename}, line {error.lineno}: {error.msg}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = f"it calls sys.exit({error.code})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    return f"module '{name}' cannot be imported: {said} ({last.filename}, line {last.lineno})"
