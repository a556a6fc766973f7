"""Episodes of an evaluation as stores, one per task: what an agent did becomes data like any other."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gato import envs
from gato.data.store import Store, StoreWriter
from gato.spec import TaskSpec

if TYPE_CHECKING:
    from gato.episode import Episode

    from .settings import EvalConfig


class Recorder:
    """Keeps the episodes of a task in a store; those that an interrupted evaluation has left there already are not kept twice."""

    def __init__(self, folder: Path, task: TaskSpec, settings: dict[str, Any]) -> None:
        if PurePath(task.name).is_absolute() or ".." in PurePath(task.name).parts:
            raise ValueError(f"task '{task.name}' cannot be recorded: its name leads out of {folder}")
        tasks = envs.members(task) or [task]
        self.writer = StoreWriter(folder / task.name, tasks, {"source": "gato.eval", "settings": settings, "licence": task.licence})
        store = Store(folder / task.name)
        self.seeds = {store.episode(i, 0, 1).seed for i in range(store.num_episodes)}
        self.num_failed = 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.provenance["failed_episodes"] = self.num_failed
        self.writer.close()

    def __call__(self, episode: Episode) -> None:
        if episode.seed not in self.seeds:
            self.writer.append(episode)


def recording_settings(checkpoint: Path, config: EvalConfig, overflows: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What must agree between the parts of a recording, by the name of the task.

    **Arguments:** `overflows`: of every task that will be played, what becomes of a full context.

    **Raises:** `ValueError` if the folder holds anything else.
    """
    assert config.record is not None
    names = ("episodes", "num_envs", "seed", "temperature", "overflow", "memory", "demonstrations", "episode_steps")
    settings: dict[str, Any] = {name: getattr(config, name) for name in names}
    if config.target_return:
        settings["target_return"] = config.target_return
    settings["weights_sha256"] = weights_sha256(checkpoint)
    manifests = sorted(config.record.rglob("manifest.json"))
    if not manifests and config.record.exists() and (not config.record.is_dir() or any(config.record.iterdir())):
        raise ValueError(f"{config.record} exists and holds no recording; choose another folder")
    for manifest in manifests:
        found, name = Store(manifest.parent).manifest.provenance.get("settings"), manifest.parent.relative_to(config.record).as_posix()
        wanted = settings | {"overflow": overflows.get(name, (found or {}).get("overflow"))}  # of a task that is not played now its own
        if found != wanted:
            raise ValueError(f"{manifest.parent} was recorded with {found}, not with {wanted}; choose another folder")
    return {name: settings | {"overflow": overflow} for name, overflow in overflows.items()}


def weights_sha256(checkpoint: Path) -> list[str]:
    """Of the checkpoint's weight files, in the order of their names."""
    hashes = []
    for path in sorted(checkpoint.glob("model*.safetensors")):
        with path.open("rb") as weights:
            hashes.append(file_digest(weights, "sha256").hexdigest())
    return hashes
