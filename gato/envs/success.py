"""Whether an episode succeeded, by the criterion that the task spec states in words.

The words are few, so that a spec saved with a checkpoint can still be applied years later:
`"return >= NUMBER"`, `"terminated"` (the goal ends the episode) or `"reported"` (the environment's
`info["success"]`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def succeeded(criterion: str | None, total_reward: float, terminated: bool, info: Mapping[str, Any]) -> bool | None:
    """Applies a criterion to a finished episode.

    **Arguments:**

    - `criterion`: `TaskSpec.success`; `None` where success is not defined.
    - `total_reward`, `terminated`, `info`: the episode's return and how its last step ended.

    **Returns:** True, False, or `None` without a criterion.

    **Raises:** `ValueError` for a criterion that is none of the three.
    """
    if criterion is None:
        return None
    if criterion == "terminated":
        return bool(terminated)
    if criterion == "reported":
        return bool(info.get("success", False))
    words = criterion.split()
    if words[:2] == ["return", ">="] and len(words) == 3:
        return total_reward >= float(words[2])
    raise ValueError(f"unknown success criterion '{criterion}'; write 'return >= NUMBER', 'terminated' or 'reported'")
