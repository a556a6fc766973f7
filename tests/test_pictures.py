"""Captioned pictures from tables, image folders, COCO's captions and plain folders."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gato.data.formats.dataset import import_dataset
from gato.data.formats.left_out import LeftOut
from gato.data.formats.pictures import PicturesReader
from gato.data.store import Store

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def files(folder, contents: dict[str, bytes | str | tuple]):
    """Writes text, bytes, or a picture of a colour under each name."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = encoded(content) if isinstance(content, tuple) else content
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def parquet(path, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def picture(colour, caption, split="train", **rest):
    return {"image": encoded(colour), "caption": caption, "split": split, **rest}


def found(path, **options) -> dict[str, list[tuple[str, tuple]]]:
    """`{split: [(caption, colour of the middle), ...]}` of what the reader gives."""
    dataset = PicturesReader(**options).open(path)
    episodes = {split: list(dataset.episodes(split, 0)) for split in dataset.splits}
    assert {split: len(them) for split, them in episodes.items()} == dict(dataset.splits)
    return {s: [(e.actions["caption"][0], tuple(e.observations["image"][0, 32, 32].tolist())) for e in es] for s, es in episodes.items()}


# -- tables ----------------------------------------------------------------------------------------


def test_pictures_are_imported_into_a_store_per_split(tmp_path):
    rows = (picture(RED, "a red square", concept="square", licence="CC0"), picture(GREEN, "a green one", "test", concept=None))
    path = parquet(tmp_path / "samples.parquet", *rows)
    folders = import_dataset(PicturesReader(image_size=(16, 16)).open(path), tmp_path / "out")
    train, test = (Store(folders[split]) for split in ("train", "test"))
    train.validate()
    assert (train.num_episodes, test.num_episodes) == (1, 1)
    assert train.episode(0).observations["image"].shape == (1, 16, 16, 3)
    assert train.episode(0).parameters == {"concept": "square", "licence": "CC0"}
    assert test.tasks[0].name == train.tasks[0].name == "captions/samples"


def test_an_interrupted_import_goes_on_where_it_stopped(tmp_path):
    good = [picture(RED, f"square {k}") for k in range(3)]
    path = parquet(tmp_path / "samples.parquet", *good, {"image": b"GIF89a", "caption": "x", "split": "train"})
    with pytest.raises(ValueError, match=r"samples.parquet, row 3: the picture is no readable picture"):
        import_dataset(PicturesReader().open(path), tmp_path / "out")
    assert Store(tmp_path / "out" / "train").num_episodes == 3  # those before it are kept
    parquet(path, *good, picture(BLUE, "repaired"))
    import_dataset(PicturesReader().open(path), tmp_path / "out")
    assert Store(tmp_path / "out" / "train").num_episodes == 4
    parquet(path, picture(BLUE, "another"), *good)
    with pytest.raises(ValueError, match=r"already holds 4 episodes of another source"):
        import_dataset(PicturesReader().open(path), tmp_path / "out")


def test_pictures_before_the_start_are_not_decoded(tmp_path):
    rows = [picture(GREEN, "other", "test"), {"image": b"broken", "caption": "x", "split": "train"}, picture(RED, "a"), picture(BLUE, "b")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    dataset = PicturesReader().open(tmp_path / "a.parquet")
    assert [e.actions["caption"][0] for e in dataset.episodes("train", 1)] == ["a", "b"]


def test_several_captions_of_a_row_are_an_episode_each(tmp_path):
    path = parquet(tmp_path / "a.parquet", picture(RED, ["one", "two"]), picture(BLUE, ["three"]), picture(GREEN, []))
    assert found(path) == {"train": [("one", RED), ("two", RED), ("three", BLUE)]}
    assert found(path, captions="first") == {"train": [("one", RED), ("three", BLUE)]}
    dataset = PicturesReader().open(path)
    assert [e.actions["caption"][0] for e in dataset.episodes("train", 1)] == ["two", "three"]
    assert dataset.left_out.counts == {"rows without text": 1}


def test_a_column_of_another_name_holds_the_captions(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"image": encoded(RED), "caption": "one", "alt": "two"})
    assert found(path, caption_column="alt") == {"train": [("two", RED)]}
    assert PicturesReader(caption_column="alt").open(path).digest != PicturesReader().open(path).digest


def test_the_arrow_files_and_parquet_shards_of_datasets_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = {"image": [Image.new("RGB", (4, 4), c) for c in (RED, BLUE)], "text": ["red", "blue"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    split = datasets.Dataset.from_dict(pictures, features=features)
    datasets.DatasetDict({"train": split, "test": split.select([1])}).save_to_disk(tmp_path / "saved")
    assert found(tmp_path / "saved") == {"train": [("red", RED), ("blue", BLUE)], "test": [("blue", BLUE)]}
    (tmp_path / "data").mkdir()
    split.to_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet")
    assert found(tmp_path / "data") == {"validation": [("red", RED), ("blue", BLUE)]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"caption": "x"}, r"a.parquet lacks the columns \['image'\]; it has \['caption'\]"),
        ({"image": b"x"}, r"a.parquet lacks the columns \['caption'\]"),
        ({"image": b"x", "caption": "x", "split": "a/b"}, r"row 0: the split is 'a/b'; expected a plain name"),
        ({"image": {"bytes": None, "path": "/etc/passwd"}, "caption": "x"}, r"row 0 names the file '/etc/passwd', which leads out of"),
        ({"image": 3, "caption": "x"}, r"row 0: the picture is a number .3., expected encoded bytes"),
    ],
)
def test_a_bad_table_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        found(parquet(tmp_path / "a.parquet", row))


