"""The store: what is written is read back, and damage of any kind is named."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gato.data.store import Store, StoreWriter
from gato.data.stores import stores_folder
from gato.episode import Episode
from gato.lock import LOCK_NAME, FolderLock
from gato.spec import FieldSpec, Modality, TaskSpec

ROOT = Path(__file__).resolve().parents[1]

STEP = FieldSpec("step", Modality.CONTINUOUS, "observation", dtype="float64")
PUSH = FieldSpec("push", Modality.DISCRETE, "action", dtype="int64", low=(0,), high=(1,))
COUNTING = TaskSpec("toy/counting", (STEP, PUSH))

EVERYTHING = TaskSpec(
    "toy/everything",
    (
        FieldSpec("camera/front", Modality.IMAGE, "observation", (16, 32, 3), "uint8", path=("camera", "front")),
        FieldSpec("hint", Modality.TEXT, "observation", dtype="str", path=("hint",)),
        FieldSpec("joints", Modality.CONTINUOUS, "observation", (2, 3), "float64", path=("joints",)),
        FieldSpec("switches", Modality.DISCRETE, "observation", (2,), "bool", (0,), (1,), path=("switches",)),
        FieldSpec("speed", Modality.CONTINUOUS, "action", (1,), "float32", (-1.0,), (1.0,), path=("speed",)),
        FieldSpec("say", Modality.TEXT, "action", dtype="str", path=("say",)),
    ),
)


def counting(length: int, first: int = 0, **rest) -> Episode:
    """Observes first, first + 1, ...; is rewarded with 1 each time."""
    steps = np.arange(first, first + length, dtype=np.float64)
    return Episode(COUNTING, {"step": steps}, {"push": (steps % 2).astype(np.int64)}, np.ones(length, np.float32), **rest)


def everything(length: int, **rest) -> Episode:
    t = np.arange(length)
    observations = {
        "camera/front": np.broadcast_to(t[:, None, None, None], (length, 16, 32, 3)).astype(np.uint8),
        "hint": np.array([f"Öffne Tür {k} \x00" for k in t], object),
        "joints": np.arange(6.0 * length).reshape(length, 2, 3),
        "switches": np.stack([t % 2 == 0, t % 3 == 0], axis=1),
    }
    actions = {"speed": (t[:, None] / length).astype(np.float32), "say": np.array([""] * length, object)}
    return Episode(EVERYTHING, observations, actions, np.arange(length, dtype=np.float32), **rest)


def assert_same(found: Episode, expected: Episode) -> None:
    for mine, theirs in ((found.observations, expected.observations), (found.actions, expected.actions)):
        assert list(mine) == sorted(theirs)
        for name, values in theirs.items():
            assert mine[name].dtype == values.dtype
            np.testing.assert_array_equal(mine[name], values)
    np.testing.assert_array_equal(found.rewards, expected.rewards)


def write(path: Path, *episodes: Episode, **rest) -> Path:
    with StoreWriter(path, [episodes[0].task], **rest) as writer:
        for episode in episodes:
            writer.append(episode)
    return path


def test_every_modality_survives_the_round_trip(tmp_path):
    final = {"camera/front": np.full((16, 32, 3), 7, np.uint8), "hint": "Ende", "joints": np.ones((2, 3)), "switches": [1, 0]}
    final["switches"] = np.array([True, False])
    episode = everything(
        5, terminated=True, success=True, seed=3, behaviour="noisy", parameters={"goal": [1, "a"]}, final_observation=final
    )
    found = Store(write(tmp_path, episode, everything(2))).episode(0)
    assert_same(found, episode)
    assert (found.terminated, found.truncated, found.success, found.seed, found.behaviour) == (True, False, True, 3, "noisy")
    assert found.parameters == {"goal": [1, "a"]}
    assert found.final_observation["hint"] == "Ende"
    for name in ("camera/front", "joints", "switches"):
        np.testing.assert_array_equal(found.final_observation[name], final[name])


def test_what_an_episode_leaves_open_stays_open(tmp_path):
    final = {"step": np.float64(3.5)}
    store = Store(write(tmp_path, counting(3), counting(3, success=False, seed=0, final_observation=final)))
    first, second = store.episode(0), store.episode(1)
    assert (first.success, first.seed, first.final_observation) == (None, None, None)
    assert (second.success, second.seed, second.final_observation) == (False, 0, {"step": 3.5})


def test_the_index_counts_timesteps_and_returns(tmp_path):
    store = Store(write(tmp_path, counting(3), counting(1, behaviour="random"), counting(5)))
    assert (store.num_episodes, store.num_timesteps) == (3, 9)
    assert store.lengths.tolist() == [3, 1, 5]
    assert store.returns.tolist() == [3.0, 1.0, 5.0]
    assert store.behaviours.tolist() == ["expert", "random", "expert"]
    assert store.task_indices.tolist() == [0, 0, 0]


def test_a_window_is_a_slice_of_the_episode(tmp_path):
    store = Store(write(tmp_path, *(everything(n, truncated=True) for n in (7, 9))))
    whole, middle, end = store.episode(1), store.episode(1, 2, 6), store.episode(1, 6, 99)
    assert_same(middle, whole.window(2, 6))
    assert_same(end, whole.window(6, 9))
    assert (middle.truncated, end.truncated) == (False, True)


def test_a_window_may_cross_record_batches(tmp_path):
    store = Store(write(tmp_path, counting(4090), counting(10_000, first=5)))
    assert store.episode(1, 3, 9000).observations["step"].tolist() == list(range(8, 9005))
    with pa.memory_map(str(tmp_path / "timesteps-00000.arrow")) as file:
        reader = pa.ipc.open_file(file)
        assert [reader.get_batch(k).num_rows for k in range(reader.num_record_batches)] == [4096, 4096, 4096, 1802]


def test_a_window_inside_a_record_batch_is_a_read_only_view(tmp_path):
    steps = Store(write(tmp_path, counting(10))).episode(0, 2, 8).observations["step"]
    assert steps.base is not None
    assert not steps.flags.writeable


def test_an_empty_window_and_a_missing_episode_are_refused(tmp_path):
    store = Store(write(tmp_path, counting(3)))
    with pytest.raises(ValueError, match=r"the window 3 to 3 of an episode of 3 timesteps is empty"):
        store.episode(0, 3)
    with pytest.raises(IndexError, match=r"has 1 episodes, there is no number 1"):
        store.episode(1)


def test_the_writer_keeps_its_own_copy_of_the_values(tmp_path):
    episode = counting(3)
    with StoreWriter(tmp_path, [COUNTING]) as writer:
        writer.append(episode)
        episode.observations["step"][:] = -1
    assert Store(tmp_path).episode(0).observations["step"].tolist() == [0, 1, 2]


def test_a_value_that_the_column_cannot_hold_is_refused_and_nothing_of_it_is_kept(tmp_path):
    task = TaskSpec("toy/narrow", (FieldSpec("x", Modality.CONTINUOUS, "observation"), PUSH))
    push = {"push": np.zeros(2, np.int64)}
    with StoreWriter(tmp_path, [task]) as writer:
        writer.append(Episode(task, {"x": np.array([1.0, 2.0])}, push, np.zeros(2)))
        with pytest.raises(ValueError, match=r"episode 1: observation 'x' is 1e.300, which float32 cannot hold"):
            wide = {"x": np.array([1.0, 1e300])}  # an `Episode` refuses it, too
            writer.append(Episode.trusted(task=task, observations=wide, actions=push, rewards=np.zeros(2), parameters={}))
        assert writer.num_episodes == 1
    Store(tmp_path).validate()


def test_small_shards_split_between_episodes(tmp_path):
    store = Store(write(tmp_path, *(counting(100, first=k) for k in range(40)), shard_bytes=16_000))
    assert len(store.manifest.shards) == 5  # 8 episodes of 2,000 bytes each
    assert [store.episode(k).observations["step"][0] for k in range(40)] == list(range(40))
    store.validate()


def test_several_tasks_with_the_same_columns_share_a_store(tmp_path):
    other = TaskSpec("toy/other", (STEP, PUSH))
    episode = counting(2)
    with StoreWriter(tmp_path, [COUNTING, other]) as writer:
        writer.append(episode)
        writer.append(Episode(other, episode.observations, episode.actions, episode.rewards))
    store = Store(tmp_path)
    assert store.task_indices.tolist() == [0, 1]
    assert [store.episode(k).task.name for k in (0, 1)] == ["toy/counting", "toy/other"]


def test_tasks_with_other_columns_need_a_store_of_their_own(tmp_path):
    with pytest.raises(ValueError, match=r"need different columns .*'observation.hint'.*make one store per task"):
        StoreWriter(tmp_path, [COUNTING, EVERYTHING])


def test_a_writer_resumes_an_existing_store(tmp_path):
    write(tmp_path, counting(3), provenance={"by": "first", "url": "x"})
    with StoreWriter(tmp_path, [COUNTING], {"by": "second"}) as writer:
        assert writer.num_episodes == 1
        writer.append(counting(4))
        writer.provenance["rate"] = 12
    store = Store(tmp_path)
    assert store.lengths.tolist() == [3, 4]
    assert store.manifest.provenance == {"by": "second", "url": "x", "rate": 12}


def test_resuming_with_another_task_names_the_differences(tmp_path):
    write(tmp_path, counting(3))
    wider = TaskSpec("toy/counting", (STEP, FieldSpec("push", Modality.DISCRETE, "action", dtype="int64", low=(0,), high=(4,))))
    with pytest.raises(ValueError, match=r"action 'push' has high \[4\], expected \[1\]; use another folder"):
        StoreWriter(tmp_path, [wider])
    with StoreWriter(tmp_path, [COUNTING]):
        pass  # the refused writer gave the folder free


def test_measured_returns_may_be_added_later_and_are_not_forgotten(tmp_path):
    write(tmp_path, counting(3))
    StoreWriter(tmp_path, [COUNTING.with_returns(1.0, 9.0)]).close()
    StoreWriter(tmp_path, [COUNTING]).close()
    assert Store(tmp_path).tasks[0].expert_return == 9.0


def test_complete_episodes_survive_an_exception(tmp_path):
    with pytest.raises(RuntimeError), StoreWriter(tmp_path, [COUNTING]) as writer:
        writer.append(counting(3))
        raise RuntimeError("the simulator crashed")
    assert Store(tmp_path).num_episodes == 1


def test_a_shard_that_could_not_be_finished_costs_no_episode(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    with StoreWriter(tmp_path, [COUNTING]) as writer:
        writer.append(counting(3))
        writer.flush()
        writer.append(counting(4))
        with monkeypatch.context() as patch, pytest.raises(OSError, match=r"No space left"):
            patch.setattr(os, "replace", no_space)
            writer.flush()
        writer.append(counting(5))
    store = Store(tmp_path)
    store.validate()
    assert store.lengths.tolist() == [3, 4, 5]
    assert not list(tmp_path.glob("*.tmp"))


def test_two_writers_in_one_folder_are_refused(tmp_path):
    with StoreWriter(tmp_path, [COUNTING]) as writer:
        with pytest.raises(ValueError, match=f"being written by process {os.getpid()} on host"):
            StoreWriter(tmp_path, [COUNTING])
        writer.append(counting(1))
    assert not (tmp_path / LOCK_NAME).exists()


def test_the_lock_of_a_dead_process_is_explained_and_taken_over(tmp_path, caplog):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    StoreWriter(tmp_path, [COUNTING]).close()
    (tmp_path / LOCK_NAME).write_text(json.dumps({"host": os.uname().nodename, "pid": child.pid}))
    write(tmp_path, counting(2))
    assert f"process {child.pid} is gone" in caplog.text
    assert Store(tmp_path).num_episodes == 1


def test_the_lock_of_a_process_that_had_our_number_before_a_restart_is_taken_over(tmp_path, caplog):
    StoreWriter(tmp_path, [COUNTING]).close()
    (tmp_path / LOCK_NAME).write_text(json.dumps({"host": os.uname().nodename, "pid": os.getpid(), "nonce": "another"}))
    with StoreWriter(tmp_path, [COUNTING]) as writer:
        assert f"process {os.getpid()} is gone" in caplog.text
        with pytest.raises(ValueError, match=f"being written by process {os.getpid()} on host"):  # ours is not gone
            StoreWriter(tmp_path, [COUNTING])
        writer.append(counting(2))
    assert Store(tmp_path).num_episodes == 1 and not (tmp_path / LOCK_NAME).exists()


def test_a_lock_that_another_thread_is_just_making_is_not_taken_over(tmp_path, monkeypatch):
    """Its file is there, and a tenth of a second later its thread knows."""
    create, is_there, found = FolderLock._create, threading.Event(), []

    def slowly(lock: FolderLock) -> bool:
        is_made = create(lock)
        is_there.set()
        time.sleep(0.1 * is_made)
        return is_made

    monkeypatch.setattr(FolderLock, "_create", slowly)
    maker = threading.Thread(target=lambda: found.append(FolderLock(tmp_path)))
    maker.start()
    is_there.wait()
    with pytest.raises(ValueError, match=f"being written by process {os.getpid()} on host"):
        FolderLock(tmp_path)
    maker.join()
    found[0].release()
    assert not (tmp_path / LOCK_NAME).exists()


ENDLESS = """
import sys
from gato.data.store import StoreWriter
from tests.test_store import COUNTING, counting
writer = StoreWriter(sys.argv[1], [COUNTING], shard_bytes=30_000)
for k in range(10**9):
    writer.append(counting(50, first=k))
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_writer_leaves_a_store_that_can_be_read_and_continued(tmp_path):
    manifest, num_before = tmp_path / "manifest.json", 0
    for delay in (0.0, 0.013, 0.031):
        child = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], cwd=ROOT)
        deadline = time.monotonic() + 30
        while not (manifest.exists() and json.loads(manifest.read_text())["num_episodes"] > num_before + 100):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        store = Store(tmp_path)
        store.validate()
        num_before = store.num_episodes
    with StoreWriter(tmp_path, [COUNTING]) as writer:
        assert (num_kept := writer.num_episodes) >= num_before  # those of the journal are among them now
        names = {p.name for p in tmp_path.glob("*.arrow*")}
        assert names == Store(tmp_path).manifest.file_names  # leftovers are gone
        writer.append(counting(1, first=-7))
    assert Store(tmp_path).episode(num_kept).observations["step"].tolist() == [-7]


