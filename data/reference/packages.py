"""Packages of Debian, npm and PyPI, fetched by the user's own package tools and unpacked without root.

Which server a package comes from is the tools' business (`apt-get`, `npm`, `pip` as they are configured); nothing of a
package is run or installed. Members are read one after the other and only plain files are written: links, devices and
names that lead out of the folder are not, and every size has a limit.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from gato.data.formats.files import file_digest
from gato.data.formats.lines import load_json

MAX_ARCHIVE_BYTES = 2**30
MAX_UNPACKED_BYTES = 2**31
MAX_FILES = 100_000
FETCH_SECONDS = 1800

_NOTE = "package.json"  # beside `files`: which archive they come from
_COPY_BYTES = 2**20

Tool = Literal["apt", "npm", "pip"]


class Missing(Exception):
    """A package that cannot be had here, and what to do about it, in one line."""


@dataclass(frozen=True)
class Package:
    """A package of a registry.

    - `tool`: which one fetches it.
    - `name`: as that tool names it, with the version where it takes one (`emoji-datasource-google@16.0.0`, `name==1.0`).
    - `wanted`: pattern of the members' names that are unpacked, such as `package/img/.*`.
    - `copies_links`: whether a link to an unpacked file becomes a copy of it; else it is left out.
    - `sha256`: of the archive, where the name pins a version; Debian's tools check theirs against signed lists.
    """

    tool: Tool
    name: str
    wanted: str
    copies_links: bool = False
    sha256: str | None = None

    @property
    def label(self) -> str:
        """The name without its version."""
        return re.split(r"(?<!^)@|==", self.name)[0]

    def command(self) -> list[str]:
        """What fetches the package's archive into the current folder. **Raises:** `Missing` where the tool is not there."""
        if self.tool == "pip":
            return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", self.name]
        program = {"apt": "apt-get", "npm": "npm"}[self.tool]
        needed = [program, *(["dpkg-deb"] if self.tool == "apt" else [])]
        if absent := [p for p in needed if shutil.which(p) is None]:
            raise Missing(f"package '{self.name}' needs the program '{absent[0]}', which is not installed; install it and run this again")
        return [program, "download", self.name] if self.tool == "apt" else [program, "pack", "--silent", "--ignore-scripts", self.name]


def fetch(package: Package, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Fetches and unpacks a package, unless an earlier run did; a killed run leaves nothing that looks complete.

    **Arguments:** `folder`: of all packages; this one's becomes a folder in it.

    **Returns:** the folder of its files, and `{package, archive, bytes, sha256, links}`: what was fetched and how many links were left out.

    **Raises:** `Missing` if tool or package cannot be had; `ValueError` for an archive that is damaged, unsafe or too large.
    """
    home = folder / re.sub(r"[^\w.-]+", "-", package.label).strip("-")
    if (home / _NOTE).is_file():
        return home / "files", load_json(home / _NOTE)
    partial = home.with_name(f"{home.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "archive").mkdir(parents=True)
    try:
        print(f"fetching {package.name} ({package.tool})", file=sys.stderr, flush=True)
        archive = _download(package, partial / "archive")
        digest, size = file_digest(archive), archive.stat().st_size
        if package.sha256 not in (None, digest):
            raise ValueError(f"{archive.name} has SHA-256 {digest}, expected {package.sha256}; it is not unpacked")
        links = unpack(archive, partial / "files", package.wanted, package.copies_links)
        note = {"package": package.name, "archive": archive.name, "bytes": size, "sha256": digest, "links": links}
        shutil.rmtree(partial / "archive")
        (partial / _NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")
        partial.rename(home)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return home / "files", note


def _download(package: Package, folder: Path) -> Path:
    """The one archive that the tool leaves in the folder."""
    command = package.command()
    failed = f"package '{package.name}' cannot be fetched by {command[0] if package.tool != 'pip' else 'pip'}"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise Missing(f"{failed} within {FETCH_SECONDS} s; look at the network and run this again") from None
    archives = sorted(folder.iterdir())
    if done.returncode or len(archives) != 1:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        first = "run 'apt-get update' first, " if package.tool == "apt" else ""
        raise Missing(f"{failed} ({said[:200]}); {first}look at the tool's configuration and the network, and run this again")
    return archives[0]


def unpack(archive: Path, folder: Path, wanted: str = ".*", copies_links: bool = False) -> int:
    """Writes the wanted plain files of a .deb, .tgz or .whl below a new folder; returns the number of links that were left out.

    **Raises:** `ValueError` naming archive and member for a name that leads out of the folder, for more than the limits of
    this module, and for an archive that is damaged or of another kind.
    """
    if (size := archive.stat().st_size) > MAX_ARCHIVE_BYTES:
        raise ValueError(f"{archive} has {size} bytes, more than {MAX_ARCHIVE_BYTES}; it is not unpacked")
    pattern, room, files, links = re.compile(wanted), MAX_UNPACKED_BYTES, 0, list[tuple[Path, str]]()
    folder.mkdir(parents=True)
    try:
        for name, content, target in _members(archive):
            place = f"{archive.name}, member '{name}'"
            path = _inside(folder, name, place)
            if not pattern.fullmatch(PurePosixPath(name).as_posix()):
                continue
            files += 1
            if files > MAX_FILES:
                raise ValueError(f"{archive.name} holds more than {MAX_FILES} files; it is not unpacked")
            if content is None:
                links.append((path, target))
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:
                while part := content.read(_COPY_BYTES):
                    room -= len(part)
                    if room < 0:
                        raise ValueError(f"{place}: the archive unpacks to more than {MAX_UNPACKED_BYTES} bytes; it is not unpacked")
                    file.write(part)
        return len(links) - (_copy_links(folder, links, room) if copies_links else 0)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{archive.name} cannot be unpacked: {error}; fetch it again") from None


def _copy_links(folder: Path, links: Sequence[tuple[Path, str]], room: int) -> int:
    """Copies the files that links lead to, where these were unpacked too; returns how many.

    Paths are compared as text, so that no link is ever followed on disk.
    """
    copied, home = 0, os.path.normpath(folder)
    for path, target in links:
        named = Path(os.path.normpath(path.parent / target))
        if not target or not named.is_relative_to(home):
            continue
        source = folder / named.relative_to(home)
        if source == path or not source.is_file() or path.exists():
            continue
        room -= source.stat().st_size
        if room < 0:
            raise ValueError(f"{path.name}: the archive unpacks to more than {MAX_UNPACKED_BYTES} bytes; it is not unpacked")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        copied += 1
    return copied


def _inside(folder: Path, name: str, place: str) -> Path:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise ValueError(f"{place} leads out of its folder; the package is not unpacked")
    return folder / parts


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None, str]]:
    """`(name, content, "")` of files, and `(name, None, target)` of links and devices; folders are left out."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    with wheel.open(entry) as content:
                        yield entry.filename, content, ""
        return
    with _tar(archive) as tar:
        for member in tar:
            if member.isreg():
                yield member.name, tar.extractfile(member), ""
            elif not member.isdir():
                yield member.name, None, member.linkname if member.issym() else ""


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """The tar stream of an npm package, or of a Debian one, which `dpkg-deb` takes out of its archive."""
    if archive.suffix != ".deb":
        with tarfile.open(archive, "r|gz") as tar:
            yield tar
        return
    command: Sequence[str] = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None, "asked for above"
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield tar
            while process.stdout.read(_COPY_BYTES):  # the padding behind the last member
                pass
            if process.wait():
                raise tarfile.ReadError(f"dpkg-deb ended with code {process.returncode}")
        finally:
            process.kill()
