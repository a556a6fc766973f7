"""A trained actor in its task, in any number of streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gato.episode import Episode, StreamPolicy, Values
from gato.setting import SEED, TEMPERATURE, check_value
from gato.spec import TaskSpec


class PPOPolicy(StreamPolicy):
    """See `gato.policy.Policy`.

    **Arguments:**

    - `model`: `network.ActorCritic`, or another one with its `encoder`, `choices`, `log_deviation`, `start` and `step`.
    - `task`: with the same fields as that of the network.
    - `temperature`: of the draws; 1 acts as in training, 0 takes the likeliest action.
    - `seed`: of the draws: the k-th episode that begins has a generator of its own, whichever stream it is in.

    **Attributes:** `value`: (n,), what the critic expected in the last `act`.
    """

    memory = 0  # episodes are seen from their beginning

    def __init__(self, model: Any, task: TaskSpec, temperature: float = 1.0, seed: int = 0) -> None:
        check_value("temperature", temperature, float, TEMPERATURE)
        check_value("seed", seed, int, SEED)
        self.model, self.task, self.temperature, self.seed = model.eval(), task, temperature, seed
        self.device = next(model.parameters()).device
        self.reset(1)

    def reset(self, num_streams: int = 1, demonstrations: Sequence[Episode] = ()) -> None:
        """Forgets everything. **Raises:** `ValueError` for demonstrations: it learns from rewards, not from examples."""
        if demonstrations:
            raise ValueError("a policy that learned from rewards takes no demonstrations as prompts; leave out --demonstrations")
        self._state = self.model.start(num_streams)
        self._generators: dict[int, np.random.Generator] = {}
        self._begun: set[int] = set()
        self._num_begun = 0

    def begin(self, stream: int, number: int) -> None:
        """The next `act` of a stream starts an episode that goes as the `number`-th to begin goes."""
        self._generators[stream] = np.random.default_rng([self.seed, number])
        self._begun.add(stream)
        self._num_begun = number + 1

    def state(self) -> dict[str, Any]:
        """A copy of all that the streams hold; `load_state` goes on exactly from there."""
        generators = {stream: generator.bit_generator.state for stream, generator in self._generators.items()}
        return {"state": self._state.clone(), "generators": generators, "num_begun": self._num_begun, "begun": set(self._begun)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._state, self._num_begun, self._generators, self._begun = state["state"].clone(), state["num_begun"], {}, set(state["begun"])
        for stream, found in state["generators"].items():
            self._generators[stream] = np.random.default_rng()
            self._generators[stream].bit_generator.state = found

    @torch.inference_mode()
    def act_in(self, observation: Values, reward: np.ndarray | None, first: np.ndarray, streams: np.ndarray) -> dict[str, np.ndarray]:
        """**Raises:** `ValueError` for a text with a word that training never showed."""
        self._check_texts(observation)
        for stream in streams[first]:
            self.begin(int(stream), self._num_begun)
        first = np.array([int(s) in self._begun for s in streams], bool)
        self._begun.difference_update(map(int, streams))
        encoder, choices = self.model.encoder, self.model.choices
        values = {name: torch.from_numpy(np.ascontiguousarray(v)).to(self.device) for name, v in encoder.arrays(observation).items()}
        rows = torch.from_numpy(streams).to(self.device)
        begins = torch.from_numpy(first).to(self.device)
        outputs, self.value, self._state[rows] = self.model.step(values, self._state[rows], begins)
        noise = None
        if self.temperature > 0:
            drawn = np.concatenate([choices.noise(self._generators[int(s)], 1) for s in streams])
            noise = torch.from_numpy(drawn).to(self.device) * self.temperature
        return choices.decode(choices.choose(outputs, self.model.log_deviation, noise).cpu().numpy())

    def has_begun(self, stream: int) -> bool:
        return stream in self._generators

    def _check_texts(self, observation: Mapping[str, np.ndarray]) -> None:
        encoder = self.model.encoder
        for name in encoder.texts:
            for text in observation[name]:
                if unknown := encoder.words.unknown(text):
                    raise ValueError(
                        f"task '{self.task.name}' says '{text}', but training on '{self.model.task.name}' never showed the word "
                        f"'{unknown[0]}'; it knows {len(encoder.words.known)} words"
                    )
