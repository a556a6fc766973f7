"""Whatever is handed to a captioning model gives the right result or one clear line, through every door.

The doors: `agent.caption`, transformers' processor with `generate`, and the command.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, pipeline

import gato
from gato.agent import Agent
from gato.cli import main
from gato.tokenizers.text import TextTokenizer

RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture(scope="module")
def folder(agent, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "final"
    agent.save(path)
    return path


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def halves(mode: str = "RGB", size: tuple[int, int] = (32, 16)) -> Image.Image:
    """The left half red, the right half green."""
    image = Image.new("RGB", size, GREEN)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def png_of(rows: int, columns: int) -> bytes:
    """A PNG file of a few bytes that promises this many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def rotated() -> bytes:
    """Stored upright, with a note of EXIF that it is to be turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(halves().transpose(Image.Transpose.ROTATE_90), exif=exif)


def see_through() -> bytes:
    """Red, green and white in a palette, the white one transparent, the picture wider than it needs to be."""
    image = Image.new("P", (32, 16), 1)
    image.putpalette([*RED, *GREEN, 0, 0, 0])
    image.paste(0, (0, 0, 16, 16))
    image.putpixel((0, 0), 2)
    return encoded(image, transparency=2)


def animated() -> bytes:
    return encoded(halves("P"), "GIF", save_all=True, append_images=[Image.new("P", (32, 16), 0)])


# -- pictures that are strange but right -----------------------------------------------------------------


@pytest.mark.parametrize("content", [animated(), rotated(), encoded(halves("RGBA")), encoded(halves("P")), encoded(halves(), "BMP")])
def test_a_strange_file_gives_the_patches_of_the_plain_one(agent, content):
    plain = agent.processor()(images=halves())["pixel_values"]
    assert plain[0, 8, 8].tolist() == list(RED) and plain[1, 8, 8].tolist() == list(GREEN)
    for picture in (content, Image.open(io.BytesIO(content))):
        assert torch.equal(agent.processor()(images=picture)["pixel_values"], plain)


def test_transparent_pixels_of_a_palette_are_white_and_the_others_as_they_are(agent):
    patches = agent.processor()(images=see_through())["pixel_values"]
    assert patches[0, 0, 0].tolist() == [255, 255, 255] and patches[0, 8, 8].tolist() == list(RED)


def test_cmyk_and_sixteen_bits_have_the_colours_they_mean(agent):
    ink = encoded(Image.new("CMYK", (32, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(agent.processor()(images=ink)["pixel_values"].numpy().astype(int) - RED).max() <= 2  # of JPEG
    grey = encoded(Image.fromarray(np.full((16, 32), 0x8080, np.uint16)))
    for picture in (grey, Image.open(io.BytesIO(grey))):
        assert (agent.processor()(images=picture)["pixel_values"] == 128).all()


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_a_dot_and_lines_are_captioned_like_any_picture(agent, folder, tmp_path, capsys, size):
    Image.new("RGB", size, RED).save(tmp_path / "line.png")
    assert main(["caption", str(folder), str(tmp_path / "line.png")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'line.png'}: {agent.caption(Image.new('RGB', size, RED))}\n"


# -- what is no picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "no readable picture; expected one of PNG"),
        (b"GATO\n" * 100, "no readable picture; expected one of PNG"),
        (png_of(30_000, 30_000), "(has too many|more than 33554432) pixels"),
        (png_of(8_000, 8_000), "has 8000x8000 pixels, expected 1 to 33554432"),
        (encoded(halves())[:60], "(is damaged|no readable picture)"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line_by_every_door(agent, folder, tmp_path, capsys, content, line):
    (tmp_path / "cat.png").write_bytes(content)
    for door in (agent.caption, agent.processor(), lambda picture: agent.answer(picture, "what")):
        for picture in (content, tmp_path / "cat.png"):
            with pytest.raises(ValueError, match=line):
                door(picture)
    assert main(["caption", str(folder), str(tmp_path / "cat.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- prompts -------------------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_is_refused_by_every_door(agent, folder, capsys):
    long = "picture " * 100
    model, processor = agent.model, agent.processor()
    for door in (
        lambda: agent.generate(long),
        lambda: agent.answer(halves(), long),
        lambda: model.generate(**processor(text=long)),
        lambda: model.generate(**processor(images=halves(), text=long)),
        lambda: pipeline("text-generation", model=str(folder))(long),
    ):
        with pytest.raises(ValueError, match="the prompt has [0-9]+ tokens but the context holds 96; shorten it"):
            door()
    assert main(["generate", str(folder), long]) == 2 and "shorten it" in capsys.readouterr().err


@pytest.mark.parametrize("positions", ["rope", "learned", "transformer_xl"])
def test_text_ends_where_the_context_does(make_gato, agent, positions):
    short = Agent(make_gato(positions, context_length=32).float(), agent.tokenizer, agent.tasks)
    out = short.model.generate(**short.processor()(text="picture of"), max_new_tokens=200, min_new_tokens=200)
    assert out.shape[1] == 32


def test_an_empty_prompt_is_refused(agent, folder, capsys):
    for door in (lambda: agent.generate(""), lambda: agent.processor()(text="")):
        with pytest.raises(ValueError, match="empty"):
            door()
    assert main(["generate", str(folder), ""]) == 2 and "the text to continue is empty" in capsys.readouterr().err


def test_control_characters_are_text_like_any_other(agent):
    typed = "go\x00to\x1b[2J\r\n\x7f\u202e"
    assert agent.generate(typed, max_new_tokens=3).startswith(typed)
    assert agent.answer(halves(), typed, max_new_tokens=3) == agent.answers([halves()], [typed], max_new_tokens=3)[0]


@pytest.mark.parametrize("typed", ["</s>", "<s>", "<unk>", "<image slot>", "<pad slot>", "<separator slot>", "<0x0A>"])
def test_special_tokens_that_somebody_types_are_letters_at_every_door(agent, folder, typed):
    special = {0, 1, 2, *range(agent.tokenizer.vocabulary.text_size, agent.tokenizer.vocabulary.size)}
    for made in (
        agent.processor()(text=typed)["input_ids"][0],
        AutoTokenizer.from_pretrained(folder)(typed, return_tensors="pt")["input_ids"][0],
    ):
        assert not special & set(made.tolist())
    asked = agent.processor()(images=halves(), text=typed)["input_ids"][0]
    assert len(special & set(asked[2:-1].tolist())) == 0 and int((asked == agent.tokenizer.vocabulary.image).sum()) == 2
    assert pipeline("text-generation", model=str(folder))(typed, max_new_tokens=2)[0]["generated_text"].startswith(typed)


# -- a tokenizer that does not belong to the weights ---------------------------------------------------------


def test_another_tokenizer_than_the_weights_were_trained_with_is_refused_by_every_door(agent, tmp_path, capsys):
    agent.save(tmp_path)
    other = TextTokenizer.train(["entirely other words of another text"] * 20, vocabulary_size=agent.tokenizer.text.size - 20)
    other.save(tmp_path / "tokenizer.model")
    for door in (gato.load, AutoTokenizer.from_pretrained, AutoProcessor.from_pretrained):
        with pytest.raises(ValueError, match="is not the tokenizer these weights were trained with"):
            door(tmp_path)
    assert main(["generate", str(tmp_path), "go"]) == 2 and capsys.readouterr().err.count("\n") == 1
