"""Own recordings: files that other tools write become the episodes that they hold, and what is wrong is named."""

import csv
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from gato.cli import main
from gato.data.formats.dataset import import_dataset
from gato.data.formats.recordings import arrays
from gato.data.formats.recordings.first_spec import first_spec
from gato.data.formats.recordings.reader import Recordings
from gato.data.store import Store
from gato.episode import Episode
from gato.spec import Modality

h5py = pytest.importorskip("h5py", reason="needs the extra 'hdf5'")

ROBOT = """
task: lab/reach
episodes: data/*
observations:
  joints: obs/joints
  camera: obs/camera
actions:
  motors: {key: actions, low: -1, high: 1}
reward: rewards
terminated: dones
"""


def spec(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text)
    return path


def imported(path: Path, text: str, split: str = "train") -> list[Episode]:
    """The episodes of a store made of the recordings."""
    out = path.parent / "stores"
    store = Store(import_dataset(Recordings(spec(path.parent, text)).open(path), out)[split])
    store.validate()
    return [store.episode(i) for i in range(store.num_episodes)]


def refused(path: Path, text: str) -> str:
    """The one line with which an import is refused."""
    with pytest.raises(ValueError) as caught:
        imported(path, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def robomimic(tmp_path: Path) -> Path:
    """Two demonstrations in groups, demo_10 before demo_2 in the alphabet; demo_N holds N in every joint."""
    path = tmp_path / "demo.hdf5"
    with h5py.File(path, "w") as file:
        for number, length in ((10, 3), (2, 4)):
            group = file.create_group(f"data/demo_{number}")
            group["obs/joints"] = np.full((length, 2), number, np.float64)
            group["obs/camera"] = np.full((length, 16, 16, 3), number, np.uint8)
            group["next_obs/joints"] = np.full((length, 2), number + 0.5)
            group["actions"] = np.linspace(-1, 1, length * 2, dtype=np.float32).reshape(length, 2)
            group["rewards"] = np.arange(length, dtype=np.float32)
            group["dones"] = np.arange(length) == length - 1
        file["mask/train"] = np.array([b"demo_2"])
    return path


def d4rl(path: Path) -> Path:
    """Seven rows: an episode of 2 that terminates, one of 3 that times out, and 2 rows without an end."""
    rows = np.arange(7)
    with h5py.File(path, "w") as file:
        file["observations"] = rows[:, None].astype(np.float32)
        file["next_observations"] = rows[:, None].astype(np.float32) + 1
        file["actions"] = np.zeros((7, 1), np.float32)
        file["rewards"] = np.ones(7, np.float32)
        file["terminals"], file["timeouts"] = rows == 1, rows == 4
    return path


FLAT = """
task: lab/flat
episodes: {ends: [terminals, timeouts]}
observations: {observation: {key: observations, next: next_observations}}
actions: {action: {key: actions, low: -1, high: 1}}
reward: rewards
terminated: terminals
truncated: timeouts
"""


# -- HDF5 ------------------------------------------------------------------------------------------


def test_a_field_may_be_measured_from_an_origin(robomimic):
    episode = imported(robomimic, ROBOT.replace("joints: obs/joints", "joints: {key: obs/joints, origin: [2, 0.5]}"))[0]
    (joints,) = [f for f in episode.task.observations if f.name == "joints"]
    assert joints.origin == (2.0, 0.5)
    assert episode.observations["joints"].tolist() == [[2, 2]] * 4  # as recorded


def test_groups_are_episodes_in_the_order_of_their_numbers(robomimic):
    first, second = imported(robomimic, ROBOT)
    assert first.observations["joints"].tolist() == [[2, 2]] * 4 and second.observations["joints"].tolist() == [[10, 10]] * 3
    assert first.actions["motors"][0].tolist() == [-1, pytest.approx(-5 / 7)]
    assert (first.total_reward, first.terminated, first.final_observation) == (6, True, None)
    assert first.parameters == {"recording": "demo.hdf5, data/demo_2"}


def test_kinds_shapes_and_dtypes_are_those_of_the_arrays(robomimic):
    camera, joints, motors = imported(robomimic, ROBOT)[0].task.fields
    assert (camera.modality, camera.shape, camera.resize) == (Modality.IMAGE, (16, 16, 3), "exact")
    assert (joints.modality, joints.shape, joints.dtype) == (Modality.CONTINUOUS, (2,), "float64")
    assert (motors.low, motors.high) == ((-1,), (1,))


def test_the_next_observations_give_the_final_one(robomimic):
    text = ROBOT.replace("joints: obs/joints", "joints: {key: obs/joints, next: next_obs/joints}").replace("  camera: obs/camera\n", "")
    assert imported(robomimic, text)[0].final_observation["joints"].tolist() == [2.5, 2.5]


def test_a_final_observation_must_be_whole(robomimic):
    text = ROBOT.replace("joints: obs/joints", "joints: {key: obs/joints, next: next_obs/joints}")
    assert "data/demo_2: the observations ['joints'] have a final one, but ['camera'] lack it" in refused(robomimic, text)


def test_flat_rows_are_divided_where_an_episode_ends(tmp_path):
    episodes = imported(d4rl(tmp_path / "flat.hdf5"), FLAT)
    assert [e.observations["observation"].ravel().tolist() for e in episodes] == [[0, 1], [2, 3, 4], [5, 6]]
    assert [(e.terminated, e.truncated) for e in episodes] == [(True, False), (False, True), (False, False)]
    assert [e.final_observation["observation"].tolist() for e in episodes] == [[2], [5], [7]]
    assert Store(tmp_path / "stores" / "train").manifest.provenance["episodes_without_an_end"] == 1


def test_an_end_in_the_middle_of_an_episode_is_no_end(tmp_path):
    line = refused(d4rl(tmp_path / "flat.hdf5"), FLAT.replace("episodes: {ends: [terminals, timeouts]}\n", ""))
    assert "'terminals' (terminated) is true at timestep 1 of 7; divide it there with 'episodes: {ends: [terminals]}'" in line


def test_an_instruction_is_a_constant_or_an_array(robomimic):
    assert imported(robomimic, ROBOT + "instruction: reach the cube")[0].observations["instruction"].tolist() == ["reach the cube"] * 4


def test_one_text_per_episode_holds_for_all_its_timesteps(robomimic):
    with h5py.File(robomimic, "a") as file:
        for name in ("demo_2", "demo_10"):
            file[f"data/{name}/language"] = f"do {name}"
    texts = [e.observations["instruction"].tolist() for e in imported(robomimic, ROBOT + "instruction: {key: language}")]
    assert texts == [["do demo_2"] * 4, ["do demo_10"] * 3]


@pytest.mark.parametrize("kind", ["external", "soft", "chain"])
def test_a_link_out_of_the_file_is_refused(robomimic, tmp_path, kind):
    d4rl(tmp_path / "other.hdf5")
    with h5py.File(robomimic, "a") as file:
        for name in ("demo_2", "demo_10"):
            del file[f"data/{name}/actions"]
            target = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "actions")
            file[f"data/{name}/there"] = target
            file[f"data/{name}/hop"] = h5py.SoftLink(f"/data/{name}/there")
            file[f"data/{name}/actions"] = {"external": target, "soft": h5py.SoftLink("there"), "chain": h5py.SoftLink("hop")}[kind]
    assert "leads to the file" in refused(robomimic, ROBOT)


