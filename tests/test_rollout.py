"""Policies in environments, and the scores made of their returns."""

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato import envs
from gato.envs import stream
from gato.envs.toy import Corridor
from gato.eval.rollout import RandomPolicy, expert_rollout, rollout
from gato.eval.score import interquartile_mean, mean_interval, nested_interval, normalised_score, success_interval
from gato.eval.settings import EpisodeLimits

CORRIDOR = envs.task("toy/corridor")
LEFT, RIGHT = 0, 1


class AlwaysRight:
    """Goes right, and remembers what it was shown."""

    def reset(self, num_streams, demonstrations=()):
        self.num_streams, self.seen = num_streams, []

    def act(self, observation, reward, first, streams):
        self.seen.append((observation["observation"], reward, first, streams))
        return {"action": np.full(len(streams), RIGHT)}


def scores(results, task=CORRIDOR):
    return normalised_score([r.total_reward for r in results], task.random_return, task.expert_return)


def test_a_perfect_policy_scores_a_hundred():
    assert (scores(rollout(AlwaysRight(), CORRIDOR, 20)) == 100).all()


def test_the_expert_scores_a_hundred():
    assert (scores(expert_rollout("toy/corridor", 20)) == 100).all()


def test_a_random_policy_scores_about_nothing():
    _, low, high = mean_interval(scores(rollout(RandomPolicy(CORRIDOR), CORRIDOR, 200)), confidence=0.999)
    assert low < 0 < high


def test_environments_that_would_take_the_memory_are_fewer(monkeypatch, caplog):
    """Each takes 64 MB, and the second is the first with which more than 100 are taken."""
    monkeypatch.setattr(stream, "MEMORY_SHARE", 100e6 / psutil.virtual_memory().available)
    monkeypatch.setattr(envs, "make", lambda task: Heavy())
    policy = AlwaysRight()
    assert rollout(policy, CORRIDOR, 7, num_envs=50) == rollout(AlwaysRight(), CORRIDOR, 7, num_envs=1)
    assert policy.num_streams == 2
    assert "2 environments of 'toy/corridor' play side by side, not 7" in caplog.text


class Heavy(Corridor):
    def __init__(self):
        super().__init__()
        self.weights = np.ones(8 * 2**20)  # 64 MB, all of it written


def test_a_rollout_ends_when_its_environments_are_closed(monkeypatch):
    closed = []

    class Slow(Corridor):
        def close(self):
            time.sleep(0.05)
            closed.append(self)

    monkeypatch.setattr(envs, "make", lambda task: Slow())
    rollout(AlwaysRight(), CORRIDOR, 3, num_envs=3)
    assert len(closed) == 3


@pytest.mark.parametrize("num_envs", [2, 3, 50])
def test_results_do_not_depend_on_the_number_of_environments(num_envs):
    assert rollout(AlwaysRight(), CORRIDOR, 7, num_envs=num_envs) == rollout(AlwaysRight(), CORRIDOR, 7, num_envs=1)


def test_expert_and_policy_play_the_same_episodes():
    policy, expert = rollout(AlwaysRight(), CORRIDOR, 7), expert_rollout(CORRIDOR, 7)
    assert policy == expert


def test_the_policy_is_told_when_an_episode_begins_and_what_was_earned():
    policy = AlwaysRight()
    results = rollout(policy, CORRIDOR, 2, num_envs=1)
    firsts = [bool(first[0]) for _, _, first, _ in policy.seen]
    assert firsts == [t == 0 for r in results for t in range(r.num_timesteps)]
    assert all(reward[0] == 0 for _, reward, _, _ in policy.seen)  # the goal's reward ends the episode


def test_an_environment_without_an_episode_left_is_not_put_to_the_policy():
    policy = AlwaysRight()
    results = rollout(policy, CORRIDOR, 3, num_envs=3)
    assert sum(len(streams) for *_, streams in policy.seen) == sum(r.num_timesteps for r in results)
    assert policy.seen[0][3].tolist() == [0, 1, 2]


def test_an_environment_that_raises_fails_its_episode_and_no_more(monkeypatch):
    monkeypatch.setattr(Corridor, "step", breaking_at_cell(Corridor.step, 1))
    results = rollout(AlwaysRight(), CORRIDOR, 20, num_envs=4)
    failed = [r for r in results if r.failed]
    assert len(results) == 20 and 0 < len(failed) < 20
    assert failed[0].failed == "RuntimeError: the floor gave way"
    assert np.isnan(failed[0].total_reward) and failed[0].success is None
    assert [r.failed for r in results] == [r.failed for r in rollout(AlwaysRight(), CORRIDOR, 20, num_envs=1)]


