"""Task specs: environments' spaces become fields, fields keep their order, and JSON keeps everything."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from gato.spec import FieldSpec, Modality, TaskSpec

TWO = spaces.Discrete(2)


def observed(space) -> FieldSpec:
    """The one field that an observation space becomes."""
    (field,) = TaskSpec.from_spaces("toy/task", space, TWO).observations
    return field


def test_a_float_box_is_continuous_and_keeps_finite_bounds():
    field = observed(spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, 5], np.float32)))
    assert (field.modality, field.shape, field.dtype) == (Modality.CONTINUOUS, (2,), "float32")
    assert (field.low, field.high) == ((-1.0, None), (1.0, 5.0))
    assert field.num_tokens == 2


def test_bounds_that_agree_are_written_once():
    field = observed(spaces.Box(-3.0, 3.0, (2, 4), np.float64))
    assert (field.shape, field.dtype, field.low, field.high) == ((2, 4), "float64", (-3.0,), (3.0,))


def test_a_uint8_box_of_three_channels_is_a_picture():
    field = observed(spaces.Box(0, 255, (64, 80, 3), np.uint8))
    assert (field.modality, field.resize, field.num_tokens) == (Modality.IMAGE, "exact", 4 * 5)


def test_a_picture_that_is_no_multiple_of_sixteen_is_padded():
    field = observed(spaces.Box(0, 255, (210, 160, 3), np.uint8))
    assert (field.resize, field.patched_size, field.num_tokens) == ("pad", (224, 160), 14 * 10)


@pytest.mark.parametrize("shape", [(64, 64, 1), (64, 64, 4), (3, 64, 64), (4, 84, 84)])
def test_a_picture_of_another_layout_is_refused_and_not_read_as_numbers(shape):
    with pytest.raises(ValueError, match=r"picture of shape .* give RGB"):
        observed(spaces.Box(0, 255, shape, np.uint8))


def test_a_small_integer_box_is_discrete_and_a_wide_one_continuous():
    small, wide = observed(spaces.Box(-2, 7, (3,), np.int32)), observed(spaces.Box(0, 5000, (3,), np.int32))
    assert (small.modality, small.low, small.high) == (Modality.DISCRETE, (-2.0,), (7.0,))
    assert wide.modality is Modality.CONTINUOUS


def test_discrete_keeps_its_start():
    field = observed(spaces.Discrete(4, start=-1))
    assert (field.modality, field.shape, field.low, field.high) == (Modality.DISCRETE, (), (-1,), (2,))


def test_multi_discrete_and_multi_binary_have_one_token_per_cell():
    many, binary = observed(spaces.MultiDiscrete([3, 5])), observed(spaces.MultiBinary(6))
    assert (many.low, many.high, many.num_tokens) == ((0.0,), (2.0, 4.0), 2)
    assert (binary.low, binary.high, binary.num_tokens) == ((0,), (1,), 6)


def test_text_has_no_fixed_number_of_tokens():
    field = observed(spaces.Text(20))
    assert (field.modality, field.dtype, field.num_tokens) == (Modality.TEXT, "str", None)


def test_nested_spaces_become_fields_in_sorted_order_with_observations_first():
    nested = spaces.Dict({"joints": spaces.Tuple((TWO, TWO)), "arm": spaces.Dict({"z": TWO, "a": TWO}), "goal": spaces.Text(9)})
    task = TaskSpec.from_spaces("toy/task", nested, spaces.Dict({"b": TWO, "a": TWO}))
    assert [f.name for f in task.fields] == ["arm/a", "arm/z", "goal", "joints/0", "joints/1", "a", "b"]
    assert task.fields[1].path == ("arm", "z")


def test_the_parts_of_a_long_tuple_stay_in_index_order():
    task = TaskSpec.from_spaces("toy/task", spaces.Tuple([TWO] * 12), TWO)
    assert [f.path for f in task.observations] == [(i,) for i in range(12)]


@pytest.mark.parametrize(
    "space",
    [spaces.Sequence(TWO), spaces.Graph(spaces.Box(0, 1, (2,)), None), spaces.OneOf([TWO, TWO])],
    ids=["Sequence", "Graph", "OneOf"],
)
def test_spaces_of_varying_size_are_refused_with_the_reason(space):
    with pytest.raises(ValueError, match=rf"'arm/it' is a {type(space).__name__} space, which has no token form; wrap"):
        TaskSpec.from_spaces("toy/task", spaces.Dict({"arm": spaces.Dict({"it": space})}), TWO)


def test_a_continuous_action_without_bounds_is_refused():
    with pytest.raises(ValueError, match="action field 'action' is continuous but its range is not finite"):
        TaskSpec.from_spaces("toy/task", TWO, spaces.Box(-np.inf, np.inf, (2,)))


def test_a_picture_cannot_be_an_action():
    with pytest.raises(ValueError, match=r"action field 'action'.*picture"):
        TaskSpec.from_spaces("toy/task", TWO, spaces.Box(0, 255, (16, 16, 3), np.uint8))


def test_more_values_than_discrete_tokens_are_refused():
    observed(spaces.Discrete(1024))
    with pytest.raises(ValueError, match="has 1025 values but discrete tokens hold 1024"):
        observed(spaces.Discrete(1025))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": (3,), "high": (2,)}, "low"),
        ({"low": None}, "no finite range"),
        ({"low": (0, 0, 0)}, "a bound has 3 numbers"),
        ({"low": (0.5,)}, "whole"),
        ({"dtype": "float32"}, "dtype"),
        ({"dtype": "object"}, "dtype"),
        ({"shape": (2**30,)}, "shape"),
    ],
)
def test_a_field_that_cannot_be_tokens_is_refused(change, message):
    good = FieldSpec("cell", Modality.DISCRETE, "observation", (), "int64", (0,), (7,))
    with pytest.raises(ValueError, match=message):
        replace(good, **change)


def test_pictures_are_stored_as_bytes():
    with pytest.raises(ValueError, match="uint8"):
        FieldSpec("camera", Modality.IMAGE, "observation", (16, 16, 3), "float32")


def test_a_task_without_an_action_is_refused(corridor):
    with pytest.raises(ValueError, match="no action field"):
        replace(corridor, fields=corridor.observations)


def test_two_fields_of_one_name_are_refused(corridor):
    with pytest.raises(ValueError, match="field names repeat"):
        replace(corridor, fields=(*corridor.fields, corridor.fields[0]))


def test_a_task_survives_json(robot):
    task = replace(robot, env_id="arm-v1", env_kwargs={"noise": 0.1}, expert_return=3.5, episode_limit=200, clip_actions=True)
    assert TaskSpec.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_every_space_survives_json():
    nested = spaces.Dict({"a": spaces.Box(-np.inf, 1, (2,)), "b": spaces.Tuple((spaces.Text(3), TWO)), "c": spaces.MultiDiscrete([2, 3])})
    task = TaskSpec.from_spaces("toy/task", nested, spaces.Box(np.array([-1, 0], np.float32), np.array([1, 9], np.float32)))
    assert TaskSpec.from_dict(json.loads(json.dumps(task.to_dict()))) == task


@pytest.mark.parametrize("where", ["task", "field"])
def test_an_unknown_key_in_a_file_is_named(corridor, where):
    values = corridor.to_dict()
    (values if where == "task" else values["fields"][0])["colour"] = "red"
    with pytest.raises(ValueError, match=r"unknown keys.*colour"):
        TaskSpec.from_dict(values)


def test_nested_actions_are_taken_apart_and_put_together_again():
    space = spaces.Dict({"arm": spaces.Tuple((TWO, spaces.Box(-1, 1, (3,)))), "jump": TWO})
    task = TaskSpec.from_spaces("toy/task", TWO, space)
    flat = task.flatten({"arm": (1, np.ones(3)), "jump": 0}, "action")
    assert list(flat) == ["arm/0", "arm/1", "jump"]
    nested = task.unflatten_action(flat)
    assert (nested["jump"], nested["arm"][0]) == (0, 1)
    assert isinstance(nested["arm"], tuple)
    np.testing.assert_array_equal(nested["arm"][1], np.ones(3))


def test_a_tuple_action_of_twelve_parts_keeps_its_order():
    task = TaskSpec.from_spaces("toy/task", TWO, spaces.Tuple([TWO] * 12))
    value = tuple(i % 2 for i in range(11)) + (1,)
    assert task.unflatten_action(task.flatten(value, "action")) == value


def test_a_plain_action_stays_plain(corridor):
    assert corridor.flatten(1, "action") == {"step": 1}
    assert corridor.unflatten_action({"step": 1}) == 1


def test_tasks_that_differ_in_their_memory_alone_are_equal_and_no_file_of_data_holds_it():
    task = TaskSpec.from_spaces("test/one", spaces.Discrete(3), spaces.Discrete(3))
    short = replace(task, memory=2)
    assert short == task and not short.differences(task) and short.to_dict() == task.to_dict()
    with pytest.raises(ValueError, match="memory"):
        TaskSpec.from_dict(task.to_dict() | {"memory": 2})


def test_an_origin_belongs_to_continuous_observations_alone():
    place = FieldSpec("place", Modality.CONTINUOUS, "observation", (3,), origin=(1.0, 2.0, 3.0))
    assert place.zero.tolist() == [1, 2, 3] and replace(place, origin=(5.0,)).zero == 5 and replace(place, origin=None).zero == 0
    with pytest.raises(ValueError, match="expected one finite number, or 3 of them"):
        replace(place, origin=(1.0, 2.0))
    with pytest.raises(ValueError, match="finite"):
        replace(place, origin=(float("nan"),))
    with pytest.raises(ValueError, match="only continuous observations"):
        replace(place, role="action", low=(-1,), high=(1,))


def test_an_origin_of_no_observation_is_refused():
    box = spaces.Box(-1, 1, (2,))
    with pytest.raises(ValueError, match="no observation 'observatoin' that could have an origin; it has observation"):
        TaskSpec.from_spaces("x/y", box, box, {"observatoin": (0.5,)})
    with_origin = TaskSpec.from_spaces("x/y", box, box, {"observation": (0.5,)})
    assert (
        with_origin.origins == {"observation": (0.5,)} and TaskSpec.from_dict(json.loads(json.dumps(with_origin.to_dict()))) == with_origin
    )
    assert all(
        "origin" not in values for values in TaskSpec.from_spaces("x/y", box, box).to_dict()["fields"]
    )  # what was stored before keeps its hash


def test_differences_between_two_tasks_are_sentences(corridor):
    changed = replace(corridor, fields=(corridor.fields[0], replace(corridor.fields[1], high=(2,))))
    assert corridor.differences(corridor) == []
    assert corridor.differences(changed) == ["action 'step' has high (2,), expected (1,)"]


def test_only_tasks_with_other_actions_than_text_are_control(corridor):
    caption = FieldSpec("caption", Modality.TEXT, "action", dtype="str")
    assert corridor.is_control
    assert not replace(corridor, fields=(corridor.fields[0], caption)).is_control