def test_an_arrow_stream_that_was_cut_is_not_taken_for_a_shorter_one(tmp_path):
    table = pa.table({"image": [encoded(RED)] * 4, "caption": ["red"] * 4})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)
        end_of_first = sink.tell() // 2
    content = (tmp_path / "a.arrow").read_bytes()
    assert len(found(tmp_path / "a.arrow")["train"]) == 4
    for size in (end_of_first, len(content) - 8):
        (tmp_path / "a.arrow").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"a.arrow .*it was cut, fetch it again"):
            found(tmp_path / "a.arrow")


def test_an_arrow_file_whose_offsets_lie_is_refused(tmp_path):
    table = pa.table({"image": pa.array([encoded(RED)]), "caption": ["x" * 1000]})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    true, false = (np.array([0, end], np.int32).tobytes() for end in (1000, 2**30))
    before, _, after = (tmp_path / "a.arrow").read_bytes().rpartition(true)
    (tmp_path / "a.arrow").write_bytes(before + false + after)
    with pytest.raises(ValueError, match=r"a.arrow is no readable arrow file"):
        found(tmp_path / "a.arrow")


# -- image folders ---------------------------------------------------------------------------------


def test_an_image_folder_with_metadata_per_split_is_read(tmp_path):
    lines = '{"file_name": "a.png", "text": "red", "licence": "CC0"}\n{"file_name": "sub/b.png", "text": "blue"}\n'
    files(tmp_path, {"train/metadata.jsonl": lines, "train/a.png": RED, "train/sub/b.png": BLUE, "train/unlisted.png": RED})
    files(tmp_path, {"test/metadata.csv": 'file_name,text\nc.png,"green, bright"\n', "test/c.png": GREEN})
    assert found(tmp_path) == {"train": [("red", RED), ("blue", BLUE)], "test": [("green, bright", GREEN)]}
    dataset = PicturesReader().open(tmp_path)
    assert next(dataset.episodes("train", 0)).parameters == {"licence": "CC0", "original": "a.png"}
    assert dataset.left_out.counts == {"pictures that no row names": 1}


def test_one_metadata_file_may_name_pictures_of_several_splits(tmp_path):
    lines = "".join(json.dumps({"file_name": f"{s}/test 1.png", "caption": s}) + "\n" for s in ("train", "val2017"))
    files(tmp_path, {"metadata.jsonl": lines, "train/test 1.png": RED, "val2017/test 1.png": BLUE})
    assert found(tmp_path) == {"train": [("train", RED)], "validation": [("val2017", BLUE)]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "../a.png", "text": "x"}', r"line 1 names the file '../a.png', which leads out of"),
        ('{"file_name": "/a.png", "text": "x"}', r"line 1 names the file '/a.png', which leads out of"),
        ('{"file_name": "gone.png", "text": "x"}', r"line 1: picture .*gone.png is missing; restore it"),
        ('{"file_name": "a.png"}', r"line 1: there is no 'caption'; name the caption's key with --caption_column"),
    ],
)
def test_bad_metadata_is_named(tmp_path, line, message):
    files(tmp_path, {"metadata.jsonl": line, "a.png": RED})
    with pytest.raises(ValueError, match=message):
        found(tmp_path)


