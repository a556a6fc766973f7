"""ZeRO: DeepSpeed behind the same methods as the plain engine, through accelerate's plugin.

A file of `configs/deepspeed/` holds ZeRO and offload settings only; batch, accumulation, clipping and
precision come from the recipe. Checkpoints hold whole weights and moments by name, so that any number of
ranks and any stage goes on with them; they are brought together on the host of the first rank.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType
from torch import Tensor

from gato.learner import Batch

from .engine import saved_name
from .ranks import rank, world_size
from .recipe import OptimConfig, TrainConfig

SHIPPED = ("zero1", "zero2", "zero3", "zero3-offload")


def read_settings(name: str) -> dict[str, Any]:
    """The JSON file of a shipped name or a path. **Raises:** `ValueError` if there is none, or it asks for no ZeRO stage."""
    source = files("gato.configs") / "deepspeed" / f"{name}.json" if name in SHIPPED else Path(name)
    if not source.is_file():
        raise ValueError(f"train.deepspeed is '{name}', neither a JSON file nor one of {', '.join(SHIPPED)}")
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        stage = content["zero_optimization"]["stage"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"'{source}' holds no zero_optimization.stage; start from one of {', '.join(SHIPPED)}") from None
    if stage not in (1, 2, 3):
        raise ValueError(f"'{source}' asks for ZeRO stage {stage}, expected 1, 2 or 3; without ZeRO leave train.deepspeed null")
    return content


def settings(optim: OptimConfig, train: TrainConfig, precision: str) -> dict[str, Any]:
    """What DeepSpeed is told: the file's ZeRO settings and the recipe's numbers.

    **Raises:** `ValueError` for a file that contradicts the recipe, with the difference.
    """
    assert train.deepspeed is not None
    if optim.muon is not None:
        raise ValueError(f"optim.muon is {optim.muon}, but ZeRO cuts the matrices that Muon needs whole; set it to null or leave ZeRO")
    if optim.ema is not None:
        raise ValueError(f"optim.ema is {optim.ema}, but ZeRO cuts the weights that are to be averaged; set it to null or leave ZeRO")
    if precision not in ("no", "bf16"):
        raise ValueError(f"train.precision is {precision}, but ZeRO runs in bf16 or fp32 here; choose one of these")
    given = read_settings(train.deepspeed)
    if train.compile and given["zero_optimization"]["stage"] == 3:
        raise ValueError(
            "train.compile is true, but ZeRO stage 3 brings every weight back in Python; set it to false or take zero1 or zero2"
        )
    micro = train.micro_batch(world_size())
    ours = {
        "train_batch_size": micro * -(-train.batch_size // world_size() // micro) * world_size(),
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": -(-train.batch_size // world_size() // micro),
        "gradient_clipping": optim.clip,
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": True},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    for key, value in given.items():
        if key != "zero_optimization" and value not in ("auto", ours.get(key)):
            wanted = f"the recipe says {ours[key]}" if key in ours else "only zero_optimization belongs there"
            raise ValueError(f"'{train.deepspeed}' says {key}: {value}, but {wanted}; remove it from the file")
    return ours | {"zero_optimization": given["zero_optimization"]}


def make_accelerator(optim: OptimConfig, train: TrainConfig, precision: str, common: dict[str, Any]) -> Accelerator:
    """An accelerator that really is DeepSpeed's. **Raises:** `ValueError` if it is not, `ImportError` if DeepSpeed is missing."""
    told = settings(optim, train, precision)
    try:
        import deepspeed.ops
    except ImportError as error:
        missing = "" if error.name == "deepspeed" else f", which cannot be imported ({error})"
        raise ImportError(f"ZeRO needs DeepSpeed{missing}; pip install 'opengato[deepspeed]'") from None
    # For ranks of one CPU DeepSpeed would compile an exchange through shared memory at the first start; gloo serves as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for name, value in (("RANK", rank()), ("WORLD_SIZE", world_size()), ("LOCAL_RANK", 0), ("LOCAL_SIZE", world_size())):
        os.environ.setdefault(name, str(value))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")
    # with its CPU flag accelerate would forget the plugin without a word
    accumulation = told["gradient_accumulation_steps"]
    accelerator = Accelerator(gradient_accumulation_steps=accumulation, deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=told), **common)
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        raise ValueError(
            f"ZeRO was asked for, but accelerate runs {accelerator.distributed_type.value}; unset ACCELERATE_USE_CPU, or use gato --nproc"
        )
    return accelerator


