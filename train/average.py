"""An exponential moving average of the weights over the updates, with which a checkpoint acts (`optim.ema`).

Training goes on with the last weights and does not know of it: a run with an average has the losses of one without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


def share_kept(decay: float, step: int) -> float:
    """How much of the average stays at update `step`: `decay`, but less at first, so that random weights are soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


class Average:
    """**Arguments:** `learner`: whose parameters are averaged, on their device (not its buffers); `decay`: see `share_kept`."""

    def __init__(self, learner: Any, decay: float) -> None:
        self.decay = decay
        self._weights = list(learner.parameters())
        self._means = [weight.detach().clone() for weight in self._weights]
        self._mean_of = {id(weight): mean for weight, mean in zip(self._weights, self._means, strict=True)}

    def add(self, step: int) -> None:
        """Takes the weights in as update `step` left them."""
        get_ema_multi_avg_fn(share_kept(self.decay, step))(self._means, [weight.detach() for weight in self._weights], None)

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """The average of a parameter, to read or to write; a buffer is given back."""
        return self._mean_of.get(id(value), value)
