"""How a task is learned from few demonstrations: the ways to train, and the numbers of both protocols. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

MODES = ("full", "lora", "frozen", "scratch")  # what is trained: everything, adapters, the embeddings, everything from new weights


@dataclass(frozen=True)
class Protocol:
    """How long and how a cell is trained, and how often it is looked at.

    - `steps` updates of `batch_size` rows; `micro_batch_size` rows at a time (0: all).
    - `learning_rate`: after `warmup_steps` the maximum, then a cosine to `final_ratio` of it.
    - `evaluate_every` updates the policy plays `evaluation_episodes`, for the paper's maximum over evaluations.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    final_ratio: float
    weight_decay: float
    dropout: float
    evaluate_every: int
    evaluation_episodes: int
    micro_batch_size: int = 0


PROTOCOLS = {
    # chosen by the loss on held-out demonstrations (docs/results/fewshot.md); Muon, which pretraining gains from, loses here
    "small": Protocol(120, 8, 1e-3, 10, 0.1, 0.1, 0.0, 20, 5),
    # appendix E; the paper's number of updates is not certain. Adam: no weight decay, a constant rate
    "paper": Protocol(10_000, 64, 1e-5, 0, 1.0, 0.0, 0.1, 100, 10),
}
