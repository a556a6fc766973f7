"""Decision Transformer through the command: runs, ranks and kills, a sweep of targets, and what is
refused in one line."""

import json
from pathlib import Path

import pytest
import yaml

import gato
from benchmarks import resume
from benchmarks.resume import Run
from gato.cli import main
from gato.cli.recipes import recipe_path, recipes
from gato.data.collection.collect import CollectConfig, collect
from gato.data.store import Store, StoreWriter
from gato.learners.decision_agent import DecisionAgent
from gato.train.metrics import read_metrics
from gato.train.setup import recipe_class
from tests.small_runs import refusal

TASK = "toy/key-to-door"
RECIPE = f"""
learner: decision-transformer
model: {{num_layers: 1, num_heads: 2, width: 16, context: 8, dropout: 0.1}}
data: {{sources: {{{TASK}: {{}}}}}}
optim: {{learning_rate: 0.003, warmup_steps: 2, eps: 1.0e-5}}
train: {{name: small, steps: 12, batch_size: 8, micro_batch_size: 2, save_every: 3, threads: 1, device: cpu, timeout: 60}}
"""
WITHOUT_DROPOUT = RECIPE.replace("dropout: 0.1", "dropout: 0")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A hundred random walks."""
    folder = tmp_path_factory.mktemp("home")
    collect(CollectConfig(tasks=[TASK], expert="random", noisy_share=0, episodes=100, workers=0, out=folder / "stores"))
    return folder


@pytest.fixture(scope="module")
def alone(home, tmp_path_factory) -> Run:
    return Run(home, tmp_path_factory.mktemp("alone"), recipe=RECIPE).finish()


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    """An empty folder, with the stores at hand and a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATO_HOME", str(home))
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


def test_random_walks_are_kept_whatever_they_came_to(home):
    store = Store(home / "stores" / TASK)
    assert set(store.behaviours) == {"random"} and store.num_episodes == 100 and 0 < store.returns.mean() < 0.1


def test_random_actions_are_not_perturbed(folder, capsys):
    line = refusal(capsys, "data", "collect", TASK, "--expert", "random", "--episodes", "2", "--out", "walks")
    assert line.endswith("plays as 'random', so there is no expert's action to record where one is perturbed; give --noisy_share 0")


def test_a_killed_run_goes_on_as_if_nothing_had_happened(home, alone, tmp_path):
    run = Run(home, tmp_path, recipe=RECIPE)
    assert run.start(sabotage=(resume.killed_at, 7)).wait() == [-9]
    newest = run.newest()
    assert newest in (3, 6)  # the sixth may still have been written
    run.finish()
    assert resume.distance(alone, run) == (0.0, 0.0)
    assert f"resumed from {tmp_path}/" not in run.said() and f"resumed from runs/small/step-{newest}" in run.said()


@pytest.fixture(scope="module")
def without_dropout(home, tmp_path_factory) -> Run:
    """What any number of ranks must come to; masks of dropout would depend on them."""
    return Run(home, tmp_path_factory.mktemp("one"), recipe=WITHOUT_DROPOUT).finish()


def assert_equal(one: Run, two: Run) -> None:
    assert two.losses() == pytest.approx(one.losses(), rel=2.0**-22, abs=1e-6)
    assert resume.distance(one, two)[1] < 1e-5


def test_two_ranks_give_the_losses_and_weights_of_one_process_also_after_a_kill(home, without_dropout, tmp_path):
    two = Run(home, tmp_path, recipe=WITHOUT_DROPOUT)
    assert two.start(2, sabotage=(resume.killed_at, 7)).wait() == [-9, -9]
    assert_equal(without_dropout, two.finish(2))
    assert "2 ranks with DistributedDataParallel" in two.said()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_two_ranks_under_zero_do_so_too(home, without_dropout, tmp_path, stage):
    pytest.importorskip("deepspeed")
    two = Run(home, tmp_path, recipe=WITHOUT_DROPOUT).finish(2, stage)
    assert_equal(without_dropout, two)
    assert f"stage {stage}" in two.said()


def test_a_run_says_what_its_updates_came_to(alone):
    lines = read_metrics(alone.path / "metrics.jsonl")
    assert lines[-1]["loss_by_action"]["action"] == pytest.approx(lines[-1]["loss"], rel=1e-5)
    assert 0 <= lines[-1]["accuracy"]["action"] <= 1 and 0 <= lines[-1]["padding_share"] < 1
    assert lines[-1]["tokens"] == 3 * lines[-1]["targets"]


def test_a_tracker_sees_its_losses_too(folder, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["pretrain", "small.yaml", "--train.steps", "2", "--train.report_to", "tensorboard"]) == 0
    (events,) = Path("runs/small").rglob("events.out.tfevents.*")
    seen = EventAccumulator(str(events.parent)).Reload()
    assert [e.step for e in seen.Scalars("train/loss")] == [e.step for e in seen.Scalars("train/loss_by_action/action")] == [1, 2]


def test_weights_remember_scales_and_returns(alone, home):
    agent, store = gato.load(alone.path / "final"), Store(home / "stores" / TASK)
    statistics = agent.model.statistics
    assert isinstance(agent, DecisionAgent) and statistics.highest == statistics.return_scale == 1.0 and statistics.lowest == 0.0
    assert statistics.longest == store.lengths.max() and agent.model.num_timesteps == 15
    assert agent.policy(TASK).target_return == 1.0 and agent.policy(TASK, temperature=None).temperature == 1.0


