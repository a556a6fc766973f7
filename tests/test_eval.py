"""Scores: where the expert has 100 and random 0, and what an agent is deprived of."""

import base64
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gato import digests, envs
from gato.agent import Agent, load
from gato.cli import main
from gato.data.collection.collect import CollectConfig, collect
from gato.envs.demonstrator import RandomExpert
from gato.envs.toy import Corridor
from gato.eval.ablation import _Swap, ablations
from gato.eval.control import evaluate, evaluate_checkpoint
from gato.eval.film import film_strip
from gato.eval.follow import follow
from gato.eval.report.table import score_table
from gato.eval.rollout import EpisodeResult, RandomPolicy, expert_rollout
from gato.eval.score import interquartile_mean, nested_interval, success_interval
from gato.eval.settings import EvalConfig
from gato.eval.summary import paired_comparison, summarise, summarise_families
from gato.policy import GatoPolicy
from gato.spec import TaskSpec


def test_the_expert_scores_100_and_random_0_within_their_intervals():
    task = envs.task("toy/corridor")
    expert = summarise(task, expert_rollout(task, 60))
    assert expert["score"] == pytest.approx(100) and expert["success"] == 1.0
    random = summarise(task, expert_rollout(task, 200, expert=RandomExpert()))
    assert random["score_low"] <= 0 <= random["score_high"]


def test_a_failed_episode_is_counted_and_weighs_as_the_random_return():
    task = envs.task("toy/corridor")
    results = [EpisodeResult(0, 1.0, 3, True), EpisodeResult(1, float("nan"), 1, None, failed="RuntimeError: broken")]
    row = summarise(task, results)
    assert row["failed"] == 1 and row["success"] == 0.5
    assert row["mean"] == pytest.approx((1.0 + task.random_return) / 2)
    assert "1 of 2 episodes failed" in score_table({"tasks": [row], "captions": [], "text": []})


def test_a_task_whose_expert_is_not_above_random_has_no_score_and_says_why():
    row = summarise(envs.task("toy/corridor").with_returns(1.0, 1.0), [EpisodeResult(0, 1.0, 3, True), EpisodeResult(1, 1.0, 3, True)])
    assert row["score"] is None and "not above the random one" in row["unscored"]
    assert "no score: the expert's return 1.0 is not above" in score_table({"tasks": [row], "captions": [], "text": []})


def test_the_interquartile_mean_cuts_off_a_quarter_of_the_tasks_at_each_end():
    value, low, high = interquartile_mean([[0.0, 0.0], [30.0, 50.0], [60.0, 60.0], [1000.0, 2000.0]])
    assert value == 50 and low == 45 and high == 55


def test_a_task_that_always_succeeds_has_an_interval_too():
    assert success_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_an_interval_over_seeds_is_wider_than_one_over_the_episodes_of_each():
    """Two training seeds, one that learnt and one that did not: their episodes alone would be certain."""
    mean, low, high = nested_interval([[0.0, 0.0, 0.0], [100.0, 100.0, 100.0]])
    assert (mean, low, high) == (50, 0, 100)


def task_row(name: str, returns: list[float]) -> dict:
    task = replace(envs.task("toy/corridor"), name=name).with_returns(0.0, 1.0)
    return summarise(task, [EpisodeResult(i, r, 1, r > 0.5) for i, r in enumerate(returns)])


def test_a_family_counts_its_tasks_above_each_share_of_the_expert():
    rows = [task_row("toy/a", [0.0, 0.4]), task_row("toy/b", [0.6, 0.8]), task_row("babyai/c", [1.0, 1.0])]
    babyai, toy, everything = summarise_families(rows)
    assert (toy["family"], toy["tasks"], toy["registered"], toy["iqm"]) == ("toy", 2, 3, 45)
    assert [toy["above"][x] for x in ("10", "25", "50", "75")] == [2, 1, 1, 0]
    assert babyai["success"] == 1.0 and everything["success"] == 4 / 6 and everything["above"]["50"] == 2


def test_published_returns_give_a_second_scale():
    """JAT: random 6, expert 475. Our own expert reaches 1000, so 475 is 47 of ours and 100 of theirs."""
    pytest.importorskip("mujoco", reason="MuJoCo is missing: pip install 'opengato[mujoco]'")
    task = envs.task("mujoco/inverted-pendulum")
    row = summarise(task, [EpisodeResult(i, r, 1, None) for i, r in enumerate((475.0, 475.0))])
    assert row["published"]["jat"] == {"score": 100, "low": 100, "high": 100} and row["score"] == pytest.approx(47.2, abs=0.1)
    (family,) = summarise_families([row])
    assert family["published"]["jat"] == {"tasks": 1, "iqm": 100, "low": 100, "high": 100}
    assert "by the returns that JAT published: 100.0 [100.0, 100.0]" in score_table({"tasks": [row], "captions": [], "text": []})


