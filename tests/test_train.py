"""Training: learns, resumes bit for bit after SIGKILL, and refuses what would spoil a run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import gato
from gato import digests
from gato.data.collection.collect import CollectConfig, collect
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import StoreWriter
from gato.episode import Episode
from gato.lock import FolderLock
from gato.tokenizers.text import TextTokenizer
from gato.train import checkpoint, devices
from gato.train.average import share_kept
from gato.train.loop import SpikeWatch, StopRequest
from gato.train.metrics import read_metrics
from gato.train.pretrain import pretrain
from gato.train.recipe import ModelConfig, OptimConfig, PretrainConfig, TrainConfig
from gato.words import document_task

RECIPE = """
model: {num_layers: 2, num_heads: 2, width: 32, head_width: 16, feed_forward: 64, context_length: 64, drop_path: 0.1}
data:
  sources:
    toy/corridor: {weight: 2}
    documents: {weight: 1}
optim: {learning_rate: 0.003, warmup_steps: 2, muon: 2, ema: 0.9}
train: {name: small, steps: 14, batch_size: 8, micro_batch_size: 4, save_every: 3, threads: 1, deterministic: true}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A stores folder with corridor episodes, two documents and a tokenizer of 320 pieces."""
    folder = tmp_path_factory.mktemp("home")
    os.environ["GATO_HOME"] = str(folder)
    collect(CollectConfig(tasks=["toy/corridor"], episodes=30))
    sentences = ["the agent goes right until it reaches the end of the corridor", "left and right are two actions"] * 20
    task = document_task("text/sentences")
    with StoreWriter(folder / "stores" / "documents", [task], {}) as writer:
        for sentence in sentences:
            writer.append(Episode(task, {}, {"text": np.array([sentence], object)}, np.zeros(1, np.float32)))
    TextTokenizer.train(sentences, 300).save(folder / "stores" / "tokenizer.model")
    yield folder
    del os.environ["GATO_HOME"]


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """An empty working folder for runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATO_HOME", str(home))
    return tmp_path


@pytest.fixture
def small(here) -> PretrainConfig:
    """What RECIPE says, as a configuration."""
    return PretrainConfig(
        model=ModelConfig(num_layers=2, num_heads=2, width=32, head_width=16, feed_forward=64, context_length=64, drop_path=0.1),
        data=DataConfig(sources={"toy/corridor": SourceConfig(2), "documents": SourceConfig(1)}),
        optim=OptimConfig(learning_rate=0.003, warmup_steps=2),
        train=TrainConfig(name="small", steps=6, batch_size=8, save_every=3, threads=1),
    )


def test_a_tiny_model_reaches_the_expert_in_the_corridor(here):
    """Through collecting, training, sampling, decoding and stepping."""
    final = pretrain(
        PretrainConfig(
            model=ModelConfig(num_layers=2, num_heads=2, width=64, head_width=32, feed_forward=128, context_length=64, drop_path=0.0),
            data=DataConfig(sources={"toy/corridor": SourceConfig()}),
            optim=OptimConfig(learning_rate=0.003, warmup_steps=10),
            train=TrainConfig(name="corridor", steps=120, batch_size=16, threads=1),
        )
    )
    scores = gato.evaluate(gato.load(final, "cpu").policy("toy/corridor", temperature=0.0), episodes=20)
    assert scores["success"] == 1.0 and scores["mean"] == scores["expert"] == 1.0
    assert json.loads((final / "run.json").read_text())["train"]["steps"] == 120


def start(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(gato.__file__).parent.parent)}
    command = [sys.executable, "-m", "gato.cli", "pretrain", "small.yaml"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(folder / "runs/small/metrics.jsonl")]


