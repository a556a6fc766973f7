"""The tests marked `gpu`, in this process."""

from __future__ import annotations

from typing import Any

import pytest

from .worker import ROOT, Options, Report


class Outcomes:
    """Reports each test as it ends."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome == "failed" or report.skipped:
            name = report.nodeid.split("::", 1)[-1].replace("_", " ")
            self.report(name, outcome=report.outcome, seconds=report.duration)


def run(options: Options, report: Report) -> None:
    """Only the file that holds them. **Raises:** `AssertionError` if one fails."""
    # with -s, since what a hook prints would be captured, too
    arguments = [
        "-q",
        "-s",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests" / "test_gpu.py"),
    ]
    code = pytest.main(arguments, plugins=[Outcomes(report)])
    assert code == 0, f"pytest ended with {code!r}"
