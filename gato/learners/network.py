"""The small network of the policies that are trained on few demonstrations, and how it is trained.

Two hidden layers and, beside them, a linear path from the inputs to the outputs: a controller is
often linear where it does not saturate, and few demonstrations leave much to extrapolate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gato.progress import Progress

WIDTH = 256
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
REACH = 10.0  # standard deviations from the mean beyond which an input is taken to stand


class SmallNetwork(nn.Module):
    """(N, `inputs`) -> (N, `outputs`).

    **Arguments:** `activation`: of `ACTIVATIONS`; `with_line`: whether there is the linear path,
    and inputs are kept within 10 standard deviations.
    """

    def __init__(self, inputs: int, outputs: int, activation: str = "tanh", with_line: bool = True) -> None:
        super().__init__()
        between = ACTIVATIONS[activation]
        self.body = nn.Sequential(nn.Linear(inputs, WIDTH), between(), nn.Linear(WIDTH, WIDTH), between())
        self.head = nn.Linear(WIDTH, outputs)
        self.line = nn.Linear(inputs, outputs, bias=False) if with_line else None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.line is None:
            return self.head(self.body(inputs))
        inputs = inputs.clamp(-REACH, REACH)
        return self.head(self.body(inputs)) + self.line(inputs)


@dataclass(frozen=True)
class Schedule:
    """How long a small network is trained.

    - `floor`: updates of the first round, which nothing cuts short: the loss of held-out
      demonstrations does not rank policies well. Then rounds of `updates` go on until one lowers that loss (the
      training loss, where nothing is held out) by less than the share `gain`, or `rounds` are over.
    - `batch_size` rows an update; in each round AdamW's `learning_rate` falls to zero by a cosine.
    - `weight_decay`: of matrices.
    """

    floor: int = 2000
    updates: int = 1000
    rounds: int = 4
    gain: float = 0.05
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01


def train(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    num_rows: int,
    judge: Callable[[], float],
    schedule: Schedule,
    generator: torch.Generator,
    label: str,
) -> int:
    """Trains `network` in place, to where its best round left it. **Returns:** the updates taken.

    **Arguments:** `loss`: of the rows with these indices (n,); `judge`: the loss that says whether
    a round was worth it, called without gradients; `generator`: draws the rows; `label`: what is trained, in what is printed of it.
    """
    best, state, taken = math.inf, network.state_dict(), 0
    for number in range(1 + schedule.rounds):
        updates = schedule.updates if number else schedule.floor
        network.train()
        with Progress(f"{label}, round {number + 1}", updates, "update") as progress:
            _train_round(network, loss, num_rows, updates, schedule, generator, progress)
        network.eval()
        taken += updates
        with torch.no_grad():
            found = judge()
        is_worth_it = found < best * (1 - schedule.gain)
        if number == 0 or found < best:
            best, state = found, deepcopy(network.state_dict())
        if not is_worth_it:
            break
    network.load_state_dict(state)
    return taken


def layer_groups(learner: nn.Module, weight_decay: float, is_decayed: Callable[[str, nn.Parameter], bool]) -> list[dict[str, Any]]:
    """Groups for an optimiser: what is decayed of the layers (marked `hidden`), what else is, and the rest."""
    hidden, decayed, kept = list[nn.Parameter](), list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in learner.named_parameters():
        (kept if not is_decayed(name, parameter) else hidden if ".layers." in name else decayed).append(parameter)
    return [
        {"params": hidden, "weight_decay": weight_decay, "hidden": True},
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser: matrices and filters are decayed; biases and norms are not."""
    trained = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _train_round(
    network: nn.Module, loss: Callable[[Tensor], Tensor], num_rows: int, updates: int, schedule: Schedule, generator: torch.Generator,
    progress: Progress,
) -> None:  # fmt: skip
    optimizer = torch.optim.AdamW(decay_groups(network.parameters(), schedule.weight_decay), lr=schedule.learning_rate, fused=True)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        rows = torch.randint(num_rows, (min(schedule.batch_size, num_rows),), generator=generator)
        optimizer.zero_grad()
        loss(rows).backward()
        optimizer.step()
        rates.step()
        progress.advance()
