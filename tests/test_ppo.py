"""Acting learned by doing: PPO through the loop that trains Gato, its checkpoints, and its arithmetic."""

import json
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import gato
from benchmarks import resume
from benchmarks.acting import learning, memory_table
from benchmarks.resume import Run
from gato import envs
from gato.cli import main
from gato.data.collection.attempt import load_expert
from gato.data.collection.policy_expert import policy_name
from gato.data.store import Store
from gato.envs.recording import Recording, episode_seed
from gato.envs.stream import EpisodeLimits
from gato.envs.vector import VectorEnv
from gato.learners.ppo.advantage import advantages
from gato.learners.ppo.choices import ActionChoices
from gato.learners.ppo.config import MEMORIES, EnvConfig, NetworkConfig, PPOConfig
from gato.learners.ppo.network import ActorCritic
from gato.learners.ppo.observations import Words
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.train.metrics import read_metrics
from gato.train.ppo.measures import Measures
from gato.train.ppo.recipe import PPORecipe
from gato.train.ppo.setup import set_up
from gato.train.recipe import TrainConfig
from tests.small_runs import refusal, small_run

RECIPE = """
learner: ppo
env: {task: gymnasium/cartpole, num_envs: 4, frames: 96, eval_every: 5, eval_episodes: 3}
model: {width: 8, memory: gru, memory_width: 6, normalise: true}
ppo: {rollout: 8, span: 4, epochs: 2}
optim: {learning_rate: 0.01, warmup_steps: 0, weight_decay: 0.0}
train: {name: small, batch_size: 4, micro_batch_size: 2, save_every: 5, threads: 1, device: cpu, keep: 9}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Twelve updates on three rollouts of CartPole, checkpoints of 5 and 10 of them beside the last."""
    return small_run(tmp_path_factory.mktemp("ppo"), RECIPE)


def rollouts(task: str = "toy/corridor", length: int = 16, reward_scale: float = 1.0, **network: object):
    """A new learner, and its first update's batch in one piece."""
    config = PPORecipe(
        env=EnvConfig(task, num_envs=3, frames=96, reward_scale=reward_scale), model=NetworkConfig(width=8, memory_width=8, **network),
        ppo=PPOConfig(rollout=length, span=4), train=TrainConfig(batch_size=12),
    )  # fmt: skip
    setup = set_up(config, "cpu")
    ((batch,),) = setup.batches.loader(range(1), 12, 12)
    setup.batches.close()
    return setup, batch


# -- a run -----------------------------------------------------------------------------------------------


def test_a_run_counts_frames_and_ends_in_a_policy(run):
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["frames"] for line in lines] == [32] * 4 + [64] * 4 + [96] * 4
    policy = gato.load(run / "final").policy("gymnasium/cartpole")
    assert gato.evaluate(policy, episodes=3)["episodes"] == 3


def test_an_episode_goes_as_its_number_says_whatever_began_before_it(run):
    policy, seen = gato.load(run / "final").policy("gymnasium/cartpole", temperature=3.0), {"observation": np.full((1, 4), 0.1, np.float32)}
    for _ in range(3):  # numbers 0 to 2
        policy.act(seen, first=np.array([True]))
    expected = [int(policy.act(seen, first=np.array([t == 0]))["action"][0]) for t in range(20)]
    policy.begin(0, 3)
    assert [int(policy.act(seen, first=np.array([False]))["action"][0]) for t in range(20)] == expected and len(set(expected)) == 2


def test_a_state_knows_which_streams_have_been_told_to_begin():
    """What was seen so far is forgotten at the first timestep of the new episode, and not before."""
    task = envs.task("toy/corridor")
    model = ActorCritic(task, NetworkConfig(width=8, memory="gru", memory_width=8), Words(()))
    policy, other = (gato.learners.ppo.agent.PPOAgent(model).policy(task) for _ in range(2))

    def value(policy, cell: int) -> float:
        policy.act({"observation": np.array([cell])}, first=np.array([not policy.has_begun(0)]))
        return float(policy.value)

    anew = value(policy, 2)
    value(policy, 4)
    policy.begin(0, 1)
    other.load_state(policy.state())
    assert value(policy, 2) == value(other, 2) == anew != value(policy, 2)