def test_a_flipped_bit_is_found_by_validate(tmp_path):
    shard = write(tmp_path, counting(100)) / "timesteps-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"timesteps-00000.arrow has SHA-256 .*, expected "):
        Store(tmp_path).validate()
    with pytest.raises(ValueError, match=r"its content changed"):
        Store(tmp_path, verify=True).episode(0)


def test_wrong_values_are_named_by_shard_episode_and_field(tmp_path):
    write(tmp_path, counting(2), counting(3))
    shard = tmp_path / "timesteps-00000.arrow"
    content = shard.read_bytes()
    assert content.count(np.float64(2).tobytes()) == 1
    shard.write_bytes(content.replace(np.float64(2).tobytes(), np.float64("nan").tobytes()))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["shards"][0]["timesteps"]["sha256"] = __import__("hashlib").sha256(shard.read_bytes()).hexdigest()
    del manifest["sha256"]  # of the manifest itself, which older releases did not write
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"timesteps-00000.arrow, episode 1: .*'step' at timestep 2 is not finite"):
        Store(tmp_path).validate()


def test_a_cut_or_missing_shard_is_found_at_open(tmp_path):
    shard = write(tmp_path, counting(100)) / "timesteps-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"timesteps-00000.arrow has \d+ bytes, expected \d+; it was cut or changed"):
        Store(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match=r"timesteps-00000.arrow is missing"):
        Store(tmp_path)


