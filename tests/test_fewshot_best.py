"""What `gato finetune` runs where nothing is named, what a policy may know, and how the one to take is chosen.

The new task is the corridor of five cells, or a cart on a line of its own; the model is a tiny one of the compact layout.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gato
from gato import envs
from gato.agent import Agent
from gato.data.collection.collect import CollectConfig, collect
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.eval.demonstrations import check_fits, measured_by, open_demonstrations, with_memory
from gato.eval.fewshot import few_shot
from gato.eval.fewshot_choice import _doubt, best_cells, best_of, contenders
from gato.eval.settings import FewShotConfig
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.train import loop
from gato.train.finetune import _set_up, finetune
from gato.train.protocol import PROTOCOLS


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """12 clean demonstrations of the corridor."""
    folder = tmp_path_factory.mktemp("home")
    collect(CollectConfig(tasks=["toy/corridor"], episodes=12, noisy_share=0.0, workers=0, out=folder))
    return folder / "toy/corridor"


@pytest.fixture(scope="module")
def agent(make_gato, tokenizer) -> Agent:
    """One of the compact layout that knows no task."""
    compact = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact")
    model = make_gato(layout="compact", discrete_start=compact.vocabulary.discrete.start, initializer_range=0.02, num_layers=1)
    return Agent(model.float(), compact, {})


@pytest.fixture(scope="module")
def checkpoint(agent, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    agent.save(folder)
    return folder


@pytest.fixture
def config(store, tmp_path) -> FewShotConfig:
    return FewShotConfig(str(store), steps=2, rollouts=3, validation=2, episode_steps=5, device="cpu", out=tmp_path / "grid")


def trained(agent, store, held_out, folder, **protocol):
    opened = Store(store)
    numbers = range(opened.num_episodes - held_out, opened.num_episodes)
    settings = replace(PROTOCOLS["compact"], **{"steps": 2, "timesteps": 4, **protocol})
    episodes = [opened.episode(i) for i in numbers]
    folder.mkdir(exist_ok=True)
    return finetune(agent, opened.tasks[0], store, episodes, settings, "full", 0, folder, lambda *_: [])


# -- what a policy may know ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["gato", "compact"])
def test_observations_are_measured_by_the_demonstrations_of_a_policy_alone(config, agent, tokenizer, tmp_path, make_gato, layout):
    """Two demonstrations of a cart, one around 2 and one around 6: who learns from one knows nothing of the other."""
    task = envs.task("CartPole-v1")
    with StoreWriter(tmp_path / "carts", [task]) as writer:
        for place in (2, 6):
            seen = np.zeros((100, 4), np.float32)
            seen[:, 0] = place + 0.05 * np.sin(np.arange(100))
            actions = {"action": np.zeros(100, np.int64)}
            writer.append(Episode(task, {"observation": seen}, actions, np.ones(100, np.float32), behaviour="human"))
    who = agent if layout == "compact" else Agent(make_gato(num_layers=1), tokenizer, {})
    found = open_demonstrations(replace(config, data=str(tmp_path / "carts"), env="CartPole-v1", held_out=0))
    places = []
    for series in (0, 1, 2, 3):
        (one,) = found.series(series, 1)
        origin = measured_by(found, who, [one]).task.origins["observation"][0]
        assert origin == pytest.approx(np.median(one.observations["observation"][:, 0]), abs=0.005)
        places.append(round(origin))
    assert set(places) == {2, 6}


def test_a_new_task_is_acted_on_by_the_present_timestep_in_the_compact_layout(config, agent, tokenizer, make_gato):
    found = open_demonstrations(config)
    known = Agent(agent.model, agent.tokenizer, {found.task.name: found.task})
    other = Agent(make_gato(num_layers=1), tokenizer, {})
    assert [with_memory(found, who, None).task.memory for who in (agent, known, other)] == [1, None, None]
    assert with_memory(found, agent, 0).task.memory is None and with_memory(found, agent, 3).task.memory == 3


# -- how long it is trained ------------------------------------------------------------------------


def test_the_last_update_is_the_policy_and_its_learning_rate_is_near_zero(agent, store, tmp_path):
    found = trained(agent, store, 2, tmp_path, steps=8, rounds=0, warmup_steps=0)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert found.steps == last["step"] == 8 and found.chosen is None
    assert last["learning_rate"] < 0.05 * PROTOCOLS["compact"].learning_rate


def test_the_leaps_of_a_fine_tune_raise_no_alarm(agent, store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop.SpikeWatch, "__call__", lambda self, loss: True)
    trained(agent, store, 2, tmp_path, steps=2)
    assert "far above those before" not in "".join(capsys.readouterr())


def test_training_goes_on_while_the_held_out_loss_falls(agent, store, tmp_path):
    """One layer learns a corridor for a long time; without held-out demonstrations nobody can say so."""
    assert trained(agent, store, 2, tmp_path / "judged", rounds=3, warmup_steps=0).steps in (3, 4, 5)
    assert trained(agent, store, 0, tmp_path / "alone", rounds=3, warmup_steps=0).steps == 2


def test_a_number_of_updates_that_was_asked_for_is_kept(config):
    assert FewShotConfig("store").fitted("compact").training.rounds == 2
    assert config.fitted("compact").training.rounds == 0 and config.fitted("compact").training.steps == 2


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Two demonstrations of a robot that sees 48 x 80 pixels, 3 x 5 patches, and goes left or right."""
    seen = FieldSpec("camera", Modality.IMAGE, "observation", (48, 80, 3), "uint8")
    done = FieldSpec("turn", Modality.DISCRETE, "action", (), "int64", (0,), (1,))
    task = TaskSpec("mine/look", (seen, done), random_return=0.0, expert_return=1.0)
    draw = np.random.default_rng(0).integers
    with StoreWriter(tmp_path / "look", [task]) as writer:
        for _ in range(2):
            views = draw(256, size=(8, 48, 80, 3), dtype=np.uint8)
            writer.append(Episode(task, {"camera": views}, {"turn": draw(2, size=8)}, np.zeros(8, np.float32), behaviour="expert"))
    return tmp_path / "look"


