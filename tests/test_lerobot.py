"""LeRobot datasets: what the real package wrote is read, what we write comes back, and damage is named.

`fixtures/write_lerobot.py` says what the two fixtures hold: episodes of 8, 5 and 7 timesteps at 10 frames per second, the
state (episode, timestep, timestep / 2), and films whose left half says the timestep and whose right half the episode.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gato.cli import main
from gato.data.formats.dataset import import_dataset
from gato.data.formats.left_out import LeftOut
from gato.data.formats.lerobot.layout import Layout, fill_template
from gato.data.formats.lerobot.reader import LeRobotReader
from gato.data.formats.lerobot.writer import LeRobotWriter
from gato.data.store import Store, StoreWriter
from gato.data.video import VideoWriter, frames_at
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from tests.round_trip import assert_equal, stored

FIXTURES = Path(__file__).parent / "fixtures"
EVERY = pytest.mark.parametrize("version", ["v21", "v30", "v30_061"])

ARM = TaskSpec(
    "toy/arm",
    (
        FieldSpec("eye", Modality.IMAGE, "observation", (16, 32, 3), "uint8", path=("eye",)),
        FieldSpec("goal", Modality.TEXT, "observation", dtype="str", path=("goal",)),
        FieldSpec("joints/angle", Modality.CONTINUOUS, "observation", (2, 3), "float64", path=("joints", "angle")),
        FieldSpec("switches", Modality.DISCRETE, "observation", (2,), "bool", (0,), (1,), path=("switches",)),
        FieldSpec("grip", Modality.DISCRETE, "action", (), "int32", (0,), (2,), path=("grip",)),
        FieldSpec("speed", Modality.CONTINUOUS, "action", (1,), "float32", (-1.0,), (1.0,), path=("speed",)),
    ),
)


def arm(length: int, has_final: bool = True, **rest) -> Episode:
    t = np.arange(length)
    observations = {
        "eye": np.random.default_rng(length).integers(0, 256, (length, 16, 32, 3), dtype=np.uint8),
        "goal": np.array(["lift", "drop"] * length, object)[:length],
        "joints/angle": np.arange(6.0 * length).reshape(length, 2, 3) / 7,
        "switches": np.stack([t % 2 == 0, t % 3 == 0], axis=1),
    }
    final = {name: values[-1] for name, values in observations.items()} | {"goal": "rest"} if has_final else None
    actions = {"grip": (t % 3).astype(np.int32), "speed": (t[:, None] / length).astype(np.float32)}
    return Episode(ARM, observations, actions, t.astype(np.float32), final_observation=final, **rest)


def episodes_of(folder: Path, split: str = "train", start: int = 0, **options) -> list[Episode]:
    return list(LeRobotReader(**options).open(folder).episodes(split, start))


@pytest.fixture
def broken(tmp_path: Path):
    """broken("v21"): a copy of a fixture to damage."""
    return lambda version: Path(shutil.copytree(FIXTURES / f"lerobot_{version}", tmp_path / version))


def edit_info(folder: Path, **values) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_rows(path: Path, **columns) -> None:
    """Replaces columns, and writes all rows as one group."""
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, path)


# -- what the real package wrote ------------------------------------------------------------------


@EVERY
def test_states_actions_and_rewards_of_the_real_package_are_read(version):
    first, second, third = episodes_of(FIXTURES / f"lerobot_{version}")
    assert [e.num_timesteps for e in (first, second, third)] == [8, 5, 7]
    assert second.observations["state"].tolist() == [[1, t, t / 2] for t in range(5)]
    assert second.observations["gripper"].tolist() == [[0], [1], [0], [1], [0]]
    assert third.actions["action"].tolist() == [[t / 8, -2] for t in range(7)]
    assert third.rewards.tolist() == [20 + t for t in range(7)]
    assert [e.observations["instruction"][0] for e in (first, second, third)] == ["lift the cube", "open the drawer", "lift the cube"]
    assert all(e.terminated and not e.truncated and e.behaviour == "human" for e in (first, second, third))


@EVERY
def test_every_timestep_gets_its_own_frame_of_the_film(version):
    for e, episode in enumerate(episodes_of(FIXTURES / f"lerobot_{version}", image_size=(32, 48))):
        film = episode.observations["images/front"].astype(int)
        expected = np.empty_like(film)
        expected[:, :, :24] = (30 * np.arange(len(film)) + 20)[:, None, None, None]
        expected[:, :, 24:] = 80 * e + 40
        error = np.abs(film - expected)[:, :, [*range(20), *range(28, 48)]]  # away from the edge, which the codec blurs
        assert error.max() <= 4  # neighbouring timesteps differ by 30


@EVERY
def test_pictures_inside_the_data_are_read_exactly_and_scaled(version):
    wrist = [e.observations["images/wrist"] for e in episodes_of(FIXTURES / f"lerobot_{version}")]
    assert wrist[1].shape == (5, 64, 64, 3)
    assert [w[:, 9, 9, 0].tolist() for w in wrist] == [[10 * e + t for t in range(n)] for e, n in enumerate((8, 5, 7))]
    film = episodes_of(FIXTURES / f"lerobot_{version}")[0].observations["images/front"]
    assert film[0, :8].min() == 255 and film[0, 32, :24].max() < 30  # 32x48 becomes 43x64, centred on white


@EVERY
def test_names_with_dots_become_paths_and_numbers_find_their_kind(version):
    task = LeRobotReader().open(FIXTURES / f"lerobot_{version}").tasks[0]
    assert [(f.name, f.path, str(f.modality)) for f in task.fields] == [
        ("gripper", ("gripper",), "discrete"),
        ("images/front", ("images", "front"), "image"),
        ("images/wrist", ("images", "wrist"), "image"),
        ("instruction", ("instruction",), "text"),
        ("state", ("state",), "continuous"),
        ("action", (), "continuous"),
    ]


@EVERY
def test_actions_range_one_percent_wider_than_seen_or_as_told(version):
    def bounds(**options) -> tuple:
        action = LeRobotReader(**options).open(FIXTURES / f"lerobot_{version}").tasks[0].actions[0]
        return action.low, action.high

    low, high = bounds()
    assert np.allclose(low, [-0.00875, -2.02]) and np.allclose(high, [0.88375, 0.02])  # seen: 0 to 7/8, and -2 to 0
    assert bounds(action_low=[-3.0], action_high=[1.0, 2.0]) == ((-3.0,), (1.0, 2.0))


@EVERY
def test_reading_may_start_at_any_episode(version):
    whole = episodes_of(FIXTURES / f"lerobot_{version}")
    (last,) = episodes_of(FIXTURES / f"lerobot_{version}", start=2)
    assert_equal(last, whole[2])


@EVERY
def test_both_versions_give_equal_episodes_but_for_the_films(version):
    options = {"leave_out": ["observation.images.front"]}
    for a, b in zip(*(episodes_of(FIXTURES / f"lerobot_{v}", **options) for v in ("v21", "v30")), strict=True):
        for name in a.observations:
            np.testing.assert_array_equal(a.observations[name], b.observations[name])


def test_version_2_0_has_its_statistics_in_one_file(broken):
    folder = broken("v21")
    edit_info(folder, codebase_version="v2.0")
    (folder / "meta" / "episodes_stats.jsonl").unlink()
    (folder / "meta" / "stats.json").write_text(
        '{"action": {"min": [0, -4], "max": [1, 4]}, "observation.gripper": {"min": [0], "max": [3]}}'
    )
    task = LeRobotReader().open(folder).tasks[0]
    assert task.observations[0].high == (3,)
    assert np.allclose(task.actions[0].high, [1.01, 4.08])


def test_sentences_and_features_can_be_left_out_and_absent_rewards_are_said(broken):
    folder = broken("v30")
    assert LeRobotReader().open(folder).provenance["rewards"] == "next.reward"
    dataset = LeRobotReader(instruction=False, leave_out=["observation.images.front", "next.reward", "next.done"]).open(folder)
    assert [f.name for f in dataset.tasks[0].observations] == ["gripper", "images/wrist", "state"]
    assert dataset.provenance["features_left_out"] == ["next.done", "next.reward", "observation.images.front"]
    assert dataset.provenance["rewards"] == "absent, so zeros"
    episode = next(dataset.episodes("train", 0))
    assert (episode.rewards.tolist(), episode.terminated, episode.truncated) == ([0.0] * 8, False, True)


def test_splits_and_the_licence_are_read(broken):
    folder = broken("v30")
    edit_info(folder, splits={"train": "0:2", "test": "2:3"})
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A robot\n")
    dataset = LeRobotReader().open(folder)
    assert dataset.splits == {"train": 2, "test": 1}
    assert dataset.tasks[0].licence == dataset.provenance["licence"] == "cc-by-4.0"
    assert episodes_of(folder, "test")[0].observations["state"][0].tolist() == [2, 0, 0]


def test_a_file_with_all_episodes_in_one_row_group_is_read_alike(broken):
    folder = broken("v30")
    edit_rows(folder / "data/chunk-000/file-000.parquet")
    for start in (0, 1, 2):
        for found, expected in zip(episodes_of(folder, start=start), episodes_of(FIXTURES / "lerobot_v30", start=start), strict=True):
            np.testing.assert_array_equal(found.observations["state"], expected.observations["state"])


def test_a_name_that_is_also_a_folder_is_not_taken_apart(broken):
    folder = broken("v30")
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    features |= {"observation.state.left": features["observation.state"], "action.extra": {"dtype": "bool", "shape": [1]}}
    edit_info(folder, features=features)
    paths = {(f.role, f.path) for f in LeRobotReader().open(folder).tasks[0].fields}
    assert {("observation", ("state",)), ("observation", ("state.left",)), ("action", ("action",)), ("action", ("extra",))} <= paths


# -- there and back -------------------------------------------------------------------------------


def test_what_we_export_comes_back_exactly_with_the_last_observation(tmp_path):
    episodes = [
        arm(70, terminated=True, success=True, seed=4, parameters={"room": 1}),
        arm(5, has_final=False, truncated=True, behaviour="noisy"),
        arm(1, terminated=True, success=False),
    ]
    counts = LeRobotWriter().write([stored(tmp_path / "store", *episodes)], tmp_path / "out")
    assert counts == {"episodes": 3, "frames": 76, "tasks": 2, "lossy_features": 0}
    back = Store(import_dataset(LeRobotReader().open(tmp_path / "out"), tmp_path / "back")["train"])
    back.validate()
    for i, expected in enumerate(episodes):
        assert_equal(back.episode(i), expected)


@pytest.mark.skipif("LEROBOT_PYTHON" not in os.environ, reason="LEROBOT_PYTHON names an interpreter that has the lerobot package")
@pytest.mark.parametrize("images", ["png", "video"])
def test_lerobot_itself_opens_what_we_write(tmp_path, images):
    episodes = [arm(5), arm(3)]
    LeRobotWriter(images=images).write([stored(tmp_path / "store", *episodes)], tmp_path / "export")
    command = [os.environ["LEROBOT_PYTHON"], str(FIXTURES / "read_lerobot.py"), str(tmp_path / "export"), str(tmp_path / "read.npz")]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "HF_HOME": str(tmp_path / "hf")})
    read = np.load(tmp_path / "read.npz")
    assert read["num_episodes"] == 2 and read["episode_index"].tolist() == [0] * 5 + [1] * 3
    assert read["task"].tolist() == ["lift", "drop", "lift", "drop", "lift", "lift", "drop", "lift"]
    for feature, field in {"observation.joints.angle": "joints/angle", "observation.switches": "switches"}.items():
        expected = np.concatenate([e.observations[field] for e in episodes])
        np.testing.assert_array_equal(read[feature], expected.astype(read[feature].dtype))  # lerobot gives float64 as float32
    for feature, field in {"action.grip": "grip", "action.speed": "speed"}.items():
        np.testing.assert_array_equal(read[feature], np.concatenate([e.actions[field] for e in episodes]).reshape(read[feature].shape))
    pixels = np.rint(255 * read["observation.images.eye"]).astype(int).transpose(0, 2, 3, 1)
    error = np.abs(pixels - np.concatenate([e.observations["eye"] for e in episodes]))
    assert error.max() == 0 if images == "png" else error.mean() < 60  # noise is the worst that a film can be asked to keep


def test_a_plain_task_comes_back_under_the_names_that_lerobot_knows(tmp_path, walk):
    episode = walk([0, 0, 1], [0, 1, 1], terminated=True, final_observation={"cell": np.int64(1)})
    LeRobotWriter(fps=5).write([stored(tmp_path / "store", episode)], tmp_path / "out")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert info["features"]["observation.cell"] == info["features"]["action"] == {"dtype": "int64", "shape": [1], "names": None}
    rows = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
    assert (rows["action"], rows["next.done"], rows["index"]) == ([0, 1, 1], [False, False, True], [0, 1, 2])
    assert np.allclose(rows["timestamp"], [0, 0.2, 0.4])
    assert pq.read_table(tmp_path / "out/meta/tasks.parquet")["__index_level_0__"].to_pylist() == ["toy/corridor"]
    assert_equal(episodes_of(tmp_path / "out")[0], episode)


def test_without_our_folder_the_export_is_read_as_any_other(tmp_path):
    LeRobotWriter().write([stored(tmp_path / "store", arm(5, truncated=True))], tmp_path / "out")
    shutil.rmtree(tmp_path / "out/gato")
    (found,) = episodes_of(tmp_path / "out", image_size=(16, 32))
    assert found.final_observation is None
    assert found.observations["instruction"].tolist() == ["lift", "drop", "lift", "drop", "lift"]
    assert found.actions["grip"].tolist() == [[0], [1], [2], [0], [1]]
    np.testing.assert_array_equal(found.observations["images/eye"], arm(5).observations["eye"])
    np.testing.assert_array_equal(found.observations["joints/angle"], arm(5).observations["joints/angle"])


def test_statistics_of_two_episodes_are_those_of_all_their_rows(tmp_path, walk):
    episodes = walk([0, 0, 1], [0, 1, 1]), walk([1], [1])
    LeRobotWriter().write([stored(tmp_path / "store", *episodes)], tmp_path / "out")
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())["action"]
    assert (stats["min"], stats["max"], stats["mean"], stats["count"]) == ([0.0], [1.0], [0.75], [4])
    assert np.allclose(stats["std"], np.std([0, 1, 1, 1]))
    assert set(stats) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}


def test_stores_become_splits_and_keep_their_rate(tmp_path, walk):
    train = stored(tmp_path / "a", walk([0], [0]), walk([1], [1]), split="train", fps=25)
    test = stored(tmp_path / "b", walk([0, 1], [1, 1]), split="test", fps=25)
    LeRobotWriter().write([train, test], tmp_path / "out")
    dataset = LeRobotReader().open(tmp_path / "out")
    assert (dataset.splits, dataset.provenance["fps"]) == ({"train": 2, "test": 1}, 25.0)
    assert next(dataset.episodes("test", 0)).observations["cell"].tolist() == [0, 1]


@pytest.mark.parametrize("codec", ["h264", "libsvtav1"])
def test_films_hold_many_episodes_and_lose_little_of_smooth_pictures(tmp_path, codec):
    def smooth(episode: Episode, grey: int) -> Episode:
        eye = np.stack([np.full((16, 32, 3), grey + 10 * t, np.uint8) for t in range(episode.num_timesteps)])
        return Episode(ARM, dict(episode.observations) | {"eye": eye}, episode.actions, episode.rewards)

    episodes = [smooth(arm(n, has_final=False), grey) for n, grey in ((3, 20), (4, 90), (2, 200))]
    counts = LeRobotWriter(images="video", codec=codec).write([stored(tmp_path / "store", *episodes)], tmp_path / "out")
    assert counts["lossy_features"] == 1
    assert [p.name for p in (tmp_path / "out/videos").rglob("*.mp4")] == ["file-000.mp4"]
    for found, expected in zip(episodes_of(tmp_path / "out"), episodes, strict=True):
        error = np.abs(found.observations["eye"].astype(int) - expected.observations["eye"])
        assert error.max() <= 4  # neighbouring timesteps differ by 10


def test_frames_are_found_by_their_seconds(tmp_path):
    writer = VideoWriter(tmp_path / "film.mp4", 29.97, (32, 32), "h264")
    for k in range(24):
        writer.write(np.full((32, 32, 3), 10 * k, np.uint8))
    writer.close()
    found = [f[0, 0, 0] / 10 for f in frames_at(tmp_path / "film.mp4", [k / 29.97 for k in (13, 14, 14, 20)], 0.01)]
    assert np.abs(np.array(found) - [13, 14, 14, 20]).max() < 0.4
    with pytest.raises(ValueError, match=r"film.mp4 holds no frame 1 of 2 at 0.8008 s: the video ends before it"):
        list(frames_at(tmp_path / "film.mp4", [0.0, 24 / 29.97], 0.01))


def test_an_interrupted_import_goes_on_where_it_stopped(tmp_path):
    dataset = LeRobotReader().open(FIXTURES / "lerobot_v30")
    with StoreWriter(tmp_path / "train", dataset.tasks) as writer:
        writer.bind(dataset.source, dataset.digest)
        writer.append(next(dataset.episodes("train", 0)))
    folder = import_dataset(dataset, tmp_path)["train"]
    store = Store(folder)
    assert [store.episode(i).observations["state"][0, 0] for i in range(store.num_episodes)] == [0, 1, 2]


def test_the_commands_import_and_export(tmp_path, capsys):
    assert main(["data", "import", "lerobot", str(FIXTURES / "lerobot_v21"), "--out", str(tmp_path / "in"), "--image_size", "[32,48]"]) == 0
    assert main(["data", "export", "lerobot", str(tmp_path / "out"), str(tmp_path / "in/train")]) == 0
    assert "3 episodes, 20 frames, 2 tasks" in capsys.readouterr().out
    for found, expected in zip(episodes_of(tmp_path / "out"), (Store(tmp_path / "in/train").episode(i) for i in range(3)), strict=True):
        assert_equal(found, expected)
    assert main(["data", "import", "lerobot", str(tmp_path / "nothing")]) == 2
    assert "info.json does not exist; expected the folder of a LeRobot dataset" in capsys.readouterr().err


# -- damage ---------------------------------------------------------------------------------------


def test_a_cut_data_file_and_a_missing_one_are_named(broken):
    path = broken("v21") / "data/chunk-000/episode_000001.parquet"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"episode_000001.parquet, episode 1: is no readable parquet file"):
        episodes_of(path.parents[2])
    path.unlink()
    with pytest.raises(ValueError, match=r"episode_000001.parquet, episode 1: is missing; fetch it again"):
        episodes_of(path.parents[2])


def test_a_cut_film_and_a_missing_one_are_named(broken):
    path = broken("v21") / "videos/chunk-000/observation.images.front/episode_000001.mp4"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"episode 1: field 'observation.images.front': .*episode_000001.mp4 is no readable video"):
        episodes_of(path.parents[3])
    path.unlink()
    with pytest.raises(ValueError, match=r"episode 1: field 'observation.images.front': .*episode_000001.mp4 is missing"):
        episodes_of(path.parents[3])


def test_a_film_that_is_shorter_than_its_episode_is_named(broken):
    films = broken("v21") / "videos/chunk-000/observation.images.front"
    shutil.copy(films / "episode_000001.mp4", films / "episode_000000.mp4")  # 5 frames for 8 timesteps
    with pytest.raises(ValueError, match=r"episode 0: field .*episode_000000.mp4 holds no frame 5 of 8 at 0.5000 s: the video ends"):
        episodes_of(films.parents[2])


def test_an_episode_longer_than_its_file_is_named(broken):
    folder = broken("v21")
    path = folder / "meta/episodes.jsonl"
    path.write_text(path.read_text().replace('"length": 7', '"length": 9'))
    with pytest.raises(ValueError, match=r"episode_000002.parquet, episode 2: has 7 rows, but rows 0 to 9 are asked for"):
        episodes_of(folder)


def test_rows_of_another_episode_are_named(broken):
    data = broken("v21") / "data/chunk-000"
    edit_rows(data / "episode_000002.parquet", episode_index=pa.array([2] * 6 + [1]))
    with pytest.raises(ValueError, match=r"episode_000002.parquet, episode 2: row 6 has episode_index 1, expected 2"):
        episodes_of(data.parents[1])


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([[0.0, 1.0, 2.0]] * 4 + [[0.0, 1.0]], r"field 'observation.state': frame 4 has 2 values, expected shape \(3,\)"),
        ([[0.0, 1.0, 2.0]] * 4 + [None], r"field 'observation.state': frame 4 has 0 values"),
        ([[0.0, 1.0, 2.0]] * 4 + [[0.0, None, 1.0]], r"field 'observation.state': frame 4 holds no value"),
        ([[0.0, 1.0, 2.0]] * 4 + [[0.0, 1.0, float("nan")]], r"observation 'state' at timestep 4 is not finite"),
        ([["a", "b", "c"]] * 5, r"field 'observation.state': its rows are string, expected float32 of shape \(3,\)"),
        ([1.0] * 5, r"field 'observation.state': its rows are double, expected shape \(3,\)"),
    ],
)
def test_a_bad_value_in_a_late_row_is_named(broken, states, message):
    data = broken("v21") / "data/chunk-000"
    edit_rows(data / "episode_000001.parquet", **{"observation.state": pa.array(states)})
    with pytest.raises(ValueError, match=rf"episode_000001.parquet, episode 1: .*{message}"):
        episodes_of(data.parents[1])


def test_the_episodes_before_a_bad_one_are_kept(broken, tmp_path):
    data = broken("v21") / "data/chunk-000"
    edit_rows(data / "episode_000001.parquet", action=pa.array([[0.0, 99.0]] * 5))
    with pytest.raises(ValueError, match=r"episode 1: .*action 'action' at timestep 0 is 99.0, outside"):
        import_dataset(LeRobotReader().open(data.parents[1]), tmp_path / "store")
    assert Store(tmp_path / "store" / "train").num_episodes == 1


def test_metadata_that_does_not_agree_is_refused(broken):
    folder = broken("v30")
    edit_info(folder, total_episodes=4)
    with pytest.raises(ValueError, match=r"episodes lists 3 episodes, but info.json has 4"):
        LeRobotReader().open(folder)
    edit_info(folder, total_episodes=3, splits={"train": "0:9"})
    with pytest.raises(ValueError, match=r"split 'train' holds the episodes 0:9, but there are 3"):
        LeRobotReader().open(folder)
    edit_info(folder, codebase_version="v1.6")
    with pytest.raises(ValueError, match=r"has codebase_version 'v1.6'; expected one of v2.0, v2.1, v3.0"):
        LeRobotReader().open(folder)


def test_an_action_without_statistics_asks_for_its_range(broken):
    folder = broken("v30")
    (folder / "meta/stats.json").write_text('{"observation.gripper": {"min": [0], "max": [1]}}')
    with pytest.raises(ValueError, match=r"feature 'action' needs a range, .*give --action_low and --action_high"):
        LeRobotReader().open(folder)
    assert LeRobotReader(action_low=[-5], action_high=[5]).open(folder).tasks[0].actions[0].high == (5.0,)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "data/../../secret.parquet", "C:/secret", "..\\secret"])
def test_paths_that_lead_out_of_the_folder_are_refused(broken, path):
    folder = broken("v21")
    edit_info(folder, data_path=path)
    with pytest.raises(ValueError, match=r"leads out of the dataset's folder"):
        episodes_of(folder)


@pytest.mark.parametrize("template", ["{episode_index.__class__}", "{episode_index:0999999999d}", "{0}", "{", "{episode_index!r}"])
def test_templates_fill_in_numbers_and_nothing_else(tmp_path, template):
    assert fill_template("a-{episode_index:03d}/{key}.mp4", tmp_path, episode_index=7, key="x.y") == tmp_path / "a-007/x.y.mp4"
    with pytest.raises(ValueError, match=r"path template"):
        fill_template(template, tmp_path, episode_index=7)


def test_a_camera_cannot_be_named_out_of_the_folder(tmp_path):
    with pytest.raises(ValueError, match=r"leads out"):
        fill_template("videos/{video_key}/0.mp4", tmp_path, video_key="../../x")


def test_what_the_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    odd = TaskSpec("toy/odd", (FieldSpec("eye", Modality.IMAGE, "observation", (15, 16, 3), "uint8", resize="pad"), *ARM.actions))
    episode = Episode(odd, {"eye": np.zeros((2, 15, 16, 3), np.uint8)}, arm(2).actions, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"frames of 15x16 pixels cannot be a video"):
        LeRobotWriter(images="video").write([stored(tmp_path / "odd", episode)], tmp_path / "out")
    even = TaskSpec("toy/even", (FieldSpec("eye", Modality.IMAGE, "observation", (16, 16, 3), "uint8"), *ARM.actions))
    slow = stored(tmp_path / "slow", Episode(even, {"eye": np.zeros((2, 16, 16, 3), np.uint8)}, arm(2).actions, np.zeros(2, np.float32)))
    with pytest.raises(ValueError, match=r"0.0004 frames per second cannot be a video, which has at least 0.001; keep them as pictures"):
        LeRobotWriter(fps=0.0004, images="video").write([slow], tmp_path / "out")
    text = TaskSpec("toy/text", (FieldSpec("say", Modality.TEXT, "action", dtype="str"),))
    said = Episode(text, {}, {"say": np.array(["a"], object)}, np.zeros(1, np.float32))
    with pytest.raises(ValueError, match=r"action 'say' is text, which LeRobot has no actions for"):
        LeRobotWriter().write([stored(tmp_path / "text", said)], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd", "slow", "text"]


def test_an_existing_folder_is_not_written_into(tmp_path, walk):
    store = stored(tmp_path / "store", walk([0], [0]))
    with pytest.raises(ValueError, match=r"store' exists; an export is a new folder"):
        LeRobotWriter().write([store], tmp_path / "store")


# -- surplus and odd metadata ------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_a_row_more_than_the_metadata_says_is_refused(broken, version):
    folder = broken(version)
    path = sorted((folder / "data").rglob("*.parquet"))[-1]
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(len(table) - 1)]), path)
    with pytest.raises(ValueError, match=r"has \d+ rows, but the metadata gives its episodes \d+"):
        episodes_of(folder, leave_out=[name for name in Layout.open(folder).features if "image" in name])


def test_actions_that_leave_their_range_are_answered_with_options_that_there_are(broken):
    folder = broken("v21")
    cameras = [name for name in Layout.open(folder).features if "image" in name]
    with pytest.raises(ValueError, match="--clip_actions true clips it, --action_low and --action_high widen the range"):
        episodes_of(folder, action_low=[-0.001], action_high=[0.001], leave_out=cameras)
    episode = episodes_of(folder, action_low=[-0.001], action_high=[0.001], leave_out=cameras, clip_actions=True)[0]
    assert episode.parameters["clipped_actions"] > 0 and abs(episode.actions["action"]).max() <= 0.0011


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"splits": ["train"]}, "has splits"),
        ({"splits": {"train": "0:2", "test": "1:3"}}, "share episodes"),
        ({"chunks_size": 0}, "chunks_size 0, expected at least 1"),
        ({"data_path": None}, "has data_path None"),
        ({"robot_type": {"a": 1}}, "has robot_type"),
    ],
)
def test_odd_values_of_the_metadata_are_named(broken, changed, line):
    folder = broken("v21")
    edit_info(folder, **changed)
    with pytest.raises(ValueError, match=line):
        LeRobotReader().open(folder)


def test_episodes_of_no_split_are_counted(broken):
    folder = broken("v21")
    edit_info(folder, splits={"train": "0:2"})
    left_out = LeftOut()
    LeRobotReader().open(folder, left_out)
    assert left_out.counts["episodes that no split of info.json names"] == 1


@pytest.mark.parametrize(("dtype", "shape"), [("uint8", [3, 32, 32]), ("float32", [32, 32, 3]), ("float32", [32, 32])])
def test_numbers_that_look_like_pictures_are_refused_with_the_option_that_leaves_them_out(broken, dtype, shape):
    folder = broken("v21")
    info = json.loads((folder / "meta" / "info.json").read_text())
    edit_info(folder, features=info["features"] | {"observation.depth": {"dtype": dtype, "shape": shape, "names": None}})
    with pytest.raises(ValueError, match=r"looks like .*pictures.*--leave_out '\[\"observation.depth\"\]'"):
        LeRobotReader().open(folder)
    assert LeRobotReader(leave_out=["observation.depth"]).open(folder).splits
