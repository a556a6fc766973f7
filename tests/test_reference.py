"""The reference mixture: packages unpacked safely, pictures held out by concept, documents, the recipe."""

import gzip
import io
import json
import shutil
import subprocess
import tarfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from gato.cli.recipes import recipe_path
from gato.data.reference import build as reference
from gato.data.reference import packages, picture_sources, text_sources
from gato.data.reference.build import ReferenceConfig, build
from gato.data.reference.concepts import concept_of, synonyms
from gato.data.reference.entries import gcide_prose, hacker_prose, prose
from gato.data.reference.packages import Missing, Package, fetch, unpack
from gato.data.reference.picture_sources import Picture, PictureSource
from gato.data.reference.picture_splits import Families, HeldOut, split_pictures
from gato.data.reference.text_sources import TextSource, read_dialogues, read_dictionary
from gato.data.reference.titles import Titled, stamp_caption
from gato.data.reference.wordnet import WordNet, read_wordnet
from gato.data.store import Store

ROOT = Path(__file__).parent.parent

# offset, lexicographer file, words, offset of the kind above it, gloss; synsets 1-6 and 9 are things or animals
NOUNS = """\
00000001 05 n 01 animal 0 000 | a living thing that moves
00000002 05 n 02 dog 0 hound 0 001 @ 00000001 n 0000 | an animal that barks at the people who pass by its house; "a big dog"
00000003 05 n 01 cat 0 001 @ 00000001 n 0000 | an animal that purrs when somebody whom it likes is near to it
00000004 05 n 01 frog 0 001 @ 00000001 n 0000 | an animal that jumps
00000005 05 n 01 tree_frog 0 001 @ 00000004 n 0000 | a frog on a tree
00000006 05 n 01 bullfrog 0 001 @ 00000004 n 0000 | a large frog
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    """A folder with a WordNet of six nouns."""
    folder = tmp_path / "wordnet"
    folder.mkdir()
    index = {"animal": 1, "dog": 2, "hound": 2, "cat": 3, "frog": 4, "tree_frog": 5, "bullfrog": 6}
    for pos in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{pos}").write_text(NOUNS if pos == "noun" else "")
        lines = "".join(f"{word} n 1 0 1 0 {offset:08d}\n" for word, offset in index.items())
        (folder / f"index.{pos}").write_text(lines if pos == "noun" else "")
    (folder / "noun.exc").write_text("mice mouse\n")
    (folder / "cntlist.rev").write_text("dog%1:05:00:: 1 42\ncat%1:05:00:: 1 18\n")
    return folder


@pytest.fixture
def net(wordnet: Path) -> WordNet:
    return read_wordnet(wordnet)


def tgz(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    """An npm package of these files."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def registry(folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm whose registry holds this archive alone."""
    program = folder / "bin/npm"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncp '{archive}' .\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return program


def picture(concept: str, drawing: str, source: str = "a", is_photo: bool = False) -> Picture:
    return Picture(b"", concept, concept, source, "CC0", "", drawing, drawing, is_photo)


# -- packages --------------------------------------------------------------------------------------


def test_only_wanted_files_are_unpacked(tmp_path: Path) -> None:
    archive = tgz(tmp_path / "a.tgz", ("package/cat.png", b"cat"), ("package/index.js", b"evil()"))
    assert unpack(archive, tmp_path / "out", r".*\.png") == 0
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["cat.png"]