def test_a_folder_that_is_no_store_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no store at .*: the folder does not exist"):
        Store(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"there is no store at .*: it has no manifest.json"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "format version 2, but this release reads version 1"),
        ("format", "parquet", "is no manifest of a store"),
        ("tasks", [], "names no task"),
        ("tasks", [{"name": "a", "fields": [], "colour": 1}], r"unknown keys \['colour'\]"),
        ("timestep_batch_rows", 0, "timestep_batch_rows 0; expected a positive integer"),
        ("shards", [{"timesteps": {}}], "missing"),
        ("shards", 7, "not iterable"),
    ],
)
def test_a_foreign_manifest_is_refused_in_one_line(tmp_path, key, value, message):
    path = write(tmp_path, counting(2)) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=message) as caught:
        Store(tmp_path)
    assert "manifest.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../timesteps-00000.arrow", "/etc/hosts", "a/b.arrow", "..", "c:\\x", "http://x/y", ""])
def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path, name):
    path = write(tmp_path / "store", counting(2)) / "manifest.json"
    values = json.loads(path.read_text())
    values["shards"][0]["timesteps"]["file"] = name
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"a shard is a plain file name inside the store's folder"):
        Store(tmp_path / "store")


def test_a_manifest_that_promises_more_rows_than_there_are_is_refused(tmp_path):
    path = write(tmp_path, counting(2)) / "manifest.json"
    for rows, message in ((3, "has 2 rows, expected 3"), (10**15, "record batches")):
        values = json.loads(path.read_text())
        values["shards"][0]["timesteps"]["rows"] = rows
        path.write_text(json.dumps(values))
        with pytest.raises(ValueError, match=message):
            Store(tmp_path).episode(0)


