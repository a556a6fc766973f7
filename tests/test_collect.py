"""Collecting demonstrations into stores."""

import contextlib
import itertools
import os
import signal
import time

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato import envs
from gato.data.collection.attempt import Noise
from gato.data.collection.collect import CollectConfig, collect, least_return, measure, store_path, window_expert_return
from gato.data.store import Store, StoreWriter
from gato.envs.demonstrator import RuleExpert

CORRIDOR = "toy/corridor"
LEFT, RIGHT = 0, 1


class Restless:
    """Goes right, but what it does in cell 0 depends on the subclass; workers find it as `test_collect:NAME`."""

    def reset(self, env):
        pass

    def act(self, env, observation):
        if observation == 0:
            self.in_cell_0(env)
        return RIGHT


class Patient(Restless):
    def in_cell_0(self, env):
        pass


class Hanging(Restless):
    def in_cell_0(self, env):
        time.sleep(1000)


class Looping(Restless):
    def in_cell_0(self, env):
        sum(itertools.count())  # which never gives the interpreter free


class Dying(Restless):
    def in_cell_0(self, env):
        os._exit(3)


class KilledOnce(Restless):
    def in_cell_0(self, env):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.environ["NOT_KILLED_YET"])
            os.kill(os.getpid(), signal.SIGKILL)


class Breaking(Restless):
    """The environment raises in the middle of an episode, and at every step from then on."""

    def in_cell_0(self, env):
        def crash(action):
            raise RuntimeError("the physics exploded")

        env.step = crash


class Blinding(Restless):
    """The environment gives a reward that is no number in the middle of an episode."""

    def in_cell_0(self, env):
        step = env.step

        def blind(action):
            observation, _, *rest = step(action)
            return observation, float("nan"), *rest

        env.step = blind


class NeverInTheCorridor:
    def reset(self, env):
        pass

    def act(self, env, observation):
        if np.ndim(observation) == 0:
            raise RuntimeError("lost")
        return RIGHT


def collected(folder, **settings) -> Store:
    collect(CollectConfig(**{"tasks": [CORRIDOR], "episodes": 10, "out": folder, "workers": 0, **settings}))
    return Store(store_path(settings.get("tasks", [CORRIDOR])[0], folder))


def assert_same_episodes(a: Store, b: Store) -> None:
    assert a.num_episodes == b.num_episodes
    for i in range(a.num_episodes):
        x, y = a.episode(i), b.episode(i)
        assert (x.seed, x.behaviour, x.parameters) == (y.seed, y.behaviour, y.parameters)
        for name in x.observations:
            np.testing.assert_array_equal(x.observations[name], y.observations[name])


def test_half_of_the_episodes_are_noisy_and_all_have_their_own_seed(tmp_path):
    store = collected(tmp_path)
    assert [store.episode(i).behaviour for i in range(4)] == ["expert", "noisy", "expert", "noisy"]
    assert len({store.episode(i).seed for i in range(10)}) == 10


def test_a_noisy_episode_records_what_the_expert_wanted(tmp_path):
    store = collected(tmp_path, noisy_share=1.0, noise=1.0)
    episodes = [store.episode(i) for i in range(10)]
    assert all((e.actions["action"] == RIGHT).all() for e in episodes)
    moves = np.concatenate([np.diff([*e.observations["observation"], e.final_observation["observation"]]) for e in episodes])
    assert (moves < 0).any()  # although the walker went left


def test_the_final_observation_is_the_goal(tmp_path):
    assert collected(tmp_path).episode(0).final_observation == {"observation": 4}


def test_a_collection_that_was_interrupted_equals_one_that_was_not(tmp_path):
    collected(tmp_path / "parts", episodes=3)
    assert_same_episodes(collected(tmp_path / "parts"), collected(tmp_path / "whole"))


def test_a_store_is_not_continued_with_other_settings(tmp_path):
    collected(tmp_path, episodes=3)
    with pytest.raises(ValueError, match="use the same settings"):
        collected(tmp_path, noise=0.5)


def test_the_manifest_says_how_the_episodes_came_about(tmp_path):
    provenance = collected(tmp_path).manifest.provenance
    assert provenance["expert"] == "always-right" and provenance["licence"] == "MIT"
    assert provenance["settings"]["noise"] == 0.2 and "gymnasium" in provenance["versions"]
    assert provenance["collected"]["acceptance"] == 1.0
    assert provenance["collected"]["lowest_expert_return"] == provenance["collected"]["expert_return"] == 1.0


