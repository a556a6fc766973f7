"""A checkpoint as LeRobot's programs take one: `gato export --to lerobot`, and what `plugins/lerobot_policy_gato` acts with there.

    config.json                                         LeRobot's, of type gato
    policy_preprocessor.json, policy_postprocessor.json LeRobot's pipelines, which scale nothing: our tokenizers do
    gato/                                               the checkpoint, without its training state
    README.md

Names of features are those of our LeRobot datasets (docs/formats/lerobot.md). The package lerobot is not needed to write any of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.agent import load
from gato.data.formats.foreign import new_folder
from gato.data.formats.lerobot.reader import features_of
from gato.picture import fit_image
from gato.spec import FieldSpec, Modality, TaskSpec

from .card import model_card

FOLDER = "gato"
KINDS = {"observation.environment_state": "ENV"}
BEFORE = [
    {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
    {"registry_name": "to_batch_processor", "config": {}},
    {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
]
AFTER = [{"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}]
USE = """
## Under LeRobot

```sh
pip install lerobot lerobot_policy_gato
lerobot-eval --policy.path=FOLDER --env.type=...
```

It acts in the task `{task}`. Its inputs are {inputs}; its output is `action`, {size} numbers. It does not train there.
"""


def export(checkpoint: Path, out: Path, task: str | None = None) -> dict[str, Any]:
    """Writes the folder that `lerobot-eval --policy.path=OUT` and `lerobot-rollout` take; complete or absent.

    **Returns:** `out`, `task`, and the features as LeRobot has them.

    **Raises:** `ValueError` if `out` exists, for a task that the checkpoint does not act in, or none where it acts in several, for one that
    LeRobot cannot hold, and for a policy that is played for a return.
    """
    agent = load(checkpoint, "cpu")
    spec = _task(agent, checkpoint, task)
    actor = LeRobotActor(agent.policy(spec))
    inputs, outputs = actor.input_features(), actor.output_features()
    config = {
        "type": "gato", "n_obs_steps": 1, "input_features": inputs, "output_features": outputs,
        "device": None, "push_to_hub": False, "task": spec.name,
    }  # fmt: skip
    with new_folder(out) as folder:
        agent.save(folder / FOLDER)
        _write(folder / "config.json", config)
        for name, steps in (("preprocessor", BEFORE), ("postprocessor", AFTER)):
            _write(folder / f"policy_{name}.json", {"name": f"policy_{name}", "steps": steps})
        names = ", ".join(f"`{name}`" for name in [*inputs, *(["task"] if actor.sentence else [])])
        use = USE.format(task=spec.name, inputs=names, size=outputs["action"]["shape"][0])
        (folder / "README.md").write_text(model_card(checkpoint) + use, encoding="utf-8")
    return {"out": str(out), "task": spec.name, "input_features": inputs, "output_features": outputs}


def _task(agent: Any, checkpoint: Path, name: str | None) -> TaskSpec:
    known = [task.name for task in agent.tasks.values() if task.is_control]
    if name is None and len(known) != 1:
        raise ValueError(f"'{checkpoint}' acts in {', '.join(known) or 'no task'}; a LeRobot policy acts in one: name it with --task")
    return agent.task(known[0] if name is None else name)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")


class LeRobotActor:
    """A policy that takes LeRobot's batches.

    **Arguments:** `policy`: see `gato.policy.Policy`. **Raises:** `ValueError` where LeRobot's loop cannot play it.
    """

    def __init__(self, policy: Any) -> None:
        if hasattr(policy, "target_return"):
            raise ValueError(
                f"the policy of '{policy.task.name}' is played for a return, and LeRobot's loop tells no reward; serve it instead"
            )
        self.policy, self.task = policy, policy.task
        found, self.sentence = features_of(self.task)
        self.observations = {name: spec for name, spec in found.items() if spec.role == "observation"}
        self._streams = self._begun = 0

    @classmethod
    def load(cls, folder: str | Path, task: str, device: str | None = None) -> LeRobotActor:
        """Of a folder that `export` wrote."""
        agent = load(Path(folder) / FOLDER, device)
        return cls(agent.policy(agent.task(task)))

    def input_features(self) -> dict[str, dict[str, Any]]:
        """`{name: {"type", "shape"}}`; pictures with their channels first."""
        return {name: _feature(name, spec) for name, spec in self.observations.items()}

    def output_features(self) -> dict[str, dict[str, Any]]:
        """One `action`: all of the task's, flat, one after the other."""
        return {"action": {"type": "ACTION", "shape": [sum(spec.size for spec in self.task.actions)]}}

    def reset(self) -> None:
        """The next batch begins episodes; their chance is that of the next episodes of `gato eval`."""
        self._streams = 0

    def select(self, batch: Mapping[str, Any]) -> np.ndarray:
        """**Arguments:** `batch`: arrays or tensors (B, ...) by LeRobot's names; `task`: B sentences, where the policy reads one.

        **Returns:** (B, A) actions; whole numbers where all of them are discrete.

        **Raises:** `ValueError` naming a feature that is missing or of another size.
        """
        observation = {spec.name: _values(name, spec, batch) for name, spec in self.observations.items()}
        if self.sentence is not None:
            observation[self.sentence.name] = np.array(_sentences(batch), object)
        count = len(next(iter(observation.values())))
        first = np.full(count, count != self._streams)
        if first.any():
            self.policy.reset(count)
            if hasattr(self.policy, "begin"):  # a learner of somebody's own may number its episodes itself
                for stream in range(count):
                    self.policy.begin(stream, self._begun + stream)
                first[:] = False
            self._streams, self._begun = count, self._begun + count
        actions = self.policy.act(observation, np.zeros(count, np.float32), first, np.arange(count))
        parts = [np.asarray(actions[spec.name]).reshape(count, -1) for spec in self.task.actions]
        found = np.concatenate(parts, axis=1)
        return found.astype(np.int64 if found.dtype.kind in "biu" else np.float32)


