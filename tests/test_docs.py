"""Every command of the pages in docs/ runs, in a folder with the few files that they name; only the budgets are smaller.

A block whose page says `<!-- not run: WHY -->` above it is left out, and counted. Code blocks that begin with the
name of a file, such as `# mixture.yaml`, become that file.
"""

import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gato.agent import Agent
from gato.cli import main

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [DOCS / "data.md", DOCS / "mixture.md", DOCS / "suites.md", *sorted((DOCS / "formats").glob("*.md"))]
CHECKPOINT = [DOCS / f"{name}.md" for name in ("captions", "evaluation", "finetuning", "reference", "serving", "training", "transformers")]
OWN = DOCS / "environments.md"  # needs a checkpoint, and is run with a tiny one: test_the_journey_of_an_own_environment_runs
LEARNER = DOCS / "learners.md"  # run by tests/test_learners.py
NOT_RUN = ["needs a network", "needs a dataset that `minari download` fetched"]
SMALLER = {"--episodes 200": "--episodes 4", "--size 2048": "--size 512"}


def test_every_page_is_looked_at():
    """Those of docs/results hold the commands that measured something."""
    assert sorted([*PAGES, *CHECKPOINT, OWN, LEARNER]) == sorted(p for p in DOCS.rglob("*.md") if p.parent.name != "results")


@pytest.mark.parametrize("page", CHECKPOINT, ids=lambda page: page.stem)
def test_commands_that_need_a_checkpoint_or_long_work_have_known_options(page, capsys):
    """They are not run here."""
    for command in [command for _, commands in blocks(page) for command in commands]:
        words = shlex.split(command, comments=True)[1:]
        is_format = words[:2] in (["data", "import"], ["data", "export"])
        verb = words[: 3 if is_format else 2 if words[0] in ("data", "tokenizer") else 1]
        capsys.readouterr()
        assert main([*verb, "--help"]) == 0, command
        known = capsys.readouterr().out
        unknown = [w for w in words if w.startswith("--") and w.split("=")[0] not in known]
        assert not unknown, f"{command}: {unknown}"


def test_only_these_commands_are_not_run():
    assert [why for page in PAGES for why, _ in blocks(page) if why] == NOT_RUN


def test_every_command_of_the_pages_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GATO_HOME", str(folder / "home"))
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    found = [command for page in PAGES for why, commands in blocks(page) for command in commands if not why]
    assert len(found) >= 25
    for command in found:
        for whole, part in SMALLER.items():
            command = command.replace(whole, part)
        arguments, _, redirected = command.partition(" > ")
        code = main(shlex.split(arguments, comments=True)[1:])
        printed = capsys.readouterr()
        assert code == 0, f"{command}: {printed.err}"
        if redirected and not (file := folder / redirected.split()[0]).exists():  # else a page holds it
            file.write_text(printed.out)


def test_the_journey_of_an_own_environment_runs(tmp_path, monkeypatch, make_gato, tokenizer, capsys):
    """From the page's file to its loop, command by command; the checkpoint is an untrained one, so the policy need not moor."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    Agent(make_gato(context_length=64).float(), tokenizer, {}).save(tmp_path / "runs/demo/final")
    files = re.findall(r"```python\n(?=# (\S+\.py)\b)(.*?)```", OWN.read_text(), re.DOTALL)
    for name, code in files:
        (tmp_path / name).write_text(code)
    assert [name for name, _ in files] == ["myenvs.py", "record.py", "drive.py", "experts.py"]
    commands = [command for why, commands in blocks(OWN) for command in commands if not why]
    assert [command.split()[1] for command in commands] == ["data", "finetune", "serve", "data", "data", "finetune", "eval"]
    serving = commands.pop(2)
    assert main([*shlex.split(serving)[1:], "--help"]) == 0
    sys.path.insert(0, str(tmp_path))
    try:
        exec(compile(Path("record.py").read_text(), "record.py", "exec"), {})
        for command in commands:
            fewer = command.replace("--workers 2", "--workers 0").replace("--rollouts 20", "--rollouts 2 --steps 2 --validation 2")
            fewer = fewer.replace("--out runs/dock", "--out runs/dock --rollouts 2 --validation 2")
            assert main(shlex.split(fewer)[1:]) == 0, f"{command}: {capsys.readouterr().err}"
        name, what, action = _served(serving)
        assert (name, what) == ("best", "Dock-v0") and -1 <= action[0] <= 1
        (row,) = json.loads(Path("runs/fewshot-Dock-v0/best/eval.json").read_text())["tasks"]
        assert row["score"] is not None and row["success"] is not None and row["random"] < -20 < row["expert"] and not row["not_filmed"]
        capsys.readouterr()
        exec(compile(Path("drive.py").read_text(), "drive.py", "exec"), {})
        assert capsys.readouterr().out in ("moored\n", "adrift\n")
    finally:
        sys.modules.pop("myenvs", None)
        sys.path[:] = [place for place in sys.path if place != str(tmp_path)]


def _served(command: str) -> tuple[str, str, list[float]]:
    """What the server of a command says to a first observation: it is not started here, but asked."""
    from starlette.testclient import TestClient

    from gato.agent import load
    from gato.serve.app import make_app
    from gato.serve.service import Service
    from gato.serve.settings import ServeConfig

    _, _, checkpoint, _, task = shlex.split(command)
    service = Service(load(Path(checkpoint)), Path(checkpoint).name, ServeConfig(task=task))
    try:
        answer = (
            TestClient(make_app(service, None, True), headers={"Host": "127.0.0.1"}).post("/act", json={"observation": [1.0, 0.0]}).json()
        )
        return Path(checkpoint).name, service.acting.tasks and next(iter(service.acting.tasks)), answer["action"]
    finally:
        service.close()


def blocks(page: Path) -> list[tuple[str, list[str]]]:
    """`(why it is not run, commands)` of each block of commands."""
    found = re.findall(r"(?:<!-- not run: (.+?) -->\n)?```console\n(.*?)```", page.read_text(), re.DOTALL)
    return [(why, [line for line in block.splitlines() if line.startswith("gato ")]) for why, block in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages name: the sample pack, a few files of each kind, and the files that stand in the pages themselves."""
    for package in ("minigrid", "minari", "h5py"):
        pytest.importorskip(package, reason=f"the pages' commands use {package}: pip install 'opengato[test]'")
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(DOCS.parent / "samples", folder / "samples", ignore=shutil.ignore_patterns("LICENSES"))
    for page in PAGES:
        for name, code in re.findall(r"```(?:yaml|python)\n(?=# (\S+\.(?:yaml|py))\b)(.*?)```", page.read_text(), re.DOTALL):
            (folder / name).write_text(code)
    _write_texts(folder)
    _write_pictures(folder)
    _write_recordings(folder)
    return folder