def test_an_index_that_points_outside_the_shard_is_refused(tmp_path):
    write(tmp_path, counting(2))
    path = tmp_path / "episodes-00000.arrow"
    with pa.ipc.open_file(path.read_bytes()) as reader:
        table = reader.read_all()
    table = table.set_column(1, table.schema.field("length"), pa.array([2**62], pa.int64()))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    values = json.loads((tmp_path / "manifest.json").read_text())
    values["shards"][0]["episodes"]["bytes"] = path.stat().st_size
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"episode 0 of the shard claims rows 0 to 4611686018427387904"):
        Store(tmp_path).episode(0)


def test_no_flipped_byte_of_a_shard_does_worse_than_a_clear_error(tmp_path):
    """Without the hashes: the structure alone keeps reads inside the file."""
    write(tmp_path, everything(3, final_observation=None))
    rng = np.random.default_rng(0)
    for name in ("timesteps-00000.arrow", "episodes-00000.arrow"):
        original = (tmp_path / name).read_bytes()
        for place in rng.integers(0, len(original), 300):
            content = bytearray(original)
            content[place] ^= int(rng.integers(1, 256))
            (tmp_path / name).unlink()
            (tmp_path / name).write_bytes(content)
            try:
                Store(tmp_path).episode(0)
            except ValueError:
                pass
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(original)


