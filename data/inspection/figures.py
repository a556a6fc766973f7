"""The figures of `gato data inspect`, as its JSON has them, and the table on the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

NUM_BINS = 32
SAMPLED_ROWS = 32  # of one source


@dataclass
class Histogram:
    """Counts over equal bins from `low` to `high`; for discrete values a bin per value, while they are few: each in its bin's middle."""

    low: float
    high: float
    counts: list[int]
    is_discrete: bool = False

    @classmethod
    def empty(cls, low: float, high: float, is_discrete: bool) -> Histogram:
        values = int(high - low) + 1 if is_discrete else NUM_BINS
        half = 0.5 if is_discrete else 0.0
        return cls(low - half, high + half, [0] * min(values, NUM_BINS), is_discrete)

    def add(self, values: np.ndarray) -> None:
        counts, _ = np.histogram(values, bins=len(self.counts), range=(self.low, self.high))
        self.counts = (np.array(self.counts) + counts).tolist()


@dataclass
class TaskFigures:
    """One task of one source.

    - `tokens`, `targets`: of all its timesteps; `modalities`: share of the tokens by kind; estimates from `sampled_timesteps`.
    - `share_of_loss`: the effective weight, with the loss weights; an estimate as the source's is.
    - `returns`: mean, lowest, highest; `success`: share of the episodes that say.
    - `out_of_bounds`: observation values outside their declared range; `clipped`: those that the tokenizer clips;
      `actions_at_bounds`: continuous action values at an end of their range; of the numeric `observation_values` and
      `action_values` of `scanned_timesteps`. `clipped_actions`: action values that were clipped when they were recorded
      or imported, as the episodes say; of all timesteps.
    - `actions`: a histogram per numeric action field, all its elements together.
    - `measures`: `origin` and `scale` of each observation that has a scale, as given or as the data say (compact layout).
    - `coarse`: a sentence for each observation whose bins hide much of what it says; see `Coarseness`.
    """

    task: str
    episodes: int = 0
    timesteps: int = 0
    tokens: int = 0
    targets: int = 0
    modalities: dict[str, float] = field(default_factory=dict)
    sampled_timesteps: int | None = None
    share_of_loss: float = 0.0
    returns: dict[str, float] = field(default_factory=dict)
    return_histogram: Histogram | None = None
    random_return: float | None = None
    expert_return: float | None = None
    success: float | None = None
    behaviours: dict[str, int] = field(default_factory=dict)
    out_of_bounds: int = 0
    clipped: int = 0
    actions_at_bounds: int = 0
    observation_values: int = 0
    action_values: int = 0
    clipped_actions: int = 0
    scanned_timesteps: int | None = None
    actions: dict[str, Histogram] = field(default_factory=dict)
    coarse: list[str] = field(default_factory=list)
    measures: dict[str, dict[str, list[float]]] = field(default_factory=dict)


@dataclass
class SourceFigures:
    """One source.

    - `share_of_rows`: exact; `share_of_tokens`, `share_of_loss`: of what training sees, the latter with the loss weights
      (the effective weight); `epochs`: how often an episode's timestep is seen, on average.
    - `padding`, `prompts`: share of the places, and of the rows; `cut`: rows whose last timestep is incomplete;
      `missing_prompts`: rows too short for even one timestep of a prompt. From `sampled_rows`.
    - `left_out`: episodes of the store that do not take part; `not_imported`: how many rows its import left out, and why;
      `unfinished`: what is missing where that did not end.
    """

    source: str
    loss_weight: float
    share_of_rows: float
    left_out: int
    tasks: list[TaskFigures]
    share_of_tokens: float = 0.0
    share_of_loss: float = 0.0
    epochs: float = 0.0
    tokens_per_row: float = 0.0
    targets_per_row: float = 0.0
    padding: float = 0.0
    prompts: float = 0.0
    cut: float = 0.0
    missing_prompts: float = 0.0
    sampled_rows: int = SAMPLED_ROWS
    not_imported: list[str] = field(default_factory=list)
    unfinished: str | None = None


@dataclass
class Inspection:
    """The figures of a mixture for so many updates of so many rows.

    - `duplicates`: what `compare_sources` found; `findings`: sentences on what deserves a look.
    """

    context_length: int
    seed: int
    steps: int
    batch_size: int
    sources: list[SourceFigures]
    held_out: list[str]
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One row a task, for the table on the terminal; `~` marks what is estimated from a sample."""
        return [_table_row(source, task) for source in self.sources for task in source.tasks]


def _table_row(s: SourceFigures, t: TaskFigures) -> dict[str, Any]:
    mark = "" if t.sampled_timesteps is None else "~"
    returns = t.returns.get("mean")
    return {
        "source": s.source, "task": t.task, "episodes": f"{t.episodes:,}", "timesteps": f"{t.timesteps:,}", "tokens": f"{mark}{t.tokens:,}",
        "targets": f"{mark}{t.targets / max(t.tokens, 1):.1%}", "rows": f"{s.share_of_rows:.1%}", "loss": f"~{t.share_of_loss:.1%}",
        "epochs": f"~{s.epochs:.3g}", "padding": f"~{s.padding:.1%}", "cut": f"~{s.cut:.0%}",
        "return": returns, "random": t.random_return if returns is not None else None,
        "expert": t.expert_return if returns is not None else None,
    }  # fmt: skip
