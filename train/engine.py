"""How an update is computed: forward, backward, gradient norm, step; and what of it a checkpoint holds.

`PlainEngine` serves one process and several with DistributedDataParallel; `ZeroEngine` (train/zero.py)
has the same methods over DeepSpeed. Both scale the loss so that the ranks' gradients add up to that
of the one loss over the global batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from gato.batch import TokenBatch
from gato.learners.gato import GatoLearner
from gato.model import Gato, GatoConfig

from .ranks import rank

MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # AdamW's and Muon's


class Engine(Protocol):
    """What the loop needs: the `learner`, the `model` that wraps it, their `device`, and these methods of `PlainEngine`."""

    learner: GatoLearner
    model: Any
    device: torch.device

    def describe(self) -> str: ...
    def accumulate(self, batch: TokenBatch, is_last: bool) -> tuple[Tensor, dict[str, Tensor]]: ...
    def step(self, rate: float) -> float: ...
    def whole_model(self) -> Gato: ...
    def moments(self) -> dict[str, Tensor]: ...
    def restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None: ...
    def close(self) -> None: ...


def host_model(config: GatoConfig, weights: Mapping[str, Tensor]) -> Gato:
    """A model that takes over these weights, copies on the host; one without any where there are none."""
    with torch.device("meta"):
        model = Gato(config)
    if weights:
        model.load_state_dict(weights, strict=True, assign=True)
    return model


class PlainEngine:
    """**Arguments:** `learner`, on its device; `optimizer`; `clip`: largest norm of the whole gradient."""

    def __init__(self, learner: GatoLearner, optimizer: torch.optim.Optimizer, accelerator: Accelerator, clip: float) -> None:
        self.learner, self.optimizer, self.accelerator, self.clip = learner, optimizer, accelerator, clip
        self.ranks, self.device = accelerator.num_processes, accelerator.device
        self.model: Any = accelerator.prepare_model(learner) if self.ranks > 1 else learner

    def describe(self) -> str:
        """What really computes the updates, as the objects themselves say it."""
        return f"{self.ranks} ranks with {type(self.model).__name__}" if self.ranks > 1 else "one process"

    def accumulate(self, batch: TokenBatch, is_last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of a micro-batch; the ranks exchange gradients at the update's last one.

        **Returns:** this micro-batch's share of the global loss, and the learner's sums.
        """
        with nullcontext() if is_last or self.ranks == 1 else self.model.no_sync():
            with self.accelerator.autocast():
                loss, sums = self.model(batch)
            self.accelerator.backward(loss * self.ranks)  # DistributedDataParallel averages over the ranks, but the loss is a sum
        return loss.detach(), sums

    def step(self, rate: float) -> float:
        """Clips the gradient and updates the weights with it; one that is not finite is dropped, alike on all ranks.

        **Returns:** the norm of the whole gradient before clipping.
        """
        norm = float(self.accelerator.clip_grad_norm_(self.learner.parameters(), self.clip))
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get("rate_factor", 1.0)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    # -- checkpoints: every rank calls, the first one gets the whole ---------------------------------

    def whole_model(self) -> Gato:
        """A copy of the model on the host, which training does not touch; without weights on all ranks but the first."""
        weights = self.learner.model.state_dict() if rank() == 0 else {}
        return host_model(self.learner.model.config, {name: w.detach().to("cpu", copy=True) for name, w in weights.items()})

    def moments(self) -> dict[str, Tensor]:
        """A copy of the optimizer's state on the host, `PARAMETER.MOMENT` each; empty on all ranks but the first."""
        if rank() > 0:
            return {}
        return {
            f"{name}.{key}": value.detach().to("cpu", copy=True).contiguous()
            for name, parameter in self.learner.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Takes over weights and state as `whole_model` and `moments` gave them, from any number of ranks."""
        self.learner.model.load_state_dict(weights, strict=True)
        for name, parameter in self.learner.model.named_parameters():
            found = {key: moments[f"{name}.{key}"].to(parameter.device) for key in MOMENTS if f"{name}.{key}" in moments}
            if found:
                self.optimizer.state[parameter] = found

    def close(self) -> None:
        """Lets go of DistributedDataParallel, which must not outlive the ranks' process group: as its last owner it would end the
        group while it holds Python's lock, and wait for a thread of gloo that waits for that lock."""
        self.model = None
        self.accelerator.free_memory()
