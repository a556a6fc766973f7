"""YAML that people write: what is wrong is named with its line, and nothing wins silently."""

from itertools import pairwise
from pathlib import Path

import pytest

from gato.yaml_file import load_yaml


def refused(folder: Path, text: str | bytes) -> str:
    path = folder / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


def test_plain_values_are_read_and_a_mark_of_the_encoding_is_passed_over(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: {b: [1, 2.5, x]}\nc: &c {d: 1}\ne: {<<: *c, f: 2}\n")
    assert load_yaml(tmp_path / "a.yaml") == {"a": {"b": [1, 2.5, "x"]}, "c": {"d": 1}, "e": {"d": 1, "f": 2}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", ", line 3, column 1 is not valid YAML: the key 'a' is there twice"),
        ("s: {a: 1, a: 1}", ", line 1, column 11 is not valid YAML: the key 'a' is there twice"),
        ("a:\n\tb: 1\n", "indent with blanks, not with tabs"),
        ("a: [1, 2\nb: 3\n", ", line 2, column 2 is not valid YAML"),
        ("a: {key: @b}\n", "put it in quotes"),
        ("on: x: y\n", "with ': ' in it not in quotes"),
        ("a: " + "[" * 5_000, "is not valid YAML"),
        ("a: 2020-13-45\n", "is not valid YAML: month must be in 1..12"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        (b"a: \xff\n", " is not UTF-8 at byte 3"),
        ("a: \x00b", "is not valid YAML"),
        ('a: ["x\\ud800"]', "is not valid YAML: it holds half a character: 'x\\ud800'"),
        ("a: &a [*a]", "or one that holds itself"),
        ("a: &a [x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in pairwise("abcdefgh")), "more than 100000 values"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_place(tmp_path, text, line):
    assert line in refused(tmp_path, text)


def test_a_missing_and_a_huge_file_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file '.*nothing\.yaml'"):
        load_yaml(tmp_path / "nothing.yaml")
    assert "has 2000000 bytes, more than 1048576" in refused(tmp_path, "#" * 2_000_000)
