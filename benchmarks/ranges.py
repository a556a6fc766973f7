"""The fast suite at one end of the ranges that pyproject.toml allows; docs/results/libraries.md gets the result.

    make test-oldest        # python benchmarks/ranges.py oldest: the lowest version of each package that we ask for
    make test-newest        # the highest ones of today

The environment lies in build/ranges/ and is made anew each time by uv, with Python 3.11 for the lowest versions and the newest
Python up to 3.13 for the highest, as far as they are installed. Words behind the end go to pytest.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results" / "libraries.md"
EXTRAS = ".[test,page,serve,embeddings]"
PACKAGES = [
    "torch", "transformers", "accelerate", "gymnasium", "datasets", "numpy", "jsonargparse", "gradio", "peft", "deepspeed",
]  # fmt: skip
ENDS = {"oldest": (["3.11"], "lowest-direct"), "newest": (["3.13", "3.12", "3.11"], "highest")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("end", choices=ENDS)
    options, words = parser.parse_known_args()
    folder = ROOT / "build" / "ranges" / options.end
    python = make_environment(folder, *ENDS[options.end])
    report = folder / "report.xml"
    command = [python, "-m", "pytest", "-q", "-m", "not slow and not gpu", f"--junitxml={report}", *words]
    print("$", *map(str, command), flush=True)
    code = subprocess.run(command, cwd=ROOT).returncode
    row = measured(python, report)
    print(json.dumps(row))
    if not words:  # only the whole suite is a result
        write_row(options.end, row)
    return code


def make_environment(folder: Path, versions: list[str], resolution: str) -> Path:
    """The interpreter of a new environment with the test extras and DeepSpeed at the named end of their ranges."""
    shutil.rmtree(folder, ignore_errors=True)
    found = next((path for v in versions if (path := _uv("python", "find", "--no-python-downloads", v, check=False))), sys.executable)
    _uv("venv", "-q", "--python", found, str(folder))
    python = folder / "bin" / "python"
    _uv("pip", "install", "-q", "--compile-bytecode", "--python", str(python), "--resolution", resolution, "-e", EXTRAS)
    tools = ["setuptools", "wheel", "ninja", "py-cpuinfo"]
    _uv("pip", "install", "-q", "--python", str(python), *tools)
    lowest = next(line for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines() if line.startswith("deepspeed"))
    spec = lowest.split('"')[1]
    spec = spec.replace(">=", "==") if resolution != "highest" else spec
    installed = json.loads(_uv("pip", "list", "--python", str(python), "--format", "json"))
    kept = folder / "installed.txt"  # DeepSpeed must move nothing
    kept.write_text("".join(f"{p['name']}=={p['version']}\n" for p in installed if not p.get("editable_project_location")))
    _uv("pip", "install", "-q", "--python", str(python), "--no-build-isolation", "-c", str(kept), spec, env={"DS_BUILD_OPS": "0"})
    return python


def _uv(*words: str, check: bool = True, env: dict[str, str] | None = None) -> str:
    """What uv prints. **Raises:** `SystemExit` where it fails."""
    done = subprocess.run([sys.executable, "-m", "uv", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | (env or {}))
    if done.returncode and check:
        raise SystemExit(f"uv {words[0]} failed with exit code {done.returncode}")
    return done.stdout.strip() if done.returncode == 0 else ""


def measured(python: Path, report: Path) -> dict[str, str | int]:
    """Day, versions, and how many tests passed, failed (errors too) and were skipped."""
    code = "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    versions = json.loads(subprocess.run([python, "-c", code, *PACKAGES], capture_output=True, text=True, check=True).stdout)
    version = subprocess.run([python, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True)
    suite = next(ElementTree.parse(report).getroot().iter("testsuite")).attrib
    failed, skipped = int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
    return {
        "day": datetime.date.today().isoformat(), "Python": version.stdout.strip(), **versions,
        "passed": int(suite["tests"]) - failed - skipped, "failed": failed, "skipped": skipped,
    }  # fmt: skip


def write_row(end: str, row: dict[str, str | int]) -> None:
    """Replaces the column's line of the page's table."""
    line = f"| {end} | " + " | ".join(str(value) for value in row.values()) + " |"
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    kept = [line if text.startswith(f"| {end} |") else text for text in lines]
    PAGE.write_text("\n".join(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