def test_killed_runs_resume_to_the_losses_of_an_uninterrupted_one_bit_for_bit(here):
    """Stochastic depth, accumulation, averages, both optimizers and several sources on; SIGKILL twice, once right behind a checkpoint."""
    for name in ("whole", "killed"):
        (here / name).mkdir()
        (here / name / "small.yaml").write_text(RECIPE)
    whole = start(here / "whole")
    for kill_at in (4, 9):
        process = start(here / "killed")
        metrics = here / "killed/runs/small/metrics.jsonl"
        while not (metrics.exists() and len(read_metrics(metrics)) >= kill_at) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = start(here / "killed")
    assert (last.wait(), whole.wait()) == (0, 0), (last.stderr.read(), whole.stderr.read())
    assert [step for step, _ in losses(here / "whole")] == list(range(1, 15))
    assert losses(here / "killed") == losses(here / "whole")
    final = "runs/small/final/model.safetensors"
    assert (here / "killed" / final).read_bytes() == (here / "whole" / final).read_bytes()


def test_an_average_of_the_weights_is_saved_to_act_with_and_training_does_not_know_of_it(small, here, capsys):
    train = replace(small.train, steps=3, save_every=1, keep=9)
    for name, ema in (("plain", None), ("averaged", 0.9)):
        pretrain(replace(small, train=replace(train, name=name), optim=replace(small.optim, ema=ema)))
    assert "runs/averaged/final, weights averaged with a decay of 0.9\n" in capsys.readouterr().out
    last, plain = (load_file(here / f"runs/{file}.safetensors") for file in ("averaged/final/trained", "plain/final/model"))
    before, found = (load_file(here / f"runs/averaged/{name}/model.safetensors") for name in ("step-2", "final"))
    for name, weights in plain.items():
        assert torch.equal(last[name], weights)
        # of the third update a quarter of the average is kept, later ever more, up to 0.9
        assert torch.allclose(found[name], 0.25 * before[name] + 0.75 * weights, atol=1e-6)
    assert (
        gato.load(here / "runs/averaged/final", "cpu").model.state_dict()["embedding.tokens.weight"].equal(found["embedding.tokens.weight"])
    )
    assert not (here / "runs/plain/final/trained.safetensors").exists()


def test_how_much_of_an_average_is_kept_grows_to_the_decay():
    assert [share_kept(0.9, step) for step in (0, 2, 71, 80, 1000)] == pytest.approx([0.1, 0.25, 72 / 81, 0.9, 0.9])


def test_an_average_can_begin_and_end_in_the_middle_of_a_run(small, here):
    """Where that is allowed; what is learned stays the same."""
    for steps, ema in ((1, None), (2, 0.9), (3, None)):
        train = replace(small.train, steps=steps, allow_changes=["optim.ema", "train.steps"])
        final = pretrain(replace(small, train=train, optim=replace(small.optim, ema=ema, final_ratio=1.0)))
    plain = pretrain(replace(small, train=replace(small.train, name="plain", steps=3), optim=replace(small.optim, final_ratio=1.0)))
    assert (final / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert not (final / "trained.safetensors").exists()


@pytest.mark.parametrize("stage", [(checkpoint, "save_file"), (digests, "sha256"), (checkpoint, "sync")], ids=lambda stage: stage[1])
def test_a_save_that_breaks_off_at_any_stage_leaves_no_checkpoint_of_its_name(small, here, monkeypatch, stage):
    module, name = stage
    original, calls = getattr(module, name), []

    def breaks(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, name, breaks)
        pretrain(replace(small, train=replace(small.train, name="other")))
    assert checkpoint.steps(here / "runs/other") == []


def flip_a_bit(damaged: Path) -> None:
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)