def test_a_changed_picture_is_another_source(tmp_path):
    files(tmp_path, {"metadata.jsonl": '{"file_name": "a.png", "text": "x"}', "a.png": RED})
    before = PicturesReader().open(tmp_path).digest
    files(tmp_path, {"a.png": BLUE})
    assert PicturesReader().open(tmp_path).digest != before


# -- COCO ------------------------------------------------------------------------------------------


def coco(folder, name="captions_train2017.json", **changes):
    content = {
        "licenses": [{"id": 4, "name": "Attribution License"}],
        "images": [
            {"id": 9, "file_name": "9.png", "license": 4, "coco_url": "http://pictures/9"},
            {"id": 8, "file_name": "8.png"},
            {"id": 7, "file_name": "7.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "caption": "red"},
            {"id": 2, "image_id": 8, "caption": "blue"},
            {"id": 3, "image_id": 9, "caption": "very red"},
        ],
    }
    return files(folder, {f"annotations/{name}": json.dumps(content | changes)})


def test_every_caption_of_coco_is_an_episode(tmp_path):
    coco(files(tmp_path, {"train2017/9.png": RED, "train2017/8.png": BLUE}))
    assert found(tmp_path) == {"train": [("red", RED), ("blue", BLUE), ("very red", RED)]}
    dataset = PicturesReader().open(tmp_path)
    assert next(dataset.episodes("train", 2)).parameters == {
        "original": "9.png", "licence": "Attribution License", "source": "http://pictures/9",
    }  # fmt: skip
    assert dataset.left_out.counts == {"pictures without a caption": 1}


def test_coco_with_the_first_caption_alone_says_what_it_left_out(tmp_path):
    coco(files(tmp_path, {"pictures/9.png": RED, "pictures/8.png": BLUE}), "captions_val2017.json")
    path = tmp_path / "annotations" / "captions_val2017.json"
    assert found(path, images=tmp_path / "pictures", captions="first") == {"validation": [("red", RED), ("blue", BLUE)]}
    dataset = PicturesReader(images=tmp_path / "pictures", captions="first").open(path)
    assert dataset.left_out.counts == {"pictures without a caption": 1, "further captions": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"image_id": 1, "caption": "x"}]}, r"annotation 0 is of picture 1, which is not among the 3 images"),
        ({"annotations": None}, r"captions_train2017.json has null under 'annotations', expected a list"),
        ({"images": [{"id": 9, "file_name": "../9.png"}]}, r"image 0 names the file '../9.png', which leads out of"),
        ({"annotations": [{"image_id": 9, "caption": 5}]}, r"annotation 0: the caption is a number .5., expected text"),
        ({"images": [{"id": 9, "file_name": "8.png"}]}, r"annotation 0: picture .*8.png is missing; restore it, or name the pictures"),
    ],
)
def test_bad_annotations_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        found(coco(files(tmp_path, {"9.png": RED, "annotations/9.png": RED}), **changes))


def test_a_missing_folder_of_pictures_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder nowhere; name the pictures' folder with --images"):
        found(coco(tmp_path), images=Path("nowhere"))


# -- plain folders ---------------------------------------------------------------------------------


def test_a_plain_folder_has_captions_beside_its_pictures(tmp_path):
    files(tmp_path, {"a.png": RED, "a.txt": "red\n", "test/b.png": BLUE, "test/b.txt": "blue", "alone.png": GREEN})
    assert found(tmp_path) == {"train": [("red", RED)], "test": [("blue", BLUE)]}
    dataset = PicturesReader().open(tmp_path)
    assert next(dataset.episodes("test", 0)).parameters == {"original": "test/b.png"}
    assert dataset.left_out.counts == {"pictures without a caption": 1}


