"""Collecting demonstrations into stores."""

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato import envs
from gato.data.collect import CollectConfig, Noise, collect, measure, store_path, summary_table
from gato.data.store import Store
from gato.envs.demonstrator import RuleExpert

CORRIDOR = "toy/corridor"
LEFT, RIGHT = 0, 1


def collected(folder, **settings) -> Store:
    collect(CollectConfig(**{"tasks": [CORRIDOR], "episodes": 10, "out": folder, **settings}))
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
    summary = collect(CollectConfig(tasks=[CORRIDOR], episodes=10, out=tmp_path, noisy_share=0.0))[0]
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
    assert episode.observations["image"].shape == (episode.num_timesteps, 56, 56, 3)
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
    with pytest.raises(ValueError, match="it is a share"):
        CollectConfig(tasks=[CORRIDOR], noise=20)
    with pytest.raises(ValueError, match="known are babyai"):
        CollectConfig(tasks=[])


def test_the_registry_holds_what_measure_finds():
    row = measure([CORRIDOR], episodes=200)[0]
    assert row["random"] == pytest.approx(envs.task(CORRIDOR).random_return)
    assert row["expert"] == envs.task(CORRIDOR).expert_return == 1.0
    assert "toy/corridor" in summary_table([row])
