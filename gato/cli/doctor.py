"""`gato doctor`: what is installed, what is missing, and what that means.

Packages are looked up by their metadata. Only torch is imported, and DeepSpeed in a process of its own, since
a broken build of it can take the interpreter down. Nothing here may fail because something is missing.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from gato.libraries import tested_versions, untested_versions

PURPOSES = {
    "gym": "classic control and Box2D, from Gymnasium",
    "babyai": "BabyAI's grid worlds with instructions",
    "mujoco": "MuJoCo's walkers and arms, from Gymnasium",
    "metaworld": "Meta-World's robot arm",
    "dm-control": "the DeepMind Control Suite",
    "robotics": "Fetch arms and point mazes, from gymnasium-robotics",
    "atari": "Atari games",
    "minatar": "small Atari-like games",
    "data": "Hugging Face datasets as sources",
    "minari": "Minari datasets, in and out",
    "hdf5": "own recordings in HDF5 files",
    "lerobot": "the videos of LeRobot datasets, through PyAV",
    "plot": "matplotlib, for figures of your own; reports need none",
    "deepspeed": "ZeRO and offload; training works without",
    "peft": "LoRA adapters",
    "metrics": "the wording of captions (CIDEr-D, BLEU, ROUGE-L)",
    "page": "the web page of gato demo",
    "serve": "gato serve, and its client",
    "embeddings": "gato plot --embeddings",
    "tensorboard": "figures of a run in TensorBoard (--train.report_to tensorboard)",
    "docs": "make docs: the pages and the API as a site",
    "notebooks": "the notebooks of docs/notebooks, run from the command line",
}

Row = dict[str, str]


def findings() -> list[Row]:
    """**Returns:** rows of `what`, `found` and `note`; an empty note means that all is well."""
    deepspeed = _start_deepspeed()
    return [
        _python(), _package(), *_namesakes(), _threads(), *_torch(), *_core(), *_extras(), _deepspeed(deepspeed), _tested(),
        _compiler(), *_places(),
    ]  # fmt: skip


def _row(what: str, found: str, note: str = "") -> Row:
    return {"what": what, "found": found, "note": note}


def _python() -> Row:
    note = "" if sys.version_info >= (3, 11) else "3.11 or newer is needed"
    return _row("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores", note)


def _package() -> Row:
    from gato import __version__

    where = "checkout" if _project() else "installed"
    return _row("gato", f"{__version__}, {where} at {Path(__file__).resolve().parents[1]}")


def _threads() -> Row:
    from .threads import waiting_chosen

    count = os.environ.get("OMP_NUM_THREADS", "not set: one for a small model, torch's choice for others")
    chosen = waiting_chosen(os.environ) or "OMP_WAIT_POLICY"
    value = os.environ.get(chosen, "not set")
    spins = (chosen, value.upper()) == ("OMP_WAIT_POLICY", "ACTIVE")
    note = "threads spin while they wait: beside other work acting takes many times as long; unset it" if spins else ""
    return _row("threads", f"OMP_NUM_THREADS {count}; {chosen} {value}", note)


def _namesakes() -> Iterator[Row]:
    """The distribution `gato` of another project has the same import name."""
    if version := _version("gato"):
        yield _row("the other gato", version, "another project with the same import name; 'pip uninstall gato', then reinstall opengato")


# -- packages --------------------------------------------------------------------------------------


@cache
def _project() -> dict[str, Any] | None:
    """The `[project]` table of our pyproject.toml where this is a checkout."""
    path = Path(__file__).resolve().parents[2] / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return None
    return project if project.get("name") == "opengato" else None


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The core requirements, and those of each extra: of the checkout, else of the installed distribution."""
    if project := _project():
        return project["dependencies"], project["optional-dependencies"]
    try:
        lines = metadata.requires("opengato") or []
    except metadata.PackageNotFoundError:
        return [], {}
    core: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        if "extra ==" in marker:
            extras.setdefault(marker.split("extra ==")[1].strip(" '\""), []).append(requirement.strip())
        else:
            core.append(line)
    return core, extras


def _core() -> Iterator[Row]:
    core, _ = _requirements()
    if not core:
        yield _row("requirements", "unknown", "opengato is not installed, so versions are not checked")
    for line in core:
        name, version, wrong = _check(line)
        if name != "torch":
            yield _row(name, version or "missing", f"{wrong}; pip install '{line}'" if wrong else "")


def _extras() -> Iterator[Row]:
    _, extras = _requirements()
    for name, lines in extras.items():
        if any(line.startswith("opengato[") for line in lines):  # made of other extras
            continue
        checked = [_check(line) for part in lines for line in [part, *_parts(part)]]
        wrong = [f"{package}: {reason}" for package, _, reason in checked if reason]
        purpose = PURPOSES.get(name, "")
        install = f"pip install -e '.[{name}]'" if _project() else f"pip install 'opengato[{name}]'"
        found = "; ".join(wrong) or ", ".join(dict.fromkeys(f"{package} {version}" for package, version, _ in checked))
        yield _row(f"extra {name}", found, f"{purpose}: {install}" if wrong else "")


