"""Few-shot fine-tuning: the demonstrations of a new task, the grid of cells, and what it is compared with.

The new task is the corridor of five cells, played to its right end; nothing that is trained here is larger than a tiny Gato.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import gato
from gato import envs
from gato.agent import Agent
from gato.batch import join
from gato.cli import main
from gato.cli.inspection import recipe_file
from gato.cli.recipes import recipe_path
from gato.data.collection.collect import CollectConfig, collect
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.eval.fewshot import _paper_maximum, few_shot, open_demonstrations, with_returns
from gato.eval.fewshot_plan import plan
from gato.eval.report.chart import score_curves
from gato.eval.report.fewshot_table import MEANING, summarise_cells
from gato.eval.rollout import rollout
from gato.eval.settings import BASELINES, SHOWN, FewShotConfig
from gato.lock import FolderLock
from gato.policy import GatoPolicy
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.train.finetune import _model, held_out_loss, merged
from gato.train.protocol import MODES, PROTOCOLS
from gato.train.untrained import ARCHITECTURE


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A stores folder with 12 clean demonstrations of the corridor."""
    folder = tmp_path_factory.mktemp("home")
    collect(CollectConfig(tasks=["toy/corridor"], episodes=12, noisy_share=0.0, workers=0, out=folder))
    return folder


@pytest.fixture(scope="module")
def agent(make_gato, tokenizer, robot) -> Agent:
    """An agent that knows another task only."""
    return Agent(make_gato(initializer_range=0.02).float(), tokenizer, {robot.name: robot})


