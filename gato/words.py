"""The tasks of pictures and text: captions, questions about pictures, documents; and what an episode of them says."""

from __future__ import annotations

import numpy as np

from .episode import Episode
from .spec import FieldSpec, Modality, TaskSpec


def caption_task(name: str, size: tuple[int, int] = (64, 64), licence: str | None = None) -> TaskSpec:
    """Observation `image` (rows, columns, 3) uint8, action `caption`; `size` is (rows, columns)."""
    image = FieldSpec("image", Modality.IMAGE, "observation", (*size, 3), "uint8", path=("image",))
    caption = FieldSpec("caption", Modality.TEXT, "action", dtype="str", path=("caption",))
    return TaskSpec(name=name, fields=(image, caption), licence=licence)


def question_task(name: str, size: tuple[int, int] = (64, 64), licence: str | None = None) -> TaskSpec:
    """Observations `image` (rows, columns, 3) uint8 and `question`, in this order; action `answer`."""
    image = FieldSpec("image", Modality.IMAGE, "observation", (*size, 3), "uint8", path=("image",))
    question = FieldSpec("question", Modality.TEXT, "observation", dtype="str", path=("question",))
    answer = FieldSpec("answer", Modality.TEXT, "action", dtype="str", path=("answer",))
    return TaskSpec(name=name, fields=(image, question, answer), licence=licence)


def document_task(name: str) -> TaskSpec:
    """No observation, action `text`."""
    return TaskSpec(name=name, fields=(FieldSpec("text", Modality.TEXT, "action", dtype="str", path=("text",)),))


def picture_of(episode: Episode) -> np.ndarray:
    """uint8 (rows, columns, 3)."""
    return np.array(next(episode.observations[f.name][0] for f in episode.task.observations if f.modality is Modality.IMAGE))


def text_of(episode: Episode) -> str:
    """The caption or answer."""
    return str(episode.actions[episode.task.actions[0].name][0])


def question_of(episode: Episode) -> str | None:
    """What is asked about the picture, or `None` where it is to be captioned."""
    return next((str(episode.observations[f.name][0]) for f in episode.task.observations if f.modality is Modality.TEXT), None)
