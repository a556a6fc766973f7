"""A policy that is no transformer on disk, as `gato finetune` leaves it and `gato.load` opens it.

baseline.json        kind, task spec, known texts and action values, settings, the weights' SHA-256, the length of chunks above 1
model.safetensors    features' means and scales; demonstrations' states and actions, or a network
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from gato import given
from gato.description import BASELINE
from gato.disk import read_json, shown
from gato.episode import Episode
from gato.setting import check_value
from gato.spec import Modality, TaskSpec

from .actions import ActionVectors
from .chunks import LENGTH, ChunkPolicy, chunked, chunked_episode, unchunked
from .clone import ClonePolicy, KeypointPolicy
from .darp import DifferencePolicy
from .features import Features
from .nearest import LinePolicy, NearestPolicy, NeighboursPolicy
from .other import OtherAgent
from .reactive import Parts, Reactive

NAME, WEIGHTS, FORMAT = BASELINE, "model.safetensors", 2
PLAYING = {"every", "decay", "ahead"}  # how chunks are played
KINDS: dict[str, type[Reactive]] = {
    kind.kind: kind for kind in (NearestPolicy, NeighboursPolicy, LinePolicy, ClonePolicy, KeypointPolicy, DifferencePolicy)
}


class BaselineAgent(OtherAgent):
    """What `gato.load` gives for such a folder; it acts in its one task, as an `Agent` does.

    **Arguments:** `policy`; `chunk`: so many timesteps' actions are its one action, see `gato.learners.chunks`.
    """

    def __init__(self, policy: Reactive, chunk: int = 1) -> None:
        self.acting, self.kind, self.chunk = policy, policy.kind, chunk
        task = unchunked(policy.task, chunk) if chunk > 1 else policy.task
        self.tasks: dict[str, TaskSpec] = {task.name: task}

    def task(self, name: str) -> TaskSpec:
        """By its name, or as `MODULE:ID`. **Raises:** `ValueError` for any but its one task."""
        name = name if name in self.tasks else name.rpartition(":")[2]
        if name not in self.tasks:
            own = self.acting.task.name
            raise ValueError(f"this {self.kind} policy was not trained on '{name}'; it acts in '{own}'")
        return self.tasks[name]

    def policy(
        self, task: str | TaskSpec, temperature: float | None = None, overflow: str = "rebuild", seed: int = 0,
        prompt: Episode | None = None, static: bool | None = None, memory: int | None = None, target_return: float | None = None,
        **chunks: Any,
    ) -> Any:  # fmt: skip
        """Its policy, which plays the likeliest action for what it sees, whatever temperature, overflow, seed, static and memory.

        **Arguments:** `chunks`: of a policy of chunks `every`, `decay` and `ahead`, see `ChunkPolicy`.

        **Raises:** `ValueError` for a task with other fields than its own, for `prompt` and `target_return`, and for an unknown name.
        """
        (own,) = self.tasks.values()
        spec = self.task(task) if isinstance(task, str) else task
        if not isinstance(spec, TaskSpec):
            raise ValueError(f"a task is {given.kind(task)}, expected the name of one or a TaskSpec")
        if differences := own.differences(spec, raw=True):
            raise ValueError(f"task '{spec.name}' differs from '{own.name}', which was trained on: {given.first_of(differences)}")
        wrong = [name for name, value in (("prompt", prompt), ("target_return", target_return)) if value is not None]
        if wrong := wrong + sorted(chunks.keys() - (PLAYING if self.chunk > 1 else set())):
            acts = f"chunks of {self.chunk} actions" if self.chunk > 1 else "single actions"
            raise ValueError(f"a {self.kind} policy of {acts} has no use for {', '.join(wrong)}; leave that out")
        return ChunkPolicy(self.acting, self.chunk, **chunks) if self.chunk > 1 else self.acting

    @property
    def model(self) -> nn.Module:
        """What has parameters; nothing has where nothing is trained."""
        return self.acting.trained()

    def save(self, folder: str | Path) -> None:
        self.write(Path(folder))

    def write(self, folder: Path) -> None:
        """Its two files."""
        save_baseline(self.acting, folder, self.chunk)

    def described(self) -> str:
        return f"a {self.kind} policy, which acts in '{next(iter(self.tasks))}'"


def learned(
    kind: str, task: TaskSpec, episodes: Sequence[Episode], held_out: Sequence[Episode] = (), seed: int = 0, chunk: int = 1
) -> BaselineAgent:
    """What acts by demonstrations, one of `KINDS`; see `Lessons`. **Arguments:** `chunk`: so many timesteps' actions are learned as one."""
    if chunk > 1:
        episodes, held_out = ([chunked_episode(e, chunk) for e in some] for some in (episodes, held_out))
        task = chunked(task, chunk)
    return BaselineAgent(KINDS[kind].of(task, episodes, held_out, seed), chunk)


