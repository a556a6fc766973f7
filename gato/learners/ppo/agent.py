"""A network trained by PPO with its task: on disk, and as policies.

model.safetensors    the weights, and the measures of observations
gato.json            format, learner, model (settings), words, tasks
manifest.json        size and SHA-256 of both
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gato import digests, envs
from gato.device import pick_device
from gato.disk import read_json, shown
from gato.setting import fields_of
from gato.spec import TaskSpec
from gato.weights import SINGLE, read_entries

from ..other import OtherAgent
from .config import NAME, NetworkConfig
from .network import ActorCritic
from .observations import Words
from .policy import PPOPolicy

DESCRIPTION, FORMAT = "gato.json", 1
KEYS = {"format", "learner", "model", "words", "tasks"}
MOST_WORDS = 2**15


class PPOAgent(OtherAgent):
    """**Arguments:** `model`: of one task; it acts in every task with the same fields."""

    learner = NAME

    def __init__(self, model: ActorCritic) -> None:
        self.model = model
        self.tasks = {model.task.name: model.task}

    @classmethod
    def of(cls, task: TaskSpec, config: NetworkConfig, words: Words, weights: Mapping[str, Tensor]) -> PPOAgent:
        """An agent with a copy of these weights. **Raises:** `ValueError` naming one that is missing or of another shape."""
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn first are not kept
            model = ActorCritic(task, config, words)
        expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in weights.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise ValueError(f"'{name}' is of shape {found.get(name)}, {DESCRIPTION} asks for {expected.get(name)}")
        model.load_state_dict(dict(weights))
        return cls(model.eval())

    def task(self, name: str) -> TaskSpec:
        """Its own task, or another one with the same fields. **Raises:** `ValueError` for one that looks or acts otherwise."""
        (own,) = self.tasks.values()
        if name.rpartition(":")[2] == own.name.rpartition(":")[2]:
            return own
        task = envs.task(name)
        if differences := own.differences(task, raw=True):
            raise ValueError(f"this checkpoint was not trained on '{name}', which differs from '{own.name}': {'; '.join(differences)}")
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
            raise ValueError(f"task '{spec.name}' differs from '{own.name}', which was trained on: {'; '.join(differences)}")
        return PPOPolicy(self.model, spec, 1.0 if temperature is None else temperature, seed)

    def described(self) -> str:
        return f"a policy trained by PPO, which acts in '{next(iter(self.tasks))}'"

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files above into an existing or new folder. **Raises:** `ValueError` if something else lies there."""
        folder = Path(folder)
        if (folder / digests.NAME).is_file():
            digests.entries_of(folder)
        digests.record(folder, self.write(folder))

    def write(self, folder: Path) -> list[str]:
        """The files but the manifest. **Returns:** their names."""
        folder.mkdir(parents=True, exist_ok=True)
        model = self.model
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / SINGLE)
        content = {
            "format": FORMAT, "learner": NAME, "model": asdict(model.config),
            "words": list(model.encoder.words.known), "tasks": [model.task.to_dict()],
        }  # fmt: skip
        (folder / DESCRIPTION).write_text(json.dumps(content, indent=1), encoding="utf-8")
        return [SINGLE, DESCRIPTION]

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None, verify: bool = True) -> PPOAgent:
        """Opens what `save` wrote. **Raises:** `ValueError` naming a file that is missing, damaged or not the one that was saved."""
        folder, device = Path(folder), pick_device(device)
        path = folder / DESCRIPTION
        content = read_json(path)
        if content.get("format") != FORMAT or content.get("learner") != NAME:
            found = f"format {shown(content.get('format'))} and learner {shown(content.get('learner'))}"
            raise ValueError(f"'{path}' is of {found}, expected {FORMAT} and '{NAME}'")
        try:
            described = _described(content)
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{path}' is damaged: {error}; restore it") from None
        read_entries(folder)  # whether the weights are whole
        if verify and (folder / digests.NAME).is_file():
            digests.check(folder, [DESCRIPTION, SINGLE])
        try:
            agent = cls.of(*described, load_file(folder / SINGLE))
        except ValueError as error:
            raise ValueError(f"'{folder / SINGLE}': {error}; these are not the weights that were saved: restore the folder") from None
        agent.model.to(device)
        return agent


def _described(content: dict[str, Any]) -> tuple[TaskSpec, NetworkConfig, Words]:
    """What the model is built from. **Raises:** `ValueError` for a key that is missing, unknown or holds something else."""
    if content.keys() != KEYS:
        raise ValueError(f"its keys are {sorted(content)}, expected {sorted(KEYS)}")
    settings, tasks, words = content["model"], content["tasks"], content["words"]
    if not isinstance(settings, dict) or settings.keys() - fields_of(NetworkConfig).keys():
        raise ValueError(f"model is {shown(settings)}, expected an object with {', '.join(fields_of(NetworkConfig))}")
    if not isinstance(tasks, list) or len(tasks) != 1:
        raise ValueError(f"tasks is {shown(tasks)}, expected a list of one task")
    if not isinstance(words, list) or len(words) > MOST_WORDS or not all(isinstance(word, str) for word in words):
        raise ValueError(f"words is {shown(words)}, expected a list of at most {MOST_WORDS} words")
    return TaskSpec.from_dict(tasks[0]), NetworkConfig(**settings), Words(words)
