"""Several ranks: the losses of one process, runs that go on on any number of them, faults that end in order; settings and plans."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

import gato
from benchmarks import resume, sabotage
from benchmarks.resume import Run
from gato.batch import Kind
from gato.cli import main
from gato.cli.recipes import recipe_path
from gato.config import preset
from gato.data.mixture import Mixture, open_tokenizer
from gato.data.selection import DataConfig, SourceConfig
from gato.learners.gato import flops_per_update
from gato.model import Gato
from gato.train import launch, ranks, zero
from gato.train.metrics import read_metrics
from gato.train.plan import plan
from gato.train.recipe import OptimConfig, TrainConfig

ROOT = Path(gato.__file__).parent.parent
NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
STAGES = [pytest.param(stage, marks=NEEDS_DEEPSPEED if stage else (), id=name) for stage, name in resume.MODES.items()]
ENGINES = {
    0: "2 ranks with DistributedDataParallel",
    1: "2 ranks with DeepSpeedEngine, DeepSpeedZeroOptimizer, stage 1",
    2: "2 ranks with DeepSpeedEngine, DeepSpeedZeroOptimizer, stage 2",
    3: "2 ranks with DeepSpeedEngine, DeepSpeedZeroOptimizer_Stage3, stage 3",
}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="ranks are forked")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    resume.make_stores(folder)
    return folder


@pytest.fixture(scope="module")
def alone(home, tmp_path_factory) -> Run:
    """One process that computes a whole batch at a time, uninterrupted."""
    return Run(home, tmp_path_factory.mktemp("alone"), options=["--train.micro_batch_size", "8"]).finish()


def assert_equal(one: Run, other: Run) -> None:
    """Sums of float32 in another order; two of its steps at a loss of 7 are 1e-6."""
    assert len(one.losses()) == 20 and one.losses()[-1] < 0.85 * one.losses()[0]
    assert other.losses() == pytest.approx(one.losses(), rel=2.0**-22, abs=1e-6)
    assert resume.distance(one, other)[1] < 1e-5


# -- the losses of one process ---------------------------------------------------------------------


def test_ranks_have_unequal_targets_and_one_may_be_without_pictures(home, monkeypatch):
    """What the next tests train on: with equal shares a mean of means would be right."""
    monkeypatch.setenv("GATO_HOME", str(home))
    config = DataConfig(sources={"toy/corridor": SourceConfig(2, loss_weight=3), "documents": SourceConfig(1), "pictures": SourceConfig(1)})
    mixture = Mixture(config, open_tokenizer(config, 512), 64, seed=0)
    halves = [[mixture.batch(step, rows) for rows in (range(4), range(4, 8))] for step in range(20)]
    assert sum(a.denominator != b.denominator for a, b in halves) > 15
    patches = [[int((half.kind == Kind.PATCH).sum()) for half in pair] for pair in halves]
    assert any(min(pair) == 0 < max(pair) for pair in patches) and any(max(pair) == 0 for pair in patches)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_give_the_losses_and_weights_of_one_process(home, alone, tmp_path, stage):
    """Stochastic depth, accumulation, weighted sources, rows with and without pictures; the engine itself says what it is."""
    two = Run(home, tmp_path).finish(2, stage)
    assert_equal(alone, two)
    assert f"{ENGINES[stage]}; 8 rows an update: 2 ranks x 2 accumulated x 2 rows" in two.said().splitlines()


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=[NEEDS_DEEPSPEED, pytest.mark.slow])])
def test_a_run_in_the_compact_layout_is_the_same_on_two_ranks_one_of_which_was_killed(home, tmp_path, stage):
    """A rank may have rows without an action, whose head takes part all the same."""
    recipe = resume.RECIPE.replace("model: {", "model: {layout: compact, ")
    whole = Run(home, tmp_path / "one", options=["--train.micro_batch_size", "8"], recipe=recipe).finish()
    two = Run(home, tmp_path / "two", recipe=recipe)
    assert two.start(2, stage, (sabotage.killed_at, 8)).wait() == [-signal.SIGKILL] * 2
    assert_equal(whole, two.finish(2, stage))


def test_a_mean_of_means_would_be_noticed(home, alone, tmp_path):
    wrong = Run(home, tmp_path, options=["--train.steps", "3"]).finish(2, sabotage=(sabotage.mean_of_means,))
    assert max(abs(a - b) for a, b in zip(alone.losses(), wrong.losses(), strict=False)) > 1e-3  # a thousand times what is allowed


@NEEDS_DEEPSPEED
def test_a_time_budget_is_the_same_number_of_updates_on_all_ranks(home, tmp_path):
    run = Run(home, tmp_path, options=["--train.steps", "null", "--train.seconds", "1"]).finish(2, stage=1)
    assert json.loads((run.path / "run.json").read_text())["train"]["steps"] == len(run.losses()) > 0
    assert "the optimizer's share under ZeRO is not known before the run and left out" in run.said()


# -- going on --------------------------------------------------------------------------------------


MATRIX = [(stage, *way) for stage in (0, 2, 3) for way in resume.WAYS]
FAST = {(0, 1, 2), (2, 1, 2), (3, 2, 1)}


@pytest.mark.parametrize(
    ("stage", "first", "second"),
    [
        pytest.param(*case, marks=[*([NEEDS_DEEPSPEED] if case[0] else []), *([] if case in FAST else [pytest.mark.slow])])
        for case in MATRIX
    ],
)
def test_a_run_killed_twice_goes_on_with_any_number_of_ranks(home, alone, tmp_path, stage, first, second):
    run = resume.resumed(home, tmp_path, stage, first, second)
    assert_equal(alone, run)
    if first == second:
        assert resume.distance(Run(home, tmp_path, "whole").finish(first, stage), run) == (0.0, 0.0)


@pytest.fixture(scope="module")
def short(home, tmp_path_factory):
    """short(stage): an uninterrupted run of four updates, each of them saved."""
    made: dict[int, Run] = {}

    def make(stage: int) -> Run:
        if stage not in made:
            made[stage] = Run(home, tmp_path_factory.mktemp("short"), options=resume.SHORT).finish(2 if stage else 1, stage)
        return made[stage]

    return make


@pytest.mark.parametrize("point", sabotage.POINTS)
@pytest.mark.parametrize("stage", [0, *(pytest.param(stage, marks=[NEEDS_DEEPSPEED, pytest.mark.slow]) for stage in (1, 3))])
def test_a_save_cut_off_anywhere_leaves_a_checkpoint_to_go_on_from(home, tmp_path, short, stage, point):
    row = resume.cut_off(home, tmp_path, stage, point, short(stage))
    assert row["went on from update"] == (2 if "older one" in point else 1)


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing_that_was_saved(home, tmp_path, kills):
    row = resume.random_kills(home, tmp_path, kills)
    assert row["SIGKILLs"] >= kills and row["checkpoints lost or torn"] == 0


# -- faults ----------------------------------------------------------------------------------------


def command(folder: Path, home: Path, *words: str, module: str = "gato.cli") -> subprocess.Popen:
    """A process that runs a launcher's command line in `folder`."""
    (folder / "small.yaml").write_text(resume.RECIPE)
    environment = {**os.environ, "GATO_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_sigterm_lets_all_ranks_finish_the_update_and_save_and_the_same_command_goes_on(home, alone, tmp_path):
    run = Run(home, tmp_path)
    asked = command(tmp_path, home, "pretrain", "small.yaml", "--nproc", "2")
    while len(run.losses()) < 3:
        assert asked.poll() is None, asked.communicate()
        time.sleep(0.01)
    asked.send_signal(signal.SIGTERM)
    said, errors = asked.communicate(timeout=200)
    assert asked.returncode == launch.STOPPED == 75, errors
    assert f"stopped as asked after step {run.newest()} of 20, which is saved" in said and len(run.losses()) == run.newest()
    again = command(tmp_path, home, "pretrain", "small.yaml", "--nproc", "2")
    said, errors = again.communicate(timeout=200)
    assert again.returncode == 0 and "has not left" not in errors, errors
    assert_equal(alone, run)


def test_the_rank_that_the_others_wait_for_is_named_when_it_was_killed(home, tmp_path):
    run = Run(home, tmp_path).start(2, sabotage=(sabotage.killed_at, 3, 1))
    assert run.wait(100) == [2, -signal.SIGKILL]
    assert "rank 0 waited in vain for the others in update 4: rank 1 has been computing for update 3 since" in run.said()


def test_the_rank_that_the_others_wait_for_is_named_when_it_hangs(home, tmp_path):
    run = Run(home, tmp_path, options=["--train.timeout", "10"]).start(2, sabotage=(sabotage.hangs_at, 3, 1))
    run.processes[0].join(100)
    waited = run.processes[0].exitcode
    run.kill()
    assert waited == 2 and "in update 3: rank 1 has been drawing rows for update 3 since 1" in run.said()


@pytest.mark.parametrize(
    "stage", [0, *(pytest.param(stage, marks=[NEEDS_DEEPSPEED, *([pytest.mark.slow] if stage < 3 else [])]) for stage in (1, 2, 3))]
)
def test_all_ranks_skip_an_update_without_a_finite_gradient_and_name_its_row(home, tmp_path, stage):
    run = Run(home, tmp_path, options=["--train.steps", "5"]).finish(2, stage, sabotage=(sabotage.poisoned, [2], 5))
    lines = read_metrics(run.path / "metrics.jsonl")
    assert [line["skipped"] for line in lines] == [0, 0, 1, 1, 1] and lines[2]["bad_rows"] == [5]
    assert "update 2 was skipped" in run.said() and "'gato data show runs/small --step 2 --row 5'" in run.said()
    assert all(map(math.isfinite, run.losses()[3:])) and all(w.isfinite().all() for w in run.weights().values())


def test_a_checkpoint_holds_no_pickle_and_none_without_a_manifest_is_loaded(home, alone, tmp_path):
    kinds = {path.suffix for path in (alone.path / "final").iterdir()}
    assert kinds <= {".safetensors", ".json", ".model", ".md", ".py", ".txt", ".yaml"}
    run = Run(home, tmp_path, options=["--train.steps", "1"])
    (run.path / "step-7").mkdir(parents=True)
    (run.path / "step-7" / "optimizer.safetensors").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert "removed half-written step-7" in run.finish().said()


# -- launchers -------------------------------------------------------------------------------------


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--nproc-per-node", "2", "-m", "gato.cli"),
    "accelerate launch": ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "gato.cli"),
    "deepspeed": ("deepspeed.launcher.runner", "--num_gpus", "2", "--no_local_rank", "--module", "gato.cli"),
    "accelerate's file": ("accelerate.commands.launch", "--config_file", str(ROOT / "configs/accelerate/cpu.yaml"), "-m", "gato.cli"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS_DEEPSPEED if name == "deepspeed" else ()) for name in LAUNCHERS])
