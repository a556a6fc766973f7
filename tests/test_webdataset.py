"""Tar shards: what is a sample, and what no shard may do to us."""

import gzip
import io
import json
import tarfile

import pytest
from PIL import Image

from gato.data.formats.dataset import import_dataset
from gato.data.formats.left_out import LeftOut
from gato.data.formats.webdataset import WebdatasetReader, expand_braces
from gato.data.store import Store

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path, *members: tuple[str, bytes | str], **header):
    """Writes a tar file; `header` changes the header of the last member."""
    with tarfile.open(path, "w") as tar:
        for number, (name, content) in enumerate(members):
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in (header if number == len(members) - 1 else {}).items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return path


def found(path, **options) -> dict[str, list[tuple[str, tuple]]]:
    dataset = WebdatasetReader(**options).open(path)
    episodes = {split: list(dataset.episodes(split, 0)) for split in dataset.splits}
    assert {split: len(them) for split, them in episodes.items()} == dict(dataset.splits)
    return {s: [(e.actions["caption"][0], tuple(e.observations["image"][0, 32, 32].tolist())) for e in es] for s, es in episodes.items()}


def test_members_of_one_key_are_a_sample(tmp_path):
    path = shard(
        tmp_path / "toy.tar",
        ("000/a.png", encoded(RED)), ("000/a.txt", "red\n"),
        ("000/b.json", json.dumps({"caption": "blue", "url": "http://b", "license": "CC0"})), ("000/b.PNG", encoded(BLUE)),
    )  # fmt: skip
    assert found(path) == {"train": [("red", RED), ("blue", BLUE)]}
    episode = next(WebdatasetReader().open(path).episodes("train", 1))
    assert episode.parameters == {"source": "http://b", "licence": "CC0", "original": "000/b.png"}
    assert episode.task.name == "captions/toy"


def test_text_comes_before_json_and_other_members_are_ignored(tmp_path):
    members = ("a.png", encoded(RED)), ("a.json", '{"text": "json"}'), ("a.seg.png", b"x"), ("._a.png", b"x"), ("README", "x")
    path = shard(tmp_path / "a.tar", *members)
    assert found(path, caption_key="text") == {"train": [("json", RED)]}
    assert found(shard(path, *members, ("a.txt", "text"))) == {"train": [("text", RED)]}


