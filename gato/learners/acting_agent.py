"""A network that learned by acting in one task, as policies."""

from __future__ import annotations

from gato import envs
from gato.given import first_of
from gato.spec import TaskSpec

from .other import NetworkAgent
from .ppo.policy import PPOPolicy


class ActingAgent(NetworkAgent):
    """Acts in every task with the fields of its own."""

    def task(self, name: str) -> TaskSpec:
        """Its own task, or another one with the same fields. **Raises:** `ValueError` for one that looks or acts otherwise."""
        own = self.own_task
        if name.rpartition(":")[2] == own.name.rpartition(":")[2]:
            return own
        task = envs.task(name)
        if differences := own.differences(task, raw=True):
            raise ValueError(f"this checkpoint was not trained on '{name}', which differs from '{own.name}': {first_of(differences)}")
        return task

    def policy(
        self, task: str | TaskSpec | None = None, temperature: float | None = None, overflow: str = "rebuild", seed: int = 0,
        memory: int | None = None,
    ) -> PPOPolicy:  # fmt: skip
        """See `PPOPolicy`; by default it draws as in training. **Raises:** `ValueError` for a task with other fields, or a memory."""
        if overflow != "rebuild" or memory:
            raise ValueError(f"memory is {memory} and overflow '{overflow}', but this policy has a state of its own; leave them out")
        own = self.own_task
        spec = self.task(task) if isinstance(task, str) else own if task is None else task
        if differences := own.differences(spec, raw=True):
            raise ValueError(f"task '{spec.name}' differs from '{own.name}', which was trained on: {first_of(differences)}")
        return PPOPolicy(self.model, spec, 1.0 if temperature is None else temperature, seed)
