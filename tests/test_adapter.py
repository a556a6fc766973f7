"""Adapters: ten lines of Python give the episodes of anything, and a mistake in them is named by its line."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato.cli import main
from gato.data.adapter import Adapter
from gato.data.formats import import_dataset
from gato.data.store import Store

ROOT = Path(__file__).parent.parent
EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "formats" / "adapter.md").read_text(), re.DOTALL).group(1)
HEAD = """
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gato.spec import TaskSpec
task = TaskSpec.from_spaces("lab/toy", Dict(a=Box(-1, 1, (2,)), b=Discrete(3)), Discrete(2))
good = {"observations": {"a": np.zeros((2, 2)), "b": [0, 1]}, "actions": [0, 1]}
"""


@pytest.fixture
def adapted(tmp_path):
    """adapted("yield good"): the store of an adapter whose `episodes` has this body."""

    def run(body: str) -> Store:
        path = tmp_path / "my_adapter.py"
        path.write_text(f"{HEAD}\ndef episodes(path):\n    {body}\n")
        return Store(import_dataset(Adapter().open(path), tmp_path / "stores")["train"])

    return run


def test_the_example_of_the_docs_imports_its_files(tmp_path, capsys):
    assert len(EXAMPLE.strip().splitlines()) <= 12
    (tmp_path / "my_adapter.py").write_text(EXAMPLE)
    (tmp_path / "logs").mkdir()
    for i in range(3):
        np.savetxt(tmp_path / "logs" / f"run_{i}.txt", np.full((4 + i, 5), 0.1 * i))
    folders = ["--data", str(tmp_path / "logs"), "--out", str(tmp_path / "out")]
    assert (
        main(["data", "import", "adapter", str(tmp_path / "my_adapter.py"), *folders]) == 0
        and "train: 3 episodes" in capsys.readouterr().out
    )
    store = Store(tmp_path / "out" / "train")
    store.validate()
    assert store.lengths.tolist() == [4, 5, 6]
    assert store.episode(1).actions["action"][0].tolist() == pytest.approx([0.1, 0.1])
    assert store.manifest.provenance["adapter"] == EXAMPLE


def test_lists_single_fields_and_missing_rewards_are_filled_in(adapted):
    episode = adapted("yield good").episode(0)
    assert episode.observations["b"].tolist() == [0, 1] and episode.actions["action"].tolist() == [0, 1]
    assert (episode.rewards.tolist(), episode.final_observation) == ([0, 0], None)


def test_a_row_more_of_every_observation_is_the_final_one(adapted):
    assert adapted("yield {**good, 'actions': [1]}").episode(0).final_observation["b"] == 1


def test_whole_episodes_and_all_their_arguments_are_taken(adapted):
    body = "from gato.data.adapter import episode_of; yield episode_of(task, {**good, 'success': True, 'behaviour': 'human', 'seed': 7})"
    episode = adapted(body).episode(0)
    assert (episode.success, episode.behaviour, episode.seed) == (True, "human", 7)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("yield good; yield {**good, 'reward': [1, 2]}", r"my_adapter.py, episode 1: there is no key 'reward'; did you mean 'rewards'\?"),
        ("yield {**good, 'actions': [0, 5]}", r"episode 0: task 'lab/toy': action 'action' at timestep 1 is 5, outside \[0, 1\]"),
        ("yield {'actions': [0, 1]}", r"episode 0: task 'lab/toy': found observation fields \[\], expected \['a', 'b'\]"),
        ("yield {**good, 'observations': {'a': np.full((2, 2), np.nan), 'b': [0, 1]}}", r"observation 'a' at timestep 0 is not finite"),
        ("yield 3", r"episode 0: it is of type int, expected an Episode or a dict"),
        ("yield {'observations': {}}", r"episode 0: it has no actions; expected \['action'\]"),
        ("yield good; 1 / 0", r"my_adapter.py, line 9: ZeroDivisionError: division by zero"),
        ("return []", r"my_adapter.py: episodes\(None\) yields none"),
        ("this is no Python", r"my_adapter.py, line 9: invalid syntax"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(adapted, tmp_path, body, line):
    with pytest.raises(ValueError, match=line):
        adapted(body)
    assert not (tmp_path / "stores").exists()


def test_a_file_that_is_no_adapter_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"empty.py must define 'task', a TaskSpec, and 'episodes\(path\)'"):
        Adapter().open(tmp_path / "empty.py")
    with pytest.raises(ValueError, match=r"is no Python file"):
        Adapter().open(tmp_path / "missing.py")