def test_class_numbers_are_said_by_name(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    path = shard(tmp_path / "a.tar", ("a.png", encoded(RED)), ("a.cls", "1"))
    assert found(path, classes=tmp_path / "classes.txt") == {"train": [("dog", RED)]}
    with pytest.raises(ValueError, match=r"a.tar, sample 'a': its caption is the class number 1; give the classes' names with --classes"):
        found(path)
    shard(path, ("a.png", encoded(RED)), ("a.cls", "2"))
    with pytest.raises(ValueError, match=r"its class number is 2, but there are 2 names of classes"):
        found(path, classes=tmp_path / "classes.txt")


def test_incomplete_samples_are_left_out_and_counted(tmp_path):
    path = shard(tmp_path / "a.tar", ("a.png", encoded(RED)), ("b.txt", "x"), ("c.png", encoded(BLUE)), ("c.txt", "blue"))
    assert found(path) == {"train": [("blue", BLUE)]}
    left_out = WebdatasetReader().open(path).left_out.counts
    assert left_out == {"samples without a caption": 1, "samples without a picture": 1}
    with pytest.raises(ValueError, match="left out: 1 samples without a caption, such as .*a.tar, sample 'a'$"):
        found(shard(path, ("a.png", encoded(RED))))


def test_shards_come_from_a_folder_or_a_pattern_and_have_splits_by_name(tmp_path):
    for number, name in enumerate(["train-000000", "train-000001", "val-000000"]):
        shard(tmp_path / f"{name}.tar", ("a.png", encoded(RED)), ("a.txt", str(number)))
    assert found(tmp_path) == {"train": [("0", RED), ("1", RED)], "validation": [("2", RED)]}
    assert found(tmp_path / "train-{000000..000001}.tar") == {"train": [("0", RED), ("1", RED)]}
    assert WebdatasetReader().open(tmp_path / "train-{000000..000001}.tar").tasks[0].name == "captions/train"
    with pytest.raises(ValueError, match=r"train-000002.tar does not exist \(pattern train-\{000000..000002\}.tar, 3 shards\)"):
        found(tmp_path / "train-{000000..000002}.tar")


def test_braces_are_expanded_as_a_shell_does():
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    for pattern in ("{0..999999999}", "{0..999}{0..999}"):
        with pytest.raises(ValueError, match="more than 100000 shards"):
            expand_braces(pattern)


def test_an_import_goes_on_without_decoding_what_is_there(tmp_path):
    path = shard(tmp_path / "a.tar", ("a.png", encoded(RED)), ("a.txt", "red"), ("b.png", b"broken"), ("b.txt", "x"))
    with pytest.raises(ValueError, match=r"a.tar, sample 'b': the picture is no readable picture"):
        import_dataset(WebdatasetReader().open(path), tmp_path / "out")
    assert Store(tmp_path / "out" / "train").num_episodes == 1
    shard(path, ("a.png", b"broken"), ("a.txt", "x"), ("b.png", encoded(BLUE)), ("b.txt", "blue"))
    assert [e.actions["caption"][0] for e in WebdatasetReader().open(path).episodes("train", 1)] == ["blue"]


# -- shards that are not to be trusted ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["../a.txt", "/etc/a.txt", "x/../../a.txt", "..\\a.txt", "C:\\a.txt"])
def test_paths_out_of_the_shard_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"a.tar: member '.*' leads out of the shard"):
        found(shard(tmp_path / "a.tar", ("a.png", encoded(RED)), (name, "x")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    path = shard(tmp_path / "a.tar", ("a.png", encoded(RED)), ("a.txt", ""), type=kind, linkname="a.png")
    with pytest.raises(ValueError, match=r"a.tar: member 'a.txt' is a (link|device or a sparse file); expected plain files"):
        found(path)


def test_a_cut_shard_is_named_wherever_it_was_cut(tmp_path):
    path = shard(tmp_path / "a.tar", ("a.png", encoded(RED)), ("a.txt", "red"), ("b.png", encoded(BLUE)), ("b.txt", "blue"))
    content = path.read_bytes()
    for length in (0, 100, 512, 600, 1024, 2048, 2100, 4096):  # within headers, within contents, and between members
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a.tar.*cut"):
            found(path)
    path.write_bytes(content[: 4096 + 512])  # one block of the end mark is enough
    assert len(found(path)["train"]) == 2


def test_what_follows_the_end_mark_is_not_dropped_in_silence(tmp_path):
    path = shard(tmp_path / "a.tar", ("a.png", encoded(RED)), ("a.txt", "red"))
    path.write_bytes(path.read_bytes()[:3072] + path.read_bytes())
    with pytest.raises(ValueError, match=r"a.tar has no end mark at byte 2048"):
        found(path)


def forged(content: bytes, block: int, size: bytes) -> bytes:
    """The shard with another size, of 12 bytes, in the header that begins at `block`; its checksum is right."""
    header = bytearray(content[block : block + 512])
    header[124:136], header[148:156] = size, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:block] + header + content[block + 512 :]


HUGE, NEGATIVE = b"\x80\0\0\0\0\0\0\x7f\xff\xff\xff\xff", b"\xff" * 10 + b"\0\0"


@pytest.mark.parametrize("size", [HUGE, NEGATIVE])
def test_forged_lengths_are_refused(tmp_path, size):
    path = shard(tmp_path / "a.tar", ("a.png", encoded(RED)), ("x" * 200 + ".txt", "red"))
    content = path.read_bytes()
    path.write_bytes(forged(content, 0, size))  # of a picture
    with pytest.raises(ValueError, match=r"a.tar: member 'a.png' ends at byte -?\d+, but the shard has \d+: it is cut"):
        found(path)
    path.write_bytes(forged(content, 1024, size))  # of the header that holds the long name
    with pytest.raises(ValueError, match=r"a.tar is cut or no tar file: a header says that it has -?\d+ bytes"):
        found(path)


def test_members_that_are_too_large_are_refused_unread(tmp_path, monkeypatch):
    path = shard(tmp_path / "a.tar", ("a.png", encoded(RED)), ("a.txt", "x" * 2000))
    monkeypatch.setattr("gato.data.formats.webdataset.MAX_TEXT_BYTES", 1000)
    with pytest.raises(ValueError, match=r"sample 'a': .txt has 2000 bytes, more than 1000"):
        found(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff", r"sample 'a': .txt is not UTF-8 at byte 0"),
        ("a.json", b"{", r"sample 'a': .json is not valid JSON"),
        ("a.json", b"[1]", r"sample 'a': .json holds a list, expected an object"),
        ("a.json", b'{"alt": "x"}', r"sample 'a': its .json has no 'caption' but alt; name it with --caption_key"),
        ("a.json", b'{"caption": 3}', r"sample 'a': the caption is a number .3., expected text"),
        ("a.jpg", b"x", r"sample 'a' has two members .png and .jpg; keep one"),
        ("a.png", b"x", r"sample 'a' has two members .png and .png; keep one"),
    ],
)
def test_bad_members_are_named(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        found(shard(tmp_path / "a.tar", ("a.cls", "red"), ("a.png", encoded(RED)), (name, content)))


def test_compressed_shards_and_foreign_files_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a.tar.gz is compressed.*unpack it to a plain .tar first"):
        found(tmp_path / "a.tar.gz")
    with pytest.raises(ValueError, match=r"a.tar.gz is compressed"):
        found(tmp_path)
    (tmp_path / "a.tar.gz").unlink()
    with pytest.raises(ValueError, match=r"holds no .tar files"):
        found(tmp_path)
    (tmp_path / "b.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(ValueError, match=r"b.tar is cut or no tar file"):
        found(tmp_path / "b.tar")


# -- shards as people make them ----------------------------------------------------------------------


def test_members_that_are_passed_over_are_counted_with_the_remedy(tmp_path):
    names = ("22.05.png", "22.05.txt", "0.seg.npy", "README.md", ".png")
    path = shard(tmp_path / "a.tar", ("0.png", encoded(RED)), ("0.txt", "red"), *((name, "x") for name in names))
    left_out = WebdatasetReader().open(path).left_out
    assert list(left_out.counts.values()) == [2, 3]
    assert left_out.lines()[0].endswith(f"(rename them: the key ends at the first dot), such as {path}: 22.05.png")
    with pytest.raises(ValueError, match="a.tar holds no picture with text .* left out: 2 members with further dots .* 1.5.png$"):
        found(shard(path, ("1.5.png", encoded(RED)), ("1.5.txt", "red")))


def test_the_members_of_a_sample_may_lie_apart(tmp_path):
    path = shard(tmp_path / "a.tar", ("a.png", encoded(RED)), ("b.png", encoded(BLUE)), ("b.txt", "blue"), ("a.txt", "red"), ("c.txt", "x"))
    assert found(path) == {"train": [("red", RED), ("blue", BLUE)]}
    assert WebdatasetReader().open(path).left_out.counts == {"samples without a picture": 1}


def test_parts_that_lie_apart_are_not_put_together_where_names_repeat(tmp_path):
    first = (("a.png", encoded(RED)), ("a.txt", "red"), ("b.png", encoded(RED)))
    path = shard(tmp_path / "a.tar", *first, ("a.png", encoded(BLUE)), ("a.txt", "blue"), ("b.txt", "blue"))
    assert found(path) == {"train": [("red", RED), ("blue", BLUE)]}  # as where two shards of equal numbers became one
    ((what, count),) = WebdatasetReader().open(path).left_out.counts.items()
    assert what.endswith("(make the shard anew with tar --sort=name)") and count == 2


def test_a_packed_shard_is_told_by_its_content(tmp_path):
    (tmp_path / "a.tar").write_bytes(gzip.compress(b"x"))
    with pytest.raises(ValueError, match="a.tar is compressed with gzip, .*; unpack it to a plain .tar first"):
        found(tmp_path / "a.tar")


def test_captions_in_json_are_text_or_lists_under_a_usual_name(tmp_path):
    said = [{"caption": ["red", "rose", ""]}, {"text": "blue"}, {"caption": None}, {"captions": ["one"]}, {"caption": " "}]
    members = [
        (f"{i}.{kind}", content) for i, row in enumerate(said) for kind, content in (("png", encoded(RED)), ("json", json.dumps(row)))
    ]
    path = shard(tmp_path / "a.tar", *members)
    assert [caption for caption, _ in found(path)["train"]] == ["red", "rose", "blue", "one"]
    dataset = WebdatasetReader().open(path)
    assert [e.actions["caption"][0] for e in dataset.episodes("train", 1)] == ["rose", "blue", "one"]
    assert dataset.left_out.counts == {"samples with a blank caption": 2}


def test_bad_samples_cost_themselves_alone(tmp_path):
    members = [
        ("0.png", encoded(RED)),
        ("0.txt", b"\xff"),
        ("1.png", b"no picture"),
        ("1.txt", "x"),
        ("2.png", encoded(RED)),
        ("2.png", b"x"),
    ]
    path = shard(tmp_path / "a.tar", *members, ("2.txt", "x"), ("3.png", encoded(BLUE)), ("3.txt", "blue"))
    dataset = WebdatasetReader().open(path, left_out := LeftOut(3))
    assert [e.actions["caption"][0] for e in dataset.episodes("train", 0)] == ["blue"]
    assert [row.partition("sample ")[2][:3] for row in (*left_out.rows, *left_out.episodes)] == ["'2'", "'0'", "'1'"]


def test_names_of_members_may_be_any_bytes(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin1", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (("ä.png", encoded(RED)), ("ä.txt", b"red")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (episode,) = WebdatasetReader().open(tmp_path / "a.tar").episodes("train", 0)
    assert episode.parameters == {"original": "\ufffd.png"}
