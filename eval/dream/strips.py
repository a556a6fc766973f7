"""What a world model imagines, as pictures: real boards or pictures above imagined ones, with rewards and discounts beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from gato.data.video import VideoWriter
from gato.learners.world.learner import Dreamer
from gato.picture import drawn_cells

from .measure import Played, begun_at, pictures_of

SIDE, GAP, LINE, MARGIN = 8, 6, 12, 64  # pixels: of a cell, between boards, of a line of text, of the labels
MARK, INK, PAPER = (230, 140, 0), (30, 30, 30), (255, 255, 255)
REWARDED, RATE = 0.5, 4  # a reward above it is marked; timesteps a second of a film


@dataclass(frozen=True)
class Row:
    """What was seen in H + 1 timesteps (H + 1, rows, columns, 3) uint8; what each step from one to the next earned (H,), and discounts."""

    name: str
    pictures: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray


def imagined_beside_real(model: Dreamer, played: Played, place: int, horizon: int) -> tuple[Row, Row]:
    """From a timestep on with the actions that were played, the likeliest way; `horizon` timesteps, or as many as there are."""
    horizon = min(horizon, len(played.cells) - 1 - place)
    dream = begun_at(model.world, [(played, place)])
    cells, told = [dream.cells[0]], []
    for k in range(horizon):
        reward, discount = dream.step(played.actions[None, place + k])
        told.append((float(reward), float(discount)))
        cells.append(dream.cells[0])
    rewards, discounts = (np.array(values, np.float32) for values in zip(*told, strict=True))
    until = slice(place, place + horizon)
    there = slice(place, place + horizon + 1)
    if played.pictures is None:
        seen, imagined = (np.stack([drawn_cells(board.numpy(), SIDE) for board in boards]) for boards in (played.cells[there], cells))
    else:
        seen, imagined = (_coloured(pictures) for pictures in (played.pictures[there], pictures_of(model, torch.stack(cells))))
    real = Row("real", seen, played.rewards[until].numpy(), played.discounts[until].numpy())
    return real, Row("imagined", imagined, rewards, discounts)


def _coloured(pictures: torch.Tensor) -> np.ndarray:
    """(n, rows, columns) grey -> (n, rows, columns, 3)."""
    return pictures.numpy()[..., None].repeat(3, axis=-1)


def drawn(rows: Sequence[Row]) -> Image.Image:
    """Rows of boards of the same timesteps, each with a frame where more than half a reward was earned on the way to it."""
    boards = [list(row.pictures) for row in rows]
    height, width = boards[0][0].shape[:2]
    tall = height + 2 * LINE + 2 * GAP
    picture = Image.new("RGB", (MARGIN + max(map(len, boards)) * (width + GAP), tall * len(rows)), PAPER)
    pen = ImageDraw.Draw(picture)
    for i, (row, shown) in enumerate(zip(rows, boards, strict=True)):
        top = i * tall + GAP // 2
        for y, name in ((top + height // 2 - LINE // 2, row.name), (top + height + 3, "reward"), (top + height + LINE + 2, "discount")):
            pen.text((4, y), name, fill=INK)
        for k, board in enumerate(shown):
            left = MARGIN + k * (width + GAP)
            picture.paste(Image.fromarray(board), (left, top))
            if k == 0:
                continue
            reward, discount = float(row.rewards[k - 1]), float(row.discounts[k - 1])
            if reward > REWARDED:
                pen.rectangle((left - 2, top - 2, left + width + 1, top + height + 1), outline=MARK, width=2)
            pen.text((left, top + height + 3), f"{reward:.2f}", fill=MARK if reward > REWARDED else INK)
            pen.text((left, top + height + LINE + 2), f"{discount:.2f}", fill=INK)
    return picture


def write_film(path: Path, rows: Sequence[Row]) -> None:
    """An MP4 of the rows' boards one above the other, `RATE` timesteps a second; rewarded ones are framed. Needs PyAV."""
    frames = [np.concatenate([_framed(row, k) for row in rows]) for k in range(len(rows[0].pictures))]
    temporary = path.with_suffix(".part.mp4")
    writer = VideoWriter(temporary, RATE, frames[0].shape[:2], "h264")
    for frame in frames:
        writer.write(frame)
    writer.close()
    temporary.replace(path)


def _framed(row: Row, k: int) -> np.ndarray:
    is_rewarded = k > 0 and row.rewards[k - 1] > REWARDED
    board = row.pictures[k].repeat(2, axis=0).repeat(2, axis=1)
    framed = np.full((board.shape[0] + 2 * GAP, board.shape[1] + 2 * GAP, 3), MARK if is_rewarded else PAPER, np.uint8)
    framed[GAP:-GAP, GAP:-GAP] = board
    return framed