def test_a_folder_without_captions_says_what_is_expected(tmp_path):
    files(tmp_path, {"a.png": RED})
    with pytest.raises(ValueError, match=r"holds 1 pictures and no caption; expected NAME.txt beside NAME.png, metadata.jsonl or"):
        found(tmp_path)
    with pytest.raises(ValueError, match=r"gone does not exist"):
        found(tmp_path / "gone")


def test_a_blank_or_foreign_caption_file_is_named(tmp_path):
    files(tmp_path, {"a.png": RED, "a.txt": "\n"})
    with pytest.raises(ValueError, match=r"left out: 1 pictures with a blank caption, such as .*a.png$"):
        found(tmp_path)
    files(tmp_path, {"a.txt": b"\xff\x01"})
    with pytest.raises(ValueError, match=r"a.txt is not UTF-8 at byte 0"):
        found(tmp_path)


# -- what is left out, and captions under other names ------------------------------------------------


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_without_words_are_left_out_in_every_layout(tmp_path):
    files(tmp_path, {"a.png": RED})
    table = jsonl(tmp_path / "a.jsonl", *({"file_name": "a.png", "caption": c} for c in ("one", "", None, float("nan"), " ", [], [""])))
    assert found(table) == {"train": [("one", RED)]}
    assert PicturesReader().open(table).left_out.counts == {"rows without text": 6}
    annotations = [{"image_id": i, "caption": c} for i, c in ((9, "red"), (8, " "), (7, None))]
    path = coco(files(tmp_path / "coco", {f"train2017/{i}.png": RED for i in (7, 8, 9)}), annotations=annotations)
    assert found(path) == {"train": [("red", RED)]}
    assert PicturesReader().open(path).left_out.counts == {"annotations without a caption": 2, "pictures without a caption": 2}
    plain = files(tmp_path / "plain", {"a.png": RED, "a.txt": "red", "b.png": BLUE, "b.txt": " \n"})
    assert found(plain) == {"train": [("red", RED)]}
    assert PicturesReader().open(plain).left_out.examples == {"pictures with a blank caption": f"{plain}/b.png"}


def test_blank_and_further_captions_of_a_row_are_counted(tmp_path):
    path = parquet(tmp_path / "a.parquet", picture(RED, ["", "one", "two", None]), picture(BLUE, ["three"]))
    assert found(path) == {"train": [("one", RED), ("two", RED), ("three", BLUE)]}
    assert PicturesReader().open(path).left_out.counts == {"blank texts of rows that have others": 2}
    assert found(path, captions="first") == {"train": [("one", RED), ("three", BLUE)]}
    assert PicturesReader(captions="first").open(path).left_out.counts == {"blank texts of rows that have others": 2, "further captions": 1}


@pytest.mark.parametrize("name", ["captions", "sentences", "description", "alt_text", "prompt", "TEXT"])
def test_a_caption_is_found_under_a_usual_name_if_there_is_one_alone(tmp_path, name):
    path = parquet(tmp_path / "a.parquet", {"image": encoded(RED), name: "one"})
    assert found(path) == {"train": [("one", RED)]}
    parquet(path, {"image": encoded(RED), name: "one", "texts": "two"})
    with pytest.raises(ValueError, match=r"row 0: the caption may be any of \[.*'texts'.*; name its key with --caption_column"):
        found(path)
    assert found(parquet(path, {"image": encoded(RED), name: "one", "text": "two"})) == {"train": [("two", RED)]}


def test_lists_that_csv_holds_as_text_are_lists_and_brackets_alone_are_text(tmp_path):
    files(tmp_path, {"a.png": RED, "metadata.CSV": "file_name;caption\na.png;\"['a cat', 'a dog']\"\na.png;[applause]\n"})
    assert found(tmp_path) == {"train": [("a cat", RED), ("a dog", RED), ("[applause]", RED)]}


def test_bad_pictures_cost_themselves_alone_and_are_named(tmp_path):
    rows = [picture(RED, "one"), {**picture(RED, "two"), "image": b"no"}, {**picture(RED, "three"), "image": None}, picture(BLUE, "four")]
    out = import_dataset(PicturesReader().open(parquet(tmp_path / "a.parquet", *rows), LeftOut(2)), tmp_path / "out")["train"]
    store = Store(out)
    assert [store.episode(i).actions["caption"][0] for i in range(store.num_episodes)] == ["one", "four"]
    assert [(x["row"].partition(", row ")[2][0], x["before"]) for x in store.manifest.provenance["skipped"]] == [("1", 1), ("2", 1)]


