"""Tables and text files as people have them: separators, packing, encodings, line ends; and what is wrong named with its line."""

import codecs
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gato.data.formats.left_out import LeftOut
from gato.data.formats.lines import lines, load_json, suffix_of
from gato.data.formats.source_table import SourceTable
from gato.data.formats.words import listed, sayings, words


def rows(path, *columns, skip=0):
    return [row for _, row in SourceTable.open(path).rows(columns, left_out=LeftOut(skip))]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,title\none,1\n"),
        ("a.csv", "text;title\none;1\n"),
        ("a.csv", "text\ttitle\none\t1\n"),
        ("a.csv", "text|title\none|1\n"),
        ("a.tsv", "text\ttitle\none\t1\n"),
        ("A.CSV", "text,title\r\none,1\r\n"),
        ("a.csv", "text,title\rone,1\r"),
        ("a.csv", "\n\ntext , title\none,1\n"),
        ("a.csv", "sep=;\ntext;title\none;1\n"),
        ("a.csv", "text,title,\none,1,\n"),
        ("a.csv", "text,title\none,1,\n"),
        ("a.csv", codecs.BOM_UTF8 + b"text,title\none,1\n"),
        ("a.csv", "text,title\none,1\n".encode("utf-16")),
        ("a.csv.gz", gzip.compress(b"text,title\none,1\n")),
        ("a.jsonl", '{"text": "one", "title": "1"}\n'),
        ("a.NDJSON", codecs.BOM_UTF8 + b'{"text": "one", "title": "1"}'),
        ("a.jsonl.gz", gzip.compress(b'{"text": "one", "title": "1"}\n\n')),
        ("a.jsonl", '{"text": "one", "title": "1"}\n'.encode("utf-16-be").join([codecs.BOM_UTF16_BE, b""])),
    ],
)
def test_the_same_row_is_read_however_it_is_written(tmp_path, name, content):
    assert rows(written(tmp_path / name, content), "text", "title") == [{"text": "one", "title": "1"}]


def test_a_cell_may_be_larger_than_pythons_own_limit(tmp_path):
    long = "x" * 200_000
    assert rows(written(tmp_path / "a.csv", f'text\n"{long}"\n'), "text") == [{"text": long}]


def test_a_cell_of_several_lines_is_one_row_and_the_lines_are_counted(tmp_path):
    path = written(tmp_path / "a.csv", 'text,n\n"one\r\ntwo",1\nthree\n')
    assert rows(path, "text", skip=1) == [{"text": "one\ntwo"}]
    with pytest.raises(ValueError, match=r"a.csv, line 4 has 1 cells, another number than the 2 columns"):
        rows(path, "text")


def test_a_bad_row_costs_itself_alone(tmp_path):
    path = written(tmp_path / "a.csv", b'text\none\n"two" x\n\xff\nfour\n')
    left_out = LeftOut(2)
    assert [row["text"] for _, row in SourceTable.open(path).rows(("text",), left_out=left_out)] == ["one", "four"]
    assert [row.removeprefix(f"{path}, line ")[0] for row in left_out.rows] == ["3", "4"]
    path = written(tmp_path / "a.jsonl", b'{"text": "one"}\n[1]\n{"text": "two",}\n{"text": "\xff"}\nnull\n{"text": "six"}\n')
    left_out = LeftOut(4)
    assert [row["text"] for _, row in SourceTable.open(path).rows(("text",), left_out=left_out)] == ["one", "six"]
    assert [row.removeprefix(f"{path}, line ")[0] for row in left_out.rows] == ["2", "3", "4", "5"]


