"""Faults: whatever happens to a store or its writer, the place is named, and no episode that was complete is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gato.cli import main
from gato.data.documents import TokenisedText
from gato.data.shards.journal import JOURNAL_NAME
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.lock import LOCK_NAME
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.words import document_task

ROOT = Path(__file__).resolve().parents[1]
POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL and resource limits")

COUNT = TaskSpec(
    "toy/count",
    (
        FieldSpec("step", Modality.CONTINUOUS, "observation", dtype="float64"),
        FieldSpec("push", Modality.DISCRETE, "action", dtype="int64", low=(0,), high=(1,)),
    ),
)


def count(length: int, first: float = 0, **changes) -> Episode:
    """Observes first, first + 1, ... and is rewarded with 1 each time."""
    values = {
        "steps": np.arange(first, first + length),
        "push": np.zeros(length, np.int64),
        "rewards": np.ones(length, np.float32),
    } | changes
    return Episode(COUNT, {"step": values["steps"]}, {"push": values["push"]}, values["rewards"])


def write(folder: Path, *episodes: Episode) -> Path:
    with StoreWriter(folder, [COUNT], {"url": "here"}) as writer:
        for episode in episodes:
            writer.append(episode)
    return folder


def as_killed(folder: Path, left: Path, *episodes: Episode) -> Path:
    """What a writer of these episodes leaves in `left` if it is killed now."""
    writer = StoreWriter(folder, [COUNT], {"url": "here"})
    for episode in episodes:
        writer.append(episode)
    shutil.copytree(folder, left)
    (left / LOCK_NAME).unlink()
    writer.close()
    return left


def firsts(folder: Path) -> list[float]:
    store = Store(folder)
    store.validate()
    return [float(store.episode(i).observations["step"][0]) for i in range(store.num_episodes)]


# -- damaged files ---------------------------------------------------------------------------------


def store_of(kind: str, folder: Path) -> list[Path]:
    """A store of documents with their token ids, or one whose writer was killed; and its files."""
    if kind == "killed":
        write(folder, count(3))
        as_killed(folder, folder.with_name("left"), count(4), count(2))
        folder = folder.with_name("left")
    else:
        task = document_task("text/toy")
        with StoreWriter(folder, [task]) as writer:
            for text in ("a cat", "two dogs", "öffne"):
                writer.append(Episode(task, {}, {"text": np.array([text], object)}, np.zeros(1, np.float32), terminated=True))
        TokenisedText.open(Store(folder), lambda texts: [[*text.encode(), 0] for text in texts], "bytes")
    Store(folder).validate()
    return sorted(folder.iterdir())


def assert_found(file: Path, places: Iterable[int]) -> None:
    original, rng = file.read_bytes(), np.random.default_rng(0)
    for place in places:
        content = bytearray(original)
        content[place] ^= 1 << int(rng.integers(8))
        file.unlink()  # the old file may still be mapped
        file.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            Store(file.parent).validate()
        line = str(caught.value)
        assert str(file) in line and "\n" not in line, f"byte {place} of {file.name}: {line}"
    file.unlink()
    file.write_bytes(original)


@pytest.mark.parametrize("kind", ["documents", "killed"])
def test_a_flipped_bit_is_found_in_every_file(tmp_path, kind):
    files = store_of(kind, tmp_path / "store")
    assert {f.name.split("-")[0] for f in files} >= {
        "manifest.json",
        "timesteps",
        "episodes",
        "tokens" if kind == "documents" else "journal",
    }
    for file in files:
        size = file.stat().st_size
        assert_found(file, [0, size - 1, *np.random.default_rng(1).integers(0, size, 60)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["documents", "killed"])
def test_a_flipped_bit_is_found_in_every_byte_of_every_file(tmp_path, kind):
    for file in store_of(kind, tmp_path / "store"):
        assert_found(file, range(file.stat().st_size))


@pytest.mark.parametrize("name", ["manifest.json", "timesteps-00000.arrow", "episodes-00000.arrow"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_every_cut_is_found_when_the_store_is_opened(tmp_path, name, share):
    path = write(tmp_path, count(3)) / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=name):
        Store(tmp_path)


def test_validate_goes_on_after_a_damaged_store_and_ends_with_one(tmp_path, capsys):
    good, bad = write(tmp_path / "good", count(3)), write(tmp_path / "bad", count(3))
    shard = bad / "timesteps-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert main(["data", "validate", str(bad), str(good)]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{good}: 1 episodes, 3 timesteps, all valid\n"
    assert captured.err.startswith(f"gato: shard {shard} has SHA-256") and captured.err.count("\n") == 1
    assert main(["data", "validate", str(tmp_path / "nowhere")]) == 2


# -- values that are no episode ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steps": np.where(np.arange(110_000) == 100_001, np.nan, 0.0)}, "observation 'step' at timestep 100001 is not finite"),
        ({"rewards": np.where(np.arange(110_000) == 100_001, np.inf, 0.0)}, "the reward at timestep 100001 is not finite"),
        ({"push": (np.arange(110_000) == 100_001) * 2}, "action 'push' at timestep 100001 is 2, outside [0, 1]"),
        ({"push": np.zeros(110_000)}, "action 'push' has dtype float64, expected int64"),
        ({"steps": np.zeros((110_000, 2))}, "observation 'step' has shape (2,), expected ()"),
        ({"steps": np.zeros(100_001)}, "observation 'step' has 100001 timesteps but the rewards have 110000"),
    ],
)
def test_a_bad_value_in_a_late_row_is_named_and_what_came_before_is_kept(tmp_path, changes, line):
    with pytest.raises(ValueError) as caught, StoreWriter(tmp_path, [COUNT]) as writer:
        writer.append(count(3))
        writer.append(count(110_000, **changes))
    assert line in str(caught.value)
    assert firsts(tmp_path) == [0]


def test_an_episode_may_have_one_timestep_but_not_none(tmp_path):
    assert firsts(write(tmp_path, count(1, first=7))) == [7]
    with pytest.raises(ValueError, match="an episode of no timesteps; leave it out of the source"):
        count(0)


# -- killed writers ----------------------------------------------------------------------------------


def test_the_episodes_of_a_killed_writer_are_there_for_the_next_one(tmp_path, caplog):
    left = as_killed(tmp_path / "a", tmp_path / "left", count(3, first=10), count(2, first=20))
    assert Store(left).num_episodes == 0  # readers see finished shards
    with StoreWriter(left, [COUNT]) as writer:
        assert writer.num_episodes == 2 and "its 2 unfinished episodes are kept" in caplog.text
        writer.append(count(1, first=30))
    assert firsts(left) == [10, 20, 30]
    assert not (left / JOURNAL_NAME).exists()


def test_a_journal_cut_anywhere_keeps_all_complete_episodes(tmp_path):
    left = as_killed(tmp_path / "a", tmp_path / "left", count(2, first=10))
    one = (left / JOURNAL_NAME).stat().st_size
    left = as_killed(tmp_path / "b", tmp_path / "two", count(2, first=10), count(2, first=20))
    content = (left / JOURNAL_NAME).read_bytes()
    for size in {0, 1, 59, 60, 61, one - 1, one, one + 1, one + 23, one + 24, one + 25, len(content) - 1, len(content)}:
        (left / JOURNAL_NAME).write_bytes(content[:size])
        folder = Path(shutil.copytree(left, tmp_path / f"cut {size}"))
        StoreWriter(folder, [COUNT]).close()
        assert firsts(folder) == [10, 20][: (size >= one) + (size == len(content))]


def test_a_journal_damaged_in_the_middle_keeps_the_episodes_before_it_and_says_so(tmp_path, caplog):
    left = as_killed(tmp_path / "a", tmp_path / "left", *(count(2, first=k) for k in range(3)))
    content = bytearray((left / JOURNAL_NAME).read_bytes())
    content[len(content) // 2] ^= 1  # in the second of three
    (left / JOURNAL_NAME).write_bytes(content)
    StoreWriter(left, [COUNT]).close()
    assert firsts(left) == [0]
    assert "episode 1: its values do not have their checksum; it and what follows" in caplog.text


def test_a_writer_killed_after_its_shard_is_finished_does_not_store_it_twice(tmp_path):
    left = as_killed(tmp_path / "a", tmp_path / "left", count(2))
    shutil.copy(left / JOURNAL_NAME, tmp_path / "a")  # the shard is in the manifest now, the journal not yet removed
    StoreWriter(tmp_path / "a", [COUNT]).close()
    assert firsts(tmp_path / "a") == [0]


def test_a_lost_manifest_and_an_old_one_cost_no_shard(tmp_path):
    manifest = write(tmp_path, count(3)) / "manifest.json"
    before = manifest.read_bytes()
    write(tmp_path, count(4, first=10))
    newest, shards = manifest.read_bytes(), sorted(tmp_path.glob("*.arrow"))
    for content, shard in ((before, "episodes-00001.arrow"), (None, "episodes-00000.arrow")):
        manifest.unlink()
        if content:
            manifest.write_bytes(content)
        with pytest.raises(ValueError, match=rf"shard .*{shard} is there, but .*manifest.json does not name it; restore the newest"):
            StoreWriter(tmp_path, [COUNT])
        assert sorted(tmp_path.glob("*.arrow")) == shards and not (tmp_path / LOCK_NAME).exists()
    manifest.write_bytes(newest)
    assert firsts(tmp_path) == [0, 10]


TELLING = """
import sys
from gato.data.store import StoreWriter
from tests.test_faults import COUNT, count
writer = StoreWriter(sys.argv[1], [COUNT])
for k in range(10**9):
    writer.append(count(20, first=k))
    print(k, flush=True)
