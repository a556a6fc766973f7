"""Readers of words and pictures on mutated inputs: they give right results or refuse in a line, and every row is accounted for."""

import datetime
import decimal
import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gato.data.formats.interleaved import InterleavedReader
from gato.data.formats.left_out import LeftOut
from gato.data.formats.pictures import PicturesReader
from gato.data.formats.text import TextReader
from gato.data.formats.vqa import VqaReader
from gato.data.formats.webdataset import WebdatasetReader
from gato.data.shards.columns import episode_row, timestep_columns, timestep_rows
from tests.mutations import ODD_NAMES, fuzz, mutated_bytes, mutated_names, mutated_text, mutated_value, one_of

SMALL = (16, 16)

# 2,000 mutations of each reader's inputs in the fast suite, 18,000 others in the slow one, divided among the layouts that it reads
ONE, TWO, FOUR = (
    pytest.mark.parametrize(
        "seeds",
        [pytest.param(range(2_000 // n), id="fast"), pytest.param(range(2_000 // n, 20_000 // n), id="slow", marks=pytest.mark.slow)],
    )
    for n in (1, 2, 4)
)
TABLES = ("a.jsonl", "a.csv", "a.parquet", "a.arrow", "a.tsv", "a.jsonl.gz")


def png(colour=(255, 0, 0)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (0, 90, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def count(reader, path: Path) -> int:
    """Reads all that can be read, as an import would; returns how many rows it accounts for: episodes, and what was left out."""
    left_out = LeftOut(1_000)
    dataset = reader.open(path, left_out)
    columns = timestep_columns(dataset.tasks)
    read = 0
    for split, expected in dataset.splits.items():
        before = len(left_out.episodes)
        episodes = list(dataset.episodes(split, 0))
        for episode in episodes:
            timestep_rows(columns, episode), episode_row(columns, episode, 0)  # what a store needs of it
            json.dumps(dict(episode.parameters), ensure_ascii=False).encode()
        assert len(episodes) + len(left_out.episodes) - before == expected, "an episode that was counted vanished"
        read += expected
    str(left_out.notes()).encode()
    return read + left_out.counts.total() + len(left_out.rows)


def write(folder: Path, name: str, rows: list) -> Path:
    """Rows as a table of this kind. CSV has the columns of the first row."""
    path = folder / name
    if name.endswith((".parquet", ".arrow")):
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        if name.endswith(".parquet"):
            pq.write_table(table, path)
        else:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
                file.write_table(table)
    elif ".jsonl" in name:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    else:
        path.write_text(text_of(rows, "\t" if name.endswith(".tsv") else ","), newline="")
    return path


def text_of(rows: list[dict], sign: str) -> str:
    def cell(value) -> str:
        text = json.dumps(value) if isinstance(value, list | dict) else "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if set(text) & set(',\t;"\n') else text

    return "".join(sign.join(map(cell, line)) + "\n" for line in [list(rows[0]), *([row.get(k) for k in rows[0]] for row in rows)])


def odd_column(rng, size: int) -> pa.Array:
    """A column of a type that is not text."""
    column = one_of(
        rng,
        (
            pa.array([1, None, 3] * size),
            pa.array([0.5, float("nan"), None] * size),
            pa.array([True, None] * size),
            pa.array([b"x", b"\xff", None] * size),
            pa.array(["x", None, ""] * size).dictionary_encode(),
            pa.array([["x"], [], None, ["a", None]] * size),
            pa.array([[["x"]], [None]] * size),
            pa.array([{"x": 1}, None] * size),
            pa.array([{"bytes": png(), "path": None}, {"bytes": None, "path": "0.png"}, {"bytes": None, "path": None}] * size),
            pa.array([{"bytes": None, "path": "/etc/passwd"}, {"bytes": b"x", "path": "\0"}] * size),
            pa.array([None] * size),
            pa.array([datetime.datetime(2020, 1, 1), None] * size),
            pa.array([datetime.date(2020, 1, 1)] * size),
            pa.array([datetime.timedelta(1)] * size),
            pa.array([decimal.Decimal("1.5")] * size),
            pa.array([[("k", "v")]] * size, pa.map_(pa.string(), pa.string())),
            pa.array(["x", "0.png"] * size, pa.large_string()),
            pa.array([[1, 2]] * size, pa.list_(pa.int8(), 2)),
        ),
    )
    return column[:size]


def mutated_table(rng, folder: Path, name: str, rows: list[dict]) -> tuple[Path, int | None]:
    """A table of the rows with one mutation, and how many rows it has now; `None` where nobody can say."""
    path = folder / name
    match int(rng.integers(3)):
        case 0:
            write(folder, name, rows)
            path.write_bytes(mutated_bytes(rng, path.read_bytes()))
            return path, None
        case 1 if name.endswith((".parquet", ".arrow")):
            table = pa.Table.from_pylist(rows)
            names = mutated_names(rng, {n: table.column(n) for n in table.column_names})
            if rng.random() < 0.8:
                names[one_of(rng, list(names) or ["x"])] = odd_column(rng, len(rows))
            return write(folder, name, pa.table(names)), len(rows) if names else None
        case 1 if not name.startswith("a.jsonl"):
            path.write_text(mutated_text(rng, text_of(rows, "\t" if name.endswith(".tsv") else ",")), newline="")
            return path, None
    while True:  # until the format can hold it
        changed = mutated_value(rng, rows)
        try:
            return write(folder, name, changed), len(changed)
        except (pa.ArrowException, UnicodeEncodeError, AttributeError, IndexError, TypeError, OverflowError):
            continue


def check_table(folder: Path, reader, rows: list[dict], seeds, names=TABLES) -> None:
    def made(rng):
        for path in folder.glob("a.*"):
            path.unlink()
        return mutated_table(rng, folder, one_of(rng, names), rows)

    def read(given):
        path, num_rows = given
        found = count(reader, path)
        assert num_rows is None or found == num_rows, f"{path} has {num_rows} rows, of which {found} are accounted for"

    counts = fuzz(seeds, made, read)
    assert min(counts.values()) > len(seeds) // 20, counts


@TWO
def test_tables_of_documents(tmp_path, seeds):
    rows = [{"text": f"document {i}", "title": "x", "source": None, "split": one} for i, one in enumerate(("train", "test", "train"))]
    check_table(tmp_path, TextReader(), rows, seeds)


@TWO
def test_files_of_text(tmp_path, seeds):
    content = "first\nparagraph\r\n\r\nsecond, ü\n\n\nthird\n".encode()
    folder = tmp_path / "in"
    folder.mkdir()

    def made(rng):
        for path in folder.iterdir():
            path.unlink()
        start = one_of(rng, (content, content.decode().encode("utf-16"), gzip.compress(content), b"\xef\xbb\xbf" + content))
        for name in one_of(rng, (("a.txt",), ("a.TXT", "b.txt", "c.md"))):
            (folder / name).write_bytes(mutated_bytes(rng, start))
        return folder if rng.random() < 0.5 else folder / name

    fuzz(seeds, made, lambda path: count(TextReader(), path))


@FOUR
def test_tables_of_pictures_that_name_files(tmp_path, seeds):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png())
    rows = [{"file_name": f"{i}.png", "caption": f"picture {i}", "licence": "CC0", "split": None} for i in range(3)]
    check_table(tmp_path, PicturesReader(SMALL), rows, seeds)


@FOUR
def test_tables_of_encoded_pictures(tmp_path, seeds):
    (tmp_path / "0.png").write_bytes(png())
    rows = [{"image": {"bytes": png(), "path": "x"}, "caption": f"picture {i}", "concept": "x"} for i in range(3)]
    check_table(tmp_path, PicturesReader(SMALL), rows, seeds, ("a.parquet", "a.arrow"))


@TWO
def test_tables_of_questions(tmp_path, seeds):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png())
    row = {"question": "What?", "answer": None, "answers": ["red", "rose", "red"], "question_id": 1}
    rows = [{"image": f"{i}.png", **row} for i in range(3)]
    check_table(tmp_path, VqaReader(SMALL), rows, seeds)


@ONE
def test_tables_of_interleaved_documents(tmp_path, seeds):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png())
    rows = [{"images": [None, "0.png", None, "1.png"], "texts": ["a", None, "b", None], "title": "x"} for _ in range(3)]
    check_table(tmp_path, InterleavedReader(SMALL), rows, seeds, ("a.jsonl", "a.parquet", "a.arrow"))


COCO = {
    "licenses": [{"id": 4, "name": "Attribution"}],
    "images": [{"id": i, "file_name": f"{i}.png", "license": 4, "coco_url": "http://x"} for i in range(3)],
    "annotations": [{"id": i, "image_id": i, "caption": f"picture {i}"} for i in range(3)],
}


@FOUR
def test_coco(tmp_path, seeds):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png())
    path = tmp_path / "captions_train.json"

    def made(rng):
        if rng.random() < 0.3:
            path.write_bytes(mutated_bytes(rng, json.dumps(COCO).encode()))
            return None
        changed = mutated_value(rng, COCO)
        path.write_text(json.dumps(changed))
        return changed.get("annotations")

    def read(annotations):
        found = count(PicturesReader(SMALL), path)
        assert not isinstance(annotations, list) or found >= len(annotations), f"{found} of {len(annotations)} annotations"

    counts = fuzz(seeds, made, read)
    assert min(counts.values()) > len(seeds) // 20, counts


QUESTIONS = {"data_subtype": "val2014", "questions": [{"image_id": i, "question": "What?", "question_id": 10 + i} for i in range(3)]}
ANSWERS = {
    "annotations": [
        {"question_id": 10, "multiple_choice_answer": "red", "answers": [{"answer": "rose"}, {"answer": "red"}]},
        {"question_id": 11, "answers": ["no", "yes", "no"]},
        {"question_id": 12, "answer": "blue"},
    ]
}


@TWO
def test_vqa2(tmp_path, seeds):
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"COCO_{i}.png").write_bytes(png())
    questions, annotations = tmp_path / "questions.json", tmp_path / "annotations.json"
    reader = VqaReader(SMALL, annotations, tmp_path / "images")

    def made(rng):
        contents = [json.dumps(QUESTIONS).encode(), json.dumps(ANSWERS).encode()]
        which, asked = int(rng.integers(2)), QUESTIONS["questions"]
        if rng.random() < 0.3:
            contents[which], asked = mutated_bytes(rng, contents[which]), None
        else:
            changed = mutated_value(rng, (QUESTIONS, ANSWERS)[which])
            contents[which] = json.dumps(changed).encode()
            asked = changed.get("questions") if which == 0 else asked
        questions.write_bytes(contents[0]), annotations.write_bytes(contents[1])
        return asked

    def read(asked):
        found = count(reader, questions)
        assert not isinstance(asked, list) or found >= len(asked), f"{found} of {len(asked)} questions are accounted for"

    counts = fuzz(seeds, made, read)
    assert min(counts.values()) > len(seeds) // 20, counts


