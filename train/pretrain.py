"""`gato pretrain RECIPE`: from a recipe to a trained checkpoint, resuming by itself."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from gato.agent import Agent, default_device
from gato.learners.gato import GatoLearner
from gato.model import Gato, GatoConfig, preset
from gato.transformer import PositionScheme

from ..data.mixture import DataConfig, Mixture, open_tokenizer
from ..tokenizers.vocabulary import Vocabulary
from . import checkpoint
from .checkpoint import Progress
from .loop import TrainConfig, seconds_per_step, train
from .metrics import MetricsLog
from .optim import OptimConfig, make_optimizer


@dataclass(frozen=True)
class ModelConfig:
    """The architecture: a `size` of the paper (`gato-79m`, `gato-364m`, `gato-1b`, each with a `-rope` twin), or the numbers.

    The vocabulary follows from the tokenizer. See `GatoConfig` for the fields.
    """

    size: str | None = None
    num_layers: int = 4
    num_heads: int = 4
    width: int = 128
    head_width: int = 32
    feed_forward: int = 512
    positions: PositionScheme = "rope"
    context_length: int = 1024
    max_local_positions: int = 512
    patch_channels: int = 32
    drop_path: float = 0.1
    smooth_bins: bool = True
    smooth_bandwidth: float = 4.0
    initializer_range: float = 0.02

    def build(self, vocabulary: Vocabulary) -> GatoConfig:
        ids: dict[str, Any] = {
            "vocab_size": vocabulary.size, "continuous_start": vocabulary.continuous.start,
            "image_token_id": vocabulary.image, "pad_token_id": vocabulary.pad,
        }  # fmt: skip
        common = asdict(self)
        size = common.pop("size")
        if size is not None:
            for name in ("num_layers", "num_heads", "width", "head_width", "feed_forward", "positions"):
                common[name] = getattr(preset(size), name)
        return GatoConfig(**common, **ids)


@dataclass(frozen=True)
class PretrainConfig:
    """Everything a run is made of; a recipe is a YAML file of these."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def pretrain(config: PretrainConfig) -> Path:
    """Trains, or goes on where the run of this name stopped.

    **Returns:** the folder of the final checkpoint.

    **Raises:** `ValueError` if the run's folder holds a run of another configuration.
    """
    _set_up_torch(config.train)
    folder = Path("runs") / config.train.name
    final = folder / "final"
    accelerator = _accelerator(config.train)
    tokenizer = open_tokenizer(config.data, config.model.max_local_positions)
    model_config = config.model.build(tokenizer.vocabulary)
    mixture = Mixture(config.data, tokenizer, model_config.context_length, config.train.seed, 2 * model_config.num_layers)
    torch.manual_seed(config.train.seed)
    learner = GatoLearner(Gato(model_config), len(mixture.sources)).to(accelerator.device)
    steps = _planned_steps(folder, config, learner, accelerator, mixture)
    settings = replace(config.train, steps=steps)
    resolved = asdict(replace(config, train=settings))
    _claim(folder, resolved, config)
    if (final / "manifest.json").is_file():
        print(f"{final} is finished; name another run to train again")
        return final
    optimizer = make_optimizer(config.optim, learner.parameter_groups(config.optim.weight_decay))
    progress = _resume(folder, learner.model, optimizer, mixture)
    agent = Agent(learner.model, tokenizer, mixture.tasks)

    def save(at: Progress, name: str | None = None) -> None:
        checkpoint.save(folder / (name or f"step-{at.step}"), agent, optimizer, at, resolved, mixture.fingerprint)
        checkpoint.keep_newest(folder, settings.keep)

    log = MetricsLog(folder / "metrics.jsonl", progress.step, steps)
    try:
        progress = train(learner, optimizer, mixture, accelerator, settings, config.optim, log, progress, save)
    finally:
        log.close()
    save(progress, "final")
    print(f"{progress.tokens:,} tokens, {progress.targets:,} targets in {progress.seconds:.0f} s: {final}")
    return final


def _set_up_torch(config: TrainConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def _accelerator(config: TrainConfig) -> Accelerator:
    device = default_device() if config.device == "auto" else config.device
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "no"
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where installed, warns that it found no GPU
    return Accelerator(cpu=device == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision))


def _planned_steps(folder: Path, config: PretrainConfig, learner: GatoLearner, accelerator: Accelerator, mixture: Mixture) -> int:
    """The recipe's steps; or, from its seconds, what an earlier start of this run or a speed test says."""
    if config.train.steps is not None:
        return config.train.steps
    if config.train.seconds is None:
        raise ValueError("the recipe names neither train.steps nor train.seconds; give one of them")
    recorded = folder / "run.json"
    if recorded.is_file():
        return int(json.loads(recorded.read_text())["train"]["steps"])
    per_step = seconds_per_step(learner, accelerator, mixture, config.train)
    steps = max(1, int(config.train.seconds / per_step))
    reduced = config.train.reduced_below is not None and steps < config.train.reduced_below
    print(
        f"speed test: {per_step:.3f} s a step, so {steps} steps in {config.train.seconds:.0f} s" + (": reduced budget" if reduced else "")
    )
    return steps


def _claim(folder: Path, resolved: dict[str, Any], config: PretrainConfig) -> None:
    """Records the resolved configuration at a run's first start; later starts must agree with it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    content = json.loads(json.dumps(resolved))
    if path.is_file():
        changed = sorted(_changes(json.loads(path.read_text()), content))
        if changed:
            raise ValueError(
                f"'{folder}' holds a run with other settings ({'; '.join(changed)}); choose another --train.name or undo the change"
            )
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)


def _changes(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [c for key in sorted(old.keys() | new.keys()) for c in _changes(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    return [] if old == new else [f"{name} was {old}, now {new}"]


def _resume(folder: Path, model: Gato, optimizer: torch.optim.Optimizer, mixture: Mixture) -> Progress:
    if leftovers := checkpoint.clean(folder):
        print(f"removed half-written {', '.join(leftovers)}")
    done = checkpoint.steps(folder)
    if not done:
        return Progress()
    recorded = json.loads((done[-1] / "training.json").read_text())["data"]
    if recorded != mixture.fingerprint:
        changed = [name for name in mixture.fingerprint if recorded.get(name) != mixture.fingerprint[name]]
        raise ValueError(f"the stores of {', '.join(changed)} changed since '{done[-1]}' was written; restore them or start another run")
    progress = checkpoint.restore(done[-1], model, optimizer)
    print(f"resumed from {done[-1]}")
    return progress
