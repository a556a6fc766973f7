"""Pictures as users have them: files, bytes, open files, PIL pictures, arrays; all become uint8 (rows, columns, 3).

They come from anywhere, so nothing is decoded before its size, its format and the number of its pixels are known
(`read_image`), and every picture reaches the size of a model's field by the same rule (`fit_image`).
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from .given import kind
from .spec import FieldSpec

FORMS = "a file's name or bytes, an open file, a PIL picture, or a uint8 array (rows, columns, 3)"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # small decoders; TIFF's, PSD's and others' are refused
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
MAX_PIXELS = 2**25  # 33.5 million; Pillow itself only warns at 89 million
MAX_BYTES = 2**26

COLOURS = np.array(
    [
        [0, 0, 0], [255, 255, 255], [255, 64, 64], [64, 255, 64], [64, 128, 255], [255, 255, 64],
        [255, 64, 255], [64, 255, 255], [255, 160, 64], [160, 96, 255], [128, 128, 128],
    ],
    dtype=np.uint8,
)  # fmt: skip  # of an empty cell, and of what cells hold

_KNOWN = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
_PNG = b"\x89PNG\r\n\x1a\n"
_FOREIGN = {
    b"ii*\0": "TIFF", b"mm\0*": "TIFF", b"8bps": "PSD", b"<svg": "SVG", b"<?xml": "SVG", b"%pdf": "PDF", b"\0\0\x01\0": "ICO",
    b"\0\0\0\x0cjp": "JPEG 2000", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cjxl": "JPEG XL", b"p5": "PGM", b"p6": "PPM", b"<!doctype": "HTML",
    b"<html": "HTML",
}  # fmt: skip
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def drawn_cells(cells: np.ndarray, side: int) -> np.ndarray:
    """(rows, columns, kinds), not 0 where a cell holds a kind -> uint8 (rows * side, columns * side, 3), the last kind on top."""
    kinds = np.zeros(cells.shape[:2], np.int64)
    for i, held in enumerate(np.moveaxis(cells, 2, 0)):
        kinds[held != 0] = 1 + i % (len(COLOURS) - 1)
    return COLOURS[kinds].repeat(side, axis=0).repeat(side, axis=1)


def as_picture(image: Any, spec: FieldSpec) -> np.ndarray:
    """A picture as uint8 of the field's shape: aspect kept, centred on white. **Raises:** `ValueError`, see `pixels_of`."""
    array = pixels_of(image)
    return array if array.shape == spec.shape else fit_image(array, (spec.shape[0], spec.shape[1]))


def pixels_of(image: Any) -> np.ndarray:
    """uint8 (rows, columns, 3), transparent pixels on white.

    **Raises:** `ValueError` for what is no picture, or none that can be read, by name: an address, a list, an array of floats.
    """
    if isinstance(image, (str, os.PathLike)):
        check_local(os.fspath(image))
        return read_image(Path(os.fsdecode(image)))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return read_image(bytes(image))
    if callable(getattr(image, "read", None)):
        content = image.read(MAX_BYTES + 1)
        if not isinstance(content, bytes):
            raise ValueError("the picture's file was opened as text; open it in binary mode, 'rb'")
        return read_image(content)
    if isinstance(image, Image.Image):
        _check_size(image.height, image.width)
        try:
            return as_rgb(image)
        except OSError as error:  # it was opened, but not read yet
            raise ValueError(f"the picture is damaged: {error}; restore it or leave it out") from None
    if hasattr(image, "detach"):  # torch's
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"a picture is {kind(image)}, expected {FORMS}")
    return _of_array(image)


def check_local(name: str | bytes) -> None:
    """**Raises:** `ValueError` if a picture's name is an address in a network."""
    if "://" in os.fsdecode(name) or os.fsdecode(name).startswith("data:"):
        raise ValueError(f"picture '{os.fsdecode(name)[:200]}' is an address; download it and name the file")


