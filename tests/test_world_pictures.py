"""A world model of pictures: its symbols by hand, and runs through the loop that trains Gato."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from safetensors.torch import load_file

import gato
from gato import envs
from gato.cli import main
from gato.data.store import Store
from gato.envs.demonstrator import RandomExpert
from gato.envs.recording import expert_episode
from gato.eval.dream import measure
from gato.eval.dream.measure import Played, copy_last, one_step
from gato.learners.world.config import DreamConfig, PlayConfig, WorldConfig
from gato.learners.world.dynamics import NextSymbols
from gato.learners.world.learner import Dreamer, WorldLearner
from gato.learners.world.pictures import Autoencoder, Pictures, scene_of
from gato.train.metrics import read_metrics
from gato.train.recipe import TrainConfig
from gato.train.world.experience import Experience
from gato.train.world.recipe import WorldRecipe
from gato.train.world.windows import Windows
from tests.small_runs import small_run

RECIPE = """
learner: world-model
env: {task: WorldFall-v0, num_envs: 2, frames: 36, fill: 20, first_updates: 1, frames_per_update: 8}
model:
  {width: 16, num_layers: 1, num_heads: 2, memory: 3, policy_width: 8, groups: 4, classes: 3,
  stack: 2, picture_channels: 2, picture_width: 8}
dream: {window: 4, starts: 1, horizon: 2}
optim: {learning_rate: 0.01, warmup_steps: 0, weight_decay: 0.0, clip: 100.0}
train: {name: small, batch_size: 2, save_every: 2, threads: 1, device: cpu, keep: 9}
"""
SMALL = WorldConfig(
    width=16, num_layers=1, num_heads=2, memory=3, groups=4, classes=3, stack=2, picture_channels=2, picture_width=8, policy_width=8
)


class Fall(gymnasium.Env):
    """A white ball falls through four rows, in one of three of four columns: 1 for one that ends in the column of the last action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.column = 0, int(self.np_random.integers(3))
        return self.render(), {}

    def step(self, action):
        self.row += 1
        return self.render(), float(self.row == 3 and self.column == action), self.row == 3, False, {}

    def render(self):
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[16 * self.row : 16 * self.row + 16, 16 * self.column : 16 * self.column + 16] = 255
        return picture


gymnasium.register("WorldFall-v0", Fall)


