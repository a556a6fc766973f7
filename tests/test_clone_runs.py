"""A clone as the learner of a run: through the command, with ranks and kills, and refusals."""

import numpy as np
import pytest
import torch

import gato
from benchmarks import resume
from benchmarks.resume import Run
from gato.cli import main
from gato.data.collection.collect import CollectConfig, collect
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import Store, StoreWriter
from gato.data.timesteps import Timesteps
from gato.episode import Episode
from gato.learners.clone import ClonePolicy
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.train.clone_recipe import CloneRecipe
from gato.train.clone_setup import set_up
from gato.train.metrics import read_metrics
from tests.small_runs import refusal

TASK = "toy/corridor"
RECIPE = f"""
learner: clone
data: {{sources: {{{TASK}: {{}}}}}}
optim: {{learning_rate: 0.003, warmup_steps: 2, eps: 1.0e-5, weight_decay: 0.01}}
train: {{name: small, steps: 12, batch_size: 8, micro_batch_size: 2, save_every: 3, threads: 1,
  device: cpu, timeout: 60}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Thirty episodes of the corridor."""
    folder = tmp_path_factory.mktemp("home")
    collect(CollectConfig(tasks=[TASK], episodes=30, workers=0, out=folder / "stores"))
    return folder


@pytest.fixture(scope="module")
def alone(home, tmp_path_factory) -> Run:
    return Run(home, tmp_path_factory.mktemp("alone"), recipe=RECIPE).finish()


def test_a_killed_run_goes_on_as_if_nothing_had_happened(home, alone, tmp_path):
    run = Run(home, tmp_path, recipe=RECIPE)
    assert run.start(sabotage=(resume.killed_at, 7)).wait() == [-9]
    assert run.newest() in (3, 6)  # that of update 6 may still have been being written
    run.finish()
    assert resume.distance(alone, run) == (0.0, 0.0)


def test_two_ranks_give_the_losses_and_weights_of_one_process_also_after_a_kill(home, alone, tmp_path):
    two = Run(home, tmp_path, recipe=RECIPE)
    assert two.start(2, sabotage=(resume.killed_at, 7)).wait() == [-9, -9]
    two.finish(2)
    assert two.losses() == pytest.approx(alone.losses(), rel=2.0**-22, abs=1e-6)
    assert resume.distance(alone, two)[1] < 1e-5


def test_a_run_ends_in_a_policy_that_acts_and_is_checked(alone, capsys):
    folder = alone.path / "final"
    policy = gato.load(folder).policy(TASK)
    assert isinstance(policy, ClonePolicy) and len(policy.vectors.known["action"]) == 2
    assert 0 <= gato.evaluate(policy, episodes=4)["success"] <= 1
    assert main(["validate", str(folder)]) == main(["show", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "DAMAGED" not in said and said.splitlines()[-1].startswith(f"{TASK}: observation '")
    losses = [line["loss_by_source"][TASK] for line in read_metrics(alone.path / "metrics.jsonl")]
    assert losses[-1] < losses[0]


def test_every_timestep_is_drawn_equally_often(home):
    store = Store(home / "stores" / TASK)
    batches = Timesteps(TASK, SourceConfig(), store, seed=0)
    drawn = {batches.place(0, row)[:2] for row in range(3000)}
    assert drawn == {(i, t) for i in range(store.num_episodes) for t in range(store.lengths[i])}


def test_actions_of_text_are_refused(tmp_path, monkeypatch, capsys):
    see = FieldSpec("see", Modality.CONTINUOUS, "observation")
    task = TaskSpec("toy/talk", (see, FieldSpec("say", Modality.TEXT, "action", dtype="str")))
    said = {"say": np.array(["a", "b"], object)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    with StoreWriter(tmp_path / "stores/toy/talk", [task]) as writer:
        writer.append(Episode(task, {"see": np.zeros(2, np.float32)}, said, np.ones(2, np.float32)))
    (tmp_path / "small.yaml").write_text(RECIPE.replace(TASK, "toy/talk"))
    line = refusal(capsys, "pretrain", "small.yaml")
    assert "source 'toy/talk' has actions of text ('say'), which a clone writes none of" in line
    assert not (tmp_path / "runs").exists()


def test_several_sources_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE.replace(f"{TASK}: {{}}", f"{TASK}: {{}}, toy/other: {{}}"))
    assert "a clone learns one task: give one source" in refusal(capsys, "pretrain", "small.yaml")


def test_a_clone_is_not_resumed_as_another_learner(home, alone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATO_HOME", str(home))
    (tmp_path / "runs").symlink_to(alone.path.parent)
    (tmp_path / "small.yaml").write_text(RECIPE.replace("learner: clone", "learner: decision-transformer"))
    assert "learner was clone, now decision-transformer" in refusal(capsys, "pretrain", "small.yaml")


def test_a_clone_of_large_pictures_is_saved_as_it_looks_at_them(tmp_path):
    """Of 80 x 80 pixels every fourth is a place, and the 10 x 10 that are left of them are not averaged."""
    view = FieldSpec("view", Modality.IMAGE, "observation", (80, 80, 3), "uint8")
    task = TaskSpec("toy/look", (view, FieldSpec("turn", Modality.DISCRETE, "action", (), "int64", (0,), (1,))))
    views = np.random.default_rng(0).integers(256, size=(4, 80, 80, 3), dtype=np.uint8)
    with StoreWriter(tmp_path / "look", [task]) as writer:
        writer.append(Episode(task, {"view": views}, {"turn": np.arange(4) % 2}, np.zeros(4, np.float32)))
    data = DataConfig({"toy/look": SourceConfig(store=str(tmp_path / "look"))})
    setup = set_up(CloneRecipe(data=data), "cpu")
    network = setup.learner.model.network
    setup.saved({name: t.detach() for name, t in setup.learner.model.state_dict().items()}).save(tmp_path / "saved")
    again = gato.load(tmp_path / "saved").acting.network
    assert (again.step, again.trunk.body[0].in_features) == (4, 1 + 32 * 10 * 10)
    pictures = [torch.from_numpy(views).movedim(-1, 1)]
    assert torch.equal(again(torch.zeros(4, 1), pictures), network.eval()(torch.zeros(4, 1), pictures))
