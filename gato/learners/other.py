"""Agents of other learners than Gato, as far as they are alike: what they have not, and their folder.

model.safetensors    the weights
gato.json            format, learner, tasks, and what the learner's own network is built from
manifest.json        size and SHA-256 of the files
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gato import digests
from gato.device import pick_device
from gato.disk import read_json, shown
from gato.setting import Settings, fields_of
from gato.spec import TaskSpec
from gato.weights import SINGLE, read_entries

DESCRIPTION, FORMAT = "gato.json", 1


class NotOfGato(AttributeError, ValueError):
    """Something that a Gato's agent has and this one has not: Python asks for the first kind (`hasattr`), a refusal is the second."""


class OtherAgent:
    """Has its own policies, and none of what a Gato's agent has beside them, such as words."""

    def described(self) -> str:
        """What it is and where it acts, for refusals: `a clone policy, which acts in 'gymnasium/cartpole'`."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> NoReturn:
        """**Raises:** `NotOfGato` for what Gato's agent has and this one has not."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise NotOfGato(f"this folder holds {self.described()} and has no '{name}'; name the folder of a Gato")


class NetworkAgent(OtherAgent):
    """A trained network and the task it was trained in, as a folder.

    A learner's own class says which `learners` it is for, which `keys` and `files` they add, and has the methods that raise
    `NotImplementedError` here.
    """

    learners: ClassVar[tuple[str, ...]]
    keys: ClassVar[set[str]]
    files: ClassVar[tuple[str, ...]] = (SINGLE, DESCRIPTION)
    later: ClassVar[dict[str, Any]] = {}  # keys that older descriptions lack, and what they meant

    def __init__(self, model: Any, task: TaskSpec, learner: str | None = None) -> None:
        self.model, self.tasks, self.learner = model, {task.name: task}, learner or self.learners[0]

    @property
    def own_task(self) -> TaskSpec:
        """The one that it was trained in."""
        (task,) = self.tasks.values()
        return task

    def settings(self) -> dict[str, Any]:
        """The description's own keys."""
        raise NotImplementedError

    @classmethod
    def described_as(cls, content: dict[str, Any], task: TaskSpec, weights: Mapping[str, Tensor]) -> Self:
        """The agent of a description. **Raises:** `ValueError` for a key that holds something else."""
        raise NotImplementedError

    def save(self, folder: str | os.PathLike) -> None:
        """Writes its files into an existing or new folder. **Raises:** `ValueError` if something else lies there."""
        folder = Path(folder)
        if (folder / digests.NAME).is_file():
            digests.entries_of(folder)  # a store's, for example, would be overwritten
        self.write(folder)
        digests.record(folder, self.files)

    def write(self, folder: Path) -> None:
        """The files but the manifest."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, folder / SINGLE)
        content = {"format": FORMAT, "learner": self.learner, **self.settings(), "tasks": [self.own_task.to_dict()]}
        (folder / DESCRIPTION).write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None, verify: bool = True) -> Self:
        """Opens what `save` wrote. **Raises:** `ValueError` naming a file that is missing, damaged or not the one that was saved."""
        folder, device = Path(folder), pick_device(device)
        path = folder / DESCRIPTION
        content = {**cls.later, **read_json(path)}
        if content.get("format") != FORMAT or content.get("learner") not in cls.learners:
            found = f"format {shown(content.get('format'))} and learner {shown(content.get('learner'))}"
            raise ValueError(f"'{path}' is of {found}, expected {FORMAT} and '{' or '.join(cls.learners)}'")
        read_entries(folder)  # whether the weights are whole
        if verify and (folder / digests.NAME).is_file():
            digests.check(folder, cls.files)
        try:
            agent = cls.described_as(content, cls._only_task(content), load_file(folder / SINGLE))
        except WrongWeights as error:
            remedy = "these are not the weights that were saved, or an older version saved them: restore the folder, or train anew"
            raise ValueError(f"'{folder / SINGLE}' {error}; {remedy}") from None
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
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise WrongWeights(f"holds '{name}' of shape {found.get(name)}, {DESCRIPTION} asks for {expected.get(name)}")
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn first are not kept
        model = build()
    model.load_state_dict(dict(weights))
    return model.eval()


def settings_of(config: type[Settings], values: Any) -> Any:
    """Settings out of a description's `model`. **Raises:** `ValueError` for what is none of them."""
    if not isinstance(values, dict) or values.keys() - fields_of(config).keys():
        raise ValueError(f"model is {shown(values)}, expected an object with {', '.join(fields_of(config))}")
    return config(**values)
