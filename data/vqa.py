"""Format `vqa`: questions about pictures, an episode of one timestep that observes both and answers in text.

Either VQA v2's JSON (questions, annotations and a folder of pictures), or tables with the columns `image`
(or `file_name`), `question`, and `answer` or `answers`. Of several answers the most frequent one is the action;
all of them stay in the episode's parameters, where a metric finds them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gato.spec import FieldSpec, Modality, TaskSpec

from .captions import SUFFIXES, PictureRow
from .files import DEFAULT_SPLIT, files_below, files_digest, load_json, objects, options_digest, split_of, status_digest
from .formats import Dataset
from .left_out import LeftOut
from .picture_table import PictureTable, table_files
from .pictures import LICENCE, picture_dataset

_COLUMNS = ("question", "answer", "answers", "multiple_choice_answer", "question_id")


def question_task(name: str, size: tuple[int, int] = (64, 64), licence: str | None = None) -> TaskSpec:
    """Observations `image` (rows, columns, 3) uint8 and `question`, in this order; action `answer`."""
    image = FieldSpec("image", Modality.IMAGE, "observation", (*size, 3), "uint8", path=("image",))
    question = FieldSpec("question", Modality.TEXT, "observation", dtype="str", path=("question",))
    answer = FieldSpec("answer", Modality.TEXT, "action", dtype="str", path=("answer",))
    return TaskSpec(name=name, fields=(image, question, answer), licence=licence)


@dataclass(frozen=True)
class VqaReader:
    """Reads questions about pictures with their answers: VQA v2's JSON, or parquet, arrow, JSON-lines and CSV tables.

    - `image_size`: rows and columns that every picture is fitted into, such as `[64,64]`.
    - `annotations`: VQA v2's file of answers.
    - `images`: folder of the pictures that the questions are about, or that a table's file names start from.
    """

    image_size: tuple[int, int] = (64, 64)
    annotations: Path | None = None
    images: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` if there are no questions with answers, or files do not fit each other."""
        left_out = left_out or LeftOut()
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        task = question_task(f"vqa/{path.stem}", self.image_size, LICENCE)
        if path.suffix == ".json":
            if self.annotations is None or self.images is None:
                raise ValueError(
                    f"{path} holds questions alone; give their answers with --annotations FILE and the pictures with --images FOLDER"
                )
            return picture_dataset(path, task, VqaFiles(path, self.annotations, self.images, left_out), left_out)
        if not table_files(path):
            raise ValueError(f"{path} holds no metadata.*, .parquet or .arrow file; for VQA v2 name the file of questions")
        return picture_dataset(path, task, PictureTable(path, _COLUMNS, _texts, left_out, self.images), left_out)


class VqaFiles:
    """VQA v2's two files and the pictures, which are found by the number at the end of their names.

    **Raises:** `ValueError` naming the question whose picture is missing, and files of other content.
    """

    layout = "VQA v2"

    def __init__(self, questions: Path, annotations: Path, images: Path, left_out: LeftOut) -> None:
        content = load_json(questions)
        answers = _answers(annotations)
        pictures = files_below(images, SUFFIXES)
        numbered: dict[int, Path] = {}
        for picture in pictures:
            if (digits := re.search(r"(\d{1,15})$", picture.stem)) and numbered.setdefault(int(digits[1]), picture) != picture:
                raise ValueError(f"pictures {numbered[int(digits[1])]} and {picture} have the same number; give a folder of one split")
        self._rows: list[tuple[str, Path, object, str, dict[str, Any]]] = []
        for number, x in enumerate(objects(content, "questions", questions)):
            place, key = f"{questions}, question {number}", x.get("image_id")
            found = answers.get(x.get("question_id"))
            if found is None:
                left_out.count("questions without an answer", place)
                continue
            if key not in numbered:
                raise ValueError(f"{place} is about picture {key!r}, which is not among the {len(pictures)} pictures in {images}")
            parameters = {"question_id": x["question_id"], "answers": found[1], "original": numbered[key].name}
            self._rows.append((place, numbered[key], x.get("question"), found[0], parameters))
        self._split = split_of(Path(f"{content.get('data_subtype')}.json")) or split_of(Path(questions.name)) or DEFAULT_SPLIT
        self.splits = {self._split: len(self._rows)} if self._rows else {}
        self.digest = options_digest(files_digest(questions.parent, [questions, annotations]), pictures=status_digest(images, pictures))

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        assert split == self._split
        for place, picture, question, answer, parameters in self._rows[start:]:
            yield PictureRow(place, picture, {"question": question, "answer": answer}, parameters)


def _answers(path: Path) -> dict[object, tuple[str, list[str]]]:
    """`{question_id: (the answer, all answers)}`."""
    found = {}
    for number, x in enumerate(objects(load_json(path), "annotations", path)):
        try:
            found[x.get("question_id")] = _answer(x)
        except ValueError as error:
            raise ValueError(f"{path}, annotation {number}: {error}") from None
    return {key: value for key, value in found.items() if value is not None}


def _answer(values: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The answer to say and all answers; `None` where there is none.

    The annotators' own choice comes first, then the most frequent answer, the earlier one of two.
    """
    given = values.get("answers")
    single = values.get("multiple_choice_answer") or values.get("answer")
    if given is None and isinstance(single, list):
        given, single = single, None
    said = [x.get("answer") if isinstance(x, dict) else x for x in given or []]
    if wrong := [x for x in (*said, single) if not isinstance(x, str | None)]:
        raise ValueError(f"an answer is {wrong[0]!r}, expected text")
    answers: list[str] = [x for x in said if x is not None]
    if single is None and not answers:
        return None
    return single or Counter(answers).most_common(1)[0][0], answers


def _texts(values: Mapping[str, Any]) -> list[tuple[dict[str, object], dict[str, Any]]]:
    found = _answer(values)
    if found is None:
        return []
    parameters = {"question_id": values.get("question_id"), "answers": found[1] or None}
    return [({"question": values.get("question"), "answer": found[0]}, parameters)]
