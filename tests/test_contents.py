"""`gato data inspect STORE` and `gato data show STORE`: without a mixture and without a tokenizer, against numbers counted by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gato.cli import main
from gato.data.inspection.contents import contents, episode_contents
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.words import document_task

ROOT = Path(__file__).parent.parent


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corridor, walk, drive, robot) -> Path:
    """Stores `toy/walks` (3 episodes, 6 timesteps, 1 of 2 successful), `toy/robot` (1 episode), `words/train`; no tokenizer."""
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    stores = tmp_path / "stores"
    notes = {
        "source": "walks.csv",
        "format": "toy",
        "left_out": {"rows without text": 2},
        "left_out_examples": {"rows without text": "line 7"},
    }
    with StoreWriter(stores / "toy" / "walks", [corridor], notes) as writer:
        writer.append(walk([0, 1], [1, 1], success=True, behaviour="expert", seed=5, terminated=True, parameters={"maze": 3}))
        writer.append(walk([0, 0, 1], [0, 1, 1], success=False, behaviour="noisy"))
        writer.append(walk([1], [1], behaviour="noisy"))
    with StoreWriter(stores / "toy" / "robot", [robot]) as writer:
        writer.append(drive(3, "go to the red ball"))
    task = document_task("words")
    with StoreWriter(stores / "words" / "train", [task]) as writer:
        for text in ("kitchen", "a\nb " * 100):
            writer.append(Episode(task, {}, {"text": np.array([text], object)}, np.zeros(1, np.float32), terminated=True))
    return stores


def test_inspect_of_a_store_counts_what_it_holds(stores: Path) -> None:
    found = contents(Store(stores / "toy" / "walks"))
    assert (found["episodes"], found["timesteps"], found["unfinished"]) == (3, 6, None)
    assert found["left_out"] == ["2 rows without text, such as line 7"]
    (task,) = found["tasks"]
    assert task["return"] == {"mean": 1.0, "lowest": 1.0, "highest": 1.0} and task["longest"] == 3
    assert task["success"] == 0.5 and task["success_known"] == 2 and task["behaviours"] == {"noisy": 2, "expert": 1}
    assert task["random_return"] == 0.5 and task["expert_return"] == 1.0
    cell, step = found["fields"]
    assert cell["field"] == "observation.cell" and cell["declared"] == "0 to 1" and cell["found"] == "0 to 1" and cell["scanned"] == 6
    assert step["field"] == "action.step" and step["kind"] == "discrete"


def test_inspect_of_a_store_says_the_range_of_every_kind_of_field(stores: Path) -> None:
    store = Store(stores / "toy" / "robot")
    fields = {f["field"]: f for f in contents(store)["fields"]}
    force = store.episode(0).observations["gripper/force"]
    assert fields["observation.gripper/force"]["found"] == f"{force.min():.4g} to {force.max():.4g}"
    assert fields["observation.gripper/force"]["declared"] == ""
    assert fields["action.motors"]["declared"] == "[-1 0] to [1 10]" and fields["action.motors"]["shape"] == "2"
    assert fields["observation.goal"]["found"] == "18 to 18 letters"
    assert fields["observation.camera"] == {
        "field": "observation.camera", "kind": "image", "dtype": "uint8", "shape": "16x32x3", "declared": "", "found": "", "scanned": 3,
    }  # fmt: skip


def test_a_large_store_is_read_in_evenly_spread_parts_and_says_so(tmp_path: Path, corridor, walk, capsys, monkeypatch) -> None:
    with StoreWriter(tmp_path, [corridor]) as writer:
        for _ in range(3):
            writer.append(walk([0] * 4096, [1] * 4096))
    assert [f["scanned"] for f in contents(Store(tmp_path), max_timesteps=8000)["fields"]] == [8192, 8192]
    monkeypatch.setattr("gato.data.inspection.contents.contents.__defaults__", (8000,))
    assert main(["data", "inspect", str(tmp_path)]) == 0
    assert "found in 8,192 timesteps, evenly spread" in capsys.readouterr().out


def test_both_verbs_print_for_people_and_for_programs(stores: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "inspect", "toy/walks"]) == 0
    text = capsys.readouterr().out
    assert "3 episodes, 6 timesteps" in text and "source walks.csv" in text and "50% of 2" in text and "2 noisy, 1 expert" in text
    assert "left out: 2 rows without text, such as line 7" in text and "observation.cell" in text
    assert main(["data", "inspect", str(stores / "toy" / "walks"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["source"] == "walks.csv"
    assert main(["data", "show", "toy/walks", "--episode", "0"]) == 0
    text = capsys.readouterr().out
    assert "episode 0" in text and "seed: 5" in text and "success: True" in text and "parameters: {'maze': 3}" in text
    assert main(["data", "show", "toy/robot", "--count", "2"]) == 0
    text = capsys.readouterr().out
    assert "picture of 16x32x3" in text and "go to the red ball" in text and "1 more; --timestep says where to begin" in text
    assert main(["data", "show", "words/train", "--episode", "1"]) == 0
    assert "a b a b" in (text := capsys.readouterr().out) and max(map(len, text.splitlines())) < 140


def test_show_gives_the_values_that_are_stored(stores: Path, capsys: pytest.CaptureFixture) -> None:
    store = Store(stores / "toy" / "robot")
    episode = store.episode(0)
    assert main(["data", "show", "toy/robot", "--timestep", "1", "--count", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (step,) = found["steps"]
    assert step["timestep"] == 1 and step["action.motors"] == episode.actions["motors"][1].tolist()
    assert step["observation.camera"] == "picture of 16x32x3" and step["observation.goal"] == "go to the red ball"
    assert found["timesteps"] == 3 and found["final_observation"] is None and found["success"] is None
    first = episode_contents(Store(stores / "toy" / "walks"), 0, 0, 8)
    assert first["terminated"] and first["return"] == 1.0 and first["parameters"] == {"maze": 3}
    assert main(["data", "show", "words/train", "--episode", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["action.text"] == "a\nb " * 100  # whole, unlike in the table


def test_an_empty_store_is_shown_as_such(tmp_path: Path, corridor, capsys: pytest.CaptureFixture) -> None:
    with StoreWriter(tmp_path, [corridor]):
        pass
    assert main(["data", "inspect", str(tmp_path)]) == 0
    assert "0 episodes, 0 timesteps" in capsys.readouterr().out
    assert main(["data", "show", str(tmp_path)]) == 2
    assert "has no episodes, there is no number 0" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["inspect", "show", "validate"])
def test_a_folder_that_holds_a_single_store_stands_for_it(stores: Path, verb: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["data", verb, str(stores / "words")]) == 0, capsys.readouterr().err
    assert str(stores / "words/train") in capsys.readouterr().out or verb == "validate"


def test_an_unfinished_store_is_called_so(tmp_path: Path, corridor, walk, capsys: pytest.CaptureFixture) -> None:
    with StoreWriter(tmp_path, [corridor], {"expected_episodes": 3}) as writer:
        writer.append(walk([0], [1]))
    assert main(["data", "inspect", str(tmp_path)]) == 0
    assert "unfinished: 1 of 3 episodes: its import did not end" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["inspect", "toy/walkz"], "'toy/walkz' is no store (there is no such folder) and no recipe"),
        (["inspect", "toy/walkz"], "did you mean 'toy/walks'?"),
        (["inspect", "toy"], "'toy' is a folder of stores; name one: "),
        (["validate", "toy"], "'toy' is a folder of stores; name one: "),
        (["show", "empty"], "'empty' is no store (it has no manifest.json) and no recipe"),
        (["show", "notes.txt"], "'notes.txt' is a file, but no recipe or mixture, which are named *.yaml"),
        (["inspect", ""], "'' is no store"),
        (["show", "toy/walks", "--episode", "3"], "has episodes 0 to 2, there is no number 3"),
        (["show", "toy/walks", "--episode", "-1"], "'episode' is -1, expected a whole number from 0"),
        (["show", "toy/walks", "--timestep", "2"], "has timesteps 0 to 1; found --timestep 2, --count 8"),
        (["show", "toy/walks", "--count", "0"], "'count' is 0, expected a whole number from 1"),
        (["show", "toy/walks", "--row", "0"], "'toy/walks' is a store, and --row is an option for mixtures; leave it out"),
        (["inspect", "toy/walks", "--batch_size", "8"], "--batch_size is an option for mixtures"),
        (["show", "demo", "--episode", "0"], "'demo' is a mixture, and --episode is an option for stores"),
        (["inspect", "broken"], "is no manifest of a store"),
        (["inspect", "demo", "--recipe", "demo"], "'demo' is a recipe itself"),
    ],
)
def test_what_is_neither_a_store_nor_a_mixture_is_named(stores: Path, words: list[str], line: str, capsys, monkeypatch) -> None:
    monkeypatch.chdir(stores.parent)
    for name in ("empty", "broken"):
        Path(name).mkdir()
    Path("broken/manifest.json").write_text("{}")
    Path("notes.txt").write_text("x")
    assert main(["data", *words]) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.count("\n") == 1 and line in found.err


def test_a_damaged_shard_is_named(stores: Path, capsys: pytest.CaptureFixture) -> None:
    shard = stores / "toy" / "walks" / "timesteps-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-8])
    for verb in ("inspect", "show"):
        assert main(["data", verb, "toy/walks"]) == 2
        assert f"shard {shard} has" in capsys.readouterr().err


def test_a_store_is_shown_without_torch(stores: Path) -> None:
    for verb in ("inspect", "show"):
        words = ["data", verb, "toy/walks", "--json"]
        script = f"import sys; from gato.cli import main; code = main({words}); print(code, 'torch' in sys.modules)"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert found.stdout.endswith("0 False\n"), found.stdout + found.stderr
