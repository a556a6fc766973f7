"""Episodes: what they refuse, how they are cut, and what they say about themselves."""

from dataclasses import replace

import numpy as np
import pytest

from gato.episode import Episode, check_values, clip_actions, stack_values
from gato.spec import FieldSpec, Modality


def test_an_episode_knows_its_length_return_and_returns_to_go(walk):
    episode = walk([0, 1, 1], [1, 1, 1])
    assert (episode.num_timesteps, episode.total_reward) == (3, 2.0)
    assert episode.returns_to_go().tolist() == [2.0, 2.0, 1.0]


def test_a_window_that_leaves_out_the_end_has_not_ended(walk):
    episode = walk([0, 0, 1], [0, 1, 1], terminated=True, final_observation={"cell": 1})
    start, end = episode.window(0, 2), episode.window(1, 99)
    assert (start.observations["cell"].tolist(), start.terminated, start.final_observation) == ([0, 0], False, None)
    assert (end.actions["step"].tolist(), end.terminated, end.final_observation) == ([1, 1], True, {"cell": 1})


def test_an_episode_of_no_timesteps_is_refused(walk):
    with pytest.raises(ValueError, match=r"'toy/corridor': an episode of no timesteps"):
        walk([], [])


def test_missing_and_unknown_fields_are_named(walk):
    with pytest.raises(ValueError, match=r"found action fields \['jump'\], expected \['step'\]"):
        replace(walk([0], [1]), actions={"jump": np.array([1])})


def test_fields_of_unequal_length_are_refused(walk):
    with pytest.raises(ValueError, match="action 'step' has 1 timesteps but the rewards have 2"):
        walk([0, 1], [1])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_naming_task_timestep_and_field(drive, wrong):
    episode = drive(3)
    force = np.array([0.0, 1.0, wrong], np.float32)
    with pytest.raises(ValueError, match=r"task 'toy/robot': observation 'gripper/force' at timestep 2 is not finite"):
        replace(episode, observations=dict(episode.observations) | {"gripper/force": force})


def test_a_reward_that_is_not_finite_is_refused(walk):
    with pytest.raises(ValueError, match="the reward at timestep 1 is not finite"):
        replace(walk([0, 1], [1, 1]), rewards=np.array([0, np.nan], np.float32))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("gripper/force", np.zeros((2, 1), np.float32), r"has shape \(1,\), expected \(\)"),
        ("gripper/open", np.zeros(2, np.float32), "has dtype float32, expected int64"),
        ("camera", np.zeros((2, 16, 32, 3), np.float32), "has dtype float32, expected uint8"),
        ("camera", np.full((2, 16, 32, 3), 300, np.uint16), "has dtype uint16, expected uint8"),
        ("gripper/force", np.array([0, 1e300]), r"at timestep 1 is 1e\+300, which float32 cannot hold"),
        ("gripper/open", np.array([1, 2**63], np.uint64), "at timestep 1 is 9223372036854775808, outside"),
        ("goal", np.array(["go", 3], object), "at timestep 1 is int, expected str"),
    ],
)
def test_a_wrong_shape_or_dtype_is_refused(drive, name, values, message):
    episode = drive(2)
    with pytest.raises(ValueError, match=rf"observation '{name}' {message}"):
        replace(episode, observations=dict(episode.observations) | {name: values})


def test_stacked_numbers_take_the_dtype_of_their_field_where_it_holds_them(robot):
    camera = next(f for f in robot.observations if f.name == "camera")
    for value, dtype in ((200, "uint8"), (300, "uint16")):
        stacked = stack_values((camera,), [{"camera": np.full((16, 32, 3), value, np.uint16)}])["camera"]
        assert stacked.dtype == dtype and (stacked == value).all()
    counts = FieldSpec("counts", Modality.CONTINUOUS, "observation", (2,), "uint8")
    with pytest.raises(ValueError, match="'counts' has values from 3 to 300, which uint8 cannot hold"):
        check_values("toy", counts, np.array([[3, 300]], np.uint16), 1)


def test_a_final_observation_is_checked_too(walk):
    with pytest.raises(ValueError, match="final observation lacks the fields"):
        walk([0], [1], final_observation={})


def test_an_observation_outside_its_bounds_is_kept_and_counted(drive, robot):
    fields = tuple(replace(f, low=(-1.0,), high=(1.0,)) if f.name == "gripper/force" else f for f in robot.fields)
    episode = drive(3, task=replace(robot, fields=fields))
    episode = replace(episode, observations=dict(episode.observations) | {"gripper/force": np.array([-2.0, 0.5, 3.0], np.float32)})
    assert episode.count_out_of_bounds() == 2


def test_an_action_outside_its_bounds_is_refused_and_clipped_only_on_request(drive, robot):
    episode, motors = drive(2), np.array([[0.0, 10.5], [-1.25, 5.0]], np.float32)
    with pytest.raises(ValueError, match=r"action 'motors' at timestep 0 is 10.5, outside \[-1, 10\]"):
        replace(episode, actions={"motors": motors})
    clipped, count = clip_actions(robot, {"motors": motors})
    assert (clipped["motors"].tolist(), count) == ([[0.0, 10.0], [-1.0, 5.0]], 2)
    replace(episode, actions=clipped)


def test_a_float32_value_at_a_bound_that_float32_cannot_hold_is_inside(robot, drive):
    fields = (*robot.observations, replace(robot.actions[0], low=(-0.1,), high=(0.1,)))
    values = np.full((1, 2), 0.1, np.float32)  # 0.10000000149 in float64
    Episode(replace(robot, fields=fields), drive(1).observations, {"motors": values}, np.zeros(1, np.float32))


def test_a_trusted_episode_defaults_like_any_other(walk):
    checked = walk([0], [1])
    names = ("task", "observations", "actions", "rewards", "parameters")
    assert Episode.trusted(**{name: getattr(checked, name) for name in names}) == checked
