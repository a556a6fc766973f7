"""A learner of one-shot imitation on disk, and acting on a demonstration: nothing is trained.

Beside the files of a `NetworkAgent` its folder has memories.safetensors: what is kept of every known task, `TASK:NAME`, so that
adding a task changes no other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gato import envs
from gato.disk import shown
from gato.episode import Episode, StreamPolicy, Values
from gato.spec import TaskSpec

from ..actions import ActionVectors
from ..features import Features
from ..other import NetworkAgent, filled, settings_of
from .config import MIL, TECNETS, MilConfig, TecNetsConfig
from .demonstrated import DemonstrationInputs, Seen
from .mil import Mil
from .tecnets import TecNet

MEMORIES = "memories.safetensors"
MAX_NUMBERS = 4096  # that an environment says of a task


class Kind(NamedTuple):
    """The network of a learner, and its settings."""

    model: type[Any]
    config: type[Any]


KINDS = {TECNETS: Kind(TecNet, TecNetsConfig), MIL: Kind(Mil, MilConfig)}
Memory = dict[str, Tensor]


class OneShotAgent(NetworkAgent):
    """Acts in any task of one robot, shown demonstrations of it.

    **Arguments:** `learner`: of `KINDS`; `inputs`: how what is seen becomes tensors; `num_numbers`: that the environment says of a task;
    `memories`: what is kept of the tasks that are known by name.
    """

    learners, keys, files = tuple(KINDS), {"model", "numbers", "texts"}, (*NetworkAgent.files, MEMORIES)

    def __init__(
        self, learner: str, model: nn.Module, inputs: DemonstrationInputs, num_numbers: int = 0, memories: Mapping[str, Memory] = {}
    ) -> None:
        super().__init__(model.eval(), inputs.task, learner)  # of a kind that `KINDS` names
        self.inputs, self.num_numbers = inputs, num_numbers
        self.memories: dict[str, Memory] = dict(memories)

    @classmethod
    def of(cls, learner: str, inputs: DemonstrationInputs, config: Any, num_numbers: int, weights: Mapping[str, Tensor]) -> OneShotAgent:
        """An agent with a copy of these weights. **Raises:** `ValueError` naming one that is missing or of another shape."""
        network = KINDS[learner].model
        model = filled(lambda: network(inputs.task, inputs.features, inputs.vectors.size, config, num_numbers), weights)
        return cls(learner, model, inputs, num_numbers)

    def task(self, name: str) -> TaskSpec:
        """Any task of the same robot: the set that was trained on, a member of it, or another one the registry knows.

        **Raises:** `ValueError` for a task that is unknown, or of another robot.
        """
        if name in self.tasks:
            return self.tasks[name]
        task = envs.task(name)
        self._check(task)
        return task

    def _check(self, task: TaskSpec) -> None:
        if lines := self.inputs.task.differences(task, raw=True):
            raise ValueError(f"this checkpoint acts in tasks like '{self.inputs.task.name}', and '{task.name}' is another: {lines[0]}")

    def remember(self, name: str, demonstrations: Sequence[Episode]) -> Memory:
        """Adds a task under a name, or replaces it; all others stay as they are, bit for bit. **Returns:** what is kept of it."""
        if not demonstrations:
            raise ValueError(f"there is no demonstration of '{name}'; give at least one")
        self.memories[name] = {key: value.cpu() for key, value in self.model.remember(self.inputs, demonstrations).items()}
        return self.memories[name]

    def policy(
        self, task: str | TaskSpec, temperature: float | None = None, overflow: str = "rebuild", seed: int = 0, memory: int | None = None,
        demonstrations: Sequence[Episode] = (),
    ) -> OneShotPolicy:  # fmt: skip
        """Acts as the demonstrations show, or else as those did by which the task is known; the likeliest action, whatever temperature.

        **Raises:** `ValueError` for a task or a demonstration of another robot.
        """
        spec = self.task(task) if isinstance(task, str) else task
        self._check(spec)
        policy = OneShotPolicy(self, spec)
        if demonstrations:
            policy.reset(1, demonstrations)
        return policy

    def described(self) -> str:
        return f"{self.learner}, which acts on demonstrations"

    # -- disk ------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        super().write(folder)
        kept = {f"{task}:{key}": value.contiguous() for task, memory in self.memories.items() for key, value in memory.items()}
        save_file(kept, folder / MEMORIES)

    def settings(self) -> dict[str, Any]:
        texts = {name: list(known) for name, known in self.inputs.features.texts.items()}
        return {"model": asdict(self.model.config), "numbers": self.num_numbers, "texts": texts}

    @classmethod
    def described_as(cls, content: dict[str, Any], task: TaskSpec, weights: Mapping[str, Tensor]) -> OneShotAgent:
        numbers, given = content["numbers"], content["texts"]
        if type(numbers) is not int or not 0 <= numbers <= MAX_NUMBERS:
            raise ValueError(f"numbers is {shown(numbers)}, expected a whole number from 0 to {MAX_NUMBERS}")
        if not isinstance(given, dict) or not all(isinstance(known, list) for known in given.values()):
            raise ValueError(f"texts is {shown(given)}, expected an object with lists of texts")
        texts = {name: [str(text) for text in known] for name, known in given.items()}
        mean, scale = (weights.get(f"features.{name}", torch.empty(0)).numpy() for name in ("mean", "scale"))
        inputs = DemonstrationInputs(Features(task, False, texts, mean, scale), ActionVectors.all_of(task))
        return cls.of(content["learner"], inputs, settings_of(KINDS[content["learner"]].config, content["model"]), numbers, weights)

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None, verify: bool = True) -> OneShotAgent:
        agent, path = super().load(folder, device, verify), Path(folder) / MEMORIES
        try:
            for name, value in load_file(path).items():
                task, _, key = name.rpartition(":")
                agent.memories.setdefault(task, {})[key] = value
        except (SafetensorError, OSError) as error:
            raise ValueError(f"'{path}' is cut or damaged ({' '.join(str(error).split())[:300]}); restore it") from None
        return agent


class OneShotPolicy(StreamPolicy):
    """Plays the likeliest action for what it sees now, in the task that demonstrations showed."""

    memory = 1

    def __init__(self, agent: OneShotAgent, task: TaskSpec) -> None:
        self.model, self.inputs, self.task = agent.model, agent.inputs, task
        self.kept: Memory | None = agent.memories.get(task.name, None if agent.model.needs_demonstration else {})
        self.device = next(agent.model.parameters()).device
        self._begun: dict[int, Tensor] = {}  # what the first observation of a stream's episode says, where that is asked

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        """What demonstrations are given show the task from now on. **Raises:** `ValueError` for one of another robot."""
        self._begun = {}
        if demonstrations:
            self.kept = self.model.remember(self.inputs, demonstrations)

    def act_in(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> dict[str, np.ndarray]:
        """What is seen now counts, and the first observation where the model looks at it.

        **Raises:** `ValueError` where nothing was shown.
        """
        if self.kept is None:
            raise ValueError(
                f"nothing was shown of '{self.task.name}', which is not known by name; give demonstrations (--demonstrations 1)"
            )
        kept = {key: value.to(self.device) for key, value in self.kept.items()}
        with torch.inference_mode():
            seen = self.inputs.seen(observation).each(lambda tensor: tensor.to(self.device))
            if self.model.sees_first:
                kept = self._told_first(seen, first, streams)
            return self.inputs.vectors.decode(self.model.outputs(seen, kept).float().cpu().numpy())

    def has_begun(self, stream: int) -> bool:
        return stream in self._begun

    def _told_first(self, seen: Seen, first: np.ndarray, streams: np.ndarray) -> Memory:
        """What the first observation says of every stream's episode: of this one, where it begins."""
        begins = [row for row, s in enumerate(streams) if first[row] or not self.has_begun(int(s))]
        if begins:
            found = self.model.embed(seen.each(lambda tensor: tensor[begins]))
            self._begun |= {int(streams[row]): sentence for row, sentence in zip(begins, found, strict=True)}
        return {"sentence": torch.stack([self._begun[int(s)] for s in streams])}


def num_bytes(memory: Mapping[str, Tensor]) -> int:
    """Of what is kept of one task."""
    return sum(tensor.numel() * tensor.element_size() for tensor in memory.values())