def test_the_fingerprint_follows_data_and_tasks(tmp_path):
    first = Store(write(tmp_path / "a", counting(3)))
    again = Store(write(tmp_path / "b", counting(3), provenance={"note": "free"}))
    other = Store(write(tmp_path / "c", counting(4)))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.fingerprint == json.loads((tmp_path / "a" / "manifest.json").read_text())["fingerprint"]


def test_a_store_travels_to_a_worker_as_the_snapshot_it_was(tmp_path):
    store = Store(write(tmp_path, counting(3)))
    store.episode(0)
    sent = pickle.dumps(store)
    write(tmp_path, counting(4))
    assert len(sent) < 10_000
    assert pickle.loads(sent).num_episodes == 1
    assert pickle.loads(sent).fingerprint == store.fingerprint
    assert Store(tmp_path).num_episodes == 2


def test_spawned_loader_workers_read_the_same_episodes(tmp_path):
    from torch.utils.data import DataLoader

    store = Store(write(tmp_path, *(counting(k + 1) for k in range(6))))
    loader = DataLoader(Lengths(store), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert list(loader) == [1, 2, 3, 4, 5, 6]


class Lengths:
    """The lengths of a store's episodes, read in the worker."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return self.store.num_episodes

    def __getitem__(self, i: int) -> int:
        return self.store.episode(i).num_timesteps


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
def test_open_shards_hold_no_file_descriptors(tmp_path):
    store = Store(write(tmp_path, *(counting(100) for _ in range(40)), shard_bytes=16_000))
    before = len(os.listdir("/proc/self/fd"))
    kept = [store.episode(k) for k in range(40)]
    assert len(os.listdir("/proc/self/fd")) == before and len(kept) == 40


def test_a_store_without_episodes_opens(tmp_path):
    StoreWriter(tmp_path, [COUNTING]).close()
    store = Store(tmp_path)
    store.validate()
    assert (store.num_episodes, store.num_timesteps, store.lengths.tolist(), store.behaviours.tolist()) == (0, 0, [], [])


def test_plain_pyarrow_opens_the_shards(tmp_path):
    write(tmp_path, everything(3))
    with pa.memory_map(str(tmp_path / "timesteps-00000.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
        assert table["observation.joints"].to_pylist()[1] == [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
        assert table["reward"].to_pylist() == [0.0, 1.0, 2.0]
        assert "observation.camera/front" in table.schema.names


def test_datasets_opens_the_shards(tmp_path):
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "store", everything(3, success=True))
    shards = {kind: str(tmp_path / "store" / f"{kind}-00000.arrow") for kind in ("timesteps", "episodes")}
    timesteps = datasets.load_dataset("arrow", data_files=shards["timesteps"], split="train", cache_dir=str(tmp_path))
    assert timesteps[1]["observation.switches"] == [0, 0]
    assert timesteps[2]["observation.hint"] == "Öffne Tür 2 \x00"
    assert timesteps.with_format("numpy")[0:3]["observation.joints"].shape == (3, 6)
    episodes = next(iter(datasets.load_dataset("arrow", data_files=shards["episodes"], split="train", streaming=True)))
    assert (episodes["length"], episodes["return"], episodes["success"], episodes["seed"]) == (3, 3.0, True, None)


def test_datasets_reads_a_mapped_shard_without_a_copy(tmp_path):
    datasets = pytest.importorskip("datasets")
    write(tmp_path, counting(50))
    before = pa.total_allocated_bytes()
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "timesteps-00000.arrow"))).read_all()
    assert pa.total_allocated_bytes() - before < table.nbytes
    assert datasets.Dataset(table).with_format("numpy")[5:8]["observation.step"].tolist() == [5.0, 6.0, 7.0]


def test_the_place_of_stores_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    assert stores_folder() == tmp_path / "stores"
    monkeypatch.delenv("GATO_HOME")
    assert stores_folder().parts[-2:] == ("gato", "stores")


def test_the_store_needs_neither_torch_nor_gymnasium():
    code = "import sys, gato.data.store; assert not {'torch', 'gymnasium', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
