"""`gato pretrain RECIPE`: from a recipe to a trained checkpoint, resuming by itself, on one rank or many."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, LoggerType
from safetensors import SafetensorError
from safetensors.torch import load_file

from gato.agent import Agent
from gato.data.mixture import Mixture, open_tokenizer
from gato.device import pick_device
from gato.disk import read_json
from gato.learners.gato import GatoLearner
from gato.lock import FolderLock
from gato.model import Gato
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary

from . import checkpoint
from .checkpoint import Progress, Snapshot
from .engine import Engine, PlainEngine
from .launch import STOPPED
from .loop import StopRequest, seconds_per_step, train
from .metrics import MetricsLog
from .optim import make_optimizer, seconds_per_update
from .ranks import check_rows, from_first_rank, rank, say, sum_over_ranks, wait_for_first_rank, world_size
from .recipe import PretrainConfig, TrainConfig

FAILED_SAVES = 3  # so many in a row end the run
# What may differ when a run goes on: it changes how fast and where, not what is learned.
FREE = {
    "data.workers",
    *(f"train.{name}" for name in ("micro_batch_size", "save_every", "keep", "device", "threads", "deepspeed", "timeout", "max_skipped")),
    *(f"train.{name}" for name in ("report_to", "peak_flops", "compile", "recompute", "allow_changes")),
}


def pretrain(config: PretrainConfig) -> Path:
    """Trains, or goes on where the run of this name stopped. Called on every rank.

    **Returns:** the folder of the final checkpoint.

    **Raises:** `ValueError` if the run's folder holds a run of another configuration, or another process writes to
    it; `SystemExit` with `STOPPED` after SIGTERM or SIGINT, when the running update is done and saved.
    """
    pick_device(config.train.device, "--train.device")  # before a folder is made
    _set_up_torch(config.train)
    check_rows(config.train.batch_size, world_size())
    if config.train.steps is None and config.train.seconds is None:
        raise ValueError("the recipe names neither train.steps nor train.seconds; give one of them")
    folder = Path("runs") / config.train.name
    final = folder / "final"
    with ExitStack() as stack:
        accelerator = make_accelerator(config)
        stack.callback(accelerator.end_training)
        tokenizer = open_tokenizer(config.data, config.model.max_local_positions)
        model_config = config.model.build(tokenizer.vocabulary)
        mixture = Mixture(config.data, tokenizer, model_config.context_length, config.train.seed, 2 * model_config.num_layers)
        torch.manual_seed(config.train.seed)
        learner = GatoLearner(Gato(model_config), len(mixture.sources)).to(accelerator.device)
        if config.train.recompute:
            learner.model.recompute_layers()
        if config.train.compile:
            learner.model.transformer.compile_layers()
        if rank() == 0:  # what makes no sense has been refused by now, and nothing was made
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(FolderLock(folder).release)
        config = replace(config, train=replace(config.train, steps=_planned_steps(folder, config, learner, accelerator, mixture)))
        if rank() == 0:
            _claim(folder, json.loads(json.dumps(asdict(config))), config)
            _reopen(final, config.train.steps or 0)
        if from_first_rank((final / "manifest.json").is_file(), accelerator.device):
            say(f"{final} is finished; name another run to train again, or allow more updates by --train.allow_changes [train.steps]")
            return final
        engine, progress = _resume(folder, config, learner, accelerator, mixture, stack)
        progress = _run(folder, config, engine, accelerator, mixture, tokenizer, progress)
    say(f"{progress.tokens:,} tokens, {progress.targets:,} targets in {progress.seconds:.0f} s: {final}")
    return final


def outcome(config: PretrainConfig) -> dict[str, Any]:
    """What a finished run came to: its folder, its final checkpoint, and what `Progress` counts."""
    folder = Path("runs") / config.train.name
    return {"run": folder, "checkpoint": folder / "final", **vars(checkpoint.read_progress(folder / "final"))}


def _run(
    folder: Path, config: PretrainConfig, engine: Engine, accelerator: Accelerator, mixture: Mixture, tokenizer: EpisodeTokenizer,
    progress: Progress,
) -> Progress:  # fmt: skip
    """The updates that are left, and the last checkpoint."""
    settings = config.train
    assert settings.steps is not None
    save = Saver(folder, engine, config, mixture, tokenizer)
    say(engine.describe())
    track = None
    if settings.report_to:
        accelerator.init_trackers(settings.name, init_kwargs={"wandb": {"dir": str(folder)}})
        track = accelerator.log
    log = MetricsLog(folder / "metrics.jsonl", progress.step, settings.steps, track)
    try:
        with StopRequest() as stop:
            progress = train(engine, mixture, settings, config.optim, log, progress, save, stop)
        if progress.step < settings.steps:
            if save.last != progress.step:
                save(progress)
            save.settle()
            wait_for_first_rank(accelerator.device)
            say(f"stopped as asked after step {progress.step} of {settings.steps}, which is saved; the same command goes on")
            raise SystemExit(STOPPED)
        save(progress, "final")
        wait_for_first_rank(accelerator.device)
    finally:
        log.close()
        save.close()
    return progress


def dry_run(config: PretrainConfig, ranks: int) -> dict[str, Any]:
    """What the run would cost on so many ranks; opens no store. See `plan`.

    The vocabulary is that of the recipe's tokenizer, or of 32,000 pieces where there is none yet. Precision `auto` is planned as bf16.
    """
    from .plan import plan

    if ranks < 1:
        raise ValueError(f"--world-size is {ranks}; give at least one rank")
    train = config.train
    stage, offload = 0, False
    if train.deepspeed is not None:
        from .zero import read_settings

        zero = read_settings(train.deepspeed)["zero_optimization"]
        stage, offload = zero["stage"], zero.get("offload_optimizer", {}).get("device") == "cpu"
    try:
        vocabulary = open_tokenizer(config.data, config.model.max_local_positions).vocabulary
    except ValueError:
        vocabulary = Vocabulary(32_000)
    model = config.model.build(vocabulary)
    return plan(model, train.batch_size, train.micro_batch_size, ranks, stage, offload, train.precision in ("auto", "bf16"))


class Saver:
    """Writes checkpoints of a run while training goes on; every rank calls, the first one writes.

    Training waits for a copy of the state on the host, and for the checkpoint before this one. One that cannot be written (a full disk)
    leaves the older ones as they are, with a warning; `FAILED_SAVES` in a row, or the final one, end the run.
    """

    def __init__(self, folder: Path, engine: Engine, config: PretrainConfig, mixture: Mixture, tokenizer: EpisodeTokenizer) -> None:
        self.folder, self.engine, self.config, self.mixture, self.tokenizer = folder, engine, config, mixture, tokenizer
        self.last, self.failed = -1, 0
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Path, Future[None]] | None = None

    def __call__(self, at: Progress, name: str | None = None) -> None:
        self.settle()
        model, moments = self.engine.whole_model(), self.engine.moments()  # the ranks' shares, brought together
        self.last = at.step
        if rank() > 0:
            return
        agent = Agent(model, self.tokenizer, self.mixture.tasks, self.mixture.memories)
        snapshot = Snapshot(agent, moments, torch.get_rng_state(), at, asdict(self.config), self.mixture.fingerprint)
        path = self.folder / (name or f"step-{at.step}")
        self._writing = path, self._thread.submit(self._write, path, snapshot)
        if name is not None:
            self.settle()

    def _write(self, path: Path, snapshot: Snapshot) -> None:
        checkpoint.save(path, snapshot)
        checkpoint.keep_newest(self.folder, self.config.train.keep)

    def settle(self) -> None:
        """Waits until the last checkpoint is written. **Raises:** `OSError` if it was not and training cannot go on."""
        if self._writing is None:
            return
        (path, writing), self._writing = self._writing, None
        try:
            writing.result()
        except (OSError, SafetensorError) as error:
            self.failed += 1
            kept = [p.name for p in checkpoint.steps(self.folder)]
            text = f"{path} could not be written ({error}); kept are {', '.join(kept) or 'none'}"
            if path.name == "final" or self.failed == FAILED_SAVES:
                raise OSError(f"{text}; make room and start the run again") from error
            say(f"warning: {text}; training goes on")
        else:
            self.failed = 0

    def close(self) -> None:
        """What is being written is finished first."""
        self._thread.shutdown()


def _set_up_torch(config: TrainConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def make_accelerator(config: PretrainConfig) -> Accelerator:
    """The devices and the exchange between ranks; with DeepSpeed where the recipe asks for it.

    **Raises:** `ValueError` if accelerate understood the processes differently from what was asked for, or knows no such
    tracker; `ImportError` for one that is not installed.
    """
    settings = config.train
    _check_tracker(settings.report_to)
    device = pick_device(settings.device, "--train.device")
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "no"
    precision = {"fp32": "no"}.get(precision, precision)
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where installed, warns that it found no GPU
    common: dict[str, Any] = {"mixed_precision": precision, "log_with": settings.report_to}
    common["project_dir"] = str(Path("runs") / settings.name)
    if world_size() > 1 or settings.deepspeed is not None:
        backend = "nccl" if device.startswith("cuda") else "gloo"
        common["kwargs_handlers"] = [InitProcessGroupKwargs(backend=backend, timeout=timedelta(seconds=settings.timeout))]
    if settings.deepspeed is None:
        accelerator = Accelerator(cpu=device == "cpu", **common)
    else:
        from . import zero

        accelerator = zero.make_accelerator(config.optim, settings, precision, common)
    if accelerator.num_processes != world_size():
        raise ValueError(
            f"accelerate sees {accelerator.num_processes} ranks, but WORLD_SIZE is {world_size()}; start with gato or torchrun"
        )
    if accelerator.device.type != device.split(":")[0]:
        raise ValueError(f"accelerate took the device '{accelerator.device}' where '{device}' was asked for; unset its environment")
    if settings.deepspeed is None and accelerator.distributed_type == "DEEPSPEED":
        raise ValueError("accelerate was told to use DeepSpeed, but the recipe was not; name train.deepspeed instead, for example zero1")
    return accelerator


def _check_tracker(name: str | None) -> None:
    """accelerate would go without one that is not installed."""
    known = [str(tracker) for tracker in LoggerType]
    if name is not None and name not in known:
        raise ValueError(f"train.report_to is '{name}'; known are {', '.join(known)}")
    if name not in (None, "all", *map(str, get_available_trackers())):
        raise ImportError(f"train.report_to is '{name}', which is not installed; pip install {name}")


def _planned_steps(folder: Path, config: PretrainConfig, learner: GatoLearner, accelerator: Accelerator, mixture: Mixture) -> int:
    """The recipe's steps; or, from its seconds, what an earlier start of this run or a speed test says."""
    settings = config.train
    if settings.steps is not None:
        return settings.steps
    assert settings.seconds is not None
    recorded = folder / "run.json"
    known = _recorded_steps(recorded) if rank() == 0 and recorded.is_file() else 0
    if known := from_first_rank(known, accelerator.device):
        return known
    mine = seconds_per_step(learner, mixture, settings, accelerator.device, accelerator.autocast)
    if settings.deepspeed is None:
        mine += seconds_per_update(config.optim, learner)
    else:  # a copy of the whole model with its moments may not fit where ZeRO is needed
        say("speed test: the optimizer's share under ZeRO is not known before the run and left out, so it may take longer")
    per_step = float(sum_over_ranks(torch.tensor(mine, device=accelerator.device))) / world_size()
    steps = max(1, int(settings.seconds / per_step))
    reduced = settings.reduced_below is not None and steps < settings.reduced_below
    say(f"speed test: {per_step:.3f} s a step, so {steps} steps in {settings.seconds:.0f} s" + (": reduced budget" if reduced else ""))
    return steps