def test_a_clean_episode_far_below_the_expert_is_replaced_and_counted(tmp_path, monkeypatch):
    by_cell = RuleExpert(lambda env, observation: LEFT if observation == 0 else RIGHT)  # never leaves cell 0
    monkeypatch.setattr(envs, "expert", lambda task: by_cell)
    store = collected(tmp_path, noisy_share=0.0)
    assert (store.returns == 1.0).all()
    assert store.manifest.provenance["collected"]["rejected"] > 0


def test_an_expert_that_raises_fails_its_episode_and_no_more(tmp_path, monkeypatch):
    def fragile(env, observation):
        if observation == 0:
            raise RuntimeError("no plan")
        return RIGHT

    monkeypatch.setattr(envs, "expert", lambda task: RuleExpert(fragile))
    summary = collect(CollectConfig(tasks=[CORRIDOR], episodes=10, out=tmp_path, noisy_share=0.0, workers=0))[0]
    assert summary["episodes"] == 10 and summary["failed"] > 0


def test_an_expert_that_mostly_raises_is_an_error(tmp_path, monkeypatch):
    def broken(env, observation):
        raise RuntimeError("no plan")

    monkeypatch.setattr(envs, "expert", lambda task: RuleExpert(broken))
    with pytest.raises(RuntimeError, match="episodes failed, the last with RuntimeError: no plan"):
        collected(tmp_path)


def test_a_picture_an_instruction_and_a_direction_go_through_the_store(tmp_path):
    pytest.importorskip("minigrid", reason="needs the extra 'babyai'")
    store = collected(tmp_path, tasks=["babyai/go-to-local"], episodes=4)
    store.validate()
    episode = store.episode(0)
    assert episode.observations["image"].shape == (episode.num_timesteps, 112, 112, 3)
    assert episode.observations["mission"][0].startswith("go to ")
    assert episode.success is True


def test_the_share_of_noisy_steps_does_not_depend_on_how_long_a_perturbation_lasts():
    env = envs.make(CORRIDOR)
    env.action_space.seed(0)
    for steps in (1, 5):
        noise = Noise(0.2, steps, np.random.default_rng(0))
        replaced = [noise(env, None) is not None for _ in range(20_000)]
        assert abs(np.mean(replaced) - 0.2) < 0.02  # five standard deviations for held runs of five


def test_wrong_settings_are_refused_before_anything_runs():
    with pytest.raises(ValueError, match="'noise' is 20, expected a number from 0 to 1"):
        CollectConfig(tasks=[CORRIDOR], noise=20)
    with pytest.raises(ValueError, match="known are atari"):
        CollectConfig(tasks=[])


def test_the_registry_holds_what_measure_finds():
    row = measure([CORRIDOR], episodes=200)[0]
    assert row["random"] == pytest.approx(envs.task(CORRIDOR).random_return)
    assert row["expert"] == envs.task(CORRIDOR).expert_return == 1.0


@pytest.mark.parametrize("task", [CORRIDOR, "gymnasium/lunar-lander", "babyai-symbolic/unlock-pickup"])
def test_workers_make_the_same_store_as_this_process(tmp_path, task):
    pytest.importorskip("minigrid" if task.startswith("babyai") else "Box2D", reason="needs its simulator")
    here = collected(tmp_path / "here", tasks=[task], episodes=6)
    there = collected(tmp_path / "there", tasks=[task], episodes=6, workers=2)
    assert_same_episodes(here, there)
    assert [s.sha256 for s in files(here)] == [s.sha256 for s in files(there)]


def files(store: Store) -> list:
    return [file for shard in store.manifest.shards for file in (shard.timesteps, shard.episodes)]


def test_workers_go_on_where_another_number_of_them_stopped(tmp_path):
    collected(tmp_path / "parts", episodes=5, workers=2)
    assert_same_episodes(collected(tmp_path / "parts", workers=1), collected(tmp_path / "whole"))


@pytest.mark.parametrize("name", ["Hanging", "Looping"])
def test_an_expert_that_hangs_fails_its_episode_and_its_worker_is_replaced(tmp_path, name):
    settings = {"expert": f"test_collect:{name}", "noisy_share": 0.0, "episodes": 4, "workers": 1, "episode_seconds": 0.5}
    store = collected(tmp_path, **settings)
    assert store.num_episodes == 4 and all(store.episode(i).observations["observation"].min() > 0 for i in range(4))
    assert store.manifest.provenance["collected"]["failed"] > 0


