"""Episodes played beside training, with the weights of the moment: what `gato eval` would say, as a curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gato.envs.recording import episode_seed
from gato.envs.stream import EpisodeLimits, EpisodeResult, Streams
from gato.learner import Weights
from gato.learners.ppo.config import EnvConfig
from gato.spec import TaskSpec

from .ranks import rank, say

PURPOSE = "beside"  # seeds of no collection, no training, and no evaluation afterwards


class EpisodesBeside:
    """See `gato.learner.Evaluation`. The same episodes every time, in as many environments side by side, which stay open.

    **Arguments:** `saved`: makes of weights an agent, as in a `Setup`; `every`: updates; `episodes`, `seed`: how many, and which.
    """

    def __init__(
        self, task: TaskSpec, saved: Callable[[Weights], Any], every: int, episodes: int, limits: EpisodeLimits, seed: int
    ) -> None:
        self.task, self.saved, self.every, self.seed = task, saved, every, seed
        self.episodes = episodes
        # made before training, so that an environment that there is not ends nothing later
        self._streams = Streams(task, range(episodes if rank() == 0 else 0), False, limits)

    def __call__(self, weights: Weights) -> dict[str, Any]:
        """Means over the episodes that did not fail, and how many did; success where the task defines it."""
        with torch.random.fork_rng(devices=[]):  # whatever making an agent draws, training goes on as if nothing had been played
            results = self._play(self.saved(weights).policy(self.task, seed=self.seed))
        whole = [result for result in results if result.failed is None]
        if reasons := [f"of seed {result.seed}: {result.failed}" for result in results if result.failed is not None]:
            say(f"{len(reasons)} of {len(results)} episodes beside training failed and count for nothing, the first {reasons[0]}")
        found: dict[str, Any] = {"eval_episodes": len(results), "eval_failed": len(results) - len(whole)}
        if whole:
            found |= {"eval_return": float(np.mean([r.total_reward for r in whole]))}
            found |= {"eval_length": float(np.mean([r.num_timesteps for r in whole]))}
        if known := [float(r.success) for r in whole if r.success is not None]:
            found["eval_success"] = float(np.mean(known))
        return found

    def close(self) -> None:
        self._streams.close()

    def _play(self, policy: Any) -> list[EpisodeResult]:
        results = [stream.start(i, episode_seed(PURPOSE, self.seed, i)) for i, stream in enumerate(self._streams.all)]
        policy.reset(self.episodes)
        while active := [stream for stream in self._streams.all if stream.is_active]:
            actions = policy.act(*self._streams.seen(active))
            for stream, result in zip(active, self._streams.step(active, actions), strict=True):
                results[stream.index] = result
        return [result for result in results if result is not None]


def episodes_beside(task: TaskSpec, saved: Callable[[Weights], Any], env: EnvConfig, seed: int) -> EpisodesBeside | None:
    """What a recipe's `env.eval_every` asks for."""
    return EpisodesBeside(task, saved, env.eval_every, env.eval_episodes, env.limits, seed) if env.eval_every else None