def test_new_weights_see_a_picture_in_blocks_and_a_checkpoint_as_it_was_trained(agent, pictures, tmp_path):
    """Blocks of 2 x 2 patches leave 2 x 3 of them, blocks of 3 x 3 two, which the protocol asks for here."""
    opened = Store(pictures)
    task, protocol = opened.tasks[0], replace(PROTOCOLS["compact"], steps=2, timesteps=4, picture_positions=5)
    for mode, size in (("scratch", 3), ("full", 1)):
        (folder := tmp_path / mode).mkdir()
        made = finetune(agent, task, pictures, [opened.episode(0)], protocol, mode, 0, folder, lambda *_: []).agent
        assert made.tokenizer.pool_patches == made.model.config.pool_patches == size
        made.save(folder / "policy")
        views = opened.episode(0).observations["camera"]
        acts = [a.policy(task).act({"camera": views[:1]})["turn"] for a in (made, gato.load(folder / "policy", "cpu"))]
        assert acts[0] == acts[1]
    assert agent.tokenizer.pooled(task, 6).pool_patches == 2 and agent.tokenizer.pool_patches == 1


@pytest.fixture
def long(agent, tmp_path):
    """long(scattered=True): a mixture of single timesteps of one episode of 250, whose picture's shade counts them."""
    seen = FieldSpec("camera", Modality.IMAGE, "observation", (16, 16, 3), "uint8")
    task = TaskSpec("mine/long", (seen, FieldSpec("turn", Modality.DISCRETE, "action", (), "int64", (0,), (1,))))
    shades = np.tile(np.arange(250, dtype=np.uint8)[:, None, None, None], (1, 16, 16, 3))
    with StoreWriter(tmp_path / "long", [task]) as writer:
        writer.append(Episode(task, {"camera": shades}, {"turn": np.arange(250) % 2}, np.zeros(250, np.float32)))

    def make(scattered: bool) -> Mixture:
        sources = {"mine/long": SourceConfig(store=str(tmp_path / "long"), memory=1, scattered=scattered)}
        return Mixture(DataConfig(sources=sources, prompt_share=0.0), agent.tokenizer, 64, seed=0)

    return make


