"""Environments by name, their specs and their experts."""

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

import gymnasium

from gato import envs
from gato.envs.demonstrator import RandomExpert
from gato.envs.recording import Recording, expert_episode
from gato.envs.success import PARAMETERS, succeeded
from gato.spec import Modality, TaskSpec

SIMULATORS = {
    "atari": "ale_py", "babyai": "minigrid", "babyai-symbolic": "minigrid", "babyai-view": "minigrid", "minigrid": "minigrid",
    "dm-control": "dm_control", "gymnasium": "Box2D",
    "metaworld": "metaworld", "metaworld-goals": "metaworld", "minatar": "minatar", "minatar-cells": "minatar", "mujoco": "mujoco",
    "robotics": "gymnasium_robotics",
}  # fmt: skip
# One task of each kind of expert that takes seconds at most.
PLAYED = [
    "toy/corridor", "push2d/train", "reach2d/train",
    "gymnasium/acrobot", "gymnasium/frozen-lake", "gymnasium/mountain-car", "gymnasium/pendulum", "gymnasium/taxi",
    "babyai/go-to-local", "babyai-view/go-to-local", "babyai-symbolic/put-next-local",
    "metaworld/reach", "metaworld/drawer-close", "metaworld-goals/open-close-train", "mujoco/inverted-pendulum",
    "mujoco/inverted-double-pendulum", "mujoco/reacher",
    "robotics/fetch-pick-and-place", "robotics/fetch-push", "robotics/point-maze-u-maze", "dm-control/cartpole-swingup",
    "dm-control/reacher-easy", "minatar/breakout",
]  # fmt: skip
# One task of each family to step at random: with no expert, or one that takes long.
STEPPED = ["gymnasium/bipedal-walker", "mujoco/half-cheetah", "robotics/fetch-slide", "dm-control/ball-in-cup-catch",
           "dm-control/finger-spin", "atari/boxing", "atari/pong", "minatar/asterix", "minigrid/door-key-5x5",
           "minatar-cells/asterix"]  # fmt: skip


def skip_without_simulator(task: str) -> None:
    module = SIMULATORS.get(task.split("/")[0])
    if module and find_spec(module) is None:
        pytest.skip(f"{task} needs {module}, which is not installed")


@pytest.mark.parametrize("name", envs.tasks())
def test_every_entry_of_the_registry_is_complete(name):
    entry = envs._registry()[name]
    assert entry["env_id"] and entry["licence"]
    assert entry.get("episode_limit", 1) > 0
    succeeded(entry.get("success"), 0.0, False, {})  # a criterion that can be applied
    returns = entry.get("random_return"), entry.get("expert_return")
    if envs.expert_name(name) is None:
        assert returns[1] is None
    elif returns[1] is not None:  # docs/suites.md says which experts are not measured yet
        assert returns[1] > returns[0]
    assert all(isinstance(value, int | float) for value in envs.published(name).values())


def test_every_family_has_a_task_that_is_tried():
    families = {name.split("/")[0] for name in envs.tasks()}
    assert families == set(envs.FAMILIES) == {name.split("/")[0] for name in [*PLAYED, *STEPPED]}


def skip_in_another_version_of_gymnasium(name):
    """Taxi-v4 came with 1.4, and Taxi-v3 went: then the version that is there is named."""
    wanted = envs._registry()[name]["env_id"]
    if name.startswith("gymnasium/") and wanted not in gymnasium.registry:
        with pytest.raises(ValueError, match=rf"no environment '{wanted}' in gymnasium {gymnasium.__version__}, which has "):
            envs.task(name)
        pytest.skip(f"this version of gymnasium has no {wanted}")


def test_a_version_that_gymnasium_no_longer_has_is_named_with_those_it_has():
    """Stores and checkpoints remember the id with which they were made."""
    task = replace(envs.task("gymnasium/cartpole"), env_id="CartPole-v9")
    with pytest.raises(
        ValueError, match=rf"no environment 'CartPole-v9' in gymnasium {gymnasium.__version__}, which has CartPole-v0, CartPole-v1"
    ):
        envs.make(task)


@pytest.mark.parametrize("name", PLAYED)
def test_the_expert_records_an_episode(name):
    skip_without_simulator(name)
    skip_in_another_version_of_gymnasium(name)
    task = envs.task(name)
    env = envs.make(task)
    episode = expert_episode(task, env, envs.expert(task), seed=1).episode("expert")
    env.close()
    assert episode.task.name == name and episode.success is not False


@pytest.mark.parametrize("name", STEPPED)
def test_random_steps_are_recorded_and_repeat(name):
    skip_without_simulator(name)
    task = replace(envs.task(name), episode_limit=5)
    env = envs.make(task)
    first, second = (expert_episode(task, env, RandomExpert(), seed=2).episode("random") for _ in range(2))
    env.close()
    assert first.num_timesteps == 5
    for field in task.observations:
        np.testing.assert_array_equal(first.observations[field.name], second.observations[field.name])


