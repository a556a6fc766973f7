"""Pictures with captions: an episode of one timestep that observes a picture and says a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gato.episode import Episode
from gato.picture import fit_image, read_frame
from gato.spec import Modality, TaskSpec

from .words import kind_of


@dataclass(frozen=True)
class PictureRow:
    """A picture with its texts, not decoded yet.

    - `place`: file and row, for errors; `picture`: encoded bytes or a file, or why there is none.
    - `texts`: `{field name: text}`, such as `caption`, or `question` and `answer`; none is blank.
    - `parameters`: of the episode; those that are `None` are left out.
    """

    place: str
    picture: object
    texts: Mapping[str, str]
    parameters: Mapping[str, Any]


def picture_episode(task: TaskSpec, row: PictureRow) -> Episode:
    """An episode of one timestep: the picture at the task's size, and the texts. Animations have `animated` in their parameters.

    **Raises:** `ValueError` naming the place of a picture that cannot be read.
    """
    try:
        return _episode(task, row)
    except ValueError as error:
        is_place = row.place == str(row.picture)  # the error about a picture names its file
        raise ValueError(f"{'' if is_place and str(error).startswith('picture') else f'{row.place}: '}{error}") from None


def _episode(task: TaskSpec, row: PictureRow) -> Episode:
    if isinstance(row.picture, ValueError):
        raise row.picture
    if not isinstance(row.picture, (bytes, Path)):
        raise ValueError(f"the picture is {kind_of(row.picture)}, expected encoded bytes or a file's name")
    rows, columns, _ = next(f.shape for f in task.observations if f.modality is Modality.IMAGE)
    picture, is_animated = read_frame(row.picture)
    image = fit_image(picture, (rows, columns))
    values = {"image": image[None], **{name: np.array([text], object) for name, text in row.texts.items()}}
    return Episode(
        task=task,
        observations={f.name: values[f.name] for f in task.observations},
        actions={f.name: values[f.name] for f in task.actions},
        rewards=np.zeros(1, np.float32),
        terminated=True,
        behaviour="human",
        parameters={key: value for key, value in row.parameters.items() if value is not None} | ({"animated": True} if is_animated else {}),
    )