def _of_array(array: np.ndarray) -> np.ndarray:
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not is_picture or array.size == 0:
        remedy = ""
        if array.dtype.kind == "f":
            remedy = "; multiply numbers from 0 to 1 by 255 and round them to uint8"
        elif array.ndim == 3 and array.shape[0] in (1, 3, 4):
            remedy = "; move the first axis to the end"
        raise ValueError(f"a picture is uint8 (rows, columns, 3); found {array.dtype} {array.shape}{remedy}")
    _check_size(*array.shape[:2])
    if array.ndim == 3 and array.shape[2] == 3:
        return array
    return as_rgb(Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def _check_size(rows: int, columns: int) -> None:
    if not 0 < rows * columns <= MAX_PIXELS:
        raise ValueError(f"the picture has {rows}x{columns} pixels, expected 1 to {MAX_PIXELS}; scale it")


def read_image(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a PNG, JPEG, WebP, GIF or BMP file, whatever its name says, into (rows, columns, 3) uint8.

    Transparent pixels become white, EXIF orientation is applied, 16-bit greys are scaled, and of an
    animation the first frame is taken.

    **Raises:** `ValueError` naming the file if it is missing, too large, of another format or damaged.
    """
    return read_frame(source, max_pixels)[0]


def read_frame(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, bool]:
    """The picture, as `read_image` gives it, and whether it is the first one of an animation. **Raises:** `ValueError`, see there."""
    label = "the picture" if isinstance(source, bytes) else f"picture {source}"
    encoded = source if isinstance(source, bytes) else read_bytes(Path(source), label)
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"{label} has {len(encoded)} bytes, more than {MAX_BYTES}; scale it down")
    encoded = _without_notes(encoded)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"{label} has more than {MAX_PIXELS} pixels; scale it down or leave it out") from None
    except _DAMAGE:
        raise ValueError(f"{label} is {_kind(encoded)}; expected one of {', '.join(FORMATS)}: convert it or leave it out") from None
    columns, rows = image.size
    if not 0 < rows * columns <= max_pixels:
        raise ValueError(f"{label} has {rows}x{columns} pixels, expected 1 to {max_pixels}; scale it or leave it out")
    is_cut_allowed, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # else what is missing would be grey
    try:
        image.load()
        return as_rgb(image), image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except _DAMAGE as error:
        raise ValueError(f"{label} is damaged: {error}; restore it or leave it out") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = is_cut_allowed


def fit_image(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales a picture (rows, columns, 3) to fit into `size` (rows, columns), centred on white.

    The proportions are kept; scaling down averages over the pixels it removes.
    """
    rows, columns = array.shape[:2]
    if (rows, columns) == tuple(size):
        return array
    inside = fitted_box((rows, columns), size)
    height, width = (part.stop - part.start for part in inside)
    canvas = np.full((*size, 3), 255, np.uint8)
    canvas[inside] = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC))
    return canvas


def fitted_box(shape: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Which rows and columns of `size` a picture of another shape takes when it is fitted in; the rest is padding."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    fitted = [max(1, round(n * scale)) for n in shape]
    starts = [(whole - part) // 2 for whole, part in zip(size, fitted, strict=True)]
    return slice(starts[0], starts[0] + fitted[0]), slice(starts[1], starts[1] + fitted[1])


def picture_kind(begin: bytes) -> str | None:
    """The format of a picture's file by its first bytes (16 are enough); `None` if it is none that is read."""
    if begin[:4] == b"RIFF" and begin[8:12] == b"WEBP":
        return "WEBP"
    if begin[:2] == b"BM" and begin[6:10] != bytes(4):  # a text may begin so too, but not go on with these zeros
        return None
    return next((name for start, name in _KNOWN.items() if begin.startswith(start)), None)


def as_rgb(image: Image.Image) -> np.ndarray:
    """A decoded picture, upright, as uint8 (rows, columns, 3): transparent pixels become white, 16-bit greys are scaled."""
    image = ImageOps.exif_transpose(image)
    transparent = image.info.get("transparency")
    if image.mode == "F":
        raise ValueError("the picture has floating-point pixels (mode F), whose white nobody knows; convert it to 8 bits")
    if image.mode.startswith("I"):  # whole numbers, of which Pillow's own conversion would cut everything above 255 off
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ValueError(f"the picture has pixels from {values.min()} to {values.max()} (mode I), expected 8 or 16 bits; convert it")
        # `I;16` is what a file of 16 bits is; `I` alone may as well hold 8
        grey = values if image.mode == "I" and values.max(initial=0) <= 255 else (values + 128) // 257
        if isinstance(transparent, int):
            grey = np.where(values == transparent, 255, grey)
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        raise ValueError("a transparent colour of 16 bits, whose pixels are not known any more: convert it to 8 bits")
    if "A" in image.mode or "a" in image.mode or transparent is not None:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    try:
        return np.array(image.convert("RGB"))
    except ValueError:
        raise ValueError(f"the picture is of mode {image.mode}, which has no way to RGB; convert it") from None


def read_bytes(path: Path, label: str) -> bytes:
    """A picture's file as it is. **Raises:** `ValueError` for one that cannot be read, or of more than `MAX_BYTES`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{label} has {path.stat().st_size} bytes, more than {MAX_BYTES}; scale it down")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{label} cannot be read: {error.strerror}") from None


def _without_notes(encoded: bytes) -> bytes:
    """A PNG without its packed texts: Pillow refuses pictures whose texts unpack to more than a megabyte."""
    if not encoded.startswith(_PNG):
        return encoded
    kept, at = [encoded[: len(_PNG)]], len(_PNG)
    while at < len(encoded):
        end = at + 12 + int.from_bytes(encoded[at : at + 4], "big")
        if encoded[at + 4 : at + 8] not in (b"zTXt", b"iTXt") or b"adobe" in encoded[at + 8 : at + 40]:  # XMP may say how it is turned
            kept.append(encoded[at:end])
        at = end
    return b"".join(kept)


def _kind(encoded: bytes) -> str:
    """What stands in place of a picture, as far as its first bytes say it."""
    if encoded[4:8] == b"ftyp":
        return "a HEIC or AVIF file"
    return next((f"a {name} file" for start, name in _FOREIGN.items() if encoded.lower().startswith(start)), "no readable picture")