def test_layers_computed_again_learn_the_same(small, here):
    """Stochastic depth comes with the batch, so the second computation drops the same rows."""
    finals = []
    for name in ("kept", "again"):
        train = replace(small.train, name=name, steps=3, recompute=name == "again")
        finals.append(load_file(pretrain(replace(small, train=train)) / "model.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(finals[0].values(), finals[1].values(), strict=True))


def test_a_flipped_bit_in_a_checkpoint_is_named(small, here):
    final = pretrain(small)
    flip_a_bit(final / "optimizer.safetensors")
    with pytest.raises(ValueError, match=r"optimizer\.safetensors' is damaged"):
        checkpoint.verify(final)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(small, here, capsys):
    longer = replace(small, train=replace(small.train, steps=7))
    whole = (pretrain(longer).rename(here / "aside") / "model.safetensors").read_bytes()
    before = losses(here)
    flip_a_bit(here / "runs/small/step-6/model.safetensors")
    assert (pretrain(longer) / "model.safetensors").read_bytes() == whole and losses(here) == before
    said = capsys.readouterr().out
    assert "passed over: 'runs/small/step-6/model.safetensors' is damaged" in said
    assert "resumed from runs/small/step-3" in said


def test_a_run_without_one_intact_checkpoint_is_refused(small, here):
    pretrain(small).rename(here / "aside")
    flip_a_bit(here / "runs/small/step-3/model.safetensors")
    with pytest.raises(ValueError, match="no checkpoint of 'runs/small' is intact"):
        pretrain(small)


def test_two_runs_in_one_folder_are_refused(small, here):
    (here / "runs/small").mkdir(parents=True)
    lock = FolderLock(here / "runs/small")
    with pytest.raises(ValueError, match=rf"is being written by process {os.getpid()} "):
        pretrain(small)
    lock.release()
    assert pretrain(small).name == "final" and not (here / "runs/small/.lock").exists()


def test_training_goes_on_while_a_checkpoint_is_written(small, here, monkeypatch):
    """The writing of step 3 waits until update 5 is in the metrics; what is written is what stood after update 3: resuming proves it."""
    save, seen = checkpoint.save, {}

    def patient(folder: Path, snapshot: checkpoint.Snapshot) -> None:
        while folder.name == "step-3" and len(losses(here)) < 5 and time.monotonic() < end:
            time.sleep(0.01)
        seen[folder.name] = len(losses(here))
        save(folder, snapshot)

    end = time.monotonic() + 60
    monkeypatch.setattr(checkpoint, "save", patient)
    final = pretrain(small)
    assert seen["step-3"] >= 5 and seen["final"] == 6
    end_of_run = load_file(final / "model.safetensors")
    shutil.rmtree(final)
    resumed = load_file(pretrain(small) / "model.safetensors")
    assert all(torch.equal(resumed[name], end_of_run[name]) for name in end_of_run)


def test_a_full_disk_keeps_the_older_checkpoint_and_training_goes_on(small, here, monkeypatch, capsys):
    """Behind the first checkpoint no file may grow beyond 100 kB: step 4 is lost with a warning, the end is an error."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(checkpoint, "keep_newest", lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1])))
    try:
        with pytest.raises(OSError, match=r"final could not be written .* kept are step-2; make room"):
            pretrain(replace(small, train=replace(small.train, save_every=2)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "warning: runs/small/step-4 could not be written" in capsys.readouterr().out
    checkpoint.verify(here / "runs/small/step-2")
    assert len(losses(here)) == 6 and sorted(p.name for p in (here / "runs/small").iterdir()) == ["metrics.jsonl", "run.json", "step-2"]


def test_a_second_signal_ends_at_once():
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        signal.raise_signal(signal.SIGINT)


def poison(monkeypatch, steps: range) -> None:
    """In these updates the weight of row 5 is not a number."""
    original = Mixture.batch

    def poisoned(self, step, rows):
        batch = original(self, step, rows)
        if step in steps and 5 in rows:
            batch.weights[list(rows).index(5)] = float("nan")
        return batch

    monkeypatch.setattr(Mixture, "batch", poisoned)


def test_an_update_without_a_finite_gradient_is_skipped_and_its_row_named(small, here, monkeypatch, capsys):
    poison(monkeypatch, range(3, 4))
    final = pretrain(small)
    lines = read_metrics(here / "runs/small/metrics.jsonl")
    assert [line["skipped"] for line in lines] == [0, 0, 0, 1, 1, 1] and lines[3]["bad_rows"] == [5]
    assert "update 3 was skipped" in (said := capsys.readouterr().out) and "'gato data show runs/small --step 3 --row 5'" in said
    assert all(torch.isfinite(p).all() for p in gato.load(final, "cpu").model.parameters())


def test_a_spike_of_the_loss_is_named_with_its_highest_rows_but_not_skipped(small, here, monkeypatch, capsys):
    """Whatever holds row 5 of update 34 is divided by a hundredth of its targets."""
    original = Mixture.batch

    def magnified(self, step, rows):
        batch = original(self, step, rows)
        return batch.with_denominator(batch.denominator / 100) if step == 34 and 5 in rows else batch

    monkeypatch.setattr(Mixture, "batch", magnified)
    pretrain(replace(small, train=replace(small.train, steps=36, save_every=100)))
    spikes = {line["step"]: line["spike_rows"] for line in read_metrics(here / "runs/small/metrics.jsonl") if "spike_rows" in line}
    assert list(spikes) == [35] and spikes[35][0] == 5
    said = capsys.readouterr().out
    assert "far above those before" in said and "'gato data show runs/small --step 34 --row 5'" in said


def test_a_spike_lies_six_deviations_above_the_mean_of_what_was_seen():
    """16 times 1 and 16 times 3: mean 2, deviation 1."""
    watch = SpikeWatch()
    assert not any(watch(loss) for loss in [1.0, 3.0] * 16)
    assert watch(8.1)
    assert not watch(8.1)  # the first has widened what is usual


def test_too_many_skipped_updates_in_a_row_end_the_run(small, here, monkeypatch):
    poison(monkeypatch, range(2, 6))
    with pytest.raises(RuntimeError, match="3 updates in a row had no finite gradient, the last at step 4"):
        pretrain(replace(small, train=replace(small.train, max_skipped=3)))


def test_how_fast_and_where_may_change_when_a_run_goes_on(small, here, capsys):
    pretrain(small).rename(here / "aside")
    pretrain(replace(small, train=replace(small.train, micro_batch_size=4, keep=1)))
    assert "going on with train.keep was 2, now 1; train.micro_batch_size was 0, now 4" in capsys.readouterr().out


def test_every_update_says_how_fast_and_how_full_it_was(small, here, capsys):
    pretrain(replace(small, train=replace(small.train, peak_flops=1e12, micro_batch_size=3)))
    said = capsys.readouterr().out
    assert "one process; 8 rows an update: 1 rank x 2 accumulated x 3 rows, and once 2\n" in said
    shares = re.search(r"step 6/6: loss [\d.]+, [\d,]+ tokens/s \(data (\d+), compute (\d+), update (\d+) %\), 0 s left", said)
    assert 99 <= sum(map(int, shares.groups())) <= 101
    for line in read_metrics(here / "runs/small/metrics.jsonl"):
        assert line["tokens_per_second"] > line["targets_per_second"] > 0 and 0 <= line["padding_share"] < 1
        assert set(line["loss_by_modality"]) <= {"text", "discrete"} and (line["transitions_per_second"] > 0) == (
            "discrete" in line["loss_by_modality"]
        )
        assert line["memory_bytes"] > 1e6 and 0 < line["mfu"] < 1 and line["wait_seconds"] >= 0
        assert line["compute_seconds"] > line["update_seconds"] > 0


def test_a_run_with_other_settings_is_refused_with_the_difference(small):
    pretrain(small)
    with pytest.raises(ValueError, match=r"optim\.learning_rate was 0\.003, now 0\.01"):
        pretrain(replace(small, optim=replace(small.optim, learning_rate=0.01)))


def test_settings_that_are_allowed_by_name_may_change_but_never_the_models(small, here, capsys):
    pretrain(small).rename(here / "aside")
    faster = replace(small, optim=replace(small.optim, learning_rate=0.01))
    pretrain(replace(faster, train=replace(small.train, allow_changes=["optim.learning_rate"])))
    assert "going on with optim.learning_rate was 0.003, now 0.01" in capsys.readouterr().out
    (here / "runs/small/final").rename(here / "aside again")
    deeper = replace(faster, model=replace(small.model, num_layers=3), train=replace(small.train, allow_changes=["model"]))
    with pytest.raises(ValueError, match=r"model\.num_layers was 2, now 3\); choose another --train.name or undo it$"):
        pretrain(deeper)


def test_a_store_that_changed_is_refused_unless_its_source_may_change(small, here):
    pretrain(small).rename(here / "aside")
    fewer = replace(small, data=DataConfig(sources={"toy/corridor": SourceConfig(2)}))
    allowed = replace(fewer, train=replace(small.train, allow_changes=["data.sources.documents"]))
    recorded = here / "runs/small/step-3/training.json"
    assert "documents" in json.loads(recorded.read_text())["data"]
    assert pretrain(allowed).name == "final"
    with pytest.raises(ValueError, match=r"data\.sources\.documents was None, now "):
        pretrain(small)


def write_documents(folder, *texts):
    task = document_task("text/mine")
    with StoreWriter(folder, [task], {}) as writer:
        for text in texts:
            writer.append(Episode(task, {}, {"text": np.array([text], object)}, np.zeros(1, np.float32)))


def test_a_store_written_anew_under_the_same_name_is_refused(small, here):
    write_documents(here / "mine", "left and right", "right and left")
    mine = replace(small, data=DataConfig(sources={"mine": SourceConfig(store=str(here / "mine"))}))
    pretrain(mine).rename(here / "aside")
    shutil.rmtree(here / "mine")
    write_documents(here / "mine", "left and right", "left and left")
    with pytest.raises(ValueError, match="the stores of mine changed since 'runs/small/step-3' was written"):
        pretrain(mine)
    assert pretrain(replace(mine, train=replace(small.train, allow_changes=["data.sources.mine"]))).name == "final"


def test_a_tracker_sees_the_updates_too(small, here):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(replace(small, train=replace(small.train, report_to="tensorboard")))
    (events,) = (here / "runs/small").rglob("events.out.tfevents.*")
    seen = EventAccumulator(str(events.parent)).Reload()
    written = read_metrics(here / "runs/small/metrics.jsonl")
    assert [e.step for e in seen.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in seen.Scalars("train/loss/documents")][-1] == pytest.approx(
        written[-1]["loss_by_source"]["documents"], rel=1e-6
    )


def test_a_tracker_that_is_unknown_or_missing_is_refused(small, monkeypatch):
    with pytest.raises(ValueError, match="train.report_to is 'tensorbord'; known are all, aim, tensorboard"):
        pretrain(replace(small, train=replace(small.train, report_to="tensorbord")))
    monkeypatch.setattr("gato.train.devices.get_available_trackers", lambda: [])
    with pytest.raises(ImportError, match="'wandb', which is not installed; pip install wandb"):
        pretrain(replace(small, train=replace(small.train, report_to="wandb")))


def test_a_finished_run_is_left_alone(small, capsys):
    final = pretrain(small)
    written = (final / "model.safetensors").stat().st_mtime_ns
    assert pretrain(small) == final and "is finished" in capsys.readouterr().out
    assert (final / "model.safetensors").stat().st_mtime_ns == written


def test_a_finished_run_goes_on_to_more_updates_where_that_is_allowed(small, here, capsys):
    pretrain(small)
    longer = replace(small, train=replace(small.train, steps=8))
    with pytest.raises(ValueError, match=r"train\.steps was 6, now 8"):
        pretrain(longer)
    final = pretrain(replace(longer, train=replace(longer.train, allow_changes=["train.steps"])))
    assert "runs/small/final was finished after 6 updates; going on to 8" in capsys.readouterr().out
    assert json.loads((final / "training.json").read_text())["progress"]["step"] == 8
    assert [line["step"] for line in read_metrics(here / "runs/small/metrics.jsonl")] == list(range(1, 9))


def test_an_agent_acts_with_the_memory_that_its_tasks_were_trained_with(small):
    sources = small.data.sources
    short = replace(small, data=replace(small.data, sources={**sources, "toy/corridor": replace(sources["toy/corridor"], memory=1)}))
    agent = gato.load(pretrain(short), "cpu")
    assert {name: task.memory for name, task in agent.tasks.items() if task.memory} == {"toy/corridor": 1}
    assert [agent.policy("toy/corridor", memory=m).memory for m in (None, 3, 0)] == [1, 3, None]
    assert agent.policy("toy/corridor", overflow="rolling").memory is None


def test_only_the_newest_checkpoints_stay(small, here):
    pretrain(replace(small, train=replace(small.train, steps=13, keep=2)))
    assert [p.name for p in checkpoint.steps(here / "runs/small")] == ["step-9", "step-12"]


def test_accumulation_changes_neither_losses_nor_weights_beyond_rounding(small, here):
    for name, micro in (("one", 0), ("four", 2)):
        pretrain(replace(small, train=replace(small.train, name=name, micro_batch_size=micro)))
    one, four = (read_metrics(here / f"runs/{n}/metrics.jsonl") for n in ("one", "four"))
    assert [m["loss"] for m in four] == pytest.approx([m["loss"] for m in one], abs=1e-5)  # float32 sums in another order
    weights = [gato.load(here / f"runs/{n}/final", "cpu").model.state_dict() for n in ("one", "four")]
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=1e-4) for k in weights[0])


def test_a_time_budget_becomes_a_recorded_number_of_steps(small, here, capsys):
    timed = replace(small, train=replace(small.train, steps=None, seconds=1.0, reduced_below=10**6))
    final = pretrain(timed)
    steps = json.loads((final.parent / "run.json").read_text())["train"]["steps"]
    assert steps == len(read_metrics(final.parent / "metrics.jsonl")) > 0
    assert "reduced budget" in capsys.readouterr().out
    assert pretrain(timed) == final and "is finished" in capsys.readouterr().out


def test_a_time_budget_is_kept_after_a_wrong_speed_test_and_a_repeated_end_is_the_same(small, here, monkeypatch):
    """The test says a tenth of what an update takes; what was done behind the last checkpoint is done again to the bit."""
    monkeypatch.setattr("gato.train.pretrain.seconds_per_step", lambda *_: 0.001)
    timed = replace(small, train=replace(small.train, steps=None, seconds=0.8))
    final = pretrain(timed)
    lines = read_metrics(final.parent / "metrics.jsonl")
    ends = [0.0, *(line["seconds"] for line in lines)]
    longest = max(after - before for before, after in pairwise(ends))
    assert ends[-1] == pytest.approx(0.8, abs=0.05 * 0.8 + 2 * longest)  # on a busy machine an update may be all that fits
    whole = load_file(final / "model.safetensors")
    shutil.rmtree(final)
    again = load_file(pretrain(timed) / "model.safetensors")
    assert [line["steps"] for line in read_metrics(final.parent / "metrics.jsonl")] == [line["steps"] for line in lines]
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_the_fastest_precision_is_probed_once_said_and_kept(tmp_path, monkeypatch, capsys):
    def found(ratio: float) -> str:
        monkeypatch.setattr(devices, "seconds_of_a_layer", lambda dtype: ratio if dtype == torch.float32 else 1.0)
        return devices.settled_precision(tmp_path, TrainConfig(precision="fastest", device="cpu"))

    assert devices.seconds_of_a_layer(torch.bfloat16, repeats=1) > 0
    assert (found(1.1), found(3.0)) == ("fp32", "bf16")
    assert "precision bf16: bf16 computes a layer 3.00 times as fast as fp32 here" in capsys.readouterr().out
    (tmp_path / "run.json").write_text(json.dumps({"train": {"precision": "bf16"}}))
    assert found(0.5) == "bf16" and not capsys.readouterr().out  # a run goes on as it began
    assert devices.settled_precision(tmp_path, TrainConfig(precision="fp32")) == "fp32"


def test_half_precision_without_loss_scaling_is_not_offered():
    with pytest.raises(ValueError, match="'train.precision' is 'fp16', expected one of auto, fastest, bf16, fp32"):
        TrainConfig(precision="fp16")


def test_a_recipe_without_steps_or_seconds_is_refused(small):
    with pytest.raises(ValueError, match="neither train.steps nor train.seconds"):
        pretrain(replace(small, train=replace(small.train, steps=None)))


def test_a_missing_or_foreign_tokenizer_is_refused(small, here):
    with pytest.raises(ValueError, match="no tokenizer at 'nowhere.model'"):
        pretrain(replace(small, data=replace(small.data, tokenizer="nowhere.model")))
    final = pretrain(small)
    TextTokenizer.train(["quite another text about nothing in particular"] * 9, 290).save(final / "tokenizer.model")
    with pytest.raises(ValueError, match="is not the tokenizer these weights were trained with"):
        gato.load(final)