@pytest.fixture(scope="module")
def checkpoint(agent, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    agent.save(folder)
    return folder


@pytest.fixture
def config(home, tmp_path) -> FewShotConfig:
    """Two cells that learn nothing and one that takes four updates."""
    return FewShotConfig(
        str(home / "toy/corridor"), episodes=(1, 4), modes=("retrieve",), steps=4, batch_size=2, evaluate_every=2, evaluation_episodes=2,
        rollouts=4, validation=3, held_out=2, device="cpu", out=tmp_path / "grid",
    )  # fmt: skip


def test_fine_tuning_goes_on_after_a_run_of_another_precision_in_the_same_process(checkpoint, config):
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(cpu=True, mixed_precision="bf16")  # as a pretraining leaves it
    few_shot(checkpoint, replace(config, episodes=(1,), modes=("full",)))
    assert AcceleratorState().mixed_precision == "no"


def test_without_a_checkpoint_new_weights_are_compared_with_what_needs_none(config, capfd):
    """And what is taken is saved, loaded and played like any other policy."""
    results = few_shot(None, replace(config, episodes=(4,), modes=()))
    assert {"scratch, last step", "retrieve", "lwr", "clone"} <= {row["label"] for row in results["rows"]}
    assert (results["checkpoint"], results["layout"], results["protocol"]) == (None, "compact", "compact")
    places = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cell ")]
    assert places[0] == "cell 1 of 4: scratch from 4 demonstrations, series 0" and len(places) == 4
    policy = gato.load(config.out / "cells/scratch-4-0/policy").policy("toy/corridor")
    assert len(gato.evaluate(policy, episodes=2)["returns"]) == 2
    assert "toy/corridor without a checkpoint: score" in (config.out / "fewshot.md").read_text()


def test_new_weights_have_the_architecture_of_the_recipe_that_pretrains_the_compact_layout():
    recipe = recipe_file(recipe_path("compact-cpu"))
    assert recipe.model == ARCHITECTURE


def test_modes_that_begin_from_a_checkpoint_are_refused_without_one(config):
    with pytest.raises(ValueError, match="the mode 'zero' begins from a checkpoint, and none is named; name its folder first"):
        few_shot(None, replace(config, modes=("retrieve", "zero")))
    assert not config.out.exists()


def test_modes_of_other_checkpoints_name_theirs_where_there_is_no_other(config):
    with pytest.raises(ValueError, match="the mode 'embed' acts with tecnets, but none is named; name a checkpoint of it by --embed"):
        few_shot(None, replace(config, modes=("embed",)))


def test_a_plan_without_a_checkpoint_names_what_trains_beside_it(config):
    text = plan(None, replace(config, episodes=(4,), modes=()))
    assert "scratch: " in text and "beside that clone train until they have converged, which is not measured here" in text


# -- demonstrations ------------------------------------------------------------------------------------


def test_more_demonstrations_begin_with_the_same_ones(config):
    demonstrations = open_demonstrations(config)
    few, many = (demonstrations.series(0, n) for n in (2, 5))
    assert [e.seed for e in many[:2]] == [e.seed for e in few]
    assert [e.seed for e in demonstrations.series(1, 5)] != [e.seed for e in many]


def test_held_out_demonstrations_are_never_trained_on(config):
    demonstrations = open_demonstrations(config)
    assert len(demonstrations.held_out) == 2 and len(demonstrations.pool) == 10
    assert not set(demonstrations.held_out) & set(demonstrations.pool)


def test_more_demonstrations_than_there_are_is_refused(config):
    with pytest.raises(ValueError, match="11 demonstrations were asked for, but .* has 10 of 'toy/corridor' beside 2 held out"):
        open_demonstrations(config).series(0, 11)


def test_no_demonstrations_are_refused(config):
    with pytest.raises(ValueError, match=r"'episodes' is \[0\], expected a list, each a whole number from 1"):
        replace(config, episodes=(0,))


def test_a_store_without_demonstrations_is_refused(config, home, tmp_path):
    store = Store(home / "toy/corridor")
    with StoreWriter(tmp_path / "random", store.tasks) as writer:
        writer.append(replace(store.episode(0), behaviour="random"))
    with pytest.raises(ValueError, match="has 1 episodes, but none of an expert or a human; collect or import demonstrations"):
        open_demonstrations(replace(config, data=str(tmp_path / "random")))


def test_all_demonstrations_held_out_is_refused(config):
    with pytest.raises(ValueError, match="held_out is 12, but there are 12 demonstrations; leave at least one"):
        open_demonstrations(replace(config, held_out=12))


def test_results_need_a_folder(config, checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"need a folder '.*grid', but '.*notes.txt' is a file; name another --out"):
        few_shot(checkpoint, replace(config, out=tmp_path / "notes.txt" / "grid"))


def test_two_do_not_fill_one_folder(config, checkpoint, tmp_path):
    config.out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(config.out)
    with pytest.raises(ValueError, match="is being written by process .*; wait for it"):
        few_shot(checkpoint, config)
    lock.release()
    assert list(config.out.iterdir()) == []


def test_demonstrations_of_another_task_are_refused_with_the_field_that_differs(config):
    with pytest.raises(ValueError, match="no demonstrations of 'CartPole-v1': its task 'toy/corridor' differs: .*observation"):
        open_demonstrations(replace(config, env="CartPole-v1"))


def test_recordings_need_not_say_the_ranges_that_the_environment_has(config, tmp_path):
    """Neither of observations, nor the very ends of actions; but what was done must be possible."""
    task = envs.task("Pendulum-v1")
    fields = [
        replace(f, low=None if f.role == "observation" else (-0.5,), high=None if f.role == "observation" else (3.0,)) for f in task.fields
    ]
    recorded = replace(task, name="lab/swing", env_id=None, fields=tuple(fields))
    for done in (1.5, 2.5):
        with StoreWriter(tmp_path / str(done), [recorded]) as writer:
            values = {"observation": np.zeros((3, 3), np.float32)}, {"action": np.full((3, 1), done, np.float32)}, np.ones(3, np.float32)
            writer.append(Episode(recorded, *values, behaviour="human"))
    found = open_demonstrations(replace(config, data=str(tmp_path / "1.5"), env="Pendulum-v1", held_out=0))
    assert found.series(0, 1)[0].task.actions[0].high == (2.0,)
    with pytest.raises(ValueError, match=r"action 'action' at timestep 0 is 2.5, outside \[-2, 2\]"):
        open_demonstrations(replace(config, data=str(tmp_path / "2.5"), env="Pendulum-v1", held_out=0)).series(0, 1)


def test_recordings_under_other_names_are_told_those_of_the_environment(config, tmp_path):
    task = envs.task("CartPole-v1")
    recorded = replace(
        task, name="lab/cart", env_id=None, fields=tuple(replace(f, name=f.name[:3], path=(f.name[:3],)) for f in task.fields)
    )
    with StoreWriter(tmp_path / "carts", [recorded]) as writer:
        values = {"obs": np.zeros((3, 4), np.float32)}, {"act": np.zeros(3, np.int64)}, np.ones(3, np.float32)
        writer.append(Episode(recorded, *values, behaviour="human"))
    with pytest.raises(ValueError, match="fields are observation 'observation', action 'action': import the recordings under these names"):
        open_demonstrations(replace(config, data=str(tmp_path / "carts"), env="CartPole-v1"))


def test_random_episodes_are_no_demonstrations(config, home, tmp_path):
    store = Store(home / "toy/corridor")
    with StoreWriter(tmp_path / "mixed", store.tasks) as writer:
        writer.append(store.episode(0))
        writer.append(replace(store.episode(1), behaviour="random"))
    found = open_demonstrations(replace(config, data=str(tmp_path / "mixed"), held_out=0))
    assert found.pool == (0,) and found.left_out == 1


@pytest.mark.parametrize("reward", [1, 0])
def test_own_recordings_of_an_unknown_environment_get_their_returns_measured(config, tmp_path, reward):
    """A plain Gymnasium id: random play is measured, and the demonstrations stand for the expert, unless they hold no rewards."""
    task = replace(envs.task("CartPole-v1"), name="lab/balance", env_id=None)
    with StoreWriter(tmp_path / "own" / "train", [task]) as writer:
        for n in (100, 300):
            values = {"observation": np.zeros((n, 4), np.float32)}, {"action": np.zeros(n, np.int64)}, np.full(n, reward, np.float32)
            writer.append(Episode(task, *values, behaviour="human"))
    config = replace(config, data=str(tmp_path / "own"), env="CartPole-v1", held_out=0)
    found = with_returns(open_demonstrations(config), config)
    expert = (
        (200, "mean return of the 2 demonstrations") if reward else (None, "unknown, since none of the 2 demonstrations holds a reward")
    )
    assert found.task.name == "CartPole-v1" and found.task.expert_return == expert[0] and 10 < found.task.random_return < 50
    assert found.references == {"random": "20 episodes of random play", "expert": expert[1]}


def test_observations_far_from_zero_get_an_origin_that_the_policy_keeps(config, checkpoint, tmp_path):
    """A cart that was driven around 2, a twentieth to both sides; everything else is near zero."""
    task = envs.task("CartPole-v1")
    seen = np.zeros((100, 4), np.float32)
    seen[:, 0] = 2 + 0.05 * np.sin(np.arange(100))
    with StoreWriter(tmp_path / "own" / "train", [task]) as writer:
        writer.append(
            Episode(task, {"observation": seen}, {"action": np.zeros(100, np.int64)}, np.ones(100, np.float32), behaviour="human")
        )
    own = replace(config, data=str(tmp_path / "own"), env="CartPole-v1", held_out=0, modes=("full",), episodes=(1,), rollouts=2, series=1)
    said = "'observation' lies where bins are coarse; each policy measures it from its own demonstrations' medians, here 2, 0, 0, 0"
    assert said in plan(checkpoint, own)
    found = few_shot(checkpoint, own)
    assert found["origins"] == {"observation": [2.0, 0.0, 0.0, 0.0]}
    kept = gato.load(next(Path(found["out"]).glob("cells/full-1-0/**/gato.json")).parent, "cpu")
    assert kept.task("CartPole-v1").origins == {"observation": (2.0, 0.0, 0.0, 0.0)}
    assert len(rollout(kept.policy("CartPole-v1"), kept.task("CartPole-v1"), 1)) == 1  # the environment needs none of it


# -- cells ---------------------------------------------------------------------------------------------


def test_a_grid_ends_in_a_table_a_curve_and_a_policy(config, checkpoint):
    results = few_shot(checkpoint, replace(config, episodes=(4,), modes=("full", "retrieve", "prompt")))
    figures = [r["label"] for r in results["rows"]]
    assert figures == ["best", "full, last step", "full, chosen on held-out", "full, paper's maximum", "retrieve", "prompt"]
    assert "toy/corridor" in gato.load(config.out / "cells/full-4-0/policy", "cpu").tasks
    assert (config.out / "fewshot.svg").read_text().startswith("<svg") and not results["seen"]
    assert "full, last step" in (config.out / "fewshot.md").read_text()
    assert len(results["cells"][0]["curve"]) == 2


def test_a_held_out_task_is_learned_and_its_nearest_trained_sibling_is_named(config, checkpoint, tmp_path):
    pytest.importorskip("Box2D", reason="needs the extra 'gym'")
    collect(CollectConfig(tasks=["gymnasium/lunar-lander-continuous"], episodes=2, noisy_share=0.0, workers=0, out=tmp_path))
    data = str(tmp_path / "gymnasium/lunar-lander-continuous")
    few_shot(checkpoint, replace(config, data=data, episodes=(1,), modes=("full",), steps=1, rollouts=1, held_out=0, evaluation_episodes=1))
    assert "nearest trained sibling is gymnasium/lunar-lander, which this checkpoint" in (config.out / "fewshot.md").read_text()


@pytest.mark.parametrize(("given", "taken"), [(None, 3), (1, 1), (0, 0)])
def test_a_new_task_is_trained_and_played_with_the_memory_of_its_sibling(config, agent, robot, tmp_path, monkeypatch, given, taken):
    monkeypatch.setattr(envs, "held_out", lambda: {"toy/corridor": robot.name})
    Agent(agent.model, agent.tokenizer, agent.tasks | {robot.name: replace(robot, memory=3)}).save(tmp_path / "short")
    results = few_shot(tmp_path / "short", replace(config, episodes=(4,), modes=("full",), memory=given))
    assert results["memory"] == json.loads((config.out / "settings.json").read_text())["memory"] == taken
    tuned = gato.load(config.out / "cells/full-4-0/policy", "cpu")
    memories = {name: task.memory for name, task in tuned.tasks.items()}
    assert memories == dict.fromkeys(agent.tasks) | {robot.name: 3, "toy/corridor": taken or None}


def test_a_negative_memory_is_refused(config):
    with pytest.raises(ValueError, match="'memory' is -1, expected a whole number from 0"):
        replace(config, memory=-1)


def test_demonstrations_worse_than_random_play_give_returns_and_say_why(config, checkpoint, home, tmp_path):
    """Somebody who walks left: -2 where random play, which is measured, earns something."""
    task = replace(envs.task("toy/corridor"), name="toy/own", random_return=None, expert_return=None)
    with StoreWriter(tmp_path / "lost", [task]) as writer:
        for _ in range(3):
            writer.append(Episode(task, {"observation": np.array([2, 1])}, {"action": np.zeros(2, int)}, np.full(2, -1), behaviour="human"))
    results = few_shot(checkpoint, replace(config, data=str(tmp_path / "lost"), episodes=(1,), held_out=1))
    assert results["expert"] == -2 < results["random"] and "is not above the random one" in results["unscored"]
    assert "no score: the expert's return -2.0 is not above" in (config.out / "fewshot.md").read_text()


def test_finished_cells_are_read_and_not_made_again(config, checkpoint):
    few_shot(checkpoint, config)
    path = config.out / "cells/retrieve-1-0/result.json"
    cell = json.loads(path.read_text())
    cell["figures"]["no learning"]["returns"] = [0.725] * 4  # the random return: a score of 0
    path.write_text(json.dumps(cell))
    (config.out / "cells/retrieve-4-0/result.json").unlink()  # as if the run had been killed in this cell
    rows = few_shot(checkpoint, config)["rows"]
    assert rows[0]["mean"] == 0 and rows[1]["mean"] > 0


def test_cells_of_other_settings_are_not_mixed(config, checkpoint):
    few_shot(checkpoint, config)
    with pytest.raises(ValueError, match="holds cells that were made with another rollouts; choose another --out"):
        few_shot(checkpoint, replace(config, rollouts=5))


def test_another_seed_is_not_said_to_be_another_task_whose_random_return_it_has_measured_anew(config, checkpoint):
    few_shot(checkpoint, config)
    path = config.out / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"seed": 7, "task": settings["task"] | {"random_return": 0.5}}))
    with pytest.raises(ValueError, match="holds cells that were made with another seed; choose another --out"):
        few_shot(checkpoint, config)