@pytest.fixture(scope="module")
def task():
    return envs.task("WorldFall-v0")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Three updates: one of pictures and world model alone, two behind eight frames each; a checkpoint of the second."""
    return small_run(tmp_path_factory.mktemp("pictures"), RECIPE)


def windows(task, episodes: int = 6, config: WorldConfig = SMALL):
    scene = scene_of(task, config)
    found, env = Experience(scene), envs.make(task)
    for i in range(episodes):
        found.add(expert_episode(task, env, RandomExpert(), seed=i).episode("random"))
    recipe = WorldRecipe(
        model=config, dream=DreamConfig(window=4, starts=2, horizon=2), env=PlayConfig(first_updates=0), train=TrainConfig(batch_size=3)
    )
    torch.manual_seed(0)
    learner = WorldLearner(Dreamer(scene, config), recipe.dream)
    ((batch,),) = Windows(scene, found, recipe, None, "played").loader(range(1), 3, 3)
    return found, learner, batch


# -- runs ------------------------------------------------------------------------------------------------


def test_a_run_on_pictures_ends_in_a_policy_that_sees_the_pictures_before(run, task):
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["frames"] for line in lines] == [20, 28, 36] and all(line["picture_loss"] > 0 for line in lines)
    policy = gato.load(run / "final").policy("WorldFall-v0", temperature=0)
    ball, nothing = Fall.render(_at(1, 1)), np.zeros((64, 64, 3), np.uint8)
    policy.act({"observation": ball[None]})
    policy.act({"observation": nothing[None]}, first=np.array([False]))
    assert not policy.state()["state"].any()  # of two pictures that are seen together the one before the next
    policy.act({"observation": ball[None]}, first=np.array([False]))
    assert policy.state()["state"].shape == (1, 1, 64, 64) and policy.state()["state"].any()
    assert gato.evaluate(policy, episodes=2)["episodes"] == 2


def _at(row: int, column: int) -> Fall:
    found = Fall()
    found.row, found.column = row, column
    return found


def test_a_run_on_pictures_goes_on_bit_for_bit(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/small")
    shutil.copy(run.parents[1] / "small.yaml", ".")
    shutil.rmtree("runs/small/final")
    assert main(["pretrain", "small.yaml"]) == 0
    for file in ("model", "optimizer", "data"):
        mine, theirs = (load_file(folder / f"final/{file}.safetensors") for folder in (Path("runs/small"), run))
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[name].double(), theirs[name].double(), rtol=0, atol=0, equal_nan=True) for name in mine), file
    assert Store(run / "episodes").num_episodes == Store(Path("runs/small/episodes")).num_episodes


def test_a_dream_of_pictures_is_measured_drawn_and_played(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "HORIZONS", (1, 2))
    assert main(["dream", str(run / "final"), "--out", str(tmp_path / "dream"), "--episodes", "4", "--strips", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["one_step"]["copy last"]["picture_error"] == 2 / 16  # a ball left its square of sixteen for another one
    assert found["open_loop"][1].keys() >= {"picture_error", "copy_last_picture_error"} and found["open_loop"][0]["places"] == 4
    assert Image.open(found["strips"][0]).height > 128
    dream = pytest.importorskip("gato.serve.dream")
    games = dream.Games(gato.load(run / "final"))
    begun = games.begin(3)
    real, imagined = (np.array(begun[name]["cells"]) for name in ("real", "dream"))
    assert real.shape == imagined.shape == (64, 64) and set(real.flatten()) >= {0, 255} and len(begun["colours"]) == 256
    shown = [games.act(begun["game"], 1, False) for _ in range(3)]
    assert shown[-1]["real"]["over"] and not np.array_equal(shown[0]["real"]["cells"], real)
    games.close()


def test_what_is_neither_a_board_nor_a_picture_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    assert main(["pretrain", "small.yaml", "--env.task", "toy/corridor"]) == 2
    assert "or a single picture" in capsys.readouterr().err


def test_what_a_run_costs_is_counted_and_nothing_starts(tmp_path, monkeypatch, capsys):
    """Of 8 timesteps of windows and 4 imagined ones: actor and critic are three layers each, on 2 streams of 3 moments."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    assert main(["pretrain", "small.yaml", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["updates"], found["timesteps_per_update"]) == (3, {"windows": 8, "imagined": 4})
    assert found["flops_per_update"]["actor and critic"] == 3 * 2 * 6 * (2 * (12 * 8 + 8 * 8) + 8 * 3 + 8 * 1)
    assert found["parameters"]["eye"] == sum(p.numel() for p in Autoencoder(SMALL).parameters())
    assert found["stored_bytes"] == 36 * 64 * 64 and not Path("runs").exists()
    assert main(["pretrain", "small.yaml", "--dry-run"]) == 0 and "by assumption and not by measurement" in capsys.readouterr().out


@pytest.mark.parametrize("game", ["pong", "boxing", "freeway"])
def test_recipes_of_atari_differ_by_the_game_alone(game, capsys):
    pytest.importorskip("minatar")  # any pictures will do
    words = ["pretrain", f"world-model-{game}", "--env.task", "minatar/breakout", "--dry-run", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["frames"] == found["updates"] == 100_000 and found["timesteps_per_update"] == {"windows": 1600, "imagined": 6000}


# -- symbols ---------------------------------------------------------------------------------------------


def test_pictures_are_seen_grey_and_with_those_before_in_the_same_episode(task):
    found, _, _ = windows(task)
    window = found.windows(np.array([1]), 4)["cells"][0]  # timesteps 1 and 2 of the first episode, 0 to 2 of the second
    assert window.shape == (5, 2, 64, 64)
    rows = [[int(picture.mean(axis=1).argmax()) // 16 for picture in stack] for stack in window]
    assert rows == [[0, 1], [1, 2], [0, 0], [0, 1], [1, 2]]


def test_symbols_are_those_of_acting(task):
    """What the policy sees of an episode timestep by timestep is what training and the report make of it."""
    _, learner, _ = windows(task)
    model = learner.model
    episode = expert_episode(task, envs.make(task), RandomExpert(), seed=0).episode("random")
    played = Played.of(model, episode, 0.99)
    state, values = model.start(1), []
    for t in range(3):
        observed = {"observation": episode.observations["observation"][[t]]}
        seen = {name: torch.from_numpy(v) for name, v in model.scene.arrays(observed).items()}
        _, value, state = model.step(seen, state, torch.tensor([t == 0]))
        values.append(value)
    torch.testing.assert_close(torch.cat(values), model.policy(played.cells)[1])


def test_cross_entropy_of_symbols_is_that_of_a_hand_and_they_are_drawn_as_said():
    symbols = torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]).log()
    ahead = NextSymbols(symbols, torch.zeros(1), torch.zeros(1))
    truth = torch.tensor([[[1.0, 0.0], [0.25, 0.75]]])
    assert float(ahead.nll(truth)) == pytest.approx(np.log(4 / 3) + np.log(2))
    assert ahead.draw(None)[0, 0].tolist() == [1.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([ahead.draw(torch.rand(1, 9, generator=generator)) for _ in range(400)])
    assert bool((drawn.sum(dim=-1) == 1).all()) and 270 < float(drawn[:, 0, 0, 0].sum()) < 330


def test_the_autoencoder_gets_a_gradient_of_pictures_alone(task):
    _, learner, batch = windows(task)
    loss, sums = learner(batch)
    loss.backward()
    grads = [p.grad.clone() for p in learner.model.eye.parameters()]
    assert all(p.grad is not None for p in learner.model.parameters())
    learner.zero_grad()
    learner.config = replace(learner.config, next_weight=0.0, reward_weight=0.0, discount_weight=0.0)
    learner(replace(batch, starts=batch.starts[:, :0]))[0].backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, learner.model.eye.parameters(), strict=True))
    assert not any(p.grad.any() for p in learner.model.world.parameters())
    assert {"picture_loss", "symbol_loss"} <= sums.keys()


