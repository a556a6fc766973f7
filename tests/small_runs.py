"""What tests of several learners share: a small run of a recipe, and what a refused command says."""

from pathlib import Path

import pytest

from gato.cli import main


def small_run(folder: Path, recipe: str) -> Path:
    """The folder of the run `small` that this recipe trains to its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "small.yaml").write_text(recipe)
        assert main(["pretrain", "small.yaml"]) == 0
    return folder / "runs/small"


def refusal(capsys: pytest.CaptureFixture, *words: str) -> str:
    """What a command that is refused says in one line."""
    capsys.readouterr()
    assert main([*words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line
