"""Pictures with captions: an episode of one timestep that observes a picture and says a sentence.

Pictures come from anywhere, so nothing is decoded before its size, its format and the number of its
pixels are known (`read_image`), and every picture reaches the model's size by the same rule (`fit_image`).
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

from .progress import Progress
from .store import StoreWriter

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 2**25  # 33.5 million; Pillow itself only warns at 89 million
MAX_BYTES = 2**26

_COLUMNS = ("image", "caption", "split")
_PARAMETERS = ("concept", "source", "licence", "author", "original")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def caption_task(name: str, size: tuple[int, int] = (64, 64), licence: str | None = None) -> TaskSpec:
    """Observation `image` (rows, columns, 3) uint8, action `caption`; `size` is (rows, columns)."""
    image = FieldSpec("image", Modality.IMAGE, "observation", (*size, 3), "uint8", path=("image",))
    caption = FieldSpec("caption", Modality.TEXT, "action", dtype="str", path=("caption",))
    return TaskSpec(name=name, fields=(image, caption), licence=licence)


def read_image(source: str | Path | bytes) -> np.ndarray:
    """Decodes a PNG, JPEG or WebP file into (rows, columns, 3) uint8.

    Transparent pixels become white, EXIF orientation is applied, 16-bit greys are scaled, and of an
    animation the first frame is taken.

    **Raises:** `ValueError` naming the file if it is missing, too large, of another format or damaged.
    """
    label = "the picture" if isinstance(source, bytes) else f"picture {source}"
    encoded = source if isinstance(source, bytes) else _read_bytes(Path(source), label)
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"{label} has {len(encoded)} bytes, more than {MAX_BYTES}; scale it down")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{label} has too many pixels: {error}; scale it down") from None
    except _DAMAGE:
        raise ValueError(f"{label} is no readable picture; expected one of {', '.join(FORMATS)}") from None
    columns, rows = image.size
    if rows * columns > MAX_PIXELS:
        raise ValueError(f"{label} has {rows}x{columns} pixels, more than {MAX_PIXELS}; scale it down")
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except _DAMAGE as error:
        raise ValueError(f"{label} is damaged: {error}; restore it or leave it out") from None


def fit_image(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales a picture (rows, columns, 3) to fit into `size` (rows, columns), centred on white.

    The proportions are kept; scaling down averages over the pixels it removes.
    """
    rows, columns = array.shape[:2]
    if (rows, columns) == tuple(size):
        return array
    scale = min(size[0] / rows, size[1] / columns)
    fitted_rows, fitted_columns = (max(1, round(n * scale)) for n in (rows, columns))
    scaled = Image.fromarray(array).resize((fitted_columns, fitted_rows), Image.Resampling.BICUBIC)
    canvas = np.full((*size, 3), 255, np.uint8)
    top, left = (size[0] - fitted_rows) // 2, (size[1] - fitted_columns) // 2
    canvas[top : top + fitted_rows, left : left + fitted_columns] = np.asarray(scaled)
    return canvas


def import_pictures(
    path: str | Path, out: str | Path, splits: Sequence[str] = ("train",), size: tuple[int, int] = (64, 64)
) -> dict[str, Path]:
    """Writes one store per split into `out/SPLIT` and returns their folders.

    An interrupted import goes on where it stopped.

    **Arguments:** `path`: a parquet file with the columns `image` (encoded bytes), `caption` and `split`;
    `concept`, `source`, `licence`, `author` and `original` go into the episodes' parameters.

    **Raises:** `ValueError` naming file and row for a picture that cannot be read, for a missing column,
    and for a split that the file does not have.
    """
    path = Path(path)
    file, counts = _open_parquet(path)
    if unknown := [s for s in splits if s not in counts]:
        raise ValueError(f"{path} has no split {unknown}; it has {dict(sorted(counts.items()))}")
    with open(path, "rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    task = caption_task(f"captions/{path.stem}", size, licence="per picture, see the episodes' parameters")
    folders = {}
    for split in splits:
        folders[split] = Path(out) / split
        with StoreWriter(folders[split], [task], {"split": split}) as writer:
            writer.bind(path.name, digest)
            done = writer.num_episodes
            with Progress(f"{path.name} {split}", counts[split], "picture", done) as progress:
                for row, values in islice(_rows(file, split), done, None):
                    try:
                        writer.append(_episode(task, values))
                    except ValueError as error:
                        raise ValueError(f"{path}, row {row}: {error}") from None
                    progress.advance()
    return folders


def _read_bytes(path: Path, label: str) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{label} has {path.stat().st_size} bytes, more than {MAX_BYTES}; scale it down")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{label} cannot be read: {error.strerror}") from None


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would cut everything above 255 off
        grey = (np.asarray(image).astype(np.uint32).clip(0, 65535) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def _open_parquet(path: Path) -> tuple[pq.ParquetFile, dict[str, int]]:
    """The file and the number of pictures per split."""
    try:
        file = pq.ParquetFile(path)
        if missing := [c for c in _COLUMNS if c not in file.schema_arrow.names]:
            raise ValueError(f"{path} lacks the columns {missing}; it has {file.schema_arrow.names}")
        counts = file.read(columns=["split"])["split"].value_counts().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no readable parquet file: {error}") from None
    return file, {entry["values"]: entry["counts"] for entry in counts}


def _rows(file: pq.ParquetFile, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers and values of one split, a few row batches in memory at a time."""
    names = [c for c in (*_COLUMNS, *_PARAMETERS) if c in file.schema_arrow.names]
    row = 0
    for batch in file.iter_batches(batch_size=64, columns=names):
        for values in batch.to_pylist():
            if values["split"] == split:
                yield row, values
            row += 1


def _episode(task: TaskSpec, values: dict[str, Any]) -> Episode:
    if not isinstance(values["image"], bytes) or not isinstance(values["caption"], str):
        raise ValueError("expected encoded bytes in 'image' and text in 'caption'")
    if not values["caption"].strip():
        raise ValueError("the caption is empty; leave the row out")
    rows, columns, _ = task.observations[0].shape
    image = fit_image(read_image(values["image"]), (rows, columns))
    return Episode(
        task=task,
        observations={"image": image[None]},
        actions={"caption": np.array([values["caption"]], object)},
        rewards=np.zeros(1, np.float32),
        terminated=True,
        behaviour="human",
        parameters={k: values[k] for k in _PARAMETERS if values.get(k) is not None},
    )
