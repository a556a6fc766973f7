"""The batches of a world model: windows of what was played so far, or of a store; see `gato.learner.OnlineBatches`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gato.learners.world.board import Board, Scene
from gato.learners.world.learner import TOTALS, WorldBatch

from .experience import Experience
from .play import Player
from .recipe import WorldRecipe

WINDOWS, NOISE = 1, 2  # what a generator is for; 0 is acting
DIGEST, VISITS, PLAYED = "digest", "visits", "play."


class Windows:
    """**Arguments:** `player`: adds to the experience before every update; `None` where it is a store's; `source`: the name of either, and
    `fingerprint` of the store."""

    def __init__(
        self, scene: Scene, experience: Experience, config: WorldRecipe, player: Player | None, source: str, fingerprint: str | None = None
    ) -> None:
        self.scene, self.experience, self.config, self.player, self.source = scene, experience, config, player, source
        self.tasks, self.seed = {scene.task.name: scene.task}, config.train.seed
        described = hashlib.sha256(json.dumps(scene.task.to_dict(), sort_keys=True).encode()).hexdigest()
        self.fingerprint = {source: fingerprint or described}
        self._starts = np.zeros(0, np.int64)

    def loader(self, steps: range, batch_size: int, micro_batch_size: int, rank: int = 0, ranks: int = 1) -> Iterator[list[WorldBatch]]:
        """An update's rows are made when it is asked for, with the weights of that moment.

        **Raises:** `ValueError` on several ranks.
        """
        if ranks > 1:
            raise ValueError(f"a world model learns in one process, and there are {ranks}; leave out --nproc")
        dream = self.config.dream
        for step in steps:
            self._play(step)
            generator = np.random.default_rng([self.seed, WINDOWS, step])
            self._starts = self.experience.draw(generator, batch_size, dream.window, dream.visits)
            yield [self.batch(step, range(batch_size))]

    def batch(self, step: int, rows: Sequence[int]) -> WorldBatch:
        """Rows of the update that was asked for last."""
        dream, scene = self.config.dream, self.scene
        found = self.experience.windows(self._starts[list(rows)], dream.window)
        size = self.config.model.outcomes + scene.size + scene.choices.num_outputs + 1
        starts, noise, symbols, blind = [], [], [], []
        num_symbols = 0 if isinstance(scene, Board) else (dream.window + 1) * scene.size
        for row in rows:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, NOISE], counter=[0, 0, row, step]))
            starts.append(generator.integers(dream.window, size=self._num_starts(step)))
            noise.append(generator.random((self._num_starts(step), dream.horizon, size), np.float32))
            symbols.append(generator.random(num_symbols, np.float32))
            blind.append(generator.random(dream.window) < dream.blind)
        totals = self.player.totals() if self.player else [0.0, 0.0, 0.0, *[np.nan] * 3]
        return WorldBatch(
            **{name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()},
            starts=torch.from_numpy(np.stack(starts)), noise=torch.from_numpy(np.stack(noise)),
            blind=torch.from_numpy(np.stack(blind)),
            symbol_noise=torch.from_numpy(np.stack(symbols)),
            totals=torch.tensor(totals if len(totals) == len(TOTALS) else [], dtype=torch.float32),
            denominator=float(len(rows) * dream.window),
        )  # fmt: skip

    def counts(self, batch: WorldBatch) -> dict[str, float]:
        """Timesteps of the windows, which are drawn many times."""
        return dict.fromkeys(("tokens", "places", "transitions"), batch.rewards.numel())

    def sources_of(self, step: int, rows: Sequence[int]) -> list[str]:
        return [self.source] * len(rows)

    def _num_starts(self, step: int) -> int:
        """None while the world model learns alone."""
        return self.config.dream.starts if step >= self.config.env.first_updates else 0

    def _play(self, step: int) -> None:
        if self.player is None:
            return
        env = self.config.env
        while self.player.frames < env.fill or self.experience.size <= self.config.dream.window:
            self.player.play(1)
        if step >= env.first_updates:
            self.player.play(self.config.rounds)

    # -- resuming ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        played = {} if self.player is None else {f"{PLAYED}{name}": values for name, values in self.player.state().items()}
        found = {VISITS: self.experience.visits, DIGEST: self.experience.digest, **played}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """**Raises:** `ValueError` where the episodes on disk are not those of the checkpoint."""
        found = {name: value.numpy() for name, value in state.items()}
        if self.player is not None:
            self.player.load_state({name[len(PLAYED) :]: values for name, values in found.items() if name.startswith(PLAYED)})
        if not np.array_equal(self.experience.digest, found[DIGEST]):
            where = "the store" if self.player is None else f"'{self.player.folder}'"
            raise ValueError(
                f"the episodes of {where} are not those that the checkpoint was trained on; restore them, or start another run"
            )
        self.experience.set_visits(found[VISITS])

    def close(self) -> None:
        """Lets go of the environments; all finished episodes are in the store then."""
        if self.player is not None:
            self.player.close()