def test_a_paired_comparison_takes_the_luck_of_the_start_out():
    """Returns that differ widely from seed to seed, but always by 0.25 between the two agents."""
    (row,) = paired_comparison([task_row("toy/a", [0.25, 0.75, 1.25])], [task_row("toy/a", [0.0, 0.5, 1.0])])
    assert (row["pairs"], row["difference"], row["low"], row["high"]) == (3, 0.25, 0.25, 0.25)
    assert row["score"] == 25


@pytest.fixture(scope="module")
def walker(make_gato, tokenizer, tmp_path_factory):
    """The folder of an untrained agent that knows the corridor."""
    task = envs.task("toy/corridor")
    folder = tmp_path_factory.mktemp("walker")
    Agent(make_gato(), tokenizer, {task.name: task}).save(folder)
    return folder


def test_a_suite_is_played_filmed_and_compared_with_another_checkpoint(walker, tmp_path):
    pytest.importorskip("av", reason="videos need PyAV: pip install 'opengato[lerobot]'")
    config = EvalConfig(suite=["toy"], episodes=4, num_envs=4, videos=True, against=walker, device="cpu", out=tmp_path / "e.json")
    results = evaluate_checkpoint(walker, config)
    films = results["videos"]["toy/corridor"]
    assert films["best"]["return"] >= films["median"]["return"] >= films["worst"]["return"]
    assert all(f["repeated"] and Path(f["file"]).stat().st_size > 0 for f in films.values())
    assert results["against"]["tasks"][0]["difference"] == 0  # the same weights, seeds and draws
    assert "toy                     1 of 3" in score_table(results)


def test_a_suite_that_the_checkpoint_does_not_know_is_refused(walker):
    with pytest.raises(ValueError, match="knows no task of the suite 'atari'; it knows tasks of toy"):
        evaluate_checkpoint(walker, EvalConfig(suite=["atari"], device="cpu"))


# -- faults --------------------------------------------------------------------------------------------


@pytest.fixture
def two_tasks(make_gato, tokenizer, tmp_path):
    """The folder of an untrained agent that knows two corridors."""
    tasks = [replace(envs.task("toy/corridor"), name=name) for name in ("toy/a", "toy/b")]
    Agent(make_gato(), tokenizer, {t.name: t for t in tasks}).save(tmp_path / "two")
    return tmp_path / "two"


def test_a_task_that_cannot_be_played_is_named_and_the_others_go_on(two_tasks, monkeypatch, capsys):
    make = envs.make
    broken = ImportError("task 'toy/a' needs a simulator")

    def making(task, render_mode=None):
        if task.name == "toy/a":
            raise broken
        return make(task, render_mode)

    monkeypatch.setattr(envs, "make", making)
    assert main(["eval", str(two_tasks), "--episodes", "2", "--device", "cpu"]) == 1
    assert "toy/a                                  not played: ImportError: task 'toy/a' needs a simulator" in capsys.readouterr().out
    written = json.loads((two_tasks / "eval.json").read_text())
    assert [row["task"] for row in written["tasks"]] == ["toy/b"] and written["errors"][0]["task"] == "toy/a"


def test_what_was_measured_before_a_kill_is_in_the_file(two_tasks, monkeypatch):
    make = envs.make

    def making(task, render_mode=None):
        if task.name == "toy/b":
            raise KeyboardInterrupt
        return make(task, render_mode)

    monkeypatch.setattr(envs, "make", making)
    with pytest.raises(KeyboardInterrupt):
        evaluate_checkpoint(two_tasks, EvalConfig(episodes=2, device="cpu"))
    assert [row["task"] for row in json.loads((two_tasks / "eval.json").read_text())["tasks"]] == ["toy/a"]


def test_an_environment_whose_episodes_all_fail_has_no_score_and_says_why(two_tasks, monkeypatch, capsys):
    def breaking(env, action):
        raise RuntimeError("the floor gave way")

    monkeypatch.setattr(Corridor, "step", breaking)
    assert main(["eval", str(two_tasks), "--tasks", "toy/a", "--episodes", "3", "--device", "cpu"]) == 1
    results = json.loads((two_tasks / "eval.json").read_text())
    assert results["tasks"] == [] and "all 3 episodes failed; the first: RuntimeError: the floor gave way" in results["errors"][0]["error"]
    assert "nan" not in capsys.readouterr().out


