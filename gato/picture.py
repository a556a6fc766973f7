"""Pictures as users have them: files, bytes, open files, PIL pictures, arrays; all become uint8 (rows, columns, 3)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .given import kind
from .spec import FieldSpec

FORMS = "a file's name or bytes, an open file, a PIL picture, or a uint8 array (rows, columns, 3)"


def as_picture(image: Any, spec: FieldSpec) -> np.ndarray:
    """A picture as uint8 of the field's shape: aspect kept, centred on white. **Raises:** `ValueError`, see `pixels_of`."""
    from gato.data.formats.picture_row import fit_image

    array = pixels_of(image)
    return array if array.shape == spec.shape else fit_image(array, (spec.shape[0], spec.shape[1]))


def pixels_of(image: Any) -> np.ndarray:
    """uint8 (rows, columns, 3), transparent pixels on white.

    **Raises:** `ValueError` for what is no picture, or none that can be read, by name: an address, a list, an array of floats.
    """
    from PIL.Image import Image

    from gato.data.formats.picture_row import MAX_BYTES, as_rgb, read_image

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
    if isinstance(image, Image):
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
    from PIL import Image

    from gato.data.formats.picture_row import as_rgb

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
    from gato.data.formats.picture_row import MAX_PIXELS

    if not 0 < rows * columns <= MAX_PIXELS:
        raise ValueError(f"the picture has {rows}x{columns} pixels, expected 1 to {MAX_PIXELS}; scale it")