def test_a_soft_link_inside_the_file_is_followed(robomimic):
    with h5py.File(robomimic, "a") as file:
        for name in ("demo_2", "demo_10"):
            file.move(f"data/{name}/actions", f"data/{name}/moved")
            file[f"data/{name}/actions"] = h5py.SoftLink(f"/data/{name}/moved")
    assert len(imported(robomimic, ROBOT)) == 2


def test_values_kept_in_another_file_are_refused(robomimic, tmp_path):
    (tmp_path / "raw").write_bytes(bytes(64))
    with h5py.File(robomimic, "a") as file:
        del file["data/demo_2/actions"]
        file["data/demo_2"].create_dataset("actions", (4, 2), "float32", external=[(str(tmp_path / "raw"), 0, 64)])
    assert "'data/demo_2/actions' keeps its values in other files" in refused(robomimic, ROBOT)


def test_a_size_that_is_only_declared_is_refused_before_it_is_read(robomimic):
    with h5py.File(robomimic, "a") as file:
        del file["data/demo_2/actions"]
        file["data/demo_2"].create_dataset("actions", (2**40, 2), "float32", chunks=(1024, 2))  # nothing is written
    text = "task: lab/reach\nepisodes: data/*\nactions: {motors: {key: actions, low: -1, high: 1}}"
    assert f"'data/demo_2/actions' has {2**43} bytes in one piece" in refused(robomimic, text)


