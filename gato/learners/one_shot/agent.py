"""A learner of one-shot imitation on disk, and acting on a demonstration: nothing is trained.

model.safetensors    the weights, and means and scales of what is no picture
memories.safetensors what is kept of every known task, `TASK:NAME`: adding a task changes no other
gato.json            format, learner, model (settings), numbers, texts, tasks
manifest.json        size and SHA-256 of them
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gato import digests, envs
from gato.device import pick_device
from gato.disk import read_json, shown
from gato.episode import Episode
from gato.policy import GatoPolicy
from gato.spec import TaskSpec

from ..acting_agent import settings_of
from ..actions import ActionVectors
from ..features import Features
from ..other import OtherAgent
from .config import MIL, TECNETS, MilConfig, TecNetsConfig
from .demonstrated import DemonstrationInputs, Seen
from .mil import Mil
from .tecnets import TecNet

WEIGHTS, MEMORIES, DESCRIPTION, FORMAT = "model.safetensors", "memories.safetensors", "gato.json", 1
MAX_NUMBERS = 4096  # that an environment says of a task


class Kind(NamedTuple):
    """The network of a learner, and its settings."""

    model: type[Any]
    config: type[Any]


KINDS = {TECNETS: Kind(TecNet, TecNetsConfig), MIL: Kind(Mil, MilConfig)}
Memory = dict[str, Tensor]


class OneShotAgent(OtherAgent):
    """Acts in any task of one robot, shown demonstrations of it.

    **Arguments:** `learner`: of `KINDS`; `inputs`: how what is seen becomes tensors; `num_numbers`: that the environment says of a task;
    `memories`: what is kept of the tasks that are known by name.
    """

    def __init__(
        self, learner: str, model: nn.Module, inputs: DemonstrationInputs, num_numbers: int = 0, memories: Mapping[str, Memory] = {}
    ) -> None:
        self.model: Any = model.eval()  # of a kind that `KINDS` names
        self.learner, self.inputs, self.num_numbers = learner, inputs, num_numbers
        self.tasks: dict[str, TaskSpec] = {inputs.task.name: inputs.task}
        self.memories: dict[str, Memory] = dict(memories)

    @classmethod
    def of(cls, learner: str, inputs: DemonstrationInputs, config: Any, num_numbers: int, weights: Mapping[str, Tensor]) -> OneShotAgent:
        """An agent with these weights, which are taken over and not copied."""
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn first are not kept
            model = KINDS[learner].model(inputs.task, inputs.features, inputs.vectors.size, config, num_numbers)
        model.load_state_dict(weights, strict=True, assign=True)
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

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files above into an existing or new folder."""
        folder = Path(folder)
        self.write(folder)
        digests.record(folder, [WEIGHTS, MEMORIES, DESCRIPTION])

    def write(self, folder: Path) -> None:
        """The files but the manifest."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, folder / WEIGHTS)
        kept = {f"{task}:{key}": value.contiguous() for task, memory in self.memories.items() for key, value in memory.items()}
        save_file(kept, folder / MEMORIES)
        content = {
            "format": FORMAT, "learner": self.learner, "model": asdict(self.model.config), "numbers": self.num_numbers,
            "texts": {name: list(known) for name, known in self.inputs.features.texts.items()},
            "tasks": [self.inputs.task.to_dict()],
        }  # fmt: skip
        (folder / DESCRIPTION).write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None, verify: bool = True) -> OneShotAgent:
        """Opens what `save` wrote. **Raises:** `ValueError` naming a file that is missing, damaged or not the one that was saved."""
        folder, device = Path(folder), pick_device(device)
        content = read_json(folder / DESCRIPTION)
        if verify and (folder / digests.NAME).is_file():
            digests.check(folder, [DESCRIPTION, WEIGHTS, MEMORIES])
        try:
            weights, kept = load_file(folder / WEIGHTS), load_file(folder / MEMORIES)
            agent = cls.of(*_described(content, weights), weights)
            agent.memories = _by_task(kept)
        except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"'{folder}' does not fit together ({' '.join(str(error).split())[:300]}); restore it, or train it again"
            ) from None
        agent.model.to(device)
        return agent


class OneShotPolicy:
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

    def act(
        self, observation: Mapping[str, np.ndarray], reward: np.ndarray | None = None, first: np.ndarray | None = None,
        streams: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """See `Policy`; what is seen now counts, and the first observation where the model looks at it.

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
                kept = self._told_first(seen, first, np.arange(len(seen)) if streams is None else streams)
            return self.inputs.vectors.decode(self.model.outputs(seen, kept).float().cpu().numpy())

    def _told_first(self, seen: Seen, first: np.ndarray | None, streams: np.ndarray) -> Memory:
        """What the first observation says of every stream's episode: of this one, where it begins."""
        begins = [row for row, s in enumerate(streams) if int(s) not in self._begun or (first is not None and first[row])]
        if begins:
            found = self.model.embed(seen.each(lambda tensor: tensor[begins]))
            self._begun |= {int(streams[row]): sentence for row, sentence in zip(begins, found, strict=True)}
        return {"sentence": torch.stack([self._begun[int(s)] for s in streams])}

    act_one = GatoPolicy.act_one


def num_bytes(memory: Mapping[str, Tensor]) -> int:
    """Of what is kept of one task."""
    return sum(tensor.numel() * tensor.element_size() for tensor in memory.values())


def _described(content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[str, DemonstrationInputs, Any, int]:
    """What the model is built from. **Raises:** `ValueError` for a key that is missing, unknown or holds something else."""
    known = {"format", "learner", "model", "numbers", "texts", "tasks"}
    learner, settings, numbers = (content.get(name) for name in ("learner", "model", "numbers"))
    if content.keys() != known or content["format"] != FORMAT or learner not in KINDS:
        raise ValueError(
            f"{DESCRIPTION} has the keys {sorted(content)}, format {shown(content.get('format'))} and learner {shown(learner)}"
        )
    config = settings_of(KINDS[learner].config, settings)
    if type(numbers) is not int or not 0 <= numbers <= MAX_NUMBERS or not isinstance(content["tasks"], list) or len(content["tasks"]) != 1:
        raise ValueError(f"numbers is {shown(numbers)} and tasks {shown(content['tasks'])}, expected a whole number and a list of one task")
    task = TaskSpec.from_dict(content["tasks"][0])
    texts = {str(name): [str(text) for text in known] for name, known in content["texts"].items()}
    features = Features(task, False, texts, weights["features.mean"].numpy(), weights["features.scale"].numpy())
    return learner, DemonstrationInputs(features, ActionVectors.all_of(task)), config, numbers


def _by_task(kept: Mapping[str, Tensor]) -> dict[str, Memory]:
    found: dict[str, Memory] = {}
    for name, value in kept.items():
        task, _, key = name.rpartition(":")
        found.setdefault(task, {})[key] = value
    return found


def remember_all(agent: OneShotAgent, tasks: Iterable[tuple[str, Sequence[Episode]]]) -> OneShotAgent:
    """The same agent, which now knows these tasks by name."""
    for name, demonstrations in tasks:
        agent.remember(name, demonstrations)
    return agent
