"""Pictures drawn anew for every use, in ways that keep their captions true."""

import numpy as np
import pytest

from gato.data.augment import augmented
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.words import caption_task


def captioned(caption: str) -> Episode:
    """A picture whose red channel grows from left to right and whose blue one from top to bottom."""
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[0, :, :, 0] = np.arange(64) * 3
    image[0, :, :, 2] = np.arange(64)[:, None] * 3
    task = caption_task("captions/ramps", (64, 64))
    return Episode(task, {"image": image}, {"caption": np.array([caption], object)}, np.zeros(1, np.float32))


def grows_to_the_right(episode: Episode) -> bool:
    red = episode.observations["image"][0, 32, :, 0].astype(int)
    return red[-1] > red[0]


def draws(caption: str, count: int = 40) -> list[Episode]:
    return [augmented(captioned(caption), np.random.default_rng(seed)) for seed in range(count)]


def test_a_picture_keeps_its_shape_and_type_and_its_caption():
    for episode in draws("two ramps"):
        assert episode.observations["image"].shape == (1, 64, 64, 3) and episode.observations["image"].dtype == np.uint8
        assert episode.actions["caption"][0] == "two ramps"


def test_the_same_generator_gives_the_same_picture_and_another_one_another():
    first, again, other = (augmented(captioned("a ramp"), np.random.default_rng(s)).observations["image"] for s in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_about_half_of_the_pictures_are_mirrored_and_none_is_upside_down():
    episodes = draws("a ramp")
    assert 10 <= sum(map(grows_to_the_right, episodes)) <= 30
    assert all(e.observations["image"][0, -1, 32, 2] > e.observations["image"][0, 0, 32, 2] for e in episodes)


@pytest.mark.parametrize(
    "caption", ["a ramp to the right", "Left-hand ramp", "counterclockwise arrows", "the letter b", "waning crescent moon", "two"]
)
def test_a_picture_whose_caption_names_a_side_is_never_mirrored(caption):
    assert all(map(grows_to_the_right, draws(caption)))


def test_pictures_of_control_are_drawn_anew_but_never_mirrored():
    """Three timesteps of a ramp, of which an action says where to turn."""
    camera = FieldSpec("image", Modality.IMAGE, "observation", (64, 64, 3), "uint8")
    task = TaskSpec("mine/ramps", (camera, FieldSpec("turn", Modality.DISCRETE, "action", (), "int64", (0,), (1,))))
    images = np.repeat(captioned("a ramp").observations["image"], 3, axis=0)
    episode = Episode(task, {"image": images}, {"turn": np.array([0, 1, 1])}, np.zeros(3, np.float32))
    drawn = [augmented(episode, np.random.default_rng(seed)) for seed in range(40)]
    assert all(map(grows_to_the_right, drawn))
    assert len({e.observations["image"].tobytes() for e in drawn}) == 40


def test_the_original_is_left_alone():
    episode = captioned("a ramp")
    before = episode.observations["image"].copy()
    augmented(episode, np.random.default_rng(0))
    assert (episode.observations["image"] == before).all()
