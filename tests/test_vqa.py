"""Questions about pictures: VQA v2's files and tables."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gato.data.formats.dataset import import_dataset
from gato.data.formats.left_out import LeftOut
from gato.data.formats.vqa import VqaReader
from gato.data.store import Store
from gato.words import question_task

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def found(path, **options) -> dict[str, list[tuple[str, str, tuple]]]:
    """`{split: [(question, answer, colour of the middle), ...]}`."""
    dataset = VqaReader(**options).open(path)
    episodes = {split: list(dataset.episodes(split, 0)) for split in dataset.splits}
    assert {split: len(them) for split, them in episodes.items()} == dict(dataset.splits)
    return {
        s: [(e.observations["question"][0], e.actions["answer"][0], tuple(e.observations["image"][0, 32, 32].tolist())) for e in es]
        for s, es in episodes.items()
    }


def vqa2(folder, *pictures: str):
    """VQA v2's layout in small; gives the path of the questions and the options."""
    questions = [
        {"image_id": 9, "question": "What colour is it?", "question_id": 9001},
        {"image_id": 10, "question": "Is it red?", "question_id": 10001},
        {"image_id": 10, "question": "Who knows?", "question_id": 10002},
    ]
    annotations = [
        {"question_id": 10001, "answers": [{"answer": "no"}, {"answer": "yes"}, {"answer": "no"}]},
        {"question_id": 9001, "multiple_choice_answer": "red", "answers": [{"answer": "rose"}, {"answer": "red"}]},
    ]
    (folder / "images").mkdir()
    for name in pictures or ("COCO_val2014_000000000009.png", "COCO_val2014_000000000010.png"):
        (folder / "images" / name).write_bytes(encoded(RED if "9" in name else BLUE))
    (folder / "questions.json").write_text(json.dumps({"data_subtype": "val2014", "questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": annotations}))
    return folder / "questions.json", {"annotations": folder / "annotations.json", "images": folder / "images"}


def test_a_question_stands_behind_its_picture_and_the_answer_is_the_action():
    task = question_task("vqa/toy", size=(32, 64))
    assert [(f.role, f.name) for f in task.fields] == [("observation", "image"), ("observation", "question"), ("action", "answer")]
    assert not task.is_control


def test_vqa2_is_read_with_all_answers_kept(tmp_path):
    path, options = vqa2(tmp_path)
    assert found(path, **options) == {"validation": [("What colour is it?", "red", RED), ("Is it red?", "no", BLUE)]}
    dataset = VqaReader(**options).open(path)
    assert dataset.left_out.counts == {"questions without an answer": 1}
    assert next(dataset.episodes("validation", 1)).parameters == {
        "question_id": 10001, "answers": ["no", "yes", "no"], "original": "COCO_val2014_000000000010.png",
    }  # fmt: skip