@pytest.mark.parametrize("scattered", [False, True])
def test_timesteps_with_pictures_lie_near_one_another_or_come_from_all_over_an_episode(agent, long, scattered):
    """Each shows what its timestep showed."""
    row = long(scattered).row(0, 0)
    starts = [piece.start for piece in row.pieces]
    assert row.tokens.patches[:, 0, 0, 0].tolist() == starts
    first, turn = starts[:16], agent.tokenizer.vocabulary.discrete.start
    assert (max(first) - min(first) > 64) == scattered
    assert (row.tokens.ids[row.tokens.is_target] - turn).tolist()[:16] == [start % 2 for start in first]


def test_of_sixteen_timesteps_that_lie_near_one_another_few_are_the_same(long):
    """Sixteen draws of 65 have about 14 different ones, wherever in the episode the first lies."""
    mixture = long(scattered=False)
    starts = [[piece.start for piece in mixture.row(0, r).pieces[:16]] for r in range(30)]
    assert all(max(row) - min(row) <= 64 for row in starts)
    assert np.mean([len(set(row)) for row in starts]) > 12


@pytest.mark.parametrize("timesteps, positions, rows", [(12, 0, 4), (12, 128, 2), (120, 0, 5)])
def test_an_update_has_no_more_positions_than_asked_for_and_no_more_timesteps_than_there_are(agent, pictures, timesteps, positions, rows):
    """A timestep has 15 patches, a separator and an action: 17 positions, and a row 64; there are 16 timesteps."""
    protocol = replace(PROTOCOLS["compact"], timesteps=timesteps, positions=positions)
    assert _set_up(agent, Store(pictures).tasks[0], pictures, protocol, "full", 0).settings.batch_size == rows


def test_rows_are_short_where_one_timestep_is_all_that_is_seen(agent, pictures):
    """16 timesteps of 17 positions, over five rows of at most 64."""
    task = replace(Store(pictures).tasks[0], memory=1)
    lengths = [
        _set_up(agent, task, pictures, replace(PROTOCOLS["compact"], timesteps=n), "full", 0).mixture.context_length for n in (16, 17)
    ]
    assert lengths == [64, 55]


def test_a_checkpoint_may_act_as_it_is_or_be_trained_briefly(config, checkpoint, agent):
    """20 updates are 2 where they are brief, and without any the weights are the checkpoint's."""
    results = few_shot(checkpoint, replace(config, episodes=(4,), modes=("zero", "brief"), steps=20, batch_size=1))
    assert [c.get("updates", 0) for c in results["cells"]] == [0, 2]
    zero, brief = (gato.load(config.out / f"cells/{mode}-4-0/policy", "cpu") for mode in ("zero", "brief"))
    before, as_it_is, after = (a.model.embedding.tokens.weight for a in (agent, zero, brief))
    assert np.array_equal(before.detach(), as_it_is.detach()) and not np.array_equal(before.detach(), after.detach())
    assert [r["label"] for r in results["rows"]] == ["best", "zero", "brief, last step"] and "toy/corridor" in zero.tasks


# -- the choice ------------------------------------------------------------------------------------


def cell(mode: str, validated: float, measured: float = 0.0, series: int = 0) -> dict:
    figures = {"last step": {"returns": [measured], "mean": measured}}
    return {"mode": mode, "episodes": 5, "series": series, "figures": figures, "validation": {"mean": validated, "returns": [validated]}}


def test_the_choice_is_by_the_validation_s_starts_and_not_by_the_figures(corridor):
    """Returns of the corridor: 0.5 is random, 1 the expert, so a point of the score is 0.005."""
    cells = [cell("clone", 0.7, measured=1.0), cell("full", 0.8, measured=0.6)]
    assert best_of(corridor, cells)["mode"] == "full"
    (best,) = best_cells(corridor, cells)
    assert best["taken"] == "full" and best["figures"] == {"chosen by validation": {"returns": [0.6], "mean": 0.6}}


def test_the_simpler_of_two_that_are_as_good_is_taken(corridor):
    assert best_of(corridor, [cell("full", 0.800), cell("clone", 0.796), cell("retrieve", 0.79)])["mode"] == "clone"
    without = corridor.with_returns(1.0, 1.0)
    assert best_of(without, [cell("full", 0.800), cell("clone", 0.796)])["mode"] == "full"


def succeeded(mode: str, mean: float, count: int, episodes: int = 20) -> dict:
    played = {"mean": mean, "success": count / episodes, "returns": [mean] * episodes}
    return cell(mode, mean) | {"validation": played}