def shard(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@ONE
def test_webdataset(tmp_path, seeds):
    said = {"caption": "picture 1", "url": "http://x", "licence": "CC0"}
    path, classes = tmp_path / "a.tar", tmp_path / "classes.txt"
    classes.write_text("cat\ndog\n")

    def made(rng):
        members = {"0.png": png(), "0.txt": b"picture 0", "1.jpg": jpeg(), "1.json": b"", "x/2.png": png(), "x/2.cls": b"1"}
        members["1.json"] = json.dumps(mutated_value(rng, said) if rng.random() < 0.4 else said).encode()
        match int(rng.integers(4)):
            case 0:
                name = one_of(rng, members)
                members[name] = mutated_bytes(rng, members[name])
            case 1:
                name = one_of(rng, members)
                members = {(one_of(rng, ODD_NAMES) + n if n == name else n): c for n, c in members.items()}
            case 2:
                members = {name: members[name] for name in rng.permutation(list(members))}
        content = shard(list(members.items()))
        path.write_bytes(mutated_bytes(rng, content) if rng.random() < 0.3 else content)

    counts = fuzz(seeds, made, lambda _: count(WebdatasetReader(SMALL, classes=classes), path))
    assert min(counts.values()) > len(seeds) // 20, counts


@FOUR
def test_plain_folders(tmp_path, seeds):
    def made(rng):
        files = {"0.png": png(), "0.txt": b"picture 0", "1.jpg": jpeg(), "1.txt": b"picture \xc3\xbc"}
        name = one_of(rng, files)
        files[name] = mutated_bytes(rng, files[name])
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)

    fuzz(seeds, made, lambda _: count(PicturesReader(SMALL), tmp_path))