def test_other_launchers_start_the_same_run(home, alone, tmp_path, name):
    module, *words = LAUNCHERS[name]
    process = command(tmp_path, home, *words, "pretrain", "small.yaml", module=module)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert ENGINES[0] in said  # accelerate can start one process without a word
    assert_equal(alone, Run(home, tmp_path))


@pytest.mark.slow
@NEEDS_DEEPSPEED
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_torchrun_with_the_shipped_files_of_zero(home, alone, tmp_path, name):
    words = ("--nproc-per-node", "2", "-m", "gato.cli", "pretrain", "small.yaml", "--train.deepspeed", name)
    process = command(tmp_path, home, *words, module="torch.distributed.run")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"stage {name[4]}" in said
    assert_equal(alone, Run(home, tmp_path))


@pytest.mark.slow
def test_two_machines_of_one_rank_each(home, alone, tmp_path):
    """Two launchers on this one, which meet at a port as two machines would."""
    common = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{launch._free_port()}")
    nodes = [command(tmp_path, home, *common, "-m", "gato.cli", "pretrain", "small.yaml", module="torch.distributed.run") for _ in range(2)]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0] and ENGINES[0] in "".join(said)
    assert_equal(alone, Run(home, tmp_path))


# -- starting and ending together ------------------------------------------------------------------