def _recorded_steps(path: Path) -> int:
    settings = read_json(path).get("train")
    steps = settings.get("steps") if isinstance(settings, dict) else None
    if type(steps) is not int or steps < 1:
        raise ValueError(f"'{path}' is damaged: its train.steps is {steps!r}, expected a whole number above 0; restore it")
    return steps


def _claim(folder: Path, resolved: dict[str, Any], config: PretrainConfig) -> None:
    """Records the resolved configuration at a run's first start; later starts must agree with it, but for `FREE` and what they allow."""
    path = folder / "run.json"
    if path.is_file():
        changed = _changes(read_json(path), resolved)
        if refused := {name: text for name, text in sorted(changed.items()) if name not in FREE and not _is_allowed(name, config.train)}:
            raise ValueError(
                f"'{folder}' holds a run with other settings ({'; '.join(refused.values())}); choose another --train.name, undo it, "
                f"or allow it by --train.allow_changes [{','.join(refused)}] (never a model's)"
            )
        if not changed:
            return
        say(f"going on with {'; '.join(changed.values())}")
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(resolved, indent=1))
    temporary.replace(path)


def _reopen(final: Path, steps: int) -> None:
    """Makes the final checkpoint of a run that is to go on to more updates one like those before it."""
    if not (final / "manifest.json").is_file():
        return
    done = checkpoint.read_progress(final).step
    if done < steps:
        final.rename(final.with_name(f"step-{done}"))
        say(f"{final} was finished after {done} updates; going on to {steps}")