def _no_network(*_: object) -> None:
    raise AssertionError("a command of the pages asked for the network")


def _write_texts(folder: Path) -> None:
    (folder / "articles.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in ("one", "two")))
    (folder / "folder-of-txt-files").mkdir()
    (folder / "folder-of-txt-files" / "one.txt").write_text("a text")
    (folder / "logs").mkdir()
    (folder / "logs" / "one.txt").write_text("1 2 3 0.5 -0.5\n4 5 6 0 0\n")


def _write_pictures(folder: Path) -> None:
    for name in ("my-folder", "shards", "val2014"):
        (folder / name).mkdir()
    content = io.BytesIO()
    Image.new("RGB", (20, 30), "orange").save(content, "PNG")
    (folder / "my-folder" / "sun.png").write_bytes(content.getvalue())
    (folder / "my-folder" / "sun.txt").write_text("an orange sun")
    (folder / "val2014" / "COCO_val2014_000000000007.png").write_bytes(content.getvalue())
    (folder / "questions.json").write_text('{"questions": [{"image_id": 7, "question_id": 70, "question": "what colour?"}]}')
    (folder / "annotations.json").write_text('{"annotations": [{"question_id": 70, "multiple_choice_answer": "orange"}]}')
    for shard in range(2):
        with tarfile.open(folder / "shards" / f"train-00000{shard}.tar", "w") as tar:
            for name, data in (("a.png", content.getvalue()), ("a.txt", b"a sun")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _write_recordings(folder: Path) -> None:
    """Two episodes of three timesteps in robomimic's layout, and as many of a cart in NPZ files."""
    import h5py

    (folder / "carts").mkdir()
    for i in range(2):
        np.savez(folder / "carts" / f"{i}.npz", obs=np.zeros((4, 4), np.float32), action=np.array([0, 1, 0]), done=np.arange(3) == 2)

    with h5py.File(folder / "demo.hdf5", "w") as file:
        for i in range(2):
            group = file.create_group(f"data/demo_{i}")
            for side in ("obs", "next_obs"):
                group[f"{side}/joint_positions"] = np.zeros((3, 7), np.float32)
                group[f"{side}/camera"] = np.zeros((3, 16, 16, 3), np.uint8)
            group["actions"] = np.zeros((3, 2), np.float32)
            group["rewards"] = np.zeros(3, np.float32)
            group["dones"] = np.array([0, 0, 1])


# -- the site ------------------------------------------------------------------------------------------


def test_the_site_has_every_guide_and_only_modules_that_exist():
    found = importlib.util.spec_from_file_location("site_of_docs", DOCS / "site.py")
    site = importlib.util.module_from_spec(found)
    found.loader.exec_module(site)
    assert sorted(site.GUIDES) == sorted(page.stem for page in DOCS.glob("*.md"))
    modules = [name for names in site.API.values() for name in names]
    assert len(set(modules)) == len(modules) > 30
    for name in modules:
        path = DOCS.parent / (name.replace(".", "/") if name.split(".")[1] not in site.ROOMS else name.partition(".")[2].replace(".", "/"))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


@pytest.mark.slow  # half a minute
def test_the_site_builds_without_a_warning_and_without_a_network():
    for package in ("material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="the site was not built: pip install 'opengato[docs]'")
    build = "import socket\ndef refuse(*_): raise AssertionError('something called the network')\nsocket.socket.connect = refuse\n"
    build += "from mkdocs.__main__ import cli; cli(['build', '--strict', '--quiet'])"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=DOCS.parent, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    pages = DOCS.parent / "build" / "site"
    assert "evaluate_checkpoint" in (pages / "api" / "acting-and-loading.html").read_text(encoding="utf-8")
    assert "The five uses" in (pages / "index.html").read_text(encoding="utf-8")
