"""Environments as users have them, registered when this module is imported; for tests/test_own_envs.py.

`Line` can be checked by hand: a place from 0 to 4, action 1 goes right, the right end is the goal. Each class below does one
thing differently.
"""

import os
import sys
from fractions import Fraction

import gymnasium
import numpy as np
from gymnasium import spaces

print("own_envs speaks while it is imported")


class Line(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(4))
        return self.seen(), {}

    def seen(self):
        return self.place

    def step(self, action):
        self.place = min(max(self.place + (1 if action == 1 else -1), 0), 4)
        return self.seen(), float(self.place == 4), self.place == 4, False, {}

    def render(self):
        return np.full((16, 16, 3), 50 * self.place, np.uint8)


class Right:
    """The expert."""

    def reset(self, env):
        pass

    def act(self, env, observation):
        return 1


class Speaks(Right):
    def act(self, env, observation):
        print("the expert speaks")
        return 1


class Leaves(Right):
    def act(self, env, observation):
        sys.exit("the expert leaves")


class Bare(Line):
    """Takes no render_mode, and so cannot draw."""

    metadata = {"render_modes": []}

    def __init__(self):
        pass

    def render(self):
        raise NotImplementedError


class DrawsChance(Line):
    """Goes astray by chance, and draws from the same chance when it is looked at."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def seen(self):
        self.state = getattr(self, "state", np.zeros(2)) * 0.9 + self.np_random.normal(scale=0.1, size=2)
        return np.clip(self.state, -1, 1).astype(np.float32)

    def step(self, action):
        self.count = getattr(self, "count", 0) + 1
        return self.seen(), float(self.state.sum()), self.count % 7 == 0, False, {}

    def render(self):
        return self.np_random.integers(0, 255, (20, 20, 3), dtype=np.uint8)


class Endless(Line):
    def step(self, action):
        return self.place, 1.0, False, False, {}


class Speaking(Line):
    def step(self, action):
        print("the environment speaks")
        os.write(1, b"and so does a library in C\n")
        return super().step(action)


class Exiting(Line):
    def step(self, action):
        sys.exit(3)


class Breaking(Line):
    def step(self, action):
        raise KeyError("motor")


class NoInfo(Line):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], None

    def step(self, action):
        return (*super().step(action)[:4], None)


class OurKey(Line):
    """What it calls `parameters` is none of ours, and no mapping."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"parameters": np.arange(3), "collection": object()}


class Reports(Line):
    def step(self, action):
        observation, reward, *rest, _ = super().step(action)
        return (observation, reward - 0.1, *rest, {"is_success": np.bool_(self.place == 4), "distance": 4 - self.place})


class OldReset(Line):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class OldStep(Line):
    def step(self, action):
        observation, reward, done, _, info = super().step(action)
        return observation, reward, done, info


class NoSeed(Line):
    def reset(self):
        return super().reset()


class EmptyDict(Line):
    observation_space = spaces.Dict({})


class Sequences(Line):
    observation_space = spaces.Sequence(spaces.Discrete(3))


class Spaceless(gymnasium.Env):
    pass


class CannotBeMade(Line):
    def __init__(self, render_mode=None):
        raise ConnectionError("no robot at /dev/ttyUSB0")


class Unbounded(Line):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class ScalarAction(Line):
    action_space = spaces.Box(0, 1, (), np.float32)

    def step(self, action):
        assert isinstance(action, np.ndarray) and self.action_space.contains(action)
        return super().step(1)

    def close(self):
        raise OSError("closed twice")


class Everything(Line):
    observation_space = spaces.Dict({
        "scalar": spaces.Box(-10, 10, (), np.float64),
        "matrix": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
        "shifted": spaces.Discrete(5, start=-2),
        "several": spaces.MultiDiscrete([3, 4], start=[1, -1]),
        "bits": spaces.MultiBinary(3),
        "pair": spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 1, (2,), np.float32))),
        "said": spaces.Text(12),
        "nested": spaces.Dict({"flag": spaces.Box(0, 1, (), np.int8), "bytes": spaces.Box(0, 255, (4,), np.uint8)}),
    })  # fmt: skip
    action_space = spaces.Dict({
        "move": spaces.Box(-2, 3, (2, 3), np.float64),
        "grip": spaces.Discrete(3, start=4),
        "pair": spaces.Tuple((spaces.MultiDiscrete([2, 3], start=[0, 5]), spaces.Box(np.float32([0, -1]), np.float32([1, 5])))),
        "bits": spaces.MultiBinary(2),
    })  # fmt: skip

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.seen(), {}

    def seen(self):
        return self.observation_space.sample()

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.seen(), 1.0, True, False, {}


class Float64(Line):
    """What it gives is of another kind than its space says."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def seen(self):
        return np.array([0.5, 7.0], np.float64) if self.place else [0.25, 0]


REWARDS = {
    "Int": 1, "Numpy": np.float32(1), "ZeroD": np.array(1.0), "OneElement": np.array([1.0], np.float32), "Fraction": Fraction(1, 1),
    "Bool": np.bool_(True), "List": [1.0],
}  # fmt: skip
NO_REWARDS = {"Nan": float("nan"), "None": None, "Two": np.ones(2), "Text": "1.0", "Huge": 1e300, "Complex": 1j}


def rewarding(reward):
    def step(self, action):
        observation, _, terminated, truncated, info = Line.step(self, action)
        return observation, reward if terminated else 0, terminated, truncated, info

    return step


FRAMES = {
    "List": [np.zeros((8, 8, 3), np.uint8)] * 2, "Grey": np.zeros((8, 8)), "Alpha": np.zeros((8, 8, 4), np.uint8),
    "ChannelsFirst": np.zeros((3, 8, 8), np.uint8), "Shares": np.full((8, 8, 3), 0.5), "Lists": [[[0, 0, 0]] * 8] * 8,
}  # fmt: skip
NO_FRAMES = {"Nothing": None, "Words": "a picture", "Flat": np.zeros(8, np.uint8), "Empty": np.zeros((0, 0, 3), np.uint8),
             "Bright": np.full((8, 8, 3), 900)}  # fmt: skip

made = [v for v in list(globals().values()) if isinstance(v, type) and issubclass(v, gymnasium.Env)]
made += [type(f"Reward{name}", (Line,), {"step": rewarding(value)}) for name, value in (REWARDS | NO_REWARDS).items()]
made += [type(f"Draws{name}", (Line,), {"render": lambda self, value=value: value}) for name, value in (FRAMES | NO_FRAMES).items()]
for kind in made:
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind if kind.__name__ not in globals() else f"{__name__}:{kind.__name__}")
gymnasium.register("Line-v1", entry_point=f"{__name__}:Line", max_episode_steps=30)
gymnasium.register("toy/Mine-v0", entry_point=f"{__name__}:Line", max_episode_steps=30)


def reached(total_reward, terminated, info):
    """A success criterion."""
    return info["distance"] == 0