def breaking_at_cell(step, cell):
    def breaking(env, action):
        if env.cell == cell:
            raise RuntimeError("the floor gave way")
        return step(env, action)

    return breaking


def test_an_environment_that_hangs_fails_its_episode_and_the_others_go_on(monkeypatch):
    hangs, step = threading.Event(), Corridor.step

    def hanging(env, action):
        if env.cell == 1:
            hangs.wait(20)  # far longer than anybody waits for it here
        return step(env, action)

    monkeypatch.setattr(Corridor, "step", hanging)
    results = rollout(AlwaysRight(), CORRIDOR, 8, num_envs=2, limits=EpisodeLimits(step_seconds=0.2))
    hangs.set()
    failed = [r for r in results if r.failed]
    assert len(results) == 8 and 0 < len(failed) < 8
    assert failed[0].failed == "TimeoutError: no answer within 0.2 s"
    assert all(r.total_reward == 1 for r in results if not r.failed)


def test_environments_side_by_side_share_a_thread_until_one_of_them_hangs(monkeypatch):
    """Two of four hang in the same timestep; each of the others takes every step once."""
    hangs, step, threads = threading.Event(), Corridor.step, []

    def hanging(env, action):
        threads.append(threading.get_ident())
        if len(threads) in (2, 4):
            hangs.wait(20)
        return step(env, action)

    monkeypatch.setattr(Corridor, "step", hanging)
    results = rollout(AlwaysRight(), CORRIDOR, 4, num_envs=4, limits=EpisodeLimits(step_seconds=0.2))
    assert [r.failed is None for r in results] == [True, False, True, False]
    assert len(set(threads)) == 3 and threads[0] == threads[1] and threads[2] == threads[3]
    assert len(threads) == 2 + sum(r.num_timesteps for r in results)
    hangs.set()


def changed(step, at, **changes):
    """A step whose `at`-th call gives something else instead of the observation or the reward."""
    calls = itertools.count(1)

    def changing(env, action):
        observation, reward, *rest = step(env, action)
        if next(calls) == at:
            observation, reward = changes.get("observation", observation), changes.get("reward", reward)
        return observation, reward, *rest

    return changing


PENDULUM = envs.task("gymnasium/pendulum")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"observation": np.array([np.nan, 0, 0], np.float32)}, "observation 'observation' at timestep 3 is not finite"),
        ({"observation": np.zeros(4, np.float32)}, "observation 'observation' has shape"),
        ({"reward": float("nan")}, "the reward of timestep 3 is nan"),
    ],
)
def test_what_is_no_observation_or_reward_fails_the_episode_and_not_the_policy(monkeypatch, change, reason):
    env = envs.make(PENDULUM)
    inner = type(env.unwrapped)
    env.close()
    monkeypatch.setattr(inner, "step", changed(inner.step, 3, **change))
    (failed, fine) = rollout(RandomPolicy(PENDULUM), replace(PENDULUM, episode_limit=5), 2, num_envs=1)
    assert reason in failed.failed and failed.num_timesteps == 3 and np.isnan(failed.total_reward)
    assert fine.failed is None and np.isfinite(fine.total_reward)


def test_observations_outside_their_range_are_kept_and_counted(monkeypatch):
    env = envs.make(PENDULUM)
    inner = type(env.unwrapped)
    env.close()
    monkeypatch.setattr(inner, "step", changed(inner.step, 3, observation=np.array([2, 0, -9], np.float32)))
    seen = []
    short = replace(PENDULUM, episode_limit=5)
    (result,) = rollout(RandomPolicy(short), short, 1, transform=lambda o, streams, first: seen.append(o["observation"][0]) or o)
    assert result.failed is None and result.out_of_bounds == 2  # a cosine of 2, a speed of -9 where 8 is the most
    assert seen[3].tolist() == [2, 0, -9]


def test_random_play_does_not_depend_on_the_number_of_environments():
    alone, together = (rollout(RandomPolicy(CORRIDOR), CORRIDOR, 9, num_envs=n) for n in (1, 4))
    assert alone == together