def _tested() -> Row:
    """Whether what is installed is what the tests ran with."""
    others = untested_versions()
    if not others:
        return _row("tested versions", f"of {len(tested_versions())} packages, as far as they are installed")
    named = ", ".join(f"{name} {installed} (tested: {tested})" for name, (installed, tested) in sorted(others.items()))
    return _row("tested versions", named, "these are allowed, but the tests ran with the versions of configs/requirements.lock")


def _check(line: str) -> tuple[str, str | None, str]:
    """Name, installed version, and what is wrong with it."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        name = line.split(";")[0].translate(str.maketrans("[<>=!~", "      ")).split()[0]
        version = _version(name)
        return name, version, "" if version else "missing"
    requirement = Requirement(line)
    version = _version(requirement.name)
    if version is None:
        return requirement.name, None, "missing"
    fits = requirement.specifier.contains(version, prereleases=True)
    return requirement.name, version, "" if fits else f"found {version}, needs {requirement.specifier}"


def _parts(line: str) -> list[str]:
    """What `gymnasium[box2d]` asks of gymnasium beyond its own requirements."""
    try:
        from packaging.requirements import Requirement

        requirement = Requirement(line)
        lines = [Requirement(text) for text in metadata.requires(requirement.name) or []]
    except (ImportError, metadata.PackageNotFoundError):
        return []
    chosen = [r for r in lines if r.marker and not r.marker.evaluate({"extra": ""})]
    extras = requirement.extras
    return [f"{r.name}{r.specifier}" for r in chosen if r.marker and any(r.marker.evaluate({"extra": e}) for e in extras)]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# -- torch and DeepSpeed ---------------------------------------------------------------------------


def _torch() -> Iterator[Row]:
    lines = [line for line in _requirements()[0] if _check(line)[0] == "torch"]
    wrong = _check(lines[0])[2] if lines else ""
    if _version("torch") is None:
        yield _row("torch", "missing", "pip install torch; nothing that computes works without")
        return
    try:
        import torch
    except Exception as error:  # a broken build raises whatever its libraries raise
        yield _row("torch", f"{_version('torch')}, cannot be imported", " ".join(str(error).split())[:200])
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else "no CUDA"
    yield _row("torch", f"{torch.__version__} ({build}), {torch.get_num_threads()} threads", wrong)
    yield from _devices(torch)


def _devices(torch: Any) -> Iterator[Row]:
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            precision = "bf16" if torch.cuda.is_bf16_supported() else "no bf16, so fp32"
            yield _row(f"device cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {precision}")
    elif torch.backends.mps.is_available():
        yield _row("device", "mps, fp32")
    else:
        note = "this torch has CUDA but finds no usable GPU: see nvidia-smi, and whether the driver is new enough"
        yield _row("device", "cpu, fp32", note if torch.version.cuda else "")


def _start_deepspeed() -> subprocess.Popen | None:
    if _version("deepspeed") is None:
        return None
    from .threads import without_gpu

    environment = without_gpu() | os.environ
    command = [sys.executable, "-c", "import deepspeed"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def _deepspeed(process: subprocess.Popen | None) -> Row:
    if process is None:
        note = "training works without; it builds against the torch that is there: pip install --no-build-isolation deepspeed"
        return _row("DeepSpeed", "not installed", note)
    version = _version("deepspeed")
    try:
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return _row("DeepSpeed", f"{version}, import not done after 60 s", "train without it")
    if process.returncode == 0:
        return _row("DeepSpeed", f"{version}, can be imported")
    reason = next((line for line in reversed(errors.splitlines()) if line.strip()), f"exit code {process.returncode}")
    return _row("DeepSpeed", f"{version}, cannot be imported", f"{reason.strip()[:200]}; training works without")


# -- the system ------------------------------------------------------------------------------------


def _compiler() -> Row:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++", "cl"):
        if name and (path := shutil.which(name)):
            return _row("C++ compiler", path)
    return _row("C++ compiler", "none", "only torch.compile and DeepSpeed's own operators need one")


def _places() -> Iterator[Row]:
    home = os.environ.get("GATO_HOME")
    yield _row("GATO_HOME", home or "not set", "" if home else "stores go to the platform's cache folder")
    try:
        from gato.data.stores import stores_folder
    except ImportError as error:
        yield _row("stores", "unknown", f"{error}")
        return
    folder = stores_folder()
    existing = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    free = shutil.disk_usage(existing).free / 2**30
    writable = os.access(existing, os.W_OK)
    note = "cannot be written; set GATO_HOME" if not writable else "little space: pictures and episodes take gigabytes" if free < 5 else ""
    yield _row("stores", f"{folder}{'' if folder.exists() else ' (not there yet)'}, {free:.1f} GiB free", note)
