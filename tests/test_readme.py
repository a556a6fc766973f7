"""Every command of the README runs, in order, as a newcomer would type it; only the budgets are smaller."""

import re
import shlex
import shutil
import socket
import tomllib
from pathlib import Path

import pytest

from gato.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SMALLER = {
    "gato data collect gymnasium/cartpole babyai/go-to-local --episodes 200": ["--episodes", "6"],
    "gato finetune runs/mine/final --data gymnasium/acrobot --env gymnasium/acrobot --episodes 1 5": [
        "--episodes", "1", "--steps", "2", "--batch_size", "2", "--evaluate_every", "2", "--evaluation_episodes", "1", "--rollouts", "1",
        "--validation", "1",
    ],
    "gato eval runs/mine/final --episodes 20": ["--episodes", "2", "--tasks", "gymnasium/cartpole", "babyai/go-to-local"],
    "gato pretrain mine.yaml --train.name mine --train.seconds null --train.steps 200": ["--train.steps", "4"],
}  # fmt: skip


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("gato ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with the sample pack and a picture in it, and a home of its own."""
    pytest.importorskip("minigrid", reason="the README's commands use BabyAI: pip install 'opengato[babyai]'")
    from PIL import Image

    folder = tmp_path_factory.mktemp("newcomer")
    shutil.copytree(ROOT / "samples", folder / "samples", ignore=shutil.ignore_patterns("LICENSES"))
    Image.new("RGB", (40, 60), "orange").save(folder / "picture.png")
    return folder


def test_every_command_of_the_readme_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GATO_HOME", str(folder / "home"))
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    # what the first use looks at is made by the second: a newcomer has run `make demo`
    looks = [c for c in commands() if c.startswith("gato tokenize episode")]
    others = [c for c in commands() if c not in looks]
    assert len(others) >= 12
    for command in [*others, *looks]:
        if "mine.yaml" in command and Path("mine.yaml").exists():
            _shrink(Path("mine.yaml"))
        arguments = shlex.split(command)[1:] + SMALLER.get(command, [])
        assert main(arguments) == 0, f"{command}: {capsys.readouterr().err}"
    assert Path("runs/mine/report.html").stat().st_size > 10_000
    _run_the_python_block()


def test_the_readmes_line_counts_are_of_this_code():
    """Those of a room count its folders too, but for the ones that have a line of their own; a tenth off is near enough."""
    rows = re.findall(r"^\| (`[^|]*) \| ([\d,]+) \|", README, re.MULTILINE)
    named = [[Path(name.strip("/")) for name in re.findall(r"`([^`]+)`", row)] for row, _ in rows]
    assert len(rows) == 8
    own = {folder for folders in named for folder in folders}
    for folders, (_, count) in zip(named, rows, strict=True):
        files = [f for folder in folders for f in (ROOT / folder).rglob("*.py")]
        inside = [f for f in files if next(p for p in f.relative_to(ROOT).parents if p in own) in folders]
        lines = sum(len(f.read_text(encoding="utf-8").splitlines()) for f in inside)
        assert abs(lines - int(count.replace(",", ""))) <= lines / 10, f"{folders} have {lines} lines"


def _no_network(*_: object) -> None:
    raise AssertionError("a command of the README asked for the network")


def _shrink(recipe: Path) -> None:
    """Only the sources that were collected here, and few rows."""
    import yaml

    values = yaml.safe_load(recipe.read_text())
    made = {"gymnasium/cartpole", "babyai/go-to-local", "pictures/train", "text/train"}
    values["data"]["sources"] = {name: source for name, source in values["data"]["sources"].items() if name in made}
    values["train"] |= {"batch_size": 8}
    recipe.write_text(yaml.safe_dump(values))


def _run_the_python_block() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(compile(code.replace("episodes=10", "episodes=2"), "README", "exec"), names)
    assert names["env"].action_space.contains(names["policy"].act_one(names["observation"]))


def test_the_readme_names_only_files_that_exist():
    for name in set(re.findall(r"`((?:samples|docs|configs)/[\w./-]+)`", README)):
        assert (ROOT / name).exists(), name


def test_the_readme_names_every_extra_but_those_made_of_others():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", README.split("## Extras")[1], re.MULTILINE))))
    assert {name for name, packages in extras.items() if not any("opengato[" in p for p in packages)} <= named <= set(extras)
