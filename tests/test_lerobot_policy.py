"""`gato export --to lerobot`: what it writes, and that LeRobot's batches come to the actions that the policy takes itself.

With LEROBOT_PYTHON, a Python that has lerobot and what opengato needs, the real package opens and plays the folder too.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from gato.agent import Agent
from gato.cli import main
from gato.serve.lerobot import LeRobotActor

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checkpoint(make_gato, tokenizer, robot, corridor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("robots") / "final"
    Agent(make_gato(context_length=96).float(), tokenizer, {task.name: task for task in (robot, corridor)}).save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint):
    out = checkpoint.parent / "exported"
    assert main(["export", str(checkpoint), str(out), "--to", "lerobot", "--task", "toy/robot"]) == 0
    return out


def batch_of(timestep: int, rows: int = 2) -> dict:
    """As LeRobot's loop has it: pictures of 0 to 1 with channels first, every number a float, a sentence for each row."""
    rng = np.random.default_rng(timestep)
    camera = torch.from_numpy(rng.integers(0, 256, (rows, 3, 16, 32), np.uint8)).float() / 255
    force = torch.from_numpy(rng.normal(size=(rows, 1)).astype(np.float32))
    open_ = torch.from_numpy(rng.integers(0, 2, (rows, 1))).float()
    return {
        "observation.images.camera": camera, "observation.gripper.force": force, "observation.gripper.open": open_,
        "task": ["go to the red ball", "go to the door"][:rows],
    }  # fmt: skip


def test_the_folder_says_in_lerobots_words_what_the_policy_takes(exported):
    config = json.loads((exported / "config.json").read_text())
    assert (config["type"], config["task"]) == ("gato", "toy/robot")
    assert config["input_features"] == {
        "observation.images.camera": {"type": "VISUAL", "shape": [3, 16, 32]},
        "observation.gripper.force": {"type": "STATE", "shape": [1]},
        "observation.gripper.open": {"type": "STATE", "shape": [1]},
    }
    assert config["output_features"] == {"action": {"type": "ACTION", "shape": [2]}}
    assert "It acts in the task `toy/robot`" in (exported / "README.md").read_text()
    assert main(["validate", str(exported / "gato")]) == 0


def test_lerobots_batches_come_to_the_actions_of_the_policy(exported, checkpoint, robot):
    """Two episodes of three timesteps, two rows each; the second episodes are the third and fourth to begin."""
    actor = LeRobotActor.load(exported, "toy/robot", "cpu")
    policy = Agent.load(checkpoint, "cpu").policy("toy/robot")
    for episode in range(2):
        actor.reset()
        policy.reset(2)
        for stream in range(2):
            policy.begin(stream, 2 * episode + stream)
        for timestep in range(3):
            batch = batch_of(10 * episode + timestep)
            seen = {
                "camera": np.rint(255 * batch["observation.images.camera"].numpy()).astype(np.uint8).transpose(0, 2, 3, 1),
                "goal": np.array(batch["task"], object),
                "gripper/force": batch["observation.gripper.force"].numpy()[:, 0],
                "gripper/open": batch["observation.gripper.open"].numpy()[:, 0].astype(np.int64),
            }
            expected = policy.act({f.name: seen[f.name].reshape(2, *f.shape).astype(f.dtype if f.dtype != "str" else object)
                                   for f in robot.observations})["motors"]  # fmt: skip
            found = actor.select(batch)
            assert found.shape == (2, 2) and found.dtype == np.float32
            assert np.array_equal(found, expected.reshape(2, 2).astype(np.float32))


def test_discrete_actions_are_whole_numbers_and_larger_pictures_are_scaled(checkpoint, exported):
    agent = Agent.load(checkpoint, "cpu")
    actions = LeRobotActor(agent.policy("toy/corridor")).select({"observation.cell": torch.tensor([[1.0], [0.0]])})
    assert actions.shape == (2, 1) and actions.dtype == np.int64 and set(actions.ravel()) <= {0, 1}
    batch = batch_of(0) | {"observation.images.camera": torch.rand(2, 3, 32, 64)}
    assert LeRobotActor.load(exported, "toy/robot", "cpu").select(batch).shape == (2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation.gripper.force": None}, "the policy sees 'observation.gripper.force', and the batch has"),
        ({"observation.gripper.force": torch.zeros(2, 3)}, "'observation.gripper.force' has the shape (2, 3), expected"),
        ({"observation.images.camera": torch.zeros(2, 16, 32, 3)}, "expected (B, 3, rows, columns)"),
        ({"task": None}, "the policy reads an instruction, and the batch has task None"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_by_name(exported, change, message):
    batch = {name: value for name, value in (batch_of(0) | change).items() if value is not None}
    with pytest.raises(ValueError) as refused:
        LeRobotActor.load(exported, "toy/robot", "cpu").select(batch)
    assert message in str(refused.value)


def test_a_folder_that_exists_and_a_task_that_is_not_named_are_refused(checkpoint, exported, capsys):
    assert main(["export", str(checkpoint), str(exported), "--to", "lerobot", "--task", "toy/robot"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["export", str(checkpoint), str(checkpoint.parent / "new"), "--to", "lerobot"]) == 2
    assert "acts in toy/robot, toy/corridor; a LeRobot policy acts in one: name it with --task" in capsys.readouterr().err
    assert not (checkpoint.parent / "new").exists()


THEIRS = """
import sys, json, torch
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
folder, batches = sys.argv[1:]
config = PreTrainedConfig.from_pretrained(folder)
policy = get_policy_class(config.type).from_pretrained(folder, config=config)
overrides = {"device_processor": {"device": "cpu"}, "rename_observations_processor": {"rename_map": {}}}
before, after = make_pre_post_processors(config, pretrained_path=folder, preprocessor_overrides=overrides)
policy.reset()
found = []
for batch in torch.load(batches, weights_only=True):
    found.append(after(policy.select_action(before(batch))).tolist())
fresh = make_pre_post_processors(config)
assert [s.get_config() for s in fresh[0].steps] == [s.get_config() for s in before.steps], (fresh[0].steps, before.steps)
print(json.dumps(found))
"""


@pytest.mark.skipif("LEROBOT_PYTHON" not in os.environ, reason="names no Python with lerobot")
def test_lerobot_itself_finds_opens_and_plays_the_folder(exported, tmp_path):
    batches = [batch_of(timestep) for timestep in range(3)]
    torch.save(batches, tmp_path / "batches.pt")
    theirs = os.environ["LEROBOT_PYTHON"]
    plugin = shutil.copytree(ROOT / "plugins" / "lerobot_policy_gato", tmp_path / "plugin")  # building leaves files in it
    install = [theirs, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "site"), str(plugin)]
    subprocess.run(install, check=True, capture_output=True)
    paths = os.pathsep.join([str(ROOT), str(tmp_path / "site")])
    done = subprocess.run(
        [theirs, "-c", THEIRS, str(exported), str(tmp_path / "batches.pt")],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    actor = LeRobotActor.load(exported, "toy/robot", "cpu")
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    assert np.allclose(found, [actor.select(batch) for batch in batches], atol=1e-5)
