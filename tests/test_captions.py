"""Pictures with captions: safe decoding, one size, one episode each."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from gato.data.formats.picture_row import PictureRow, picture_episode
from gato.picture import MAX_BYTES, fit_image, pixels_of, read_frame, read_image
from gato.spec import Modality
from gato.words import caption_task

RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **rest) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **rest)
    return buffer.getvalue()


def png_header(columns: int, rows: int) -> bytes:
    """A valid PNG that promises columns x rows pixels in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def test_a_caption_task_observes_a_picture_and_says_a_sentence():
    task = caption_task("captions/toy", size=(32, 64))
    assert [(f.role, f.name, f.modality) for f in task.fields] == [
        ("observation", "image", Modality.IMAGE),
        ("action", "caption", Modality.TEXT),
    ]
    assert task.observations[0].shape == (32, 64, 3)
    assert not task.is_control


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_lossless_picture_is_read_exactly_from_a_path_and_from_bytes(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    content = encoded(Image.fromarray(pixels), kind, lossless=True)
    (tmp_path / "picture").write_bytes(content)
    np.testing.assert_array_equal(read_image(content), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "picture"), pixels)


def test_transparent_pixels_become_white():
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert read_image(encoded(image)).tolist() == [[list(RED), list(WHITE)]]


def test_a_palette_with_a_transparent_colour_becomes_white_there():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLACK])
    image.putpixel((1, 0), 1)
    assert read_image(encoded(image, transparency=1)).tolist() == [[list(RED), list(WHITE)]]


def test_sixteen_bit_grey_is_scaled_not_cut():
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert read_image(encoded(image))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_becomes_rgb():
    found = read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert found.shape == (8, 8, 3)
    assert np.abs(found.astype(int) - RED).max() <= 3  # JPEG is lossy


