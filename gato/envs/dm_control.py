"""The DeepMind Control Suite from state vectors: hand rules for small systems, sampled plans for one more.

Rewards lie in [0, 1] at each of the 1,000 timesteps. The planner copies the simulator's state, which the
student never sees; the rules read the observation alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from .demonstrator import Expert, RuleExpert

with warnings.catch_warnings():  # that there is no display, which only pictures need
    warnings.simplefilter("ignore")
    from dm_control import suite

LINK = 0.12  # metres, both links of the reacher
SPRING, DAMPING = 4.0, 0.4  # of the reacher's joints


class Suite(gymnasium.Env):
    """A `DOMAIN-TASK` of the suite with Gymnasium's spaces; observations become float32."""

    def __init__(self, domain: str, task: str, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
        self.simulation = suite.load(domain, task, task_kwargs={"random": 0})
        limits = self.simulation.action_spec()
        self.action_space = spaces.Box(limits.minimum.astype(np.float32), limits.maximum.astype(np.float32), dtype=np.float32)
        values = self.simulation.observation_spec()
        self.observation_space = spaces.Dict({k: spaces.Box(-np.inf, np.inf, v.shape, np.float32) for k, v in values.items()})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.simulation.task.random.seed(seed)
        return _float32(self.simulation.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        step = self.simulation.step(action)
        terminated = step.last() and step.discount == 0
        return _float32(step.observation), float(step.reward), terminated, step.last() and not terminated, {}

    def render(self) -> np.ndarray:
        """(96, 96, 3) uint8; needs EGL or OSMesa."""
        return self.simulation.physics.render(96, 96, camera_id=0)


def _float32(observation: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, dtype=np.float32) for name, value in observation.items()}


def hold_point(env: gymnasium.Env, observation: dict[str, np.ndarray]) -> np.ndarray:
    """Proportional-derivative feedback to the middle of the arena."""
    return _clipped(-20 * observation["position"] - 10 * observation["velocity"])


def reach(env: gymnasium.Env, observation: dict[str, np.ndarray]) -> np.ndarray:
    """Both joint angles that put the finger on the target, by the law of cosines, and a spring to them."""
    shoulder, wrist = (float(v) for v in observation["position"])
    finger = LINK * np.array([np.cos(shoulder) + np.cos(shoulder + wrist), np.sin(shoulder) + np.sin(shoulder + wrist)])
    x, y = finger + observation["to_target"]
    bend = np.arccos(np.clip((x**2 + y**2) / (2 * LINK**2) - 1, -1, 1))
    aims = [np.array([np.arctan2(y, x) - side * bend / 2, side * bend]) for side in (1, -1)]
    errors = [np.array([_turn(aim[0] - shoulder), aim[1] - wrist]) for aim in aims]  # the wrist cannot turn around
    error = min(errors, key=lambda e: np.abs(e).max())
    return _clipped(SPRING * error - DAMPING * observation["velocity"])


def balance_pole(env: gymnasium.Env, observation: dict[str, np.ndarray]) -> np.ndarray:
    """Swings the pole up by adding energy, then holds it with linear feedback that also centres the cart."""
    place, cosine, sine = observation["position"]
    speed, turning = observation["velocity"]
    if cosine > 0.8 and abs(turning) < 3:
        return _clipped(0.12 * place + 0.25 * speed + 2.5 * np.arctan2(sine, cosine) + 0.6 * turning)
    missing = 9.81 * (1 - cosine) - turning**2 / 3  # the energy up to the top, in units of half of mass times length
    return _clipped(-np.sign(turning * cosine) * np.clip(0.3 * missing, -0.8, 0.8) - 0.4 * place - 0.15 * speed)


def swing_up(env: gymnasium.Env, observation: dict[str, np.ndarray]) -> np.ndarray:
    """Torque along the velocity until the energy is that of standing upright, then feedback."""
    cosine, sine = (float(v) for v in observation["orientation"])
    turning = float(observation["velocity"][0])
    if cosine > 0.98:
        return _clipped(-(15 * np.arctan2(sine, cosine) + 3 * turning))
    missing = 19.62 * (1 - cosine) - turning**2 / 2  # the energy up to the top, in units of a quarter of its inertia
    return _clipped(3 * missing * np.sign(turning or 1.0))


def _turn(angle: float) -> float:
    """The same angle within half a turn."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _clipped(action: Any) -> np.ndarray:
    return np.clip(np.atleast_1d(action), -1, 1).astype(np.float32)


class PlanningExpert:
    """Predictive sampling: tries random changes of the last plan on a copy of the state and keeps the best.

    **Arguments:**

    - `horizon`: decisions looked ahead; `samples`: plans tried; `knots`: different actions in a plan.
    - `spread`: standard deviation of the changes, as a share of half the action range.
    - `hold`: timesteps that one decision lasts.
    """

    def __init__(self, horizon: int, samples: int, knots: int = 5, spread: float = 0.5, hold: int = 2) -> None:
        self.horizon, self.samples, self.knots, self.spread, self.hold = horizon, samples, knots, spread, hold

    def reset(self, env: gymnasium.Env) -> None:
        import mujoco

        self.generator = np.random.default_rng(0)  # the plan depends on the state alone, so episodes repeat
        self.plan = np.zeros((self.knots, *(env.action_space.shape or ())))
        self.num_steps = 0
        self.part = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self.state = np.empty(mujoco.mj_stateSize(env.get_wrapper_attr("simulation").physics.model.ptr, self.part))

    def act(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        if self.num_steps % self.hold == 0:
            self._improve(env)
            if (self.num_steps // self.hold) % (self.horizon // self.knots) == 0 and self.num_steps:
                self.plan = np.roll(self.plan, -1, axis=0)
        self.num_steps += 1
        return self.plan[0].astype(np.float32)

    def _improve(self, env: gymnasium.Env) -> None:
        import mujoco

        suite_env: Any = env.unwrapped
        simulation = suite_env.simulation
        model, data = simulation.physics.model.ptr, simulation.physics.data.ptr
        space: Any = env.action_space
        low, high = space.low, space.high
        control = data.ctrl.copy()
        mujoco.mj_getState(model, data, self.state, self.part)
        changes = self.spread * (high - low) / 2 * self.generator.standard_normal((self.samples, *self.plan.shape))
        changes[0] = 0
        plans = np.clip(self.plan + changes, low, high)
        values = [self._value(simulation, plan) for plan in plans]
        self.plan = plans[int(np.argmax(values))]
        mujoco.mj_setState(model, data, self.state, self.part)
        data.ctrl[:] = control
        mujoco.mj_forward(model, data)

    def _value(self, simulation: Any, plan: np.ndarray) -> float:
        """The discounted reward of following a plan from the remembered state."""
        import mujoco

        physics = simulation.physics
        mujoco.mj_setState(physics.model.ptr, physics.data.ptr, self.state, self.part)
        value, held = 0.0, round(simulation.control_timestep() / physics.timestep()) * self.hold
        for step in range(self.horizon):
            physics.data.ctrl[:] = plan[step * self.knots // self.horizon]
            physics.step(held)
            value += simulation.task.get_reward(physics) * 0.99**step
        return value


def make(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    """`env_id` is DOMAIN-TASK, for example `cartpole-swingup`."""
    domain, task = env_id.split("-")
    return Suite(domain, task, render_mode, **kwargs)


_RULES = {"hold-point": hold_point, "reach": reach, "balance-pole": balance_pole, "swing-up": swing_up}
EXPERTS: dict[str, Callable[..., Expert]] = {name: lambda env_id, _rule=rule, **kwargs: RuleExpert(_rule) for name, rule in _RULES.items()}
EXPERTS |= {"plan": lambda env_id, **kwargs: PlanningExpert(horizon=20, samples=24, hold=3)}
