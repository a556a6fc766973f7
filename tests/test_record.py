"""`gato eval --record`: the episodes behind a score table are kept as stores."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato import envs
from gato.agent import Agent
from gato.cli import main
from gato.data.formats.dataset import WRITERS, import_dataset, reader
from gato.data.store import Store


@pytest.fixture(scope="module")
def checkpoint(make_gato, tokenizer, tmp_path_factory) -> Path:
    """A tiny untrained model that knows the corridor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    task = envs.task("toy/corridor")
    Agent(make_gato().float(), tokenizer, {task.name: task}).save(folder)
    return folder


def evaluate(checkpoint: Path, folder: Path, *more: str) -> int:
    settings = ["--episodes", "6", "--num_envs", "4", "--device", "cpu", "--json"]
    return main(["eval", str(checkpoint), "--record", str(folder), *settings, *more])


def test_recorded_returns_are_the_reported_ones(checkpoint, tmp_path, capsys):
    assert evaluate(checkpoint, tmp_path / "played") == 0
    row = json.loads(capsys.readouterr().out)["tasks"][0]
    store = Store(tmp_path / "played" / "toy" / "corridor")
    store.validate()
    assert store.num_episodes == 6 and np.mean(store.returns) == pytest.approx(row["mean"])  # rewards of 0 and 1: sums are exact
    assert np.mean(store.lengths) == pytest.approx(row["length"])
    assert set(store.behaviours) == {"learner"} and len({store.episode(i).seed for i in range(6)}) == 6
    assert np.mean([store.episode(i).success for i in range(6)]) == pytest.approx(row["success"])
    assert store.manifest.provenance["failed_episodes"] == 0


def test_the_same_evaluation_again_adds_nothing(checkpoint, tmp_path):
    for _ in range(2):
        assert evaluate(checkpoint, tmp_path / "played") == 0
    assert Store(tmp_path / "played" / "toy" / "corridor").num_episodes == 6


def test_a_folder_of_another_evaluation_is_refused(checkpoint, tmp_path, capsys):
    assert evaluate(checkpoint, tmp_path / "played") == 0
    assert evaluate(checkpoint, tmp_path / "played", "--seed", "1") == 2
    assert "was recorded with" in (line := capsys.readouterr().err) and "choose another folder" in line


@pytest.mark.parametrize(
    ("positions", "memory", "played"), [("learned", None, "rebuild"), ("rope", 1, "rebuild"), ("rope", None, "rolling")]
)
def test_a_recording_at_a_rate_says_what_becomes_of_a_full_context(make_gato, tokenizer, tmp_path, positions, memory, played):
    task = replace(envs.task("toy/corridor"), memory=memory)
    Agent(make_gato(positions=positions).float(), tokenizer, {task.name: task}).save(tmp_path / "checkpoint")
    for _ in range(2):  # it goes on with its own
        assert evaluate(tmp_path / "checkpoint", tmp_path / "played", "--rate", "1000") == 0
    assert Store(tmp_path / "played/toy/corridor").manifest.provenance["settings"]["overflow"] == played


def test_a_folder_of_something_else_is_refused(checkpoint, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert evaluate(checkpoint, tmp_path) == 2
    assert f"{tmp_path} exists and holds no recording; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", WRITERS)
def test_what_was_played_becomes_a_dataset_of_every_format(checkpoint, tmp_path, kind):
    pytest.importorskip("minari" if kind == "minari" else "pyarrow", reason="needs the extra 'minari'")
    assert evaluate(checkpoint, tmp_path / "played") == 0
    played, out = Store(tmp_path / "played" / "toy" / "corridor"), tmp_path / "out-v0"
    assert main(["data", "export", kind, str(out), str(played.path)]) == 0
    (folder,) = import_dataset(reader(kind)().open(out), tmp_path / "again").values()
    again = Store(folder)
    assert again.num_episodes == 6
    for mine, theirs in ((again.episode(i), played.episode(i)) for i in range(6)):
        assert mine.actions["action"].tolist() == theirs.actions["action"].tolist()
        assert mine.final_observation == theirs.final_observation is not None
        assert (mine.behaviour, mine.seed, mine.success) == (theirs.behaviour, theirs.seed, theirs.success)
