"""A trained Decision Transformer with its task: on disk, and as policies.

model.safetensors    the weights
gato.json            format, learner, model (settings), num_timesteps, statistics (scales, returns of the data), tasks
manifest.json        size and SHA-256 of both
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gato import digests
from gato.device import pick_device
from gato.disk import read_json, shown
from gato.learners.trajectory import QUANTILES, TrajectoryStatistics
from gato.setting import fields_of
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.weights import SINGLE, read_entries

from .decision_config import ACTIVATIONS, NAME, DecisionConfig
from .decision_policy import DecisionPolicy
from .decision_transformer import DecisionTransformer, check_task
from .other import OtherAgent

DESCRIPTION = "gato.json"
FORMAT = 1


class DecisionAgent(OtherAgent):
    """**Arguments:** `model`: of one task."""

    learner = NAME

    def __init__(self, model: DecisionTransformer) -> None:
        self.model = model
        found = model.statistics
        returns = (found.lowest, found.highest) if model.config.is_conditioned else None
        self.tasks = {model.task.name: replace(model.task, returns=returns)}

    @classmethod
    def of(
        cls,
        task: TaskSpec,
        config: DecisionConfig,
        statistics: TrajectoryStatistics,
        num_timesteps: int,
        weights: Mapping[str, Tensor],
    ) -> DecisionAgent:
        """An agent with these weights, which are taken over and not copied."""
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn first are not kept
            model = DecisionTransformer(task, config, statistics, num_timesteps)
        model.load_state_dict(weights, strict=True, assign=True)
        return cls(model.eval())

    def task(self, name: str) -> TaskSpec:
        """By its name, or as `MODULE:ID`. **Raises:** `ValueError` for another task than that of
        the weights."""
        (known,) = self.tasks
        if name.rpartition(":")[2] != known.rpartition(":")[2]:
            raise ValueError(f"this checkpoint was not trained on '{name}'; it knows {known}")
        return self.tasks[known]

    def described(self) -> str:
        return f"a Decision Transformer, which acts in '{next(iter(self.tasks))}'"

    def policy(
        self,
        task: str | TaskSpec | None = None,
        temperature: float | None = None,
        overflow: str = "rebuild",
        seed: int = 0,
        memory: int | None = None,
        target_return: float | None = None,
    ) -> DecisionPolicy:
        """See `DecisionPolicy`. **Raises:** `ValueError` for another task than that of the weights,
        or another memory than its context."""
        if overflow != "rebuild" or (memory and memory != self.model.config.context):
            raise ValueError(
                f"memory is {memory} and overflow '{overflow}', but a Decision Transformer acts with the context that it was trained with; "
                "leave them out"
            )
        if task is not None:
            self.task(task if isinstance(task, str) else task.name)
        return DecisionPolicy(self.model, target_return, temperature, seed)

    # -- disk ------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files above into an existing or new folder. **Raises:** `ValueError` if
        something else lies there."""
        folder = Path(folder)
        if (folder / digests.NAME).is_file():
            digests.entries_of(folder)  # a store's, for example, would be overwritten
        digests.record(folder, self.write(folder))

    def write(self, folder: Path) -> list[str]:
        """The files but the manifest. **Returns:** their names."""
        folder.mkdir(parents=True, exist_ok=True)
        model = self.model
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
            folder / SINGLE,
        )
        content = {
            "format": FORMAT,
            "learner": NAME,
            "model": asdict(model.config),
            "num_timesteps": model.num_timesteps,
            "statistics": model.statistics.to_dict(),
            "tasks": [model.task.to_dict()],
        }
        (folder / DESCRIPTION).write_text(json.dumps(content, indent=1))
        return [SINGLE, DESCRIPTION]

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None, verify: bool = True) -> DecisionAgent:
        """Opens what `save` wrote. **Raises:** `ValueError` naming a file that is missing, damaged
        or not the one that was saved."""
        folder, device = Path(folder), pick_device(device)
        path = folder / DESCRIPTION
        content = read_json(path)
        if content.get("format") != FORMAT or content.get("learner") != NAME:
            raise ValueError(
                f"'{path}' is of format {shown(content.get('format'))} and learner {shown(content.get('learner'))}, "
                f"expected {FORMAT} and '{NAME}'"
            )
        try:
            described = _described(content)
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{path}' is damaged: {error}; restore it") from None
        _check_shapes(folder, described)
        if verify and (folder / digests.NAME).is_file():
            digests.check(folder, [DESCRIPTION, SINGLE])
        agent = cls.of(*described, load_file(folder / SINGLE))
        agent.model.to(device)
        return agent