def test_json_lines_name_their_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(RED))
    rows = [
        {"image": "a.png", "question": "What?", "answer": "red", "split": "train"},
        {"image": "a.png", "question": "Which?", "answers": ["rose", "red", "red"], "split": "test"},
    ]
    (tmp_path / "vqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert found(tmp_path / "vqa.jsonl") == {"train": [("What?", "red", RED)], "test": [("Which?", "red", RED)]}


def test_parquet_is_imported_into_a_store(tmp_path):
    rows = [
        {"image": encoded(RED), "question": "What?", "answers": ["red", "rose"]},
        {"image": encoded(BLUE), "question": "Who?", "answers": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "vqa-test.parquet")
    dataset = VqaReader(image_size=(16, 16)).open(tmp_path / "vqa-test.parquet")
    store = Store(import_dataset(dataset, tmp_path / "out")["test"])
    store.validate()
    assert store.num_episodes == 1 and store.manifest.provenance["left_out"] == {"rows without text": 1}
    assert store.episode(0).actions["answer"].tolist() == ["red"]
    assert store.episode(0).parameters == {"answers": ["red", "rose"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "gone.png", "question": "x", "answer": "y"}, r"vqa.jsonl, line 1: picture .*gone.png is missing"),
        ({"image": "../a.png", "question": "x", "answer": "y"}, r"line 1 names the file '../a.png', which leads out of"),
        ({"image": "a.png", "question": ["x"], "answer": "y"}, r"line 1: the question is a list, expected text"),
        ({"image": "a.png", "question": "x", "answer": 3}, r"line 1: an answer is a number .3., expected text"),
        (
            {"image": "a.png", "question": "x"},
            r"holds no picture with text \(table\); left out: 1 rows without text, such as .*line 1$",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    (tmp_path / "a.png").write_bytes(encoded(RED))
    (tmp_path / "vqa.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
        found(tmp_path / "vqa.jsonl")


def test_files_that_do_not_fit_are_named(tmp_path):
    path, options = vqa2(tmp_path, "9.png", "10.png", "x-0010.png")
    with pytest.raises(ValueError, match=r"pictures .*10.png and .*x-0010.png have the same number"):
        found(path, **options)
    for name in ("10.png", "x-0010.png"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(ValueError, match=r"question 1 is about picture 10, which is not among the 1 pictures"):
        found(path, **options)
    with pytest.raises(ValueError, match=r"give their answers with --annotations FILE and the pictures with --images FOLDER"):
        found(path)
    with pytest.raises(ValueError, match=r"questions.json has no 'annotations'; it has"):
        found(path, annotations=path, images=tmp_path / "images")


# -- answers as people write them --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "answer", "all_answers"),
    [
        ({"answers": "kitchen"}, "kitchen", ["kitchen"]),
        ({"answers": '["blue", "red"]'}, "blue", ["blue", "red"]),
        ({"answers": "['blue', 'red']"}, "blue", ["blue", "red"]),
        ({"answers": ["hall", "hall", "shed"]}, "hall", ["hall", "hall", "shed"]),
        ({"answers": {"answer": ["no", "yes", "yes"], "answer_id": [1, 2, 3]}}, "yes", ["no", "yes", "yes"]),
        ({"answers": {"answer": "no"}}, "no", ["no"]),
        ({"answers": ["", None, {"answer": "no"}, {"answer": None}]}, "no", ["no"]),
        ({"answer": ["no", "yes", "yes"]}, "yes", ["no", "yes", "yes"]),
        ({"answer": "", "answers": ["no"]}, "no", ["no"]),
        ({"multiple_choice_answer": "red", "answer": "rose", "answers": ["rose"]}, "red", ["rose"]),
        ({"answer": "two"}, "two", None),
    ],
)
def test_an_answer_is_the_same_however_it_is_written(tmp_path, row, answer, all_answers):
    (tmp_path / "a.png").write_bytes(encoded(RED))
    (tmp_path / "vqa.jsonl").write_text(json.dumps({"image": "a.png", "question": "What?", **row}))
    (episode,) = VqaReader().open(tmp_path / "vqa.jsonl").episodes("train", 0)
    assert episode.actions["answer"][0] == answer and episode.parameters.get("answers") == all_answers


@pytest.mark.parametrize(
    "row", [{"answers": []}, {"answers": None}, {"answer": ""}, {"answer": " "}, {"answers": [None, ""]}, {"answers": ""}, {}]
)
def test_a_question_without_an_answer_is_left_out_and_counted(tmp_path, row):
    (tmp_path / "a.png").write_bytes(encoded(RED))
    rows = [{"image": "a.png", "question": "What?", **more} for more in (row, {"answer": "red"})]
    (tmp_path / "vqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert found(tmp_path / "vqa.jsonl") == {"train": [("What?", "red", RED)]}
    assert VqaReader().open(tmp_path / "vqa.jsonl").left_out.examples == {"rows without text": f"{tmp_path}/vqa.jsonl, line 1"}


def test_every_question_of_vqa2_is_accounted_for(tmp_path):
    path, options = vqa2(tmp_path)
    questions = json.loads(path.read_text())
    questions["questions"] += [{"image_id": [9], "question": "x", "question_id": 9001}, {"question": "x"}, 7]
    questions["questions"] += [{"image_id": "9", "question": " ", "question_id": 9001}]
    path.write_text(json.dumps(questions))
    answers = json.loads(options["annotations"].read_text())
    answers["annotations"] += [
        {"question_id": 9001, "answer": "again"},
        {"question_id": 5, "answer": "x"},
        {"question_id": 10002, "answer": 3},
    ]
    options["annotations"].write_text(json.dumps(answers))
    dataset = VqaReader(**options).open(path, left_out := LeftOut(9))
    assert sum(dataset.splits.values()) == 2
    assert left_out.counts == {"questions without an answer": 1, "questions without words": 1, "answers without a question": 1}
    assert [row.partition(", ")[2] for row in left_out.rows] == [
        "annotation 2 answers question 9001 again; keep one annotation of a question",
        "annotation 4: an answer is a number (3), expected text",
        "question 3 has a list as 'image_id', expected a number or a text",
        "question 4 has no 'question_id'",
        "question 5 is a number, expected an object",
    ]
