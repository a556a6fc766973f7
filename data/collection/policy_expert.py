"""A trained policy in an expert's place: it acts from what it sees, and its episodes become demonstrations."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gato import digests
from gato.episode import Behaviour
from gato.setting import MAX_SEED

if TYPE_CHECKING:
    import gymnasium

PREFIX, WEIGHTS = "policy/", "model*.safetensors"


def policy_name(folder: Path, behaviour: Behaviour) -> str:
    """What a collection calls the policy of a checkpoint as its expert: behaviour, hash of the weights, folder."""
    return f"{PREFIX}{behaviour}/{_weights(folder)}:{folder}"


class PolicyExpert:
    """**Arguments:** `task`: to act in; `name`: see `policy_name`.

    **Raises:** `ValueError` where the folder holds other weights by now, or a policy that must be told rewards.
    """

    def __init__(self, task: str, name: str) -> None:
        from gato.agent import load

        head, _, folder = name.partition(":")
        _, behaviour, weights = head.split("/")
        if (found := _weights(Path(folder))) != weights:
            raise ValueError(f"'{folder}' holds other weights ({found}) than those that the collection began with ({weights})")
        self.behaviour = behaviour
        self.policy = load(folder, "cpu", verify=False).policy(task)
        if getattr(self.policy, "target_return", None) is not None:
            raise ValueError(f"the policy of '{folder}' is asked for a return and told rewards, which experts are not; use eval --record")

    def reset(self, env: gymnasium.Env) -> None:
        """The episode's own seed decides what is drawn, so a store does not depend on who plays which episode."""
        self.policy.seed = int(env.action_space.np_random.integers(MAX_SEED))
        self.policy.reset(1)

    def act(self, env: gymnasium.Env, observation: Any) -> Any:
        return self.policy.act_one(observation)


def _weights(folder: Path) -> str:
    """Twelve digits of the hash of a checkpoint's weights; of shards, of the hash of all their hashes."""
    found = [digests.sha256(path) for path in sorted(folder.glob(WEIGHTS))]
    if len(found) > 1:
        return hashlib.sha256("".join(found).encode()).hexdigest()[:12]
    return found[0][:12] if found else "none"