class ZeroEngine:
    """The methods of `PlainEngine` over DeepSpeed's engine, which clips, steps and drops gradients that are not finite.

    **Arguments:** `learner`, with its weights; `optimizer`: AdamW over the learner's groups; `some_batch`: gives
    any batch, for the one pass that makes DeepSpeed set up its state before a checkpoint's is put there.
    """

    def __init__(self, learner: Any, optimizer: torch.optim.Optimizer, accelerator: Accelerator, some_batch: Callable[[], Batch]) -> None:
        import deepspeed

        if any({"clip", "every"} & group.keys() for group in optimizer.param_groups):
            raise ValueError("ZeRO clips and updates all weights together, which this learner does not; set train.deepspeed to null")
        self.learner, self.device, self.some_batch = learner, accelerator.device, some_batch
        if (table := getattr(getattr(learner.model, "embedding", None), "tokens", None)) is not None:
            # Gato's head reads the token table, whose own forward is over by then: stage 3 must bring it back
            deepspeed.zero.register_external_parameter(learner.model, table.weight)
        self.model, _ = accelerator.prepare(learner, optimizer)
        assert isinstance(self.model, deepspeed.DeepSpeedEngine) and self.model.zero_optimization(), type(self.model)
        self.accumulation = self.model.gradient_accumulation_steps()

    def describe(self) -> str:
        ranks = f"{world_size()} ranks" if world_size() > 1 else "one process"
        return (
            f"{ranks} with {type(self.model).__name__}, {type(self.model.optimizer).__name__}, stage {self.model.zero_optimization_stage()}"
        )

    def accumulate(self, batch: Batch, is_last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        self.model.set_gradient_accumulation_boundary(is_last)
        loss, sums = self.model(batch)
        # DeepSpeed averages over ranks and accumulation, but the loss is a sum
        self.model.backward(loss * (world_size() * self.accumulation))
        return loss.detach(), sums

    def clip(self, step: int) -> None:
        """DeepSpeed clips in its step."""

    def step(self, rate: float, step: int = 0, norm: float = 0.0) -> float:
        """As the plain engine's; the norm is DeepSpeed's."""
        for group in self.model.optimizer.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)
        self.model.step()
        return math.inf if self.model.optimizer.overflow else float(self.model.get_global_grad_norm())

    # -- checkpoints: every rank calls, the first one gets the whole ---------------------------------

    def weights(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        weights = {}
        for name, parameter in self.learner.named_parameters():
            whole = safe_get_full_fp32_param(parameter)  # an exchange between all ranks
            if rank() == 0:
                weights[saved_name(name)] = whole.detach().to("cpu", copy=True)
        if rank() == 0:  # buffers are whole on every rank
            parameters = dict(self.learner.named_parameters())
            rest = {name: value for name, value in self.learner.state_dict().items() if name not in parameters}
            weights |= {saved_name(name): value.detach().to("cpu", copy=True) for name, value in rest.items()}
        return weights

    def moments(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        found: dict[str, Tensor] = {}
        if not (states := self._adam_states()):
            return found  # no update so far had a finite gradient
        self._link_states()
        step = states[0]["step"]
        for name, parameter in self.learner.named_parameters():
            for key in ("exp_avg", "exp_avg_sq"):
                whole = safe_get_full_optimizer_state(parameter, key)
                if rank() == 0:
                    found[f"{saved_name(name)}.{key}"] = whole.detach().to("cpu", copy=True)
            found[f"{saved_name(name)}.step"] = step.detach().to("cpu", copy=True)
        return found

    def averages(self) -> dict[str, Tensor]:
        """None: see `settings`."""
        return {}

    def restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor], averages: dict[str, Tensor] | None = None) -> None:
        """Weights are put where they were already, for their float32 masters: bf16 has lost bits of them."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if not moments:
            return
        for i in range(self.accumulation):  # an update by nothing at rate zero, which sets the state up
            self.model.set_gradient_accumulation_boundary(i == self.accumulation - 1)
            self.model.backward(0 * self.model(self.some_batch().to(self.device))[0])
        self.step(0.0)
        self._link_states()
        for name, parameter in self.learner.named_parameters():
            safe_set_full_fp32_param(parameter, weights[saved_name(name)].to(self.device))
            for key in ("exp_avg", "exp_avg_sq"):
                safe_set_full_optimizer_state(parameter, moments[f"{saved_name(name)}.{key}"].to(self.device), key)
        step = next(value for name, value in moments.items() if name.endswith(".step"))
        for state in self._adam_states():
            state["step"].copy_(step)

    def close(self) -> None:
        """Nothing to do: DeepSpeed's engine owns no process group."""

    def _link_states(self) -> None:
        """Connects parameters with their moments: stages 1 and 2 do so too early, behind the step of the first group."""
        if self.model.zero_optimization_stage() < 3:
            self.model.optimizer._hp_optimizer_states_linked = False  # private: seen in DeepSpeed 0.19.8
            self.model.optimizer._lazy_init_hp_params_optimizer_state()

    def _adam_states(self) -> list[dict[str, Tensor]]:
        return [state for state in self.model.optimizer.optimizer.state.values() if "step" in state]
