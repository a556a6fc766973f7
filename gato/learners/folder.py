"""A retrieval or cloning policy on disk: what `gato finetune` leaves behind beside its fine-tuned models, and `gato.load` opens.

baseline.json        kind, task spec, the demonstrations' texts, SHA-256 of the other file
model.safetensors    retrieval: the demonstrations' states and actions; cloning: the network
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes

from gato.agent import Agent
from gato.spec import Modality, TaskSpec

from .clone import Baseline, ClonePolicy, Features, NearestPolicy, _Network

NAME, WEIGHTS, FORMAT = "baseline.json", "model.safetensors", 1
KINDS = {"retrieve": NearestPolicy, "clone": ClonePolicy}


class BaselineAgent:
    """What `gato.load` gives for such a folder: it acts in its one task, in the same words as an `Agent`, and does nothing else."""

    def __init__(self, policy: Baseline, kind: str) -> None:
        self.acting, self.kind = policy, kind
        self.tasks: dict[str, TaskSpec] = {policy.task.name: policy.task}
        self.memories: dict[str, int] = {}

    task = Agent.task

    def policy(self, task: str | TaskSpec, *unused: Any, **settings: Any) -> Baseline:
        """Its policy, which plays the likeliest action at any temperature, without prompt and memory."""
        if isinstance(task, str):
            self.task(task)
        return self.acting

    def save(self, folder: str | Path) -> None:
        save_baseline(self.acting, Path(folder))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        task = next(iter(self.tasks))
        raise ValueError(f"this folder holds a {self.kind} policy, which acts in '{task}' and has no '{name}'; name the folder of a model")


def save_baseline(policy: Baseline, folder: Path) -> None:
    """Writes a policy as safetensors and JSON."""
    kind = next(name for name, of_kind in KINDS.items() if isinstance(policy, of_kind))
    features = policy.features
    tensors = {"features/mean": torch.from_numpy(features.mean), "features/scale": torch.from_numpy(features.scale)}
    words: dict[str, list[str]] = {}
    if isinstance(policy, NearestPolicy):
        tensors["states"] = torch.from_numpy(policy.states)
        for spec in policy.task.actions:
            values = policy.actions[spec.name]
            if spec.modality is Modality.TEXT:
                words[spec.name] = [str(value) for value in values]
            else:
                tensors[f"actions/{spec.name}"] = torch.from_numpy(np.ascontiguousarray(values))
    elif isinstance(policy, ClonePolicy):
        tensors |= {f"network/{name}": value.contiguous() for name, value in policy.network.state_dict().items()}
    weights = tensors_to_bytes(tensors)
    content = {
        "format": FORMAT, "kind": kind, "task": policy.task.to_dict(), "texts": {n: list(t) for n, t in features.texts.items()},
        "actions": words, "sha256": hashlib.sha256(weights).hexdigest(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / NAME).write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_baseline(folder: Path) -> BaselineAgent:
    """**Raises:** `ValueError` naming the file that is damaged, missing or of another folder."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        kind, format_ = content["kind"], content["format"]
        if format_ != FORMAT or kind not in KINDS:
            raise ValueError(f"format {format_!r} and kind {kind!r}, expected {FORMAT} and one of {', '.join(KINDS)}")
        task = TaskSpec.from_dict(content["task"])
        texts = {str(name): [str(t) for t in known] for name, known in content["texts"].items()}
        words = {str(name): np.array([str(t) for t in said], object) for name, said in content["actions"].items()}
        digest = str(content["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{folder / NAME}' is no saved policy ({type(error).__name__}: {error}); fine-tune it again") from None
    weights = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ValueError(f"'{folder / WEIGHTS}' is not what was saved: its SHA-256 is another one; fine-tune it again")
    try:
        return BaselineAgent(_policy(task, kind, texts, words, load_tensors(weights)), kind)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"'{folder}' does not fit together ({' '.join(str(error).split())}); fine-tune it again") from None


def _policy(task: TaskSpec, kind: str, texts: dict[str, list[str]], words: dict[str, np.ndarray], tensors: dict[str, Any]) -> Baseline:
    mean, scale = tensors["features/mean"].numpy(), tensors["features/scale"].numpy()
    features = Features(task, kind == "retrieve", texts, mean, scale)
    if kind == "clone":
        network = _Network(task, len(mean))
        network.load_state_dict({n.removeprefix("network/"): t for n, t in tensors.items() if n.startswith("network/")})
        return ClonePolicy(task, features, network)
    actions = {f.name: words[f.name] if f.modality is Modality.TEXT else tensors[f"actions/{f.name}"].numpy() for f in task.actions}
    return NearestPolicy(task, features, tensors["states"].numpy(), actions)
