"""Acting for a return: the target stands before the first state, and every reward is taken off
it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gato.episode import Episode, StreamPolicy, Values
from gato.learners.returns import checked_target
from gato.learners.trajectory import Window, collate
from gato.setting import SEED, TEMPERATURE, check_value
from gato.spec import Modality

from .decision_transformer import DecisionTransformer

_log = logging.getLogger(__name__)


@dataclass
class _Stream:
    """The last timesteps of one stream, as the model sees them; the newest one's action is yet to
    come."""

    window: Window
    generator: np.random.Generator


class DecisionPolicy(StreamPolicy):
    """A Decision Transformer acting in its task, in any number of streams; see
    `gato.policy.Policy`.

    **Arguments:**

    - `target_return`: what the episode's rewards should come to; by default the highest return of
      the training data.
    - `temperature`: of discrete actions, by default 1; 0 takes the likeliest. Continuous actions are not drawn.
    - `seed`: of the sampling: the k-th episode that begins has a generator of its own, whichever
      stream it is in.

    **Raises:** `ValueError` for a target that is no number, or for one where the model was trained
    without returns.
    """

    def __init__(
        self, model: DecisionTransformer, target_return: float | None = None, temperature: float | None = None, seed: int = 0
    ) -> None:
        temperature = 1.0 if temperature is None else temperature
        check_value("temperature", temperature, float, TEMPERATURE)
        check_value("seed", seed, int, SEED)
        self.model, self.task, self.temperature, self.seed = (model.eval(), model.task, temperature, seed)
        self.memory = model.config.context
        self.target_return = self._checked_target(target_return)
        self.device = next(model.parameters()).device
        self._is_past_table = False
        self.reset(1)

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        """Forgets everything. **Raises:** `ValueError` for demonstrations: what is asked of it is a
        return, not an example."""
        if demonstrations:
            raise ValueError("a Decision Transformer takes no demonstrations as prompts; give --target_return instead")
        self._streams: list[_Stream | None] = [None] * num_streams
        self._num_begun = 0
        self._numbers: dict[int, int] = {}

    def begin(self, stream: int, number: int) -> None:
        """The next `act` of a stream starts an episode that goes as the `number`-th to begin goes."""
        self._streams[stream] = None
        self._numbers[stream] = number

    def state(self) -> dict[str, Any]:
        """A copy of all that the streams hold; `load_state` goes on exactly from there."""
        return copy.deepcopy({"streams": self._streams, "num_begun": self._num_begun, "numbers": self._numbers})

    def load_state(self, state: Mapping[str, Any]) -> None:
        state = copy.deepcopy(dict(state))
        self._streams, self._num_begun, self._numbers = state["streams"], state["num_begun"], state["numbers"]

    @torch.inference_mode()
    def act_in(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> dict[str, np.ndarray]:
        """**Raises:** `ValueError` for a missing reward, which must be taken off the target."""
        for row, (s, is_first) in enumerate(zip(streams, first, strict=True)):
            seen = {name: values[row : row + 1] for name, values in observation.items()}
            if is_first or self._streams[s] is None:
                self._begin(int(s), seen)
            elif reward is None:
                raise ValueError("the reward of the last action is missing: what is still to come is the target less the rewards")
            else:
                self._look(int(s), seen, float(reward[row]))
        acting = [stream for s in streams if (stream := self._streams[s]) is not None]
        windows = [stream.window for stream in acting]
        batch = collate(self.task, windows, max(map(len, windows))).to(self.device)
        timesteps = batch.timesteps.clamp(max=self.model.num_timesteps - 1)
        outputs = self.model(batch.observations, batch.actions, batch.returns_to_go, timesteps, batch.is_padding)
        actions = self.model.predict_action.decode([out[:, -1] for out in outputs], self._noise(acting))
        for row, stream in enumerate(acting):
            for name, values in stream.window.actions.items():
                values[-1] = actions[name][row]
        return actions

    def has_begun(self, stream: int) -> bool:
        return self._streams[stream] is not None

    def _begin(self, s: int, seen: Mapping[str, np.ndarray]) -> None:
        none = {f.name: np.zeros((1, *f.shape), f.dtype) for f in self.task.actions}
        window = Window(dict(seen), none, np.array([self.target_return], np.float32), 0)
        number = self._numbers.pop(s, self._num_begun)
        self._streams[s] = _Stream(window, np.random.default_rng([self.seed, number]))
        self._num_begun = number + 1

    def _look(self, s: int, seen: Mapping[str, np.ndarray], reward: float) -> None:
        """One timestep more, and where the context is full the oldest one less."""
        stream = self._streams[s]
        assert stream is not None, "the stream has begun"
        old, kept = stream.window, slice(max(0, len(stream.window) + 1 - self._context), None)
        paid = 0.0 if self.model.config.delayed_reward else reward
        stream.window = Window(
            {name: np.concatenate([values[kept], seen[name]]) for name, values in old.observations.items()},
            {name: np.concatenate([values[kept], np.zeros_like(values[:1])]) for name, values in old.actions.items()},
            np.append(old.returns_to_go[kept], np.float32(old.returns_to_go[-1] - paid)),
            old.start + kept.start,
        )
        last = stream.window.start + len(stream.window)
        if last > self.model.num_timesteps and not self._is_past_table:
            self._is_past_table = True
            _log.warning(
                "task %s: an episode goes on beyond the %d timesteps that the model tells apart; later ones are taken for the last of them "
                "(model.max_timesteps)", self.task.name, self.model.num_timesteps,
            )  # fmt: skip

    @property
    def _context(self) -> int:
        return self.memory or self.model.num_timesteps

    def _noise(self, acting: Sequence[_Stream]) -> list[np.ndarray | None]:
        """By the Gumbel-max rule, a temperature's worth of noise per discrete field."""
        head, found = self.model.predict_action, []
        for f, shape in zip(head.fields, head.shapes, strict=True):
            is_drawn = f.modality is Modality.DISCRETE and self.temperature > 0
            found.append(np.stack([self.temperature * s.generator.gumbel(size=shape) for s in acting]) if is_drawn else None)
        return found

    def _checked_target(self, target: float | None) -> float:
        """**Raises:** `ValueError` for one where the model was trained without returns, or as `checked_target`."""
        statistics = self.model.statistics
        if target is not None and not self.model.config.is_conditioned:
            raise ValueError("this model was trained without returns (condition none), so it has no use for target_return; leave it out")
        return checked_target(self.task.name, (statistics.lowest, statistics.highest), target)
