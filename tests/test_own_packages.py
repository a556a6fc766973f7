"""The journey of an own environment with packages that nobody here wrote: `pip install panda-gym highway-env`."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato import envs
from gato.agent import Agent
from gato.cli import main

pytestmark = pytest.mark.slow


class Reach:
    """Moves the gripper of panda-gym's arm straight to the goal."""

    def reset(self, env):
        pass

    def act(self, env, observation):
        return np.clip(5 * (observation["desired_goal"] - observation["achieved_goal"]), -1, 1).astype(np.float32)


class Faster:
    """Presses the accelerator of highway-env's car."""

    def reset(self, env):
        pass

    def act(self, env, observation):
        return 3


def uncrashed(total_reward, terminated, info):
    return not info["crashed"]


@pytest.mark.parametrize(
    ("package", "name", "expert", "success"),
    [
        ("panda_gym", "PandaReach-v3", "Reach", None),
        ("highway_env", "highway-fast-v0", "Faster", "test_own_packages:uncrashed"),
    ],
)
def test_a_package_is_collected_from_learnt_and_scored(package, name, expert, success, tmp_path, monkeypatch, make_gato, tokenizer, capfd):
    if find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install {package.replace('_', '-')}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    Agent(make_gato(context_length=128).float(), tokenizer, {}).save("base")
    criterion = [] if success is None else ["--success", success]
    collected = ["data", "collect", f"{package}:{name}", "--expert", f"test_own_packages:{expert}", "--episodes", "4", "--workers", "1"]
    assert main([*collected, *criterion]) == 0
    capfd.readouterr()
    learnt = ["finetune", "base", "--data", name, "--episodes", "3", "--modes", "full,retrieve", "--held_out", "0", "--memory", "1"]
    assert main([*learnt, "--steps", "2", "--rollouts", "2", "--validation", "2", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["task"] == name  # pybullet writes to standard output from C
    policy = Path(f"runs/fewshot-{name}/cells/full-3-0/policy")
    played = ["eval", str(policy), "--tasks", name, "--episodes", "2", "--films", "true", "--json"]
    assert main(played) == 0
    (row,) = json.loads(capfd.readouterr().out)["tasks"]
    assert row["random"] is not None and row["expert"] is not None and row["success"] is not None and row["not_filmed"] == {}
    assert envs.task(f"{package}:{name}").env_id == f"{package}:{name}"