def _is_allowed(name: str, train: TrainConfig) -> bool:
    return not name.startswith("model.") and any(f"{name}.".startswith(f"{allowed}.") for allowed in train.allow_changes)


def _changes(old: Any, new: Any, name: str = "") -> dict[str, str]:
    """What differs between two nested configurations: "NAME was OLD, now NEW" by name."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{name}.{key}".lstrip("."), key) for key in sorted(old.keys() | new.keys())]
        return {n: text for path, key in pairs for n, text in _changes(old.get(key), new.get(key), path).items()}
    return {} if old == new else {name: f"{name} was {old}, now {new}"}


def _resume(
    folder: Path, config: PretrainConfig, learner: GatoLearner, accelerator: Accelerator, mixture: Mixture, stack: ExitStack
) -> tuple[Engine, Progress]:
    """An engine at the newest intact checkpoint, or at the start; `stack` closes it. The first rank chooses the checkpoint for all."""
    chosen = -1
    if rank() == 0:
        if leftovers := checkpoint.clean(folder):
            say(f"removed half-written {', '.join(leftovers)}")
        found = checkpoint.newest_intact(folder, say)
        chosen = int(found.name[5:]) if found else -1
    chosen = from_first_rank(chosen, accelerator.device)
    path = folder / f"step-{chosen}"
    if chosen >= 0:
        _check_stores(path, mixture, config.train)
        # before the engine is made: DeepSpeed copies the weights that it finds
        learner.model.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    engine = _engine(config, learner, accelerator, mixture)
    stack.callback(engine.close)  # before the training ends, whatever ends it
    if chosen < 0:
        return engine, Progress()
    progress = checkpoint.restore(path, engine)
    say(f"resumed from {path}")
    return engine, progress


def _check_stores(path: Path, mixture: Mixture, train: TrainConfig) -> None:
    """**Raises:** `ValueError` if the stores are not those of the checkpoint, but for sources that `allow_changes` names."""
    old, new = read_json(path / "training.json").get("data"), mixture.fingerprint
    if not isinstance(old, dict):
        raise ValueError(f"'{path / 'training.json'}' is damaged: it does not say which stores were trained on; use another checkpoint")
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if refused := [name for name in changed if not _is_allowed(f"data.sources.{name}", train)]:
        raise ValueError(f"the stores of {', '.join(refused)} changed since '{path}' was written; restore them or start another run")


def _engine(config: PretrainConfig, learner: GatoLearner, accelerator: Accelerator, mixture: Mixture) -> Engine:
    optimizer = make_optimizer(config.optim, learner.parameter_groups(config.optim.weight_decay))
    if config.train.deepspeed is None:
        return PlainEngine(learner, optimizer, accelerator, config.optim.clip)
    from .zero import ZeroEngine

    return ZeroEngine(learner, optimizer, accelerator, lambda: mixture.batch(0, [rank()]))