def test_episodes_are_played_beside_training_and_after_its_last_update(run):
    lines = {line["step"]: line for line in read_metrics(run / "metrics.jsonl")}
    assert [step for step, line in lines.items() if "eval_return" in line] == [5, 10, 12]
    assert all(lines[step]["eval_episodes"] == 3 and lines[step]["eval_failed"] == 0 for step in (5, 10, 12))
    policy = gato.load(run / "final").policy("gymnasium/cartpole")
    recordings = [Recording(policy.task, envs.make(policy.task), episode_seed("beside", 0, i)) for i in range(3)]
    for i, recording in enumerate(recordings):  # one after the other, whose draws have the numbers 0, 1, 2
        policy.begin(0, i)
        while not recording.done:
            recording.step({name: v[0] for name, v in policy.act(recording.observation, first=np.array([False])).items()})
    assert lines[12]["eval_return"] == np.mean([recording.total_reward for recording in recordings])


@pytest.mark.parametrize(("step", "every"), [(5, "5"), (10, "0")])
def test_a_run_goes_on_from_the_middle_of_a_rollout_bit_for_bit(run, step, every, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/small")
    shutil.copy(run.parents[1] / "small.yaml", ".")
    for name in {"final", "step-5", "step-10"} - {f"step-{step}"}:
        shutil.rmtree(f"runs/small/{name}")
    assert main(["pretrain", "small.yaml", "--env.eval_every", every]) == 0  # what is played beside it leaves no trace
    for file in ("model", "optimizer", "data"):
        mine, theirs = (load_file(folder / f"final/{file}.safetensors") for folder in (Path("runs/small"), run))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    mine, theirs = (read_metrics(folder / "metrics.jsonl") for folder in (Path("runs/small"), run))
    assert [line["loss"] for line in mine] == [line["loss"] for line in theirs]
    assert mine[-1]["episode_return"] == theirs[-1]["episode_return"]
    assert mine[-1].get("eval_return") == (theirs[-1]["eval_return"] if step == 5 else None)


def test_a_run_may_begin_with_what_another_has_learned(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(run.parents[1] / "small.yaml", ".")
    words = ["pretrain", "small.yaml", "--train.name", "more", "--ppo.start", str(run / "final"), "--optim.learning_rate", "1e-9"]
    assert main([*words, "--env.frames", "32"]) == 0
    before, after = (load_file(folder / "final/model.safetensors") for folder in (run, Path("runs/more")))
    for name, value in before.items():
        assert torch.allclose(value, after[name], atol=1e-2 if name in ("encoder.mean", "encoder.spread") else 1e-6), name
    assert "has model.width 8; give the same" in refusal(capsys, *words, "--model.width", "16")
    assert "of 'gymnasium/cartpole', from which 'toy/corridor' differs" in refusal(capsys, *words, "--env.task", "toy/corridor")
    assert "the folder does not exist" in refusal(capsys, "pretrain", "small.yaml", "--ppo.start", "nowhere")


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit_and_two_ranks_give_the_losses_of_one(run, tmp_path):
    alone = Run(tmp_path, run.parents[1])
    killed, two = (Run(tmp_path, tmp_path / name, recipe=RECIPE) for name in ("killed", "two"))
    assert killed.start(sabotage=(resume.killed_at, 8)).wait() == [-9]
    killed.finish()
    assert resume.distance(alone, killed) == (0.0, 0.0)
    assert two.start(2, sabotage=(resume.killed_at, 8)).wait() == [-9, -9]
    two.finish(2)
    assert two.losses() == pytest.approx(alone.losses(), rel=1e-5, abs=1e-5)
    assert resume.distance(alone, two)[1] < 1e-4


def test_a_run_does_not_go_on_with_another_number_of_environments(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(run.parents[1])
    line = refusal(capsys, "pretrain", "small.yaml", "--env.num_envs", "8")
    assert "env.num_envs was 4, now 8" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--train.batch_size", "3"], "a rollout has 8 rows"),
        (["--ppo.span", "3"], "ppo.rollout is 8, not a multiple of ppo.span, 3"),
        (["--train.steps", "7"], "env.frames is 96, which takes 12 updates, and train.steps is 7"),
        (["--train.seconds", "9"], "PPO counts frames"),
        (["--train.deepspeed", "zero1"], "train.deepspeed is zero1"),
        (["--env.task", "toy/corridr"], "did you mean 'toy/corridor'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(options, said, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(run.parents[1] / "small.yaml", ".")
    assert said in refusal(capsys, "pretrain", "small.yaml", *options)
    assert not (tmp_path / "runs").exists()


def test_frames_to_enough_success_and_the_area_under_it_are_read_off_the_metrics(tmp_path):
    points = {10: (1.0, 3), 20: (0.5, 100), 40: (0.8, 120), 50: (0.6, 150)}
    lines = [{"step": i, "frames": n, "success": share, "episodes": of} for i, (n, (share, of)) in enumerate(points.items())]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [{"step": 0, "frames": 5}, *lines]))
    area = pytest.approx((0.5 * 10 + 0.8 * 20 + 0.6 * 10) / 50)
    assert learning(tmp_path) == {"to_80": 40, "to_90": float("inf"), "area": area}
    same = {"variant": "lstm", "parameters": 12, "updates": 7, "area": 0.5, "success a": 1.0}
    rows = [{**same, "seed": i, "to_80": t} for i, t in enumerate((40.0, float("inf"), 50.0))]
    assert memory_table(rows, ["a"]).splitlines()[1] == (
        "lstm | 12 | 7 | 3 | 2 of 3 | 50 [40, inf] | 0.500 [0.500, 0.500] | 0.000 [0.000, 0.000] | 1.000 [1.000, 1.000]"
    )


# -- demonstrations -----------------------------------------------------------------------------------------


def test_a_policy_becomes_demonstrations_that_repeat_and_is_called_a_learner_while_it_plays_badly(run, tmp_path, capsys):
    found = []
    for name in ("one", "two"):
        assert main(["data", "collect", "--policy", str(run), "--episodes", "3", "--workers", "0", "--out", str(tmp_path / name)]) == 0
        found.append(Store(tmp_path / name / "gymnasium/cartpole"))
    assert "learner" in capsys.readouterr().out
    assert set(found[0].behaviours) == {"learner"} and found[0].num_episodes == 3
    for i in range(3):
        mine, theirs = (store.episode(i) for store in found)
        assert mine.actions["action"].tolist() == theirs.actions["action"].tolist()
    assert len({episode.actions["action"].tobytes() for episode in map(found[0].episode, range(3))}) == 3


def test_a_collection_does_not_go_on_with_other_weights(run, tmp_path, capsys):
    name = policy_name(run / "step-5", "learner")
    assert name != policy_name(run / "final", "learner").replace("final", "step-5")
    with pytest.raises(ValueError, match="holds other weights"):
        load_expert("gymnasium/cartpole", name.replace("step-5", "final"))
    words = ["data", "collect", "--policy", str(run), "--expert", "random"]
    assert "are both given; who is to play?" in refusal(capsys, *words)


# -- environments ----------------------------------------------------------------------------------------


class Moody(gymnasium.Env):
    """Shows 0 and pays 1; `mood` says what is wrong with it at its third step."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(2)

    def __init__(self, mood: str, always: bool = False) -> None:
        self.mood, self.always, self.count = mood, always, 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        if self.count == 3:
            if self.mood == "raises":
                raise KeyError("motor")
            return np.zeros(1, np.float32), float("nan") if self.mood == "pays NaN" else 1e30, False, False, {}
        return np.zeros(1, np.float32), 1.0, self.count == 2 and not self.always and action == 1, False, {}


@pytest.fixture
def moody():
    gymnasium.register("Moody-v0", Moody)
    yield "Moody-v0"
    del gymnasium.registry["Moody-v0"]


@pytest.mark.parametrize("mood", ["raises", "pays NaN"])
def test_a_timestep_that_failed_counts_for_nothing_and_training_goes_on(mood, moody, caplog, monkeypatch):
    monkeypatch.setattr(gymnasium.registry[moody], "kwargs", {"mood": mood})
    envs.task.cache_clear()
    setup, batch = rollouts(moody)
    assert 0 < batch.weight.sum() < 48 and setup.batches.num_failed == 48 - batch.weight.sum()
    assert "failed: " in caplog.text and "it goes on with the next episode" in caplog.text
    loss, sums = setup.learner(batch)
    assert torch.isfinite(loss) and sums["targets"] == batch.weight.sum()


def test_an_environment_that_always_fails_ends_the_run_and_is_not_told_without_end(moody, caplog, monkeypatch):
    monkeypatch.setattr(gymnasium.registry[moody], "kwargs", {"mood": "raises", "always": True})
    envs.task.cache_clear()
    with pytest.raises(RuntimeError, match=r"10 episodes in a row failed, the last in environment 0 of 'Moody-v0'.*KeyError: 'motor'"):
        rollouts(moody, length=32)
    assert caplog.text.count("it goes on with the next episode") == 5 and caplog.text.count("not told one by one") == 1


def test_rewards_that_no_critic_can_learn_are_refused_with_the_scale_that_would_help(moody, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(gymnasium.registry[moody], "kwargs", {"mood": "pays 1e30"})
    monkeypatch.chdir(tmp_path)
    envs.task.cache_clear()
    (tmp_path / "small.yaml").write_text(RECIPE.replace("gymnasium/cartpole", moody))
    said = refusal(capsys, "pretrain", "small.yaml")
    assert "'Moody-v0' pays a reward of 1e+30" in said and "set env.reward_scale so that rewards are near 1, here about 1e-30" in said
    setup, batch = rollouts(moody, reward_scale=1e-30)
    assert batch.returns.abs().max() < 10 and torch.isfinite(setup.learner(batch)[0])


def test_environments_side_by_side_have_episodes_of_their_own_and_repeat_them():
    task = envs.task("toy/corridor")
    one, two = (VectorEnv(task, range(3), 0, EpisodeLimits()) for _ in range(2))
    one.begin()
    left = {"action": np.zeros(3, np.int64)}
    for _ in range(5):
        one.step(left)
    for i in range(3):
        assert two.replay(i, 0, [{"action": np.int64(0)}] * 5)
    assert one.observation()["observation"].tolist() == two.observation()["observation"].tolist()
    one.close(), two.close()


# -- arithmetic ------------------------------------------------------------------------------------------


def test_advantages_are_summed_surprises_up_to_the_end_of_the_episode():
    rewards, values = np.array([[1.0], [0.0], [2.0]]), np.array([[0.5], [1.0], [0.25]])
    ended = np.array([[False], [True], [False]])
    found = advantages(rewards, values, np.array([4.0]), ended, gamma=0.5, gae_lambda=0.5)
    last = 2 + 0.5 * 4 - 0.25
    assert found[:, 0].tolist() == [1 + 0.5 * 1 - 0.5 + 0.25 * (0 - 1), -1.0, last]


@torch.no_grad()
def test_a_truncated_episode_is_worth_what_would_have_come():
    setup, _ = rollouts()
    batches, model = setup.batches, setup.learner.model
    whole = {name: values.copy() for name, values in batches.rollout.items()}
    assert np.allclose(whole["returns"], whole["advantage"] + whole["value"])
    step = type("Step", (), {})
    step.reward, step.truncated, step.failed = np.zeros(3, np.float32), np.array([False, True, False]), np.zeros(3, bool)
    step.final, step.results = {"observation": np.array([0, 3, 1])}, [None] * 3
    env = type("Envs", (), {"episodes": {0: 1, 1: 1, 2: 1}, "indices": [0, 1, 2]})
    row = batches._outcome(env, step, torch.zeros(3, 0))
    _, value, _ = model.step({"observation": torch.tensor([3])}, torch.zeros(1, 0), torch.tensor([False]))
    assert row["reward"].tolist() == pytest.approx([0.0, 0.99 * float(value), 0.0])


@pytest.mark.parametrize("memory", MEMORIES)
def test_before_the_first_update_new_and_old_probabilities_agree(memory):
    setup, batch = rollouts(memory=memory)
    _, sums = setup.learner(batch)
    model = setup.learner.model
    outputs, value, _ = model(batch.observations, batch.state, batch.first)
    ratio = (model.choices.log_prob(outputs, model.log_deviation, batch.actions) - batch.log_prob).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    assert float(sums["clipped"]) == 0
    torch.testing.assert_close(value, batch.value, atol=1e-6, rtol=1e-5)
    assert batch.advantage.mean().abs() < 1e-6 and batch.advantage.std(correction=0) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_parameter_learns(memory):
    setup, batch = rollouts(memory=memory)
    loss, _ = setup.learner(batch)
    loss.backward()
    still = [name for name, p in setup.learner.named_parameters() if p.numel() and (p.grad is None or not p.grad.abs().sum())]
    assert still == []


def test_a_discrete_action_has_the_probability_of_its_logit_and_a_number_that_of_its_bell():
    turn = FieldSpec("turn", Modality.DISCRETE, "action", (2,), "int64", low=(1.0, 5.0), high=(3.0, 6.0))
    force = FieldSpec("force", Modality.CONTINUOUS, "action", (), low=(-2.0,), high=(4.0,))
    seen = FieldSpec("seen", Modality.CONTINUOUS, "observation", (1,))
    choices = ActionChoices(TaskSpec("toy/both", (turn, force, seen)))
    outputs, log_deviation = torch.tensor([[0.5, 1.0, 2.0, 3.0, 0.0, 1.0, 99.0]]), torch.tensor([0.3])
    action = torch.tensor([[0.9, 2.0, 1.0]])
    bell = torch.distributions.Normal(0.5, torch.tensor(0.3).exp())
    first, second = (torch.distributions.Categorical(logits=torch.tensor(logits)) for logits in ([1.0, 2.0, 3.0], [0.0, 1.0]))
    expected = bell.log_prob(torch.tensor(0.9)) + first.log_prob(torch.tensor(2)) + second.log_prob(torch.tensor(1))
    assert float(choices.log_prob(outputs, log_deviation, action)) == pytest.approx(float(expected))
    entropy = bell.entropy() + first.entropy() + second.entropy()
    assert float(choices.entropy(outputs, log_deviation)) == pytest.approx(float(entropy))
    assert choices.decode(action.numpy())["turn"].tolist() == [[3, 6]] and choices.decode(action.numpy())["force"] == pytest.approx(3.7)
    noise = torch.from_numpy(choices.noise(np.random.default_rng(0), 4000))
    drawn = choices.choose(outputs.expand(4000, -1), log_deviation, noise)
    assert float((drawn[:, 1] == 2).float().mean()) == pytest.approx(float(first.probs[2]), abs=0.03)
    assert float((drawn[:, 2] == 1).float().mean()) == pytest.approx(float(second.probs[1]), abs=0.03)
    assert float(drawn[:, 0].std()) == pytest.approx(float(bell.stddev), rel=0.05)


def test_what_was_seen_so_far_has_one_mean_and_deviation_however_it_came():
    values = np.random.default_rng(0).normal(3, 2, (50, 2))
    measures = Measures(2)
    assert [part.tolist() for part in measures()] == [[0, 0], [1, 1]]
    for part in (values[:7], values[7:8], values[8:]):
        measures.add(part)
    mean, deviation = measures()
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(deviation, values.std(axis=0))


# -- instructions ----------------------------------------------------------------------------------------


def test_a_word_that_training_never_showed_is_named():
    pytest.importorskip("minigrid")
    task = envs.task("babyai-symbolic/go-to-obj-s4")
    model = ActorCritic(task, NetworkConfig(width=8, channels=4), Words.of(["go to the red ball"]))
    policy = gato.learners.ppo.agent.PPOAgent(model).policy("babyai-symbolic/go-to-local")
    seen = {"cells": np.zeros((1, 7, 7), np.int16), "direction": np.zeros(1, np.int64), "mission": np.array(["go to the red key"], object)}
    with pytest.raises(ValueError, match="'go to the red key', but training on 'babyai-symbolic/go-to-obj-s4' never showed the word 'key'"):
        policy.act(seen)
    seen["mission"][0] = "go to the ball"
    assert policy.act(seen)["action"].shape == (1,)


def test_an_instruction_changes_what_is_done_and_a_task_that_looks_otherwise_is_refused():
    pytest.importorskip("minigrid")
    task = envs.task("babyai-symbolic/go-to-obj-s4")
    words = Words.of(["go to the red ball", "go to the grey key"])
    model = ActorCritic(task, NetworkConfig(width=8, channels=4), words)
    cells, direction = torch.ones(2, 7, 7, dtype=torch.int16), torch.zeros(2, dtype=torch.int64)
    missions = torch.from_numpy(words.ids(["go to the red ball", "go to the grey key"]))
    outputs, *_ = model.step({"cells": cells, "direction": direction, "mission": missions}, model.start(2), torch.ones(2, dtype=torch.bool))
    assert (outputs[0] != outputs[1]).all()
    with pytest.raises(ValueError, match="differs from 'babyai-symbolic/go-to-obj-s4'"):
        gato.learners.ppo.agent.PPOAgent(model).task("toy/corridor")


def test_a_folder_that_does_not_fit_together_is_refused(run, tmp_path, capsys):
    shutil.copytree(run / "final", tmp_path / "final")
    path = tmp_path / "final/gato.json"
    content = json.loads(path.read_text())
    content["model"]["memory"] = "lstm"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="gato.json"):
        gato.load(tmp_path / "final")
    with pytest.raises(ValueError, match="these are not the weights that were saved"):
        gato.load(tmp_path / "final", verify=False)