def test_a_missing_picture_of_coco_is_one_bad_row_with_its_annotations_counted(tmp_path):
    path = coco(files(tmp_path, {"train2017/8.png": BLUE}))
    dataset = PicturesReader().open(path, left_out := LeftOut(1))
    assert [e.actions["caption"][0] for e in dataset.episodes("train", 0)] == ["blue"]
    assert left_out.counts["annotations of skipped pictures"] == 1 and "9.png is missing" in next(iter(left_out.rows))


def test_ids_of_coco_are_checked(tmp_path):
    images = [
        {"id": 9, "file_name": "9.png"},
        {"id": 9, "file_name": "8.png"},
        {"id": [7], "file_name": "9.png"},
        {"file_name": "9.png"},
        3,
    ]
    annotations = [{"image_id": 9, "caption": "red"}, {"image_id": {}, "caption": "x"}, {"caption": "x"}, None]
    path = coco(files(tmp_path, {"train2017/9.png": RED, "train2017/8.png": BLUE}), images=images, annotations=annotations)
    dataset = PicturesReader().open(path, left_out := LeftOut(9))
    assert [e.actions["caption"][0] for e in dataset.episodes("train", 0)] == ["red"]
    assert [row.partition(".json, ")[2] for row in left_out.rows] == [
        "image 1 has the id 9 of another picture, 9.png; give each its own",
        "image 2 has a list as 'id', expected a number or a text",
        "image 3 has no 'id'",
        "image 4 is a number, expected an object",
        "annotation 1 has an object as 'image_id', expected a number or a text",
        "annotation 2 has no 'image_id'",
        "annotation 3 is null, expected an object",
    ]


def test_a_folder_says_what_else_lies_in_it(tmp_path):
    names = {"a.png": RED, "a.txt": "red", "b.tiff": b"II*\0", "b.txt": "x", "c.png": BLUE, "notes.md": "x"}
    left_out = PicturesReader().open(files(tmp_path, names)).left_out
    assert left_out.counts == {"other files": 2, "pictures without a caption": 1, "captions without a picture": 1}
    assert left_out.examples["other files"] == f"{tmp_path}/b.tiff"


def test_linked_folders_are_read(tmp_path):
    files(tmp_path / "elsewhere", {"b.png": BLUE, "b.txt": "blue"})
    files(tmp_path / "in", {"train/a.png": RED, "train/a.txt": "red"})
    (tmp_path / "in" / "val").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "in") == {"train": [("red", RED)], "validation": [("blue", BLUE)]}


def test_an_address_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="line 1 names the address 'http://x/a.png'; nothing is fetched: download it and name the file"):
        found(jsonl(tmp_path / "a.jsonl", {"image": "http://x/a.png", "caption": "x"}))


def test_animations_are_counted_also_where_an_import_went_on(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    rows = [{"image": buffer.getvalue(), "caption": str(i)} for i in range(3)]
    path = parquet(tmp_path / "a.parquet", *rows[:2], {"image": b"no", "caption": "x"}, rows[2])
    with pytest.raises(ValueError, match="row 2: the picture is no readable picture"):
        import_dataset(PicturesReader().open(path), tmp_path / "out")
    dataset = PicturesReader().open(path, LeftOut(1))
    store = Store(import_dataset(dataset, tmp_path / "out")["train"])
    what = "animations of which the first picture alone is kept"
    assert store.manifest.provenance["left_out"] == {what: 3} and store.episode(0).parameters["animated"]
    again = PicturesReader().open(path, LeftOut(1))
    import_dataset(again, tmp_path / "out")
    assert again.left_out.counts == {what: 3}


def test_what_a_row_says_of_its_picture_must_be_storable(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"image": encoded(RED), "caption": "x", "licence": b"CC0"})
    with pytest.raises(ValueError, match="a.parquet, row 0: 'licence' is bytes, which has no JSON form; take it out"):
        found(path)
    path = parquet(path, {"image": encoded(RED), "caption": "x", "license": "CC0", "source": float("nan"), "concept": None})
    (episode,) = PicturesReader().open(path).episodes("train", 0)
    assert episode.parameters == {"licence": "CC0"}