def test_a_policy_that_never_succeeds_is_not_taken_for_its_return(corridor):
    """Doing nothing returns more than trying; 12 and 9 of 20 are not told apart, so there the return decides."""
    idle, trying = succeeded("lwr", 0.9, 0), succeeded("clone", 0.6, 12)
    assert best_of(corridor, [idle, trying])["mode"] == "clone" and contenders(corridor, [idle, trying]) == []
    assert best_of(corridor, [idle, trying, succeeded("full", 0.7, 9)])["mode"] == "full"
    assert best_of(corridor, [idle, succeeded("clone", 0.6, 0)])["mode"] == "lwr"


def returned(mode: str, returns: list[float], series: int = 0, **rest) -> dict:
    return cell(mode, float(np.mean(returns)), series=series) | {"validation": {"mean": float(np.mean(returns)), "returns": returns}} | rest


def test_policies_that_few_episodes_do_not_tell_apart_play_on_and_the_choice_is_among_them(corridor):
    """Three of five and two of five say little; five of five and none of five say all, and so does the same in every episode."""
    even, poor = returned("clone", [1, 1, 1, 0, 0]), returned("retrieve", [0, 0, 0, 0, 0])
    assert contenders(corridor, [even, returned("full", [1, 1, 0, 0, 0]), poor]) == [even, returned("full", [1, 1, 0, 0, 0])]
    assert contenders(corridor, [returned("full", [1] * 5), poor]) == [] == contenders(corridor, [poor, returned("lwr", [0] * 5)])
    assert contenders(corridor, [even]) == []
    again = [even | {"run_off": {"mean": 0.2}}, returned("full", [1, 1, 0, 0, 0], run_off={"mean": 0.7}), poor]
    assert best_of(corridor, again)["mode"] == "full"
    other = returned("scratch", [1] * 5, series=1)  # settled at once: then the first episodes count between the series
    assert best_of(corridor, [*again, other])["mode"] == "scratch"


def test_a_better_policy_that_is_added_later_is_taken_over_those_that_had_a_run_off(corridor):
    """Two that five episodes did not tell apart had played on; a third that never fails settles it, and none plays on."""
    before = [returned("clone", [1, 1, 0, 0, 0], run_off={"mean": 0.50}), returned("retrieve", [1, 0, 0, 0, 0], run_off={"mean": 0.49})]
    assert contenders(corridor, before) == before and best_of(corridor, before)["mode"] == "clone"
    added = [*before, returned("full", [1] * 5)]
    assert contenders(corridor, added) == [] and best_of(corridor, added)["mode"] == "full"


def test_every_series_has_its_own_best_and_a_policy_alone_has_none(corridor):
    cells = [cell("clone", 0.7), cell("full", 0.8), cell("clone", 0.9, series=1), cell("full", 0.8, series=1)]
    assert [c["taken"] for c in best_cells(corridor, cells)] == ["full", "clone"]
    assert best_cells(corridor, cells[:1]) == [] and best_of(corridor, [{"mode": "full"}]) == {"mode": "full"}


def test_a_doubt_about_the_best_policy_says_what_would_help(corridor):
    row = {"success": 0.0, "episodes": 3, "random": 0.0, "mean": 0.0, "low": 0.0, "high": 0.0}
    assert "none of 5 demonstrations did; see whether success is told as meant" in _doubt(corridor, row, {"succeeded": 0, "judged": 5})
    assert "record more, from more starts" in _doubt(corridor, row, {"succeeded": 5, "judged": 5})
    alike = replace(corridor, random_return=0.0, expert_return=0.0)
    assert "say what success is (--success)" in _doubt(alike, row | {"success": None}, None)
    assert _doubt(corridor, row | {"success": 1.0, "mean": 1.0, "low": 1.0, "high": 1.0}, {"succeeded": 0, "judged": 5}) is None


def test_nothing_need_be_named():
    config = FewShotConfig("store")
    compact = config.fitted("compact", 11)
    assert (compact.episodes, compact.modes) == ((11,), ("zero", "brief", "full", "scratch", "retrieve", "lwr", "clone"))
    assert "prompt" in config.fitted("gato", 11).modes and config.fitted("mil", 11).modes[0] == "adapt"
    assert config.fitted("compact", 5000).episodes == (100,)
    assert config.fitted("mil", 11, has_pictures=True).modes == ("adapt", "retrieve", "clone", "keypoints")
    chunks = replace(config, chunk=4)
    assert chunks.fitted("compact", 11).modes == ("full", "scratch", "retrieve", "clone")
    assert chunks.fitted("gato", 11).modes == ("retrieve", "clone")


