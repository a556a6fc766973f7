"""Datasets that other projects' writers made (`fixtures/write_foreign.py`) are read as they are."""

from pathlib import Path

import pytest

from gato.data.formats.dataset import import_dataset, reader
from gato.data.store import Store

FOREIGN = Path(__file__).parent / "fixtures" / "foreign"
SQUARES = {"a red square": [255, 0, 0], "a green square": [0, 128, 0], "a blue square": [0, 0, 255]}


def imported(kind: str, path: Path, out: Path, **options) -> Store:
    folders = import_dataset(reader(kind)(**options).open(path), out)
    store = Store(folders["train"])
    store.validate()
    return store


@pytest.mark.parametrize("name", ["polars.parquet", "fastparquet.parquet", "duckdb.parquet", "pandas.jsonl", "pandas.csv"])
def test_documents_of_every_writer_of_tables_are_read(tmp_path, name):
    store = imported("text", FOREIGN / name, tmp_path)
    episodes = [store.episode(i) for i in range(store.num_episodes)]
    assert [e.actions["text"][0] for e in episodes] == ["a cat", "two dogs", "drei Öfen"]
    assert [e.parameters["title"] for e in episodes] == ["one", "two", "three"]


@pytest.mark.parametrize(("kind", "path"), [("webdataset", FOREIGN), ("pictures", FOREIGN / "datasets.parquet")])
def test_pictures_of_webdataset_and_of_datasets_are_read_pixel_by_pixel(tmp_path, kind, path):
    store = imported(kind, path, tmp_path, image_size=(16, 16))
    episodes = [store.episode(i) for i in range(store.num_episodes)]
    assert {e.actions["caption"][0]: e.observations["image"][0, 0, 0].tolist() for e in episodes} == SQUARES
    assert all((e.observations["image"] == e.observations["image"][0, 0, 0]).all() for e in episodes)
    if kind == "webdataset":
        assert {e.parameters["licence"] for e in episodes} == {"CC0-1.0"}


def test_arrays_that_numpy_compressed_are_read_with_their_last_observation(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("task: lab/line\nobservations: {place: observations}\nactions: {push: {key: actions, low: -1, high: 1}}\n")
    episode = imported("recordings", FOREIGN / "numpy.npz", tmp_path, spec=spec).episode(0)
    assert episode.observations["place"].tolist() == [[t, t / 2] for t in range(5)]
    assert episode.final_observation["place"].tolist() == [5, 2.5]
    assert episode.actions["push"].tolist() == [[t / 8 - 0.25] for t in range(5)]