def _described(
    content: dict[str, Any],
) -> tuple[TaskSpec, DecisionConfig, TrajectoryStatistics, int]:
    """What the model is built from. **Raises:** `ValueError` for a key that is missing, unknown or
    holds something else."""
    known = {"format", "learner", "model", "num_timesteps", "statistics", "tasks"}
    if content.keys() != known:
        raise ValueError(f"its keys are {sorted(content)}, expected {sorted(known)}")
    settings, tasks, num_timesteps = content["model"], content["tasks"], content["num_timesteps"]
    if not isinstance(settings, dict) or settings.keys() - fields_of(DecisionConfig).keys():
        raise ValueError(f"model is {shown(settings)}, expected an object with {', '.join(fields_of(DecisionConfig))}")
    if not isinstance(tasks, list) or len(tasks) != 1:
        raise ValueError(f"tasks is {shown(tasks)}, expected a list of one task")
    if type(num_timesteps) is not int or not 1 <= num_timesteps <= 2**31:
        raise ValueError(f"num_timesteps is {shown(num_timesteps)}, expected a whole number above 0")
    task = TaskSpec.from_dict(tasks[0])
    check_task(task)
    return (
        task,
        DecisionConfig(**settings),
        TrajectoryStatistics.from_dict(content["statistics"], task),
        num_timesteps,
    )