# -- NPZ -------------------------------------------------------------------------------------------

ARRAYS = """
task: lab/arrays
observations: {state: state}
actions: {action: {key: action, infer: true}}
"""


def save(folder: Path, lengths: list[int], **rest) -> Path:
    """Episode i of the folder is i.npz; its states count from 0 and it has one more of them than actions."""
    folder.mkdir(exist_ok=True)
    for i, length in enumerate(lengths):
        values = {"state": np.arange(length + 1.0), "action": np.full((length, 1), i, np.float32), **rest}
        np.savez_compressed(folder / f"{i}.npz", **values)
    return folder


def test_files_of_a_folder_are_episodes_and_a_row_more_is_the_final_observation(tmp_path):
    episodes = imported(save(tmp_path / "runs", [2] * 11), ARRAYS)
    assert [e.actions["action"][0, 0] for e in episodes] == list(range(11))  # 10.npz after 9.npz
    assert episodes[0].observations["state"].tolist() == [0, 1] and episodes[0].final_observation["state"] == 2


def test_a_measured_range_is_written_into_the_manifest(tmp_path):
    task = imported(save(tmp_path / "runs", [2, 3, 4]), ARRAYS)[0].task
    assert (task.actions[0].low, task.actions[0].high) == ((0,), (2,))
    provenance = Store(tmp_path / "stores" / "train").manifest.provenance
    assert provenance["inferred_ranges"] == {"action action": {"low": [0.0], "high": [2.0]}}
    assert provenance["rewards"] == "none recorded; all zero"


def test_shares_divide_the_episodes_evenly(tmp_path):
    text = ARRAYS + "split: {train: 0.8, held_out: 0.2}"
    assert len(imported(save(tmp_path / "runs", [1] * 10), text)) == 8
    assert Store(tmp_path / "stores" / "held_out").num_episodes == 2


def test_an_interrupted_import_goes_on(tmp_path):
    dataset = Recordings(spec(tmp_path, ARRAYS)).open(save(tmp_path / "runs", [1, 2, 3]))
    broken = np.load(tmp_path / "runs" / "2.npz")
    content = (tmp_path / "runs" / "2.npz").read_bytes()
    (tmp_path / "runs" / "2.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2.npz is no readable NPZ file"):
        import_dataset(dataset, tmp_path / "stores")
    assert Store(tmp_path / "stores" / "train").num_episodes == 2 and broken
    (tmp_path / "runs" / "2.npz").write_bytes(content)
    import_dataset(dataset, tmp_path / "stores")
    assert Store(tmp_path / "stores" / "train").lengths.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"state": np.arange(5.0)}, "observation 'state' ('state') has 5 rows but the actions have 2"),
        ({"state": np.array([0, np.nan])}, "observation 'state' at timestep 1 is not finite"),
        ({"action": np.zeros((0, 1), np.float32)}, "'action' has no timesteps; leave the episode out"),
        ({"state": np.array([{}, {}])}, "'state' holds Python objects, which would have to be unpickled"),
        ({"state": np.zeros((2, 3))}, "observation 'state' has shape (3,), expected ()"),
        ({"state": np.array([0j, 1j])}, "'state' has dtype complex128"),
    ],
)
def test_what_is_wrong_in_a_later_file_is_named_with_it(tmp_path, changed, line):
    text = ARRAYS.replace("infer: true", "low: -1, high: 1")
    folder = save(tmp_path / "runs", [2])
    np.savez(folder / "1.npz", **{"state": np.arange(2.0), "action": np.zeros((2, 1), np.float32)} | changed)
    assert (found := refused(folder, text)).startswith(str(folder / "1.npz")) and line in found
    assert Store(tmp_path / "stores" / "train").num_episodes == 1  # the episode before it


