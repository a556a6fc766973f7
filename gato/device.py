"""Where a model computes: a device that somebody names, or the best one that is here."""

from __future__ import annotations

DEVICES = "cpu, cuda, cuda:0, mps"


def pick_device(name: str | None, option: str = "--device") -> str:
    """`name` if there is such a device; `None` and `auto` are the best one here.

    **Arguments:** `option`: how a command takes the device, for the message.

    **Raises:** `ValueError` for a device that is unknown or not here.
    """
    import torch

    if name is None or name == "auto":
        return default_device()
    try:
        kind, index = (device := torch.device(name)).type, device.index
    except (RuntimeError, TypeError):
        kind, index = "", None
    if kind not in ("cpu", "cuda", "mps"):
        raise ValueError(f"there is no device {name!r}; known are {DEVICES}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"no CUDA device here; use {option} cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"no MPS device here; use {option} cpu")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if index is not None and index >= count:
        raise ValueError(f"there is no device '{name}'; {kind} has 0 to {count - 1}")
    return str(device)


def default_device() -> str:
    """cuda, else mps, else cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
