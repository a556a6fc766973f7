"""What a store says of its import or collection: whether it ended, and what a refusal leaves behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gato.cli import main
from gato.data.collection.collect import CollectConfig, collect
from gato.data.formats.dataset import Dataset, import_dataset
from gato.data.formats.left_out import LeftOut
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.shards.manifest import Manifest
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.spec import TaskSpec

ROOT = Path(__file__).parent.parent

# What stands in a made-up source: the first cell of an episode, or "bad" for one that cannot be made.
Rows = dict[str, list[int | str]]


@pytest.fixture
def source(corridor: TaskSpec, walk: Callable[..., Episode]):
    """source({"train": [0, 1]}): a dataset of two episodes, which begin in the cells 0 and 1."""

    def make(rows: Rows, name: str = "lab.csv", skip: int = 0) -> Dataset:
        left_out = LeftOut(skip)

        def made(row: int | str) -> Episode:
            if row == "bad":
                raise ValueError("lab.csv, row 3: 'cell' is empty")
            return walk([int(row), 1], [1, 1])

        def episodes(split: str, start: int) -> Iterator[Episode]:
            return left_out.made(rows[split][start:], made)

        return Dataset(name, repr(rows), (corridor,), {s: len(r) for s, r in rows.items()}, episodes, {"format": "toy"}, left_out)

    return make


def cells(folder: Path) -> list[int]:
    store = Store(folder)
    return [int(store.episode(i).observations["cell"][0]) for i in range(store.num_episodes)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- after the repair --------------------------------------------------------------------------------


def test_a_repaired_source_goes_on_where_it_was_refused(source, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"row 3.*the 2 episodes before it are kept in .*, and the same command goes on there when it is repaired"
    ):
        import_dataset(source({"train": [0, 1, "bad", 1]}), tmp_path / "out")
    import_dataset(source({"train": [0, 1, 0, 1]}), tmp_path / "out")
    import_dataset(source({"train": [0, 1, 0, 1]}), tmp_path / "fresh")
    assert cells(tmp_path / "out" / "train") == [0, 1, 0, 1]
    again, fresh = (Store(tmp_path / name / "train") for name in ("out", "fresh"))
    assert all(np.array_equal(again.episode(i).rewards, fresh.episode(i).rewards) for i in range(4))
    assert again.manifest.provenance == fresh.manifest.provenance | {"skipped": []}


def test_a_source_that_grew_goes_on_behind_what_is_there(source, tmp_path: Path) -> None:
    import_dataset(source({"train": [0, 1]}), tmp_path)
    import_dataset(source({"train": [0, 1, 1]}), tmp_path)
    assert cells(tmp_path / "train") == [0, 1, 1]


@pytest.mark.parametrize("rows", [[1, 1, 0], [0, 0, 1], [0]])
def test_a_source_that_changed_where_its_episodes_are_is_refused_and_the_store_stays(source, tmp_path: Path, rows: list[int]) -> None:
    import_dataset(source({"train": [0, 1]}), tmp_path)
    before = files(tmp_path)
    first = next(i for i in range(2) if rows[i : i + 1] != [i])
    line = rf"already holds 2 episodes of another source: lab.csv.* its episode {first} is another one now; remove the folder"
    with pytest.raises(ValueError, match=line):
        import_dataset(source({"train": rows}), tmp_path)
    assert files(tmp_path) == before


def test_a_store_of_another_source_is_refused_and_stays(source, tmp_path: Path) -> None:
    import_dataset(source({"train": [0, 1]}), tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"already holds 2 episodes of another source \('lab.csv'\); remove the folder"):
        import_dataset(source({"train": [1]}, name="other.csv"), tmp_path)
    assert files(tmp_path) == before


def test_skipped_rows_are_named_again_where_the_source_was_repaired(source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--skip"):
        import_dataset(source({"train": ["bad", 0, 1, "bad", 1]}, skip=1), tmp_path)
    import_dataset(source({"train": ["bad", 0, 1, 0, 1]}, skip=1), tmp_path)
    assert cells(tmp_path / "train") == [0, 1, 0, 1]
    manifest = Manifest.load(tmp_path / "train")
    assert manifest.provenance["skipped"] == [{"row": "lab.csv, row 3: 'cell' is empty", "before": 0}]
    assert manifest.shortfall is None and manifest.provenance["expected_episodes"] == 4
    assert manifest.not_imported == ["1 bad rows, such as lab.csv, row 3: 'cell' is empty"]


def test_the_limit_of_skipped_rows_counts_each_once_after_a_repair(source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--skip"):
        import_dataset(source({"train": ["bad", 0, "bad", 1]}, skip=1), tmp_path)
    import_dataset(source({"train": ["bad", 0, "bad", 1, 1]}, skip=2), tmp_path)
    assert cells(tmp_path / "train") == [0, 1, 1]


# -- whether it ended --------------------------------------------------------------------------------


def test_a_store_knows_how_many_episodes_it_lacks(source, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        import_dataset(source({"train": [0, 1, "bad"]}), tmp_path)
    assert Manifest.load(tmp_path / "train").shortfall == "2 of 3 episodes: its import did not end, run the same command again"
    import_dataset(source({"train": [0, 1, 1]}), tmp_path)
    assert Manifest.load(tmp_path / "train").shortfall is None


def test_a_store_of_an_older_release_opens_and_lacks_nothing_that_it_knows_of(corridor, walk, tmp_path: Path) -> None:
    with StoreWriter(tmp_path, [corridor], {"source": "lab.csv"}) as writer:
        writer.append(walk([0], [1]))
    assert Store(tmp_path).manifest.shortfall is None and Store(tmp_path).manifest.not_imported == []
    with StoreWriter(tmp_path, [corridor], {"expected_episodes": "many", "left_out": 3, "skipped": [1]}):
        pass
    assert Store(tmp_path).manifest.shortfall is None and Store(tmp_path).manifest.not_imported == []


def test_validate_says_that_an_import_did_not_end_and_exits_with_1(source, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError):
        import_dataset(source({"train": [0, 1, "bad"]}), tmp_path)
    folder = str(tmp_path / "train")
    capsys.readouterr()
    assert main(["data", "validate", folder]) == 1
    found = capsys.readouterr()
    assert found.out == "" and "2 of 3 episodes: its import did not end" in found.err and "what it holds is valid" in found.err
    assert main(["data", "validate", folder, "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert row["damage"] is None and row["episodes"] == 2 and row["unfinished"].startswith("2 of 3 episodes")
    import_dataset(source({"train": [0, 1, 1]}), tmp_path)
    assert main(["data", "validate", folder]) == 0
    assert "3 episodes, 6 timesteps, all valid" in capsys.readouterr().out


def test_training_on_such_a_store_and_inspection_say_so(source, tmp_path: Path, tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    from gato.data.inspection.scan import inspect

    with pytest.raises(ValueError):
        import_dataset(source({"train": [0, 1, "bad"]}), tmp_path)
    config = DataConfig({"toy/corridor": SourceConfig(store=str(tmp_path / "train"))})
    mixture = Mixture(config, tokenizer, 32, 0)
    line = "2 of 3 episodes: its import did not end, run the same command again"
    assert f"source 'toy/corridor' holds {line}" in caplog.text
    assert f"toy/corridor: {line}" in inspect(mixture, 2, 2).findings


def test_inspection_names_what_the_import_left_out(source, tmp_path: Path, tokenizer) -> None:
    from gato.data.inspection.scan import inspect

    dataset = source({"train": ["bad", 0, 1]}, skip=1)
    dataset.left_out.count("rows without text", "lab.csv, line 7", 2)
    import_dataset(dataset, tmp_path)
    mixture = Mixture(DataConfig({"toy/corridor": SourceConfig(store=str(tmp_path / "train"))}), tokenizer, 32, 0)
    findings = inspect(mixture, 2, 2).findings
    assert "toy/corridor: its import left out 2 rows without text, such as lab.csv, line 7" in findings
    assert "toy/corridor: its import left out 1 bad rows, such as lab.csv, row 3: 'cell' is empty" in findings


def test_a_killed_collection_says_what_is_missing_and_goes_on(tmp_path: Path) -> None:
    """The process ends without any of its own doing, as with SIGKILL, after its second episode."""
    script = f"""
        import os, signal, sys
        from gato.data import store
        from gato.data.collection import collect
        from gato.data.collection.collect import CollectConfig
        append = store.StoreWriter.append
        def killed(self, episode):
            append(self, episode)
            if self.num_episodes == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        store.StoreWriter.append = killed
        collect.collect(CollectConfig(["toy/corridor"], episodes=4, workers=0, out={str(tmp_path)!r}))
        """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True)
    assert found.returncode == -signal.SIGKILL, found.stderr
    folder = tmp_path / "toy" / "corridor"
    assert Manifest.load(folder).shortfall == "0 of 4 episodes: its collection did not end, run the same command again"
    collect(CollectConfig(["toy/corridor"], episodes=4, workers=0, out=tmp_path))
    collect(CollectConfig(["toy/corridor"], episodes=4, workers=0, out=tmp_path / "fresh"))
    again, fresh = Store(folder), Store(tmp_path / "fresh" / "toy" / "corridor")
    assert again.manifest.shortfall is None and again.num_episodes == 4
    for i in range(4):
        a, b = again.episode(i), fresh.episode(i)
        assert a.seed == b.seed and np.array_equal(a.rewards, b.rewards)
    collect(CollectConfig(["toy/corridor"], episodes=2, workers=0, out=tmp_path))  # fewer than are there: nothing is missing
    assert Manifest.load(folder).shortfall is None


# -- what a refusal leaves behind --------------------------------------------------------------------


def test_all_splits_are_looked_at_before_the_first_is_written(source, tmp_path: Path) -> None:
    import_dataset(source({"test": [0]}, name="other.csv"), tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"test already holds 1 episodes of another source \('other.csv'\)"):
        import_dataset(source({"train": [0, 1], "test": [1]}), tmp_path)
    assert files(tmp_path) == before and not (tmp_path / "train").exists()


def test_a_split_in_use_is_refused_before_the_first_is_written(source, corridor, tmp_path: Path) -> None:
    dataset = source({"train": [0, 1], "test": [1]})
    import_dataset(dataset, tmp_path, ["test"])
    with StoreWriter(tmp_path / "test", [corridor]), pytest.raises(ValueError, match="is being written by process"):
        import_dataset(dataset, tmp_path)
    assert not (tmp_path / "train").exists()


def test_a_split_without_episodes_and_a_file_in_a_folder_s_place_are_refused_first(source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no episode in its split 'test'"):
        import_dataset(source({"train": [0], "test": []}), tmp_path / "out")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ValueError, match="file' is a file, so there can be no store in"):
            import_dataset(source({"train": [0]}), out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_refusal_at_the_first_episode_leaves_no_folder(source, tmp_path: Path) -> None:
    for out in (tmp_path / "a" / "b", tmp_path / "a"):
        with pytest.raises(ValueError, match="'cell' is empty"):
            import_dataset(source({"train": ["bad", 1]}), out)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("stays")
    with pytest.raises(ValueError):
        import_dataset(source({"train": ["bad", 1]}), tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_a_split_that_was_written_stays_where_the_next_one_is_refused(source, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        import_dataset(source({"train": [0, 1], "test": ["bad"]}), tmp_path)
    assert cells(tmp_path / "train") == [0, 1] and not (tmp_path / "test").exists()


def test_a_collection_without_an_episode_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises((ValueError, RuntimeError), match="no plan|failed"):
        collect(CollectConfig(["toy/corridor"], episodes=2, workers=0, out=tmp_path / "out", expert="test_import_state:Broken"))
    assert list(tmp_path.iterdir()) == []


class Broken:
    """An expert that fails at once."""

    def reset(self, env) -> None:
        raise ValueError("no plan")

    def act(self, env, observation):
        raise ValueError("no plan")


def test_a_writer_that_is_refused_leaves_no_folder_and_one_that_is_not_an_empty_store(corridor, walk, tmp_path: Path) -> None:
    with pytest.raises(KeyError), StoreWriter(tmp_path / "a" / "b", [corridor]):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with StoreWriter(tmp_path / "a", [corridor]):
        pass
    assert Store(tmp_path / "a").num_episodes == 0
    with pytest.raises(KeyError), StoreWriter(tmp_path / "a", [corridor]) as writer:
        writer.append(walk([0], [1]))
        raise KeyError
    assert Store(tmp_path / "a").num_episodes == 1
