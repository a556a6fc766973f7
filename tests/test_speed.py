"""What the benchmarks rest on: formulas that agree with counters, baselines with our loss, tables that can be made anywhere."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import ablation, generalist, scaling, sheet
from benchmarks.on_gpu import training
from gato.config import preset
from gato.eval.film import png_base64
from gato.train.plan import Cluster, peak_flops, plan, planned_seconds

TINY = ablation.make_config("2x32x2", 64)


@pytest.fixture(scope="module")
def of_one_update():
    return scaling.measured(TINY, rows=2)


@pytest.mark.parametrize("what", ["operations", "kept for backward, bytes", "weights, bytes", "gradients, bytes", "moments, bytes"])
def test_the_formulas_of_a_plan_agree_with_what_is_counted(of_one_update, what):
    formula, measured = of_one_update[what]
    assert formula == pytest.approx(measured, rel=0.02)  # left out: rotary angles, means and deviations of norms, spare rows of the table


def test_a_batch_weighs_what_the_plan_says():
    formula, measured = scaling.loaded(TINY)
    assert formula == pytest.approx(measured, rel=0.05)  # left out: places of targets, a weight per row


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA L40S", 362e12), ("NVIDIA L40", 181e12), ("NVIDIA L4", 121e12), ("NVIDIA T4", None)])
def test_a_gpu_is_not_taken_for_one_whose_name_begins_alike(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == peak


def test_an_exchange_between_nodes_runs_at_the_rate_of_their_cards():
    """1,000 operations a second each, all 8 ranks on one node or on two; 90 bytes a second inside, 45 between."""
    cluster = Cluster(peak=2000, mfu=0.5, inside=90, between=45, node=8)
    content = {"ranks": 8, "flops_per_update": 16_000.0, "sent_bytes": {"total": 90}}
    assert planned_seconds(content, cluster) == {"compute": 2, "exchange": 1, "shortest": 2, "longest": 3}
    assert planned_seconds(content, replace(cluster, node=4))["exchange"] == 2


def test_stage_three_sends_half_as_much_again_as_stage_one():
    """Weights are gathered twice instead of once, gradients are reduced once in both."""
    one, three = (plan(preset("gato-1b"), 64, 1, 64, stage, False, bf16=True)["sent_bytes"]["total"] for stage in (1, 3))
    assert three == pytest.approx(1.5 * one, rel=1e-6)


@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_every_variant_of_the_ablation_has_our_loss(kind):
    ablation.check_losses(kind, TINY)


@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_a_step_of_the_ablation_counts_whole_transitions(kind):
    steps, transitions, _ = ablation.steps_of(kind, TINY, rows=1)
    assert transitions == {"vectors": 2, "images": 1}[kind]  # of 24 and of 38 of the 64 places; the next one is cut within its observation
    steps["the head makes its gradients while it scores"]()


def test_tokens_made_one_value_at_a_time_are_ours():
    for task in ablation.tasks().values():
        window = ablation.window(task, 2, ablation.np.random.default_rng(0))
        slow, fast = (ablation.batch_of([window], 80, frozenset(names)) for names in ([], ["array"]))
        for name in ("ids", "kind", "local_position", "labels", "patches", "patch_boxes", "patch_index"):
            assert torch.equal(getattr(slow, name), getattr(fast, name)), name


@pytest.mark.parametrize("mode", ["eager", "checkpointed", "gpt2", "llama"])
def test_a_line_of_the_training_table_is_made_on_the_cpu(mode, monkeypatch):
    monkeypatch.setattr(training, "compile_layers", lambda layers, load: None)  # a graph takes seconds
    line = training.measure("1x32x2", mode, training.Load("cpu", rows=2, context=32, vocabulary=2000, steps=1))
    assert line["tokens_per_second"] > 0 and line["flops"] > 0 and sum(line["parts"].values()) == pytest.approx(1, abs=0.05)


def evaluated(path, checkpoint, **scores):
    """An evaluation's file: two episodes of every task, of which one reached its score and one had 0."""
    tasks = [
        {"task": f"toy/{name}", "ablation": None, "episodes": 2, "random": 0.0, "expert": 1.0, "score": score / 2, "score_low": 0.0,
         "score_high": score, "success": 0.5, "published": {}, "returns": [score / 100, 0.0]}
        for name, score in scores.items()
    ]  # fmt: skip
    path.write_text(json.dumps({"checkpoint": checkpoint, "tasks": tasks}))
    return path


def test_the_tables_of_a_generalist_join_evaluations_and_follow_checkpoints(tmp_path, capsys, monkeypatch):
    early = evaluated(tmp_path / "early.json", "runs/x/step-10", one=20.0, two=40.0)
    final = [evaluated(tmp_path / "a.json", "runs/x/final", one=100.0), evaluated(tmp_path / "b.json", "runs/x/final", two=160.0)]
    monkeypatch.setattr("sys.argv", ["generalist.py", *map(str, final), "--curve", str(early)])
    generalist.main()
    printed = capsys.readouterr().out
    assert "| updates | one | two |\n| --- | --- | --- |\n| 10 | 10 | 20 |\n| final | 50 | 80 |" in printed
    assert "| toy/two | 80.0 [0.0, 160.0] | 50 |" in printed
    (family,) = [line.split(" | ") for line in printed.splitlines() if line.startswith("| toy |")]
    assert family[1].startswith("2 (") and family[3].startswith("50 [") and family[4:] == ["1", "1", "0 |"]  # above 50, 75 and 90 %


def test_a_sheet_shows_every_picture_with_both_texts():
    picture = Image.new("RGB", (16, 16), "red")
    drawn = sheet.sheet([{"image": png_base64(picture), "caption": "a red square", "title": "a square"}] * 11)
    assert drawn.width == 10 * (96 + 16) and drawn.height == 2 * (96 + 16 + 6 * 12)  # ten in the first row, one in the second
    red = np.asarray(drawn)[:, :, 1] < 50
    assert red[: drawn.height // 2].sum() >= 10 * 16 * 16 and red[drawn.height // 2 :].sum() >= 16 * 16
