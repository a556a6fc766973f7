"""What JAT-style rows do not declare, gathered by one look at every row: widths and ranges of columns, and the names of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from gato.data.formats.recordings.frames import look
from gato.spec import PATCH_SIZE, FieldSpec, Modality

from .jat_columns import CONTROL, NUMBERS, as_float32, elements, numbers, read_frame
from .rows import RowFile

_DTYPES = {Modality.CONTINUOUS: "float32", Modality.DISCRETE: "int64", Modality.IMAGE: "uint8", Modality.TEXT: "str"}


class Options(Protocol):
    """Those of `JatReader` that ranges and shapes depend on."""

    @property
    def image_size(self) -> tuple[int, int] | None: ...
    @property
    def stacked_frames(self) -> bool: ...
    @property
    def num_actions(self) -> int | None: ...
    @property
    def action_low(self) -> float | None: ...
    @property
    def action_high(self) -> float | None: ...


def check_columns(file: RowFile, row: pa.RecordBatch, label: str) -> None:
    """**Raises:** `ValueError` if a line of JSON has other columns than the file's first."""
    if file.path.suffix.lower() == ".jsonl" and set(row.schema.names) != set(file.schema.names):
        odd = sorted(set(row.schema.names) ^ set(file.schema.names))
        raise ValueError(f"{label} and the first row differ in the columns {odd[:8]}; give every row all of them")


class Ranges:
    """Widths and ranges of a data set's columns, and the names of its tasks, gathered row by row."""

    def __init__(self, reader: Options, skip: int) -> None:
        self.reader = reader
        self.skip = skip  # how many bad rows are passed over; reading them counts them
        self.tasks: dict[str, None] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.low: dict[str, np.ndarray] = {}
        self.high: dict[str, np.ndarray] = {}
        self.nulls: dict[str, str] = {}  # column -> the first row that lacks it

    def read(self, file: RowFile, names: Sequence[str]) -> None:
        pictures = "image_observations"
        if pictures in names and pictures not in self.shapes and file.num_rows:  # they are large: one row says their size
            label, row = next(file.rows(columns=[pictures]))
            self._add(label, pictures, row)
        for label, row in file.rows(columns=[n for n in names if n != pictures]):
            try:
                check_columns(file, row, label)
                if "task" in row.schema.names and (task := row.column("task")[0].as_py()) is not None:
                    self.tasks[str(task)] = None
                for name in row.schema.names:
                    if name in CONTROL and name != pictures:
                        self._add(label, name, row, is_json=file.path.suffix.lower() == ".jsonl")
            except ValueError:
                if self.skip == 0:
                    raise
                self.skip -= 1

    def _add(self, label: str, name: str, row: pa.RecordBatch, is_json: bool = False) -> None:
        if row.column(name).null_count:
            self.nulls.setdefault(name, label)
            return
        modality = CONTROL[name][1]
        if modality is Modality.IMAGE and name not in self.shapes:
            self.shapes[name] = self._frame_shape(label, elements(row.column(name), f"{label}: column '{name}'"))
        elif modality is Modality.TEXT:
            if name != "instruction":
                elements(row.column(name), f"{label}: column '{name}'")
            self.shapes[name] = ()
        elif modality in NUMBERS:
            values = numbers(elements(row.column(name), f"{label}: column '{name}'"), f"{label}: column '{name}'")
            if is_json and values.dtype == np.float64:  # JSON has no float32, which is what the format says
                values = as_float32(values)
            self._check(values, CONTROL[name], f"{label}: column '{name}'")
            if (found := look(values.dtype.name, values.shape[1:])) and CONTROL[name][0] == "observation":
                raise ValueError(
                    f"{label}: column '{name}' looks like {found} {values.shape[1:]}; save encoded pictures in 'image_observations', "
                    "or flat lists if they are numbers"
                )
            shape = self.shapes.setdefault(name, values.shape[1:])
            if values.shape[1:] != shape:
                raise ValueError(f"{label}: column '{name}' has timesteps of shape {values.shape[1:]}, the rows before it {shape}")
            self.dtypes[name] = np.promote_types(self.dtypes.get(name, values.dtype), values.dtype)
            self.low[name] = np.minimum(self.low.get(name, np.inf), values.min(axis=0))
            self.high[name] = np.maximum(self.high.get(name, -np.inf), values.max(axis=0))

    @staticmethod
    def _check(values: np.ndarray, kind: tuple[str, Modality], label: str) -> None:
        """What would spoil a range; the rest is for `Episode` to see."""
        role, modality = kind
        if len(values) == 0:
            raise ValueError(f"{label}: an episode of no timesteps; leave the row out")
        if modality is Modality.DISCRETE and values.dtype.kind not in "biu":
            raise ValueError(f"{label} holds {values.dtype}, expected whole numbers")
        if role == "action" and not np.isfinite(values).all():
            raise ValueError(f"{label} at timestep {np.argwhere(~np.isfinite(values))[0, 0]} is not finite; leave the row out")

    def _frame_shape(self, label: str, frames: pa.Array) -> tuple[int, ...]:
        if self.reader.image_size is not None or not len(frames):
            return (*(self.reader.image_size or (0, 0)), 3)
        return read_frame(frames[0].as_py(), None, self.reader.stacked_frames, f"{label}: column 'image_observations', timestep 0").shape

    def fields(self) -> tuple[tuple[FieldSpec, ...], dict[str, Any]]:
        """The fields, and what was inferred in words."""
        if partly := sorted(self.nulls.keys() & self.shapes.keys()):
            raise ValueError(f"{self.nulls[partly[0]]}: column '{partly[0]}' is null, but not in all rows; import each task by itself")
        fields, inferred = [], {}
        for name, shape in self.shapes.items():
            role, modality = CONTROL[name]
            kind = "float64" if self.dtypes.get(name) == np.float64 and modality is Modality.CONTINUOUS else _DTYPES[modality]
            low, high = self._bounds(name)
            rows, columns = shape[:2] if modality is Modality.IMAGE else (0, 0)
            resize: Literal["pad", "exact"] = "pad" if rows % PATCH_SIZE or columns % PATCH_SIZE else "exact"
            fields.append(FieldSpec(name, modality, role, shape, kind, low, high, (name,), resize))
            inferred[name] = {"shape": list(shape)} | ({} if low is None else {"low": low, "high": high})
        return tuple(fields), {"inferred": inferred}

    def _bounds(self, name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        role, modality = CONTROL[name]
        if modality is Modality.DISCRETE:
            most = self.reader.num_actions - 1 if role == "action" and self.reader.num_actions else int(np.max(self.high[name]))
            return (min(0, int(np.min(self.low[name]))),), (most,)
        if modality is not Modality.CONTINUOUS or role != "action":
            return None, None
        low, high = np.ravel(self.low[name]).astype(float), np.ravel(self.high[name]).astype(float)
        constant = low == high  # an action that never changes has no range of its own
        low, high = np.where(constant, low - 1, low), np.where(constant, high + 1, high)
        given = self.reader.action_low, self.reader.action_high
        return tuple(tuple(map(float, found)) if own is None else (own,) for found, own in zip((low, high), given, strict=True))  # type: ignore[return-value]
