"""Whether a store's episodes have returns that can be learned from."""

from __future__ import annotations

import logging

import numpy as np

from .store import Store

_log = logging.getLogger(__name__)


def check_returns(name: str, store: Store, episodes: np.ndarray, otherwise: str) -> None:
    """Reads every return, and where all are zero the rewards.

    **Arguments:** `name` of the source; `episodes`: that take part; `otherwise`: what to do without
    rewards, for the message.

    **Raises:** `ValueError` for episodes without a reward. Warns of episodes whose returns are all
    the same, and of noisy ones.
    """
    returns = store.returns[episodes]
    if not returns.any() and not any(store.rewards(int(i)).any() for i in episodes):
        raise ValueError(
            f"source '{name}': the rewards of its {len(episodes)} episodes are all zero, so there are no returns to learn from; "
            f"record it with rewards, or {otherwise}"
        )
    if np.ptp(returns) == 0:
        _log.warning("source '%s': all %d episodes have the return %g, so no other can be asked for", name, len(episodes), returns[0])
    if count := int((store.behaviours[episodes] == "noisy").sum()):
        _log.warning(
            "source '%s': %d of %d episodes are noisy: some of their recorded actions are not the ones that earned the rewards; "
            "'behaviours' chooses others", name, count, len(episodes),
        )  # fmt: skip
