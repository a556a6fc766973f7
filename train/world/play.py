"""Acting while a world model learns: environments side by side, and their finished episodes on disk, as a store like any other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gato.data.prefix import keep_episodes
from gato.data.store import Store, StoreWriter
from gato.envs.stream import EpisodeResult
from gato.envs.vector import VectorEnv
from gato.episode import Episode
from gato.learners.world.config import PlayConfig
from gato.learners.world.learner import Dreamer
from gato.spec import TaskSpec

from ..ranks import say

SHOWN_EPISODES = 100  # the last ones, whose mean return the metrics tell
DRAWS, STRAYS = 0, 3  # what a generator is for; 1 and 2: see `windows`
HELD = 8  # rounds at most


class Player:
    """**Arguments:** `model`: whose weights of the moment act; `folder`: of the store; `add`: is given every finished episode.

    **Attributes:** `frames`: timesteps of all environments; `ended`: return, success (NaN: nobody says) and length of the last episodes.
    """

    def __init__(self, task: TaskSpec, model: Dreamer, config: PlayConfig, seed: int, folder: Path, add: Callable[[Episode], None]) -> None:
        self.task, self.model, self.config, self.seed, self.folder, self.add = task, model, config, seed, folder, add
        self.frames = self.num_ended = self.num_failed = self.num_stored = 0
        self.ended: deque[tuple[float, float, float]] = deque(maxlen=SHOWN_EPISODES)
        self.histories: list[list[np.ndarray]] = [[] for _ in range(config.num_envs)]  # actions of the episodes under way
        self._past = model.scene.begin(config.num_envs)  # what they saw before
        self._envs: VectorEnv | None = None
        self._writer: StoreWriter | None = None

    @torch.no_grad()
    def play(self, rounds: int) -> None:
        """So many timesteps of every environment, the first `fill` frames with random actions."""
        envs, choices = self._open(), self.model.choices
        for _ in range(rounds):
            generator = np.random.default_rng([self.seed, DRAWS, self.frames // len(self.histories)])
            noise = torch.from_numpy(choices.noise(generator, len(self.histories)))
            is_random = self.frames < self.config.fill
            outputs = self._outputs(envs)
            actions = choices.choose(torch.zeros_like(noise) if is_random else outputs, self.model.log_deviation.cpu(), noise).numpy()
            if not is_random:
                held, strays = self._held(self.frames // len(self.histories))
                actions = np.where(strays[:, None], held, actions)
            step = envs.step(choices.decode(actions))
            self.frames += len(actions)
            for history, action, result in zip(self.histories, actions, step.results, strict=True):
                history.append(action)
                if result is not None:
                    history.clear()
                    self._end(result, is_random)

    def _held(self, played: int) -> tuple[np.ndarray, np.ndarray]:
        """What each environment holds in a round, (n, `choices.size`), and whether it does, (n,).

        Rounds are taken eight at a time: in some of these an action is held from the first on, for one to eight rounds.
        """
        block, place = divmod(played, HELD)
        generator = np.random.default_rng([self.seed, STRAYS, block])
        n, choices = len(self.histories), self.model.choices
        begins = generator.random(n) < self.config.explore * HELD / (0.5 * (HELD + 1))
        strays = begins & (place < generator.integers(1, HELD + 1, size=n))
        noise = torch.from_numpy(choices.noise(generator, n))
        return choices.choose(torch.zeros_like(noise), self.model.log_deviation.cpu(), noise).numpy(), strays

    def _outputs(self, envs: VectorEnv) -> Tensor:
        """Of the policy, whose state goes on also while actions are random."""
        device = self.model.log_deviation.device
        seen = {name: torch.from_numpy(values).to(device) for name, values in self.model.scene.arrays(envs.observation()).items()}
        outputs, _, past = self.model.step(seen, self._past.to(device), torch.from_numpy(envs.first).to(device))
        self._past = past.cpu()
        return outputs.cpu()

    def _end(self, result: EpisodeResult, is_random: bool) -> None:
        if result.failed is not None:
            self.num_failed += 1
            return
        assert result.episode is not None and self._writer is not None
        episode = replace(result.episode, behaviour="random") if is_random else result.episode
        self._writer.append(episode)
        self.add(episode)
        self.num_stored, self.num_ended = self.num_stored + 1, self.num_ended + 1
        success = np.nan if result.success is None else float(result.success)
        self.ended.append((result.total_reward, success, float(result.num_timesteps)))

    def totals(self) -> list[float]:
        means = np.array(self.ended).mean(axis=0) if self.ended else np.full(3, np.nan)
        return [self.frames, self.num_ended, self.num_failed, *means.tolist()]

    # -- resuming ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """What it takes to go on; the episodes so far are a shard's from here on."""
        if self._writer is not None:
            self._writer.flush()
        actions = [action for history in self.histories for action in history]
        envs = self._envs
        return {
            "actions": np.stack(actions) if actions else np.zeros((0, self.model.choices.size), np.float32),
            "lengths": np.array([len(history) for history in self.histories], np.int64),
            "episodes": np.array([0 if envs is None else envs.episodes[i] - 1 for i in range(self.config.num_envs)], np.int64),
            "ended": np.array(self.ended, np.float64).reshape(-1, 3),
            "past": self._past.numpy(),
            "counts": np.array([self.frames, self.num_ended, self.num_failed, self.num_stored], np.int64),
        }

    def load_state(self, found: Mapping[str, np.ndarray]) -> None:
        """Goes on from there: stored episodes are read, those that came later are removed, those under way are played once more.

        **Raises:** `ValueError` where the store does not hold the episodes of the checkpoint.
        """
        self.frames, self.num_ended, self.num_failed, self.num_stored = map(int, found["counts"])
        self.ended.extend(tuple(row) for row in found["ended"].tolist())
        self._past = torch.from_numpy(found["past"])
        keep_episodes(self.folder, self.num_stored)
        if self.num_stored:
            store = Store(self.folder)
            for i in range(store.num_episodes):
                self.add(store.episode(i))
        ends = np.cumsum(found["lengths"])
        self.histories = [list(found["actions"][end - n : end]) for end, n in zip(ends, found["lengths"], strict=True)]
        self._writer = StoreWriter(self.folder, [self.task])
        self._envs = self._make()
        for i, history in enumerate(self.histories):
            actions = [{k: v[0] for k, v in self.model.choices.decode(action[None]).items()} for action in history]
            if not self._envs.replay(i, int(found["episodes"][i]), actions):
                say(f"environment {i} does not repeat its episode {found['episodes'][i]}: it begins another, so the run goes on otherwise")
                history.clear()

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()
        if self._writer is not None:
            self._writer.close()

    def _make(self) -> VectorEnv:
        return VectorEnv(self.task, range(self.config.num_envs), self.seed, self.config.limits, keep=True)

    def _open(self) -> VectorEnv:
        if self._envs is None:
            keep_episodes(self.folder, 0)  # of a run that was stopped before its first checkpoint
            self._writer = StoreWriter(self.folder, [self.task], {"source": "gato.train.world"})
            self._envs = self._make()
            self._envs.begin()
        return self._envs