def test_an_empty_first_file_is_named_and_not_the_spec(tmp_path):
    assert refused(save(tmp_path / "runs", [0, 2]), ARRAYS).startswith(f"{tmp_path / 'runs' / '0.npz'}: 'action' has no timesteps")


def test_a_missing_array_is_answered_with_the_nearest(tmp_path):
    line = refused(save(tmp_path / "runs", [2, 2]), ARRAYS.replace("state: state", "state: stat"))
    assert line.endswith("0.npz has no array 'stat'; did you mean 'state'?")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_BYTES", 2**20)
    folder = save(tmp_path / "runs", [2], action=np.zeros((2**22, 1), np.float32))
    assert (folder / "0.npz").stat().st_size < 2**15
    text = ARRAYS.replace("observations: {state: state}\n", "")
    assert f"'action' has {2**24} bytes in one piece, more than {2**20}" in refused(folder, text)


def test_a_member_whose_path_leads_out_of_the_archive_is_read_in_place(tmp_path):
    folder = save(tmp_path / "runs", [2])
    with zipfile.ZipFile(folder / "0.npz", "a") as file:
        file.writestr("../../action.npy", file.read("action.npy"))
    before = set(tmp_path.rglob("*"))
    assert len(imported(folder, ARRAYS.replace("{key: action, infer: true}", "{key: ../../action, low: -1, high: 1}"))) == 1
    assert {p.name for p in set(tmp_path.rglob("*")) - before}.isdisjoint({"action.npy"})


