"""Training: learns, resumes bit for bit after SIGKILL, and refuses what would spoil a run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gato
from gato.data.collect import CollectConfig, collect
from gato.data.mixture import DataConfig, SourceConfig
from gato.data.store import StoreWriter
from gato.data.text import document_task
from gato.episode import Episode
from gato.tokenizers.text import TextTokenizer
from gato.train import checkpoint
from gato.train.loop import TrainConfig
from gato.train.metrics import read_metrics
from gato.train.optim import OptimConfig
from gato.train.pretrain import ModelConfig, PretrainConfig, pretrain

RECIPE = """
model: {num_layers: 2, num_heads: 2, width: 32, head_width: 16, feed_forward: 64, context_length: 64, drop_path: 0.1}
data:
  sources:
    toy/corridor: {weight: 2}
    documents: {weight: 1}
optim: {learning_rate: 0.003, warmup_steps: 2, muon: 2}
train: {name: small, steps: 14, batch_size: 8, micro_batch_size: 4, save_every: 3, threads: 1, deterministic: true}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A stores folder with corridor episodes, two documents and a tokenizer of 320 pieces."""
    import numpy as np

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
    """gato.md section 13, check 9: through collecting, training, sampling, decoding and stepping."""
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
    """Stochastic depth, accumulation, both optimizers and several sources on; SIGKILL twice, once right behind a checkpoint."""
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


@pytest.mark.parametrize("stage", ["save_file", "_sha256", "_sync"])
def test_a_save_that_breaks_off_at_any_stage_leaves_no_checkpoint_of_its_name(small, here, monkeypatch, stage):
    original, calls = getattr(checkpoint, stage), []

    def breaks(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoint, stage, breaks)
        pretrain(replace(small, train=replace(small.train, name="other")))
    assert checkpoint.steps(here / "runs/other") == []


def test_a_flipped_bit_in_a_checkpoint_is_named(small, here):
    final = pretrain(small)
    damaged = final / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=r"optimizer\.safetensors is damaged"):
        checkpoint.verify(final)


def test_a_run_with_other_settings_is_refused_with_the_difference(small):
    pretrain(small)
    with pytest.raises(ValueError, match=r"optim\.learning_rate was 0\.003, now 0\.01"):
        pretrain(replace(small, optim=replace(small.optim, learning_rate=0.01)))


def test_a_finished_run_is_left_alone(small, capsys):
    final = pretrain(small)
    written = (final / "model.safetensors").stat().st_mtime_ns
    assert pretrain(small) == final and "is finished" in capsys.readouterr().out
    assert (final / "model.safetensors").stat().st_mtime_ns == written


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
    assert steps == len(read_metrics(final.parent / "metrics.jsonl")) > 1
    assert "reduced budget" in capsys.readouterr().out


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
