"""The columns of JAT-style rows: which fields they hold, and how a cell of lists or encoded pictures becomes an array.

Fields of one kind are concatenated, in the task's canonical order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from gato.picture import FORMATS, fit_image, read_image
from gato.spec import FieldSpec, Modality, Role, TaskSpec

from .foreign import exact_cast

# column -> what it holds: the fields of this role and modality, one after the other
CONTROL: dict[str, tuple[Role, Modality]] = {
    "continuous_observations": ("observation", Modality.CONTINUOUS),
    "discrete_observations": ("observation", Modality.DISCRETE),
    "text_observations": ("observation", Modality.TEXT),
    "instruction": ("observation", Modality.TEXT),  # one text per episode: every timestep observes it
    "image_observations": ("observation", Modality.IMAGE),
    "continuous_actions": ("action", Modality.CONTINUOUS),
    "discrete_actions": ("action", Modality.DISCRETE),
}
FINAL = {name: f"final_{name.removesuffix('s')}" for name, (role, _) in CONTROL.items() if role == "observation" and name != "instruction"}
NUMBERS = (Modality.CONTINUOUS, Modality.DISCRETE)
MAX_AXES = 8


def columns_of(task: TaskSpec) -> dict[str, list[FieldSpec]]:
    """`{column: the fields it holds, in canonical order}` of a control task.

    **Raises:** `ValueError` for fields that the format has no column for.
    """
    if all(CONTROL.get(f.name) == (f.role, f.modality) for f in task.fields):  # fields that came from these columns
        return {f.name: [f] for f in task.fields}
    found: dict[str, list[FieldSpec]] = {}
    for spec in task.fields:
        name = next((n for n, kind in CONTROL.items() if kind == (spec.role, spec.modality)), None)
        if name is None or (name in found and spec.modality not in NUMBERS):
            more = "no" if name is None else f"one {spec.modality}"
            raise ValueError(
                f"task '{task.name}': {spec.role} '{spec.name}' is {spec.modality}, and JAT's rows have {more} column for that"
            )
        found.setdefault(name, []).append(spec)
    return found


def required(row: pa.RecordBatch, name: str) -> pa.Array:
    if name not in row.schema.names:
        raise ValueError(f"the row lacks the column '{name}'; it has {row.schema.names}")
    column = row.column(name)
    if column.null_count:
        raise ValueError(f"column '{name}' is null")
    return column


def elements(column: pa.Array, label: str) -> pa.Array:
    """What the list of one row holds, a step each. **Raises:** `ValueError` if the row holds a single value."""
    if not _is_list(column.type):
        what = "one number" if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) else f"one {column.type}"
        raise ValueError(f"{label} holds {what} a row; a row must be a whole episode (lists, one value for each timestep)")
    return column.flatten()


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def numbers(values: pa.Array, label: str) -> np.ndarray:
    """(T, ...) of lists of one width each."""
    shape = [len(values)]
    while _is_list(values.type):
        if values.null_count:
            raise ValueError(f"{label} holds a null")
        widths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        if len(set(widths.tolist())) > 1:
            t = int(np.argmax(widths != widths[0]))
            raise ValueError(f"{label} has {widths[t]} values at timestep {t}, but {widths[0]} before")
        if len(shape) == MAX_AXES:
            raise ValueError(f"{label} holds lists in lists, {MAX_AXES} deep; expected numbers")
        shape.append(int(widths[0]) if len(widths) else 0)
        values = values.flatten()
    if values.null_count and len(values):
        raise ValueError(f"{label} holds a null")
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type) or not len(values)):
        raise ValueError(f"{label} holds {values.type}, expected numbers")
    return (values.to_numpy(zero_copy_only=False) if len(values) else np.empty(0)).reshape(shape)


def as_float32(values: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """Floats of a smaller kind; what it cannot hold becomes infinite, which an episode refuses."""
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def take_apart(fields: Sequence[FieldSpec], values: Any) -> dict[str, np.ndarray]:
    """`{field name: (T, *shape)}` of a column."""
    if fields[0].modality is Modality.TEXT:
        texts = np.empty(len(values), object)
        texts[:] = values
        return {fields[0].name: texts}
    if fields[0].modality is Modality.IMAGE:
        return {fields[0].name: values}
    flat = values.reshape(len(values), -1)
    if flat.shape[1] != sum(f.size for f in fields):
        raise ValueError(f"{[f.name for f in fields]} have {flat.shape[1]} values a timestep, expected {sum(f.size for f in fields)}")
    parts = np.split(flat, np.cumsum([f.size for f in fields])[:-1], axis=1)
    found = {}
    for f, part in zip(fields, parts, strict=True):
        part = part.reshape(-1, *f.shape)
        found[f.name] = as_float32(part, f.dtype) if f.modality is Modality.CONTINUOUS else exact_cast(part, f.dtype)
    return found


def picture_bytes(value: Any, label: str) -> bytes:
    """The bytes of an encoded picture, as `datasets` keeps it. A path is never followed."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(f"{label} holds no encoded picture; store its bytes in the file")
    return content


def decode(cell: pa.Array, fields: Sequence[FieldSpec], fit: bool, stacked: bool, label: str) -> Any:
    """(T, ...) numbers, a list of T texts, or (T, rows, columns, 3) pictures, from an array of T steps.

    **Arguments:** `fit`: scale pictures to the field's size instead of refusing others; `stacked`: see `read_frame`.
    """
    if fields[0].modality in NUMBERS:
        return numbers(cell, label)
    if fields[0].modality is Modality.TEXT:
        return cell.to_pylist()
    rows, columns, _ = fields[0].shape
    frames = np.empty((len(cell), rows, columns, 3), np.uint8)
    for t, encoded in enumerate(cell):
        pixels = read_frame(encoded.as_py(), (rows, columns) if fit else None, stacked, f"{label}, timestep {t}")
        if pixels.shape != frames.shape[1:]:
            raise ValueError(
                f"{label}, timestep {t} is a picture of {pixels.shape[0]}x{pixels.shape[1]} pixels, expected {rows}x{columns}; "
                f"--image_size '[{rows},{columns}]' fits them"
            )
        frames[t] = pixels
    return frames


def read_frame(value: Any, size: tuple[int, ...] | None, stacked: bool, label: str) -> np.ndarray:
    """(rows, columns, 3) uint8, fitted into `size` if one is given."""
    content = picture_bytes(value, label)
    try:
        pixels = read_image(content)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.mode in ("RGBA", "LA"):
            last = np.array(image)[:, :, -1]
            if stacked:
                pixels = np.repeat(last[:, :, None], 3, axis=2)
            elif last.min() < 255:
                raise ValueError(
                    f"{label} is a picture of {len(image.mode)} channels; if they are grey frames of several timesteps, "
                    "--stacked_frames true keeps the last"
                )
    return pixels if size is None else fit_image(pixels, (size[0], size[1]))