def test_an_array_that_says_it_is_larger_than_its_file_is_refused(tmp_path):
    folder = save(tmp_path / "runs", [2])
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1), }\n"
    with zipfile.ZipFile(folder / "0.npz", "w") as file:
        file.writestr("action.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8))
    assert "says it has shape (1000000000000, 1) of float32, but the archive holds 8 bytes" in refused(folder, ARRAYS)


# -- CSV -------------------------------------------------------------------------------------------

TABLE = """
task: lab/table
episodes: {key: episode}
observations:
  arm: [x, y]
  phase: {key: phase, low: 0, high: 9}
instruction: {key: goal}
actions:
  push: {key: push, low: -1, high: 1}
reward: score
terminated: done
split: {key: part}
"""


def table(path: Path, num_episodes: int = 3, length: int = 2, changes: Mapping[int, dict] = MappingProxyType({})) -> Path:
    """Rows of episode i: x = i, y counts; episode 2 is for testing."""
    names = ["episode", "x", "y", "phase", "goal", "push", "score", "done", "part"]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in range(num_episodes * length):
            i, t = divmod(row, length)
            values = (f"run {i}", i, t / 2, t % 10, f"goal {i}", 0.5, 1.5, t == length - 1, "test" if i == 2 else "train")
            writer.writerow(dict(zip(names, values, strict=True)) | changes.get(row, {}))
    return path


def test_rows_of_the_same_key_are_an_episode(tmp_path):
    first, second = imported(table(tmp_path / "log.csv"), TABLE)
    assert second.observations["arm"].tolist() == [[1, 0], [1, 0.5]]
    assert second.observations["phase"].tolist() == [0, 1] and second.observations["instruction"].tolist() == ["goal 1"] * 2
    assert (second.actions["push"].tolist(), second.total_reward, second.terminated) == ([0.5, 0.5], 3.0, True)
    assert Store(tmp_path / "stores" / "test").episode(0).observations["arm"][0].tolist() == [2, 0]
    assert first.task.observations[2].dtype == "int64"


@pytest.mark.parametrize(
    ("row", "changes", "line"),
    [
        (110_001, {"x": "far"}, "line 110003, column 'x' holds 'far', expected a whole number"),
        (110_001, {"x": ""}, "line 110003, column 'x' is empty or not a number"),
        (110_001, {"x": "nan"}, "line 110003, column 'x' is empty or not a number"),
        (110_001, {"y": "inf"}, "observation 'arm' at timestep 1 is not finite"),
        (110_001, {"push": 1.5}, "action 'push' at timestep 1 is 1.5, outside [-1, 1]"),
        (110_000, {"done": True}, "'done' (terminated) is true at timestep 0 of 10000"),
        (110_001, {"episode": "run 3"}, "line 110003: episode 'run 3' of 'episode' begins a second time"),
    ],
)
def test_what_is_wrong_in_a_late_row_is_named_with_it(tmp_path, row, changes, line):
    found = refused(table(tmp_path / "log.csv", 12, 10_000, {row: changes}), TABLE)
    assert line in found and str(tmp_path / "log.csv") in found
    assert "rows 110000 to 119999" in found or "line 110003" in found  # the header is the first


def test_a_word_among_numbers_does_not_make_a_text_of_them(tmp_path):
    path = table(tmp_path / "log.csv", changes={3: {"x": "far"}})
    assert "observation 'arm': ['x'] hold text, and several values of a timestep cannot be text" in refused(path, TABLE)
    line = refused(path, TABLE.replace("arm: [x, y]", "arm: {key: [x, y], modality: continuous}"))
    assert str(path) in line and "line 5, column 'x' holds 'far', expected a number" in line  # the header is the first
    path = table(tmp_path / "log.csv", changes={4: {"push": "left"}})
    assert "action 'push' holds text but has a range; 'modality: continuous' finds the row" in refused(path, TABLE)


def test_a_row_of_too_few_cells_is_named(tmp_path):
    path = table(tmp_path / "log.csv")
    path.write_text(path.read_text() + "run 9,1,2\n")
    assert "line 8 has 3 cells, but there are 9 columns; repair the row" in refused(path, TABLE)


def test_a_single_file_is_a_single_episode(tmp_path):
    text = "task: lab/table\nobservations: {arm: [x, y]}\nactions: {push: {key: push, low: -1, high: 1}}"
    assert [e.num_timesteps for e in imported(table(tmp_path / "log.csv"), text)] == [6]


FILMED = """
task: lab/filmed
episodes: {key: episode}
observations: {camera: camera}
actions: {push: {key: push, low: -1, high: 1}}
"""


def filmed(folder: Path, names: Sequence[str] = ("frames/0.png", "frames/1.PNG")) -> Path:
    """A table of one episode, and beside it a folder with two pictures: a black one and a white one."""
    (folder / "frames").mkdir()
    for name, colour in (("0.png", "black"), ("1.PNG", "white")):
        Image.new("RGB", (24, 16), colour).save(folder / "frames" / name)
    (folder / "log.csv").write_text("episode,camera,push\n" + "".join(f"7,{name},0.5\n" for name in names))
    return folder / "log.csv"


def test_a_column_that_names_picture_files_holds_the_pictures(tmp_path):
    path = filmed(tmp_path)
    assert "{key: camera, modality: image}  # encoded pictures" in Recordings().first_spec(path)
    (episode,) = imported(path, FILMED)
    assert episode.observations["camera"].shape == (2, 16, 24, 3)
    assert [int(picture.mean()) for picture in episode.observations["camera"]] == [0, 255]


def test_names_of_picture_files_stay_words_where_a_text_is_asked_for(tmp_path):
    (episode,) = imported(filmed(tmp_path), FILMED.replace("camera: camera", "camera: {key: camera, modality: text}"))
    assert episode.observations["camera"].tolist() == ["frames/0.png", "frames/1.PNG"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("frames/2.png", "frames/2.png cannot be read: No such file or directory; copy it there, or say 'modality: text'"),
        ("../frames/0.png", "which does not lie below"),
        ("frames", "cannot be read: Is a directory"),
    ],
)
def test_a_picture_that_is_not_beside_its_table_is_named_with_the_line(tmp_path, name, fault):
    found = refused(filmed(tmp_path, ["frames/0.png", name]), FILMED)
    assert f"line 3, column 'camera' names the picture '{name}'" in found and fault in found


