"""How a task is learned from few demonstrations: the ways to train, and the numbers of both protocols. Imports no torch."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, replace

from gato.setting import MAX_COUNT, Settings, bounded

# what is trained: everything, everything but briefly, adapters, the embeddings, everything from new weights
MODES = ("full", "brief", "lora", "frozen", "scratch")
BRIEF = 10  # `brief` has so many times fewer updates


@dataclass(frozen=True)
class Protocol(Settings):
    """How long and how a cell is trained, and how often it is looked at.

    - `steps` updates of `batch_size` rows; `micro_batch_size` rows at a time (0: all).
    - `rounds`: so many more rounds at most, each of half as many updates and with the learning rate up again, though less
      each time; one follows as long as the round before it has lowered the held-out loss.
    - `timesteps`: where above 0, rather as many rows as hold about so many timesteps, at least `batch_size`; but no more than there
      are, and than hold `positions`, where that is above 0.
    - `picture_positions`: of `scratch` in the compact layout. Patches of pictures share positions, so that a picture takes no more
      of them than this; 0: as the checkpoint has it. With one position it learns soonest (docs/results/fewshot.md).
    - `direct_rate`: what is read from the compact layout's direct path learns so many times as fast as the rest.
    - `learning_rate`: after `warmup_steps` the maximum, then a cosine to `final_ratio` of it.
    - `evaluate_every` updates the held-out loss is taken, and the policy plays `evaluation_episodes` (0: none), for the paper's
      maximum over evaluations.
    - `takes_last`: the policy is that of the last update, not of the step with the lowest held-out loss.
    """

    steps: int = bounded(MISSING, 1, MAX_COUNT)
    batch_size: int = bounded(MISSING, 1, 2**20)
    learning_rate: float = bounded(MISSING, 0, 100, above=True)
    warmup_steps: int = bounded(MISSING, 0, MAX_COUNT)
    final_ratio: float = bounded(MISSING, 0, 1)
    weight_decay: float = bounded(MISSING, 0, 100)
    dropout: float = bounded(MISSING, 0, 1, below=True)
    evaluate_every: int = bounded(MISSING, 1, MAX_COUNT)
    evaluation_episodes: int = bounded(MISSING, 0, 10_000)
    micro_batch_size: int = bounded(0, 0, 2**20)
    timesteps: int = bounded(0, 0, 2**20)
    positions: int = bounded(0, 0, 2**24)
    picture_positions: int = bounded(0, 0, 2**16)
    rounds: int = bounded(0, 0, 1000)
    takes_last: bool = False
    direct_rate: float = bounded(1.0, 0, 1e4)

    def of(self, mode: str) -> Protocol:
        """What one of `MODES` makes of it."""
        return replace(self, steps=-(-self.steps // BRIEF), rounds=0) if mode == "brief" else self

    def updates(self, is_judged: bool) -> tuple[int, int]:
        """The fewest and the most updates of a cell; `is_judged`: whether there are held-out demonstrations, without which no round
        follows."""
        half, more = -(-self.steps // 2), self.rounds if is_judged else 0
        return self.steps + half * min(1, more), self.steps + half * more


PROTOCOLS = {
    # chosen by the loss on held-out demonstrations (docs/results/fewshot.md); Muon, which pretraining gains from, loses here
    "small": Protocol(120, 8, 1e-3, 10, 0.1, 0.1, 0.0, 20, 5),
    # many small updates: a row of the compact layout has many timesteps. The held-out loss does not rank policies, so it only says
    # whether to go on (docs/results/compact.md)
    "compact": Protocol(
        800, 1, 1e-3, 10, 0.0, 0.1, 0.0, 100, 0, timesteps=128, positions=1536, picture_positions=1, rounds=2, takes_last=True,
        direct_rate=20.0,
    ),
    # appendix E; the paper's number of updates is not certain. Adam: no weight decay, a constant rate
    "paper": Protocol(10_000, 64, 1e-5, 0, 1.0, 0.0, 0.1, 100, 10),
}  # fmt: skip
