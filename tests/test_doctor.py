"""`gato doctor` tells what is there and survives what is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gato.cli import doctor, main

ROOT = Path(__file__).parent.parent


def by_name() -> dict[str, dict[str, str]]:
    return {row["what"]: row for row in doctor.findings()}


def test_rows_name_versions_and_leave_the_note_empty_where_all_is_well() -> None:
    import numpy
    import torch

    rows = by_name()
    assert rows["numpy"] == {"what": "numpy", "found": numpy.__version__, "note": ""}
    assert torch.__version__ in rows["torch"]["found"] and f"{torch.get_num_threads()} threads" in rows["torch"]["found"]
    assert {"Python", "gato", "GATO_HOME", "stores", "C++ compiler", "DeepSpeed"} <= rows.keys()
    assert all(set(row) == {"what", "found", "note"} and all(isinstance(v, str) for v in row.values()) for row in rows.values())


def test_every_extra_that_is_not_made_of_others_has_a_purpose() -> None:
    _, extras = doctor._requirements()
    leaves = [name for name, lines in extras.items() if not any(line.startswith("opengato[") for line in lines)]
    assert sorted(doctor.PURPOSES) == sorted(leaves)


def test_a_missing_extra_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_project", lambda: None)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy>=1", 'no-such-package>=2; extra == "babyai"'])
    row = by_name()["extra babyai"]
    assert row["found"] == "no-such-package: missing" and "pip install 'opengato[babyai]'" in row["note"]


def test_a_version_outside_the_range_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_project", lambda: {"dependencies": ["numpy>=999"], "optional-dependencies": {}})
    assert "needs >=999" in by_name()["numpy"]["note"]


def test_the_extra_of_an_extra_is_followed() -> None:
    pytest.importorskip("gymnasium")
    assert any(line.startswith("box2d") for line in doctor._parts("gymnasium[box2d]>=1.2"))
    assert doctor._parts("gymnasium>=1.2") == []


def test_stores_follow_gato_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    rows = by_name()
    assert rows["GATO_HOME"]["found"] == str(tmp_path / "home")
    assert str(tmp_path / "home" / "stores") in rows["stores"]["found"] and "GiB free" in rows["stores"]["found"]


def test_the_doctor_works_where_nothing_is_installed() -> None:
    command = [sys.executable, "-S", "-m", "gato.cli", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True)
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0 and rows["torch"]["found"] == "missing" and rows["pyarrow"]["found"] == "missing"


def test_the_verb_prints_a_table_or_json(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.startswith("what")
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["what"] == "Python"