def _feature(name: str, spec: FieldSpec) -> dict[str, Any]:
    if spec.modality is Modality.IMAGE:
        rows, columns, channels = spec.shape
        return {"type": "VISUAL", "shape": [channels, rows, columns]}
    return {"type": KINDS.get(name, "STATE"), "shape": list(spec.shape) or [1]}


def _values(name: str, spec: FieldSpec, batch: Mapping[str, Any]) -> np.ndarray:
    """(B, *shape) of a field, in its own type."""
    if name not in batch:
        known = ", ".join(sorted(key for key in batch if key.startswith("observation"))) or "no observation"
        raise ValueError(f"the policy sees '{name}', and the batch has {known}; rename it by LeRobot's rename_map")
    values = np.asarray(batch[name].cpu() if hasattr(batch[name], "cpu") else batch[name])
    if spec.modality is Modality.IMAGE:
        return _pictures(name, spec, values)
    if values.size != len(values) * spec.size:
        raise ValueError(f"'{name}' has the shape {values.shape}, expected {spec.shape} for each row")
    values = values.reshape(len(values), *spec.shape)
    return (np.rint(values) if np.dtype(spec.dtype).kind in "biu" else values).astype(spec.dtype)


def _pictures(name: str, spec: FieldSpec, values: np.ndarray) -> np.ndarray:
    """(B, 3, rows, columns) of 0 to 1, or bytes, as (B, rows, columns, 3) of bytes, scaled to the field's size."""
    if values.ndim != 4 or values.shape[1] != 3:
        raise ValueError(f"'{name}' has the shape {values.shape}, expected (B, 3, rows, columns)")
    if values.dtype.kind == "f":
        values = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return np.stack([fit_image(picture, (spec.shape[0], spec.shape[1])) for picture in values.transpose(0, 2, 3, 1)])


def _sentences(batch: Mapping[str, Any]) -> list[str]:
    found = batch.get("task")
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"the policy reads an instruction, and the batch has task {found!r:.80}; expected a text for each row")
    return found
