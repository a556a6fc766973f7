"""Environments by name, their specs and their experts."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato import envs
from gato.data.recording import expert_episode
from gato.envs.success import succeeded
from gato.spec import Modality, TaskSpec

SIMULATORS = {"babyai": "minigrid", "metaworld": "metaworld", "gymnasium": "Box2D"}


def skip_without_simulator(task: str) -> None:
    module = SIMULATORS.get(task.split("/")[0])
    if module and find_spec(module) is None:
        pytest.skip(f"{task} needs {module}, which is not installed")


@pytest.mark.parametrize("name", envs.tasks())
def test_every_registered_task_has_an_environment_an_expert_and_two_ordered_returns(name):
    skip_without_simulator(name)
    task = envs.task(name)
    env, expert = envs.make(task), envs.expert(task)
    recording = expert_episode(task, env, expert, seed=1)
    env.close()
    assert recording.episode("expert").task.name == name
    assert task.expert_return > task.random_return
    assert task.licence


@pytest.mark.parametrize(
    ("name", "least"),
    [("toy/corridor", 1.0), ("gymnasium/cartpole", 500), ("gymnasium/lunar-lander", 200), ("gymnasium/mountain-car-continuous", 90)],
)
def test_the_expert_reaches_its_return_on_seeds_it_was_not_measured_on(name, least):
    skip_without_simulator(name)
    env = envs.make(name)
    returns = [expert_episode(envs.task(name), env, envs.expert(name), seed, keep=False).total_reward for seed in range(5)]
    assert min(returns) >= least


def test_a_babyai_level_is_seen_as_a_picture_a_direction_and_an_instruction():
    skip_without_simulator("babyai/go-to-local")
    task = envs.task("babyai/go-to-local")
    fields = {f.name: f for f in task.observations}
    assert list(fields) == ["direction", "image", "mission"]
    assert fields["image"].shape == (56, 56, 3) and fields["image"].patched_size == (64, 64)
    assert fields["mission"].modality is Modality.TEXT
    observation, _ = envs.make(task).reset(seed=0)
    assert observation["mission"].startswith("go to ") and observation["image"].dtype == np.uint8


def test_a_babyai_reset_prints_nothing(capsys):
    skip_without_simulator("babyai/put-next-local")
    env = envs.make("babyai/put-next-local")
    for seed in range(20):
        env.reset(seed=seed)
    assert capsys.readouterr().out == ""


def test_a_babyai_bot_that_loops_is_stopped():
    skip_without_simulator("babyai/go-to-local")
    from gato.envs import babyai

    env = babyai.make("BabyAI-UnlockToUnlock-v0")
    task = TaskSpec.from_spaces("babyai/looping", env.observation_space, env.action_space)
    with pytest.raises(RuntimeError, match="is looping"):
        for seed in range(20):
            expert_episode(task, env, babyai.BotExpert(), seed, keep=False)


def test_a_plain_gymnasium_id_needs_no_registry_entry():
    task = envs.task("CartPole-v1")
    assert task.expert_return is None and task.episode_limit == 500
    assert envs.make("CartPole-v1").observation_space.shape == (4,)
    with pytest.raises(ValueError, match="no expert"):
        envs.expert("CartPole-v1")


@pytest.mark.parametrize("function", [envs.make, envs.task, envs.expert])
def test_an_unknown_name_is_answered_with_the_nearest_known_one(function):
    with pytest.raises(ValueError, match="did you mean 'gymnasium/cartpole'"):
        function("gymnasium/cartpol")


@pytest.mark.skipif(find_spec("metaworld") is not None, reason="metaworld is installed")
def test_a_missing_simulator_is_answered_with_its_pip_line():
    with pytest.raises(ImportError, match=r"pip install 'opengato\[metaworld\]'"):
        envs.make("metaworld/reach")


def test_an_environment_that_no_longer_fits_the_spec_is_refused():
    task = TaskSpec.from_dict(envs.task("toy/corridor").to_dict() | {"env_kwargs": {"num_cells": 9}})
    with pytest.raises(ValueError, match="observation 'observation' has high"):
        envs.make(task)


def test_a_task_spec_that_was_saved_builds_the_same_environment():
    skip_without_simulator("gymnasium/lunar-lander-continuous")
    task = TaskSpec.from_dict(envs.task("gymnasium/lunar-lander-continuous").to_dict())
    assert envs.make(task).unwrapped.continuous


@pytest.mark.parametrize("name", ["toy/corridor", "gymnasium/cartpole", "babyai/go-to-local"])
def test_pictures_for_film_strips_need_no_display(name):
    skip_without_simulator(name)
    env = envs.make(name, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape[2] == 3
    env.close()


def test_success_is_decided_by_the_words_of_the_spec():
    assert succeeded("return >= 475", 475.0, False, {}) is True
    assert succeeded("terminated", 0.0, False, {}) is False
    assert succeeded("reported", 0.0, True, {"success": True}) is True
    assert succeeded(None, 1.0, True, {}) is None
    with pytest.raises(ValueError, match="unknown success criterion"):
        succeeded("looks good", 1.0, True, {})


def test_importing_the_package_does_not_import_gymnasium():
    code = "import sys, gato; print('gymnasium' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_metaworld_goal_depends_on_the_seed_alone():
    skip_without_simulator("metaworld/reach")
    one, other = envs.make("metaworld/reach"), envs.make("metaworld/reach")
    other.reset(seed=5)
    first, second = one.reset(seed=3), other.reset(seed=3)
    assert first[1]["parameters"] == second[1]["parameters"]
    np.testing.assert_array_equal(first[0], second[0])
