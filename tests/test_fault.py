"""What no verb foresaw: one line that says whose fault it is and where the traceback lies."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FunctionType

import pytest

from gato import cli
from gato.cli import main
from gato.data.formats.files import inside

ROOT = Path(__file__).parent.parent


@pytest.fixture
def failing(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """failing(verb): exit code and the line on standard error of `gato ls`, whose work is that function."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("GATO_DEBUG", raising=False)

    def run(verb, is_ours: bool = True) -> tuple[int, str]:
        ours = FunctionType(verb.__code__, {**globals(), "__name__": "gato.cli.test"}, None, None, verb.__closure__)
        monkeypatch.setitem(cli.VERBS, "ls", ours if is_ours else verb)
        code = main(["ls", "--word"])
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("gato: ") and captured.err.count("\n") == 1, captured.err
        return code, captured.err.removeprefix("gato: ").strip()

    return run


def deep(arguments: list[str]) -> None:
    def deeper() -> None:
        deeper()

    deeper()


def panic(arguments: list[str]) -> None:
    raise type("PanicException", (BaseException,), {})("index out of bounds")


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        (lambda _: {}["spec"], "KeyError: 'spec'"),
        (lambda _: None.shape, "AttributeError: 'NoneType' object has no attribute 'shape'"),
        (lambda _: len(3), "TypeError"),
        (lambda _: 1 / 0, "ZeroDivisionError"),
        (lambda _: [][1], "IndexError"),
        (lambda _: json.loads(b"\xff".decode("latin-1") * 3 + "{"), "JSONDecodeError"),
        (lambda _: b"\xff".decode(), "UnicodeDecodeError"),
        (lambda _: next(iter(())), "StopIteration"),
        (lambda _: __import__("gato.no_such_room"), "ModuleNotFoundError"),
        (deep, "RecursionError"),
        (panic, "PanicException: index out of bounds"),
    ],
)
def test_an_error_that_is_no_refusal_is_one_line_with_the_place_of_its_traceback(failing, verb, name: str) -> None:
    code, line = failing(verb)
    assert name in line
    file = Path(line.rpartition(" is in ")[2])
    text = file.read_text()
    assert text.startswith("gato ") and "gato ls --word" in text and name.split(":")[0] in text and "Traceback" in text
    if name == "JSONDecodeError":  # raised inside a library, of input perhaps
        assert code == 2 and line.startswith("json refuses, in words that are not ours: JSONDecodeError: ")
    else:
        assert code == 70 and line.startswith("this is a bug of ours, not of your input: ") and "please report it" in line


def test_a_value_error_that_our_code_did_not_raise_is_no_refusal(failing) -> None:
    code, line = failing(lambda _: int("many"))
    assert code == 70 and "a bug of ours" in line and "invalid literal for int() with base 10: 'many'" in line


def test_a_refusal_of_ours_stays_as_it_is(failing) -> None:
    assert failing(lambda _: inside(Path("d"), "", "row 3")) == (2, "row 3 names the file ''; expected a path inside d")
    assert failing(lambda _: open("/nowhere/x")) == (2, "/nowhere/x: No such file or directory")


def test_an_error_in_a_file_of_the_user_s_own_is_not_called_ours(failing) -> None:
    """Such as an environment, an expert or an adapter."""
    for verb in (lambda _: {}["spec"], lambda _: int("many"), lambda _: json.loads("{")):
        code, line = failing(verb, is_ours=False)
        assert code == 2 and re.match(rf"{re.escape(__file__)}, line \d+ fails: \w+: ", line) and "its traceback is in" in line


def test_too_little_memory_is_not_called_a_bug(failing) -> None:
    def verb(arguments: list[str]) -> None:
        raise MemoryError("Unable to allocate 7 TiB")

    code, line = failing(verb)
    assert code == 70 and line.startswith("not enough memory: MemoryError: Unable to allocate 7 TiB; its traceback is in ")


def test_a_message_without_end_and_one_that_cannot_be_had_are_lines_all_the_same(failing) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def long(arguments: list[str]) -> None:
        raise KeyError("word\n" * 10_000)

    def mute(arguments: list[str]) -> None:
        raise Mute

    assert len(failing(long)[1]) < 600
    assert "not of your input: Mute; " in failing(mute)[1]


def test_where_no_file_can_be_written_the_line_says_so(failing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    code, line = failing(lambda _: {}["spec"])
    assert code == 70 and line.endswith("its traceback could not be written (FileNotFoundError), GATO_DEBUG=1 shows it")


def test_on_demand_the_traceback_itself_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATO_DEBUG", "1")
    monkeypatch.setitem(cli.VERBS, "ls", lambda _: {}["spec"])
    with pytest.raises(KeyError):
        main(["ls"])


def test_a_thread_that_fails_is_one_line_too(failing) -> None:
    def verb(arguments: list[str]) -> int:
        thread = threading.Thread(target=lambda: {}["spec"])
        thread.start()
        thread.join()
        return 0

    code, line = failing(verb)
    assert code == 0 and line.startswith("a thread ended: this is a bug of ours, not of your input: KeyError: 'spec'")


def test_an_error_of_a_worker_process_shows_its_last_line(failing) -> None:
    def verb(arguments: list[str]) -> None:
        raise TypeError(
            "Caught TypeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\nTypeError: no len()"
        )

    assert "not of your input: TypeError: no len(); please" in failing(verb)[1] and "Traceback" not in failing(verb)[1]


def test_a_library_that_leaves_with_words_leaves_no_traceback(failing) -> None:
    def verb(arguments: list[str]) -> None:
        sys.exit("the simulator has no licence")

    assert failing(verb) == (1, "the simulator has no licence")


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    script = "import sys; from gato import cli; cli.VERBS['ls'] = lambda _: {}['spec']; sys.exit(cli.main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    environment.pop("GATO_DEBUG", None)
    found = subprocess.run([sys.executable, "-c", script, "ls"], env=environment, capture_output=True, text=True)
    assert found.returncode == 70 and found.stderr.count("\n") == 1 and str(tmp_path) in found.stderr
