"""What the tests of several formats share: a store of some episodes, and what makes two episodes equal."""

from pathlib import Path

import numpy as np

from gato.data.store import Store, StoreWriter
from gato.episode import Episode


def stored(path: Path, *episodes: Episode, **provenance) -> Store:
    with StoreWriter(path, [episodes[0].task], provenance) as writer:
        for episode in episodes:
            writer.append(episode)
    return Store(path)


def assert_equal(found: Episode, expected: Episode) -> None:
    """All values with their dtypes, the last observation and all labels."""
    pairs = [(found.observations, expected.observations), (found.actions, expected.actions)]
    assert (found.final_observation is None) == (expected.final_observation is None)
    pairs.append((found.final_observation or {}, expected.final_observation or {}))
    for mine, theirs in pairs:
        assert set(mine) == set(theirs)
        for name, values in theirs.items():
            assert np.asarray(mine[name]).dtype == np.asarray(values).dtype, name
            np.testing.assert_array_equal(mine[name], values)
    np.testing.assert_array_equal(found.rewards, expected.rewards)
    labels = ("terminated", "truncated", "behaviour", "success", "seed", "parameters")
    assert [getattr(found, name) for name in labels] == [getattr(expected, name) for name in labels]