def test_one_failed_episode_does_not_define_what_success_is(monkeypatch):
    task = TaskSpec.from_dict(envs.task("toy/corridor").to_dict() | {"success": None})
    results = [EpisodeResult(0, 1.0, 3, None), EpisodeResult(1, float("nan"), 2, None, failed="KeyError: 'motor'")]
    row = summarise(task, results)
    assert row["success"] is None and row["failed"] == 1
    assert summarise(envs.task("toy/corridor"), [replace(results[0], success=True), results[1]])["success"] == 0.5


def test_one_episode_has_no_interval(two_tasks, capsys):
    assert main(["eval", str(two_tasks), "--tasks", "toy/a", "--episodes", "1", "--device", "cpu"]) == 0
    assert "nan" not in capsys.readouterr().out


def test_episodes_begin_with_demonstrations_of_the_tasks_store_as_prompts(walker, tmp_path, monkeypatch):
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    collect(CollectConfig(tasks=["toy/corridor"], episodes=4, noisy_share=0.5, workers=0, out=tmp_path / "stores"))
    prompts, reset = [], GatoPolicy.reset

    def watched(self, *args, **kwargs):
        reset(self, *args, **kwargs)
        prompts.append(len(self._prompts))

    monkeypatch.setattr(GatoPolicy, "reset", watched)
    assert evaluate_checkpoint(walker, EvalConfig(episodes=2, demonstrations=2))["errors"] == []
    assert prompts[-1] == 2
    (error,) = evaluate_checkpoint(walker, EvalConfig(episodes=2, demonstrations=3))["errors"]
    assert "3 demonstrations are wanted as prompts" in error["error"] and "2 expert episodes" in error["error"]


def test_a_task_without_pictures_and_instructions_has_nothing_to_be_taken_away(walker, caplog):
    results = evaluate_checkpoint(walker, EvalConfig(episodes=1, ablations=True, device="cpu"))
    assert len(results["tasks"]) == 1 and "so --ablations has nothing to take away" in caplog.text


def test_the_file_of_a_single_episode_is_json_that_every_program_reads(walker):
    """The interval of one episode has no ends."""
    evaluate_checkpoint(walker, EvalConfig(episodes=1, device="cpu", out=walker / "one.json"))
    row = json.loads((walker / "one.json").read_text(), parse_constant=pytest.fail)["tasks"][0]
    assert row["low"] is None and row["score_high"] is None and row["mean"] is not None


def test_an_unknown_task_is_refused_before_anything_is_played(two_tasks):
    with pytest.raises(ValueError, match="not trained on 'toy/c'"):
        evaluate_checkpoint(two_tasks, EvalConfig(tasks=["toy/a", "toy/c"], device="cpu"))
    assert not (two_tasks / "eval.json").exists()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_episodes_side_by_side_return_what_they_do_one_after_the_other(walker, temperature):
    config = EvalConfig(episodes=7, temperature=temperature, device="cpu", out=walker / "e.json")
    one, many = (evaluate_checkpoint(walker, replace(config, num_envs=n))["tasks"][0] for n in (1, 3))
    assert one["returns"] == many["returns"] and one["length"] == many["length"]


def test_many_episodes_are_played_in_a_few_environments_and_return_the_same():
    class Watched(RandomPolicy):
        def reset(self, num_streams, demonstrations=()):
            streams.append(num_streams)
            super().reset(num_streams, demonstrations)

    streams: list[int] = []
    policy = Watched(envs.task("toy/corridor"))
    many, few = evaluate(policy, episodes=60), evaluate(policy, episodes=60, num_envs=7)
    assert streams == [50, 7] and many["returns"] == few["returns"] and len(many["returns"]) == 60


def test_a_suite_in_real_time_plays_one_environment_and_counts_deadlines(walker):
    results = evaluate_checkpoint(walker, EvalConfig(episodes=2, rate=1000, device="cpu", out=walker / "r.json"))
    row = results["tasks"][0]
    assert row["deadlines"]["steps"] == row["length"] * 2
    assert f"1000 Hz: {row['deadlines']['missed']} of {row['deadlines']['steps']} deadlines missed" in score_table(results)


