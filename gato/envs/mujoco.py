"""MuJoCo's locomotion and reaching tasks of Gymnasium, from state vectors.

Experts are rules of a few lines, and small networks that `samples/train_expert.py` trained, in the folder `weights`
beside this file. Where there is none, the task is for evaluation, and for collecting with an expert of one's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import gymnasium
import numpy as np

from .demonstrator import Expert, RuleExpert

LINKS = 0.1, 0.11  # metres, from the shoulder to the wrist and from there to the fingertip of the reacher
# Of the linear-quadratic regulator of two upright poles: costs 10, 100, 100 of place and angles, 1 of speeds, 0.1 of force.
BALANCE = np.array([0.249, 2.145, 6.167, 0.366, 1.031, 0.945])
SPRING, DAMPING = np.array([0.4, 0.2]), np.array([0.06, 0.04])  # of the reacher's joints, found by a small grid


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


def balance_two_poles(env: gymnasium.Env, observation: np.ndarray) -> np.ndarray:
    """Linear feedback on place, both angles and their speeds."""
    place, sines, cosines, speeds = observation[0], observation[1:3], observation[3:5], observation[5:8]
    state = np.concatenate([[place], np.arctan2(sines, cosines), speeds])
    return np.clip([-BALANCE @ state], -1, 1).astype(np.float32)


def reach_target(env: gymnasium.Env, observation: np.ndarray) -> np.ndarray:
    """Both joint angles that put the fingertip on the target, by the law of cosines, and a spring to the nearer pair."""
    angles, (x, y), speeds = np.arctan2(observation[2:4], observation[:2]), observation[4:6], observation[6:8]
    upper, lower = LINKS
    bend = np.arccos(np.clip((x**2 + y**2 - upper**2 - lower**2) / (2 * upper * lower), -1, 1))
    errors = []
    for wrist in (bend, -bend):
        shoulder = np.arctan2(y, x) - np.arctan2(lower * np.sin(wrist), upper + lower * np.cos(wrist))
        turn = (shoulder - angles[0] + np.pi) % (2 * np.pi) - np.pi
        errors.append(np.array([turn, wrist - angles[1]]))  # the wrist cannot turn around
    error = min(errors, key=lambda e: np.abs(e).max())
    return np.clip(SPRING * error - DAMPING * speeds, -1, 1).astype(np.float32)


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    if render_mode is not None:
        os.environ.setdefault("MUJOCO_GL", "egl")
    return gymnasium.make(env_id, render_mode=render_mode, disable_env_checker=True, **kwargs)


def _trained(name: str) -> NetworkExpert:
    return NetworkExpert(resources.files(__package__).joinpath("weights", f"{name}.safetensors"))


_TRAINED = ("inverted-pendulum",)
_RULES = {"balance-two-poles": balance_two_poles, "reach-target": reach_target}
EXPERTS: dict[str, Callable[..., Expert]] = {name: lambda env_id, _rule=rule, **kwargs: RuleExpert(_rule) for name, rule in _RULES.items()}
EXPERTS |= {f"trained-{name}": lambda env_id, _name=name, **kwargs: _trained(_name) for name in _TRAINED}
