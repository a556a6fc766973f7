"""Pictures <-> 16x16 patches in raster order, and where each patch lies (Gato, appendix C.3).

Patches have no ids: their pixels travel as uint8 and are normalised on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from einops import rearrange

from gato.spec import NUM_POSITION_BINS, PATCH_SIZE, FieldSpec


def resize(spec: FieldSpec, images: np.ndarray) -> np.ndarray:
    """Applies the field's resize rule: uint8 (T, rows, columns, 3) -> (T, *patched_size, 3)."""
    rows, columns = spec.patched_size
    if images.shape[1:3] == (rows, columns):
        return images
    if spec.resize == "pad":
        padded = np.zeros((len(images), rows, columns, 3), np.uint8)
        padded[:, : images.shape[1], : images.shape[2]] = images
        return padded
    if rows % images.shape[1] == columns % images.shape[2] == 0:  # equal cells of a board stay equal, and are embedded once
        return images.repeat(rows // images.shape[1], axis=1).repeat(columns // images.shape[2], axis=2)
    import torch

    channels_first = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    stretched = torch.nn.functional.interpolate(channels_first, size=(rows, columns), mode="bilinear", antialias=True)
    return stretched.permute(0, 2, 3, 1).numpy()


def patchify(images: np.ndarray) -> np.ndarray:
    """uint8 (T, rows, columns, 3) -> (T, n, 16, 16, 3) in raster order."""
    return rearrange(images, "t (r p) (c q) k -> t (r c) p q k", p=PATCH_SIZE, q=PATCH_SIZE)


@lru_cache(maxsize=64)
def patch_boxes(rows: int, columns: int) -> np.ndarray:
    """The half-open intervals [row_low, row_high) x [column_low, column_high) of every patch, in 128ths.

    64 x 80 pixels have the row edges 0, 32, 64, 96, 128 and the column edges 0, 26, 51, 77, 102, 128.

    **Returns:** uint8 (n, 4) in raster order.
    """
    r = np.rint(np.arange(rows // PATCH_SIZE + 1) * PATCH_SIZE / rows * NUM_POSITION_BINS).astype(np.uint8)
    c = np.rint(np.arange(columns // PATCH_SIZE + 1) * PATCH_SIZE / columns * NUM_POSITION_BINS).astype(np.uint8)
    grid = np.meshgrid(np.arange(len(r) - 1), np.arange(len(c) - 1), indexing="ij")
    i, j = grid[0].ravel(), grid[1].ravel()
    boxes = np.stack([r[i], r[i + 1], c[j], c[j + 1]], axis=1)
    boxes.flags.writeable = False  # the cache hands out one array to all
    return boxes


@dataclass(frozen=True)
class Blocks:
    """Patches that share positions: `order` (n,) puts those of a block side by side; `starts` (n,), in that order: the first of each."""

    order: np.ndarray
    starts: np.ndarray


@lru_cache(maxsize=64)
def blocks(rows: int, columns: int, size: int) -> Blocks:
    """Blocks of `size` x `size` patches of a picture of so many pixels, both in raster order; they are smaller at its far sides."""
    i, j = (a.ravel() for a in np.indices((rows // PATCH_SIZE, columns // PATCH_SIZE)))
    block = (i // size) * -(-columns // (PATCH_SIZE * size)) + j // size
    order = np.argsort(block, kind="stable")
    starts = np.diff(block[order], prepend=-1) != 0
    for array in (order, starts):
        array.flags.writeable = False  # the cache hands out one array to all
    return Blocks(order, starts)


def draw_positions(boxes: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Training: one row and one column drawn uniformly inside each box.

    **Arguments:** `boxes` uint8 (N, 4); `noise` (N, 2) in [0, 1).

    **Returns:** boxes of width zero (N, 4), whose mean is the draw. The model always takes the mean of a
    box, so evaluation needs no flag and the draw travels with the batch.
    """
    low, high = boxes[:, 0::2].astype(np.float64), boxes[:, 1::2].astype(np.float64)
    drawn = np.minimum(low + np.floor(noise * np.maximum(high - low, 1)), NUM_POSITION_BINS - 1).astype(np.uint8)
    return np.repeat(drawn, 2, axis=1)
