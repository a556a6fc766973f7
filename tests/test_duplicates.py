"""Episodes that stand in the data twice: equal ones, and pictures that look alike."""

import io

import numpy as np
import pytest
from PIL import Image

from gato.data.formats.dataset import import_dataset
from gato.data.formats.picture_row import PictureRow, picture_episode
from gato.data.formats.text import TextReader
from gato.data.inspection.duplicates import MAX_BITS, compare_sources, duplicate_words, find_duplicates, mean_colours, perceptual_hash
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import Store, StoreWriter
from gato.picture import fit_image
from gato.words import caption_task


def scene(seed: int) -> Image.Image:
    """A random picture: eight by eight colours, scaled up."""
    colours = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((64, 64), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **rest) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **rest)
    return buffer.getvalue()


@pytest.fixture
def stored(tmp_path):
    """stored("name", (picture, "caption"), ...): a store of captioned pictures."""

    def make(name: str, *pairs: tuple[Image.Image | bytes, str]) -> Store:
        task = caption_task("captions/toy")
        with StoreWriter(tmp_path / name, [task]) as writer:
            for image, caption in pairs:
                picture = image if isinstance(image, bytes) else encoded(image)
                writer.append(picture_episode(task, PictureRow("here", picture, {"caption": caption}, {})))
        return Store(tmp_path / name)

    return make


def test_equal_episodes_are_found_within_and_across_stores(tmp_path):
    stores = []
    for name, content in (("train", "one\n\ntwo\n\none"), ("test", "two\n\nthree")):
        (tmp_path / f"{name}.txt").write_text(content)
        stores += import_dataset(TextReader().open(tmp_path / f"{name}.txt"), tmp_path / "stores" / name).values()
    found = find_duplicates([Store(folder) for folder in stores])
    assert sorted(found.exact) == [((0, 0), (0, 2)), ((0, 1), (1, 0))]
    assert found.near == ()
    assert [(row["exact"], row["near"]) for row in found.rows()] == [(1, 0), (1, 0), (0, 0)]


def test_the_same_picture_with_another_caption_is_near_but_not_exact(stored):
    found = find_duplicates([stored("train", (scene(0), "a"), (scene(1), "b")), stored("test", (scene(0), "c"))])
    assert (found.exact, found.near) == ((), (((0, 0), (1, 0)),))


def test_the_same_picture_saved_again_or_scaled_is_near(stored):
    small, large = scene(0).resize((48, 48)), scene(0).resize((300, 300))
    pairs = [(scene(0), "as it is"), (encoded(scene(0), "JPEG", quality=60), "jpeg"), (small, "small"), (large, "large")]
    assert find_duplicates([stored("train", *pairs)]).near == (((0, 0), (0, 1), (0, 2), (0, 3)),)


def test_different_pictures_are_not_near(stored):
    assert find_duplicates([stored("train", *((scene(seed), "x") for seed in range(40)))]).near == ()


def test_pictures_of_the_same_shape_and_another_colour_are_not_near(stored):
    def ball(colour: tuple[int, int, int]) -> Image.Image:
        pixels = np.full((64, 64, 3), 255, np.uint8)
        pixels[16:48, 16:48] = colour
        return Image.fromarray(pixels)

    red, green = ball((200, 0, 0)), ball((0, 102, 0))  # of equal brightness
    assert perceptual_hash(np.asarray(red)) == perceptual_hash(np.asarray(green))
    assert find_duplicates([stored("train", (red, "red"), (green, "green"))]).near == ()


def test_a_hash_changes_little_where_the_picture_does():
    pixels = np.asarray(scene(3))
    jpeg = np.asarray(Image.open(io.BytesIO(encoded(scene(3), "JPEG", quality=60))).convert("RGB"))
    again = fit_image(np.asarray(scene(3).resize((200, 200), Image.Resampling.LANCZOS)), (64, 64))
    for other in (jpeg, again):
        assert (perceptual_hash(pixels) ^ perceptual_hash(other)).bit_count() <= MAX_BITS
    assert (perceptual_hash(pixels) ^ perceptual_hash(np.asarray(scene(4)))).bit_count() > 12
    assert mean_colours(np.full((64, 64, 3), 7, np.uint8)).tolist() == [[[7, 7, 7]] * 4] * 4


def test_many_equal_pictures_do_not_hide_a_near_one(stored):
    pairs = [(scene(0), "same")] * 50 + [(encoded(scene(0), "JPEG", quality=60), "jpeg")]
    (group,) = find_duplicates([stored("train", *pairs)]).near
    assert len(group) == 51


def test_a_store_without_episodes_has_no_duplicates(stored):
    found = find_duplicates([stored("empty")])
    assert (found.exact, found.near, len(found.rows())) == ((), (), 1)


def test_control_episodes_are_compared_as_wholes(tmp_path, walk, corridor):
    with StoreWriter(tmp_path, [corridor]) as writer:
        for cells in ([0, 1], [0, 0, 1], [0, 1]):
            writer.append(walk(cells, [1] * len(cells)))
    assert find_duplicates([Store(tmp_path)]).exact == (((0, 0), (0, 2)),)


@pytest.fixture
def found(tmp_path, tokenizer):
    """found({"name": "text\n\ntext"}, ...): what stands twice in a mixture of documents whose stores are not beside each other."""

    def compare(documents: dict[str, str], max_episodes: int = 100, **settings) -> list[dict]:
        sources = {}
        for name, content in documents.items():
            (tmp_path / f"{name}.txt").write_text(content)
            folders = import_dataset(TextReader().open(tmp_path / f"{name}.txt"), tmp_path / name)
            sources[name] = SourceConfig(store=str(folders["train"]), **settings)
        return compare_sources(Mixture(DataConfig(sources), tokenizer, 16, seed=0).sources, max_episodes)

    return compare


def test_a_mixture_is_told_what_stands_twice_in_a_source_and_in_two_of_them(found):
    rows = found({"a": "one\n\ntwo\n\none", "b": "two\n\nthree"})
    assert [(r["source"], r["other"], r["exact"]) for r in rows] == [("a", "a", 1), ("a", "b", 1)]
    assert [duplicate_words(r) for r in rows] == [
        "a: episodes that repeat others of it: 1 equal in every value, such as 0 and 2",
        "a: episodes of b that stand in it too: 1 equal in every value, such as 1 and 0",
    ]
    assert [r["examples"] for r in rows] == [[(0, 2)], [(1, 0)]]


def test_episodes_of_the_other_part_are_compared_too(found):
    within, across = found({"a": "\n\n".join(["one"] * 40)}, part="train", test_share=0.5)
    assert across["other"] == "what a leaves out" and across["episodes"] == 40
    assert across["exact"] == 40 - within["episodes"] > 0


def test_pictures_of_another_split_of_the_import_are_compared_too(stored, tokenizer):
    train, _ = stored("train", (scene(0), "a"), (scene(1), "b")), stored("unseen_picture", (scene(0), "c"))
    config = DataConfig({"pictures/train": SourceConfig(store=str(train.path))})
    (row,) = compare_sources(Mixture(config, tokenizer, 64, seed=0).sources)
    assert (row["other"], row["exact"], row["near"]) == ("split unseen_picture beside pictures/train", 0, 1)


def test_of_many_episodes_a_sample_is_compared_and_said(found):
    (row,) = found({"a": "\n\n".join(["one"] * 10)}, max_episodes=5)
    assert (row["compared"], row["episodes"], row["exact"]) == (5, 10, 4)
    assert duplicate_words(row).endswith("such as 0 and 2 (compared were 5 of 10 episodes)")
