"""The script for a GPU: what fails or hangs is passed over, figures are kept, all runs on toys."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks import gpu
from benchmarks.on_gpu import page, paths, policies, zero
from benchmarks.on_gpu.checks import put
from benchmarks.on_gpu.worker import Lanes, Options, Part

TOY = Options("cpu", True, "")
ROOT = Path(gpu.__file__).resolve().parents[1]
PARTS = """
import os, subprocess, sys, time

def works(options, report, number):
    print("no end of line", end="")
    report("a number", number=number, device=options.device)

def fails(options, report):
    report("before", number=1)
    print("it says this")
    raise RuntimeError("no such kernel")

def hangs(options, report):
    report("before", number=2)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    report("its child", process=child.pid)
    time.sleep(1000)

def meets(options, report, own, other):
    open(os.path.join(options.folder, own), "w").close()
    while not os.path.exists(os.path.join(options.folder, other)):
        time.sleep(0.05)
    report("met", other=other)

def dies(options, report):
    os.abort()
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(part, ...): the figures of these parts, `(part's name, figure)`."""
    (tmp_path / "parts_of_a_test.py").write_text(PARTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(*parts: Part, seconds: float = 100.0, device: str = "cpu") -> list[tuple[str, dict]]:
        figures: list[tuple[str, dict]] = []
        work = Lanes(
            Options(device, True, str(tmp_path)),
            lambda part, figure: figures.append((part.name, figure)),
            time.monotonic() + seconds,
        )
        work.run([list(parts)] if device == "cpu" else [[part] for part in parts])
        return [(name, figure) for name, figure in figures if "took" not in figure]

    return make


def part(name: str, seconds: float = 60.0, **arguments) -> Part:
    return Part(name, "training", f"parts_of_a_test:{name}", seconds, arguments)


WORKS = part("works", number=3)
WORKED = ("works", {"what": "a number", "number": 3, "device": "cpu"})


def test_a_part_that_fails_is_printed_and_passed_over(run, capsys):
    before, failed, after = run(part("fails"), WORKS)
    assert before == ("fails", {"what": "before", "number": 1}) and after == WORKED
    assert failed[1]["failed"] == "exit code 1: RuntimeError: no such kernel"
    printed = capsys.readouterr().out
    assert "it says this" in printed and 'raise RuntimeError("no such kernel")' in printed


def test_a_part_that_hangs_is_ended_with_all_that_it_started(run, capsys):
    started = time.monotonic()
    before, child, failed, after = run(part("hangs", seconds=5.0), WORKS)
    assert time.monotonic() - started < 40 and before[1]["number"] == 2 and after == WORKED
    assert failed[1]["failed"].startswith("cut off after 5 s")
    assert "in hangs" in capsys.readouterr().out  # where it hung
    process = child[1]["process"]
    assert not psutil.pid_exists(process) or psutil.Process(process).status() == "zombie"


def test_a_part_that_a_signal_ends_and_one_that_is_missing_are_passed_over(run):
    died, missing, after = run(part("dies"), part("missing"), WORKS)
    assert died[1]["failed"].startswith("exit code -6")
    assert "AttributeError" in missing[1]["failed"] and "missing" in missing[1]["failed"]
    assert after == WORKED


def test_lanes_run_side_by_side_on_a_gpu(run):
    """Each of the two waits for the other; the parts do not touch the GPU."""
    parts = [part("meets", 20.0, own=own, other=other) for own, other in ("ab", "ba")]
    assert sorted(figure["other"] for _, figure in run(*parts, device="cuda")) == ["a", "b"]


def test_parts_for_which_no_time_is_left_are_named(run):
    ((name, figure),) = run(WORKS, seconds=1.0)
    assert name == "works" and figure["failed"] == "left out: no time was left"


def test_each_figure_is_written_as_it_comes(tmp_path):
    results, check = gpu.Results({"card": "none"}, tmp_path), part("check")
    check = replace(check, section="correctness")
    results(check, {"what": "first", "holds": True})
    assert json.loads((tmp_path / "gpu.json").read_text())["figures"][0]["what"] == "first"
    assert results.are_good and "1 of 1 checks hold" in (tmp_path / "gpu.md").read_text()
    results(check, {"what": "second", "holds": False})
    results(check, {"what": "third", "failed": "exit code 1"})
    assert not results.are_good and "- third: exit code 1" in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize(("error", "holds"), [(4.1e-3, True), (7e-3, False), (float("nan"), False)])
def test_an_error_far_above_the_cpus_own_does_not_hold(error, holds):
    found = []
    put(lambda what, **values: found.append(values["holds"]), "x", "bf16", error, of_cpu=1e-3)
    assert found == [holds]


def test_a_path_that_is_wrong_does_not_hold(monkeypatch):
    """The device drops other layers than the CPU does; in float32 and in bf16 it is found."""

    def other_layers(batch, device):
        return replace(paths.as_it_is(batch, device), depth_noise=1 - batch.depth_noise)

    found = {}
    monkeypatch.setattr(paths, "PATHS", {"wrong": (False, "rope", other_layers, "")})
    paths.check(TOY, lambda what, **values: found.update({what: values["holds"]}), which=[])
    assert not found["wrong: gradients, float32"] and not found["wrong: gradients, bf16"]


def test_every_compiled_path_belongs_to_a_part():
    assert sorted(name for names in gpu.COMPILED.values() for name in names) == sorted(paths.COMPILED)


def test_a_policy_that_mixes_up_its_streams_does_not_hold(monkeypatch):
    class Wrong(policies.Recorded):
        def _feed_actions(self, rows, ids):
            return super()._feed_actions(rows, ids[::-1].copy())

    found = []
    monkeypatch.setattr(policies, "Recorded", Wrong)
    monkeypatch.setattr(policies, "WAYS", {"wrong": ("rolling", "rope", False)})
    policies.check(TOY, lambda what, **values: found.append(values["holds"]))
    assert found == [False] * 4  # numbers and pictures, in float32 and bf16


def test_a_line_of_training_is_set_beside_its_peers_and_the_ceiling():
    common = {"section": "training", "part": "p", "size": "s-rope"}
    figures = [
        {"what": "c", "section": "ceilings", "part": "p", "matmul": 100.0},
        common | {"what": "ours", "mode": "compiled", "tokens_per_second": 30.0, "flops": 40.0},
        common | {"what": "theirs", "mode": "gpt2", "tokens_per_second": 20.0, "flops": 50.0},
    ]
    text = page.page({"card": "none"}, figures)
    assert "| ours | 30.00 | 40.0% | 1.50 | - |" in text and "| theirs | 20.00 |" in text


def test_a_mode_goes_on_with_the_newest_half_that_was_saved(tmp_path):
    """zero2 has failed and saved nothing."""
    from safetensors.torch import save_file
    from torch import ones

    for mode in ("plain", "zero1"):
        for name in ("weights", "moments"):
            save_file({mode: ones(1)}, tmp_path / f"{mode}-float32-{name}.safetensors")
    before, (weights, _) = zero._saved(tmp_path, "zero3", "float32")
    assert before == "zero1" and list(weights) == ["zero1"]


def script(*words: str, seconds: float = 60) -> subprocess.CompletedProcess:
    command = [sys.executable, "benchmarks/gpu.py", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)


@pytest.mark.skipif(gpu.has_gpu(), reason="there is a GPU")
def test_without_a_gpu_it_says_how_to_run_it_on_toys():
    done = script()
    assert done.returncode == 1 and done.stderr.strip() == gpu.NO_GPU


def test_an_unknown_part_is_answered_with_the_known_ones():
    done = script("--toy", "--only", "speed")
    assert done.returncode == 1 and "sections are correctness, tests, engines, ceil" in done.stderr


@pytest.mark.slow
def test_all_of_it_runs_on_toys(tmp_path):
    done = script("--toy", "--out", str(tmp_path), "--seconds", "1500", seconds=1600)
    figures = json.loads((tmp_path / "gpu.json").read_text())["figures"]
    failed = [figure for figure in figures if "failed" in figure or figure.get("holds") is False]
    assert done.returncode == 0 and not failed, (failed, done.stdout[-3000:], done.stderr[-3000:])
    expected = {p.section for p in [p for lane in gpu.correctness() for p in lane] + gpu.timed()}
    assert {figure["section"] for figure in figures if "what" in figure} == expected
    assert sum(figure.get("holds", False) for figure in figures) >= 90
    assert "no figure says anything of speed" in done.stdout
