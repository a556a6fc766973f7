"""Whatever an adapter yields is an episode that equals it, or is refused in one line before anything is written."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato.data.formats.adapter import Adapter
from tests.mutations import ODD, fuzz, mutated_array, mutated_text, mutated_value, one_of, seeds

TEXT = """import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Text
from gato.spec import TaskSpec
task = TaskSpec.from_spaces("lab/toy", Dict(a=Box(-1, 1, (2,)), b=Discrete(3), c=Text(9)), Dict(push=Box(-1, 1), grip=Discrete(2)))
good = {"observations": {"a": np.zeros((2, 2)), "b": [0, 1], "c": ["x", "y"]},
        "actions": {"push": np.zeros((2, 1)), "grip": [0, 1]}, "rewards": [0.5, 1.0], "terminated": True, "seed": 3,
        "final_observation": {"a": [0, 0], "b": 2, "c": "z"}, "parameters": {"day": "monday"}}
def episodes(path):
    yield good
    yield OTHER
"""


def read(path: Path, num_timesteps: Callable[[], int | None]) -> None:
    dataset = Adapter(max_episodes=9).open(path)
    episodes = list(dataset.episodes("train", 0))
    assert len(episodes) == dataset.splits["train"]
    if (expected := num_timesteps()) is not None:
        assert sum(e.num_timesteps for e in episodes) == expected


@seeds(fast=1_000, slow=9_000)
def test_mutated_episodes(tmp_path, monkeypatch, seeds):
    path = tmp_path / "a.py"
    path.write_text(TEXT.replace("yield OTHER", "import sys; yield sys.other"))
    space: dict[str, Any] = {}
    exec(TEXT.partition("def episodes")[0], space)
    good = space["good"]

    def made(rng: np.random.Generator) -> Any:
        given = copy.deepcopy(good)
        kind = int(rng.integers(4))
        if kind == 0:
            side, name = one_of(rng, [("observations", "a"), ("observations", "b"), ("actions", "push"), ("actions", "grip")])
            given[side][name] = mutated_array(rng, np.asarray(given[side][name]))
        elif kind == 1:
            given[one_of(rng, given)] = copy.deepcopy(one_of(rng, ODD))
        else:
            given = mutated_value(rng, given)
        monkeypatch.setattr("sys.other", given, raising=False)
        return given

    def rows(given: Any) -> int | None:
        grip = given.get("actions", {}).get("grip") if isinstance(given, dict) and isinstance(given.get("actions"), dict) else None
        return None if grip is None else 2 + len(grip)

    counts = fuzz(seeds, made, lambda given: read(path, lambda: rows(given)))
    assert min(counts.values()) > len(seeds) / 20


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@seeds(fast=300, slow=3_000)
def test_mutated_programs(tmp_path, seeds):
    path = tmp_path / "a.py"

    def made(rng: np.random.Generator) -> None:
        path.write_bytes(mutated_text(rng, TEXT.replace("OTHER", "good")).encode())

    counts = fuzz(seeds, made, lambda _: read(path, lambda: None), runs_it=True)
    assert min(counts.values()) > len(seeds) / 20