def rank_that_runs(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", f"import os, signal, sys, time; {code}"])


def test_ranks_that_all_succeed_are_a_success(capfd):
    assert launch.launch(["--version"], 2) == 0
    assert capfd.readouterr().out.count(gato.__version__) == 2  # their lines may run into one another


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


def test_muon_and_averages_are_refused_together_with_zero():
    train = TrainConfig(batch_size=8, deepspeed="zero1")
    with pytest.raises(ValueError, match=r"optim\.muon is 2\.0, but ZeRO cuts"):
        zero.settings(OptimConfig(muon=2.0), train, "no")
    with pytest.raises(ValueError, match=r"optim\.ema is 0\.99, but ZeRO cuts the weights that are to be averaged"):
        zero.settings(OptimConfig(ema=0.99), train, "no")


def test_compiled_layers_and_stage_three_together_are_refused():
    for name, is_refused in (("zero1", False), ("zero2", False), ("zero3", True), ("zero3-offload", True)):
        train = TrainConfig(batch_size=8, deepspeed=name, compile=True)
        with pytest.raises(ValueError, match="train.compile is true, but ZeRO stage 3") if is_refused else nullcontext():
            zero.settings(OptimConfig(), train, "no")


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
    assert told["zero_optimization"]["stage"] == int(name[4]) and told["bf16"]["enabled"]
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
    """Width 4, one head of 2, GEGLU of 8, context 3, 1,034 ids: q, k, v 3*4*2, attention 3*2, output 4*2, GEGLU 4*8*1.5, head 4*1034.

    Of the last layer tokens meet what stands before the end of attention, targets the rest and the head.
    """
    from gato.model import GatoConfig

    sizes = dict(num_heads=1, width=4, head_width=2, feed_forward=8, context_length=3, vocab_size=1034, continuous_start=10)
    one, two = (GatoConfig(num_layers=n, image_token_id=9, pad_token_id=8, **sizes) for n in (1, 2))
    assert flops_per_update(one, tokens=1, targets=0) == 6 * (24 + 6)
    assert flops_per_update(two, tokens=1, targets=0) == 6 * (2 * (24 + 6) + 8 + 48)
    assert flops_per_update(one, tokens=0, targets=1) == flops_per_update(two, tokens=0, targets=1) == 6 * (8 + 48 + 4136)


@pytest.mark.parametrize("size", ["gato-79m", "gato-364m", "gato-1b"])
def test_the_papers_recipes_are_planned_without_stores_or_processes(size, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    assert main(["pretrain", size, "--dry-run", "--world-size", "64", "--train.deepspeed", "zero1", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["rows_per_rank"], content["tokens_per_update"], content["zero_stage"]) == (8, 524_288, 1)
    recipe = yaml.safe_load(recipe_path(size).read_text())
    assert recipe["optim"]["warmup_steps"] == 15_000 and recipe["train"]["steps"] == 1_000_000 and recipe["model"]["drop_path"] == 0.1