def test_a_quote_that_is_never_closed_is_refused_since_it_swallows_rows(tmp_path):
    with pytest.raises(ValueError, match=r"a.csv, line 3 is not valid CSV: it opens a quote that is never closed"):
        rows(written(tmp_path / "a.csv", 'text\none\n"two\nthree\nfour\n'), "text", skip=5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,text\n1,2\n", "a.csv has the column 'text' twice; rename or remove one"),
        ("a.csv", "# made by hand\nid\n1\n", r"a.csv lacks the columns \['text'\]; .* its first line is a comment: take it out"),
        ("a.csv", "text\na\0b\n", "a.csv, line 2: 'text' holds a null byte, so it is no text, or UTF-16 without a byte order mark"),
        ("a.csv", "text\nä\n".encode("latin1"), "a.csv, line 2: 'text' is not UTF-8: it has the byte 0xe4; .*iconv -f latin1 -t utf-8"),
        ("a.csv", codecs.BOM_UTF16_LE + b"x\0y", "a.csv begins as UTF-16 but is not: .*; convert it to UTF-8"),
        ("a.csv.gz", gzip.compress(b"text\none\n")[:-4], "a.csv.gz was packed with gzip and is damaged: it is cut; fetch it again"),
        ("a.csv", b"BZh91AY", "a.csv is packed with bzip2; unpack it first"),
        ("a.parquet.gz", b"", "a.parquet.gz has the suffix '.gz'; .* unpack it first"),
        ("a.jsonl", '{"text": 1, "text": 2}', "a.jsonl, line 1 is not valid JSON: the key 'text' is there twice in an object"),
        ("a.jsonl", '{"text": ' + "9" * 5_000 + "}", "a.jsonl, line 1 is not valid JSON: a number has more than 4,300 digits"),
        ("a.jsonl", "[" * 100_000, "a.jsonl, line 1 is not valid JSON: it is nested too deeply"),
        ("a.jsonl", "{'text': 1}", "a.jsonl, line 1 is not valid JSON: Expecting property name"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_remedy(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        path = written(tmp_path / name, content)
        table = SourceTable.open(path)
        table.need("text")
        rows(path, "text")


def test_a_column_that_is_there_twice_is_refused_in_parquet_too(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet has the column 'text' twice"):
        rows(tmp_path / "a.parquet", "text")


def test_dictionaries_and_large_texts_are_text(tmp_path):
    table = pa.table({"a": pa.array(["x", None]).dictionary_encode(), "b": pa.array(["y", "z"], pa.large_string())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert SourceTable.open(tmp_path / "a.parquet").texts == {"a", "b"}
    assert rows(tmp_path / "a.parquet", "a", "b") == [{"a": "x", "b": "y"}, {"a": None, "b": "z"}]


def test_what_is_not_there_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="gone.csv does not exist$"):
        SourceTable.open(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match="is no file$"):
        SourceTable.open(tmp_path)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lines_end_in_a_newline_whatever_the_file_has(tmp_path, ends, encoding, monkeypatch):
    monkeypatch.setattr("gato.data.formats.lines._CHUNK_BYTES", 8)  # so that ends and letters lie across chunks
    path = written(tmp_path / "a.txt", ends.join(["one", "", "zwölf ☃", "three"]).encode(encoding))
    assert [text for _, text in lines(path)] == ["one\n", "\n", "zwölf ☃\n", "three"]
    assert [place.rpartition(" ")[2] for place, _ in lines(path)] == ["1", "2", "3", "4"]


def test_the_suffix_of_a_gzipped_file_is_the_packed_ones(tmp_path):
    assert [suffix_of(tmp_path / name) for name in ("a.JSONL", "b.csv.GZ", "c", "d.txt")] == [".jsonl", ".csv", "", ".txt"]


def test_json_of_another_kind_is_named_in_jsons_words(tmp_path):
    for content, what in (("[1]", "a list"), ("null", "null"), ("3", "a number"), ('"x"', "a text"), ("true", "true or false")):
        with pytest.raises(ValueError, match=f"a.json holds {what}, expected an object"):
            load_json(written(tmp_path / "a.json", content))
    with pytest.raises(ValueError, match="a.json is packed with gzip; unpack it first"):
        load_json(written(tmp_path / "a.json", gzip.compress(b"{}")))


def test_null_and_blank_space_are_no_words_and_numbers_are_no_text():
    assert [words(value, "x") for value in (None, float("nan"), "", " \n", "a b ")] == [None, None, None, None, "a b "]
    for value, message in (
        (3, r"a number \(3\)"),
        (True, r"true or false \(true\)"),
        (["a"], "a list"),
        ({"a": 1}, "an object"),
        (b"a", "bytes"),
    ):
        with pytest.raises(ValueError, match=f"line 3: the caption is {message}, expected text"):
            words(value, "line 3: the caption")
    with pytest.raises(ValueError, match=r"x holds U\+D800, half of a surrogate pair"):
        words("a\ud800", "x")
    with pytest.raises(ValueError, match="x has 11 characters, more than 10"):
        words("a" * 11, "x", limit=10)


def test_lists_that_were_written_as_text_are_lists_and_text_stays_text():
    assert listed('["a", "b"]') == listed("['a', 'b']") == ["a", "b"]
    assert listed("""["it's", 'b']""") == ["it's", "b"]
    for text in ("kitchen", "[applause]", "['a' 'b']", "[1, 2]", "['a'", "[a, b]", "['\\d']" + "x", "__import__('os')"):
        assert listed(text) == text
    assert listed(None) is None and listed(3) == 3 and listed(["x"]) == ["x"]


def test_what_a_row_says_of_itself_becomes_plain_json():
    row = {"title": "x", "year": 2020, "score": float("nan"), "tags": ["a", {"b": None}], "none": None}
    assert sayings(row, ("title", "year", "score", "tags", "none", "gone"), "row 0") == {
        "title": "x", "year": 2020, "tags": ["a", {"b": None}],
    }  # fmt: skip
    with pytest.raises(ValueError, match="row 0: 'title' is bytes, which has no JSON form; take it out"):
        sayings({"title": b"x"}, ("title",), "row 0")
    deep = json.loads("[" * 50 + "]" * 50)
    with pytest.raises(ValueError, match="row 0: 'title' is nested deeper than 16"):
        sayings({"title": deep}, ("title",), "row 0")