"""


@POSIX_ONLY
def test_what_a_writer_said_it_had_survives_sigkill(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", TELLING, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    told = [int(child.stdout.readline()) for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    told += [int(line) for line in child.stdout.read().splitlines()]
    child.wait()
    StoreWriter(tmp_path, [COUNT]).close()
    kept = firsts(tmp_path)
    assert kept[: len(told)] == told and len(kept) - len(told) in (0, 1)  # one may be stored and not yet told


COLLECT = """
import resource, sys
if int(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from gato.cli import main
sys.exit(main(["data", "collect", "toy/corridor", "--episodes", sys.argv[2], "--out", sys.argv[3]]))
"""


def collect(folder: Path, episodes: int, limit: int = 0, **rest) -> subprocess.Popen:
    """A real collector; its files may not grow beyond `limit` bytes."""
    pytest.importorskip("gymnasium", reason="needs the extra 'gym'")
    arguments = [sys.executable, "-c", COLLECT, str(limit), str(episodes), str(folder)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **rest)


@POSIX_ONLY
def test_a_full_disk_while_collecting_costs_nothing_that_was_complete(tmp_path):
    refused = collect(tmp_path, 60, limit=40_000)
    _, errors = refused.communicate()
    assert refused.returncode == 2 and errors.splitlines()[-1].startswith("gato: "), errors
    assert "complete episodes are safe; make room and run the same command again" in errors.splitlines()[-1]
    folder = tmp_path / "toy" / "corridor"
    assert 5 < Store(folder).num_episodes < 60 and not list(folder.glob("*.tmp"))
    assert collect(tmp_path, 60).wait() == 0
    assert Store(folder).num_episodes == 60 and len({Store(folder).episode(i).seed for i in range(60)}) == 60
    assert main(["data", "validate", str(folder)]) == 0


@POSIX_ONLY
def test_a_killed_collection_goes_on_with_the_next_episode(tmp_path):
    child, journal = collect(tmp_path, 10**6), tmp_path / "toy" / "corridor" / JOURNAL_NAME
    while child.poll() is None and not (journal.exists() and journal.stat().st_size > 20_000):
        pass
    second = collect(tmp_path, 10)
    assert second.wait() == 2 and f"is being written by process {child.pid} on host" in second.stderr.read()
    child.kill()
    child.communicate()
    kept = StoreWriter(journal.parent, Store(journal.parent).tasks)
    kept.close()
    assert kept.num_episodes > 5
    assert collect(tmp_path, kept.num_episodes + 3).wait() == 0
    store = Store(journal.parent)
    assert store.num_episodes == kept.num_episodes + 3
    assert len({store.episode(i).seed for i in range(store.num_episodes)}) == store.num_episodes
    assert json.loads((journal.parent / "manifest.json").read_text())["provenance"]["collected"]["episodes"] == store.num_episodes


IMPORT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
from gato.cli import main
sys.exit(main(["data", "import", "text", sys.argv[1], "--out", sys.argv[2]]))
"""


@POSIX_ONLY
def test_a_full_disk_while_importing_costs_nothing_that_was_complete(tmp_path):
    (tmp_path / "words.txt").write_text("\n\n".join(f"document {i} " + "word " * 200 for i in range(100)))
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, tmp_path / "words.txt", tmp_path / "out", "60000"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "complete episodes are safe" in done.stderr.splitlines()[-1], done.stderr
    assert main(["data", "import", "text", str(tmp_path / "words.txt"), "--out", str(tmp_path / "out")]) == 0
    store = Store(tmp_path / "out" / "train")
    texts = [str(store.episode(i).actions["text"][0]) for i in range(store.num_episodes)]
    assert [text.split()[1] for text in texts] == [str(i) for i in range(100)]


@POSIX_ONLY
def test_a_disk_that_is_full_from_the_start_is_named_and_nothing_is_left_locked(tmp_path):
    (tmp_path / "words.txt").write_text("a cat")
    command = [sys.executable, "-c", IMPORT, tmp_path / "words.txt", tmp_path / "out", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"gato: {tmp_path / 'out' / 'train'}: "), done.stderr
    assert done.stderr.endswith("make room and run the same command again\n") and done.stderr.count("\n") == 1
    assert list((tmp_path / "out" / "train").iterdir()) == []


EXPORT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
from gato.cli import main
sys.exit(main(["data", "export", sys.argv[1], sys.argv[2], sys.argv[3]]))
"""


@POSIX_ONLY
@pytest.mark.parametrize("kind", ["jat", "lerobot"])
def test_a_full_disk_while_exporting_leaves_nothing_and_says_so(tmp_path, kind):
    write(tmp_path / "store", count(1000))
    command = [sys.executable, "-c", EXPORT, kind, str(tmp_path / "out"), str(tmp_path / "store")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and line.startswith(f"gato: {tmp_path / 'out'}: "), done.stderr
    assert "nothing is left of what was written; make room and run the same command again" in line
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_a_minari_export_stops_before_hdf5_meets_a_full_disk(tmp_path, monkeypatch, capsys):
    """HDF5 would end the process without a word, so the room is looked at before each episode."""
    pytest.importorskip("minari", reason="needs the extra 'minari'")
    write(tmp_path / "store", count(5))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=2**20))
    assert main(["data", "export", "minari", str(tmp_path / "out-v0"), str(tmp_path / "store")]) == 2
    assert "out-v0: No space left on device: nothing is left" in capsys.readouterr().err.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


# -- decompression bombs ---------------------------------------------------------------------------------

ZEROS = np.zeros(2**19, np.float32)
EQUAL = {"rewards": [ZEROS], "discrete_actions": [[0]], "continuous_observations": [[[0.0]]]}


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("jat", EQUAL),
        ("text", {"text": ["a cat", "a" * 2**21]}),
        ("pictures", {"image": [bytes(2**21)], "caption": ["nothing"]}),
    ],
)
def test_a_parquet_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, capsys, kind, columns):
    monkeypatch.setattr("gato.data.formats.parquet.BOMB_BYTES", 2**20)  # a real one need not be larger to be a test
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 6_000
    assert main(["data", "import", kind, str(path), "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"gato: {path}, row group 0: column '{next(iter(columns))}") and line.count("\n") == 1
    assert "bytes that would become" in line and "if it is no bomb, write it again with smaller row groups" in line
