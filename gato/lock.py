"""One writer per folder: a lock file that names the process holding it.

The file is removed when the writer closes. If the process died first, the next writer on the same
machine notices that it is gone, says so in the log and takes the lock over. (Locks of the operating system, as the
library filelock has them, go unseen over some network drives and name nobody.)
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

LOCK_NAME = ".lock"

_log = logging.getLogger(__name__)
_held: set[str] = set()  # the nonces of this process's locks
_one_at_a_time = Lock()  # of its threads makes or releases a lock, so that files and nonces agree


class FolderLock:
    """Holds `folder/.lock` from construction to `release()`.

    **Raises:** `ValueError` naming host and process if another writer has the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._nonce = Path(folder) / LOCK_NAME, secrets.token_hex(8)
        self._content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "nonce": self._nonce})
        with _one_at_a_time:
            if not self._create():
                self._take_over()
            _held.add(self._nonce)

    def release(self) -> None:
        """Gives the folder free; does nothing if the lock is no longer ours."""
        with _one_at_a_time:
            if _read(self.path) == self._content:
                self.path.unlink(missing_ok=True)
            _held.discard(self._nonce)

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._content)
        except OSError:  # the disk is full, and an empty lock would name nobody
            self.path.unlink(missing_ok=True)
            raise
        return True

    def _take_over(self) -> None:
        found = _read(self.path)
        holder = _holder(found)
        if holder is None or holder["host"] != socket.gethostname() or _is_held(holder):
            raise ValueError(self._explain(holder))
        _log.warning("%s: process %d is gone; taking over its lock", self.path, holder["pid"])
        # Renaming settles the race of two processes that see the same dead one: only one gets the file.
        aside = self.path.with_name(f"{LOCK_NAME}.{secrets.token_hex(4)}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            raise ValueError(self._explain(None)) from None
        if _read(aside) != found:  # somebody was faster and this is their new lock: hand it back
            os.replace(aside, self.path)
            raise ValueError(self._explain(_holder(_read(self.path))))
        aside.unlink()
        if not self._create():
            raise ValueError(self._explain(_holder(_read(self.path))))

    def _explain(self, holder: dict | None) -> str:
        who = f"process {holder['pid']} on host '{holder['host']}'" if holder else "another process"
        return f"{self.path.parent} is being written by {who}; wait for it, or remove {self.path} if it no longer runs"


def remove_empty(folders: Sequence[Path]) -> None:
    """Those of some folders, the innermost first, that hold nothing."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _holder(content: str | None) -> dict | None:
    """Host, process and nonce of a lock file, or `None` if it does not say (it may just be being written)."""
    try:
        holder = json.loads(content or "")
        return {"host": str(holder["host"]), "pid": int(holder["pid"]), "nonce": str(holder.get("nonce"))}
    except (ValueError, KeyError, TypeError):
        return None


def _is_held(holder: dict) -> bool:
    """Whether a process of this host still has it. Our own number may have been another's before: in a container that was started again
    processes have the numbers that they had."""
    return holder["nonce"] in _held if holder["pid"] == os.getpid() else _is_alive(holder["pid"])


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    if os.name == "nt":  # there os.kill(pid, 0) would end the process instead of asking after it
        return _is_alive_on_windows(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_alive_on_windows(pid: int) -> bool:
    import ctypes

    query_limited_information, still_active = 0x1000, 259
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    handle = kernel.OpenProcess(query_limited_information, False, pid)
    if not handle:
        return False
    code = ctypes.c_ulong()
    kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return code.value == still_active
