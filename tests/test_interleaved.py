"""Documents of pictures and texts in turn: read, stored, drawn as tokens, packed."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gato.agent import Agent
from gato.data.formats.dataset import import_dataset
from gato.data.formats.interleaved import InterleavedReader, interleaved_task
from gato.data.formats.left_out import LeftOut
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import Store
from gato.episode import Episode
from gato.tokenizers.episode import EpisodeTokenizer
from gato.words import question_task

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two documents, one of them with pictures, in JSON lines beside red.png and blue.png."""
    for name, colour in (("red", RED), ("blue", BLUE)):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    rows = [
        {"images": [None, "red.png", None, None, "blue.png"], "texts": ["go to", None, "the red", "ball", None], "title": "album"},
        {"images": [None], "texts": ["no picture"]},
    ]
    (tmp_path / "album.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "album.jsonl"


def only_episode(path: Path) -> Episode:
    dataset = InterleavedReader((16, 16)).open(path)
    assert dict(dataset.splits) == {"train": 1}
    (episode,) = dataset.episodes("train", 0)
    return episode


def test_every_picture_is_a_timestep_with_the_text_behind_it(album):
    episode = only_episode(album)
    assert list(episode.observations["before"]) == ["go to", ""]
    assert [tuple(p[8, 8]) for p in episode.observations["image"]] == [RED, BLUE]
    assert list(episode.actions["text"]) == ["the red\n\nball", ""] and episode.parameters == {"title": "album"}
    assert InterleavedReader().open(album).left_out.counts == {"documents without a picture": 1}


def test_encoded_pictures_come_from_binary_tables(album, tmp_path):
    red = (tmp_path / "red.png").read_bytes()
    table = pa.table({"images": [[{"bytes": red, "path": None}, None]], "texts": [[None, "the red ball"]]})
    pq.write_table(table, tmp_path / "album.parquet")
    episode = only_episode(tmp_path / "album.parquet")
    assert tuple(episode.observations["image"][0, 8, 8]) == RED and list(episode.actions["text"]) == ["the red ball"]


def test_a_document_becomes_text_picture_text_in_one_document_of_tokens(album, tokenizer):
    tokens = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, loss_on_text_observations=False).encode(only_episode(album))
    kinds = [row["kind"] for row in tokenizer.table(tokens)]
    first = ["text"] * len(tokenizer.text.encode("go to")) + ["patch", "separator"]
    said = ["text"] * (len(tokenizer.text.encode("the red\n\nball")) + 1)
    assert kinds == first + said + ["patch", "separator", "text"]  # nothing is said of the second picture: its end alone
    assert list(tokens.is_target) == [False] * len(first) + [True] * len(said) + [False, False, True]
    assert set(tokens.document) == {0} and list(np.unique(tokens.timestep)) == [0, 1]


def test_a_mixture_packs_documents_and_begins_windows_at_a_picture(album, tmp_path, tokenizer):
    folders = import_dataset(InterleavedReader((16, 16)).open(album), tmp_path / "stores")
    config = DataConfig({"interleaved/album": SourceConfig(store=str(folders["train"]), augment=True)})
    row = Mixture(config, tokenizer, 64, seed=0).row(0, 0)
    assert len(row.tokens) > 50 and len(row.pieces) > 1 and row.tokens.document.max() == len(row.pieces) - 1
    assert Store(folders["train"]).episode(0).actions["text"][0] == "the red\n\nball"


def test_documents_are_not_taken_for_questions(make_gato, tokenizer):
    tasks = {t.name: t for t in (interleaved_task("interleaved/a", (16, 16)), question_task("vqa/b", (16, 16)))}
    assert Agent(make_gato(), tokenizer, tasks).question_task()[0].name == "vqa/b"
    with pytest.raises(ValueError, match="trained without questions"):
        Agent(make_gato(), tokenizer, {"interleaved/a": tasks["interleaved/a"]}).question_task()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"images": ["red.png"], "texts": ["both"]}, "line 1: entry 0 is not either a picture or a text"),
        ({"images": ["red.png"], "texts": []}, "line 1: images and texts are not two lists of one length"),
        ({"images": ["../red.png"], "texts": [None]}, r"line 1 .*\.\./red.png"),
        ({"images": ["green.png"], "texts": [None]}, "line 1: picture .*green.png is missing"),
        ({"images": [None], "texts": ["no picture"]}, "holds no document with a picture"),
    ],
)
def test_what_is_no_document_is_named(album, row, message):
    album.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        InterleavedReader().open(album)


def test_documents_without_words_are_counted_and_bad_ones_skipped(tmp_path):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png")
    rows = [
        {"images": ["a.png", None], "texts": [None, "red"]},
        {"images": ["a.png", None], "texts": [None, " "]},
        {"images": ["a.png"], "texts": [None]},
        {"images": [None], "texts": ["alone"]},
        {"images": "a.png", "texts": "red"},
        {"images": [3, None], "texts": [None, "x"]},
        {"images": ["a.png", None], "texts": [None, 3]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = InterleavedReader((16, 16)).open(path, left_out := LeftOut(3))
    assert [e.actions["text"].tolist() for e in dataset.episodes("train", 0)] == [["red"]]
    assert left_out.counts == {"documents without words": 2, "documents without a picture": 1}
    assert [row.removeprefix(f"{path}, line ")[0] for row in left_out.rows] == ["5", "6", "7"]
