"""Environments of a user's own: found, made, recorded, trained on and scored as they are, or refused in one line."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato import envs
from gato.agent import Agent, load
from gato.cli import main
from gato.data.collection.collect import CollectConfig, collect
from gato.data.store import Store
from gato.envs import own
from gato.envs.recording import EPISODE_STEPS, Recording
from gato.envs.success import check_criterion, succeeded
from gato.eval.film import as_frame
from gato.eval.rollout import RandomPolicy, rollout
from gato.eval.settings import EpisodeLimits
from gato.spec import TaskSpec

HERE = Path(__file__).parent
SAID = "own_envs speaks while it is imported"


@pytest.fixture(scope="module", autouse=True)
def own_envs():
    own.bring("own_envs")
    return sys.modules["own_envs"]


def agent_of(make_gato, tokenizer, folder: Path, *names: str) -> Path:
    """An untrained checkpoint that knows these environments, with returns 0 and 1."""
    tasks = [envs.task(name).with_returns(0.0, 1.0) for name in names]
    Agent(make_gato(context_length=64).float(), tokenizer, {task.name: task for task in tasks}).save(folder)
    return folder


@pytest.fixture
def evaluated(make_gato, tokenizer, tmp_path, capsys):
    """evaluated("Line-v0", "--films"): exit code, what was printed, and the results."""

    def evaluate(name: str, *options: str):
        folder = tmp_path / name.replace(":", "-").replace("/", "-")
        if not folder.exists():
            agent_of(make_gato, tokenizer, folder, name)
        capsys.readouterr()
        code = main(["eval", str(folder), "--device", "cpu", "--episodes", "3", *options])
        return code, capsys.readouterr(), json.loads((folder / "eval.json").read_text())

    return evaluate


# -- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own_envs:Line-v1", "Line-v1"])
def test_an_id_of_ones_own_is_a_task_that_remembers_its_module(name):
    task = envs.task(name)
    assert (task.name, task.env_id, task.episode_limit) == ("Line-v1", "own_envs:Line-v1", 30)
    assert envs.registered_name(task) == "Line-v1" and envs.make(task).unwrapped.spec.id == "Line-v1"


def test_an_id_without_a_version_is_the_newest(caplog):
    assert envs.task("own_envs:Line").env_id == "own_envs:Line-v1"
    assert "names no version; taken is Line-v1" in caplog.text


def test_an_id_in_the_namespace_of_a_family_is_not_of_the_family():
    task = envs.task("toy/Mine-v0")
    assert task.env_id == "own_envs:toy/Mine-v0" and type(envs.make(task).unwrapped).__name__ == "Line"


def test_an_id_of_gymnasium_keeps_no_module():
    assert envs.task("CartPole-v1").env_id == "CartPole-v1"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("no_such_module:Line-v0", "there is no module 'no_such_module' in "),
        ("own_envs.py:Line-v0", "'own_envs.py' is not the name of a module; give the module's name, 'own_envs'"),
        ("own_envs:Lime-v0", "module 'own_envs' registers no environment 'Lime-v0'; did you mean 'Line-v0'?"),
        ("Nowhere-v0", "one that a module of yours or of a package registers is MODULE:Nowhere-v0, or give --import MODULE"),
        ("own_envs:EmptyDict-v0", "observation is an empty Dict space"),
        ("own_envs:Sequences-v0", "is a Sequence space, which has no token form; wrap the environment so that it gives Box, Discrete,"),
        ("own_envs:Spaceless-v0", "the environment of task 'Spaceless-v0': it has no observation_space"),
        (
            "own_envs:Unbounded-v0",
            "the environment of task 'Unbounded-v0': action field 'action' is continuous but its range is not finite",
        ),
        ("own_envs:CannotBeMade-v0", "'CannotBeMade-v0' cannot be made: ConnectionError: no robot at /dev/ttyUSB0"),
    ],
)
def test_what_cannot_be_an_environment_is_named(name, line, capsys):
    assert main(["data", "collect", name, "--expert", "own_envs:Right", "--workers", "0"]) == 2
    err = capsys.readouterr().err
    assert line in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import sys; sys.exit(4)", "it calls sys.exit(4)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "line 1: invalid syntax"),
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_line(tmp_path, monkeypatch, code, line, capsys):
    (tmp_path / f"broken_{abs(hash(code))}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    assert main(["ls", "--import", f"broken_{abs(hash(code))}"]) == 2
    err = capsys.readouterr().err
    assert "cannot be imported" in err and line in err and "line 1" in err


def test_import_without_a_module_is_refused(capsys):
    assert main(["ls", "--import"]) == 2
    assert "--import needs the name of a module" in capsys.readouterr().err


# -- a user's own file, from the command's own process ---------------------------------------------------


def test_a_file_in_the_current_folder_is_collected_from_by_workers_and_prints_nothing_into_json(tmp_path):
    """The command does not look into the current folder by itself, nor do its workers."""
    shutil.copy(HERE / "own_envs.py", tmp_path / "mine.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"GATO_HOME": str(tmp_path / "home")}
    root = str(HERE.parent)
    command = [sys.executable, "-c", f"import sys; sys.path[0] = {root!r}; from gato.cli import main; sys.exit(main())", "data", "collect"]
    for words in (
        ["mine:Speaking-v0", "--expert", "mine:Speaks"],
        ["Reports-v0", "--import", "mine", "--expert", "mine:Right", "--out", "other"],
    ):
        done = subprocess.run(
            [*command, *words, "--episodes", "2", "--workers", "1", "--json"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)
        assert row["episodes"] == 2 and row["expert_return"] > 0.5 and row["failed"] == 0
        assert SAID in done.stderr
    assert Store(tmp_path / "other" / "Reports-v0").tasks[0].env_id == "mine:Reports-v0"


def test_collecting_measures_what_the_registry_does_not_know(tmp_path):
    config = CollectConfig(tasks=["own_envs:Reports-v0"], expert="own_envs:Right", episodes=4, workers=0, out=tmp_path)
    (row,) = collect(config)
    (task,) = Store(tmp_path / "Reports-v0").tasks
    assert task.random_return < 0.5 < task.expert_return <= 0.9 and row["success"] == 1.0  # a step costs 0.1, the goal gives 1
    (again,) = collect(replace(config, episodes=6))
    assert again["random_return"] == task.random_return and Store(tmp_path / "Reports-v0").num_episodes == 6


def test_a_store_of_ones_own_environment_is_inspected_trained_on_and_scored(tmp_path, monkeypatch, tokenizer, capsys):
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    options = ["--episodes", "6", "--workers", "0"]
    assert main(["data", "collect", "own_envs:Reports-v0", "--expert", "own_envs:Right", *options]) == 0
    tokenizer.text.save(tmp_path / "tokenizer.model")
    model = "num_layers: 1, num_heads: 2, width: 32, head_width: 16, feed_forward: 64, context_length: 32"
    (tmp_path / "own.yaml").write_text(
        f"model: {{{model}}}\ndata: {{tokenizer: tokenizer.model, sources: {{Reports-v0: {{}}}}}}\n"
        "train: {name: own, steps: 2, batch_size: 2, device: cpu}\noptim: {warmup_steps: 1}\n"
    )
    assert main(["data", "validate", "own_envs:Reports-v0"]) == 0 and main(["data", "inspect", "own.yaml"]) == 0
    assert main(["pretrain", "own.yaml"]) == 0
    capsys.readouterr()
    assert main(["eval", "runs/own/final", "--tasks", "own_envs:Reports-v0", "--episodes", "4", "--device", "cpu"]) == 0
    row = json.loads((tmp_path / "runs/own/final/eval.json").read_text())["tasks"][0]
    assert row["task"] == "Reports-v0" and row["score"] is not None and row["success"] is not None
    few = ["--modes", "retrieve", "--rollouts", "3", "--held_out", "0", "--device", "cpu"]
    line = ["finetune", "runs/own/final", "--data", "own_envs:Reports-v0", "--env", "own_envs:Reports-v0", "--episodes", "2"]
    assert main([*line, *few, "--success", "own_envs:reached"]) == 0
    printed = capsys.readouterr().out
    assert "100: expert 0." in printed and "measured when the demonstrations were collected" in printed


def test_a_task_that_cannot_be_imported_is_named_and_the_others_are_played(make_gato, tokenizer, tmp_path, capsys):
    folder = agent_of(make_gato, tokenizer, tmp_path / "agent", "Line-v1")
    agent = load(folder, "cpu")
    for env_id in ("gone_module:Line-v1", "Gone-v0"):
        name = own.plain(env_id) + "-gone"
        agent.tasks[name] = replace(agent.tasks["Line-v1"], name=name, env_id=env_id)
    agent.save(folder)
    assert main(["eval", str(folder), "--episodes", "2", "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "not played: the environment of task 'Line-v1-gone' cannot be made: there is no module 'gone_module'" in printed
    assert "there is no environment 'Gone-v0'" in printed and "\nLine-v1  " in printed


# -- environments as they are ------------------------------------------------------------------------------


def test_an_environment_without_render_mode_is_made():
    assert envs.make("own_envs:Bare-v0").reset(seed=0)[0] in range(4)


def test_every_kind_of_space_is_played_with_actions_of_its_kind():
    """The environment itself asserts that each action is in its space."""
    task = envs.task("own_envs:Everything-v0")
    kept = []
    results = rollout(RandomPolicy(task), task, 5, sink=kept.append)
    assert [r.failed for r in results] == [None] * 5
    episode = kept[0]
    assert episode.actions["grip"][0] in (4, 5, 6) and episode.actions["pair/0"][0][1] in (5, 6, 7)
    assert sorted(episode.observations) == [
        "bits", "matrix", "nested/bytes", "nested/flag", "pair/0", "pair/1", "said", "scalar", "several", "shifted",
    ]  # fmt: skip


def test_observations_of_another_kind_of_number_are_read_and_counted_where_they_leave_their_range():
    task = envs.task("own_envs:Float64-v0")
    kept = []
    results = rollout(RandomPolicy(task), task, 3, sink=kept.append)
    assert [r.failed for r in results] == [None] * 3 and sum(r.out_of_bounds for r in results) > 0
    assert kept[0].observations["observation"].dtype == np.float32


def kinds(table: str) -> list[str]:
    own.bring("own_envs")
    return list(getattr(sys.modules["own_envs"], table))


def test_a_single_number_of_a_box_is_an_array_and_closing_may_raise():
    task = envs.task("ScalarAction-v0")
    (result,) = rollout(RandomPolicy(task), task, 1)
    assert result.failed is None


@pytest.mark.parametrize("kind", kinds("REWARDS"))
def test_a_reward_is_one_number_of_any_type(kind):
    task = envs.task(f"Reward{kind}-v0")
    assert {r.total_reward for r in rollout(RandomPolicy(task), task, 3)} == {1.0}


@pytest.mark.parametrize("kind", kinds("NO_REWARDS"))
def test_what_is_no_reward_is_named_with_its_timestep(kind):
    task = envs.task(f"Reward{kind}-v0")
    (result,) = rollout(RandomPolicy(task), task, 1)
    assert f"the reward of timestep {result.num_timesteps} is " in result.failed and "expected" in result.failed


@pytest.mark.parametrize("name", ["NoInfo-v0", "OurKey-v0"])
def test_info_is_the_environments_own_affair(name):
    task = envs.task(name)
    kept = []
    (result,) = rollout(RandomPolicy(task), task, 1, sink=kept.append)
    assert result.failed is None and result.success is None and kept[0].parameters == {}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("OldReset-v0", "reset gave one value of type int, expected observation, info; that is the interface before Gymnasium 0.26"),
        ("OldStep-v0", "step gave 4 values, expected observation, reward, terminated, truncated, info"),
        ("NoSeed-v0", "the environment's reset takes no seed; write it as reset(self, *, seed=None, options=None)"),
        ("Exiting-v0", "the environment called sys.exit(3)"),
        ("Breaking-v0", "KeyError: 'motor'"),
    ],
)
def test_an_environment_whose_every_episode_fails_ends_with_its_reason_and_code_1(name, line, evaluated):
    code, printed, results = evaluated(name)
    assert code == 1 and line in printed.out and "nan" not in printed.out and "Traceback" not in printed.err
    assert results["tasks"] == [] and results["families"] == [] and len(results["errors"]) == 1


def test_an_expert_that_leaves_the_process_fails_its_episode(tmp_path):
    with pytest.raises(RuntimeError, match="episodes failed, the last with RuntimeError: the expert called sys.exit"):
        collect(CollectConfig(tasks=["Line-v1"], expert="own_envs:Leaves", episodes=1, workers=0, out=tmp_path))


@pytest.mark.parametrize(
    ("expert", "line"),
    [
        ("own_envs:Wright", "expert 'own_envs:Wright' cannot be had: module 'own_envs' has no 'Wright'; did you mean 'Right'?"),
        ("own_envs", "is not written as MODULE:NAME"),
        ("own_envs:reached", r"expert 'own_envs:reached' cannot be made by reached\(\): TypeError"),
        ("builtins:dict", r"expert 'builtins:dict' has no method reset\(env\)"),
    ],
)
def test_what_is_no_expert_is_refused_before_anything_runs(expert, line):
    with pytest.raises(ValueError, match=line):
        collect(CollectConfig(tasks=["Line-v1"], expert=expert))


def test_an_episode_that_never_ends_is_truncated_and_said(evaluated):
    code, printed, results = evaluated("Endless-v0", "--episode_steps", "40")
    assert code == 0 and results["tasks"][0]["mean"] == 40 and results["tasks"][0]["cut"] == 3
    assert "3 of 3 episodes did not end within 40 timesteps and were truncated there (--episode_steps)" in printed.out


def test_an_expert_that_never_arrives_is_cut_and_counted(tmp_path, caplog):
    config = CollectConfig(tasks=["Endless-v0"], expert="own_envs:Right", episodes=2, workers=0, episode_steps=5, out=tmp_path)
    (row,) = collect(config)
    assert (row["cut"], row["timesteps"]) == (2, 10) and "2 of 2 episodes did not end by themselves" in caplog.text
    assert Store(tmp_path / "Endless-v0").episode(0).truncated


def test_a_limit_of_timesteps_is_the_tasks_own_unless_a_lower_one_is_given():
    endless, limited = envs.task("Endless-v0"), envs.task("Line-v1")

    def limit(task, steps=None):
        return Recording(task, envs.make(task), 0, episode_steps=steps).limit

    assert [limit(endless), limit(endless, 7), limit(endless, 0)] == [EPISODE_STEPS, 7, None]
    assert [limit(limited), limit(limited, 7), limit(limited, 99), limit(limited, 0)] == [30, 7, 30, 30]


def test_an_environment_that_takes_too_long_for_an_episode_fails_it(monkeypatch):
    task = envs.task("Endless-v0")
    monkeypatch.setattr("gato.envs.watched.time.monotonic", iter(np.arange(1e6) / 100).__next__)
    (result,) = rollout(RandomPolicy(task), task, 1, limits=EpisodeLimits(episode_seconds=0.055))
    assert result.failed == "TimeoutError: the environment took longer than 0.055 s for this episode (--episode_seconds)"


def test_nothing_but_json_is_on_standard_output_whoever_speaks(make_gato, tokenizer, tmp_path):
    """Python's print, a library's write, and what is said while modules are imported, in a process of its own."""
    agent = agent_of(make_gato, tokenizer, tmp_path / "agent", "own_envs:Speaking-v0")
    command = [sys.executable, "-m", "gato.cli", "eval", str(agent), "--episodes", "2", "--device", "cpu", "--json"]
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["tasks"][0]["task"] == "Speaking-v0"
    for said in (SAID, "the environment speaks", "and so does a library in C"):
        assert said in done.stderr


# -- success -------------------------------------------------------------------------------------------------


def test_success_is_what_the_environment_reports_where_nothing_else_is_said():
    task = envs.task("Reports-v0")
    results = rollout(RandomPolicy(task), task, 3)
    assert [r.success for r in results] == [True] * 3
    cut = rollout(RandomPolicy(task), task, 3, limits=EpisodeLimits(episode_steps=1))
    assert False in [r.success for r in cut]


def test_success_may_be_a_key_of_info_or_a_function_of_ones_own():
    assert succeeded("info arrived", 0, True, {"arrived": np.array([True])}) is True
    assert succeeded("info arrived", 0, True, {}) is False
    assert succeeded("own_envs:reached", 0, True, {"distance": 0}) is True
    assert succeeded("reported", 0, True, {"is_success": 1.0}) is True
    assert succeeded(None, 0, True, {"success": "maybe"}) is None
    with pytest.raises(ValueError, match="success by 'arrived' is 'yes', expected true or false"):
        succeeded("info arrived", 0, True, {"arrived": "yes"})


@pytest.mark.parametrize("criterion", ["return >= much", "looks good", "own_envs:nothing", "own_envs:REWARDS", "no_module:f"])
def test_a_criterion_that_cannot_be_applied_is_refused_at_once(criterion):
    with pytest.raises(ValueError, match="success"):
        check_criterion(criterion)


# -- looking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Line-v1", "DrawsChance-v0", "Bare-v0"])
def test_looking_changes_no_score(name, evaluated, monkeypatch):
    pytest.importorskip("av", reason="videos need PyAV: pip install 'opengato[lerobot]'")
    options = ("--episode_steps", "30", "--num_envs", "2")
    code, printed, plain = evaluated(name, *options)
    assert code == 0
    for looking in ("--films", "--videos"):
        code, printed, looked = evaluated(name, *options, looking, "true")
        assert code == 0 and looked["tasks"][0]["returns"] == plain["tasks"][0]["returns"]
        is_drawn = name != "Bare-v0"
        assert (looked["films" if looking == "--films" else "videos"].get(name) not in (None, {})) == is_drawn
        assert ("  no " in printed.out) == (not is_drawn)


@pytest.mark.parametrize("kind", kinds("FRAMES"))
def test_pictures_of_any_form_make_a_film_strip(kind, evaluated):
    code, _, results = evaluated(f"Draws{kind}-v0", "--films", "true", "--episode_steps", "5")
    assert code == 0 and list(results["films"]) == [f"Draws{kind}-v0"] and results["tasks"][0]["not_filmed"] == {}


@pytest.mark.parametrize("kind", kinds("NO_FRAMES"))
def test_what_is_no_picture_is_named_and_the_score_stands(kind, evaluated):
    code, printed, results = evaluated(f"Draws{kind}-v0", "--films", "true", "--episode_steps", "5")
    assert code == 0 and results["films"] == {} and results["tasks"][0]["score"] is not None
    assert "  no film strip: ValueError: render() gave " in printed.out


def test_colours_are_kept_whatever_holds_them():
    assert as_frame(np.full((2, 2, 3), 0.5))[0, 0, 0] == 128 and as_frame(np.full((2, 2), 7))[0, 0].tolist() == [7, 7, 7]
    first = np.zeros((3, 20, 30), np.uint8)
    first[1] = 9
    assert as_frame(first)[0, 0].tolist() == [0, 9, 0] and as_frame(first).shape == (20, 30, 3)


def test_an_environment_that_only_has_a_window_says_so(evaluated):
    code, printed, _ = evaluated("Bare-v0", "--films", "true", "--episode_steps", "5")
    assert code == 0 and "no film strip: RuntimeError: the environment of task 'Bare-v0' cannot be made: TypeError" in printed.out


def test_a_spec_of_an_own_environment_survives_json():
    task = envs.task("Everything-v0")
    assert TaskSpec.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_the_limit_under_which_both_returns_were_measured_is_the_tasks_own_from_then_on(tmp_path):
    config = CollectConfig(tasks=["Endless-v0"], expert="own_envs:Right", episodes=2, workers=0, episode_steps=5, out=tmp_path)
    collect(config)
    (task,) = Store(tmp_path / "Endless-v0").tasks
    assert task.episode_limit == 5
    (again,) = collect(CollectConfig(tasks=["Endless-v0"], expert="own_envs:Right", episodes=3, workers=0, episode_steps=5, out=tmp_path))
    assert again["timesteps"] == 15