def test_actions_are_clipped_and_counted_where_asked(tmp_path):
    path = table(tmp_path / "log.csv", changes={1: {"push": 7}})
    first = imported(path, TABLE + "clip_actions: true")[0]
    assert first.actions["push"].tolist() == [0.5, 1.0] and first.parameters["clipped_actions"] == 1


# -- the spec --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("reward:", "rewrd:", "there is no key 'rewrd'; did you mean 'reward'?"),
        ("low: -1", "lwo: -1", "there is no key 'actions.motors.lwo'; did you mean 'low'?"),
        ("low: -1", "low: much", "'actions.motors.low' is 'much', expected a number or a list"),
        ("low: -1", "low: [a]", "'actions.motors.low' is ['a'], expected numbers in the list"),
        (", low: -1, high: 1", "", "action field 'motors' is continuous but its range is not finite"),
        ("task: lab/reach", "", "lacks the key 'task'"),
        ("terminated: dones", "behaviour: wizard", "'behaviour' is 'wizard', expected one of expert"),
        ("episodes: data/*", "episodes: {end: dones}", "'episodes' is {'end': 'dones'}, expected a pattern"),
        ("episodes: data/*", "episodes: runs/*", "demo.hdf5 holds no episode in 'runs/*': no group of it is named so"),
        ("obs/camera", "{low: 1}", "'observations.camera' needs either a key or a text"),
        ("obs/camera", "{key: obs/camera, modality: sound}", "observation 'camera' has modality 'sound', expected one of text"),
        ("terminated: dones", "split: {'../x': 1}", "'split' is {'../x': 1}, expected shares above zero by name"),
    ],
)
def test_a_mistake_in_the_spec_is_answered_in_one_line(robomimic, old, new, line):
    assert line in refused(robomimic, ROBOT.replace(old, new))


def test_a_continuous_action_without_a_range_is_told_what_to_do(robomimic):
    line = refused(robomimic, ROBOT.replace(", low: -1, high: 1", ""))
    assert line.startswith(str(robomimic.parent / "spec.yaml")) and line.endswith("or say 'infer: true'")


def test_the_same_recordings_under_another_spec_need_another_folder(robomimic):
    imported(robomimic, ROBOT)
    assert "already holds 2 episodes of another source" in refused(robomimic, ROBOT.replace("reward: rewards\n", ""))


@pytest.mark.parametrize("kind", ["robomimic", "flat", "csv", "npz"])
def test_without_a_spec_one_is_printed_that_imports_the_file(robomimic, tmp_path, capsys, kind):
    path = {"robomimic": robomimic, "flat": tmp_path / "flat.h5", "csv": tmp_path / "log.csv", "npz": tmp_path / "runs"}[kind]
    if kind == "flat":
        with h5py.File(d4rl(path), "a") as file:
            file["actions"][0] = 1  # else there is no range to be measured
    if kind == "csv":
        table(path, changes={0: {"push": 0.25}}).write_text(path.read_text().replace("push", "action_0"))
    if kind == "npz":
        save(path, [2, 2])
    assert main(["data", "import", "recordings", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# ") and len(imported(path, printed)) >= 2


def test_the_command_imports_and_refuses(robomimic, tmp_path, capsys):
    arguments = ["data", "import", "recordings", str(robomimic), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "actions (4, 2) float32" in captured.err and f"recordings {robomimic} > spec.yaml' prints one" in captured.err
    assert main(arguments[:4]) == 0
    captured = capsys.readouterr()
    assert captured.out == first_spec(robomimic) + "\n" and captured.err.count("\n") == 1
    assert main([*arguments, "--spec", str(spec(tmp_path, ROBOT))]) == 0
    assert f"train: 2 episodes: {tmp_path / 'out' / 'train'}" in capsys.readouterr().out
