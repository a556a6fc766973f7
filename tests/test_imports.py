"""Who may import whom, and how large files and folders may be; `python benchmarks/imports.py` draws the same."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import imports as house  # noqa: E402


@pytest.fixture(scope="module")
def known() -> dict[str, Path]:
    return house.modules()


@pytest.fixture(scope="module")
def edges(known):
    return house.all_imports(known)


def test_no_files_import_each_other_in_a_circle(edges):
    assert house.circles(edges) == []


def test_every_import_keeps_the_rules(edges):
    assert house.breaches(edges) == []


def test_no_folder_and_no_file_is_too_large(known):
    assert house.sizes(known) == []


def test_a_breach_is_named_with_its_file_and_line(tmp_path):
    path = tmp_path / "spec.py"
    path.write_text("import os\n\n\ndef f():\n    from gato.data.store import Store\n")
    found = list(house.imports("gato.spec", path, {"gato.data.store": path}))
    (line,) = house.breaches(found)
    assert line == f"{path}:5: gato.spec imports gato.data.store; nouns and environments import no room"


def test_a_circle_is_found_also_where_an_import_stands_in_a_function(tmp_path):
    codes = {"gato.a": "from . import b", "gato.b": "def f():\n    from .c import x", "gato.c": "import gato.a"}
    files = {name: tmp_path / f"{name[-1]}.py" for name in codes}
    for name, code in codes.items():
        files[name].write_text(code)
    assert house.circles(house.all_imports(files)) == [["gato.a", "gato.b", "gato.c"]]


@pytest.mark.parametrize(
    ("importer", "imported", "is_allowed"),
    [
        ("data/reference", "data/formats", True),
        ("data/inspection", "data/formats", False),
        ("data", "data/shards", True),
        ("data", "data/formats", False),
        ("train", "data", True),
        ("train", "data/formats", False),
        ("tokenizers", "noun", True),
        ("tokenizers", "data", False),
        ("learners", "tokenizers", True),
        ("learners", "train", False),
        ("eval", "serve", False),
        ("cli", "serve", True),
        ("serve", "cli", False),
    ],
)
def test_the_rules_tell_what_is_allowed(importer, imported, is_allowed):
    assert (house._rule_broken(importer, imported) is None) is is_allowed


def test_imports_for_type_checkers_alone_are_not_counted():
    tree = ast.parse("if TYPE_CHECKING:\n    import gato.eval\nelse:\n    import gato.cli\n")
    assert [ast.unparse(node) for node in house._nodes(tree)] == ["import gato.cli"]
