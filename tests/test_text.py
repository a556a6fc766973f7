"""Documents: import, and their token ids made once."""

import gzip
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gato.data.documents import TokenisedText
from gato.data.formats.dataset import import_dataset
from gato.data.formats.left_out import LeftOut
from gato.data.formats.text import TextReader, texts_of
from gato.data.store import Store, StoreWriter
from gato.words import caption_task, document_task


def characters(texts: list[str]) -> list[list[int]]:
    """A tokenizer that a reader can check by hand: the code of each character, then 0."""
    return [[*map(ord, text), 0] for text in texts]


def imported(path, out, **options) -> dict[str, Store]:
    return {split: Store(folder) for split, folder in import_dataset(TextReader(**options).open(path), out).items()}


def stored(tmp_path, content: str) -> Store:
    path = tmp_path / "source.txt"
    path.write_text(content, encoding="utf-8")
    return imported(path, tmp_path / "stores")["train"]


def test_a_document_observes_nothing_and_says_a_text():
    task = document_task("text/toy")
    assert [(f.role, f.name) for f in task.fields] == [("action", "text")]
    assert not task.is_control


def test_paragraphs_of_a_text_file_are_documents(tmp_path):
    store = stored(tmp_path, "\ufeffOne line,\r\nanother.\n\n \n\nÜber 100 €\n")
    store.validate()
    assert list(texts_of(store)) == ["One line,\nanother.", "Über 100 €"]


def test_a_folder_of_text_files_gives_a_document_each(tmp_path):
    for name, content in (("b", "second\n\nstill second\n"), ("a", "first"), ("empty", ""), ("test/c", "third")):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / f"{name}.txt").write_text(content)
    stores = imported(tmp_path / "source", tmp_path / "stores")
    assert {split: list(texts_of(store)) for split, store in stores.items()} == {
        "train": ["first", "second\n\nstill second"],
        "test": ["third"],
    }
    assert stores["train"].episode(0).parameters == {"title": "a"}
    assert stores["train"].manifest.provenance["left_out"] == {"blank documents": 1}


def test_a_parquet_file_is_imported_by_split_with_titles_and_licences(tmp_path):
    rows = [
        {"title": "Cat", "text": "A cat purrs.", "source": "book", "licence": "CC0", "split": "train"},
        {"title": "Dog", "text": "A dog barks.", "source": "book", "licence": "CC0", "split": "test"},
        {"title": "Blank", "text": "  ", "source": "book", "licence": "CC0", "split": "test"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    stores = imported(tmp_path / "text.parquet", tmp_path / "stores")
    assert {split: list(texts_of(store)) for split, store in stores.items()} == {"train": ["A cat purrs."], "test": ["A dog barks."]}
    assert stores["test"].episode(0).parameters == {"title": "Dog", "source": "book", "licence": "CC0"}


def test_json_lines_are_imported(tmp_path):
    path = tmp_path / "source.jsonl"
    path.write_text('{"text": "one", "number": 1}\n\n{"text": "two\\nlines"}\n')
    assert list(texts_of(imported(path, tmp_path / "stores")["train"])) == ["one", "two\nlines"]


def test_another_column_holds_the_documents(tmp_path):
    pq.write_table(pa.table({"content": ["one"], "text": ["two"]}), tmp_path / "a-validation-00000.parquet")
    stores = imported(tmp_path / "a-validation-00000.parquet", tmp_path / "stores", column="content")
    assert list(texts_of(stores["validation"])) == ["one"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": 2}\n', "a.jsonl, line 2: 'text' is a number .2., expected text"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1 holds a list, expected an object"),
        ("a.jsonl", b"{\n", "a.jsonl, line 1 is not valid JSON"),
        ("a.jsonl", b'{"text": "x", "split": "../up"}\n', "line 1: the split is '../up'; expected a plain name"),
        ("a.csv", b"title,text\nx\n", "a.csv, line 2 has 1 cells, another number than the 2 columns"),
        (
            "a.txt",
            b"fine\n\nab\xff\xfe\n",
            "a.txt, line 3 is not UTF-8: it has the byte 0xff; convert it first, for example with 'iconv",
        ),
        ("a.txt", b"\n\n", "a.txt holds no documents"),
        ("a.parquet", b"no", "a.parquet is no readable parquet file"),
        ("a.arrow", b"no", "a.arrow is no readable arrow file"),
        (
            "a.pdf",
            b"",
            "has the suffix '.pdf'; expected .parquet, .arrow, .jsonl, .ndjson, .csv, .tsv or .txt, gzipped or not",
        ),
    ],
)
def test_what_is_no_text_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        imported(tmp_path / name, tmp_path / "stores")
    assert not (tmp_path / "stores").exists()


