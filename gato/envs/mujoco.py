"""MuJoCo's locomotion and reaching tasks of Gymnasium, from state vectors.

Experts are small networks that `samples/train_expert.py` trained, in the folder `weights` beside this file.
Where there is none, the task is for evaluation, and for collecting with an expert of one's own.
"""

from __future__ import annotations

import os
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import gymnasium
import numpy as np


class NetworkExpert:
    """A trained network of tanh layers, evaluated by NumPy: no learning library is needed to collect.

    **Arguments:**

    - `path`: of a safetensors file that holds `observation.mean`, `observation.std` and, per
      layer k from 0, `layers.k.weight` (out, in) and `layers.k.bias` (out,). The last layer gives the
      action in [-1, 1] before it is scaled to the action space.
    """

    def __init__(self, path: Traversable) -> None:
        from safetensors.numpy import load

        self.tensors = load(path.read_bytes())
        self.num_layers = sum(key.endswith(".weight") for key in self.tensors)

    def reset(self, env: gymnasium.Env) -> None:
        """Nothing to forget."""

    def act(self, env: gymnasium.Env, observation: np.ndarray) -> np.ndarray:
        hidden = np.clip((observation - self.tensors["observation.mean"]) / self.tensors["observation.std"], -10, 10)
        for k in range(self.num_layers):
            hidden = self.tensors[f"layers.{k}.weight"] @ hidden + self.tensors[f"layers.{k}.bias"]
            if k < self.num_layers - 1:
                hidden = np.tanh(hidden)
        space: Any = env.action_space
        low, high = space.low, space.high
        return (low + (np.clip(hidden, -1, 1) + 1) / 2 * (high - low)).astype(np.float32)


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    if render_mode is not None:
        os.environ.setdefault("MUJOCO_GL", "egl")
    return gymnasium.make(env_id, render_mode=render_mode, disable_env_checker=True, **kwargs)


def _trained(name: str) -> NetworkExpert:
    return NetworkExpert(resources.files(__package__).joinpath("weights", f"{name}.safetensors"))


_TRAINED = ("inverted-pendulum",)
EXPERTS = {f"trained-{name}": lambda env_id, _name=name, **kwargs: _trained(_name) for name in _TRAINED}
