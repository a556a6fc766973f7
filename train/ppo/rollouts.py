"""On-line data: the network acts in several environments for some timesteps, then every row of that rollout is used some times.

A row is `span` timesteps of one environment. What is drawn follows from (seed, update, row) as with every learner; what is played
follows from the weights, which follow from the rows before. A checkpoint holds the rollout in use and the actions of the episodes
under way, which are played once more when a run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gato.data.loading import rank_rows
from gato.envs.vector import Step, VectorEnv
from gato.learners.ppo.advantage import advantages
from gato.learners.ppo.learner import TOTALS, PPOBatch, PPOLearner
from gato.spec import TaskSpec

from ..ranks import rank, say, sum_over_ranks, world_size
from .measures import Measures
from .recipe import PPORecipe

SHOWN_EPISODES = 100  # the last ones, whose mean return the metrics tell
DRAWS, ORDER = 0, 1  # what a generator is for
IN_USE = "rollout."  # before the names of its arrays in a checkpoint
LARGEST_REWARD = 1e15  # whose square, summed over a batch, a float32 holds


class Rollouts:
    """See `gato.learner.OnlineBatches`. Every rank steps its part of the environments and holds the whole rollout."""

    def __init__(self, task: TaskSpec, learner: PPOLearner, config: PPORecipe) -> None:
        self.task, self.model, self.config, self.ppo = task, learner.model, config, config.ppo
        self.seed, self.num_envs = config.train.seed, config.env.num_envs
        self.device = self.model.log_deviation.device
        self.tasks = {task.name: task}
        described = json.dumps(task.to_dict(), sort_keys=True)
        self.fingerprint = {task.name: hashlib.sha256(described.encode()).hexdigest()}
        self.measures = Measures(len(self.model.encoder.mean))
        self.memory = np.zeros((self.num_envs, self.model.memory.size), np.float32)  # the network's, of every environment
        self.histories: list[list[np.ndarray]] = [[] for _ in range(self.num_envs)]  # actions of the episodes under way
        self.episodes = np.zeros(self.num_envs, np.int64)  # their numbers
        self.ended: deque[tuple[float, float, float]] = deque(maxlen=SHOWN_EPISODES)  # return, success, timesteps
        self.num_ended = self.num_failed = self.frames = 0
        self.rollout: dict[str, np.ndarray] = {}
        self._step = -1
        self._envs: VectorEnv | None = None

    # -- the contract ----------------------------------------------------------------------------------

    def loader(self, steps: range, batch_size: int, micro_batch_size: int, rank: int = 0, ranks: int = 1) -> Iterator[list[PPOBatch]]:
        """As in `Batches`; an update's rows are made when it is asked for, with the weights of that moment."""
        rows = rank_rows(batch_size, rank, ranks)
        for step in steps:
            number, update = divmod(step, self.config.updates_per_rollout)
            if update == 0:
                self._collect(number)
            self._step = step
            batches = [self.batch(step, rows[r : r + micro_batch_size]) for r in range(0, len(rows), micro_batch_size)]
            if rank == 0:
                batches[0] = replace(batches[0], totals=self._totals())
            denominator = sum(float(batch.denominator) for batch in batches)
            yield [batch.with_denominator(max(denominator, 1e-9)) for batch in batches]

    def batch(self, step: int, rows: Sequence[int]) -> PPOBatch:
        """Rows of an update of the rollout in use."""
        number, update = divmod(step, self.config.updates_per_rollout)
        size = self.config.train.batch_size
        epoch, part = divmod(update, self.config.num_rows // size)
        order = self._generator(ORDER, number, epoch).permutation(self.config.num_rows)[part * size : (part + 1) * size]
        advantage, weight = self._rows("advantage", order), self._rows("weight", order)
        if self.ppo.normalise_advantages:
            kept = advantage[weight > 0]
            advantage = (advantage - kept.mean()) / (kept.std() + 1e-8) if len(kept) else advantage
        chosen = order[list(rows)]
        names = {name for name in self.rollout if name.startswith("see.")}
        starts = self.rollout["state"]  # (rows of an environment, environments, memory)
        found = {name: torch.from_numpy(self._rows(name, chosen)) for name in ("actions", "log_prob", "value", "returns", "weight")}
        return PPOBatch(
            observations={name[4:]: torch.from_numpy(self._rows(name, chosen)) for name in sorted(names)},
            first=torch.from_numpy(self._rows("first", chosen)).bool(),
            state=torch.from_numpy(starts[chosen // self.num_envs, chosen % self.num_envs]),
            advantage=torch.from_numpy(advantage[list(rows)]),
            totals=torch.zeros(len(TOTALS)),
            denominator=float(found["weight"].sum()),
            **found,
        )

    def counts(self, batch: PPOBatch) -> dict[str, float]:
        """Timesteps of the rows, which are used several times."""
        return dict.fromkeys(("tokens", "places", "transitions"), batch.weight.numel())

    def sources_of(self, step: int, rows: Sequence[int]) -> list[str]:
        return [self.task.name] * len(rows)

    # -- acting ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _collect(self, number: int) -> None:
        """Plays the rollout of this number; the environments go on from where the one before left them."""
        mine = rank_rows(self.num_envs, rank(), world_size())
        envs = self._open(mine)
        self._standardise()
        stretch = self.config.stretch(number)
        length, span, begun = self.ppo.rollout * stretch, self.ppo.span * stretch, self.config.start(number)
        state = torch.from_numpy(self.memory[mine.start : mine.stop]).to(self.device)
        columns: dict[str, list[np.ndarray]] = {}
        starts = []
        for t in range(length):
            if t % span == 0:
                starts.append(state.cpu().numpy())
            row, state, step = self._timestep(envs, state, begun + t, mine)
            row |= self._outcome(envs, step, state)
            for name, values in row.items():
                columns.setdefault(name, []).append(values)
        _, after, _ = self.model.step(self._tensors(envs.observation()), state, torch.from_numpy(envs.first).to(self.device))
        whole = {name: self._whole(np.stack(rows), mine) for name, rows in columns.items()}
        whole["state"] = self._whole(np.stack(starts), mine)
        self.memory = self._whole(state.cpu().numpy()[None], mine)[0]
        self._finish(whole, self._whole(after.cpu().numpy()[None], mine)[0])

    def _timestep(self, envs: VectorEnv, state: Tensor, t: int, mine: range) -> tuple[dict[str, np.ndarray], Tensor, Step]:
        """One action in each environment: what was seen and done, the memory afterwards, and what came of it."""
        choices, log_deviation = self.model.choices, self.model.log_deviation
        seen, first = self.model.encoder.arrays(envs.observation()), envs.first
        outputs, value, state = self.model.step(self._tensors(seen, raw=False), state, torch.from_numpy(first).to(self.device))
        noise = choices.noise(self._generator(DRAWS, t), self.num_envs)[mine.start : mine.stop]
        actions = choices.choose(outputs, log_deviation, torch.from_numpy(noise).to(self.device))
        log_prob = choices.log_prob(outputs, log_deviation, actions)
        played = actions.cpu().numpy()
        step = envs.step(choices.decode(played))
        row = {f"see.{name}": values for name, values in seen.items()}
        row |= {"actions": played, "value": value.cpu().numpy(), "log_prob": log_prob.cpu().numpy(), "first": first.astype(np.uint8)}
        return row, state, step

    def _outcome(self, envs: VectorEnv, step: Step, state: Tensor) -> dict[str, np.ndarray]:
        """Rewards and ends of a timestep, and what is told of the episodes that ended, (n,) each."""
        reward = self._scaled(step.reward)
        if (cut := np.flatnonzero(step.truncated)).size:  # the episode would have gone on: what it was worth belongs to the reward
            final = self._tensors({name: values[cut] for name, values in step.final.items()})
            _, value, _ = self.model.step(final, state[torch.from_numpy(cut)], torch.zeros(len(cut), dtype=torch.bool, device=self.device))
            reward[cut] += self.ppo.gamma * value.cpu().numpy()
        told = [
            (r.total_reward, np.nan if r.success is None else float(r.success), r.num_timesteps) if r else (0, 0, 0) for r in step.results
        ]
        episodes = np.array([envs.episodes[i] - 1 for i in envs.indices], np.int64)
        ended = np.array([r is not None for r in step.results], np.uint8)
        failed = step.failed.astype(np.uint8)
        return {"reward": reward, "ended": ended, "failed": failed, "told": np.array(told, np.float64), "episode": episodes}

    def _scaled(self, reward: np.ndarray) -> np.ndarray:
        """**Raises:** `ValueError` for rewards whose square is too large, which no learning rate would help."""
        scale = self.config.env.reward_scale
        if (largest := float(np.abs(reward).max(initial=0)) * scale) > LARGEST_REWARD:
            raise ValueError(
                f"'{self.task.name}' pays a reward of {largest / scale:.3g}, times env.reward_scale {scale:g} more than a critic can "
                f"learn ({LARGEST_REWARD:g}); set env.reward_scale so that rewards are near 1, here about {scale / largest:.1g}"
            )
        return reward * np.float32(scale)

    def _finish(self, whole: dict[str, np.ndarray], after: np.ndarray) -> None:
        """Estimates advantages, and takes note of the episodes that ended and of those under way."""
        failed, ended = whole.pop("failed").astype(bool), whole.pop("ended").astype(bool)
        reward, told, episode = whole.pop("reward"), whole.pop("told"), whole.pop("episode")
        reward[failed] = whole["value"][failed]  # nothing was learned there: no surprise
        whole["advantage"] = advantages(reward, whole["value"], after, ended, self.ppo.gamma, self.ppo.gae_lambda)
        whole["returns"], whole["weight"] = whole["advantage"] + whole["value"], (~failed).astype(np.float32)
        for t, i in np.ndindex(ended.shape):
            self.histories[i].append(whole["actions"][t, i])
            if ended[t, i]:
                self.histories[i] = []
                self.num_failed += bool(failed[t, i])
                if not failed[t, i]:
                    self.num_ended += 1
                    self.ended.append(tuple(told[t, i].tolist()))
        self.episodes, self.rollout = episode[-1], whole
        self.frames += ended.size
        if self.model.config.normalise and self.model.encoder.numbers:
            numbers = [whole[f"see.{f.name}"].reshape(ended.size, -1) for f in self.model.encoder.numbers]
            self.measures.add(np.concatenate(numbers, axis=1))

    def _standardise(self) -> None:
        """The network measures observations anew between rollouts only: within one, acting and learning must agree."""
        if self.model.config.normalise:
            for buffer, values in zip((self.model.encoder.mean, self.model.encoder.spread), self.measures(), strict=True):
                buffer.copy_(torch.from_numpy(values.astype(np.float32)))

    def _open(self, mine: range) -> VectorEnv:
        if self._envs is None:
            self._envs = VectorEnv(self.task, mine, self.seed, self.config.env.limits)
            self._envs.begin()
        return self._envs

    # -- resuming --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on exactly; the same on every rank."""
        lengths = np.array([len(history) for history in self.histories], np.int64)
        actions = [action for history in self.histories for action in history]
        found = {
            "memory": self.memory, "episodes": self.episodes, "lengths": lengths,
            "actions": np.stack(actions) if actions else np.zeros((0, self.model.choices.size), np.float32),
            "ended": np.array(self.ended, np.float64).reshape(-1, 3), "measures": self.measures.state,
            "counts": np.array([self.num_ended, self.num_failed, self.frames], np.int64),
        }  # fmt: skip
        if (self._step + 1) % self.config.updates_per_rollout:
            found |= {f"{IN_USE}{name}": values for name, values in self.rollout.items()}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a checkpoint: the actions of the episodes under way are played once more."""
        found = {name: value.numpy() for name, value in state.items()}
        self.memory, self.episodes, self.measures.state = found["memory"], found["episodes"], found["measures"]
        self.num_ended, self.num_failed, self.frames = map(int, found["counts"])
        self.ended.extend(tuple(row) for row in found["ended"].tolist())
        ends = np.cumsum(found["lengths"])
        self.histories = [list(found["actions"][end - n : end]) for end, n in zip(ends, found["lengths"], strict=True)]
        self.rollout = {name[len(IN_USE) :]: values for name, values in found.items() if name.startswith(IN_USE)}
        mine = rank_rows(self.num_envs, rank(), world_size())
        self._envs = VectorEnv(self.task, mine, self.seed, self.config.env.limits)
        for i in mine:
            actions = [{k: v[0] for k, v in self.model.choices.decode(action[None]).items()} for action in self.histories[i]]
            if not self._envs.replay(i, int(self.episodes[i]), actions):
                say(f"environment {i} does not repeat its episode {self.episodes[i]}: it begins another, so the run goes on otherwise")
                self.memory[i], self.histories[i] = 0, []

    def close(self) -> None:
        """Lets go of the environments."""
        if self._envs is not None:
            self._envs.close()

    # -- parts -----------------------------------------------------------------------------------------

    def _totals(self) -> Tensor:
        means = np.array(self.ended).mean(axis=0) if self.ended else np.full(3, np.nan)
        return torch.tensor([self.frames, self.num_ended, self.num_failed, *means], dtype=torch.float32)

    def _rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(T, N, ...) of the rollout -> (rows, span, ...)."""
        values, parts = self.rollout[name], len(self.rollout["state"])
        return values.reshape(parts, -1, *values.shape[1:])[rows // self.num_envs, :, rows % self.num_envs]

    def _tensors(self, observation: Mapping[str, np.ndarray], raw: bool = True) -> dict[str, Tensor]:
        arrays = self.model.encoder.arrays(observation) if raw else observation
        return {name: torch.from_numpy(np.ascontiguousarray(values)).to(self.device) for name, values in arrays.items()}

    def _whole(self, values: np.ndarray, mine: range) -> np.ndarray:
        """(T, n, ...) of this rank's environments -> (T, N, ...) of all."""
        if world_size() == 1:
            return values
        full = np.zeros((len(values), self.num_envs, *values.shape[2:]), values.dtype)
        full[:, mine.start : mine.stop] = values
        wide = full.astype(np.int64) if full.dtype.kind in "iub" else full  # not every backend adds up small integers
        return sum_over_ranks(torch.from_numpy(wide).to(self.device)).cpu().numpy().astype(values.dtype)

    def _generator(self, purpose: int, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, *key])