def test_a_run_is_evaluated_beside_training_until_its_last_checkpoint(walker, tmp_path):
    """Step 1 is there at first; while it is played the run removes it and writes step 2, then the final one."""
    run = tmp_path / "run"

    def written(name: str) -> None:
        shutil.copytree(walker, run / name)
        digests.record(run / name, [])  # a checkpoint is whole when it has a manifest

    written("step-1")
    (run / "run.json").write_text("{}")
    names = []
    for name, results in follow(run, EvalConfig(episodes=2, device="cpu"), poll_seconds=0.01):
        names.append(name)
        assert results["tasks"][0]["task"] == "toy/corridor" and (run / "evals" / f"{name}.json").is_file()
        if name == "step-1":
            shutil.rmtree(run / "step-1")
            written("step-2")
            written("final")
    assert names == ["step-1", "step-2", "final"]
    assert list(follow(run, EvalConfig(episodes=2, device="cpu"))) == []  # nothing is played twice


def test_a_checkpoint_that_the_run_removes_while_it_is_loaded_is_passed_over(walker, tmp_path, monkeypatch):
    run = tmp_path / "run"
    for name in ("step-1", "final"):
        shutil.copytree(walker, run / name)
        digests.record(run / name, [])  # a checkpoint is whole when it has a manifest
    (run / "run.json").write_text("{}")

    def loading(folder, device=None, verify=True):
        if Path(folder).name == "step-1":
            shutil.rmtree(folder)
        return load(folder, device, verify)

    monkeypatch.setattr("gato.eval.control.load", loading)
    found = dict(follow(run, EvalConfig(episodes=2, device="cpu")))
    assert found["step-1"] is None and found["final"]["tasks"]


def test_a_folder_without_a_run_is_not_followed(tmp_path):
    with pytest.raises(ValueError, match="holds no run: it has no run.json"):
        next(follow(tmp_path, EvalConfig()))


def test_swapped_instructions_differ_from_ones_own_and_stay_for_the_whole_episode():
    pytest.importorskip("minigrid", reason="BabyAI is missing: pip install 'opengato[babyai]'")
    transforms = dict(ablations(envs.task("babyai/go-to-local")))
    own = np.array(["go to the red ball", "go to a key", "go to the red ball"], object)
    start, later = np.ones(3, bool), np.zeros(3, bool)
    given = transforms["swapped instructions"]({"mission": own}, np.arange(3), start)["mission"]
    assert all(a != b for a, b in zip(given, own, strict=True))
    again = transforms["swapped instructions"]({"mission": own[:2]}, np.arange(2), later[:2])["mission"]
    assert list(again) == list(given[:2])


def test_a_lone_environment_swaps_the_instruction_of_its_first_episode_too(make_gato, tokenizer, tmp_path, caplog, monkeypatch):
    """What the others are told is known from the episodes as they are; a single one has no other."""
    pytest.importorskip("minigrid", reason="BabyAI is missing: pip install 'opengato[babyai]'")
    task = envs.task("babyai/go-to-local")
    Agent(make_gato(context_length=128).float(), tokenizer, {task.name: task}).save(tmp_path)
    config = EvalConfig(episodes=3, num_envs=1, episode_steps=2, ablations=True, device="cpu")
    pairs, swap = [], _Swap.__call__

    def watched(self, observation, streams, first):
        given = swap(self, observation, streams, first)
        pairs.append((observation["mission"][0], given["mission"][0]))
        return given

    monkeypatch.setattr(_Swap, "__call__", watched)
    rows = evaluate_checkpoint(tmp_path, config)["tasks"]
    assert [row["ablation"] for row in rows] == [None, "blank picture", "swapped instructions"]
    assert len(pairs) == 3 * 2 and all(own != given for own, given in pairs) and not caplog.text
    rows = evaluate_checkpoint(tmp_path, replace(config, episodes=1))["tasks"]
    assert [row["ablation"] for row in rows] == [None, "blank picture"]
    assert "task 'babyai/go-to-local': all episodes have the same 'mission', so it is not swapped" in caplog.text


def test_a_blanked_picture_is_black_and_nothing_else_changes():
    pytest.importorskip("minigrid", reason="BabyAI is missing: pip install 'opengato[babyai]'")
    blank = dict(ablations(envs.task("babyai/go-to-local")))["blank picture"]
    shown = blank({"image": np.full((2, 56, 56, 3), 7, np.uint8), "direction": np.array([1, 2])}, np.arange(2), np.ones(2, bool))
    assert shown["image"].max() == 0 and list(shown["direction"]) == [1, 2]


def test_a_film_strip_holds_eight_frames_side_by_side():
    from PIL import Image

    frames = [np.zeros((60, 90, 3), np.uint8)] * 8
    strip = Image.open(io.BytesIO(base64.b64decode(film_strip(frames))))
    assert strip.size == (8 * 180 + 7 * 4, 120)
