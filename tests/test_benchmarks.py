"""`--json` of the benchmarks: whatever one prints, its last line is a JSON document of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from json_line import ends_in_json, tables  # noqa: E402

MEASURES_NOTHING = {"json_line", "sabotage", "sheet"}


def test_every_benchmark_can_end_in_a_line_of_json():
    names = {path.stem for path in BENCHMARKS.glob("*.py")} - MEASURES_NOTHING
    assert len(names) > 20
    for name in names:
        assert "sys.exit(ends_in_json(" in (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8"), name


def test_a_benchmark_itself_ends_in_one():
    done = subprocess.run([sys.executable, BENCHMARKS / "imports.py", "--json"], capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["benchmark"], found["arguments"], found["code"]) == ("imports", [], 0) and done.returncode == 0


def measured():
    print("two cores\n| task | score | of |\n|---|---:|---|\n| a | 1,234.5 | 20 % |\n| b | -2e3 | |\n\n| n |\n| --- |\n| 7 |")
    print('{"seed": 1}\n{not json')
    return 1


def test_tables_become_columns_and_rows_with_numbers(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks/some.py", "--seeds", "1", "--json"])
    assert ends_in_json(measured) == 1
    *printed, last = capsys.readouterr().out.splitlines()
    assert printed[0] == "two cores"
    found = json.loads(last)
    assert found.pop("seconds") >= 0
    assert found == {
        "benchmark": "some", "arguments": ["--seeds", "1"], "code": 1, "lines": [{"seed": 1}],
        "tables": [
            {"columns": ["task", "score", "of"], "rows": [["a", 1234.5, "20 %"], ["b", -2000.0, ""]]},
            {"columns": ["n"], "rows": [[7.0]]},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(("words", "ends"), [([], False), (["--json", "file"], False), (["--json"], True), (["--json", "--toy"], True)])
def test_a_file_that_a_benchmark_writes_itself_is_left_to_it(monkeypatch, capsys, words, ends):
    monkeypatch.setattr(sys, "argv", ["some.py", *words])
    ends_in_json(lambda: None, may_name_a_file=True)
    assert sys.argv[1:] == [word for word in words if not ends or word != "--json"]
    assert capsys.readouterr().out.startswith("{") is ends


def test_what_gives_up_ends_in_its_line_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["some.py", "--json"])
    assert ends_in_json(lambda: sys.exit("no GPU")) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["code"] == 1 and said.err == "no GPU\n"


def test_lines_that_are_no_table_are_none():
    assert tables(["| a | b |", "text", "|---|", "| 1 |", "a | b"]) == []