def test_cells_of_other_limits_of_an_episode_are_not_mixed(config, checkpoint):
    """Older folders do not name the limits; theirs are taken to be those that hold where none is given."""
    few_shot(checkpoint, config)
    path = config.out / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in settings.items() if not name.startswith("episode_")}))
    few_shot(checkpoint, config)
    for other in ({"episode_steps": 2}, {"episode_seconds": 60.0}):
        with pytest.raises(ValueError, match=f"holds cells that were made with another {next(iter(other))}; choose another --out"):
            few_shot(checkpoint, replace(config, **other))


def test_checkpoints_of_one_architecture_share_the_cells_that_need_neither(config, checkpoint, tmp_path):
    trained_on, other = gato.load(checkpoint, "cpu"), tmp_path / "other"
    with torch.no_grad():
        next(trained_on.model.parameters()).add_(0.1)
    trained_on.save(other)
    few_shot(other, config)
    path = config.out / "cells/retrieve-1-0/result.json"
    before = path.stat().st_mtime_ns
    few_shot(checkpoint, replace(config, episodes=(1,), modes=("retrieve", "prompt")))
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="made with another weights_sha256"):
        few_shot(other, config)


def test_the_command_shows_layout_and_cost_before_anything_is_trained(config, checkpoint, capsys):
    arguments = ["finetune", str(checkpoint), "--data", config.data, "--episodes", "1,4", "--modes", "full", "--steps", "4"]
    assert main([*arguments, "--batch_size", "2", "--device", "cpu", "--out", str(config.out), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "3 tokens a timestep, 21 timesteps in the context of 64" in printed
    assert "2 cells" in printed and not Path(config.out).exists()


def test_a_plan_counts_all_that_a_cell_plays(config, checkpoint):
    """Four updates, looked at every two: 2 x 2 episodes; two figures of 4; where there is a choice, 3 episodes and 9 of a run-off."""

    def last(**settings) -> str:
        return plan(checkpoint, replace(config, episodes=(1,), **settings)).splitlines()[-1]

    assert last(modes=("full", "retrieve")).endswith(f"up to {2 * 2 + 2 * 4 + 3 + 9} episodes played in each")
    assert last(modes=("full",)).endswith(f"up to {2 * 2 + 2 * 4} episodes played in each")
    assert last(modes=("retrieve", "prompt"), series=2) == f"4 cells: up to {4 + 3} episodes played in each"


def test_a_plan_gives_the_fewest_and_the_most_updates_of_the_rounds(config, checkpoint):
    """A round of 800, one of 400, and where that has helped another; without held-out demonstrations none follows."""
    compact = replace(config, protocol="compact", steps=None, batch_size=None, episodes=(1,), modes=("full", "brief"))
    lines = plan(checkpoint, compact).splitlines()
    assert any(line.startswith("full: ") and line.endswith("s a cell of 1200 to 1600 updates") for line in lines)
    assert any(line.startswith("brief: ") and line.endswith("s a cell of 80 updates") for line in lines)
    assert PROTOCOLS["compact"].updates(is_judged=False) == (800, 800) and PROTOCOLS["small"].updates(is_judged=True) == (120, 120)


@pytest.fixture
def wide(tmp_path) -> Path:
    """A demonstration of a cart with 600 more numbers, of which the checkpoint takes 512."""
    seen = FieldSpec("seen", Modality.CONTINUOUS, "observation", (600,))
    push = FieldSpec("push", Modality.DISCRETE, "action", (), "int64", (0,), (1,))
    task = TaskSpec("lab/wide", (seen, push), env_id="toy/wide", random_return=0.0, expert_return=1.0)
    with StoreWriter(tmp_path / "wide", [task]) as writer:
        values = {"seen": np.zeros((3, 600), np.float32)}, {"push": np.zeros(3, int)}, np.ones(3, np.float32)
        writer.append(Episode(task, *values, behaviour="human"))
    return tmp_path / "wide"


def test_a_plan_asks_that_a_task_fits_where_the_checkpoint_is_used(config, checkpoint, wide):
    own = replace(config, data=str(wide), episodes=(1,), held_out=0)
    assert "1 cells: up to 4 episodes" in plan(checkpoint, own)
    with pytest.raises(ValueError, match="has 600 observation values and patches, but this checkpoint takes 512"):
        plan(checkpoint, replace(own, modes=("retrieve", "full")))


def test_the_estimates_of_modes_that_do_the_same_work_agree(config, checkpoint):
    lines = plan(checkpoint, replace(config, modes=("full", "scratch"))).splitlines()
    full, scratch = (next(line for line in lines if line.startswith(f"{mode}: ")) for mode in ("full", "scratch"))
    assert full.removeprefix("full") == scratch.removeprefix("scratch")


# -- training ------------------------------------------------------------------------------------------


def trainable(model) -> set[str]:
    return {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}


def test_each_mode_trains_what_it_says(agent):
    protocol = PROTOCOLS["small"]
    assert trainable(_model(agent, "full", protocol, 1)) == {"embedding", "transformer"}
    assert trainable(_model(agent, "frozen", protocol, 1)) == {"embedding"}
    new, old = (m.embedding.tokens.weight for m in (_model(agent, "scratch", protocol, 1), agent.model))
    assert new.shape == old.shape and not torch.equal(new, old)


def test_the_papers_protocol_has_dropout(agent):
    assert _model(agent, "full", PROTOCOLS["paper"], 1).transformer.layers[0].dropout.p == 0.1


def test_adapters_start_as_nothing_and_are_folded_in_exactly(agent, drive):
    pytest.importorskip("peft", reason="LoRA needs peft: pip install 'opengato[peft]'")
    tuned = Agent(_model(agent, "lora", PROTOCOLS["small"], 1), agent.tokenizer, agent.tasks)
    assert held_out_loss(tuned, [drive(3)]) == pytest.approx(held_out_loss(agent, [drive(3)]))
    adapters = [p for name, p in tuned.model.named_parameters() if p.requires_grad and "lora_B" in name]
    assert adapters and all("lora" in name for name, p in tuned.model.named_parameters() if p.requires_grad)
    for p in adapters:
        torch.nn.init.normal_(p, std=0.1)
    whole = merged(tuned)
    assert set(whole.model.state_dict()) == set(agent.model.state_dict())
    assert held_out_loss(whole, [drive(3)]) == pytest.approx(held_out_loss(tuned, [drive(3)]), rel=1e-5)


def test_the_papers_maximum_is_the_best_mean_of_five_evaluations():
    curve = [{"returns": [float(x)]} for x in (0, 0, 10, 10, 10, 10, 5)]
    assert _paper_maximum(curve) == [10, 10, 10, 10, 5]


# -- figures -------------------------------------------------------------------------------------------


def test_every_mode_is_explained_below_its_table():
    assert {*MEANING} == {*MODES, *BASELINES, *SHOWN}


def test_a_table_gives_returns_where_there_is_no_score(corridor):
    task = corridor.with_returns(1.0, 1.0)
    cell = {"mode": "retrieve", "episodes": 1, "series": 0, "figures": {"no learning": {"returns": [3.0, 3.0]}}}
    (row,) = summarise_cells(task, [cell])
    assert row["label"] == "retrieve" and row["mean"] == 3.0


def test_the_curve_draws_every_label_and_escapes_it():
    drawing = score_curves({"full": [(1, 10, 5, 15), (10, 50, 40, 60)], "<b>": [(1, 0, 0, 0)]}, "a & b", {"expert": 100.0})
    assert drawing.count("<polyline") == 2 and "&lt;b&gt;" in drawing and "a &amp; b" in drawing


# -- prompts and states --------------------------------------------------------------------------------


def test_a_policy_with_a_prompt_sees_what_training_rows_with_prompts_hold(agent, tokenizer, robot, drive):
    """8 tokens a timestep and a context of 64: four timesteps of the prompt, then the episode, in one document."""
    policy = agent.policy(robot.name, temperature=0.0, prompt=drive(9, seed=5))
    episode = drive(2)
    actions = [policy.act({k: v[t : t + 1] for k, v in episode.observations.items()})["motors"] for t in range(2)]
    acted = replace(episode, actions={"motors": np.concatenate(actions)})
    trained = join([tokenizer.encode(drive(9, seed=5).window(0, 4)), tokenizer.encode(acted)], same_document=True)
    seen = join([part for parts in policy._streams[0].timesteps for part in parts], same_document=True)
    for name in ("ids", "local_position", "patches", "patch_boxes"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(trained, name))


@pytest.mark.parametrize("overflow", ["rebuild", "rolling"])
def test_a_policy_goes_on_from_its_state_past_the_end_of_the_context(make_gato, tokenizer, robot, drive, overflow):
    """The state is taken after 6 of 8 timesteps that fit; both go on to 14."""
    policy, other = (GatoPolicy(make_gato(), tokenizer, robot, 1.0, overflow, seed=s) for s in (0, 0))
    episode = drive(14)

    def act(who: GatoPolicy, t: int) -> list[float]:
        return who.act({k: v[t : t + 1] for k, v in episode.observations.items()})["motors"][0].tolist()

    for t in range(6):
        act(policy, t)
    state = policy.state()
    expected = [act(policy, t) for t in range(6, 14)]
    other.load_state(state)
    assert [act(other, t) for t in range(6, 14)] == expected
    policy.load_state(state)  # which the other policy has not changed
    assert [act(policy, t) for t in range(6, 14)] == expected


def test_a_state_of_the_other_overflow_mode_is_refused(make_gato, tokenizer, robot):
    rolling, rebuild = (GatoPolicy(make_gato(), tokenizer, robot, overflow=mode) for mode in ("rolling", "rebuild"))
    with pytest.raises(ValueError, match="the state is of overflow 'rolling', the policy of 'rebuild'"):
        rebuild.load_state(rolling.state())


# -- what a run leaves behind ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(checkpoint, home, tmp_path_factory) -> tuple[dict, Path]:
    """A finished run of the baselines, and its folder."""
    out = tmp_path_factory.mktemp("left") / "grid"
    settings = FewShotConfig(
        str(home / "toy/corridor"), episodes=(1, 6), modes=("retrieve", "clone"), steps=40, batch_size=2, rollouts=6, held_out=2,
        validation=3, device="cpu", out=out,
    )  # fmt: skip
    return few_shot(checkpoint, settings), out


@pytest.mark.parametrize("mode", ["retrieve", "clone"])
def test_a_baseline_is_saved_without_pickle_and_acts_after_loading_as_before(grid, mode):
    results, out = grid
    folder = out / "cells" / f"{mode}-6-0" / "policy"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    agent = gato.load(folder)
    policy = agent.policy("toy/corridor", temperature=0.5)
    cell = next(c for c in results["cells"] if c["mode"] == mode and c["episodes"] == 6)
    (row,) = cell["figures"].values()
    again = gato.evaluate(policy, episodes=6)
    assert again["returns"] == row["returns"] and again["success"] == row["success"]


@pytest.mark.parametrize("mode", ["retrieve", "clone"])
def test_a_baseline_is_evaluated_by_the_command_and_runs_in_a_loop(grid, mode, capsys):
    folder = grid[1] / "cells" / f"{mode}-6-0" / "policy"
    assert main(["eval", str(folder), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"][0]["task"] == "toy/corridor"
    policy = gato.load(folder).policy("toy/corridor")
    env = envs.make(policy.task)
    observation, _ = env.reset(seed=0)
    policy.reset()
    for _ in range(3):
        observation, *_ = env.step(policy.act_one(observation))


def test_a_baseline_speaks_no_words_and_is_not_fine_tuned(grid, home, capsys):
    folder = grid[1] / "cells" / "retrieve-1-0" / "policy"
    with pytest.raises(ValueError, match="holds a retrieve policy, which acts in 'toy/corridor' and has no 'generate'"):
        gato.load(folder).generate("left")
    with pytest.raises(ValueError, match="was not trained on 'toy/corridr'"):
        gato.load(folder).policy("toy/corridr")
    assert main(["finetune", str(folder), "--data", str(home / "toy/corridor"), "--episodes", "1"]) == 2
    assert "holds a retrieve policy, which cannot be fine-tuned" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["weights", "json", "kind", "cut", "missing"])
def test_a_damaged_baseline_is_refused(grid, tmp_path, damage):
    folder = tmp_path / "policy"
    shutil.copytree(grid[1] / "cells" / "retrieve-1-0" / "policy", folder)
    weights, content = folder / "model.safetensors", folder / "baseline.json"
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:20])
    elif damage == "missing":
        weights.unlink()
    else:
        content.write_text("{" if damage == "json" else content.read_text().replace("retrieve", "guess"))
    with pytest.raises((ValueError, OSError), match=r"baseline\.json|model\.safetensors"):
        gato.load(folder)


def test_the_run_names_the_policy_to_take_and_its_lines_run(grid, capsys):
    results, out = grid
    take = results["take"]
    assert Path(take["folder"]) == out / "best" and "highest mean return of 2 saved policies in 3 episodes each" in take["why"]
    text = (out / "fewshot.md").read_text()
    assert take["folder"] in text and take["command"] in text and take["python"] in text and take["serve"] in text
    exec(compile(take["python"], "loop", "exec"), {})  # the lines that people copy
    assert main([*take["command"].split()[1:], "--json"]) == 0
    capsys.readouterr()


def test_success_stands_in_the_table_and_so_do_the_demonstrations_own_flags(grid):
    results, out = grid
    assert results["succeeded"] == {"succeeded": 12, "judged": 12}
    lines = (out / "fewshot.md").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("success"))
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["best", "retrieve", "clone"] and lines[at + 1].endswith("%")
    assert "by their own flags 12 of 12 demonstrations succeeded" in lines


