"""Who takes over from a policy: a rule with an expert behind it, or a person at the keyboard."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gato.envs.demonstrator import Expert
from gato.spec import Modality, TaskSpec

AXES = ("ad", "sw", "qe", "fr", "gt", "hy", "ju")  # keys for less and more of each continuous number
HOLD_SECONDS = 0.3  # that a key stays pressed, as a terminal repeats it


class ExpertCorrector:
    """Takes over where the policy would do something else than an expert, for some timesteps at a time.

    **Arguments:** `apart`: how far a continuous action may be from the expert's, as a share of its range; a discrete one may not differ;
    `patience`: how many timesteps in a row that is watched; `hold`: for how many it keeps acting then.
    """

    def __init__(self, task: TaskSpec, expert: Expert, apart: float = 0.25, patience: int = 3, hold: int = 10) -> None:
        self.task, self.expert, self.apart, self.patience, self.hold = task, expert, apart, patience, hold

    def begin(self, env: Any) -> None:
        self.expert.reset(env)
        self._watched = self._left = 0

    def __call__(self, env: Any, observation: Any, action: Any) -> Any | None:
        own = self.expert.act(env, observation)
        self._watched = self._watched + 1 if self._differ(own, action) else 0
        if self._left == 0 and self._watched >= self.patience:
            self._left = self.hold
        if self._left == 0:
            return None
        self._left -= 1
        return own

    def wants_kept(self) -> bool:
        return False

    def _differ(self, own: Any, action: Any) -> bool:
        mine, theirs = self.task.flatten(own, "action"), self.task.flatten(action, "action")
        for spec in self.task.actions:
            if spec.modality is Modality.CONTINUOUS:
                low, high = spec.bounds
                distance = np.abs(np.asarray(mine[spec.name], np.float64) - np.asarray(theirs[spec.name], np.float64)) / (high - low)
                if (distance > self.apart).any():
                    return True
            elif not np.array_equal(mine[spec.name], theirs[spec.name]):
                return True
        return False


class Keyboard:
    """A person at a terminal: space takes over and hands back, k keeps what just happened.

    While they act, digits are the values of a discrete action (from its lowest one on), and pairs of letters push the numbers of a
    continuous one down and up: a and d the first, s and w the second, then q e, f r, g t, h y, j u.

    **Arguments:** `strength`: of a push, as a share of half the range; `read`: gives the keys that were pressed since it was called
    last; `now`: a clock in seconds.

    **Raises:** `ValueError` for a task with more than one action field, or more choices or numbers than there are keys.
    """

    def __init__(
        self,
        task: TaskSpec,
        strength: float = 1.0,
        read: Callable[[], str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        (spec,) = task.actions if len(task.actions) == 1 else (None,)
        if spec is None or spec.modality is Modality.TEXT:
            raise ValueError(f"task '{task.name}' has {len(task.actions)} action fields; the keyboard plays one of numbers or choices")
        choices = int((spec.bounds[1] - spec.bounds[0]).max()) + 1 if spec.modality is Modality.DISCRETE else 0
        if choices > 10 or (choices and spec.size > 1) or (not choices and spec.size > len(AXES)):
            raise ValueError(f"action '{spec.name}' of task '{task.name}' has more parts than there are keys; give a callback instead")
        self.task, self.spec, self.strength, self.now = task, spec, strength, now
        self.read = read or keys_of(sys.stdin)
        self.begin(None)

    def begin(self, env: Any) -> None:
        self.acts = self._kept = False
        self._pressed: dict[str, float] = {}  # when each key was pressed last

    def __call__(self, env: Any, observation: Any, action: Any) -> Any | None:
        for key in self.read():
            if key == " ":
                self.acts = not self.acts
            elif key == "k":
                self._kept = True
            else:
                self._pressed[key] = self.now()
        if not self.acts:
            return None
        return self.task.unflatten_action({self.spec.name: self._action()})

    def wants_kept(self) -> bool:
        kept, self._kept = self._kept, False
        return kept

    def _action(self) -> np.ndarray:
        """What the keys say that are down; of a discrete action the last one."""
        held = {key for key, at in self._pressed.items() if self.now() - at <= HOLD_SECONDS}
        low, high = self.spec.bounds
        if self.spec.modality is Modality.DISCRETE:
            digits = sorted((at, key) for key, at in self._pressed.items() if key.isdigit() and int(key) <= high.max() - low.min())
            value = low + (int(digits[-1][1]) if digits and digits[-1][1] in held else 0)
            return np.asarray(value).astype(self.spec.dtype)
        pushes = np.array([(axis[1] in held) - (axis[0] in held) for axis in AXES[: self.spec.size]], np.float64)
        middle, half = (low + high) / 2, (high - low) / 2
        return (middle + self.strength * half * pushes.reshape(self.spec.shape)).astype(self.spec.dtype)


def keys_of(file: Any) -> Callable[[], str]:
    """A function that gives the keys pressed since it was called last, without waiting."""

    waiting = select.poll()  # `select.select` knows no file above number 1,023
    waiting.register(file, select.POLLIN | select.POLLHUP)

    def read() -> str:
        found = b""
        while waiting.poll(0) and (more := os.read(file.fileno(), 1024)):
            found += more
        return found.decode("utf-8", "ignore")

    return read


@contextmanager
def single_keys(file: Any) -> Iterator[None]:
    """Keys come one by one, unechoed, where the file is a terminal."""
    if not file.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(file)
    tty.setcbreak(file)
    try:
        yield
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)
