"""What a check is: an error against the CPU in float64, beside the CPU's own in the same precision.

An error is at most `SLACK` times the CPU's in that precision, and what is added for errors that are
next to nothing there. So no limit is set by hand for each path, and a wrong kernel, which is off by
far more than rounding, is found in bf16, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .worker import Report

PRECISIONS = ("float32", "bf16")
SLACK = 4.0
ADDED = {"float32": 2e-6, "bf16": 2e-3}


def apart(values: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """Norm of the difference over the norm of `reference`, all tensors together."""
    difference = total = 0.0
    for value, wanted in zip(values, reference, strict=True):
        wanted = wanted.detach().double().cpu()
        difference += float((value.detach().double().cpu() - wanted).square().sum())
        total += float(wanted.square().sum())
    return (difference / total) ** 0.5 if total else float(difference > 0)


def put(
    report: Report,
    what: str,
    precision: str,
    error: float,
    of_cpu: float,
    **more: Any,
) -> None:
    limit = SLACK * of_cpu + ADDED[precision]
    holds = bool(error <= limit)  # which an error that is not a number does not
    report(f"{what}, {precision}", error=error, cpu=of_cpu, limit=limit, holds=holds, **more)


@contextlib.contextmanager
def exactly() -> Any:
    """float32 products in float32, not in the shorter TF32, which a GPU takes for convolutions."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def autocast(device: str, precision: str) -> Any:
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