def test_demonstrations_that_contradict_each_other_are_counted_in_the_table(config, checkpoint, home, tmp_path):
    store = Store(home / "toy/corridor")
    first = store.episode(0)
    other = replace(first, actions={name: 1 - values for name, values in first.actions.items()})
    with StoreWriter(tmp_path / "torn", store.tasks) as writer:
        writer.append(first)
        writer.append(other)
    few_shot(checkpoint, replace(config, data=str(tmp_path / "torn"), env="toy/corridor", episodes=(2,), held_out=0))
    count = 2 * first.num_timesteps
    said = f"of {count} timesteps {count} show exactly what another one shows, with another action"
    assert said in (config.out / "fewshot.md").read_text().splitlines()


def test_a_clone_of_before_is_trained_again(config, checkpoint):
    """It was trained for as many updates as the model; today's says how many it took."""
    few = replace(config, episodes=(1,), modes=("clone",))
    few_shot(checkpoint, few)
    path = config.out / "cells/clone-1-0/result.json"
    cell = json.loads(path.read_text())
    del cell["updates"]
    path.write_text(json.dumps(cell | {"timesteps": 0}))
    assert few_shot(checkpoint, few)["cells"][0]["timesteps"] > 0
    assert json.loads(path.read_text())["updates"] >= 2000


