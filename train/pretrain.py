"""`gato pretrain RECIPE`: from a recipe to a trained checkpoint, resuming by itself, on one rank or many; the same for any learner."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from gato.data.mixture import open_tokenizer
from gato.device import pick_device
from gato.learner import OnlineBatches, Setup
from gato.lock import FolderLock

from ..tokenizers.vocabulary import Vocabulary
from . import checkpoint
from .checkpoint import Progress, Saver
from .devices import make_accelerator, set_up_torch, settled_precision
from .engine import Engine, PlainEngine, load_weights
from .launch import STOPPED
from .loop import StopRequest, seconds_per_step, train
from .metrics import MetricsLog, read_metrics
from .optim import make_optimizer, seconds_per_update
from .ranks import check_rows, from_first_rank, rank, say, sum_over_ranks, wait_for_first_rank, world_size
from .record import check_stores, record, record_steps, recorded_steps, reopen
from .schedule import Schedule
from .setup import set_up


def pretrain(config: Any) -> Path:
    """Trains, or goes on where the run of this name stopped. Called on every rank.

    **Arguments:** `config`: a recipe, of the class that its learner has (`recipe_class`).

    **Returns:** the folder of the final checkpoint.

    **Raises:** `ValueError` if the run's folder holds a run of another configuration, or another process writes to
    it; `SystemExit` with `STOPPED` after SIGTERM or SIGINT, when the running update is done and saved.
    """
    pick_device(config.train.device, "--train.device")  # before a folder is made
    set_up_torch(config.train)
    check_rows(config.train.batch_size, world_size())
    if config.train.steps is None and config.train.seconds is None:
        raise ValueError("the recipe names neither train.steps nor train.seconds; give one of them")
    folder = Path("runs") / config.train.name
    final = folder / "final"
    config = replace(config, train=replace(config.train, precision=settled_precision(folder, config.train)))
    with ExitStack() as stack:
        accelerator = make_accelerator(config.optim, config.train)
        stack.callback(accelerator.end_training)
        setup = set_up(config, accelerator.device)
        if rank() == 0:  # what makes no sense has been refused by now, and nothing was made
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(FolderLock(folder).release)
        seconds = config.train.seconds if config.train.steps is None else None
        config = replace(config, train=replace(config.train, steps=_planned_steps(folder, config, setup, accelerator)))
        if rank() == 0:
            record(folder, json.loads(json.dumps(asdict(config))), config.train)
            reopen(final, config.train.steps or 0)
        if from_first_rank((final / "manifest.json").is_file(), accelerator.device):
            say(f"{final} is finished; name another run to train again, or allow more updates by --train.allow_changes train.steps")
            return final
        engine, progress = _resume(folder, config, setup, accelerator, stack)
        metrics = folder / "metrics.jsonl"
        known = read_metrics(metrics) if rank() == 0 and metrics.is_file() else []
        schedule = Schedule(config.train.steps, seconds, known, progress.step)
        progress = _run(folder, config, engine, accelerator, setup, progress, schedule)
    which = "" if config.optim.ema is None else f", weights averaged with a decay of {config.optim.ema:g}"
    say(f"{progress.tokens:,} tokens, {progress.targets:,} targets in {progress.seconds:.0f} s: {final}{which}")
    return final


def outcome(config: Any) -> dict[str, Any]:
    """What a finished run came to: its folder, its final checkpoint, and what `Progress` counts."""
    folder = Path("runs") / config.train.name
    return {"run": folder, "checkpoint": folder / "final", **vars(checkpoint.read_progress(folder / "final"))}


def _run(
    folder: Path, config: Any, engine: Engine, accelerator: Accelerator, setup: Setup, progress: Progress, schedule: Schedule
) -> Progress:
    """The updates that are left, and the last checkpoint."""
    settings = config.train
    save = Saver(folder, engine, setup, asdict(config), settings.keep)
    say(f"{engine.describe()}; {settings.describe_batch(world_size())}")
    track = None
    if settings.report_to:
        accelerator.init_trackers(settings.name, init_kwargs={"wandb": {"dir": str(folder)}})
        track = accelerator.log
    log = MetricsLog(folder / "metrics.jsonl", progress.step, schedule.total, track)
    try:
        with StopRequest() as stop:
            progress = train(engine, setup.batches, settings, config.optim, log, progress, save, stop, schedule, setup.evaluation)
        if progress.step < schedule.total:
            if save.last != progress.step:
                save(progress)
            save.wait()
            wait_for_first_rank(accelerator.device)
            say(f"stopped as asked after step {progress.step} of {schedule.total}, which is saved; the same command goes on")
            raise SystemExit(STOPPED)
        if schedule.is_timed and rank() == 0:
            record_steps(folder / "run.json", progress.step)
        save(progress, "final")
        wait_for_first_rank(accelerator.device)
    finally:
        log.close()
        save.close()
        if setup.evaluation is not None:
            setup.evaluation.close()
    return progress


def dry_run(config: Any, ranks: int) -> tuple[dict[str, Any], str]:
    """What a run of Gato would cost on so many ranks, or a world model's in its one process, and the same as text; opens no store.

    See `plan` and `world.plan`.

    The vocabulary is that of the recipe's tokenizer, or of 32,000 pieces where there is none yet. Precision `auto` is planned as bf16.
    """
    if ranks < 1:
        raise ValueError(f"--world-size is {ranks}; give at least one rank")
    if config.learner == "world-model":
        from .world import plan as of_world

        return (content := of_world.plan(config)), of_world.describe(content)
    if config.learner != "gato":
        raise ValueError(
            f"--dry-run plans Gato and world models, and the recipe's learner is {config.learner}; start it, its speed is measured first"
        )
    from .plan import describe, plan

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
    half = train.precision in ("auto", "fastest", "bf16")
    content = plan(model, train.batch_size, train.micro_batch_size, ranks, stage, offload, half)
    return content, describe(content)


def _planned_steps(folder: Path, config: Any, setup: Setup, accelerator: Accelerator) -> int:
    """The recipe's steps; or, from its seconds, what an earlier start of this run or a speed test says."""
    settings = config.train
    if settings.steps is not None:
        return settings.steps
    assert settings.seconds is not None
    recorded = folder / "run.json"
    known = recorded_steps(recorded) if rank() == 0 and recorded.is_file() else 0
    if known := from_first_rank(known, accelerator.device):
        return known
    mine = seconds_per_step(setup.learner, setup.batches, settings, accelerator.device, accelerator.autocast)
    if settings.deepspeed is None:
        mine += seconds_per_update(config.optim, setup.learner)
    else:  # a copy of the whole model with its moments may not fit where ZeRO is needed
        say("speed test: the optimizer's share under ZeRO is not known before the run and left out; the clock will tell")
    per_step = float(sum_over_ranks(torch.tensor(mine, device=accelerator.device))) / world_size()
    steps = max(1, int(settings.seconds / per_step))
    reduced = settings.reduced_below is not None and steps < settings.reduced_below
    say(f"speed test: {per_step:.3f} s a step, so {steps} steps in {settings.seconds:.0f} s" + (": reduced budget" if reduced else ""))
    return steps


def _resume(folder: Path, config: Any, setup: Setup, accelerator: Accelerator, stack: ExitStack) -> tuple[Engine, Progress]:
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
        check_stores(path, setup.batches.fingerprint, config.train)
        # before the engine is made: DeepSpeed copies the weights that it finds
        load_weights(setup.learner, checkpoint.weights(path))
    engine = _engine(config, setup, accelerator)
    if isinstance(setup.batches, OnlineBatches):
        stack.callback(setup.batches.close)
    stack.callback(engine.close)  # before the training ends, whatever ends it
    if chosen < 0:
        return engine, Progress()
    progress = checkpoint.restore(path, engine, setup.batches)
    say(f"resumed from {path}")
    return engine, progress


def _engine(config: Any, setup: Setup, accelerator: Accelerator) -> Engine:
    optimizer = make_optimizer(config.optim, setup.learner.parameter_groups(config.optim.weight_decay))
    if config.train.deepspeed is None:
        return PlainEngine(setup.learner, optimizer, accelerator, config.optim.clip, config.optim.ema)
    from .zero import ZeroEngine

    return ZeroEngine(setup.learner, optimizer, accelerator, lambda: setup.batches.batch(0, [rank()]))
