"""A network that learned by acting in one task: on disk, and as policies.

model.safetensors    the weights
gato.json            format, learner, tasks, and what the learner's own network is built from
manifest.json        size and SHA-256 of both
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gato import digests, envs
from gato.device import pick_device
from gato.disk import read_json, shown
from gato.given import first_of
from gato.setting import Settings, fields_of
from gato.spec import TaskSpec
from gato.weights import SINGLE, read_entries

from .other import OtherAgent
from .ppo.policy import PPOPolicy

DESCRIPTION, FORMAT = "gato.json", 1


class ActingAgent(OtherAgent):
    """**Arguments:** `model`: all that is saved; `task`: it acts in every task with the same fields.

    A learner's own class names its `learner` and the `keys` of its description, and has the methods that raise `NotImplementedError` here.
    """

    learner: ClassVar[str]
    keys: ClassVar[set[str]]

    def __init__(self, model: Any, task: TaskSpec) -> None:
        self.model, self.tasks = model, {task.name: task}

    def acting(self) -> Any:
        """The network that acts, as `PPOPolicy` takes it."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The description's own keys."""
        raise NotImplementedError

    @classmethod
    def described_as(cls, content: dict[str, Any], task: TaskSpec, weights: Mapping[str, Tensor]) -> Self:
        """The agent of a description. **Raises:** `ValueError` for a key that holds something else."""
        raise NotImplementedError

    def task(self, name: str) -> TaskSpec:
        """Its own task, or another one with the same fields. **Raises:** `ValueError` for one that looks or acts otherwise."""
        (own,) = self.tasks.values()
        if name.rpartition(":")[2] == own.name.rpartition(":")[2]:
            return own
        task = envs.task(name)
        if differences := own.differences(task, raw=True):
            raise ValueError(f"this checkpoint was not trained on '{name}', which differs from '{own.name}': {first_of(differences)}")
        return task

    def policy(
        self,
        task: str | TaskSpec | None = None,
        temperature: float | None = None,
        overflow: str = "rebuild",
        seed: int = 0,
        memory: int | None = None,
    ) -> PPOPolicy:
        """See `PPOPolicy`; by default it draws as in training. **Raises:** `ValueError` for a task with other fields, or a memory."""
        if overflow != "rebuild" or memory:
            raise ValueError(f"memory is {memory} and overflow '{overflow}', but this policy has a state of its own; leave them out")
        (own,) = self.tasks.values()
        spec = self.task(task) if isinstance(task, str) else own if task is None else task
        if differences := own.differences(spec, raw=True):
            raise ValueError(f"task '{spec.name}' differs from '{own.name}', which was trained on: {first_of(differences)}")
        return PPOPolicy(self.acting(), spec, 1.0 if temperature is None else temperature, seed)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files above into an existing or new folder. **Raises:** `ValueError` if something else lies there."""
        folder = Path(folder)
        if (folder / digests.NAME).is_file():
            digests.entries_of(folder)
        digests.record(folder, self.write(folder))

    def write(self, folder: Path) -> list[str]:
        """The files but the manifest. **Returns:** their names."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, folder / SINGLE)
        (task,) = self.tasks.values()
        content = {"format": FORMAT, "learner": self.learner, **self.settings(), "tasks": [task.to_dict()]}
        (folder / DESCRIPTION).write_text(json.dumps(content, indent=1), encoding="utf-8")
        return [SINGLE, DESCRIPTION]

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None, verify: bool = True) -> Self:
        """Opens what `save` wrote. **Raises:** `ValueError` naming a file that is missing, damaged or not the one that was saved."""
        folder, device = Path(folder), pick_device(device)
        path = folder / DESCRIPTION
        content = read_json(path)
        if content.get("format") != FORMAT or content.get("learner") != cls.learner:
            found = f"format {shown(content.get('format'))} and learner {shown(content.get('learner'))}"
            raise ValueError(f"'{path}' is of {found}, expected {FORMAT} and '{cls.learner}'")
        read_entries(folder)  # whether the weights are whole
        if verify and (folder / digests.NAME).is_file():
            digests.check(folder, [DESCRIPTION, SINGLE])
        try:
            agent = cls.described_as(content, cls._only_task(content), load_file(folder / SINGLE))
        except WrongWeights as error:
            remedy = "these are not the weights that were saved, or an older version saved them: restore the folder, or train anew"
            raise ValueError(f"'{folder / SINGLE}': {error}; {remedy}") from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{path}' is damaged: {error}; restore it") from None
        agent.model.to(device)
        return agent

    @classmethod
    def _only_task(cls, content: dict[str, Any]) -> TaskSpec:
        keys, tasks = {"format", "learner", "tasks"} | cls.keys, content.get("tasks")
        if content.keys() != keys:
            raise ValueError(f"its keys are {sorted(content)}, expected {sorted(keys)}")
        if not isinstance(tasks, list) or len(tasks) != 1:
            raise ValueError(f"tasks is {shown(tasks)}, expected a list of one task")
        return TaskSpec.from_dict(tasks[0])


class WrongWeights(ValueError):
    """Weights of another network."""


def filled(build: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> Any:
    """A network with a copy of these weights. **Raises:** `WrongWeights` naming one that is missing or of another shape."""
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn first are not kept
        model = build()
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise WrongWeights(f"'{name}' is of shape {found.get(name)}, {DESCRIPTION} asks for {expected.get(name)}")
    model.load_state_dict(dict(weights))
    return model.eval()


def settings_of(config: type[Settings], values: Any, key: str = "model") -> Any:
    """Settings out of a description. **Raises:** `ValueError` for what is none of them."""
    if not isinstance(values, dict) or values.keys() - fields_of(config).keys():
        raise ValueError(f"{key} is {shown(values)}, expected an object with {', '.join(fields_of(config))}")
    return config(**values)
