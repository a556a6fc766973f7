"""How many CPU threads torch computes with and how they wait, settled before it is imported.

OpenMP's threads spin while they wait for each other. Where another process takes a core, the spinning ones hold up
the one that works, at every layer of every timestep (docs/evaluation.md has figures). So the command lets them spin for some
microseconds only and then sleep, and small models act with one thread, unless the environment or `--threads` says otherwise.
`import gato` alone settles nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gato.setting import MAX_THREADS, Limits

from .command import parse

THREADS = Limits(1, MAX_THREADS)
THREADS_HELP = "of the CPU (default: OMP_NUM_THREADS; else one for a small model, and torch's choice for others)"
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}  # GNU's threads heed the count, others the policy
SMALL = 40_000_000  # bytes of weights: ten million parameters


def add_threads(parser: Any) -> None:
    parser.add_option("--threads", int, None, THREADS, THREADS_HELP)


def checkpoint_options(parser: Any, config: type, arguments: Sequence[str]) -> tuple[Path, Any]:
    """The checkpoint of a verb that stays up, and its settings, of class `config`; the threads are settled on the way."""
    parser.add_argument("checkpoint", type=Path)
    parser.add_config(config)
    add_threads(parser)
    options = vars(parse(parser, arguments))
    checkpoint = options.pop("checkpoint")
    use_threads(options.pop("threads"), checkpoint)
    return checkpoint, config(**options)


def waiting_chosen(environment: Mapping[str, str]) -> str | None:
    """The variable with which somebody chose how OpenMP's threads wait, if any."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", *sorted(name for name in environment if name.startswith("KMP_")))
    return next((name for name in names if name in environment), None)


def wait_passively() -> None:
    """For this process, if torch is not imported yet, and for those that it starts."""
    if waiting_chosen(os.environ) is None:
        os.environ.update(WAITING)


def without_gpu() -> dict[str, str]:
    """What tells DeepSpeed that there is no GPU where there is no driver: it warns of that wherever something imports it."""
    has_driver = shutil.which("nvidia-smi") or Path("/dev/kfd").exists()
    return {} if has_driver else {"DS_ACCELERATOR": "cpu"}


def use_threads(threads: int | None, checkpoint: Path | None) -> None:
    """So many threads; where that is `None` and `OMP_NUM_THREADS` unset, one if the folder's weights are small, or there is none."""
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        sizes = [0] if checkpoint is None else [path.stat().st_size for path in Path(checkpoint).glob("model*.safetensors")]
        threads = 1 if sizes and sum(sizes) < SMALL else None
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