def test_black_and_white_becomes_rgb():
    assert read_image(encoded(Image.new("1", (1, 1), 1))).tolist() == [[list(WHITE)]]


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    assert read_image(encoded(image, exif=exif)).tolist() == [[list(RED)], [list(GREEN)]]


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (2, 2), c) for c in (RED, GREEN)]
    content = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(content)[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("kind", ["GIF", "BMP"])
def test_gif_and_bmp_are_read_whatever_the_name_says(tmp_path, kind):
    (tmp_path / "cat.png").write_bytes(encoded(Image.new("RGB", (2, 1), RED), kind))
    assert read_image(tmp_path / "cat.png").tolist() == [[list(RED), list(RED)]]


@pytest.mark.parametrize("content", [b"just text", b"", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture_is_refused_whatever_the_name_says(tmp_path, content):
    (tmp_path / "cat.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cat.png is no readable picture; expected one of PNG, JPEG, WEBP, GIF, BMP"):
        read_image(tmp_path / "cat.png")


def test_formats_with_large_decoders_are_refused_by_name():
    with pytest.raises(ValueError, match=r"is a TIFF file; expected one of .*: convert it or leave it out"):
        read_image(encoded(Image.new("RGB", (2, 2)), "TIFF"))
    for start, name in ((b"\0\0\0\x1cftypavif", "a HEIC or AVIF file"), (b"<svg xmlns=", "a SVG file"), (b"%PDF-1.4", "a PDF file")):
        with pytest.raises(ValueError, match=f"the picture is {name}"):
            read_image(start)


def test_a_bomb_is_refused_before_it_is_decoded():
    with pytest.raises(ValueError, match=r"has 8000x8000 pixels, expected 1 to 33554432; scale it"):
        read_image(png_header(8000, 8000))
    with pytest.raises(ValueError, match=r"the picture has more than \d+ pixels; scale it down"):
        read_image(png_header(2**30, 2**30))


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ValueError, match=r"huge.png has 67108865 bytes"):
        read_image(tmp_path / "huge.png")


def test_a_cut_picture_and_a_missing_one_are_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for kind in ("PNG", "JPEG", "WEBP"):
        content = encoded(Image.fromarray(pixels), kind)
        with pytest.raises(ValueError, match=r"the picture is (damaged|no readable picture)"):
            read_image(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"gone.png cannot be read: No such file"):
        read_image(tmp_path / "gone.png")


def test_flipped_bytes_give_a_picture_or_a_clear_error():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
    for kind in ("PNG", "JPEG", "WEBP"):
        original = encoded(Image.fromarray(pixels), kind)
        for place in rng.integers(0, len(original), 150):
            content = bytearray(original)
            content[place] ^= int(rng.integers(1, 256))
            try:
                assert read_image(bytes(content)).dtype == np.uint8
            except ValueError:
                pass


def test_a_wide_picture_is_centred_on_white():
    fitted = fit_image(np.zeros((10, 20, 3), np.uint8), (8, 8))
    assert fitted[:, 0, 0].tolist() == [255, 255, 0, 0, 0, 0, 255, 255]
    assert fit_image(np.zeros((20, 10, 3), np.uint8), (8, 8))[0, :, 0].tolist() == [255, 255, 0, 0, 0, 0, 255, 255]


def test_scaling_down_averages():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    fitted = fit_image(np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8), (8, 8))
    assert np.abs(fitted.astype(int) - 127).max() < 20  # grey, not black and white stripes


def test_a_picture_of_the_right_size_is_left_alone():
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    assert fit_image(pixels, (16, 16)) is pixels


def test_a_line_of_one_pixel_still_fits():
    assert fit_image(np.zeros((1, 500, 3), np.uint8), (8, 8)).shape == (8, 8, 3)


def test_a_row_becomes_an_episode_of_one_timestep():
    row = PictureRow("row 0", encoded(Image.new("RGB", (4, 4), RED)), {"caption": "a red square"}, {"licence": "CC0", "author": None})
    episode = picture_episode(caption_task("captions/toy", size=(16, 32)), row)
    assert episode.num_timesteps == 1 and episode.terminated
    assert episode.observations["image"].shape == (1, 16, 32, 3)
    assert episode.observations["image"][0, 8, 16].tolist() == list(RED)
    assert episode.actions["caption"].tolist() == ["a red square"]
    assert episode.parameters == {"licence": "CC0"}


@pytest.mark.parametrize(
    ("picture", "caption", "message"),
    [
        (b"GIF89a", "x", "row 7: the picture is no readable picture"),
        (None, "x", "row 7: the picture is null, expected encoded bytes or a file's name"),
        (ValueError("gone"), "x", "row 7: gone"),
    ],
)
def test_a_bad_row_is_named(picture, caption, message):
    with pytest.raises(ValueError, match=message):
        picture_episode(caption_task("captions/toy"), PictureRow("row 7", picture, {"caption": caption}, {}))


# -- what Pillow makes of odd pictures ---------------------------------------------------------------


def palette(colour) -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *colour])
    return image


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (encoded(Image.new("1", (4, 4), 1)), (255, 255, 255)),
        (encoded(Image.new("L", (4, 4), 100)), (100, 100, 100)),
        (encoded(Image.new("LA", (4, 4), (100, 0))), (255, 255, 255)),
        (encoded(palette((10, 20, 30))), (10, 20, 30)),
        (encoded(palette((10, 20, 30)), transparency=1), (255, 255, 255)),
        (encoded(Image.new("L", (4, 4), 100), transparency=100), (255, 255, 255)),
        (encoded(Image.fromarray(np.full((4, 4), 257 * 117, np.uint16))), (117, 117, 117)),
        (encoded(Image.fromarray(np.full((4, 4), 30_000, np.uint16)), transparency=30_000), (255, 255, 255)),
        (encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95), (0, 255, 255)),
        (encoded(Image.new("RGBA", (4, 4), (1, 2, 3, 0)), "WEBP", lossless=True), (255, 255, 255)),
    ],
)
def test_a_colour_is_the_same_in_every_mode_of_a_file_and_of_a_picture(content, colour):
    assert read_image(content)[1, 1].tolist() == list(colour)
    assert pixels_of(Image.open(io.BytesIO(content)))[1, 1].tolist() == list(colour)


@pytest.mark.parametrize("kind", ["add_text", "add_itxt"])
def test_long_notes_in_a_picture_are_no_reason_to_refuse_it(kind):
    notes = PngInfo()
    getattr(notes, kind)("Comment", "x" * 3_000_000, zip=True)
    assert read_image(encoded(Image.new("L", (4, 4), 100), pnginfo=notes)).tolist() == [[[100] * 3] * 4] * 4


def test_a_cut_picture_is_refused_whatever_another_library_set(monkeypatch):
    cut = encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-500]
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="the picture is damaged: image file is truncated"):
        read_image(cut)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture_is_kept_and_said(kind):
    red, green = (Image.new("RGB", (4, 4), colour) for colour in ("red", "green"))
    moving = encoded(red, kind, save_all=True, append_images=[green], lossless=True)
    frame, is_animated = read_frame(moving)
    assert is_animated and frame[0, 0].tolist() == [255, 0, 0]
    assert not read_frame(encoded(red, kind))[1]
    episode = picture_episode(caption_task("captions/toy"), PictureRow("row 7", moving, {"caption": "x"}, {}))
    assert episode.parameters == {"animated": True}


@pytest.mark.parametrize(
    ("start", "what"), [(b"<!DOCTYPE html>", "HTML"), (b"P6 4 4 255 ", "PPM"), (b"\0\0\x01\0\x01\0", "ICO"), (b"II*\0", "TIFF")]
)
def test_what_stands_in_place_of_a_picture_is_named(start, what):
    with pytest.raises(ValueError, match=f"the picture is a {what} file; expected one of PNG"):
        read_image(start + bytes(50))