def test_lines_and_documents_have_limits(tmp_path, monkeypatch):
    monkeypatch.setattr("gato.data.formats.lines.MAX_LINE_BYTES", 10)
    with pytest.raises(ValueError, match=r"source.txt, line 2 has more than 10 bytes; break it into several"):
        stored(tmp_path, "short\n12345678901\n")
    monkeypatch.setattr("gato.data.formats.text.MAX_DOCUMENT", 12)
    with pytest.raises(ValueError, match=r"line 2: the document has more than 12 characters; break it up"):
        stored(tmp_path, "123456\n123456\n")


def test_importing_the_same_file_again_adds_nothing(tmp_path):
    stored(tmp_path, "one\n\ntwo")
    assert stored(tmp_path, "one\n\ntwo").num_episodes == 2
    with pytest.raises(ValueError, match=r"already holds 2 episodes of another source"):
        stored(tmp_path, "one\n\nthree")


def test_an_import_goes_on_where_it_stopped(tmp_path):
    (tmp_path / "source.txt").write_text("one\n\n \n\ntwo\n\nthree")
    dataset = TextReader().open(tmp_path / "source.txt")
    assert [e.actions["text"][0] for e in dataset.episodes("train", 1)] == ["two", "three"]


def test_token_ids_are_those_of_the_tokenizer(tmp_path):
    tokens = TokenisedText.open(stored(tmp_path, "ab\n\n€"), characters, "v1")
    assert tokens.num_documents == 2
    assert tokens.lengths.tolist() == [3, 2]
    assert tokens.ids(0, 0, 3).tolist() == [97, 98, 0]
    assert tokens.ids(1).tolist() == [8364, 0]
    assert tokens.ids(0).dtype == np.int32


def test_a_window_of_ids_is_a_read_only_view(tmp_path):
    tokens = TokenisedText.open(stored(tmp_path, "abcdef"), characters, "v1")
    window = tokens.ids(0, 2, 5)
    assert window.tolist() == [99, 100, 101]
    assert window.base is not None and not window.flags.writeable
    with pytest.raises(IndexError, match=r"has 1 documents, there is no number 1"):
        tokens.ids(1, 0, 1)


def test_more_documents_than_a_record_batch_keep_their_order(tmp_path):
    store = stored(tmp_path, "\n\n".join(str(k) for k in range(600)))
    tokens = TokenisedText.open(store, characters, "v1")
    assert [bytes(tokens.ids(k).astype(np.uint8)) for k in (0, 255, 256, 599)] == [b"0\0", b"255\0", b"256\0", b"599\0"]
    assert int(tokens.lengths.sum()) == 10 * 2 + 90 * 3 + 500 * 4


def test_documents_are_tokenised_once_per_store_and_tokenizer(tmp_path):
    calls = []

    def counted(documents: list[str]) -> list[list[int]]:
        calls.append(len(documents))
        return characters(documents)

    store = stored(tmp_path, "one\n\ntwo")
    for tokenizer_hash in ("v1", "v1", "v2"):
        TokenisedText.open(store, counted, tokenizer_hash)
    assert calls == [2, 2]
    assert len(list(store.path.glob("tokens-*.arrow"))) == 2
    assert not list(store.path.glob("*.tmp"))


def test_a_tokenizer_that_fails_leaves_nothing_behind(tmp_path):
    store = stored(tmp_path, "one")
    with pytest.raises(ZeroDivisionError):
        TokenisedText.open(store, lambda documents: 1 / 0, "v1")
    assert not list(store.path.glob("tokens-*"))
    assert TokenisedText.open(store, characters, "v1").num_documents == 1


def test_token_ids_travel_to_a_worker(tmp_path):
    tokens = TokenisedText.open(stored(tmp_path, "ab"), characters, "v1")
    assert pickle.loads(pickle.dumps(tokens)).ids(0).tolist() == [97, 98, 0]


