"""Files of a dataset's folder: what is found in it, through links too."""

from pathlib import Path

import pytest

from gato.data.formats.files import files_below


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder: Path, *suffixes: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_below(folder, suffixes or None)]


def test_files_are_found_by_suffix_in_any_case_and_hidden_ones_are_not(tmp_path):
    made(tmp_path, "b/2.csv", "a/1.CSV", "a/.3.csv", ".git/4.csv", "a/notes.txt")
    assert found(tmp_path, ".csv") == ["a/1.CSV", "b/2.csv"]
    assert found(tmp_path) == ["a/1.CSV", "a/notes.txt", "b/2.csv"]


def test_linked_folders_and_files_are_followed(tmp_path):
    elsewhere = made(tmp_path / "elsewhere", "deep/1.csv", "2.csv")
    here = made(tmp_path / "here", "0.csv")
    (here / "more").symlink_to(elsewhere, target_is_directory=True)
    (here / "3.csv").symlink_to(elsewhere / "2.csv")
    assert found(here, ".csv") == ["0.csv", "3.csv", "more/2.csv", "more/deep/1.csv"]


def test_links_that_lead_in_circles_end_where_they_began(tmp_path):
    here = made(tmp_path / "here", "a/1.csv", "b/2.csv")
    (here / "a" / "up").symlink_to(here, target_is_directory=True)
    (here / "b" / "self").symlink_to(here / "b", target_is_directory=True)
    assert found(here, ".csv") == ["a/1.csv", "b/2.csv"]


def test_a_link_that_leads_nowhere_is_refused_where_its_file_is_wanted(tmp_path):
    here = made(tmp_path / "here", "1.csv")
    (here / "gone.csv").symlink_to("nowhere.csv")
    assert found(here) == ["1.csv"] and found(here, ".txt") == []
    with pytest.raises(ValueError, match=r"gone\.csv is a link to nowhere\.csv, which does not exist"):
        found(here, ".csv")
