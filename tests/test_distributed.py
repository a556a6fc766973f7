"""How ranks start and end together, settings of ZeRO that agree with the recipe, and plans of runs on many ranks."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from gato.cli import main
from gato.model import Gato, preset
from gato.train import launch, ranks, zero
from gato.train.loop import TrainConfig
from gato.train.optim import OptimConfig
from gato.train.plan import flops_per_update, plan
from gato.verbs.recipes import recipe_path


def rank_that_runs(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", f"import os, signal, sys, time; {code}"])


def test_ranks_that_all_succeed_are_a_success(capfd):
    assert launch.launch(["--version"], 2) == 0
    assert len(capfd.readouterr().out.split()) == 2


def test_the_message_of_bad_input_is_shown_once(capfd):
    assert launch.launch(["pretrian"], 2) == 2
    assert capfd.readouterr().err.count("did you mean 'pretrain'") in (1, 2)  # twice if the second rank was the first to fail


def test_a_killed_rank_is_named_and_the_others_are_stopped(monkeypatch, capsys):
    monkeypatch.setattr(launch, "GRACE", 0.3)
    children = [rank_that_runs("time.sleep(60)"), rank_that_runs("os.kill(os.getpid(), signal.SIGKILL)")]
    started = time.monotonic()
    failed = launch._watch(children)
    launch._stop(children)
    assert failed == (1, -signal.SIGKILL) and children[0].returncode == -signal.SIGKILL and time.monotonic() - started < 30
    assert launch._report(failed) == 128 + signal.SIGKILL
    assert "rank 1 was killed by SIGKILL; the other ranks were stopped" in capsys.readouterr().err


def test_ranks_that_were_asked_to_stop_may_take_their_time():
    children = [rank_that_runs(f"time.sleep(0.5); sys.exit({launch.STOPPED})"), rank_that_runs(f"sys.exit({launch.STOPPED})")]
    assert launch._watch(children) == (0, launch.STOPPED) and launch._report((0, launch.STOPPED)) == 75


def test_a_batch_that_the_ranks_do_not_divide_is_refused_with_the_numbers_that_fit():
    with pytest.raises(ValueError, match=r"train\.batch_size is 8, not a multiple of 3 ranks; change it, or start 2, 1 ranks"):
        ranks.check_rows(8, 3)


def test_muon_and_zero_together_are_refused():
    train = TrainConfig(batch_size=8, deepspeed="zero1")
    with pytest.raises(ValueError, match=r"optim\.muon is 2\.0, but ZeRO cuts"):
        zero.settings(OptimConfig(muon=2.0), train, "no")


def test_a_file_that_contradicts_the_recipe_is_refused_with_the_difference(tmp_path):
    stage = {"zero_optimization": {"stage": 2}}
    for content, said in (
        ({"gradient_clipping": 5.0}, "says gradient_clipping: 5.0, but the recipe says 1.0"),
        ({"optimizer": {"type": "Adam"}}, "only zero_optimization belongs there"),
    ):
        (tmp_path / "own.json").write_text(json.dumps(stage | content))
        with pytest.raises(ValueError, match=said):
            zero.settings(OptimConfig(), TrainConfig(batch_size=8, deepspeed=str(tmp_path / "own.json")), "no")


@pytest.mark.parametrize("name", zero.SHIPPED)
def test_shipped_files_hold_zero_and_nothing_else(name):
    assert set(zero.read_settings(name)) == {"zero_optimization"}
    told = zero.settings(OptimConfig(clip=0.5), TrainConfig(batch_size=12, micro_batch_size=5, deepspeed=name), "bf16")
    assert told["zero_optimization"]["stage"] == int(name[4]) and told["bf16"] == {"enabled": True}
    assert (told["gradient_accumulation_steps"], told["gradient_clipping"]) == (3, 0.5)


# -- plans -----------------------------------------------------------------------------------------


def test_a_plan_cuts_what_its_stage_cuts():
    """The 79M preset on 8 ranks in float32: 4 bytes of weights, gradients and masters each, 8 of moments per parameter."""
    config = preset("gato-79m")
    with torch.device("meta"):
        n = sum(p.numel() for p in Gato(config).parameters())
    part = -(-n // 8)
    found = [plan(config, 512, 16, 8, stage, False, bf16=False)["device_bytes"] for stage in range(4)]
    assert [m["weights"] for m in found] == [4 * n, 4 * n, 4 * n, 4 * part]
    assert [m["gradients"] for m in found] == [4 * n, 4 * n, 4 * part, 4 * part]
    assert [m["moments"] for m in found] == [8 * n, 8 * part, 8 * part, 8 * part]
    assert all(m["total"] == sum(v for k, v in m.items() if k != "total") for m in found)


def test_a_plan_splits_the_batch_and_counts_what_is_sent():
    """A ring all-reduce over 4 ranks: each passes on 3/4 of the gradient twice; one rank sends nothing."""
    config = preset("gato-79m-rope")
    of_four = plan(config, 512, 16, 4, 0, False, bf16=True)
    assert (of_four["rows_per_rank"], of_four["micro_batches"], of_four["tokens_per_update"]) == (128, 8, 512 * 1024)
    assert of_four["sent_bytes"]["total"] == pytest.approx(2 * 4 * of_four["parameters"]["total"] * 3 / 4, rel=1e-6)
    assert plan(config, 512, 16, 1, 0, False, bf16=True)["sent_bytes"]["total"] == 0


def test_operations_of_a_layer_counted_by_hand():
    """Width 4, one head of 2, GEGLU of 8, context 3, ten ids: 6 * (4*4*2 + 4*8*1.5 + 3*2) a token, 6 * 4 * 10 a target."""
    from gato.model import GatoConfig

    config = GatoConfig(num_layers=1, num_heads=1, width=4, head_width=2, feed_forward=8, context_length=3, vocab_size=10)
    assert flops_per_update(config, tokens=1, targets=0) == 6 * (32 + 48 + 6)
    assert flops_per_update(config, tokens=0, targets=1) == 6 * 40


@pytest.mark.parametrize("size", ["gato-79m", "gato-364m", "gato-1b"])
def test_the_papers_recipes_are_planned_without_stores_or_processes(size, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    assert main(["pretrain", size, "--dry-run", "--world-size", "64", "--train.deepspeed", "zero1", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["rows_per_rank"], content["tokens_per_update"], content["zero_stage"]) == (8, 524_288, 1)
    recipe = yaml.safe_load(recipe_path(size).read_text())
    assert recipe["optim"]["warmup_steps"] == 15_000 and recipe["train"]["steps"] == 1_000_000 and recipe["model"]["drop_path"] == 0.1