def test_symbols_without_entropy_are_pushed_apart_and_foreseen_ones_cost_little():
    eye = Autoencoder(SMALL)
    stacks = torch.zeros(1, 2, 64, 64, dtype=torch.uint8)
    sure = torch.tensor([[[50.0, 0.0, 0.0]] * 4])
    noise = torch.full((1, 12), 0.5)
    alike, other = (eye.loss(stacks, sure, noise, f, torch.tensor([True]))["symbol_loss"] for f in (sure, sure.roll(1, dims=-1)))
    assert float(alike) == pytest.approx(5 * 0.1) and float(other) == pytest.approx(0.5 + 0.01 * 4 * 50)
    assert float(eye.loss(stacks, sure, noise, sure.roll(1, dims=-1), torch.tensor([False]))["symbol_loss"]) == pytest.approx(0.5)


def test_copy_last_of_pictures_says_symbols_by_how_often_they_changed(task):
    """One group of three classes, 0 0 1: of two that are followed one changes."""
    scene = Pictures(task, replace(SMALL, groups=1))
    symbols = torch.eye(3)[[0, 0, 1]][:, None]
    pictures = torch.zeros(3, 64, 64, dtype=torch.uint8)
    played = Played(symbols, torch.zeros(3, 1), torch.zeros(3), torch.zeros(3), torch.tensor([1.0, 1.0, 0.0]), pictures)
    found = copy_last(scene, [played])
    assert found["next_nats"] == pytest.approx((np.log(2) + np.log(4)) / 2) and found["wrong_cells"] == 0.5
    assert found["picture_error"] == 0


@pytest.mark.slow
def test_a_few_hundred_updates_on_minatars_pictures_beat_copy_last():
    pytest.importorskip("minatar")
    task = envs.task("minatar/breakout")
    config = WorldConfig(width=64, num_layers=1, num_heads=2, memory=4, stack=1, picture_channels=8, picture_width=64)
    scene = scene_of(task, config)
    found, env = Experience(scene), envs.make(task)
    episodes = [expert_episode(task, env, RandomExpert(), seed=i).episode("random") for i in range(60)]
    for episode in episodes[:50]:
        found.add(episode)
    recipe = WorldRecipe(model=config, dream=DreamConfig(window=8), env=PlayConfig(first_updates=10**6), train=TrainConfig(batch_size=8))
    torch.manual_seed(0)
    learner = WorldLearner(Dreamer(scene, config), recipe.dream)
    optimizer = torch.optim.Adam(learner.model.parameters(), lr=1e-3, eps=1e-5)
    for (batch,) in Windows(scene, found, recipe, None, "played").loader(range(600), 8, 8):
        optimizer.zero_grad()
        learner(batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(learner.model.eye.parameters(), 100.0)
        optimizer.step()
    learner.eval()
    held_out = [Played.of(learner.model, episode, 0.99) for episode in episodes[50:]]
    model, last = one_step(learner.model, held_out), copy_last(scene, held_out)
    assert last["wrong_cells"] > 1  # the symbols tell what moves
    assert model["next_nats"] < last["next_nats"] and model["picture_error"] < last["picture_error"], (model, last)