def save_baseline(policy: Reactive, folder: Path, chunk: int = 1) -> None:
    """Writes a policy as safetensors and JSON."""
    features = policy.features
    statistics = {"mean": torch.from_numpy(features.mean), "scale": torch.from_numpy(features.scale)}
    tensors = {f"features.{name}": value for name, value in statistics.items()} | policy.tensors()
    weights = tensors_to_bytes(tensors)
    content = {
        "format": FORMAT, "kind": policy.kind, "task": policy.task.to_dict(),
        "texts": {name: list(texts) for name, texts in features.texts.items()},
        "values": policy.vectors.known, "settings": policy.settings(),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }  # fmt: skip
    if chunk > 1:
        content["chunk"] = chunk
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / NAME).write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_baseline(folder: str | Path, *unused: Any) -> BaselineAgent:
    """Opens a folder. What it holds runs on the CPU, and its weights are always verified.

    **Raises:** `ValueError` naming the file that is damaged, missing or of another folder.
    """
    folder = Path(folder)
    content = read_json(folder / NAME)
    try:
        kind, written = content["kind"], content["format"]
        if written not in (1, FORMAT) or kind not in KINDS:
            known = ", ".join(KINDS)
            raise ValueError(f"format {written!r} and kind {kind!r}, expected 1 or {FORMAT} and one of {known}")
        task = TaskSpec.from_dict(content["task"])
        texts = {str(name): [str(t) for t in known] for name, known in content["texts"].items()}
        digest = str(content["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ValueError(f"'{folder / NAME}' is no saved policy ({found}); fine-tune it again") from None
    weights = _weights(folder, digest)
    try:
        tensors = load_tensors(weights)
        if written == 1:
            tensors, content = _renewed(task, kind, tensors, content)
        statistics = (tensors[f"features.{name}"].numpy() for name in ("mean", "scale"))
        features = Features(task, KINDS[kind].pictures_are_features, texts, *statistics)
        vectors = ActionVectors(task, _checked_values(task, content["values"]))
        policy = KINDS[kind].restored(Parts(features, vectors, tensors, content["settings"]))
        check_value("chunk", content.get("chunk", 1), int, LENGTH)
        return BaselineAgent(policy, content.get("chunk", 1))
    except (SafetensorError, KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        found = " ".join(str(error).split())
        raise ValueError(f"'{folder}' does not fit together ({found}); fine-tune it again") from None


def check_finite(policy: Reactive) -> None:
    """**Raises:** `ValueError` for NaN and infinity, which a silent column's scale may be."""
    known = {"features.mean": torch.from_numpy(policy.features.mean), **policy.tensors()}
    if counts := {name: n for name, t in known.items() if (n := int((~torch.isfinite(t)).sum()))}:
        parts = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise ValueError(f"numbers are NaN or infinite: {parts}; fine-tune it again")


def check_acting(policy: Reactive) -> None:
    """**Raises:** `ValueError` if it cannot act on an observation of zeros and empty texts."""
    seen = {
        f.name: np.array([""], object) if f.modality is Modality.TEXT else np.zeros((1, *f.shape), f.dtype)
        for f in policy.task.observations
    }
    try:
        policy.act(seen)
    except (ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"it cannot act ({' '.join(str(error).split())}); fine-tune it again") from None


def _checked_values(task: TaskSpec, values: Mapping[str, Any]) -> Mapping[str, list]:
    """**Raises:** `ValueError` for what are no values of the task's discrete and text actions."""
    chosen = [f for f in task.actions if f.modality is not Modality.CONTINUOUS]
    if set(values) != {f.name for f in chosen}:
        names = sorted(f.name for f in chosen)
        raise ValueError(f"values of the actions {sorted(values)}, expected of {names}")
    for spec in chosen:
        is_text = spec.modality is Modality.TEXT
        most = 0 if is_text else int((spec.bounds[1] - spec.bounds[0]).max())
        known: Any = values[spec.name]
        if not known or not all(type(v) is str if is_text else type(v) is int and 0 <= v <= most for v in known):
            raise ValueError(f"action '{spec.name}' has values that are not its own: {shown(known)}")
    return values


def _weights(folder: Path, digest: str) -> bytes:
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"'{folder / WEIGHTS}' is missing, which '{NAME}' speaks of; fine-tune it again")
    weights = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != digest:
        found = f"'{folder / WEIGHTS}' is not what was saved: its SHA-256 is another one"
        raise ValueError(f"{found}; fine-tune it again")
    return weights


def _renewed(
    task: TaskSpec, kind: str, tensors: Mapping[str, Tensor], content: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Format 1 as format 2: each action field had a head, and all values were classes."""
    found, settings = {name.replace("/", ".", 1): value for name, value in tensors.items()}, {}
    if kind == "clone":
        settings = {"activation": "relu", "with_line": False}
        for part in ("weight", "bias"):
            heads = [found.pop(f"network.heads.{i}.{part}") for i in range(len(task.actions))]
            found[f"network.trunk.head.{part}"] = torch.cat(heads)
        found = {name.replace("network.body.", "network.trunk.body."): t for name, t in found.items()}
        values: dict[str, list] = ActionVectors.all_of(task).known
    else:
        settings = {"actions": content["actions"]}
        values = {name: sorted(set(map(str, said))) for name, said in content["actions"].items()}
        for spec in task.actions:
            if spec.modality is Modality.DISCRETE:
                offsets = found[f"actions.{spec.name}"].numpy() - spec.bounds[0]
                values[spec.name] = sorted(set(offsets.astype(np.int64).reshape(-1).tolist()))
    return found, {**content, "values": values, "settings": settings}
