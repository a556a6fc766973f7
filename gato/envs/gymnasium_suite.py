"""Classic control, Box2D and tabular games of Gymnasium, and every other Gymnasium id, also as `MODULE:ID`.

The experts are hand rules of a few lines, and value iteration where the transition table is known. Each
acts from the observation alone, so a student can in principle copy it exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from .demonstrator import Expert, RuleExpert
from .own import find


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    """A Gymnasium environment; pictures are drawn without a display.

    Gymnasium's passive checker is off: it warns whenever a simulator leaves its declared bounds, which
    recordings count instead. A `render_mode` is only passed where one is wanted: many environments take none.

    **Raises:** `ValueError` where there is no such module or id.
    """
    spec, _ = find(env_id)
    if render_mode == "rgb_array":
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    wanted: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    return gymnasium.make(spec.id, disable_env_checker=True, **wanted, **kwargs)


def balance_cart(env: gymnasium.Env, observation: np.ndarray) -> int:
    """Linear feedback on position, velocity, angle and angular velocity."""
    return int(np.dot((0.6, 1.1, 18.0, 3.5), observation) > 0)


def climb_by_swinging(env: gymnasium.Env, observation: np.ndarray) -> int:
    """Pushes along the velocity inside a region of the phase plane found by hand, back otherwise."""
    position, velocity = observation
    lower = min(-0.09 * (position + 0.25) ** 2 + 0.03, 0.3 * (position + 0.9) ** 4 - 0.008)
    upper = -0.07 * (position + 0.38) ** 2 + 0.07
    return 2 if lower < velocity < upper else 0


def push_along_velocity(env: gymnasium.Env, observation: np.ndarray) -> np.ndarray:
    """Full force in the direction of motion pumps energy into the car at every step."""
    return np.array([1.0 if observation[1] > 0 else -1.0], dtype=np.float32)


def swing_first_joint(env: gymnasium.Env, observation: np.ndarray) -> int:
    """Torque against the first joint's velocity drives the second link as a swing."""
    return 0 if observation[4] > 0 else 2


def raise_pendulum(env: gymnasium.Env, observation: np.ndarray) -> np.ndarray:
    """Pumps energy towards that of standing upright, then holds with proportional-derivative feedback."""
    cosine, sine, velocity = (float(v) for v in observation)
    if cosine > 0.9 or (cosine > 0.6 and abs(velocity) < 3):
        torque = -(14 * np.arctan2(sine, cosine) + 3.2 * velocity)
    else:
        energy = velocity**2 / 6 + 5 * (cosine - 1)  # rod of mass and length 1 with g = 10: inertia 1/3
        torque = -2 * energy * np.sign(velocity) if velocity != 0 else 2.0
    return np.array([np.clip(torque, -2, 2)], dtype=np.float32)


def land(env: gymnasium.Env, observation: np.ndarray) -> int:
    """The structure of LunarLander's bundled heuristic with gains found by random search on 200 seeds.

    The bundled gains crash in about one episode of ten when the engines are on or off only.
    """
    x, y, speed_x, speed_y, angle, turning, left_leg, right_leg = (float(v) for v in observation)
    if left_leg or right_leg:  # touching: only slow the fall
        turn, lift = 0.0, -0.53 * speed_y
    else:
        target_angle = np.clip(0.71 * x + 1.22 * speed_x, -0.46, 0.46)  # lean towards the pad
        turn = 0.73 * (target_angle - angle) - 1.55 * turning
        lift = 0.3 * (0.4 * abs(x) - y) - 0.48 * speed_y
    if lift > max(abs(turn), 0.06):
        return 2
    return 0 if abs(turn) <= 0.05 else 3 if turn < 0 else 1


def land_smoothly(env: gymnasium.Env, observation: np.ndarray) -> np.ndarray:
    """The heuristic that ships with LunarLander, for continuous engines."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    return np.asarray(heuristic(env.unwrapped, observation), dtype=np.float32)


class TabularExpert:
    """The greedy policy of value iteration on an environment that publishes its transition table."""

    def __init__(self, discount: float = 0.99) -> None:
        self.discount = discount
        self.best: np.ndarray | None = None

    def reset(self, env: gymnasium.Env) -> None:
        if self.best is None:
            self.best = self._solve(env.get_wrapper_attr("P"))

    def act(self, env: gymnasium.Env, observation: Any) -> int:
        assert self.best is not None, "reset comes first"
        return int(self.best[observation])

    def _solve(self, table: dict[int, dict[int, list[tuple[float, int, float, bool]]]]) -> np.ndarray:
        """(S,) best action of each state; `table[state][action]` lists (probability, next state, reward, ends)."""
        values = np.zeros(len(table))
        while True:
            worth = np.array([[self._worth(outcomes, values) for outcomes in actions.values()] for actions in table.values()])
            change, values = np.abs(worth.max(axis=1) - values).max(), worth.max(axis=1)
            if change < 1e-9:
                return worth.argmax(axis=1)

    def _worth(self, outcomes: list[tuple[float, int, float, bool]], values: np.ndarray) -> float:
        return sum(p * (reward + self.discount * values[after] * (not ends)) for p, after, reward, ends in outcomes)


_RULES = {
    "balance-cart": balance_cart,
    "climb-by-swinging": climb_by_swinging,
    "push-along-velocity": push_along_velocity,
    "swing-first-joint": swing_first_joint,
    "raise-pendulum": raise_pendulum,
    "land": land,
    "land-smoothly": land_smoothly,
}
EXPERTS: dict[str, Callable[..., Expert]] = {name: lambda env_id, _rule=rule, **kwargs: RuleExpert(_rule) for name, rule in _RULES.items()}
EXPERTS |= {"value-iteration": lambda env_id, **kwargs: TabularExpert()}