def test_keypoints_of_a_task_without_pictures_are_refused_before_anything_is_made(config, checkpoint):
    with pytest.raises(ValueError, match="keypoints are places in pictures, and task 'toy/corridor' shows none"):
        few_shot(checkpoint, replace(config, modes=("retrieve", "keypoints")))
    assert not config.out.exists()


def test_the_folder_best_is_the_policy_to_take_and_three_lines_run_it(config, checkpoint, capsys):
    """All demonstrations but the held-out one, by the present timestep alone."""
    few = replace(config, modes=("full", "retrieve"))
    results = few_shot(checkpoint, few)
    assert {c["episodes"] for c in results["cells"]} == {11} and results["memory"] == 1
    validated = {c["mode"]: c["validation"] for c in results["cells"]}
    assert all(len(v["returns"]) == 2 for v in validated.values()) and len({v["seed"] for v in validated.values()}) == 1
    take, text = results["take"], (config.out / "fewshot.md").read_text()
    kept = json.loads((config.out / "best/choice.json").read_text())
    assert kept["mode"] == take["mode"] == results["best"][0]["taken"] and len(kept["candidates"]) == 2
    assert "layout compact: the numbers of a field share a position" in text and "memory 1: " in text
    assert "best: every saved policy also played 2 episodes from starts that no figure above is measured on, and 6 more where" in text
    assert len(take["python"].splitlines()) == 3
    exec(compile(take["python"], "lines", "exec"), {})
    capsys.readouterr()
    before = {c["mode"]: c["validation"] for c in few_shot(checkpoint, few)["cells"]}
    assert before == validated  # read, not played again


# -- poor demonstrations ---------------------------------------------------------------------------

POOR = {  # observations and actions of the episodes of a pendulum
    "one timestep": [(np.ones((1, 3)), np.ones((1, 1)))],
    "all the same": [(np.eye(3), np.array([[-1.0], [0], [1]]))] * 3,
    "nothing is seen to change": [(np.ones((4, 3)), np.array([[-1.0], [0], [1], [2]]))],
    "the action never varies": [(np.random.default_rng(0).normal(size=(9, 3)), np.full((9, 1), 2.0))],
}


@pytest.mark.parametrize("case", POOR)
def test_poor_demonstrations_give_a_policy_that_acts(config, checkpoint, tmp_path, case):
    task = envs.task("Pendulum-v1")
    ((seen,), (done,)) = (task.observations, task.actions)
    with StoreWriter(tmp_path / "poor", [task]) as writer:
        for observations, actions in POOR[case]:
            values = {seen.name: observations.astype(np.float32)}, {done.name: actions.astype(np.float32)}
            writer.append(Episode(task, *values, np.zeros(len(actions), np.float32), behaviour="human"))
    poor = replace(config, data=str(tmp_path / "poor"), env="Pendulum-v1", modes=("scratch", "lwr"), held_out=0)
    results = few_shot(checkpoint, poor)
    assert len(results["cells"]) == 2 and all(np.isfinite(c["validation"]["mean"]) for c in results["cells"])
    for c in results["cells"]:
        policy = gato.load(config.out / f"cells/{c['mode']}-{len(POOR[case])}-0/policy", "cpu").policy("Pendulum-v1")
        policy.reset()
        action = policy.act_one(np.float32([0, 1, -5]))
        assert np.isfinite(action).all() and np.abs(action).max() <= 2
    if case == "nothing is seen to change":
        assert "of 4 timesteps 4 show exactly what another one shows, with another action" in (config.out / "fewshot.md").read_text()


def test_more_values_than_fit_are_refused_before_anything_is_trained(agent):
    wide = FieldSpec("wide", Modality.CONTINUOUS, "observation", (600,))
    move = FieldSpec("move", Modality.CONTINUOUS, "action", (1,), low=(-1.0,), high=(1.0,))
    with pytest.raises(ValueError, match="has 600 observation values and patches, but this checkpoint takes 512; name --modes retrieve"):
        check_fits(TaskSpec("wide", (wide, move)), agent)
