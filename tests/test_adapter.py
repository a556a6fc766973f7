"""Adapters: ten lines of Python give the episodes of anything, and a mistake in them is named by its line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato.cli import main
from gato.data.formats.adapter import Adapter
from gato.data.formats.dataset import import_dataset
from gato.data.formats.left_out import LeftOut
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
    body = "from gato.data.formats.adapter import episode_of; "
    body += "yield episode_of(task, {**good, 'success': True, 'behaviour': 'human', 'seed': 7})"
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
        ("return None", r"episodes\(None\) gives nothing \(is a 'yield' or 'return' missing\?\)"),
        ("return 'text'", r"gives a str; let it yield episodes"),
        ("return good", r"gives a dict; let it yield episodes"),
        ("return 3", r"gives a int; let it yield episodes"),
        ("yield 'text'", r"episode 0: it is of type str, expected an Episode or a dict"),
        ("yield None", r"episode 0: it is of type NoneType, expected an Episode or a dict"),
        ("import sys; sys.exit(0)", r"my_adapter.py calls sys.exit\(0\)"),
        ("yield {**good, 'rewards': 3}", r"'rewards' is int64 of shape \(\), expected 2 numbers"),
        ("yield {**good, 'rewards': [1, [2]]}", r"'rewards' has rows of unequal length"),
        ("yield {**good, 'rewards': ['a', 'b']}", r"'rewards' is <U1 of shape \(2,\), expected 2 numbers"),
        ("yield {**good, 'actions': 1}", r"action 'action' is '1', expected an array with a row for each timestep"),
        ("yield {**good, 'success': 'no'}", r"'success' is 'no', expected true or false"),
        ("yield {**good, 'terminated': [True, False]}", r"'terminated' is true before the last timestep"),
        ("yield {**good, 'behaviour': 'wizard'}", r"'behaviour' is 'wizard', expected one of expert"),
        ("yield {**good, 'seed': 'x'}", r"'seed' is 'x', expected a whole number"),
        (
            "yield {**good, 'parameters': {'a': object()}}",
            r"episode 0: parameters hold a object, which has no JSON form; give plain values",
        ),
        ("yield {**good, 'observations': {'a': [[0], [0, 1]], 'b': [0, 1]}}", r"observation 'a' has rows of unequal length"),
        ("yield {**good, 'final_observation': {'a': [0, 0]}}", r"the final observation lacks the fields \['b'\]"),
        ("yield {**good, 'final_observation': {'a': [0, 0], 'c': 1}}", r"the final observation has 'c', which is no field"),
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
    with pytest.raises(ValueError, match=r"missing.py does not exist"):
        Adapter().open(tmp_path / "missing.py")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"is no Python file"):
        Adapter().open(tmp_path / "a.txt")


def test_a_flag_for_each_timestep_is_that_of_the_last_and_none_stands_for_nothing(adapted):
    episode = adapted("yield {**good, 'terminated': np.array([False, True]), 'success': [0, 1], 'seed': None, 'parameters': None}").episode(
        0
    )
    assert (episode.terminated, episode.truncated, episode.success) == (True, False, True)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("yield {**good, 'rewards': np.random.rand(2)}", "episode 0 differs from the one that was checked"),
        ("yield good; yield from once", "yields 1 episodes, but 2 when it was checked"),
        ("calls.append(1); yield from [good] * len(calls)", "episode 1 differs from the one that was checked"),
    ],
)
def test_a_second_pass_that_differs_from_the_first_is_refused(adapted, tmp_path, body, line):
    (tmp_path / "head.py").write_text("")
    with pytest.raises(ValueError, match=line):
        adapted(f"yield from body()\n\nonce, calls = iter([good]), []\ndef body():\n    {body}")


def test_one_object_that_is_changed_between_episodes_gives_each_as_it_was(adapted):
    body = "e = {'observations': {'a': np.zeros((2, 2)), 'b': [0, 1]}, 'actions': [0, 1]}"
    body += "\n    for i in range(3): e['observations']['a'][:] = i / 4; yield e"
    store = adapted(body)
    assert [store.episode(i).observations["a"][0, 0] for i in range(3)] == [0, 0.25, 0.5]


def test_a_function_that_never_ends_is_read_as_far_as_is_said(tmp_path, monkeypatch):
    from gato.data.formats import adapter

    (tmp_path / "a.py").write_text(f"{HEAD}\ndef episodes(path):\n    while True: yield good\n")
    monkeypatch.setattr(adapter, "MAX_EPISODES", 50)
    with pytest.raises(ValueError, match=r"yields more than 50 episodes, or never ends; --max_episodes N takes the first N"):
        Adapter().open(tmp_path / "a.py")
    assert Adapter(max_episodes=3).open(tmp_path / "a.py").splits == {"train": 3}


def test_what_an_adapter_prints_stays_out_of_the_document(tmp_path, capsys):
    (tmp_path / "a.py").write_text(f"{HEAD}\nprint('hello')\ndef episodes(path):\n    print('there'); yield good\n")
    assert main(["data", "import", "adapter", str(tmp_path / "a.py"), "--out", str(tmp_path / "o"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["episodes"] == 1 and "hello" in captured.err and "there" in captured.err


def test_bad_episodes_are_skipped_where_it_is_allowed(tmp_path):
    (tmp_path / "a.py").write_text(f"{HEAD}\ndef episodes(path):\n    yield good; yield {{}}; yield good; yield 3\n")
    left_out = LeftOut(2)
    store = Store(import_dataset(Adapter().open(tmp_path / "a.py", left_out), tmp_path / "o")["train"])
    assert store.num_episodes == 2 and [row.split(", ")[1][:9] for row in left_out.rows] == ["episode 1", "episode 3"]


def test_adapters_in_other_letters_and_with_dataclasses_run(adapted, tmp_path):
    text = f"# coding: latin-1\nfrom __future__ import annotations\nfrom dataclasses import dataclass\n{HEAD}"
    text += "\n@dataclass\nclass X:\n    a: int  # gr\xfc\xdfe\n"
    (tmp_path / "a.py").write_bytes((text + "def episodes(path):\n    yield good\n").encode("latin-1"))
    assert "grüße" in Adapter().open(tmp_path / "a.py").provenance["adapter"]