@pytest.mark.parametrize("name", ["../evil", "package/../../evil", "/tmp/evil", "..\\evil"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"a.tgz, member .*evil' leads out of its folder"):
        unpack(tgz(tmp_path / "a.tgz", (name, b"")), tmp_path / "out")


def test_links_are_left_out_and_counted(tmp_path: Path) -> None:
    link = tarfile.TarInfo("package/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert unpack(tgz(tmp_path / "a.tgz", link, ("package/file", b"1")), tmp_path / "out") == 1
    assert not (tmp_path / "out/package/link").is_symlink() and (tmp_path / "out/package/file").read_bytes() == b"1"


def test_a_link_to_an_unpacked_file_becomes_a_copy_where_asked(tmp_path: Path) -> None:
    links = [tarfile.TarInfo(f"package/{i}") for i in range(3)]
    for link, target in zip(links, ["file", "../../evil", "/etc/passwd"], strict=True):
        link.type, link.linkname = tarfile.SYMTYPE, target
    (tmp_path / "evil").write_text("not ours")
    archive = tgz(tmp_path / "a.tgz", *links, ("package/file", b"1"))
    assert unpack(archive, tmp_path / "out", copies_links=True) == 2
    assert sorted(p.name for p in (tmp_path / "out/package").iterdir()) == ["0", "file"]
    assert (tmp_path / "out/package/0").read_bytes() == b"1" and not (tmp_path / "out/package/0").is_symlink()


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_UNPACKED_BYTES", 1000)
    archive = tgz(tmp_path / "a.tgz", ("package/zeros", bytes(1001)))
    assert archive.stat().st_size < 1000
    with pytest.raises(ValueError, match="unpacks to more than 1000 bytes"):
        unpack(archive, tmp_path / "out")


def test_a_cut_archive_is_named(tmp_path: Path) -> None:
    archive = tgz(tmp_path / "a.tgz", ("package/noise", np.random.default_rng(0).bytes(10_000)))
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"a.tgz cannot be unpacked: .*; fetch it again"):
        unpack(archive, tmp_path / "out")


def test_a_package_that_is_not_the_pinned_one_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tgz(tmp_path / "cats-1.0.tgz", ("package/cat.txt", b"another cat"))
    registry(tmp_path, archive, monkeypatch)
    with pytest.raises(ValueError, match=r"cats-1.0.tgz has SHA-256 [0-9a-f]{64}, expected 00; it is not unpacked"):
        fetch(Package("npm", "cats@1.0", ".*", sha256="00"), tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="Debian's tools are not here")
def test_a_debian_package_is_unpacked_without_root(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN/control").write_text("Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: tiny\n")
    (source / "usr/share/dictd").mkdir(parents=True)
    (source / "usr/share/dictd/tiny.index").write_text("word\tA\tB\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", source, tmp_path / "tiny.deb"], check=True, capture_output=True)
    unpack(tmp_path / "tiny.deb", tmp_path / "out", r".*/dictd/.*")
    assert (tmp_path / "out/usr/share/dictd/tiny.index").read_text() == "word\tA\tB\n"


def test_a_missing_tool_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="package 'cats' needs the program 'npm', which is not installed; install it"):
        fetch(Package("npm", "cats", ".*"), tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []


def test_a_package_is_fetched_once_and_a_killed_fetch_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tgz(tmp_path / "cats-1.0.tgz", ("package/cat.txt", b"meow"))
    program = registry(tmp_path, archive, monkeypatch)
    (tmp_path / "packages/cats.partial/files/package").mkdir(parents=True)
    package = Package("npm", "cats@1.0", ".*")
    folder, note = fetch(package, tmp_path / "packages")
    assert (folder / "package/cat.txt").read_text() == "meow" and note["archive"] == "cats-1.0.tgz"
    program.unlink()
    assert fetch(package, tmp_path / "packages") == (folder, note)
    assert [p.name for p in (tmp_path / "packages").iterdir()] == ["cats"]


# -- concepts and splits ---------------------------------------------------------------------------


def test_a_concept_is_the_head_of_the_caption(net: WordNet) -> None:
    assert concept_of("a sleeping cat", net) == "cat"
    assert concept_of("two dogs in a garden", net) == "dog"
    assert concept_of("green tree frog", net) == "tree frog"


def test_synonyms_have_the_name_of_the_more_frequent(net: WordNet) -> None:
    assert synonyms({"dog": 3, "hound": 1, "cat": 1}, net) == {"dog": "dog", "hound": "dog", "cat": "cat"}


def test_a_held_out_concept_takes_its_kinds_and_names_along(net: WordNet) -> None:
    families = Families(HeldOut(frozenset({"frog"}), frozenset()), net)
    assert all(concept in families for concept in ("frog", "tree frog", "bullfrog", "toy frog"))
    assert not any(concept in families for concept in ("cat", "animal", "dog"))


def test_no_picture_of_a_held_out_concept_is_trained_on_in_any_source(net: WordNet) -> None:
    pictures = [picture("frog", "1", "clip art"), picture("bullfrog", "2", "emoji"), picture("cat", "3", "emoji")]
    split_pictures(pictures, HeldOut(frozenset({"frog"}), frozenset()), net, Counter())
    assert [p.split for p in pictures] == ["unseen_concept", "unseen_concept", "train"]


def test_a_caption_that_names_a_held_out_concept_is_not_trained_on(net: WordNet) -> None:
    left_out: Counter[str] = Counter()
    pictures = [picture("cat", "1"), picture("cat", "2"), picture("dog", "3")]
    pictures[1].caption = "a cat that looks at two tree frogs"
    kept = split_pictures(pictures, HeldOut(frozenset({"frog"}), frozenset()), net, left_out)
    assert [p.drawing for p in kept] == ["1", "3"] and left_out.total() == 1


def test_a_held_out_picture_takes_its_variants_along_and_its_concept_is_trained_on(net: WordNet) -> None:
    pictures = [picture("cat", "x"), picture("cat", "x"), picture("cat", "other")]
    pictures[0].original = "cat-1"
    split_pictures(pictures, HeldOut(frozenset(), frozenset({("a", "cat-1")})), net, Counter())
    assert [p.split for p in pictures] == ["unseen_picture", "unseen_picture", "train"]


def test_a_held_out_picture_without_a_training_picture_of_its_concept_is_left_out(net: WordNet) -> None:
    only = picture("cat", "x")
    assert split_pictures([only, picture("dog", "y")], HeldOut(frozenset(), frozenset({("a", "x")})), net, Counter()) == [
        picture("dog", "y")
    ]  # fmt: skip


def test_about_a_tenth_of_the_drawings_is_held_out_and_never_all_of_a_concept(net: WordNet) -> None:
    pictures = [picture(f"thing{i}", f"{i}/{k}") for i in range(300) for k in range(3)]
    split_pictures(pictures, HeldOut(frozenset(), frozenset()), net, Counter())
    counts = Counter(p.split for p in pictures)
    assert 60 <= counts["unseen_picture"] <= 120 and counts.total() == 900
    assert {p.concept for p in pictures if p.split == "train"} == {p.concept for p in pictures}


def test_photographs_of_a_concept_are_held_out_together_and_only_where_drawings_remain(net: WordNet) -> None:
    pictures = [picture(f"thing{i}", f"{i}/{k}", is_photo=k > 0) for i in range(100) for k in range(3)]
    pictures += [picture(f"photo{i}", f"photo{i}", is_photo=True) for i in range(100)]
    split_pictures(pictures, HeldOut(frozenset(), frozenset()), net, Counter())
    unseen = {p.concept for p in pictures if p.split == "unseen_photo"}
    assert 30 <= len(unseen) <= 70 and not any(c.startswith("photo") for c in unseen)
    assert not any(p.is_photo and p.split == "train" for p in pictures if p.concept in unseen)


def test_the_sample_pack_holds_out_what_the_table_says() -> None:
    rows = pq.read_table(ROOT / "samples" / "pictures.parquet", columns=["concept", "split", "source", "original"]).to_pylist()
    held_out = HeldOut.load()
    assert {r["concept"] for r in rows if r["split"] == "unseen_concept"} == held_out.concepts
    assert {(r["source"], r["original"]) for r in rows if r["split"] == "unseen_picture"} == held_out.pictures
    assert not {r["concept"] for r in rows if r["split"] != "unseen_concept"} & held_out.concepts


def test_a_stamp_says_what_is_shown_and_nothing_else(net: WordNet) -> None:
    assert stamp_caption("A fire truck! Call it when there is a fire.", net) == "a fire truck"
    assert stamp_caption("\u201cYield\u201d", net) == "yield"
    assert stamp_caption("A Canadian 1 cent piece ($.01) called a penny.", net) == "a Canadian 1 cent piece called a penny"
    assert stamp_caption("UK post box. Put your letter in here.", net) == "UK post box"


# -- documents -------------------------------------------------------------------------------------


def dictionary(folder: Path, *entries: tuple[str, str]) -> Path:
    """The files of dictd's format with these entries."""
    home = folder / "usr/share/dictd"
    home.mkdir(parents=True)
    text, index = b"", ""
    for word, entry in entries:
        assert len(text) < 64 * 64 and len(entry) < 64 * 64
        index += f"{word}\t{digits(len(text))}\t{digits(len(entry.encode()))}\n"
        text += entry.encode()
    (home / "tiny.index").write_text(index)
    (home / "tiny.dict.dz").write_bytes(gzip.compress(text))
    return folder


def digits(number: int) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return letters[number // 64] + letters[number % 64]


CAT = "cat\n\n   An animal that {purrs} when it is content with\n   what it has been given.\n"


def test_a_dictionary_gives_its_entries_as_plain_text(tmp_path: Path) -> None:
    left_out: Counter[str] = Counter()
    folder = dictionary(tmp_path, ("00-database-info", "About this dictionary, which is tiny and full of cats."), ("cat", CAT), ("x", "x"))
    (found,) = read_dictionary("tiny", prose, folder, left_out)
    assert found.title == "cat" and "purrs when it is content" in found.text and "{" not in found.text
    assert left_out == {"tiny: shorter than 40 characters": 1}


def test_an_entry_of_gcide_is_prose_without_its_editors_marks() -> None:
    entry = (
        'Oval \\O"val\\ ([=o]"val), n. [F. ovale, fr. L. ovum egg. Cf.\n   {Ovum}.]\n   1. A body in the shape\n'
        "      of an egg. [Obs.]\n      [1913 Webster] Ovals\n\n            Pr[^e]t [ae]on.     --Milton.\n   [PJC]\n"
    )
    assert gcide_prose(entry) == (
        "Oval, n. [F. ovale, fr. L. ovum egg. Cf. Ovum.]\n1. A body in the shape of an egg. [Obs.]\n\nPrêt æon. --Milton."
    )  # fmt: skip


def test_paragraphs_are_lines_and_tables_keep_theirs() -> None:
    entry = "HTTP\n\n   <web> A {wide\n   spread} protocol (ann@web.org).\n\n     000 = 0\n     001 = 1\n\n   (1994-10-27)\n"
    assert hacker_prose(entry, deepest=3) == "HTTP\n\n<web> A wide spread protocol ().\n\n     000 = 0\n     001 = 1"


def test_an_index_that_points_outside_the_dictionary_is_named(tmp_path: Path) -> None:
    folder = dictionary(tmp_path, ("cat", CAT))
    (folder / "usr/share/dictd/tiny.index").write_text("cat\tA\tZZ\n")
    with pytest.raises(ValueError, match=r"tiny.index, line 1 points at byte 1625 of a text of \d+; fetch the package again"):
        list(read_dictionary("tiny", prose, folder, Counter()))


def test_dialogues_alternate_between_two_speakers(tmp_path: Path) -> None:
    (tmp_path / "english").mkdir()
    (tmp_path / "english/food.yml").write_text("conversations:\n- - Do you eat?\n  - I eat bits.\n- - Alone\n")
    left_out: Counter[str] = Counter()
    (found,) = read_dialogues(tmp_path, left_out)
    assert found.text == "A: Do you eat?\nB: I eat bits." and found.group == "food" and left_out.total() == 1


# -- the whole -------------------------------------------------------------------------------------


def drawn(path: Path, concept: int, style: int) -> Path:
    """A picture of its own for every concept and style: rectangles at places that a seed gives."""
    rng = np.random.default_rng([concept, style])
    pixels = np.full((64, 64, 3), 255, np.uint8)
    for _ in range(6):
        row, column = rng.integers(0, 40, 2)
        pixels[row : row + 20, column : column + 20] = rng.integers(0, 200, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def fetched(tmp_path: Path, wordnet: Path):
    """A root folder whose packages were all fetched before: WordNet, pictures, and a dictionary."""
    root = tmp_path / "root"
    home = root / "reference/packages"
    shutil.copytree(wordnet, home / "wordnet-base/files/usr/share/wordnet")
    for i, concept in enumerate(["cat", "dog", "frog"]):
        for style in range(4):
            drawn(home / f"tiny-pictures/files/{concept}-{style}.png", i, style)
    dictionary(home / "tiny-dictionary/files", *((f"word{i}", CAT.replace("cat", f"word{i}")) for i in range(30)))
    for name in ("wordnet-base", "tiny-pictures", "tiny-dictionary"):
        (home / name / "package.json").write_text(json.dumps({"package": name, "archive": f"{name}.tgz", "sha256": "0", "links": 0}))
    return root


def read_folder(folders, net, table, left_out):
    for path in sorted(folders["tiny-pictures"].glob("*.png")):
        concept = path.stem.split("-")[0]
        yield Titled(path, f"a {concept}", concept, "Ann", path.name, path.stem)


PICTURES = {"tiny": PictureSource((Package("npm", "tiny-pictures", ".*"),), "CC0", read_folder)}
TEXTS = {"tiny": TextSource(Package("apt", "tiny-dictionary", ".*"), "CC0", "Bob", partial(read_dictionary, "tiny", prose))}


def test_pictures_and_documents_become_stores_with_licence_author_and_source(fetched: Path) -> None:
    built = build(ReferenceConfig(["pictures", "text"], out=fetched), PICTURES, TEXTS)
    assert built.missing == []
    concepts = {
        row["split"]: {e.parameters["concept"] for e in episodes(row["store"])} for row in built.stores if row["part"] == "pictures"
    }
    assert concepts["unseen_concept"] == {"frog"} and concepts["train"] == {"cat", "dog"}
    (first, *_) = episodes(fetched / "reference/pictures/train")
    assert first.parameters == {
        "concept": "cat",
        "source": "tiny",
        "licence": "CC0",
        "author": "Ann",
        "original": first.parameters["original"],
    }
    texts = [e for row in built.stores if row["part"] == "text" for e in episodes(row["store"])]
    assert len(texts) == 30 and texts[0].parameters == {
        "title": texts[0].parameters["title"], "source": "tiny", "licence": "CC0", "author": "Bob",
    }  # fmt: skip


def episodes(folder: str | Path) -> list:
    store = Store(folder)
    return [store.episode(i) for i in range(store.num_episodes)]


def test_questions_are_true_labelled_and_in_the_split_of_their_picture(fetched: Path) -> None:
    built = build(ReferenceConfig(["pictures"], out=fetched), PICTURES, TEXTS)
    asked = {row["split"]: episodes(row["store"]) for row in built.stores if row["part"] == "questions"}
    assert {e.parameters["concept"] for e in asked["unseen_concept"]} == {"frog"}
    for e in (e for them in asked.values() for e in them):
        question, answer, concept = e.observations["question"][0], e.actions["answer"][0], e.parameters["concept"]
        assert e.parameters["question_id"].startswith("template/")
        assert answer == {"what is this?": concept, f"is this a {concept}?": "yes"}.get(question, "no")
    assert not any("frog" in e.observations["question"][0] for e in asked["train"])
    assert {e.actions["answer"][0] for e in asked["train"]} == {"cat", "dog", "yes", "no"}


def test_a_finished_part_is_not_built_again_and_a_killed_one_is(fetched: Path) -> None:
    config = ReferenceConfig(["text"], out=fetched)
    killed = fetched / "reference/text/tiny.partial/stores"
    killed.mkdir(parents=True)
    first = build(config, PICTURES, TEXTS)
    assert not killed.exists()
    shutil.rmtree(fetched / "reference/packages")
    assert build(config, PICTURES, TEXTS) == first


def test_a_part_of_another_scale_is_refused(fetched: Path) -> None:
    build(ReferenceConfig(["text"], out=fetched), PICTURES, TEXTS)
    with pytest.raises(ValueError, match="was built at scale full, not small; remove it to build it again"):
        build(ReferenceConfig(["text"], "small", fetched), PICTURES, TEXTS)


def test_what_cannot_be_had_is_named_and_the_rest_is_built(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    absent = {"absent": PictureSource((Package("npm", "absent", ".*"),), "CC0", read_folder)}
    built = build(ReferenceConfig(["pictures"], out=fetched), absent | PICTURES, TEXTS)
    assert {row["source"] for row in built.stores} == {"tiny", "templates"}
    (line,) = built.missing
    assert line.startswith("package 'absent' needs the program 'npm', which is not installed")
    with pytest.raises(ValueError, match="nothing could be built: pictures: package 'absent'"):
        shutil.rmtree(fetched / "reference/pictures")
        build(ReferenceConfig(["pictures"], out=fetched), absent, TEXTS)


def test_a_damaged_package_is_named_and_the_others_are_built(fetched: Path) -> None:
    (fetched / "reference/packages/tiny-dictionary/files/usr/share/dictd/tiny.index").write_text("cat\tA\tZZZ\n")
    built = build(ReferenceConfig(["pictures", "text"], out=fetched), PICTURES, TEXTS)
    assert {row["part"] for row in built.stores} == {"pictures", "questions"} and "fetch the package again" in built.missing[0]
    assert not (fetched / "reference/text/tiny").exists() and not (fetched / "reference/text/tiny.partial").exists()


def test_a_picture_that_stands_in_two_splits_is_dropped_from_training(fetched: Path) -> None:
    folder = fetched / "reference/packages/tiny-pictures/files"
    shutil.copy(folder / "frog-0.png", folder / "cat-9.png")  # a frog that calls itself a cat
    built = build(ReferenceConfig(["pictures"], out=fetched), PICTURES, TEXTS)
    names = [e.parameters["original"] for e in episodes(fetched / "reference/pictures/train")]
    assert "cat-9.png" not in names and built.left_out["look like a picture of another split: train"] == 1


def test_a_picture_that_repeats_another_with_its_caption_is_dropped(fetched: Path) -> None:
    folder = fetched / "reference/packages/tiny-pictures/files"
    before = build(ReferenceConfig(["pictures"], out=fetched), PICTURES, TEXTS)
    names = [e.parameters["original"] for e in episodes(fetched / "reference/pictures/train")]
    shutil.copy(folder / names[0], folder / f"{names[0].split('-')[0]}-copy.png")
    shutil.rmtree(fetched / "reference/pictures")
    after = build(ReferenceConfig(["pictures"], out=fetched), PICTURES, TEXTS)
    assert after.left_out["the same picture and caption again: train"] == 1
    assert [row["episodes"] for row in after.stores] == [row["episodes"] for row in before.stores]


def test_the_mixture_file_names_what_is_there(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(ReferenceConfig(["pictures"], out=fetched), PICTURES, TEXTS)
    data = yaml.safe_load(Path(built.mixture).read_text())
    assert list(data["sources"]) == ["reference/pictures/train", "reference/questions/train"]
    assert data["sources"]["reference/pictures/train"]["store"] == str(fetched / "reference/pictures/train")


def test_the_control_part_collects_and_goes_on_without_a_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SMALL_CONTROL", {"absent/a": 1, "toy/corridor": 2})
    built = build(ReferenceConfig(["control"], "small", tmp_path, workers=0))
    assert [(row["source"], row["episodes"]) for row in built.stores] == [("toy/corridor", 2)]
    assert len(built.missing) == 1 and "absent/a" in built.missing[0]


# -- the recipe ------------------------------------------------------------------------------------


def test_every_source_of_the_recipe_is_built_at_full_scale() -> None:
    sources = yaml.safe_load(recipe_path("reference").read_text())["data"]["sources"]
    made = set(reference.control_episodes("full"))
    made |= {"reference/pictures/train", "reference/questions/train"} | {f"reference/text/{name}/train" for name in text_sources.SOURCES}
    assert set(sources) <= made


def test_no_source_names_a_version_twice_or_a_server() -> None:
    packages_ = [p for s in picture_sources.SOURCES.values() for p in s.packages] + [s.package for s in text_sources.SOURCES.values()]
    assert len({p.label for p in packages_}) == len({p.name for p in packages_}) and not any(":" in p.name for p in packages_)