def test_a_worker_that_dies_is_tried_again_and_then_counted(tmp_path):
    store = collected(tmp_path, expert="test_collect:Dying", noisy_share=0.0, episodes=4, workers=1)
    assert store.num_episodes == 4
    assert store.manifest.provenance["collected"]["failed"] > 0


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_worker_killed_from_outside_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "flag").touch()
    monkeypatch.setenv("NOT_KILLED_YET", str(tmp_path / "flag"))
    store = collected(tmp_path / "killed", expert="test_collect:KilledOnce", workers=2)
    assert not (tmp_path / "flag").exists() and store.manifest.provenance["collected"]["failed"] == 0
    assert_same_episodes(store, collected(tmp_path / "spared", expert="test_collect:Patient"))


@pytest.mark.parametrize("name", ["Breaking", "Blinding"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_breaks_fails_its_episode_and_is_made_anew(tmp_path, name, workers):
    store = collected(tmp_path, expert=f"test_collect:{name}", noisy_share=0.0, workers=workers)
    assert store.num_episodes == 10 and all(store.episode(i).observations["observation"].min() > 0 for i in range(10))
    assert 0 < store.manifest.provenance["collected"]["failed"] < 20


@pytest.mark.parametrize("workers", [0, 2])
def test_a_task_that_cannot_be_collected_does_not_keep_the_others_from_it(tmp_path, workers):
    settings = {"expert": "test_collect:NeverInTheCorridor", "noisy_share": 1.0, "episodes": 4, "workers": workers}
    with pytest.raises(RuntimeError, match="1 of 2 tasks could not be collected, the others are complete: task 'toy/corridor': .* lost"):
        collected(tmp_path / "both", tasks=[CORRIDOR, "gymnasium/cartpole"], **settings)
    alone = collected(tmp_path / "alone", tasks=["gymnasium/cartpole"], **settings)
    assert_same_episodes(Store(store_path("gymnasium/cartpole", tmp_path / "both")), alone)


def test_two_collectors_in_one_folder_are_refused(tmp_path):
    collected(tmp_path, episodes=2)
    with StoreWriter(store_path(CORRIDOR, tmp_path), [envs.task(CORRIDOR)]):
        with pytest.raises(ValueError, match=f"toy/corridor is being written by process {os.getpid()} on host"):
            collected(tmp_path, episodes=4)
    assert collected(tmp_path, episodes=4).num_episodes == 4


def test_an_expert_of_ones_own_is_named_in_the_manifest(tmp_path):
    store = collected(tmp_path, expert="test_collect:Patient", episodes=3)
    assert store.manifest.provenance["expert"] == "test_collect:Patient"


def test_an_expert_that_cannot_be_had_is_refused():
    with pytest.raises(ValueError, match="expert 'no_module:Expert' cannot be had: there is no module 'no_module' in "):
        collect(CollectConfig(tasks=[CORRIDOR], expert="no_module:Expert"))


def test_a_task_without_an_expert_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="task 'gymnasium/bipedal-walker' has no expert in the registry; collect with your own"):
        collect(CollectConfig(tasks=[CORRIDOR, "gymnasium/bipedal-walker"]))


def test_the_share_of_noisy_episodes_is_kept_at_every_length():
    config = CollectConfig(tasks=[CORRIDOR], noisy_share=0.3)
    assert [sum(config.is_noisy(i) for i in range(n)) for n in (10, 20, 100)] == [3, 6, 30]


def test_the_filter_measures_the_way_from_random_to_expert_also_where_returns_are_negative():
    task = envs.task(CORRIDOR).with_returns(-200.0, -100.0)
    assert least_return(task) == -120.0  # and not 80 % of -100
    assert least_return(task.with_returns(0.0, 10.0)) == 8.0  # the paper's rule where random play gets nothing
    assert least_return(task.with_returns(None, 10.0)) is None


def test_the_papers_expert_return_is_the_best_mean_of_a_tenth_of_the_episodes():
    returns = [0.0] * 10 + [4.0, 6.0] + [1.0] * 8  # 20 episodes: windows of 2
    assert window_expert_return(returns) == 5.0
    assert window_expert_return([3.0, 7.0]) == 7.0  # at least one episode
    assert window_expert_return([2.0] * 10_000 + [9.0] * 500 + [2.0] * 500) == 2.0 + 7.0 * 500 / 1000  # at most 1,000


def test_a_store_keeps_the_level_that_its_first_run_found(tmp_path):
    first = collected(tmp_path, expert_level="window", episodes=4)
    assert first.manifest.provenance["least_return"] == pytest.approx(0.725 + 0.8 * (1.0 - 0.725))
    more = collected(tmp_path, expert_level="window", episodes=6)
    assert more.manifest.provenance["least_return"] == first.manifest.provenance["least_return"]
