"""Stores and checkpoints that earlier versions wrote open and go on as they did then.

`fixtures/earlier_run` was made before learners had a contract: `gato pretrain recipe.yaml` for six updates, with a checkpoint after
three, on eight episodes of the corridor and six documents. Of its end only the weights are kept, to compare with.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import gato
from gato.cli import main
from gato.data.store import Store

EARLIER = Path(__file__).parent / "fixtures" / "earlier_run"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the run as it was after its third update, and its stores."""
    shutil.copytree(EARLIER / "stores", tmp_path / "home" / "stores")
    shutil.copytree(EARLIER / "runs/old/step-3", tmp_path / "runs/old/step-3")
    for name in ("run.json", "metrics.jsonl"):
        shutil.copy(EARLIER / "runs/old" / name, tmp_path / "runs/old" / name)
    shutil.copy(EARLIER / "recipe.yaml", tmp_path)
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_earlier_store_opens_whole(here):
    store = Store(here / "home/stores/toy/corridor")
    store.validate()
    assert store.num_episodes == 8
    assert main(["data", "validate", "toy/corridor", "documents"]) == 0


def test_an_earlier_checkpoint_loads_and_acts_with_its_memory(here):
    agent = gato.load(here / "runs/old/step-3", "cpu")
    assert set(agent.tasks) == {"toy/corridor", "text/sentences"}
    policy = agent.policy("toy/corridor")
    policy.reset()
    assert policy.memory == 1 and policy.act_one(2) in (0, 1)
    assert agent.generate("the agent", max_new_tokens=2).startswith("the agent")


def test_an_earlier_run_goes_on_to_the_same_weights(here):
    assert main(["pretrain", "recipe.yaml"]) == 0
    expected, found = load_file(EARLIER / "runs/old/final/model.safetensors"), load_file(here / "runs/old/final/model.safetensors")
    assert expected.keys() == found.keys()
    # Muon rounded to bfloat16 then, which directions without a slope show
    by_muon = {name for name in expected if ".layers." in name and expected[name].ndim == 2}
    assert all(np.allclose(expected[name], found[name], atol=1e-3 if name in by_muon else 1e-5) for name in expected)


def test_an_earlier_run_is_not_gone_on_with_by_another_learner(here, capsys):
    recipe = here / "recipe.yaml"
    recipe.write_text("learner: gatto\n" + recipe.read_text())
    assert main(["pretrain", "recipe.yaml"]) == 2
    assert "learner is 'gatto', expected one of gato" in capsys.readouterr().err
