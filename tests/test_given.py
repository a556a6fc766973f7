"""The Python interface names what it takes: the right thing in any form, or one line that says what was found and expected."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import gato
from gato.cli import main

RED = Image.new("RGB", (32, 16), "red")


def patches(agent, picture) -> np.ndarray:
    return agent.picture_prompts([picture])[0].patches


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(ValueError) as refused:
        call(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# -- lists ---------------------------------------------------------------------------------------------------------


def test_nothing_gives_nothing(agent):
    assert agent.captions([]) == agent.captions(()) == agent.answers([], []) == agent.candidates([], 3) == []
    assert agent.log_likelihood([]).shape == (0,)


def test_lists_tuples_generators_and_arrays_of_pictures_are_lists(agent):
    pixels = np.zeros((2, 16, 32, 3), np.uint8)
    expected = agent.captions([pixels[0], pixels[1]])
    for form in (tuple(pixels), (p for p in pixels), pixels, torch.from_numpy(pixels), iter(list(pixels))):
        assert agent.captions(form) == expected


@pytest.mark.parametrize("single", ["a.png", b"\x89PNG", RED, np.zeros((16, 32, 3), np.uint8), None, 3, {"a.png": 1}, io.BytesIO()])
def test_a_single_thing_where_a_list_is_wanted_is_named(agent, single):
    for call in (agent.captions, lambda images: agent.answers(images, ["what"]), lambda images: agent.candidates(images, 2)):
        assert "expected a list of pictures" in refusal(call, single)


@pytest.mark.parametrize(
    "questions, fault", [("what", "questions is 'what', expected a list"), ([None], r"questions\[0\] is None"), (3, "is 3")]
)
def test_questions_are_a_list_of_texts(agent, questions, fault):
    assert fault.replace("\\", "") in refusal(agent.answers, [RED], questions)


@pytest.mark.parametrize("wrong", [None, 3, b"go", ["go"], {"text": "go"}])
def test_a_text_is_a_text(agent, wrong):
    assert "text is" in refusal(agent.generate, wrong) and "expected a text" in refusal(agent.generate, wrong)
    assert "expected a text" in refusal(agent.answer, RED, wrong)


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ({"temperature": -1}, "'temperature' is -1, expected a number from 0"),
        ({"temperature": float("nan")}, "'temperature' is nan"),
        ({"temperature": float("inf")}, "'temperature' is inf"),
        ({"temperature": "hot"}, "'temperature' is 'hot'"),
        ({"max_new_tokens": 0}, "'max_new_tokens' is 0, expected a whole number from 1"),
        ({"max_new_tokens": 2.5}, "'max_new_tokens' is 2.5"),
        ({"max_new_tokens": True}, "'max_new_tokens' is True"),
        ({"seed": -1}, "'seed' is -1"),
        ({"seed": None}, "'seed' is null"),
    ],
)
def test_settings_are_checked_wherever_a_text_is_written(agent, option, fault):
    for call in (lambda **o: agent.caption(RED, **o), lambda **o: agent.generate("go", **o), lambda **o: agent.answer(RED, "what", **o)):
        assert fault in refusal(call, **option)


def test_numbers_of_numpy_are_numbers(agent):
    assert agent.generate("go", max_new_tokens=np.int64(3), temperature=np.float32(0), seed=np.uint8(1)).startswith("go")


def test_a_policy_names_what_it_takes(make_gato, tokenizer, robot):
    agent = gato.Agent(make_gato(), tokenizer, {robot.name: robot})
    assert "a task is None" in refusal(agent.policy, None) and "a task is 3" in refusal(agent.policy, 3)
    for option in ({"temperature": float("nan")}, {"temperature": -0.5}, {"seed": 1.5}, {"memory": -1}, {"overflow": "x"}):
        assert next(iter(option)) in refusal(agent.policy, robot.name, **option)


# -- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        encoded(RED), bytearray(encoded(RED)), memoryview(encoded(RED)), io.BytesIO(encoded(RED)), RED, np.asarray(RED),
        torch.from_numpy(np.array(RED)), RED.convert("RGBA"), np.asarray(RED.convert("RGBA")), RED.convert("P"),
    ],
    ids=lambda form: f"{type(form).__name__} {getattr(form, 'mode', '')}",
)  # fmt: skip
def test_a_picture_is_the_same_in_every_form(agent, form):
    np.testing.assert_array_equal(patches(agent, form), patches(agent, RED))


def test_an_open_file_and_a_path_of_bytes_are_read(agent, tmp_path):
    RED.save(tmp_path / "red.png")
    with (tmp_path / "red.png").open("rb") as file:
        np.testing.assert_array_equal(patches(agent, file), patches(agent, tmp_path / "red.png"))
    with (tmp_path / "red.png").open(encoding="latin-1") as file:
        assert "binary mode" in refusal(agent.caption, file)


@pytest.mark.parametrize("values, shown", [([0, 128, 255], [0, 128, 255]), ([0, 257 * 128, 65535], [0, 128, 255])])
def test_whole_numbers_are_grey_of_8_or_16_bits(values, shown):
    from gato.picture import pixels_of

    image = Image.fromarray(np.array([values], np.int32))
    assert image.mode == "I" and pixels_of(image)[0, :, 0].tolist() == shown


def test_a_dark_file_of_16_bits_stays_dark():
    from gato.picture import pixels_of

    content = encoded(Image.fromarray(np.array([[0, 255, 65535]], np.uint16)))
    assert pixels_of(content)[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("grey", [np.full((16, 32), 9, np.uint8), np.full((16, 32, 1), 9, np.uint8), Image.new("L", (32, 16), 9)])
def test_grey_is_a_colour(agent, grey):
    np.testing.assert_array_equal(patches(agent, grey), patches(agent, np.full((16, 32, 3), 9, np.uint8)))


@pytest.mark.parametrize(
    ("picture", "fault"),
    [
        ("https://example.org/cat.png", "is an address; download it"),
        ("file:///cat.png", "is an address; download it"),
        ("data:image/png;base64,aa", "is an address; download it"),
        (None, "a picture is None, expected a file's name"),
        (3, "a picture is 3, expected"),
        ([RED], "of type list, expected"),
        (np.zeros((16, 32, 3)), "found float64 (16, 32, 3); multiply numbers"),
        (np.zeros((3, 16, 32), np.uint8), "found uint8 (3, 16, 32); move the first axis"),
        (np.zeros((16, 32, 3), np.uint16), "found uint16"),
        (np.zeros((16, 32, 3), bool), "found bool"),
        (np.zeros((0, 32, 3), np.uint8), "found uint8 (0, 32, 3)"),
        (np.array(["a"]), "a picture is uint8"),
        (Image.new("F", (4, 4), 0.5), "floating-point pixels (mode F)"),
        (Image.fromarray(np.array([[-1, 70000]], np.int32)), "pixels from -1 to 70000"),
        (b"", "no readable picture"),
    ],
    ids=range(15),
)
def test_what_is_no_picture_is_named(agent, picture, fault):
    assert fault in refusal(agent.caption, picture)


# -- pictures that the command is given ------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(agent, tmp_path) -> str:
    agent.save(tmp_path / "final")
    return str(tmp_path / "final")


def test_pictures_in_a_folder_that_cannot_be_read_are_named(checkpoint, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    RED.save(photos / "a.png")
    RED.save(photos / "b.TIFF")
    (photos / "c.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (photos / "d.svg").write_text("<svg/>")
    (photos / "e.pdf").write_bytes(b"%PDF-1.7")
    (photos / "notes.txt").write_text("no picture at all")
    assert main(["caption", checkpoint, str(photos)]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1 and captured.err.count("expected one of PNG") == 4
    for name, kind in (("b.TIFF", "TIFF"), ("c.heic", "HEIC or AVIF"), ("d.svg", "SVG"), ("e.pdf", "PDF")):
        assert f"{photos / name} is a {kind} file" in captured.err
    assert main(["caption", checkpoint, str(photos), "--json"]) == 1
    assert [set(row) for row in json.loads(capsys.readouterr().out)] == [{"image", "caption"}, *[{"image", "error"}] * 4]


def test_addresses_are_refused_by_every_verb_that_takes_a_picture(checkpoint, capsys):
    for arguments in (["caption", checkpoint, "https://x.org/a.png"], ["chat", checkpoint, "--image", "http://x.org/a.png"],
                      ["show", checkpoint, "--attention", "https://x.org/a.png"]):  # fmt: skip
        assert main(arguments) == 2
        assert "is an address; download it and name the file" in capsys.readouterr().err
