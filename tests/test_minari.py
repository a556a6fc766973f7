"""Minari datasets: what the package itself writes is read, what we write it opens, and damage is named."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

minari = pytest.importorskip("minari", reason="pip install 'opengato[minari]'")

import gymnasium  # noqa: E402
from gymnasium import spaces  # noqa: E402
from minari.data_collector import EpisodeBuffer  # noqa: E402

from gato.cli import main  # noqa: E402
from gato.data.formats.dataset import import_dataset  # noqa: E402
from gato.data.formats.minari import MinariReader  # noqa: E402
from gato.data.formats.minari_writer import MinariWriter  # noqa: E402
from gato.data.store import Store  # noqa: E402
from gato.episode import Episode  # noqa: E402
from gato.spec import TaskSpec  # noqa: E402
from gato.words import caption_task  # noqa: E402
from tests import round_trip  # noqa: E402
from tests.round_trip import assert_equal, stored  # noqa: E402

FORMATS = ("hdf5", "parquet", "arrow")
POINT = spaces.Box(-1.0, 1.0, (2,), np.float32)
PUSH = spaces.Discrete(2)

pytestmark = pytest.mark.filterwarnings("ignore")  # minari wishes for authors, links and descriptions


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where minari looks for datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def buffer(length: int = 3, **rest) -> EpisodeBuffer:
    """Observes (0, 0), (0.1, 0.1), ...; pushes 0, 1, 0, ...; is rewarded with 1 each time."""
    values = {
        "observations": np.arange(length + 1, dtype=np.float32)[:, None].repeat(2, axis=1) / 10,
        "actions": np.arange(length) % 2,
        "rewards": np.ones(length),
        "terminations": np.arange(length) == length - 1,
        "truncations": np.zeros(length, bool),
    }
    return EpisodeBuffer(**(values | rest))


everything = partial(round_trip.everything, actions=(0, 1))  # a tuple of two


def dataset(*buffers: EpisodeBuffer, name: str = "toy/push-v0", observation=POINT, action=PUSH, **rest) -> str:
    """Written by minari itself."""
    minari.create_dataset_from_buffers(name, list(buffers), observation_space=observation, action_space=action, **rest)
    return name


def imported(name: str | Path, out: Path, **options) -> Store:
    return Store(import_dataset(MinariReader(**options).open(Path(name)), out)["train"])


# -- reading what minari wrote -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_a_dataset_of_a_real_environment_is_imported(tmp_path, kind):
    env = gymnasium.make("CartPole-v1")
    first, _ = env.reset(seed=7)
    steps = [env.step(k % 2) for k in range(5)]
    observations = np.stack([first, *(s[0] for s in steps)])
    rows = {"rewards": [s[1] for s in steps], "terminations": [s[2] for s in steps], "truncations": [s[3] for s in steps]}
    episode = EpisodeBuffer(seed=7, observations=observations, actions=np.arange(5) % 2, **rows)
    minari.create_dataset_from_buffers("cartpole/test-v0", [episode], env="CartPole-v1", data_format=kind)
    store = imported("cartpole/test-v0", tmp_path / "out")
    store.validate()
    found, task = store.episode(0), store.tasks[0]
    np.testing.assert_array_equal(found.observations["observation"], observations[:-1])
    np.testing.assert_array_equal(found.final_observation["observation"], observations[-1])
    assert found.actions["action"].tolist() == [0, 1, 0, 1, 0] and found.rewards.tolist() == [1.0] * 5
    assert (task.name, task.env_id, task.episode_limit, found.seed) == ("cartpole/test-v0", "CartPole-v1", 500, 7)


def test_flags_success_and_options_are_kept(tmp_path):
    cut = {"terminations": np.zeros(3, bool), "truncations": np.array([False, False, True])}
    infos = {"success": np.array([0.0, 0.0, 0.0, 1.0]), "speed": np.arange(4.0)}
    store = imported(dataset(buffer(options={"level": 3}), buffer(infos=infos, **cut)), tmp_path / "out", behaviour="human")
    first, second = store.episode(0), store.episode(1)
    assert (first.terminated, first.truncated, first.success, first.parameters) == (True, False, None, {"options": {"level": 3}})
    assert (second.terminated, second.truncated, second.success, second.behaviour) == (False, True, True, "human")


def test_the_provenance_says_what_was_left_out(tmp_path):
    name = dataset(buffer(infos={"speed": np.arange(4.0)}), author="Ada", algorithm_name="by hand")
    provenance = imported(name, tmp_path / "out", licence="MIT").manifest.provenance
    assert provenance["infos_left_out"] == ["speed"]
    assert [provenance[k] for k in ("format", "data_format", "algorithm_name", "licence")] == ["minari", "hdf5", "by hand", "MIT"]


@pytest.mark.parametrize("jpeg", [True, False])
def test_pictures_that_became_jpegs_are_noticed(tmp_path, jpeg):
    camera = spaces.Dict({"camera": spaces.Box(0, 255, (32, 32, 3), np.uint8), "point": POINT})
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    name = dataset(buffer(observations={"camera": pixels, "point": np.zeros((4, 2), np.float32)}), observation=camera, jpeg_encoding=jpeg)
    store = imported(name, tmp_path / "out")
    assert store.manifest.provenance.get("lossy_jpeg") == (["observation/camera"] if jpeg else None)
    assert np.array_equal(store.episode(0).observations["camera"], pixels[:-1]) == (not jpeg)


def test_a_dataset_is_found_by_folder_by_id_and_below_a_root(tmp_path, root):
    name = dataset(buffer())
    for path, options in ((root / name, {}), (root / name / "data", {}), (name, {}), ("push-v0", {"root": root / "toy"})):
        assert MinariReader(**options).open(Path(path)).splits == {"train": 1}
    with pytest.raises(ValueError, match=r"there is no Minari dataset at gone-v0 or .*: expected a folder with data/metadata.json"):
        MinariReader().open(Path("gone-v0"))


def test_reading_starts_anywhere_without_touching_what_lies_before(tmp_path, root):
    name = dataset(*(buffer(n) for n in (2, 3, 4)), data_format="parquet")
    opened = MinariReader().open(Path(name))
    shutil.rmtree(root / name / "data" / "1")
    assert [e.num_timesteps for e in opened.episodes("train", 2)] == [4]


def test_an_interrupted_import_goes_on_where_it_stopped(tmp_path):
    bad = buffer(observations=np.full((4, 2), np.nan, np.float32))
    name = dataset(buffer(2), buffer(4), bad)
    with pytest.raises(ValueError, match=r"episode 2: .*observation 'observation' at timestep 0 is not finite"):
        imported(name, tmp_path / "out")
    assert Store(tmp_path / "out" / "train").lengths.tolist() == [2, 4]
    with pytest.raises(ValueError, match=r"episode 2: "):  # not episode 0 again
        imported(name, tmp_path / "out")
    assert Store(tmp_path / "out" / "train").num_episodes == 2


def test_actions_outside_their_space_are_refused_or_clipped_and_counted(tmp_path):
    name = dataset(buffer(actions=np.array([[0.5, 2.0], [-3.0, 0.0], [1.0, 1.0]], np.float32)), action=POINT)
    with pytest.raises(ValueError, match=r"episode 0: .*action 'action' at timestep 0 is 2.0, outside \[-1, 1\]"):
        imported(name, tmp_path / "refused")
    found = imported(name, tmp_path / "clipped", clip_actions=True).episode(0)
    assert found.actions["action"].tolist() == [[0.5, 1.0], [-1.0, 0.0], [1.0, 1.0]]
    assert found.parameters == {"clipped_actions": 2}


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"observations": np.zeros((3, 2), np.float32)}, r"observation 'observation' has 3 values, expected 4 \(T \+ 1\)"),
        ({"actions": np.zeros(2, np.int64)}, r"action 'action' has 2 values, expected 3"),
        ({"rewards": np.array([0, np.inf, 0])}, r"the reward at timestep 1 is not finite"),
        ({"terminations": np.array([True, False, True])}, r"terminations are set at timestep 0 of 3; only the last may be"),
        ({"observations": np.zeros((4, 5), np.float32)}, r"observation 'observation' has shape \(5,\), expected \(2,\)"),
        ({"actions": np.array([0, 5, 0])}, r"action 'action' at timestep 1 is 5, outside \[0, 1\]"),
    ],
)
def test_an_episode_that_is_none_is_refused_with_its_place(tmp_path, wrong, line):
    with pytest.raises(ValueError, match=rf"push-v0/data, episode 1: .*{line}"):
        imported(dataset(buffer(), buffer(**wrong)), tmp_path / "out")


def test_an_episode_of_no_timesteps_is_refused(tmp_path):
    none = buffer(0, actions=np.zeros(0, np.int64), observations=np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match=r"episode 1: .*an episode of no timesteps"):
        imported(dataset(buffer(), none, data_format="parquet"), tmp_path / "out")


def test_spaces_without_a_token_form_are_refused(root):
    name = dataset(buffer(), action=PUSH)
    path = root / name / "data" / "metadata.json"
    values = json.loads(path.read_text())
    for space, line in (
        ({"type": "Graph"}, "cannot be opened"),
        ({"type": "Box", "shape": [10**6, 10**6], "low": -1, "high": 1, "dtype": "float32"}, "more than 67108864 elements"),
        ({"type": "Box", "shape": [2], "low": [-1, -1], "high": ["inf", 1], "dtype": "float32"}, "its range is not finite"),
    ):
        path.write_text(json.dumps(values | {"action_space": json.dumps(space)}))
        with pytest.raises(ValueError, match=line):
            MinariReader().open(Path(name))


def test_damaged_and_missing_files_are_named(tmp_path, root):
    name = dataset(*(buffer() for _ in range(3)))
    folder = root / name / "data"
    content = (folder / "main_data.hdf5").read_bytes()
    (folder / "main_data.hdf5").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"push-v0/data cannot be read \(OSError"):
        imported(name, tmp_path / "out")
    (folder / "main_data.hdf5").unlink()
    with pytest.raises(ValueError, match=r"push-v0/data cannot be opened \(ValueError: No data found"):
        imported(name, tmp_path / "out")
    (folder / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match=r"metadata.json is no metadata of a Minari dataset"):
        imported(name, tmp_path / "out")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_missing_or_cut_part_is_named(tmp_path, root, kind):
    folder = root / dataset(buffer(), buffer(), data_format=kind) / "data"
    part = folder / "1" / f"part-0.{kind}"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"push-v0/data, episode 1 cannot be read"):
        imported("toy/push-v0", tmp_path / "out")
    part.unlink()
    with pytest.raises(ValueError, match=r"push-v0/data, episode 1 cannot be read"):
        imported("toy/push-v0", tmp_path / "again")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_of_a_long_episode_minari_reads_the_beginning_which_is_noticed(tmp_path, kind):
    with pytest.raises(ValueError, match=r"episode 0: \d+ timesteps were read but its metadata says 140000"):
        imported(dataset(buffer(140_000), data_format=kind), tmp_path / "out")


# -- writing, and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_everything_survives_the_way_there_and_back(tmp_path, root, kind):
    labels = dict(terminated=True, success=True, seed=3, behaviour="noisy", parameters={"goal": [1, "a"]})
    episodes = everything(4, 0, **labels), everything(1, 1, truncated=True, success=False), everything(6, 2)
    counts = MinariWriter(data_format=kind).write([stored(tmp_path / "in", *episodes)], root / "everything-v0")
    assert counts == {"episodes": 3, "timesteps": 11, "repeated_final_observations": 0}
    store = imported("everything-v0", tmp_path / "out")
    store.validate()
    assert store.tasks == (episodes[0].task,)
    for i, episode in enumerate(episodes):
        assert_equal(store.episode(i), episode)


@pytest.mark.parametrize("kind", FORMATS)
def test_minari_opens_what_we_write(tmp_path, root, kind):
    episode = everything(4, 0, terminated=True, seed=3)
    MinariWriter(data_format=kind).write([stored(tmp_path / "in", episode)], root / "toy" / "everything-v0")
    opened = minari.load_dataset("toy/everything-v0")
    found = opened[0]
    assert (opened.total_episodes, opened.total_steps) == (1, 4) and "toy/everything-v0" in minari.list_local_datasets()
    np.testing.assert_array_equal(found.observations["camera"][:-1], episode.observations["camera"])
    np.testing.assert_array_equal(found.observations["camera"][-1], episode.final_observation["camera"])
    np.testing.assert_array_equal(found.actions[0], episode.actions["0"])
    assert found.terminations.tolist() == [False, False, False, True]
    assert all(opened.observation_space[k].contains(v[0]) for k, v in found.observations.items() if k != "arm")


def test_the_environment_can_be_recovered(tmp_path, root):
    task = pytest.importorskip("gato.envs").task("gymnasium/cartpole")
    numbers = np.zeros((2, 4), np.float32)
    episode = Episode(task, {"observation": numbers[:1]}, {"action": np.zeros(1, np.int64)}, np.ones(1, np.float32),
                      final_observation={"observation": numbers[1]})  # fmt: skip
    MinariWriter().write([stored(tmp_path / "in", episode)], root / "cartpole-v0")
    opened = minari.load_dataset("cartpole-v0")
    assert opened.recover_environment().spec.id == "CartPole-v1"
    assert minari.get_normalized_score(opened, np.array([23.57, 500.0])).tolist() == [0.0, 1.0]
    assert_equal(imported("cartpole-v0", tmp_path / "out").episode(0), episode)


def test_a_missing_final_observation_is_refused_or_repeated_counted_and_marked(tmp_path, root):
    task = caption_task("captions/toy", (16, 16))
    red = np.full((1, 16, 16, 3), (255, 0, 0), np.uint8)
    episode = Episode(task, {"image": red}, {"caption": np.array(["a red square"], object)}, np.zeros(1, np.float32), terminated=True)
    store = stored(tmp_path / "in", episode)
    with pytest.raises(ValueError, match=r"episode 0 of task 'captions/toy' has no final observation, but Minari needs T \+ 1"):
        MinariWriter().write([store], root / "toy-v0")
    assert not list(root.iterdir())
    assert MinariWriter(repeat_final_observation=True).write([store], root / "toy-v0")["repeated_final_observations"] == 1
    assert len(minari.load_dataset("toy-v0")[0].observations["image"]) == 2
    assert_equal(imported("toy-v0", tmp_path / "out").episode(0), episode)


def test_stores_of_equal_spaces_go_together(tmp_path, root):
    other = everything(2, 5)
    other = Episode(**{**other.__dict__, "task": TaskSpec("toy/other", other.task.fields)})
    stores = [stored(tmp_path / "a", everything(3, 4)), stored(tmp_path / "b", other)]
    MinariWriter().write(stores, root / "both-v0")
    store = imported("both-v0", tmp_path / "out")
    assert [t.name for t in store.tasks] == ["toy/everything", "toy/other"]
    assert_equal(store.episode(1), other)


def test_a_relative_folder_and_a_long_episode_are_written(tmp_path, root, walk, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [0] * 2**15
    store = stored(tmp_path / "in", walk(cells, cells, final_observation={"cell": 1}))
    with pytest.raises(
        ValueError, match=r"episode 0 of task 'toy/corridor' has 32768 timesteps, but minari reads 32767 of a part; export as hdf5"
    ):
        MinariWriter(data_format="parquet").write([store], Path("datasets/walk-v0"))
    MinariWriter().write([store], Path("datasets/walk-v0"))
    assert minari.load_dataset("walk-v0").total_steps == 2**15


def test_what_minari_cannot_hold_is_refused(tmp_path, root, corridor, walk):
    cell = stored(tmp_path / "a", walk([0, 1], [1, 1], final_observation={"cell": 1}))
    with pytest.raises(ValueError, match=r"one observation and one action space, but 'toy/corridor' and 'toy/everything' differ"):
        MinariWriter().write([cell, stored(tmp_path / "b", everything(1, 0))], root / "both-v0")
    with pytest.raises(ValueError, match=r"'walks' is no id of a Minari dataset; name the folder NAME-v0"):
        MinariWriter().write([cell], root / "walks")
    (root / "walks-v0").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"walks-v0' exists; an export is a new folder"):
        MinariWriter().write([cell], root / "walks-v0")


def test_the_command_line_imports_and_exports(tmp_path, root, monkeypatch, capsys):
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    name = dataset(buffer(2), buffer(4))
    assert main(["data", "import", "minari", name, "--clip_actions", "true"]) == 0
    assert main(["data", "export", "minari", str(root / "again-v0"), "minari/train"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{root / 'again-v0'}: 2 episodes, 6 timesteps, 0 repeated_final_observations"
    assert main(["data", "import", "minari", str(root / "nowhere-v0")]) == 2
    assert os.path.exists(root / "again-v0" / "data" / "main_data.hdf5")
    np.testing.assert_array_equal(minari.load_dataset("again-v0")[1].observations, minari.load_dataset(name)[1].observations)


def test_actions_without_bounds_take_those_of_the_options(tmp_path, root):
    free = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    moved = np.zeros((3, 1), np.float32)
    name = dataset(buffer(actions=moved), action=free)
    with pytest.raises(ValueError, match="its range is not finite with low < high; give --action_low and --action_high"):
        imported(name, tmp_path / "a")
    task = imported(name, tmp_path / "b", action_low=-2.0, action_high=2.0).tasks[0]
    assert (task.actions[0].low, task.actions[0].high) == ((-2.0,), (2.0,))


def test_episodes_that_the_metadata_does_not_count_are_refused(tmp_path, root):
    name = dataset(buffer(), buffer())
    path = next(root.rglob("metadata.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_episodes": 1}))
    with pytest.raises(ValueError, match="holds 2 episodes, but its metadata says 1; fetch it again, or mend total_episodes"):
        imported(name, tmp_path / "a")
