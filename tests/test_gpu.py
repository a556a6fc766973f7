"""What only a GPU can show. `benchmarks/gpu.py` runs these and compares all with the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import resume
from gato.cli import main
from gato.learners.gato import GatoLearner
from gato.policy import GatoPolicy
from gato.train.metrics import read_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
DEVICE = "cuda"
COMMAND = ("pretrain", "small.yaml", "--train.precision", "fp32")
INTERRUPTED = 130


@pytest.fixture
def batch(as_batch, drive):
    return as_batch(drive(3, seed=1), drive(2, seed=2), context_length=64)


def test_batches_come_from_pinned_memory_filled_up_to_whole_buckets(batch):
    moved = batch.pin_memory().to(DEVICE)
    torch.cuda.synchronize()
    assert len(moved.target_index) % 1024 == 0 and len(moved.patches) % 256 == 0
    for name in ("ids", "labels", "document", "local_position"):
        assert torch.equal(getattr(moved, name).cpu(), getattr(batch, name)), name
    assert torch.equal(moved.patches[: len(batch.patches)].cpu(), batch.patches)


def test_forward_and_backward_ask_the_device_nothing(make_gato, batch):
    """A host that waits for a value cannot launch what comes next."""
    learner = GatoLearner(make_gato().float().to(DEVICE)).train()
    moved = batch.pin_memory().to(DEVICE)
    learner(moved)[0].backward()  # what is set up once
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner(moved)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_is_recorded_once_for_all_episodes(make_gato, tokenizer, robot, drive):
    model = make_gato().float().to(DEVICE)
    policy = GatoPolicy(model, tokenizer, robot, overflow="rolling", temperature=0)
    plain = GatoPolicy(model, tokenizer, robot, overflow="rolling", temperature=0, static=False)
    seen = drive(6).observations
    graphs = set()
    for _ in range(2):
        policy.reset(1)
        plain.reset(1)
        for t in range(6):
            now = {name: values[t : t + 1] for name, values in seen.items()}
            assert np.array_equal(policy.act(now)["motors"], plain.act(now)["motors"])
            graphs.add(policy._static.action.graph)
    assert len(graphs) == 1 and None not in graphs
    # an observation behind an action has come ten times, one at an episode's beginning twice
    assert len(policy._static.by_length) == 2
    assert all(one.graph is not None for one in policy._static.by_length.values())
    assert plain._static is None


def trained(*words: str) -> list[float]:
    """The losses of a run in float32."""
    assert main([*COMMAND, *words]) == 0
    name = words[words.index("--train.name") + 1]
    return [line["loss"] for line in read_metrics(Path("runs") / name / "metrics.jsonl")]


def test_a_run_that_began_on_the_gpu_goes_on_on_the_cpu(tmp_path, monkeypatch):
    resume.make_stores(tmp_path / "home")
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(resume.RECIPE)
    on_cpu = trained("--train.name", "cpu", "--train.steps", "10")
    changes = ("--train.allow_changes", "[train.steps,train.device]")
    begun = ("--train.name", "both", "--train.steps", "10", "--train.save_every", "4")
    with monkeypatch.context() as stopping:
        stopping.setattr("gato.train.loop.learning_rate", stops_at(6))
        assert main([*COMMAND, *begun, "--train.device", DEVICE]) == INTERRUPTED
    assert trained(*begun, *changes) == pytest.approx(on_cpu, rel=1e-4)


def stops_at(step: int):
    """A schedule under which a run ends in the midst of this update."""
    from gato.train.optim import learning_rate

    def rate(config, at, total):
        if at == step:
            raise KeyboardInterrupt
        return learning_rate(config, at, total)

    return rate
