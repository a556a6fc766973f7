"""CPU threads: they sleep while they wait, and small models have one, unless somebody chose otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gato.cli import main
from gato.cli.doctor import _threads
from gato.cli.threads import SMALL, WAITING, use_threads, wait_passively, waiting_chosen


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch):
    """An environment in which nobody chose anything; torch has its threads back afterwards."""
    for name in [name for name in os.environ if name.startswith(("OMP_", "GOMP_", "KMP_"))]:
        monkeypatch.delenv(name)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    for name in WAITING:
        os.environ.pop(name, None)


def folder_of(size: int, path: Path) -> Path:
    with (path / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return path


def test_the_command_settles_waiting_before_torch_is_imported_and_the_library_does_not() -> None:
    script = "import os, sys, gato; print(os.environ.get('OMP_WAIT_POLICY'));"
    script += "from gato.cli import main; main(['ls', '--json']);"
    script += "print(*map(os.environ.get, ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')), 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment).stdout.splitlines()
    assert lines[0] == "None" and lines[-1] == "PASSIVE 1000 False"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"])
def test_what_somebody_chose_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "100")
    wait_passively()
    assert waiting_chosen(os.environ) == name and os.environ[name] == "100"
    assert not [other for other in WAITING if other != name and other in os.environ]


def test_a_small_model_has_one_thread_and_a_large_one_keeps_torchs_choice(tmp_path: Path) -> None:
    torch.set_num_threads(3)
    use_threads(None, folder_of(SMALL, tmp_path))
    assert torch.get_num_threads() == 3
    use_threads(None, folder_of(SMALL - 1, tmp_path))
    assert torch.get_num_threads() == 1


def test_threads_may_be_chosen_by_option_and_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    use_threads(None, folder_of(1, tmp_path))
    assert torch.get_num_threads() == 3
    use_threads(2, tmp_path)
    assert torch.get_num_threads() == 2


def test_an_arena_without_a_checkpoint_has_one_thread_or_those_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends for want of demonstrations."""
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(3)
    for options, count in (([], 1), (["--threads", "2"], 2)):
        assert main(["arena", "--baselines", "retrieve", "--tasks", "toy/corridor", *options]) == 2
        assert torch.get_num_threads() == count


def test_a_folder_that_is_no_checkpoint_settles_nothing(tmp_path: Path) -> None:
    torch.set_num_threads(3)
    use_threads(None, tmp_path / "nowhere")
    assert torch.get_num_threads() == 3


def test_doctor_says_how_threads_wait_and_warns_of_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_passively()
    assert "PASSIVE" in _threads()["found"] and _threads()["note"] == ""
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "ACTIVE" in _threads()["found"] and "spin" in _threads()["note"]