def test_a_damaged_file_of_ids_is_named(tmp_path):
    store = stored(tmp_path, "ab\n\ncd")
    path = TokenisedText.open(store, characters, "v1").path
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-20])
    with pytest.raises(ValueError, match=r"is no file of token ids .*; remove it"):
        TokenisedText.open(store, characters, "v1")
    edges, wrong = (np.array(o, np.int64).tobytes() for o in ([0, 3, 6], [0, 3, 600]))
    assert content.count(edges) == 1
    path.unlink()
    path.write_bytes(content.replace(edges, wrong))
    with pytest.raises(ValueError, match=r"record batch 0 is damaged"):
        TokenisedText.open(store, characters, "v1").ids(0)


def test_only_documents_are_tokenised_ahead(tmp_path):
    StoreWriter(tmp_path, [caption_task("captions/toy")]).close()
    with pytest.raises(ValueError, match=r"holds more than documents"):
        TokenisedText.open(Store(tmp_path), characters, "v1")


def test_the_manifest_says_where_the_documents_come_from(tmp_path):
    store = stored(tmp_path, "one")
    provenance = json.loads((store.path / "manifest.json").read_text())["provenance"]
    assert provenance["source"] == "source.txt"
    assert len(provenance["sha256"]) == 64


# -- what is left out, and files as people have them -------------------------------------------------


def test_rows_without_words_are_left_out_and_bad_ones_skipped_where_they_may_be(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        '{"text": null}',
        '{"text": NaN}',
        '{"text": " "}',
        '{"title": "x"}',
        '{"text": 3}',
        "[1]",
        '{"text": "\\ud800"}',
        '{"text": "ok"}',
    ]
    path.write_text("\n".join(rows))
    dataset = TextReader().open(path, left_out := LeftOut(3))
    assert [e.actions["text"][0] for e in dataset.episodes("train", 0)] == ["ok"]
    assert left_out.counts == {"blank documents": 4} and left_out.examples == {"blank documents": f"{path}, line 1"}
    assert [row.removeprefix(f"{path}, line ")[0] for row in left_out.rows] == ["5", "6", "7"]


def test_a_paragraph_that_is_not_utf8_costs_itself_alone(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo \xff\nlines\n\nthree\n")
    dataset = TextReader().open(tmp_path / "a.txt", left_out := LeftOut(1))
    assert [e.actions["text"][0] for e in dataset.episodes("train", 0)] == ["one", "three"]
    assert next(iter(left_out.rows)).startswith(f"{tmp_path}/a.txt, line 3 is not UTF-8: it has the byte 0xff")


def test_a_folder_says_what_else_lies_in_it(tmp_path):
    for name, content in {"a.TXT": b"one", "b.txt.gz": gzip.compress(b"two"), "c.md": b"x", "d.txt": b"\x89PNG\0\0"}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "e.txt").mkdir()
    dataset = TextReader().open(tmp_path, left_out := LeftOut(1))
    assert [(e.actions["text"][0], e.parameters["title"]) for e in dataset.episodes("train", 0)] == [("one", "a"), ("two", "b")]
    assert left_out.counts == {"other files": 1} and left_out.examples["other files"] == f"{tmp_path}/c.md"
    assert next(iter(left_out.rows)).startswith(f"{tmp_path}/d.txt is not UTF-8 at byte 0")


def test_a_file_whose_name_is_not_utf8_is_read_and_its_title_can_be_stored(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    try:
        (folder / b"caf\xe9.txt".decode("utf-8", "surrogateescape")).write_text("one")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 alone")
    store = imported(folder, tmp_path / "out")["train"]
    assert list(texts_of(store)) == ["one"] and store.episode(0).parameters == {"title": "caf\ufffd"}


def test_line_ends_inside_a_document_are_bare_newlines(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one\r\ntwo\rthree"}))
    assert list(texts_of(imported(tmp_path / "a.jsonl", tmp_path / "out")["train"])) == ["one\ntwo\nthree"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"body": "x"}\n', r"holds no documents under 'text' \(it has \['body'\]; name another one with --column\)"),
        ("a.jsonl", b'[\n{"text": "x"}]\n', "line 1 begins a JSON list; expected an object on every line"),
        ("a.json", b"[]", "has the suffix '.json'; .*; JSON lines are named .jsonl"),
    ],
)
def test_the_remedy_for_a_file_of_another_form_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        TextReader().open(tmp_path / name)