def test_a_transform_changes_what_the_policy_sees_and_not_what_happens():
    policy, kept = AlwaysRight(), []
    rollout(policy, CORRIDOR, 3, transform=lambda o, streams, first: {"observation": o["observation"] * 0}, sink=kept.append)
    assert all((observation == 0).all() for observation, *_ in policy.seen)
    assert any(episode.observations["observation"].max() > 0 for episode in kept)


def test_the_episode_limit_of_the_task_cuts_an_episode():
    kept = []
    results = rollout(AlwaysRight(), replace(CORRIDOR, episode_limit=1), 10, sink=kept.append)
    assert all(r.num_timesteps == 1 for r in results) and len(kept) == 10
    assert any(episode.truncated and not r.success for episode, r in zip(kept, results, strict=True))


def test_a_level_with_pictures_and_text_is_rolled_out_in_batches():
    pytest.importorskip("minigrid", reason="needs the extra 'babyai'")
    task = envs.task("babyai/go-to-local")
    shapes = []

    def look(observation, streams, first):
        shapes.append((observation["image"].shape, observation["mission"].dtype))
        return observation

    results = rollout(RandomPolicy(task), task, 4, num_envs=4, transform=look)
    assert shapes[0] == ((4, 112, 112, 3), np.dtype(object)) and len(results) == 4


def test_the_random_policy_stays_inside_a_continuous_range():
    task = envs.task("gymnasium/pendulum")
    kept = []
    rollout(RandomPolicy(task), task, 2, sink=kept.append)
    actions = np.concatenate([episode.actions["action"] for episode in kept])
    assert actions.dtype == np.float32 and np.abs(actions).max() <= 2 and np.abs(actions).max() > 1.9


# -- intervals -----------------------------------------------------------------------------------------


def coverage(interval, draw, truth, repeats) -> float:
    """How often the interval of a drawn sample holds the true value."""
    rng = np.random.default_rng(0)
    found = (interval(draw(rng)) for _ in range(repeats))
    return float(np.mean([low <= truth <= high for low, high in found]))


def test_the_interval_of_a_mean_holds_the_truth_in_95_of_100_evaluations():
    """Returns of 50 episodes, skewed as those of a task that sometimes fails early: exponential, mean 1."""
    share = coverage(lambda x: mean_interval(x)[1:], lambda rng: rng.exponential(size=50), 1.0, 300)
    assert 0.90 < share < 0.98  # 0.95 with a standard error of 0.013, less what 50 episodes cost the bootstrap


def test_the_interval_of_a_success_rate_holds_the_truth_near_the_edge_too():
    share = coverage(lambda count: success_interval(int(count), 50), lambda rng: rng.binomial(50, 0.95), 0.95, 2000)
    assert 0.93 < share < 0.99


def test_the_interval_of_an_interquartile_mean_holds_the_truth():
    """8 tasks with means 0, 10 ... 70, of which the middle four average 35; 20 episodes each."""
    means = np.arange(8)[:, None] * 10.0
    share = coverage(lambda x: interquartile_mean(x)[1:], lambda rng: means + rng.normal(scale=4, size=(8, 20)), 35.0, 100)
    assert share > 0.88


def test_the_interval_over_series_holds_the_truth_where_that_over_episodes_alone_does_not():
    """5 training seeds that differ by 10 points, 20 episodes each that differ by 1."""

    def draw(rng):
        return rng.normal(scale=10, size=(5, 1)) + rng.normal(size=(5, 20))

    assert coverage(lambda x: nested_interval(x)[1:], draw, 0.0, 60) > 0.7  # 5 seeds are few for any bootstrap
    assert coverage(lambda x: mean_interval(x.ravel())[1:], draw, 0.0, 60) < 0.5


def test_a_mean_lies_inside_its_interval():
    mean, low, high = mean_interval([0.0, 0.0, 0.0, 1.0])
    assert low <= mean == 0.25 <= high
    assert mean_interval([3.0, 3.0]) == (3.0, 3.0, 3.0)
    assert np.isnan(mean_interval([3.0])[1:]).all()


def test_a_score_needs_an_expert_above_random():
    with pytest.raises(ValueError, match="not above"):
        normalised_score([1.0], 2.0, 2.0)
    with pytest.raises(ValueError, match="needs both references"):
        normalised_score([1.0], None, 2.0)