def test_a_cell_says_how_long_it_took(grid):
    for cell in grid[0]["cells"]:
        assert cell["seconds"] > 0 and all(row["seconds"] > 0 for row in cell["figures"].values())


def test_a_single_episode_has_no_interval(checkpoint, config, capsys):
    results = few_shot(checkpoint, replace(config, rollouts=1))
    assert all(row["low"] is None and row["high"] is None for row in results["rows"])
    text = (config.out / "fewshot.md").read_text() + (config.out / "fewshot.svg").read_text()
    assert "nan" not in text.lower() and "[" not in next(line for line in text.splitlines() if line.startswith("retrieve"))
    assert few_shot(checkpoint, replace(config, rollouts=1))["take"]["doubt"] is None  # the cells are read, where NaN is null
    assert main(["eval", str(results["take"]["folder"]), "--episodes", "1"]) == 0
    assert "nan" not in capsys.readouterr().out


def test_the_curves_start_right_of_their_labels_and_the_best_is_marked(grid):
    results, out = grid
    svg = (out / "fewshot.svg").read_text()
    ends = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end"', svg)]  # random, expert: they end here
    xs = [float(x) for line in re.findall(r'points="([^"]+)"', svg) for x in re.findall(r"([\d.]+),", line)]
    assert len(ends) == 2 and max(ends) < min(xs) - 7
    assert svg.count('r="7"') == 1 and f">{results['take']['mode']}" in svg and "(best)" in svg
