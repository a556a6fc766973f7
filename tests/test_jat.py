"""JAT-style data sets: rows that are episodes, in the layouts and files of the hub, both ways."""

import io
import json
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gato.cli import main
from gato.data.formats.dataset import import_dataset
from gato.data.formats.jat import JatReader
from gato.data.formats.jat_writer import JatWriter
from gato.data.formats.left_out import LeftOut
from gato.data.store import Store
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.words import caption_task, document_task
from tests.round_trip import assert_equal, everything, stored


def png(pixels: np.ndarray, kind: str = "PNG") -> dict:
    """An encoded picture, as `datasets` stores it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return {"bytes": buffer.getvalue(), "path": None}


def swim(length: int = 3, **rest) -> dict:
    """A row of continuous observations (2,) and actions (1,): 0.1, 0.2, ..., rewarded with 1 each time."""
    steps = [(t + 1) / 10 for t in range(length)]
    row = {"continuous_observations": [[s, -s] for s in steps], "continuous_actions": [[s] for s in steps], "rewards": [1.0] * length}
    return row | rest


def write(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=2)
    else:
        table = pa.Table.from_pylist(list(rows))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    return path


def imported(path: Path, out: Path, split: str = "train", **options) -> Store:
    return Store(import_dataset(JatReader(**options).open(path), out)[split])


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# -- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "jsonl"])
def test_rows_become_episodes(tmp_path, suffix, no_network):
    write(tmp_path / "mujoco-swimmer" / f"train-00000-of-00001.{suffix}", swim(3), swim(5))
    store = imported(tmp_path, tmp_path / "out")
    store.validate()
    episode = store.episode(1)
    assert (store.tasks[0].name, store.lengths.tolist()) == ("mujoco/swimmer", [3, 5])
    np.testing.assert_allclose(episode.observations["continuous_observations"][4], [0.5, -0.5], rtol=1e-7)
    np.testing.assert_allclose(episode.actions["continuous_actions"][:, 0], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-7)
    assert episode.rewards.tolist() == [1.0] * 5 and episode.final_observation is None


def test_ranges_are_inferred_from_every_row_and_said_in_the_provenance(tmp_path):
    row = {"discrete_observations": [[3, 0], [1, 9]], "text_observations": ["go"] * 2, "discrete_actions": [0, 2], "rewards": [0.0, 1.0]}
    folder = tmp_path / "babyai-go"
    write(folder / "train-00000-of-00002.parquet", row)
    write(folder / "train-00001-of-00002.parquet", row | {"discrete_actions": [6, 1]})
    store = imported(folder, tmp_path / "out")
    task = store.tasks[0]
    assert {f.name: (f.shape, f.low, f.high) for f in task.fields} == {
        "discrete_observations": ((2,), (0,), (9,)),
        "text_observations": ((), None, None),
        "discrete_actions": ((), (0,), (6,)),
    }
    provenance = store.manifest.provenance
    assert provenance["inferred"]["discrete_actions"] == {"shape": [], "low": [0], "high": [6]}
    assert provenance["final_observation"] == "not stored" and provenance["ends"].startswith("not stored")


def test_ranges_can_be_given(tmp_path):
    path = write(tmp_path / "train.parquet", swim(3))
    task = imported(path, tmp_path / "found").tasks[0]
    assert (task.actions[0].low, task.actions[0].high) == (pytest.approx((0.1,)), pytest.approx((0.3,)))
    task = imported(path, tmp_path / "given", action_low=-1.0, action_high=1.0).tasks[0]
    assert (task.actions[0].low, task.actions[0].high) == ((-1.0,), (1.0,))
    path = write(tmp_path / "other.parquet", {"discrete_actions": [0, 1], "rewards": [0.0, 0.0], "discrete_observations": [[1], [1]]})
    assert imported(path, tmp_path / "actions", num_actions=18).tasks[0].actions[0].high == (17,)


def test_actions_outside_a_given_range_are_refused_or_clipped_and_counted(tmp_path):
    path = write(tmp_path / "train.parquet", swim(3))
    with pytest.raises(ValueError, match=r"train.parquet, row 0: .*'continuous_actions' at timestep 2 is 0.3.*, outside \[-0.25, 0.25\]"):
        imported(path, tmp_path / "refused", action_low=-0.25, action_high=0.25)
    found = imported(path, tmp_path / "clipped", action_low=-0.25, action_high=0.25, clip_actions=True).episode(0)
    assert found.actions["continuous_actions"].max() == 0.25 and found.parameters == {"clipped_actions": 1}


@pytest.mark.parametrize(
    "names",
    [
        {"train": "swim/train-00000-of-00001.parquet", "test": "swim/test-00000-of-00001.parquet"},
        {"train": "data/swim/train/0.parquet", "test": "data/swim/test/0.parquet"},
        {"train": "train.parquet", "test": "test.jsonl"},
        {"train": "train/data-00000-of-00001.arrow", "test": "test/data-00000-of-00001.arrow"},
    ],
)
def test_splits_are_known_by_the_names_of_files(tmp_path, names):
    for length, name in enumerate(names.values(), start=1):
        write(tmp_path / "in" / name, swim(length))
    folders = import_dataset(JatReader().open(tmp_path / "in"), tmp_path / "out")
    assert {split: Store(folder).lengths.tolist() for split, folder in folders.items()} == {"train": [1], "test": [2]}


def test_one_of_several_subsets_is_chosen(tmp_path):
    for name in ("atari-alien", "atari-pong"):
        write(tmp_path / name / "train-00000-of-00001.parquet", swim())
    with pytest.raises(ValueError, match=r"holds several subsets; choose one with --subset: atari-alien, atari-pong"):
        JatReader().open(tmp_path)
    assert JatReader(subset="atari-pong").open(tmp_path).tasks[0].name == "atari/pong"
    with pytest.raises(ValueError, match=r"has no subset 'atari-qbert'"):
        JatReader(subset="atari-qbert").open(tmp_path)


def test_optional_columns_become_labels(tmp_path):
    labels = dict(terminated=True, truncated=False, success=True, instruction="swim far", episode_id="a7", source="lab", license="MIT")
    path = write(tmp_path / "train.parquet", swim(2, task="lab/swim", **labels))
    episode = imported(path, tmp_path / "out", behaviour="human").episode(0)
    assert (episode.task.name, episode.terminated, episode.success, episode.behaviour) == ("lab/swim", True, True, "human")
    assert episode.observations["instruction"].tolist() == ["swim far", "swim far"]
    assert episode.parameters == {"episode_id": "a7", "source": "lab", "licence": "MIT"}


def test_pictures_keep_their_size_or_are_fitted(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    path = write(
        tmp_path / "train.parquet", {"image_observations": [png(p) for p in pixels], "discrete_actions": [0, 1], "rewards": [0.0] * 2}
    )
    found = imported(path, tmp_path / "out")
    np.testing.assert_array_equal(found.episode(0).observations["image_observations"], pixels)
    assert found.tasks[0].observations[0].resize == "pad"
    assert imported(path, tmp_path / "fit", image_size=(16, 16)).episode(0).observations["image_observations"].shape == (2, 16, 16, 3)


def test_stacked_grey_frames_are_refused_or_reduced_to_the_last(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    path = write(tmp_path / "train.parquet", {"image_observations": [png(frames)], "discrete_actions": [1], "rewards": [0.0]})
    with pytest.raises(ValueError, match=r"timestep 0 is a picture of 4 channels; .*--stacked_frames true keeps the last"):
        JatReader().open(path)
    found = imported(path, tmp_path / "out", stacked_frames=True).episode(0).observations["image_observations"]
    np.testing.assert_array_equal(found[0], frames[:, :, 3:].repeat(3, axis=2))


def test_rows_of_text_become_documents_and_with_pictures_captions(tmp_path):
    path = write(tmp_path / "wiki.parquet", {"text": "A cat."}, {"text": "A dog."})
    store = imported(path, tmp_path / "documents")
    assert [str(store.episode(i).actions["text"][0]) for i in range(2)] == ["A cat.", "A dog."]
    assert store.tasks[0] == document_task("jat/wiki")
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    store = imported(write(tmp_path / "pictures.parquet", {"images": png(red), "text": "red"}), tmp_path / "captions", image_size=(16, 16))
    assert store.tasks[0] == caption_task("jat/pictures", (16, 16))
    assert store.episode(0).observations["image"][0, 8, 8].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "jsonl"])
def test_reading_starts_at_any_row_of_any_file(tmp_path, suffix):
    for k in range(2):
        write(tmp_path / "in" / f"train-0000{k}-of-00002.{suffix}", *(swim(5 * k + n) for n in range(1, 6)))
    episodes = JatReader().open(tmp_path / "in").episodes
    for start in range(11):
        assert [e.num_timesteps for e in episodes("train", start)] == list(range(start + 1, 11))


def test_an_interrupted_import_goes_on_where_it_stopped(tmp_path):
    path = write(tmp_path / "train.parquet", swim(1), swim(2), swim(3, continuous_observations=[[0.0, float("nan")]] * 3))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"train.parquet, row 2: .*'continuous_observations' at timestep 0 is not finite"):
            imported(path, tmp_path / "out")
        assert Store(tmp_path / "out" / "train").lengths.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (swim(3, rewards=[1.0, 1.0]), "column 'continuous_observations' has 3 timesteps but 'rewards' has 2"),
        (swim(3, continuous_actions=[[0.1]]), "column 'continuous_actions' has 1 timesteps but 'rewards' has 3"),
        (swim(0), "an episode of no timesteps"),
        (swim(2, rewards=[1.0, float("inf")]), "the reward at timestep 1 is not finite"),
        (swim(2, rewards=None), "column 'rewards' is null"),
        (swim(2, continuous_actions=[[0.1], [None]]), "column 'continuous_actions' holds a null"),
        (swim(2, continuous_actions=[[0.1], [0.2, 0.3]]), "column 'continuous_actions' has 2 values at timestep 1, but 1 before"),
        (
            swim(2, continuous_actions=[[0.1, 0.2]] * 2),
            r"column 'continuous_actions' has timesteps of shape \(2,\), the rows before it \(1,\)",
        ),
        (swim(1, continuous_actions=[[float("nan")]]), "column 'continuous_actions' at timestep 0 is not finite"),
        (swim(2, continuous_actions=None), "column 'continuous_actions' is null, but not in all rows"),
    ],
)
def test_a_row_that_is_no_episode_is_refused_with_its_place(tmp_path, wrong, line):
    path = write(tmp_path / "train.parquet", swim(), swim(), wrong)
    with pytest.raises(ValueError, match=rf"train.parquet, row 2: .*{line}"):
        imported(path, tmp_path / "out")


def test_pictures_are_never_looked_for_outside_the_file(tmp_path):
    picture = {"bytes": None, "path": "/etc/passwd"}
    path = write(tmp_path / "train.parquet", {"image_observations": [picture], "discrete_actions": [1], "rewards": [0.0]})
    with pytest.raises(
        ValueError, match=r"row 0: column 'image_observations', timestep 0 holds no encoded picture; store its bytes in the file"
    ):
        JatReader().open(path)


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "jsonl"])
def test_a_cut_file_is_named(tmp_path, suffix):
    path = write(tmp_path / f"train.{suffix}", *(swim(50) for _ in range(10)))
    content = path.read_bytes()
    for share in (0.33, 0.65, 0.97):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=rf"train.{suffix}"):
            imported(path, tmp_path / f"out{share}")


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file or folder '.*gone'; for the name of a data set on the hub add --hub true"):
        JatReader().open(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"holds no files of rows; expected .parquet, .arrow, .jsonl"):
        JatReader().open(tmp_path)
    with pytest.raises(ValueError, match=r"has the columns \['label'\]; expected 'rewards' with actions"):
        JatReader().open(write(tmp_path / "train.parquet", {"label": 3}))
    write(tmp_path / "test.parquet", swim())
    with pytest.raises(ValueError, match=r"differ in the columns"):
        JatReader().open(tmp_path)


# -- with Hugging Face's own library -------------------------------------------------------------------


def test_a_folder_of_save_to_disk_is_imported(tmp_path, no_network):
    datasets = pytest.importorskip("datasets", reason="pip install 'opengato[data]'")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    features = datasets.Features(
        image_observations=datasets.List(datasets.Image()), discrete_actions=datasets.List(datasets.Value("int64")),
        rewards=datasets.List(datasets.Value("float32")),
    )  # fmt: skip
    row = {"image_observations": [Image.fromarray(pixels)], "discrete_actions": [1], "rewards": [1.0]}
    split = datasets.Dataset.from_list([row], features=features)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "atari-pong"))
    store = imported(tmp_path / "atari-pong", tmp_path / "out", split="test")
    assert store.tasks[0].name == "atari/pong"
    np.testing.assert_array_equal(store.episode(0).observations["image_observations"][0], pixels)


def test_what_datasets_loads_by_name_is_imported_when_asked_for(tmp_path, monkeypatch, no_network):
    datasets = pytest.importorskip("datasets", reason="pip install 'opengato[data]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "in" / "train-00000-of-00001.parquet", swim(3), swim(4))
    store = imported(tmp_path / "in", tmp_path / "out", hub=True, task="lab/swim")
    assert (store.tasks[0].name, store.lengths.tolist()) == ("lab/swim", [3, 4])


def test_datasets_opens_what_we_write(tmp_path, monkeypatch, no_network):
    datasets = pytest.importorskip("datasets", reason="pip install 'opengato[data]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    episode = everything(2, 0)
    JatWriter().write([stored(tmp_path / "a", episode), stored(tmp_path / "b", episode, split="test")], tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), "toy-everything")
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 1, "test": 1}
    assert loaded["train"].features["image_observations"] == datasets.List(datasets.Image())
    assert loaded["train"].features["discrete_actions"] == datasets.List(datasets.Value("int64"))
    row = loaded["train"][0]
    np.testing.assert_array_equal(np.array(row["image_observations"][1]), episode.observations["camera"][1])
    assert row["discrete_actions"] == episode.actions["grip"].tolist() and row["terminated"] is False
    plain = datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / "toy-everything" / "train-*.parquet"))["train"]
    assert plain[0]["rewards"] == episode.rewards.tolist()


# -- writing, and back ---------------------------------------------------------------------------------


def test_everything_survives_the_way_there_and_back(tmp_path):
    labels = dict(terminated=True, success=True, seed=3, behaviour="noisy", parameters={"goal": [1, "a"]})
    episodes = everything(4, 0, **labels), everything(1, 1, truncated=True, success=False), everything(6, 2, final_observation=None)
    counts = JatWriter().write([stored(tmp_path / "in", *episodes)], tmp_path / "jat")
    assert counts == {"episodes": 3, "timesteps": 11, "tasks": 1}
    store = imported(tmp_path / "jat", tmp_path / "out")
    store.validate()
    assert store.tasks == (episodes[0].task,)
    for i, episode in enumerate(episodes):
        assert_equal(store.episode(i), episode)


def test_numbers_without_pictures_survive(tmp_path, walk):
    episodes = walk([0, 0, 1], [0, 1, 1], terminated=True, final_observation={"cell": np.int64(1)}), walk([1], [1])
    JatWriter().write([stored(tmp_path / "in", *episodes)], tmp_path / "jat")
    assert (tmp_path / "jat" / "toy-corridor" / "train-00000-of-00001.parquet").is_file()
    store = imported(tmp_path / "jat", tmp_path / "out")
    for i, episode in enumerate(episodes):
        assert_equal(store.episode(i), episode)


def test_captions_and_documents_survive(tmp_path):
    red = np.full((1, 16, 16, 3), (255, 0, 0), np.uint8)
    said = {"rewards": np.zeros(1, np.float32), "terminated": True, "behaviour": "human", "parameters": {"licence": "CC0"}}
    caption = Episode(caption_task("captions/toy", (16, 16)), {"image": red}, {"caption": np.array(["a red square"], object)}, **said)
    document = Episode(document_task("text/toy"), {}, {"text": np.array(["Ein Satz."], object)}, **said)
    for name, episode in (("captions", caption), ("text", document)):
        JatWriter().write([stored(tmp_path / f"{name}-in", episode)], tmp_path / f"{name}-jat")
        store = imported(tmp_path / f"{name}-jat", tmp_path / f"{name}-out")
        assert store.tasks == (episode.task,)
        assert_equal(store.episode(0), episode)


def test_what_was_imported_can_be_exported_again(tmp_path):
    path = write(tmp_path / "train.parquet", swim(2, instruction="swim far"), swim(3, instruction="swim"))
    first = imported(path, tmp_path / "first", task="lab/swim")
    JatWriter().write([first], tmp_path / "jat")
    second = imported(tmp_path / "jat", tmp_path / "second")
    assert second.tasks == first.tasks
    assert_equal(second.episode(1), first.episode(1))


def test_what_a_row_cannot_hold_is_refused_and_nothing_is_left(tmp_path, walk):
    view = FieldSpec("left", Modality.IMAGE, "observation", (16, 16, 3), "uint8", path=("left",))
    push = FieldSpec("push", Modality.DISCRETE, "action", dtype="int64", low=(0,), high=(1,), path=("push",))
    task = TaskSpec("toy/eyes", (view, FieldSpec(**{**view.__dict__, "name": "right", "path": ("right",)}), push))
    black = np.zeros((1, 16, 16, 3), np.uint8)
    eyes = Episode(task, {"left": black, "right": black}, {"push": np.zeros(1, np.int64)}, np.zeros(1, np.float32))
    with pytest.raises(ValueError, match=r"observation 'right' is image, and JAT's rows have one image column for that"):
        JatWriter().write([stored(tmp_path / "in", eyes)], tmp_path / "jat")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    (tmp_path / "jat").mkdir()
    with pytest.raises(ValueError, match=r"jat' exists; an export is a new folder"):
        JatWriter().write([stored(tmp_path / "walks", walk([0], [1]))], tmp_path / "jat")


def test_the_command_line_imports_and_exports(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    path = write(tmp_path / "train.parquet", swim(2), swim(4))
    assert main(["data", "import", "jat", str(path), "--action_low=-1", "--action_high=1", "--task", "lab/swim"]) == 0
    assert main(["data", "export", "jat", str(tmp_path / "again"), "jat/train"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path / 'again'}: 2 episodes, 6 timesteps, 1 tasks"
    assert (tmp_path / "again" / "lab-swim" / "train-00000-of-00001.parquet").is_file()


@pytest.mark.parametrize("name", ["rewards", "continuous_actions", "continuous_observations"])
@pytest.mark.parametrize("value", [1.5, "[1.5]"])
def test_a_row_for_each_timestep_is_refused_in_words(tmp_path, name, value):
    path = write(tmp_path / "train.parquet", swim() | {name: value}, swim() | {name: value})
    with pytest.raises(ValueError, match=rf"row 0: column '{name}' holds one .* a row; a row must be a whole episode"):
        imported(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"success": "no"}, "column 'success' is 'no', expected true or false"),
        ({"seed": 1.5}, "column 'seed' is 1.5, expected a whole number"),
        ({"behaviour": "wizard"}, "column 'behaviour' is 'wizard', expected one of"),
        ({"parameters": 3}, "column 'parameters' is 3, expected JSON as text"),
        ({"continuous_observations": np.zeros((3, 16, 16)).tolist()}, "looks like grey pictures of float32"),
        ({"rewards": [[1.0], [2.0], [3.0]]}, "column 'rewards' has the shape \\(1,\\) a timestep"),
    ],
)
def test_an_odd_value_is_named_with_its_row_and_column(tmp_path, changed, line):
    with pytest.raises(ValueError, match=line):
        imported(write(tmp_path / "train.jsonl", swim() | changed), tmp_path / "out")


def test_a_line_with_other_columns_than_the_first_is_refused(tmp_path):
    path = write(tmp_path / "train.jsonl", swim(), swim(instruction="go"))
    with pytest.raises(ValueError, match=r"line 2|row 1.*differ in the columns \['instruction'\]"):
        imported(path, tmp_path / "out")


def test_columns_and_files_that_are_not_read_are_counted_and_links_are_followed(tmp_path):
    path = write(tmp_path / "here" / "train" / "0.parquet", swim(tactile=[1.0, 2.0, 3.0])).parent.parent
    write(tmp_path / "elsewhere" / "0.parquet", swim(tactile=[1.0, 2.0, 3.0]))
    (path / "test").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (path / "notes.csv").write_text("a,b")
    left_out = LeftOut()
    assert JatReader().open(path, left_out).splits == {"train": 1, "test": 1}
    assert sorted(left_out.counts.items()) == [("columns that are not read", 1), ("files that are no parquet, Arrow or JSON lines", 1)]


def test_bad_rows_are_skipped_where_it_is_allowed(tmp_path):
    bad = swim() | {"rewards": [1.0]}
    path = write(tmp_path / "train.parquet", swim(2), bad, swim(1))
    left_out = LeftOut(1)
    store = Store(import_dataset(JatReader().open(path, left_out), tmp_path / "out")["train"])
    assert store.lengths.tolist() == [2, 1] and "row 1" in left_out.episodes[0]