def test_the_planner_of_a_boxing_match_leaves_the_game_as_it_was():
    skip_without_simulator("atari/boxing")
    env, expert = envs.make("atari/boxing"), envs.expert("atari/boxing")
    observation, _ = env.reset(seed=0)
    expert.reset(env)
    before = env.unwrapped.ale.getRAM().copy()
    assert env.action_space.contains(expert.act(env, observation))
    np.testing.assert_array_equal(env.unwrapped.ale.getRAM(), before)


@pytest.mark.parametrize("name", ["atari/boxing", "atari/freeway"])
def test_a_planner_of_a_game_draws_by_the_seed_of_the_episode(name):
    """Games have 31 starts: planned alike from each, episodes of different seeds would be equal."""
    skip_without_simulator(name)
    env, expert, drawn = envs.make(name), envs.expert(name), []
    for seed in (1, 1, 2):
        env.reset(seed=seed)
        expert.reset(env)
        drawn.append(expert.generator.random())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("name", ["gymnasium/lunar-lander", "babyai-symbolic/pickup-loc", "mujoco/hopper", "robotics/fetch-push"])
def test_an_episode_is_that_of_the_bare_simulator(name):
    skip_without_simulator(name)
    task, bare = envs.task(name), gymnasium.make(envs.task(name).env_id)
    recording = Recording(task, envs.make(name), seed=3, keep=False)
    bare.reset(seed=3)
    total, ended = 0.0, False
    while not ended:
        action = recording.env.action_space.sample()
        recording.step(task.flatten(action, "action"))
        _, reward, terminated, truncated, _ = bare.step(action)
        total, ended = total + float(reward), terminated or truncated
    assert recording.done and (recording.total_reward, recording.terminated) == (total, terminated)


@pytest.mark.parametrize("family", ["gymnasium", "mujoco", "robotics"])
def test_the_time_limits_are_those_of_the_simulators(family):
    skip_without_simulator(f"{family}/any")
    entries = {name: entry for name, entry in envs._registry().items() if name.startswith(f"{family}/")}
    envs.task(next(iter(entries)))  # registers the family's environments
    entries = {name: entry for name, entry in entries.items() if entry["env_id"] in gymnasium.registry}
    assert len(entries) > 5
    found = {name: gymnasium.spec(entry["env_id"]).max_episode_steps for name, entry in entries.items()}
    assert found == {name: entry["episode_limit"] for name, entry in entries.items()}


def test_the_limit_of_a_babyai_level_is_its_own():
    skip_without_simulator("babyai/go-to-local")
    for name in ("go-to-local", "put-next-s7-n4", "key-corridor-s3-r2", "open-two-doors"):
        env = envs.make(f"babyai-symbolic/{name}")
        env.reset(seed=0)
        assert env.unwrapped.max_steps == envs.task(f"babyai-symbolic/{name}").episode_limit


def test_sampled_plans_leave_the_simulation_as_it_was_and_repeat():
    skip_without_simulator("dm-control/ball-in-cup-catch")
    task = replace(envs.task("dm-control/ball-in-cup-catch"), episode_limit=4)
    env, expert = envs.make(task), envs.expert(task)
    first, second = (expert_episode(task, env, expert, seed=0).episode("expert") for _ in range(2))
    np.testing.assert_array_equal(first.actions["action"], second.actions["action"])
    env.reset(seed=0)
    before = env.unwrapped.simulation.physics.get_state()
    expert.reset(env)
    expert.act(env, None)
    np.testing.assert_array_equal(env.unwrapped.simulation.physics.get_state(), before)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("toy/corridor", 1.0),
        ("gymnasium/cartpole", 500),
        ("gymnasium/lunar-lander", 200),
        ("gymnasium/mountain-car-continuous", 90),
        ("mujoco/inverted-double-pendulum", 9300),
        ("mujoco/reacher", -12),
    ],
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
    assert fields["image"].shape == fields["image"].patched_size + (3,) == (112, 112, 3)
    assert fields["mission"].modality is Modality.TEXT
    observation, _ = envs.make(task).reset(seed=0)
    assert observation["mission"].startswith("go to ") and observation["image"].dtype == np.uint8


def test_the_symbols_of_a_level_are_the_same_world_as_its_pixels():
    skip_without_simulator("babyai/unlock-local")
    recordings = []
    for name in ("babyai/unlock-local", "babyai-symbolic/unlock-local"):
        task = envs.task(name)
        recordings.append(expert_episode(task, envs.make(task), envs.expert(task), seed=4))
    pixels, symbols = (r.episode("expert") for r in recordings)
    np.testing.assert_array_equal(pixels.actions["action"], symbols.actions["action"])
    assert pixels.total_reward == symbols.total_reward and pixels.observations["mission"][0] == symbols.observations["mission"][0]
    assert symbols.observations["cells"].shape[1:] == (7, 7)


