"""Format `vqa`: questions about pictures, an episode of one timestep that observes both and answers in text.

Either VQA v2's JSON (questions, annotations and a folder of pictures), or tables with the columns `image`
(or `file_name`), `question`, and `answer` or `answers`. Of several answers the most frequent one is the action;
all of them stay in the episode's parameters, where a metric finds them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gato.picture import SUFFIXES
from gato.setting import MAX_SIDE, Settings, bounded
from gato.words import question_task

from .annotations import identity, objects
from .dataset import Dataset
from .files import DEFAULT_SPLIT, files_below, files_digest, options_digest, shown, split_of, status_digest
from .left_out import LeftOut
from .lines import load_json, stem_of, suffix_of
from .picture_row import PictureRow
from .picture_table import PictureTable, table_files
from .pictures import LICENCE, picture_dataset
from .words import listed, sayings, words

_COLUMNS = ("question", "answer", "answers", "multiple_choice_answer", "question_id")


@dataclass(frozen=True)
class VqaReader(Settings):
    """Reads questions about pictures with their answers: VQA v2's JSON, or parquet, arrow, JSON-lines and CSV tables.

    - `image_size`: rows and columns that every picture is fitted into, such as `[64,64]`.
    - `annotations`: VQA v2's file of answers.
    - `images`: folder of the pictures that the questions are about, or that a table's file names start from.
    """

    image_size: tuple[int, int] = bounded((64, 64), 1, MAX_SIDE)
    annotations: Path | None = None
    images: Path | None = None

    def open(self, path: Path, left_out: LeftOut | None = None) -> Dataset:
        """**Raises:** `ValueError` if there are no questions with answers, or files do not fit each other."""
        left_out = left_out or LeftOut()
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        task = question_task(f"vqa/{shown(stem_of(path))}", self.image_size, LICENCE)
        if suffix_of(path) == ".json":
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
        if not images.is_dir():
            raise ValueError(f"there is no folder {images}; name the pictures' folder with --images")
        content = load_json(questions)
        answers = _annotated(annotations, left_out)
        pictures = files_below(images, SUFFIXES)
        numbered = _numbered(pictures)
        self._rows: list[PictureRow] = []
        asked: set[int | str] = set()
        for place, x in objects(content, "questions", questions, left_out):
            with left_out.one_row():
                number = identity(x, "question_id", place)
                asked.add(number)
                question = words(x.get("question"), f"{place}: the question")
                if number not in answers or question is None:
                    left_out.count("questions without words" if question is None else "questions without an answer", place)
                    continue
                key = identity(x, "image_id", place)
                picture = numbered.get(int(key) if isinstance(key, str) and re.fullmatch(r"[0-9]{1,15}", key) else key)
                if picture is None:
                    raise ValueError(f"{place} is about picture {key!r}, which is not among the {len(pictures)} pictures in {images}")
                answer, said = answers[number]
                known = {"question_id": number, "answers": said, "original": shown(picture.name)}
                self._rows.append(PictureRow(place, picture, {"question": question, "answer": answer}, known))
        used = {row.picture for row in self._rows}
        for picture in pictures:
            left_out.count("pictures that no question is about", picture, picture not in used)
        for number in answers:
            left_out.count("answers without a question", f"{annotations}, question_id {number}", number not in asked)
        self._split = split_of(Path(f"{content.get('data_subtype')}.json")) or split_of(Path(questions.name)) or DEFAULT_SPLIT
        self.splits = {self._split: len(self._rows)} if self._rows else {}
        self.digest = options_digest(files_digest(questions.parent, [questions, annotations]), pictures=status_digest(images, pictures))

    def rows(self, split: str, start: int) -> Iterator[PictureRow]:
        assert split == self._split
        return iter(self._rows[start:])


def _numbered(pictures: Sequence[Path]) -> dict[int | str, Path]:
    """`{number at the end of the name: picture}`. **Raises:** `ValueError` for two pictures of one number."""
    found: dict[int | str, Path] = {}
    for picture in pictures:
        if (digits := re.search(r"([0-9]{1,15})$", picture.stem)) and found.setdefault(int(digits[1]), picture) != picture:
            raise ValueError(f"pictures {found[int(digits[1])]} and {picture} have the same number; give a folder of one split")
    return found


def _annotated(path: Path, left_out: LeftOut) -> dict[int | str, tuple[str, list[str]]]:
    """`{question_id: (the answer, all answers)}` of the questions that have one."""
    found: dict[int | str, tuple[str, list[str]]] = {}
    for place, x in objects(load_json(path), "annotations", path, left_out):
        with left_out.one_row():
            number = identity(x, "question_id", place)
            if number in found:
                raise ValueError(f"{place} answers question {number!r} again; keep one annotation of a question")
            try:
                answer = _answer(x)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
            if answer is not None:
                found[number] = answer
    return found


def _answer(values: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The answer to say and all answers; `None` where there is none.

    The annotators' own choice comes first, then the most frequent answer, the earlier one of two.

    **Raises:** `ValueError` for an answer that is no text.
    """
    said = _said(values.get("answers"))
    for name in ("multiple_choice_answer", "answer"):
        given = _said(values.get(name))
        if len(given) == 1:
            return given[0], said
        if given and not said:
            said = given
    return (Counter(said).most_common(1)[0][0], said) if said else None


def _said(given: object) -> list[str]:
    """The answers with words in what a file gives: a text, a list of texts or of objects with an `answer`, or an object of such lists."""
    given = listed(given)
    if isinstance(given, dict):  # one answer, or columns as `datasets` writes lists of objects
        name = next((n for n in ("answer", "text") if n in given), None)
        if name is None:
            raise ValueError(f"an answer is an object of {sorted(given)[:20] or 'nothing'}, expected one with 'answer'")
        given = given[name]
    found = [words(x.get("answer") if isinstance(x, dict) else x, "an answer") for x in (given if isinstance(given, list) else [given])]
    return [answer for answer in found if answer is not None]


def _texts(values: Mapping[str, Any]) -> list[tuple[dict[str, str | None], dict[str, Any]]]:
    answer, said = _answer(values) or (None, [])
    known = {"answers": said or None, **sayings(values, ("question_id",), "the row")}
    return [({"question": words(values.get("question"), "the question"), "answer": answer}, known)]
