"""What an import leaves out: counted with an example, or skipped up to a limit, and an interrupted import goes on exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gato.cli import main
from gato.data.formats.dataset import Dataset, import_dataset
from gato.data.formats.left_out import BadRow, LeftOut
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.words import document_task

TASK = document_task("text/numbers")


def document(number: int) -> Episode:
    if number < 0:
        raise ValueError(f"numbers.txt, line {-number}: it is below zero")
    return Episode(TASK, {}, {"text": np.array([str(number)], object)}, np.zeros(1, np.float32), terminated=True)


def numbers(*values: int, skip: int = 0, unreadable: tuple[str, ...] = (), digest: str = "a") -> Dataset:
    """A document for every number; those below zero are found to be bad when they are made, `unreadable` ones at once."""
    left_out = LeftOut(skip)
    for row in unreadable:
        left_out.row(ValueError(row))

    def episodes(split, start):
        for row in unreadable:  # met again by the second pass
            left_out.row(ValueError(row))
        return left_out.made(values[start:], document)

    return Dataset("numbers.txt", digest, (TASK,), {"train": len(values)}, episodes, left_out=left_out)


def texts(folder: Path) -> list[int]:
    store = Store(folder)
    return [int(store.episode(i).actions["text"][0]) for i in range(store.num_episodes)]


def test_a_bad_row_is_refused_unless_it_may_be_skipped(tmp_path):
    with pytest.raises(BadRow, match=r"line 2: it is below zero \(or leave out up to N bad rows with --skip N\)$"):
        import_dataset(numbers(-2, 1, 2), tmp_path / "out")
    assert not (tmp_path / "out").exists()  # nothing was imported, so nothing is left


def test_the_episodes_before_a_bad_row_are_kept_and_the_message_says_where(tmp_path):
    with pytest.raises(ValueError, match=r"line 2: .*; the episode before it is kept in .*train, and the same command goes on"):
        import_dataset(numbers(1, -2, 3), tmp_path)
    assert texts(tmp_path / "train") == [1]
    import_dataset(numbers(1, -2, 3, skip=1), tmp_path)
    assert texts(tmp_path / "train") == [1, 3]


def test_skipped_rows_are_named_in_the_manifest_before_which_episode_they_would_have_come(tmp_path):
    import_dataset(numbers(-1, 2, -3, -4, 5, -6, skip=4, unreadable=()), tmp_path)
    assert texts(tmp_path / "train") == [2, 5]
    skipped = Store(tmp_path / "train").manifest.provenance["skipped"]
    assert [x["row"] for x in skipped] == [f"numbers.txt, line {n}: it is below zero" for n in (1, 3, 4, 6)]
    assert [x["before"] for x in skipped] == [0, 1, 1, 2]


def test_more_bad_rows_than_allowed_are_refused_with_the_last_one_and_their_number(tmp_path):
    with pytest.raises(BadRow, match=r"3 rows are bad, but --skip allows 2; the last one: numbers.txt, line 4: it is below zero$"):
        import_dataset(numbers(-2, -3, -4, 1, skip=2), tmp_path / "a")
    with pytest.raises(ValueError, match=r"2 rows are bad, but --skip allows 1; the last one: line 9 is no JSON"):
        numbers(1, skip=1, unreadable=("line 7 is no JSON", "line 9 is no JSON"))


def test_a_row_that_both_passes_meet_counts_once(tmp_path):
    import_dataset(numbers(1, -2, 3, skip=2, unreadable=("line 9 is no JSON",)), tmp_path)
    skipped = Store(tmp_path / "train").manifest.provenance["skipped"]
    assert [(x["row"][:6], x["before"]) for x in skipped] == [("line 9", None), ("number", 1)]


# (episodes, named skipped rows) that a killed writer may leave of -1 1 -2 2 -3 -4 3: a row is named before the episode behind it
LEFT = [(kept, named) for kept, least in enumerate((0, 1, 2, 4)) for named in range(least, 5)]


@pytest.mark.parametrize(("kept", "named"), LEFT)
def test_an_import_goes_on_exactly_whatever_was_lost(tmp_path, kept, named):
    values = (-1, 1, -2, 2, -3, -4, 3)
    import_dataset(numbers(*values, skip=4), tmp_path / "whole")
    skipped = Store(tmp_path / "whole" / "train").manifest.provenance["skipped"]
    with StoreWriter(tmp_path / "cut" / "train", (TASK,), {"split": "train", "skipped": skipped[:named]}) as writer:
        writer.bind("numbers.txt", "a")
        for number in (1, 2, 3)[:kept]:
            writer.append(document(number))
    import_dataset(numbers(*values, skip=4), tmp_path / "cut")
    assert texts(tmp_path / "cut" / "train") == [1, 2, 3]
    assert Store(tmp_path / "cut" / "train").manifest.provenance["skipped"] == skipped


def test_rows_skipped_by_an_earlier_import_count_towards_the_limit(tmp_path):
    with pytest.raises(ValueError, match=r"2 rows are bad, but --skip allows 1; the last one: numbers.txt, line 4"):
        import_dataset(numbers(1, -2, 3, -4, 5, skip=1), tmp_path)
    with pytest.raises(ValueError, match=r"2 rows are bad, but --skip allows 1; .*; the 2 episodes before it are kept"):
        import_dataset(numbers(1, -2, 3, -4, 5, skip=1), tmp_path)
    import_dataset(numbers(1, -2, 3, -4, 5, skip=2), tmp_path)
    assert texts(tmp_path / "train") == [1, 3, 5]


def test_skipped_rows_of_another_source_are_forgotten(tmp_path):
    with StoreWriter(tmp_path / "train", (TASK,), {"skipped": [{"row": "x", "before": 0}]}) as writer:
        writer.bind("old.txt", "b")
    import_dataset(numbers(1, 2), tmp_path)
    assert texts(tmp_path / "train") == [1, 2] and Store(tmp_path / "train").manifest.provenance["skipped"] == []


def test_a_source_of_bad_rows_alone_leaves_no_store(tmp_path):
    with pytest.raises(
        ValueError, match=r"numbers.txt train holds no episode but 2 bad ones \(name other splits by --splits\); the last one: .* line 2"
    ):
        import_dataset(numbers(-1, -2, skip=5), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path):
    dataset = numbers(1, 2, 3)
    dataset.splits["train"] = 4
    with pytest.raises(ValueError, match="numbers.txt train had 4 episodes when it was opened and 3 when it was read: it changed"):
        import_dataset(dataset, tmp_path)


def test_a_limit_below_zero_is_refused():
    with pytest.raises(ValueError, match="--skip is -1, expected 0 to 100000 bad rows"):
        LeftOut(-1)


def test_what_was_left_out_and_skipped_is_printed_after_the_import(tmp_path, capsys):
    for name, content in {"a.txt": "a cat", "b.txt": " ", "c.txt": b"\xff"}.items():
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    command = ["data", "import", "text", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "c.txt is not UTF-8" in (error := capsys.readouterr().err) and "--skip N" in error
    assert main([*command, "--skip", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("train: 1 episodes: ")
    assert out[1] == f"left out: 1 blank documents, such as {tmp_path}/in/b.txt"
    assert out[2].startswith(f"skipped: {tmp_path}/in/c.txt is not UTF-8 at byte 0")
    assert main([*command, "--skip", "1", "--json"]) == 0  # again, with nothing left to do
    (row,) = json.loads(capsys.readouterr().out)
    assert row["left_out"] == {"blank documents": 1} and row["left_out_examples"] == {"blank documents": f"{tmp_path}/in/b.txt"}
    assert row["episodes"] == 1 and row["skipped"][0].startswith(f"{tmp_path}/in/c.txt is not UTF-8")
    assert Store(tmp_path / "out" / "train").manifest.provenance["left_out"] == {"blank documents": 1}


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_left_out import numbers
from gato.data.formats.dataset import import_dataset
from gato.data.store import StoreWriter
append, left = StoreWriter.append, int(sys.argv[2])
def counted(self, episode):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    append(self, episode)
StoreWriter.append = counted
import_dataset(numbers(-1, 1, -2, -3, 2, 3, -4, skip=4), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_import_that_is_killed_goes_on_behind_the_rows_that_it_skipped(tmp_path, after):
    child = [sys.executable, "-c", KILLED, str(tmp_path), str(after), str(Path(__file__).parent)]
    assert subprocess.run(child, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}).returncode == 9
    import_dataset(numbers(-1, 1, -2, -3, 2, 3, -4, skip=4), tmp_path)
    assert texts(tmp_path / "train") == [1, 2, 3]
    assert [x["before"] for x in Store(tmp_path / "train").manifest.provenance["skipped"]] == [0, 1, 1, 3]
