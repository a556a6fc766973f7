"""What the tests of several formats share: an episode of every kind of field, a store, and what makes two episodes equal."""

from pathlib import Path

import numpy as np

from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec


def everything(length: int, draw: int, actions: tuple[str | int, str | int] = ("motors", "grip"), **rest) -> Episode:
    """A camera, a sentence, nested sensors of two kinds; two motors and a switch, under these keys."""
    motors, grip = actions
    task = TaskSpec(
        "toy/everything",
        (
            FieldSpec("camera", Modality.IMAGE, "observation", (16, 32, 3), "uint8", path=("camera",)),
            FieldSpec("goal", Modality.TEXT, "observation", dtype="str", path=("goal",)),
            FieldSpec("arm/angles", Modality.CONTINUOUS, "observation", (2, 3), "float64", path=("arm", "angles")),
            FieldSpec("arm/speed", Modality.CONTINUOUS, "observation", path=("arm", "speed")),
            FieldSpec("arm/touch", Modality.DISCRETE, "observation", (2,), "bool", (0,), (1,), path=("arm", "touch")),
            FieldSpec(str(motors), Modality.CONTINUOUS, "action", (2,), low=(-1.0, 0.0), high=(1.0, 10.0), path=(motors,)),
            FieldSpec(str(grip), Modality.DISCRETE, "action", dtype="int8", low=(-1,), high=(1,), path=(grip,)),
        ),
        random_return=0.0, expert_return=3.0, success="terminated", licence="MIT",
    )  # fmt: skip
    rng = np.random.default_rng(draw)
    observations = {
        "camera": rng.integers(0, 256, (length + 1, 16, 32, 3), dtype=np.uint8),
        "goal": np.array([f"öffne Tür {draw}"] * (length + 1), object),
        "arm/angles": rng.normal(size=(length + 1, 2, 3)),
        "arm/speed": rng.normal(size=length + 1).astype(np.float32),
        "arm/touch": rng.integers(0, 2, (length + 1, 2)).astype(bool),
    }
    moved = rng.uniform([-1, 0], [1, 10], (length, 2)).astype(np.float32)
    acted = {str(motors): moved, str(grip): rng.integers(-1, 2, length).astype(np.int8)}
    labels = {"final_observation": {k: v[-1] for k, v in observations.items()}} | rest
    return Episode(task, {k: v[:-1] for k, v in observations.items()}, acted, rng.normal(size=length).astype(np.float32), **labels)


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
