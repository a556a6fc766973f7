"""Key-to-Door: what is seen, what pays, and how likely a random walk is to be paid."""

import numpy as np
import pytest

from gato import envs
from gato.envs.demonstrator import RandomExpert
from gato.envs.key_to_door import DOWN, LEFT, RIGHT, UP, KeyToDoor
from gato.envs.recording import expert_episode

NAME = "toy/key-to-door"


@pytest.fixture
def world() -> KeyToDoor:
    """The agent in the first corner of the key room, the key below it, the door in the last cell of
    the door room."""
    world = KeyToDoor()
    world.reset(seed=0)
    world.agent, world.key, world.door = (0, 0), (1, 0), (0, 5)
    return world


def walk(world: KeyToDoor, actions: list[int]) -> tuple[dict, float, bool, bool]:
    for action in actions:
        observation, reward, terminated, truncated, _ = world.step(action)
    return observation, reward, terminated, truncated


WAY = [RIGHT, RIGHT, RIGHT, RIGHT, RIGHT, UP]  # from below the first corner to the door


def test_the_door_pays_only_with_the_key(world):
    _, reward, terminated, truncated = walk(world, [DOWN, *WAY])
    assert (reward, terminated, truncated) == (1.0, True, False)


def test_the_door_without_the_key_is_a_cell_like_any_other(world):
    world.key = (0, 1)
    _, reward, terminated, truncated = walk(world, [DOWN, *WAY])
    assert world.agent == world.door and (reward, terminated, truncated) == (0.0, False, False)


def test_walls_stop_a_step(world):
    walk(world, [UP, LEFT])
    assert world.agent == (0, 0)
    walk(world, [RIGHT, RIGHT])
    assert world.agent == (0, 1)  # the corridor leaves from the row below


def test_only_the_present_room_is_seen(world):
    observation, *_ = walk(world, [RIGHT])
    assert (observation["room"], observation["position"].tolist(), observation["thing"].tolist()) == (0, [0, 1], [1, 1, -1])
    in_corridor, *_ = walk(world, [DOWN, RIGHT])
    assert (in_corridor["room"], in_corridor["position"].tolist(), in_corridor["thing"].tolist()) == (1, [0, 0], [0, 0, 0])
    in_door_room, *_ = walk(world, [RIGHT, RIGHT])
    assert (in_door_room["room"], in_door_room["position"].tolist(), in_door_room["thing"].tolist()) == (2, [1, 0], [1, -1, 1])


def test_what_is_seen_at_the_door_does_not_tell_whether_the_key_was_taken(world):
    with_key, *_ = walk(world, [DOWN, *WAY[:-1]])
    other = KeyToDoor()
    other.reset(seed=0)
    other.agent, other.key, other.door = (1, 0), (0, 0), world.door
    without, *_ = walk(other, WAY[:-1])
    assert world.has_key and not other.has_key
    assert all(np.array_equal(with_key[name], without[name]) for name in with_key)


def test_an_episode_ends_after_its_limit(world):
    *_, terminated, truncated = walk(world, [UP] * 15)
    assert (terminated, truncated) == (False, True)


def test_the_same_seed_gives_the_same_rooms():
    worlds = [KeyToDoor() for _ in range(2)]
    first, second = (w.reset(seed=5)[0] for w in worlds)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert worlds[0].door == worlds[1].door and worlds[0].key != worlds[0].agent


def test_the_expert_always_reaches_the_door_with_the_key():
    for name in (NAME, f"{NAME}-lottery"):
        task, expert = envs.task(name), envs.expert(name)
        env = envs.make(task)
        assert [expert_episode(task, env, expert, seed).total_reward for seed in range(50)] == [1.0] * 50


def test_a_random_walk_is_seldom_paid():
    task = envs.task(NAME)
    env = envs.make(task)
    returns = [expert_episode(task, env, RandomExpert(), seed).total_reward for seed in range(1000)]
    assert set(returns) == {0.0, 1.0} and 0.02 < np.mean(returns) < 0.055
    assert task.random_return == pytest.approx(np.mean(returns), abs=0.02)


def test_the_lottery_pays_twice_as_much_but_seldom():
    returns, world = [], KeyToDoor(lottery=True)
    for seed in range(1000):
        world.reset(seed=seed)
        world.agent, world.lottery = (0, 0), (0, 1)
        _, reward, terminated, _ = walk(world, [RIGHT])
        assert terminated
        returns.append(reward)
    assert set(returns) == {0.0, 2.0} and 0.05 < np.mean(returns) < 0.16  # the door's 1 is worth ten times as much


def test_the_lottery_never_stands_in_the_exit():
    world = KeyToDoor(lottery=True)
    for seed in range(200):
        world.reset(seed=seed)
        assert world.lottery != (1, 1) and len({world.lottery, world.key, world.agent}) == 3


def test_the_picture_shows_agent_key_and_door(world):
    picture = world.render()
    assert picture.shape == (32, 96, 3) and picture.dtype == np.uint8
    agent, key, door = picture[0, 0].tolist(), picture[16, 0].tolist(), picture[0, 80].tolist()
    assert (agent, key, door) == ([255, 255, 255], [255, 255, 64], [64, 255, 64])


def test_rooms_without_space_are_refused():
    with pytest.raises(ValueError, match="size is 1, corridor 2 and limit 15; give at least 2, 1 and 1"):
        KeyToDoor(size=1)
