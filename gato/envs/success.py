"""Whether an episode succeeded, by the criterion that the task spec states in words; and what else is read from `info`.

The words are few, so that a spec saved with a checkpoint can still be applied years later:

    return >= NUMBER    the sum of the rewards
    terminated          the goal ends the episode
    reported            the last step's info["is_success"] or info["success"]
    info KEY            any other key of it
    MODULE:NAME         a function of one's own, called with (total_reward, terminated, info)

A task without a criterion succeeds as its environment reports, where it reports anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import own

REPORTED = ("is_success", "success")
PARAMETERS = "gato parameters"  # what our families tell of an episode in the info of its reset; nobody else has a key like this
_KNOWN = "'return >= NUMBER', 'terminated', 'reported', 'info KEY' or MODULE:NAME"


def check_criterion(criterion: str | None) -> None:
    """**Raises:** `ValueError` for a criterion that cannot be applied, before an episode is played for it."""
    if criterion is not None and ":" in criterion and not criterion.startswith(("return ", "info ")):
        if not callable(own.attribute(criterion, "success")):
            raise ValueError(f"success '{criterion}' is no function; it is called with (total_reward, terminated, info)")
    else:
        succeeded(criterion, 0.0, False, {})


def succeeded(criterion: str | None, total_reward: float, terminated: bool, info: Mapping[str, Any]) -> bool | None:
    """Applies a criterion to a finished episode.

    **Arguments:**

    - `criterion`: `TaskSpec.success`.
    - `total_reward`, `terminated`, `info`: the episode's return and how its last step ended.

    **Returns:** True, False, or `None` where there is neither a criterion nor a report.

    **Raises:** `ValueError` for a criterion that is none of those above, or a report that is neither true nor false.
    """
    if criterion is None:
        return next((_truth(key, info[key]) for key in REPORTED if _is_truth(info.get(key))), None)
    if criterion == "terminated":
        return bool(terminated)
    if criterion == "reported":
        return next((_truth(key, info[key]) for key in REPORTED if key in info), False)
    kind, _, rest = criterion.partition(" ")
    if kind == "info" and rest:
        return _truth(rest, info.get(rest, False))
    if kind == "return" and rest.startswith(">= ") and _is_number(rest[3:]):
        return total_reward >= float(rest[3:])
    if ":" in criterion:
        return _truth(criterion, own.attribute(criterion, "success")(total_reward, terminated, info))
    raise ValueError(f"unknown success criterion '{criterion}'; write {_KNOWN}")


def _truth(name: str, value: Any) -> bool:
    if not _is_truth(value):
        raise ValueError(f"success by '{name}' is {value!r}, expected true or false")
    return bool(np.asarray(value).item())


def _is_truth(value: Any) -> bool:
    """One bool or number, also as an array of one element."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        return False
    return array.size == 1 and array.dtype.kind in "biuf" and bool(np.isfinite(array).all())


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False
