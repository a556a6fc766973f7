"""A trained Decision Transformer with its task: on disk, and as policies; and transformers' checkpoints as one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gato.disk import read_json, shown
from gato.learners.trajectory import QUANTILES, TrajectoryStatistics
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.weights import SINGLE, read_entries

from .decision_config import ACTIVATIONS, NAME, DecisionConfig
from .decision_policy import DecisionPolicy
from .decision_transformer import DecisionTransformer, check_task
from .other import NetworkAgent, filled, settings_of


class DecisionAgent(NetworkAgent):
    """**Arguments:** `model`: of one task."""

    learners, keys = (NAME,), {"model", "num_timesteps", "statistics"}

    def __init__(self, model: DecisionTransformer) -> None:
        found = model.statistics
        returns = (found.lowest, found.highest) if model.config.is_conditioned else None
        super().__init__(model, replace(model.task, returns=returns))

    @classmethod
    def of(
        cls, task: TaskSpec, config: DecisionConfig, statistics: TrajectoryStatistics, num_timesteps: int, weights: Mapping[str, Tensor]
    ) -> DecisionAgent:
        """An agent with a copy of these weights. **Raises:** `ValueError` naming one that is missing or of another shape."""
        return cls(filled(lambda: DecisionTransformer(task, config, statistics, num_timesteps), weights))

    def task(self, name: str) -> TaskSpec:
        """By its name, or as `MODULE:ID`. **Raises:** `ValueError` for another task than that of the weights."""
        own = self.own_task
        if name.rpartition(":")[2] != own.name.rpartition(":")[2]:
            raise ValueError(f"this checkpoint was not trained on '{name}'; it knows {own.name}")
        return own

    def described(self) -> str:
        return f"a Decision Transformer, which acts in '{self.own_task.name}'"

    def policy(
        self, task: str | TaskSpec | None = None, temperature: float | None = None, overflow: str = "rebuild", seed: int = 0,
        memory: int | None = None, target_return: float | None = None,
    ) -> DecisionPolicy:  # fmt: skip
        """See `DecisionPolicy`. **Raises:** `ValueError` for another task than that of the weights, or another memory than its context."""
        if overflow != "rebuild" or (memory and memory != self.model.config.context):
            raise ValueError(
                f"memory is {memory} and overflow '{overflow}', but a Decision Transformer acts with the context that it was trained with; "
                "leave them out"
            )
        if task is not None:
            self.task(task if isinstance(task, str) else task.name)
        return DecisionPolicy(self.model, target_return, temperature, seed)

    def settings(self) -> dict[str, Any]:
        model = self.model
        return {"model": asdict(model.config), "num_timesteps": model.num_timesteps, "statistics": model.statistics.to_dict()}

    @classmethod
    def described_as(cls, content: dict[str, Any], task: TaskSpec, weights: Mapping[str, Tensor]) -> DecisionAgent:
        num_timesteps = content["num_timesteps"]
        if type(num_timesteps) is not int or not 1 <= num_timesteps <= 2**31:
            raise ValueError(f"num_timesteps is {shown(num_timesteps)}, expected a whole number above 0")
        check_task(task)
        config, statistics = settings_of(DecisionConfig, content["model"]), TrajectoryStatistics.from_dict(content["statistics"], task)
        return cls.of(task, config, statistics, num_timesteps, weights)


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
    return DecisionAgent.of(*described, {name: _published_tensor(folder, given, name, mine) for name, mine in expected.items()})


def _published_config(folder: Path, content: Mapping[str, Any], context: int) -> tuple[DecisionConfig, tuple[int, int]]:
    """The settings, and the numbers of a state and of an action."""
    kept = {"action_tanh": True, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
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
    return TaskSpec("published", (state, FieldSpec("action", Modality.CONTINUOUS, "action", (num_actions,), low=(-1.0,), high=(1.0,))))


def _check_vectors(task: TaskSpec, num_states: int, num_actions: int) -> None:
    for fields, role, size in ((task.observations, "observation", num_states), (task.actions, "action", num_actions)):
        if len(fields) != 1 or fields[0].modality is not Modality.CONTINUOUS or fields[0].size != size:
            raise ValueError(f"the weights know one {role} of {size} numbers, task '{task.name}' has {[(f.name, f.shape) for f in fields]}")
    low, high = task.actions[0].bounds
    if (low != -1).any() or (high != 1).any():
        raise ValueError(f"the weights know actions from -1 to 1, those of task '{task.name}' have another range")


_PARTS = {"c_attn": "attn.c_attn", "c_proj": "attn.c_proj", "c_fc": "mlp.c_fc", "c_out": "mlp.c_proj"}


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
