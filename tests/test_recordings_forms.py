"""The forms that recordings come in: dialects of tables, texts and pictures in arrays, attributes, masks, links; and the first spec."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gato.cli import main
from gato.data.formats.dataset import import_dataset
from gato.data.formats.left_out import LeftOut
from gato.data.formats.recordings.files import recording_files
from gato.data.formats.recordings.first_spec import first_spec
from gato.data.formats.recordings.reader import Recordings
from gato.data.store import Store
from gato.episode import Episode

h5py = pytest.importorskip("h5py", reason="needs the extra 'hdf5'")

ACTIONS = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
SPEC = "task: lab/arm\nobservations: {seen: seen}\nactions: {motors: {key: actions, low: -1, high: 1}}\n"
GROUPS = SPEC.replace("observations", "episodes: data/*\nobservations")
TABLE = "episode,x,action\n0,0.5,1\n0,1.5,2\n1,2.5,1\n"


def npz(folder: Path, name: str = "run.npz", **values) -> Path:
    np.savez(folder / name, **{"actions": ACTIONS} | values)
    return folder / name


def demonstrations(path: Path, **values) -> Path:
    """Three groups data/demo_N with the same arrays, their number as an attribute, and masks."""
    with h5py.File(path, "w") as file:
        for i in range(3):
            group = file.create_group(f"data/demo_{i}")
            for name, value in {"actions": ACTIONS, "seen": np.full((4, 2), i, np.float64), **values}.items():
                group[name] = value
            group.attrs["language"], group.attrs["success"], group.attrs["goal"] = f"bring {i} Äpfel", i == 1, np.array([i, 0.5])
        file["mask/train"], file["mask/valid"] = np.array([b"demo_0", b"demo_2"]), np.array([b"demo_1"])
    return path


def encoded(value: int, kind: str = "PNG", size: tuple[int, int] = (16, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def stores(path: Path, text: str, left_out: LeftOut | None = None) -> dict[str, Store]:
    (path.parent / "spec.yaml").write_text(text, encoding="utf-8")
    dataset = Recordings(path.parent / "spec.yaml").open(path, left_out)
    return {split: Store(folder) for split, folder in import_dataset(dataset, path.parent / "stores").items()}


def imported(path: Path, text: str) -> list[Episode]:
    store = stores(path, text)["train"]
    return [store.episode(i) for i in range(store.num_episodes)]


def refused(path: Path, text: str) -> str:
    with pytest.raises(ValueError) as caught:
        stores(path, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_first_spec(path: Path) -> tuple[str, list[Episode]]:
    """The printed spec, and the episodes that it gives as it is."""
    printed = Recordings().first_spec(path)
    return printed, imported(path, printed)


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", TABLE.encode()),
        ("A.CSV", TABLE.encode()),
        ("a.csv.gz", gzip.compress(TABLE.encode())),
        ("a.tsv", TABLE.replace(",", "\t").encode()),
        ("a.csv", TABLE.replace(",", "\t").encode()),
        ("a.csv", TABLE.replace(",", ";").replace(".", ",").encode()),  # as spreadsheets in most of Europe write it
        ("a.csv", ("sep=;\n" + TABLE.replace(",", ";")).encode()),
        ("a.csv", TABLE.replace(",", " , ").encode()),
        ("a.csv", TABLE.replace(",", "|").encode()),
        ("a.csv", f"# rig A; 20 Hz, two runs\n#\n\n{TABLE}".encode()),
        ("a.csv", f"# {TABLE}".encode()),  # np.savetxt(header=...)
        ("a.csv", TABLE.encode("utf-8-sig")),
        ("a.csv", TABLE.encode("utf-16")),
        ("a.csv", TABLE.encode("utf-32")),
        ("a.csv", TABLE.replace("\n", "\r\n").encode()),
        ("a.csv", TABLE.replace("\n", "\r").encode()),
        ("a.csv", "".join(f"{i},{line}\n" for i, line in zip(["", 0, 1, 2], TABLE.split("\n"), strict=False)).encode()),
        ("a.csv", TABLE.replace("\n", ",\n").encode()),
    ],
)
def test_a_table_in_any_dialect_is_the_same_episodes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    printed, (first, second) = by_first_spec(tmp_path / name)
    assert "episodes: {key: episode}" in printed
    assert (first.observations["observation"].tolist(), second.observations["observation"].tolist()) == ([0.5, 1.5], [2.5])
    assert (first.actions["action"].tolist(), second.actions["action"].tolist()) == ([1, 2], [1])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("0.5,1\n1.5,2\n", "has no names: line 1 holds numbers only"),
        ("x action\n0.5 1\n1.5 2\n", "is separated by blanks; save it with commas"),
        ("größe,action\n1,1\n".encode("latin-1"), "is not UTF-8 at byte 2; convert it first: iconv -f LATIN1"),
        (TABLE.encode("utf-16-le"), "holds zero bytes, so it is no table in UTF-8; if it is UTF-16"),
        ("", "is empty; expected the columns' names"),
        ("x,action\n", "holds names but no rows; leave it out"),
        ("x,action\n1,2\n3,4,\n", "line 3 has 3 cells, but there are 2 columns; repair the row"),
    ],
)
def test_a_table_that_cannot_be_read_says_what_to_do(tmp_path, content, line):
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"a\.csv") as caught:
        first_spec(tmp_path / "a.csv")
    assert line in str(caught.value)


def test_a_column_that_cannot_be_used_does_not_keep_the_others_back(tmp_path):
    (tmp_path / "a.csv").write_text("x,note,note,,action\n1.5,a,b,,0\n2.5,c,d,,1\n")
    printed, (episode,) = by_first_spec(tmp_path / "a.csv")
    assert "# left out: column 4 has no name" in printed and "twice; rename one" in printed
    assert episode.observations["observation"].tolist() == [1.5, 2.5]
    text = SPEC.replace("seen: seen", "note: note").replace("actions, low: -1, high: 1", "action, infer: true")
    assert "has the column 'note' twice; rename one" in refused(tmp_path / "a.csv", text)


def test_names_that_yaml_reads_otherwise_are_quoted(tmp_path):
    names = ["yes", "on: x", "#h", "pos[0]", "pos[1]", "1e3", "ä,b", "a'b", 'a"b', "null", "- x", "@y", "%z", "action [rad]"]
    rows = [[str(i + t / 2) for i in range(len(names))] for t in range(2)]
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    (tmp_path / "a.csv").write_text("\n".join([quoted, *map(",".join, rows)]), encoding="utf-8")
    _, (episode,) = by_first_spec(tmp_path / "a.csv")
    assert episode.actions["action"].tolist() == [13, 13.5] and episode.observations["pos"].tolist() == [[3, 4], [3.5, 4.5]]
    assert episode.observations["yes"].tolist() == [0, 0.5] and len(episode.observations) == 12


@pytest.mark.parametrize(("words", "line"), [("far,2,3,4", "holds 'far' among numbers"), ('"1,200","1,300","1,400"', "such as '1,200'")])
def test_numbers_among_which_is_a_word_are_no_text_unless_it_is_said(tmp_path, words, line):
    cells = words.split(",") if '"' not in words else words.replace('","', '"|"').split("|")
    (tmp_path / "a.csv").write_text("seen,actions\n" + "".join(f"{cell},0.5\n" for cell in cells))
    assert line in refused(tmp_path / "a.csv", SPEC)
    (episode,) = imported(tmp_path / "a.csv", SPEC.replace("seen: seen", "seen: {key: seen, modality: text}"))
    assert episode.observations["seen"][0] == cells[0].strip('"')


def test_a_mistake_in_a_table_is_named_by_its_line_behind_comments_and_line_ends_in_cells(tmp_path):
    (tmp_path / "a.csv").write_text('# by hand\nnote,actions\n"a\nb",0.5\n\nc,0.5\nd,7\n')
    line = refused(tmp_path / "a.csv", SPEC.replace("seen: seen", "note: note"))
    assert "a.csv, line 7: task 'lab/arm': action 'motors' at timestep 2 is 7.0, outside [-1, 1]" in line
    assert "widen the field's 'low' and 'high', or say 'clip_actions: true'" in line


# -- texts -----------------------------------------------------------------------------------------


def test_bytes_that_hold_utf_8_are_texts_in_every_format(tmp_path):
    text = SPEC + "instruction: {key: words}"
    for i, words in enumerate(
        [np.array("grüßen".encode()), np.array(["grüßen".encode()] * 4), np.array([b"gr\xc3\xbc\xc3\x9fen"]), np.array("grüßen")]
    ):
        seen = np.zeros((4, 2))
        folder = tmp_path / str(i)
        folder.mkdir()
        assert imported(npz(folder, seen=seen, words=words), text)[0].observations["instruction"].tolist() == ["grüßen"] * 4
        if words.dtype.kind == "S":
            with h5py.File(tmp_path / f"{i}.h5", "w") as file:
                file["actions"], file["seen"], file["words"] = ACTIONS, seen, words
            assert imported(tmp_path / f"{i}.h5", text)[0].observations["instruction"].tolist() == ["grüßen"] * 4
        for store in tmp_path.glob("stores/*/*"):
            store.unlink()


def test_bytes_that_are_no_text_are_never_read_as_their_letters(tmp_path):
    words = np.array([b"caf\xe9"] * 4)
    assert "row 0 holds bytes that are no text in UTF-8" in refused(npz(tmp_path, seen=words), SPEC)
    pictures = np.array([encoded(7, "JPEG")] * 4)
    (episode,) = imported(npz(tmp_path, seen=pictures), SPEC)
    assert abs(episode.observations["seen"].astype(int) - 7).max() <= 1 and episode.observations["seen"].shape == (4, 16, 32, 3)


# -- pictures --------------------------------------------------------------------------------------


def in_rows(content: bytes, width: int) -> np.ndarray:
    return np.frombuffer(content.ljust(width, b"\0"), np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_padded_rows_of_encoded_pictures_are_decoded(tmp_path, kind):
    rows = np.stack([in_rows(encoded(50 * t, kind), 4_000) for t in range(4)])
    printed, (episode,) = by_first_spec(npz(tmp_path, obs=rows))
    assert "observation: {key: obs, modality: image}  # encoded pictures" in printed
    assert [round(float(p.mean()) / 50) for p in episode.observations["observation"]] == [0, 1, 2, 3]
    assert episode.task.observations[0].shape == (16, 32, 3)


def test_rows_of_bytes_of_unequal_length_are_decoded(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["actions"] = ACTIONS
        frames = file.create_dataset("seen", (4,), h5py.vlen_dtype(np.uint8))
        for t in range(4):
            frames[t] = np.frombuffer(encoded(t), np.uint8)
    assert imported(tmp_path / "a.h5", SPEC)[0].observations["seen"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_encoded_pictures_of_several_sizes_need_a_shape(tmp_path):
    frames = np.array([encoded(9), encoded(9), encoded(9, size=(32, 64)), encoded(9)])
    line = refused(npz(tmp_path, seen=frames), SPEC)
    assert "at timestep 2 is a picture of 32x64 pixels, the first of 16x32; 'shape: [64, 64, 3]' fits all into one" in line
    (episode,) = imported(npz(tmp_path, seen=frames), SPEC.replace("seen: seen", "seen: {key: seen, shape: [16, 32, 3]}"))
    assert episode.observations["seen"].shape == (4, 16, 32, 3) and (episode.observations["seen"] == 9).all()


@pytest.mark.parametrize("shape", [(4, 16, 32, 1), (4, 1, 16, 32), (4, 3, 16, 32)])
def test_other_orders_of_a_pictures_axes_are_put_right(tmp_path, shape):
    frames = np.broadcast_to(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), shape)
    (episode,) = imported(npz(tmp_path, seen=frames), SPEC)
    assert episode.observations["seen"].shape == (4, 16, 32, 3) and episode.observations["seen"][3].tolist() == [[[3] * 3] * 32] * 16


@pytest.mark.parametrize(
    ("frames", "found", "value"),
    [
        (np.full((4, 16, 32), 7, np.uint8), "grey pictures", 7),
        (np.full((4, 16, 32, 3), 0.2, np.float32), "pictures of float32", 51),
        (np.full((4, 3, 16, 32), 0.2), "pictures of float64 with channels first", 51),
        (np.full((4, 16, 32), 1.0), "grey pictures of float64", 255),
    ],
)
def test_what_only_looks_like_pictures_must_be_called_so(tmp_path, frames, found, value):
    line = refused(npz(tmp_path, seen=frames), SPEC)
    assert f"observation 'seen' looks like {found} " in line and "say 'modality: image'" in line
    printed, (episode,) = by_first_spec(npz(tmp_path, obs=frames))
    assert f"modality: image}}  # {found}; if they are numbers" in printed
    assert episode.observations["observation"].shape == (4, 16, 32, 3) and (episode.observations["observation"] == value).all()
    (tmp_path / "numbers").mkdir()
    as_numbers = imported(npz(tmp_path / "numbers", seen=frames), SPEC.replace("seen: seen", "seen: {key: seen, modality: continuous}"))
    assert as_numbers[0].observations["seen"].shape == frames.shape


def test_pictures_of_numbers_out_of_their_range_are_refused_and_a_range_can_be_given(tmp_path):
    path = npz(tmp_path, seen=np.full((4, 16, 32, 3), 200.0, np.float32))
    image = SPEC.replace("seen: seen", "seen: {key: seen, modality: image}")
    assert "at timestep 0 is 200, but its pictures lie in [0, 1]; give 'low' (black) and 'high' (white)" in refused(path, image)
    assert (imported(path, image.replace("image}", "image, high: 255}"))[0].observations["seen"] == 200).all()


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_pictures_of_other_numbers_from_0_to_255_are_called_so_in_the_spec_that_is_printed(tmp_path, dtype):
    frames = np.full((4, 16, 32, 3), 200, dtype)
    printed, (episode,) = by_first_spec(npz(tmp_path, obs=frames))
    assert "modality: image, low: 0, high: 255}" in printed
    assert (episode.observations["observation"] == 200).all()


def test_four_channels_are_refused_where_the_fourth_says_something(tmp_path):
    opaque = np.full((4, 16, 32, 4), 255, np.uint8)
    assert imported(npz(tmp_path, seen=opaque), SPEC)[0].observations["seen"].shape == (4, 16, 32, 3)
    assert "has four channels" in refused(npz(tmp_path, "b.npz", seen=opaque // 2), SPEC)


# -- HDF5: attributes, masks, links -------------------------------------------------------------------


def test_attributes_are_read_as_texts_flags_and_values_of_every_timestep(tmp_path):
    text = GROUPS.replace("{seen: seen}", "{seen: seen, goal: '@goal'}") + "instruction: {key: '@language'}\nsuccess: '@success'"
    episodes = imported(demonstrations(tmp_path / "a.h5"), text)
    assert [e.observations["instruction"].tolist() for e in episodes] == [[f"bring {i} Äpfel"] * 4 for i in range(3)]
    assert [e.success for e in episodes] == [False, True, False] and episodes[2].observations["goal"].tolist() == [[2, 0.5]] * 4


def test_an_attribute_that_is_not_there_is_answered_with_the_nearest(tmp_path):
    line = refused(demonstrations(tmp_path / "a.h5"), GROUPS + "instruction: {key: '@langage'}")
    assert "has no attribute 'data/demo_0/@langage'; did you mean 'language'?" in line


def test_an_attribute_of_the_file_and_an_array_of_the_file_are_reached_by_a_slash(tmp_path):
    with h5py.File(demonstrations(tmp_path / "a.h5"), "a") as file:
        file.attrs["what"], file["words"] = "sort", "all of them"
    first = imported(tmp_path / "a.h5", GROUPS.replace("{seen: seen}", "{what: '/@what', words: /words}"))[0]
    assert first.observations["what"][0] == "sort" and first.observations["words"][3] == "all of them"


def test_masks_are_splits_and_what_no_mask_names_is_counted(tmp_path):
    path = demonstrations(tmp_path / "a.h5")
    found = stores(path, GROUPS + "split: {masks: {train: mask/train, validation: mask/valid}}")
    assert {split: [e.observations["seen"][0, 0] for e in map(s.episode, range(s.num_episodes))] for split, s in found.items()} == {
        "train": [0, 2], "validation": [1],
    }  # fmt: skip
    left_out = LeftOut()
    (tmp_path / "spec.yaml").write_text(GROUPS + "split: {masks: {test: mask/valid}}")
    assert Recordings(tmp_path / "spec.yaml").open(path, left_out).splits == {"test": 1}
    assert left_out.lines() == [f"left out: 2 episodes that no mask names, such as {path}, data/demo_0"]
    assert "data/demo_0 is in the masks of a and b" in refused(path, GROUPS + "split: {masks: {a: mask/train, b: mask/train}}")


def test_groups_behind_links_are_episodes_too_and_those_of_other_files_are_refused(tmp_path):
    with h5py.File(demonstrations(tmp_path / "a.h5"), "a") as file:
        file["data/demo_3"] = h5py.SoftLink("/data/demo_0")
        file["data/loop"] = h5py.SoftLink("/data")
    assert len(imported(tmp_path / "a.h5", GROUPS.replace("data/*", "data/demo_*"))) == 4
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["data/demo_4"] = h5py.ExternalLink("b.h5", "/data/demo_0")
    assert "leads to the file 'b.h5'; copy its data into this file" in refused(tmp_path / "a.h5", GROUPS.replace("data/*", "data/demo_*"))


# -- numbers ---------------------------------------------------------------------------------------


def test_byte_orders_halves_and_columns_first_are_the_same_numbers(tmp_path):
    values = np.arange(12.0).reshape(4, 3)
    for i, seen in enumerate([values.astype(">f4"), values.astype("f2"), np.asfortranarray(values), values.astype(">i2")]):
        (tmp_path / str(i)).mkdir()
        text = SPEC.replace("seen: seen", "seen: {key: seen, modality: continuous}")
        (episode,) = imported(npz(tmp_path / str(i), seen=seen, actions=ACTIONS.astype(">f8")), text)
        assert episode.observations["seen"].tolist() == values.tolist()


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (np.zeros(4, complex), "has dtype complex128; expected bool, integers, floats or text"),
        (np.zeros(4, "M8[s]"), "has dtype datetime64[s]"),
        (np.zeros(4, [("a", "f4"), ("b", "i4")]), "has named parts ['a', 'b']"),
        (np.array([{}, 1, 2, 3], object), "holds Python objects, which would have to be unpickled"),
        (np.zeros((4, 0)), "has shape (0,), so no elements"),
        (np.float32(3), "has no rows but the actions have 4"),
    ],
)
def test_what_has_no_tokens_is_refused_and_left_out_of_the_first_spec(tmp_path, seen, line):
    assert line in refused(npz(tmp_path, seen=seen), SPEC)
    printed, (episode,) = by_first_spec(npz(tmp_path, "b.npz", seen=seen, obs=np.zeros((4, 2))))
    assert "# left out: seen:" in printed and set(episode.observations) == {"observation"}


def test_an_array_that_is_there_twice_is_refused(tmp_path):
    import zipfile

    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(npz(tmp_path, seen=np.zeros(4)), "a") as file:
        file.writestr("seen.npy", file.read("seen.npy"))
    assert "'seen' is there twice" in refused(tmp_path / "run.npz", SPEC)


# -- the first spec ----------------------------------------------------------------------------------


def test_common_names_are_recognised(tmp_path):
    done = np.arange(4) == 3
    path = npz(
        tmp_path, obs=np.zeros((4, 3)), next_obs=np.ones((4, 3)), act=ACTIONS, rew=np.ones(4), term=done, trunc=np.zeros(4), t=np.arange(4)
    )
    printed, (episode,) = by_first_spec(
        npz(tmp_path, "b.npz", **{k: v for k, v in np.load(path).items() if k != "actions"}, actions=ACTIONS)
    )
    assert "observation: {key: obs, next: next_obs}" in printed and "reward: rew\nterminated: term\ntruncated: trunc" in printed
    assert episode.final_observation["observation"].tolist() == [1, 1, 1] and (episode.terminated, episode.total_reward) == (True, 4)
    assert set(episode.actions) == {"act", "actions"} and "# left out: t: it counts or times the rows" in printed


def test_an_observation_more_than_actions_is_the_last_one(tmp_path):
    printed, (episode,) = by_first_spec(npz(tmp_path, obs=np.arange(5.0)[:, None], done=np.arange(4) == 3))
    assert "episodes" not in printed and "terminated: done" in printed
    assert (
        episode.observations["observation"].ravel().tolist() == [0, 1, 2, 3]
        and episode.final_observation["observation"].tolist() == [4]
        and episode.terminated
    )


def test_last_observations_that_not_all_have_are_left_out_by_word(tmp_path):
    printed, (episode,) = by_first_spec(npz(tmp_path, obs_a=np.zeros((5, 1)), obs_b=np.zeros((4, 1))))
    assert "final_observation: false" in printed and episode.final_observation is None


def test_wide_whole_numbers_become_continuous_and_arrays_of_other_lengths_a_comment(tmp_path):
    printed, (episode,) = by_first_spec(npz(tmp_path, ticks=np.arange(4) * 1_000, compress_len=np.zeros((2, 4)), qpos=np.zeros((4, 2))))
    assert (
        "ticks: {key: ticks, modality: continuous}" in printed and "# left out: compress_len: it has 2 rows, the actions have 4" in printed
    )
    assert set(episode.observations) == {"ticks", "qpos"}


def test_groups_are_found_and_their_language_is_the_instruction(tmp_path):
    printed, episodes = by_first_spec(demonstrations(tmp_path / "a.h5", dones=np.arange(4) == 3))
    assert 'instruction: {key: "@language"}' in printed and "# split: {masks: {train: mask/train}}" in printed
    assert [e.observations["instruction"][0] for e in episodes] == [f"bring {i} Äpfel" for i in range(3)]


# -- files -----------------------------------------------------------------------------------------


def test_linked_folders_are_read_and_files_of_other_kinds_are_counted(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    npz(tmp_path / "elsewhere", "2.npz", seen=np.zeros(4))
    npz(tmp_path / "here", "1.NPZ".lower(), seen=np.zeros(4))
    (tmp_path / "here" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    np.save(tmp_path / "here" / "stray.npy", ACTIONS)
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert (
        main(["data", "import", "recordings", str(tmp_path / "here"), "--spec", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "o")])
        == 0
    )
    printed = capsys.readouterr().out
    assert "train: 2 episodes" in printed
    assert f"left out: 1 files that are no HDF5, NPZ, CSV or TSV, such as {tmp_path}/here/stray.npy" in printed


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.npy", "put all of an episode into one file with np.savez"),
        ("a.pkl", "would have to be unpickled, which runs programs"),
        ("a.mat", "scipy.io.loadmat"),
        ("a.npz.gz", "unpack it"),
        ("a", "save it as one of them, or write an adapter"),
    ],
)
def test_a_file_of_another_kind_is_answered_with_its_remedy(tmp_path, name, line):
    (tmp_path / name).write_bytes(b"x")
    assert "is of no known format" in refused(tmp_path / name, SPEC) and line in refused(tmp_path / name, SPEC)
    assert "gone.npz does not exist" in refused(tmp_path / "gone.npz", SPEC)


def test_bad_episodes_are_skipped_only_where_it_is_allowed(tmp_path):
    for i in range(4):
        npz(tmp_path, f"{i}.npz", seen=np.zeros(4 if i % 2 else 3))
    (tmp_path / "5.npz").write_bytes(b"no archive")
    pattern = tmp_path / "*.npz"
    line = refused(pattern, SPEC)
    assert "5.npz is no readable NPZ file: it is no ZIP archive" in line and line.endswith("(or leave out up to N bad rows with --skip N)")
    assert "3 rows are bad, but --skip allows 2" in (_ := _refused_with(pattern, LeftOut(2)))
    store = stores(pattern, SPEC, LeftOut(3))["train"]
    assert [store.episode(i).parameters["recording"] for i in range(2)] == ["1.npz", "3.npz"]
    assert [x["row"].split(":")[0].rpartition("/")[2] for x in store.manifest.provenance["skipped"]][1:] == ["0.npz", "2.npz"]


def _refused_with(path: Path, left_out: LeftOut) -> str:
    with pytest.raises(ValueError) as caught:
        stores(path, SPEC, left_out)
    return str(caught.value)


def test_a_link_among_recordings_that_leads_nowhere_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    for name in ("b.npz", "c.csv"):
        (tmp_path / name).symlink_to("/nowhere/at-all")
        with pytest.raises(ValueError, match=rf"{name} is a link to /nowhere/at-all, which does not exist"):
            recording_files(tmp_path, LeftOut())
        (tmp_path / name).unlink()
    assert recording_files(tmp_path, LeftOut()) == [tmp_path / "a.npz"]
