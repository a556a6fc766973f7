"""How an update is computed: forward, backward, gradient norm, step; and what of it a checkpoint holds.

`PlainEngine` serves one process and several with DistributedDataParallel; `ZeroEngine` (train/zero.py)
has the same methods over DeepSpeed. Both scale the loss so that the ranks' gradients add up to that
of the one loss over the global batch.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gato.learner import Batch, Learner

from .average import Average
from .ranks import rank

MODEL = "model."  # what a learner calls the part that acts; checkpoints name its tensors without it


class Engine(Protocol):
    """What the loop needs: the `learner`, the `model` that wraps it, their `device`, and these methods of `PlainEngine`."""

    learner: Learner
    model: Any
    device: torch.device

    def describe(self) -> str: ...
    def accumulate(self, batch: Batch, is_last: bool) -> tuple[Tensor, dict[str, Tensor]]: ...
    def clip(self, step: int) -> Tensor | None: ...
    def step(self, rate: float, step: int, norm: float) -> float: ...
    def weights(self) -> dict[str, Tensor]: ...
    def averages(self) -> dict[str, Tensor]: ...
    def moments(self) -> dict[str, Tensor]: ...
    def restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor], averages: dict[str, Tensor] | None = None) -> None: ...
    def close(self) -> None: ...


def saved_name(name: str) -> str:
    """What a checkpoint calls a learner's parameter or buffer."""
    return name.removeprefix(MODEL)


def takes_part(group: dict[str, Any], step: int) -> bool:
    """Whether a parameter group is updated in an update, see `Learner.parameter_groups`."""
    first, last, period = group.get("turns", (0, 1, group.get("every", 1)))
    return first <= step % period < last


def load_weights(learner: nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts saved weights into a learner. **Raises:** `RuntimeError` naming those that are missing or surplus."""
    own = {saved_name(name): name for name in learner.state_dict()}
    learner.load_state_dict({own.get(name, name): value for name, value in weights.items()}, strict=True)


class PlainEngine:
    """**Arguments:** `learner`, on its device; `optimizer`; `clip`: largest norm of the gradient of the groups without their own;
    `ema`: the decay of an average of the weights, which the first rank keeps."""

    def __init__(
        self, learner: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator, clip: float, ema: float | None = None
    ) -> None:
        names = [saved_name(name) for name in learner.state_dict()]
        assert len(set(names)) == len(names), "two parts of the learner would be saved under one name"
        self.learner: Any = learner
        self.optimizer, self.accelerator, self.clipped_to = optimizer, accelerator, clip
        self.ranks, self.device = accelerator.num_processes, accelerator.device
        self.average = Average(learner, ema) if ema is not None and rank() == 0 else None
        self.model: Any = accelerator.prepare_model(learner) if self.ranks > 1 else learner

    def describe(self) -> str:
        """What really computes the updates, as the objects themselves say it."""
        return f"{self.ranks} ranks with {type(self.model).__name__}" if self.ranks > 1 else "one process"

    def accumulate(self, batch: Batch, is_last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of a micro-batch; the ranks exchange gradients at the update's last one.

        **Returns:** this micro-batch's share of the global loss, and the learner's sums.
        """
        with nullcontext() if is_last or self.ranks == 1 else self.model.no_sync():
            with self.accelerator.autocast():
                loss, sums = self.model(batch)
            self.accelerator.backward(loss * self.ranks)  # DistributedDataParallel averages over the ranks, but the loss is a sum
        return loss.detach(), sums

    def clip(self, step: int) -> Tensor:
        """Clips the gradient of the groups that take part in update `step`.

        **Returns:** the norm of the whole gradient before it, a float32 on the device, which nobody has waited for yet.
        """
        for group in self.optimizer.param_groups:
            if not takes_part(group, step):
                for parameter in group["params"]:
                    parameter.grad = None
        apart = [group for group in self.optimizer.param_groups if "clip" in group]
        theirs = {id(parameter) for group in apart for parameter in group["params"]}
        rest = [parameter for parameter in self.learner.parameters() if id(parameter) not in theirs]
        norms = [self.accelerator.clip_grad_norm_(rest, self.clipped_to)]
        norms += [self.accelerator.clip_grad_norm_(group["params"], group["clip"]) for group in apart]
        return norms[0] if not apart else torch.stack(norms).norm()

    def step(self, rate: float, step: int, norm: float) -> float:
        """Updates the weights with the clipped gradient; one that is not finite is dropped, alike on all ranks.

        **Arguments:** `rate`: of the groups without one of their own; `step`: updates done before; `norm`: what `clip` found.

        **Returns:** `norm`.
        """
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get("rate_factor", 1.0)
            self.optimizer.step()
            if self.average is not None:
                self.average.add(step)
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    # -- checkpoints: every rank calls, the first one gets the whole ---------------------------------

    def weights(self) -> dict[str, Tensor]:
        """A copy of all the learner's parameters and buffers on the host; empty on all ranks but the first."""
        if rank() > 0:
            return {}
        return {saved_name(name): value.detach().to("cpu", copy=True) for name, value in self.learner.state_dict().items()}

    def averages(self) -> dict[str, Tensor]:
        """As `weights`, with the average of each parameter; empty without one."""
        if self.average is None:
            return {}
        values = self.learner.state_dict(keep_vars=True)  # the parameters themselves
        return {saved_name(name): self.average.of(value).detach().to("cpu", copy=True) for name, value in values.items()}

    def moments(self) -> dict[str, Tensor]:
        """A copy of the optimizer's state on the host, `PARAMETER.MOMENT` each; empty on all ranks but the first."""
        if rank() > 0:
            return {}
        found = {}
        for name, parameter in self.learner.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is None:
                    continue
                assert isinstance(value, Tensor), f"the optimizer's {key} of {name} is {type(value)}, which no checkpoint can hold"
                found[f"{saved_name(name)}.{key}"] = value.detach().to("cpu", copy=True).contiguous()
        return found

    def restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor], averages: dict[str, Tensor] | None = None) -> None:
        """Takes over weights, state and averages as `weights`, `moments` and `averages` gave them, from any number of ranks; an average
        without its own begins at the weights."""
        load_weights(self.learner, weights)
        if self.average is not None:
            for name, parameter in self.learner.named_parameters():
                self.average.of(parameter).copy_((averages or weights)[saved_name(name)])
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for name, value in moments.items():
            parameter, _, key = name.rpartition(".")
            by_parameter.setdefault(parameter, {})[key] = value
        for name, parameter in self.learner.named_parameters():
            if found := by_parameter.get(saved_name(name)):
                self.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}

    def close(self) -> None:
        """Lets go of DistributedDataParallel, which must not outlive the ranks' process group: as its last owner it would end the
        group while it holds Python's lock, and wait for a thread of gloo that waits for that lock."""
        self.model = None
        self.accelerator.free_memory()