def test_a_cell_is_one_number_that_keeps_kind_colour_and_state():
    cells_of = pytest.importorskip("gato.envs.babyai", reason="levels need minigrid").cells_of
    grid = np.stack(np.meshgrid(range(11), range(6), range(4), indexing="ij"), axis=-1).reshape(-1, 3).astype(np.uint8)
    np.testing.assert_array_equal(cells_of(grid), np.arange(264))
    assert cells_of(np.array([4, 0, 2], np.uint8)) == 98  # a door, red, locked: (4 * 6 + 0) * 4 + 2


def test_the_cells_of_a_view_are_described_doors_and_all():
    skip_without_simulator("babyai-view/go-to-symbolic")
    env = envs.make("babyai-view/go-to-symbolic")
    texts = []
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert list(observation) == ["cells"] and observation["cells"].max() < 264
        texts.append(env.get_wrapper_attr("description"))
    assert any("door" in text and "ahead" in text for text in texts)


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


def test_published_returns_are_for_comparison_only():
    assert envs.published("atari/boxing") == {"random": 0.1, "human": 12.1, "jat_expert": 98.0}
    assert envs.published("babyai-symbolic/unlock") == {"jat_random": 0.032, "jat_expert": 0.866}
    assert envs.published("toy/corridor") == {}


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
    assert first[1][PARAMETERS] == second[1][PARAMETERS]
    np.testing.assert_array_equal(first[0]["observation"], second[0]["observation"])


def test_a_hidden_goal_is_that_of_the_task_and_the_hand_starts_elsewhere_in_every_episode():
    skip_without_simulator("metaworld-goals/push-test")
    env, other = envs.make("metaworld-goals/push-test-3"), envs.make("metaworld-goals/push-train-3")
    (one, told), (again, told_again) = env.reset(seed=0), env.reset(seed=1)
    assert told[PARAMETERS] == told_again[PARAMETERS] != other.reset(seed=0)[1][PARAMETERS]
    one, again = one["observation"], again["observation"]
    assert one.shape == (18,) and not np.allclose(one[:3], again[:3], atol=0.01)  # the hand; the goal's three numbers are not there
    np.testing.assert_allclose(one[4:7], again[4:7], atol=1e-3)  # the thing to be pushed


def test_a_drawer_that_is_to_be_opened_is_closed_at_first():
    skip_without_simulator("metaworld-goals/open-close-train")
    opening, closing = (envs.make(f"metaworld-goals/open-close-train-{i}").reset(seed=0)[0]["observation"] for i in (0, 1))
    assert opening[5] - closing[5] > 0.1  # the handle of an open drawer is nearer to the hand


def test_a_metaworld_observation_is_the_task_in_words_the_state_now_and_the_goal():
    skip_without_simulator("metaworld/reach")
    env = envs.make("metaworld/push-wall")
    observation, _ = env.reset(seed=3)
    whole = env.unwrapped._get_obs()
    assert env.observation_space.contains(observation) and observation["instruction"] == "push wall"
    np.testing.assert_array_equal(observation["observation"], np.concatenate([whole[:18], whole[36:]]))
    later = env.step(np.array([1, 0, 0, 0], np.float32))[0]
    assert later["observation"][0] > observation["observation"][0]


def described():
    return pytest.importorskip("gato.envs.babyai_view", reason="views need minigrid").describe


def test_a_view_is_put_into_words():
    describe = described()
    symbols = np.zeros((7, 7, 3), np.uint8)
    symbols[2, 4] = (6, 0, 0)  # a red ball, two rows ahead and one column to the left
    symbols[3, 6] = (5, 5, 0)  # a grey key, where the agent stands
    parts = describe(symbols, np.random.default_rng(0)).split(", ")
    assert {"red ball two ahead one left", "grey key here"} < set(parts)
    assert all(part.endswith(" nowhere") for part in parts if not part.startswith(("red ball", "grey key")))


def test_two_objects_of_one_name_share_a_part_nearest_first():
    describe = described()
    symbols = np.zeros((7, 7, 3), np.uint8)
    symbols[6, 1] = symbols[3, 5] = (7, 1, 0)
    assert "green box one ahead and five ahead three right" in describe(symbols, np.random.default_rng(0))


def test_a_view_is_one_timestep_whose_action_is_its_description():
    skip_without_simulator("babyai-view/go-to-local")
    env = envs.make("babyai-view/go-to-local")
    observation, _ = env.reset(seed=3)
    words = env.get_wrapper_attr("description")
    _, reward, terminated, _, info = env.step(words)
    assert (reward, terminated, info["success"]) == (1.0, True, True) and observation["image"].shape == (112, 112, 3)
    assert not envs.task("babyai-view/go-to-local").is_control