def _check_shapes(folder: Path, described: tuple[TaskSpec, DecisionConfig, TrajectoryStatistics, int]) -> None:
    """**Raises:** `ValueError` where the weights are not those that the description asks for; only
    their header is read."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in DecisionTransformer(*described).state_dict().items()}
    found = {name: entry.shape for name, entry in read_entries(folder).items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"'{folder / SINGLE}' holds '{name}' of shape {found.get(name)}, {DESCRIPTION} asks for {expected.get(name)}; "
                "these are not the weights that were saved: restore the folder, or use another checkpoint"
            )


# -- transformers' checkpoints ---------------------------------------------------------------------


def load_published(
    folder: str | os.PathLike,
    task: TaskSpec | None = None,
    mean: list[float] | None = None,
    spread: list[float] | None = None,
    return_scale: float = 1000.0,
    highest_return: float | None = None,
    context: int = 20,
) -> DecisionAgent:
    """A checkpoint of transformers' `DecisionTransformerModel` from a local folder: `config.json`
    and `model.safetensors`.

    Its card says what the files do not: `mean` and `spread` of the states (by default 0 and 1),
    `return_scale`, the highest return of its data, and the `context`. Predictions of states and
    returns are left out.

    **Arguments:** `task`: with one vector of numbers to see and one of actions in [-1, 1]; by
    default such a one without an environment.

    **Raises:** `ValueError` for another kind of checkpoint, one with switches that this network
    lacks, or weights as a pickle.
    """
    folder = Path(folder)
    content = read_json(folder / "config.json")
    if content.get("model_type") != "decision_transformer":
        raise ValueError(f"'{folder / 'config.json'}' is of model_type {shown(content.get('model_type'))}, expected 'decision_transformer'")
    if not (folder / SINGLE).is_file() and (folder / "pytorch_model.bin").is_file():
        raise ValueError(
            f"'{folder}' holds its weights as pytorch_model.bin, which is never opened here, since such a file can run code; "
            "save it again with transformers, which writes model.safetensors"
        )
    config, sizes = _published_config(folder, content, context)
    task = task or _plain_task(*sizes)
    _check_vectors(task, *sizes)
    (observation,) = task.observations
    highest = return_scale if highest_return is None else highest_return
    statistics = TrajectoryStatistics(
        {observation.name: tuple(mean or [0.0] * sizes[0])}, {observation.name: tuple(spread or [1.0] * sizes[0])},
        {str(q): highest * q for q in QUANTILES}, return_scale, 1, int(content.get("max_ep_len", 4096)),
    )  # fmt: skip
    described = task, config, statistics, statistics.longest
    read_entries(folder)  # whether it is whole
    with torch.device("meta"):
        expected = DecisionTransformer(*described).state_dict()
    given = load_file(folder / SINGLE)
    return DecisionAgent.of(
        *described,
        {name: _published_tensor(folder, given, name, mine) for name, mine in expected.items()},
    )


def _published_config(folder: Path, content: Mapping[str, Any], context: int) -> tuple[DecisionConfig, tuple[int, int]]:
    """The settings, and the numbers of a state and of an action."""
    kept = {
        "action_tanh": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }
    for name, value in kept.items():
        if content.get(name, value) != value:
            raise ValueError(f"'{folder / 'config.json'}' has {name} {shown(content[name])}, this network knows {value} only")
    activation = content.get("activation_function", "relu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"'{folder / 'config.json'}' has activation_function {shown(activation)}, known are {', '.join(ACTIVATIONS)}")
    try:
        config = DecisionConfig(
            num_layers=content.get("n_layer", 3), num_heads=content.get("n_head", 1), width=content.get("hidden_size", 128),
            feed_forward=content.get("n_inner"), activation=activation, dropout=content.get("resid_pdrop", 0.1), context=context,
        )  # fmt: skip
        sizes = content.get("state_dim", 17), content.get("act_dim", 4)
        if not all(type(n) is int and 0 < n <= 2**16 for n in (*sizes, content.get("max_ep_len", 4096))):
            raise ValueError(
                f"state_dim, act_dim and max_ep_len are {shown((*sizes, content.get('max_ep_len')))}, expected whole numbers above 0"
            )
    except ValueError as error:
        raise ValueError(f"'{folder / 'config.json'}': {error}") from None
    return config, sizes


def _plain_task(num_states: int, num_actions: int) -> TaskSpec:
    state = FieldSpec("observation", Modality.CONTINUOUS, "observation", (num_states,))
    return TaskSpec(
        "published",
        (
            state,
            FieldSpec("action", Modality.CONTINUOUS, "action", (num_actions,), low=(-1.0,), high=(1.0,)),
        ),
    )


def _check_vectors(task: TaskSpec, num_states: int, num_actions: int) -> None:
    for fields, role, size in (
        (task.observations, "observation", num_states),
        (task.actions, "action", num_actions),
    ):
        if len(fields) != 1 or fields[0].modality is not Modality.CONTINUOUS or fields[0].size != size:
            raise ValueError(f"the weights know one {role} of {size} numbers, task '{task.name}' has {[(f.name, f.shape) for f in fields]}")
    low, high = task.actions[0].bounds
    if (low != -1).any() or (high != 1).any():
        raise ValueError(f"the weights know actions from -1 to 1, those of task '{task.name}' have another range")


_PARTS = {
    "c_attn": "attn.c_attn",
    "c_proj": "attn.c_proj",
    "c_fc": "mlp.c_fc",
    "c_out": "mlp.c_proj",
}


def _published_tensor(folder: Path, given: Mapping[str, Tensor], name: str, mine: Tensor) -> Tensor:
    """transformers' tensor for one of ours. **Raises:** `ValueError` where it is missing or of
    another shape."""
    theirs = name.replace("embed_state.linear", "embed_state").replace("embed_action.linear", "embed_action")
    theirs = theirs.replace("predict_action.linear", "predict_action.0").replace("ln_f.", "encoder.ln_f.")
    part = name.split(".")
    if part[0] == "layers":
        theirs = ".".join(["encoder.h", part[1], _PARTS.get(part[2], part[2]), part[3]])
    found = given.get(theirs)
    if found is not None and part[0] == "layers" and part[2] in _PARTS and part[3] == "weight":
        found = found.T  # their Conv1D holds its matrix the other way round
    if found is not None and name == "embed_ln.bias":
        found = found + given["encoder.wpe.weight"][0]  # GPT-2's positions, of which they use the first everywhere
    if found is None or found.shape != mine.shape:
        shape = None if found is None else tuple(found.shape)
        raise ValueError(f"'{folder / SINGLE}' holds '{theirs}' of shape {shape}, config.json asks for {tuple(mine.shape)}")
    return found.to(mine.dtype).contiguous()
