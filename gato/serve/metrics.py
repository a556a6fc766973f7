"""Counts and times of a server, in Prometheus' text form."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from threading import Lock

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters, histograms, and numbers that are asked for when they are read; all threads may write."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._help: dict[str, tuple[str, str]] = {}
        self._counts: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, list[float]]] = {}
        self._bounds: dict[str, tuple[float, ...]] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def counter(self, name: str, text: str) -> None:
        self._help[name], self._counts[name] = ("counter", text), {}

    def histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self._help[name], self._histograms[name], self._bounds[name] = ("histogram", text), {}, bounds

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._help[name], self._gauges[name] = ("gauge", text), value

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts = self._counts[name]
            counts[key] = counts.get(key, 0) + amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        """One value more: its bucket, the sum and the number of values."""
        bounds, key = self._bounds[name], tuple(sorted(labels.items()))
        with self._lock:
            row = self._histograms[name].setdefault(key, [0.0] * (len(bounds) + 3))
            row[bisect_left(bounds, value)] += 1
            row[-2] += value
            row[-1] += 1

    def text(self) -> str:
        """As a scraper reads it."""
        lines = []
        with self._lock:
            for name, (form, text) in self._help.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {form}"]
                lines += [f"{name}{_braces(key)} {_number(value)}" for key, value in self._counts.get(name, {}).items()]
                if name in self._gauges:
                    lines.append(f"{name} {_number(self._gauges[name]())}")
                for key, row in self._histograms.get(name, {}).items():
                    lines += self._buckets(name, key, row)
        return "\n".join(lines) + "\n"

    def _buckets(self, name: str, key: Labels, row: list[float]) -> list[str]:
        lines, seen = [], 0.0
        for bound, count in zip((*self._bounds[name], math.inf), row[:-2], strict=True):
            seen += count
            lines.append(f"{name}_bucket{_braces((*key, ('le', _number(bound))))} {_number(seen)}")
        return [*lines, f"{name}_sum{_braces(key)} {_number(row[-2])}", f"{name}_count{_braces(key)} {_number(row[-1])}"]


def _braces(labels: Labels) -> str:
    parts = [f'{name}="{_escaped(value)}"' for name, value in labels]
    return f"{{{','.join(parts)}}}" if parts else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return "+Inf" if math.isinf(value) else f"{value:.10g}"


def resident_bytes() -> float:
    """Memory of this process; 0 where the system has no /proc."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096.0
    except OSError:
        return 0.0