def test_a_sweep_of_targets_plays_each_and_draws_them(alone, folder, capsys, caplog):
    words = ["--target_return", "1", "0.5", "2", "--episodes", "4", "--out", "sweep.json"]
    assert main(["eval", str(alone.path / "final"), *words]) == 0
    shown = capsys.readouterr()
    results = json.loads((folder / "sweep.json").read_text())
    assert [row["target_return"] for row in results["tasks"]] == [1, 0.5, 2]
    assert [row["ablation"] for row in results["tasks"]] == [None, "asked for 0.5", "asked for 2"]
    found = results["targets"][TASK]
    assert ([point["target"] for point in found["points"]] == [1, 0.5, 2] and found["spearman"] is None) or -1 <= found["spearman"] <= 1
    assert (folder / "sweep-toy-key-to-door-targets.png").read_bytes()[:4] == b"\x89PNG"
    assert "the target return 2 lies outside the returns of the training data, 0 to 1" in caplog.text
    assert "asked for a return of 1" in shown.out and f"{TASK}: " in shown.out
    assert results["families"][0]["tasks"] == 1


def test_what_is_no_number_or_has_no_meaning_is_refused(alone, folder, capsys):
    checkpoint = str(alone.path / "final")
    for word in ("much", "nan", "inf"):
        line = refusal(capsys, "eval", checkpoint, "--target_return", word)
        assert line.startswith(f"gato: 'target_return' is {word}, expected a list, each a number from")
    blind = RECIPE.replace("dropout: 0.1", "dropout: 0.1, condition: none").replace("steps: 12", "steps: 1")
    (folder / "blind.yaml").write_text(blind)
    assert main(["pretrain", "blind.yaml"]) == 0
    assert "was trained without returns, so none can be asked of it" in refusal(capsys, "eval", "runs/small/final", "--target_return", "1")
    assert "leave them out" in json.dumps(_errors(checkpoint, "--memory", "3"))


def _errors(checkpoint: str, *words: str) -> list:
    assert main(["eval", checkpoint, "--episodes", "1", "--out", "out.json", *words]) == 1
    with open("out.json") as file:
        return json.load(file)["errors"]


def test_stores_with_nothing_to_learn_from_are_refused(folder, home, capsys):
    store = Store(home / "stores" / TASK)
    unpaid = [i for i in range(100) if not store.returns[i]][:3]
    for name, episodes in (("empty", []), ("unpaid", unpaid)):
        with StoreWriter(folder / name, store.tasks) as writer:
            for i in episodes:
                writer.append(store.episode(i))
        (folder / f"{name}.yaml").write_text(RECIPE.replace(f"{TASK}: {{}}", f"{TASK}: {{store: {name}}}"))
    assert refusal(capsys, "pretrain", "empty.yaml").endswith(f"source '{TASK}' holds no episodes; collect or import some first")
    assert "the rewards of its 3 episodes are all zero" in refusal(capsys, "pretrain", "unpaid.yaml")
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: 16", "depth: 16", "there is no key 'model.depth'"),
        ("num_heads: 2", "num_heads: 3", "'model.width' is 16, expected a multiple of model.num_heads, 3"),
        (f"{TASK}: {{}}", f"{TASK}: {{}}, toy/corridor: {{}}", "a Decision Transformer learns one task: give one source"),
        ("data: {", "data: {prompt_share: 0.5, ", "data.prompt_share is 0.5, which a Decision Transformer has no use for; leave it out"),
        ("threads: 1", "threads: 1, compile: true", "train.compile is true, which is for Gato; leave it out"),
        ("context: 8", "context: 8, max_timesteps: 4", "model.max_timesteps is 4, but an episode of 'toy/key-to-door' has 15 timesteps"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(folder, capsys, old, new, message):
    (folder / "small.yaml").write_text(RECIPE.replace(old, new))
    assert message in refusal(capsys, "pretrain", "small.yaml")
    assert not (folder / "runs").exists()


def test_a_run_of_one_learner_is_not_resumed_as_another(folder, alone, capsys):
    (folder / "runs").symlink_to(alone.path.parent)
    content = yaml.safe_load(RECIPE)
    content |= {"learner": "gato", "model": {"num_layers": 1}}
    (folder / "gato.yaml").write_text(yaml.safe_dump(content))
    resume.make_stores(folder / "home")
    line = refusal(capsys, "pretrain", "gato.yaml", "--data.tokenizer", str(folder / "home/stores/tokenizer.model"))
    assert "learner was decision-transformer, now gato" in line


def test_a_checkpoint_of_an_unknown_learner_is_refused(folder, alone, capsys):
    (folder / "other").mkdir()
    content = json.loads((alone.path / "final" / "gato.json").read_text())
    (folder / "other" / "gato.json").write_text(json.dumps(content | {"learner": "oracle"}))
    line = refusal(capsys, "eval", "other")
    assert "the learner of 'other' is 'oracle', expected one of gato, decision-transformer" in line


def test_a_run_is_shown_checked_and_plotted(folder, alone, capsys):
    checkpoint = str(alone.path / "final")
    assert main(["show", checkpoint]) == 0 and TASK in capsys.readouterr().out
    assert main(["validate", checkpoint]) == 0
    assert main(["plot", str(alone.path), "--out", "page.html"]) == 0
    assert "loss" in (folder / "page.html").read_text()


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith("decision-transformer")])
def test_the_shipped_recipes_are_read(name):
    content = yaml.safe_load(recipe_path(name).read_text())
    kind = recipe_class(content["learner"])
    assert kind.__name__ == "DecisionRecipe" and set(content) == {"learner", "model", "data", "optim", "train"}
