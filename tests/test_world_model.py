"""A world model of a board of cells and the policy that learns in it: its parts by hand, and runs through the loop that trains Gato."""

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
from gato.data.prefix import keep_episodes
from gato.data.store import Store, StoreWriter
from gato.data.video import video_facts
from gato.envs.demonstrator import RandomExpert
from gato.envs.recording import expert_episode
from gato.eval.dream import measure
from gato.eval.dream.measure import Played, copy_last
from gato.layers.transformer import Transformer
from gato.learners.ppo.advantage import advantages as of_ppo
from gato.learners.world.board import Board
from gato.learners.world.config import DreamConfig, PlayConfig, WorldConfig
from gato.learners.world.dynamics import Next, WorldModel
from gato.learners.world.learner import Dreamer, WorldLearner
from gato.learners.world.returns import advantages, weights
from gato.train.metrics import read_metrics
from gato.train.recipe import TrainConfig
from gato.train.world.experience import Experience
from gato.train.world.play import Player
from gato.train.world.recipe import WorldRecipe
from gato.train.world.windows import Windows
from tests.small_runs import refusal, small_run

RECIPE = """
learner: world-model
env: {task: WorldCatch-v0, num_envs: 2, frames: 80, fill: 40, first_updates: 2, frames_per_update: 8, explore: 0.2}
model: {width: 16, num_layers: 2, num_heads: 2, memory: 3, channels: 4, outcomes: 2, policy_width: 8}
dream: {window: 4, starts: 2, horizon: 3}
optim: {learning_rate: 0.01, warmup_steps: 0, weight_decay: 0.0, clip: 100.0}
train: {name: small, batch_size: 4, save_every: 3, threads: 1, device: cpu, keep: 9}
"""
SMALL = WorldConfig(width=16, num_layers=2, num_heads=2, memory=3, channels=4, outcomes=2, policy_width=8)


class Catch(gymnasium.Env):
    """A ball falls from the first of four rows, a paddle moves in the last: 1 for a ball that is caught."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = spaces.MultiBinary((4, 3, 2))
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.column, self.paddle = 0, int(self.np_random.integers(3)), 1
        return self.seen(), {}

    def seen(self):
        cells = np.zeros((4, 3, 2), np.int8)
        cells[self.row, self.column, 0] = cells[3, self.paddle, 1] = 1
        return cells

    def step(self, action):
        self.paddle = min(max(self.paddle + int(action) - 1, 0), 2)
        self.row += 1
        return self.seen(), float(self.row == 3 and self.column == self.paddle), self.row == 3, False, {}

    def render(self):
        return np.zeros((64, 64, 3), np.uint8)


gymnasium.register("WorldCatch-v0", Catch)


@pytest.fixture(scope="module")
def task():
    return envs.task("WorldCatch-v0")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Seven updates: two of the world model alone, then five behind eight frames each; checkpoints of 3 and 6 beside the last."""
    return small_run(tmp_path_factory.mktemp("world"), RECIPE)


def same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    """To the bit, NaN where nobody says whether an episode succeeded."""
    return mine.shape == theirs.shape and torch.allclose(mine.double(), theirs.double(), rtol=0, atol=0, equal_nan=True)


def experience(task, episodes: int = 12) -> Experience:
    """Episodes of three timesteps each, of random actions."""
    found, env = Experience(Board(task)), envs.make(task)
    for i in range(episodes):
        found.add(expert_episode(task, env, RandomExpert(), seed=i).episode("random"))
    return found


def windows(task, config: WorldConfig = SMALL, **dream):
    """A learner and batches of a window of eight timesteps."""
    recipe = WorldRecipe(
        model=config, dream=DreamConfig(**{"window": 8, "starts": 3, "horizon": 2, **dream}), env=PlayConfig(first_updates=0),
        train=TrainConfig(batch_size=4),
    )  # fmt: skip
    torch.manual_seed(0)
    learner = WorldLearner(Dreamer(Board(task), config), recipe.dream)
    ((batch,),) = Windows(Board(task), experience(task), recipe, None, "played").loader(range(1), 4, 4)
    return learner, batch


def states(world: WorldModel, batch) -> torch.Tensor:
    cells = batch.cells[:, :-1].float()
    return world(world.embed(cells, batch.actions, batch.before), batch.episode)


# -- runs ------------------------------------------------------------------------------------------------


def test_a_run_counts_frames_and_ends_in_a_policy(run):
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["frames"] for line in lines] == [40, 40, 48, 56, 64, 72, 80]
    assert "policy_loss" not in lines[1] and "policy_loss" in lines[2]
    policy = gato.load(run / "final").policy("WorldCatch-v0")
    assert gato.evaluate(policy, episodes=3)["episodes"] == 3


def test_what_was_played_is_a_store_of_whole_episodes(run, capsys):
    store = Store(run / "episodes")
    assert store.num_episodes == 26 and set(store.lengths) == {3}  # of 80 frames in two environments the last two are under way
    assert list(store.behaviours).count("random") == 12 and set(store.behaviours) == {"random", "learner"}
    assert main(["data", "validate", str(run / "episodes")]) == 0


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_goes_on_bit_for_bit(run, step, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/small")
    shutil.copy(run.parents[1] / "small.yaml", ".")
    for name in {"final", "step-3", "step-6"} - {f"step-{step}"}:
        shutil.rmtree(f"runs/small/{name}")
    assert main(["pretrain", "small.yaml"]) == 0
    for file in ("model", "optimizer", "data"):
        mine, theirs = (load_file(folder / f"final/{file}.safetensors") for folder in (Path("runs/small"), run))
        assert mine.keys() == theirs.keys() and all(same(mine[name], theirs[name]) for name in mine)
    mine, theirs = (Store(folder / "episodes") for folder in (Path("runs/small"), run))
    assert mine.num_episodes == theirs.num_episodes and np.array_equal(mine.returns, theirs.returns)


def test_a_run_does_not_go_on_with_other_episodes(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/small")
    shutil.copy(run.parents[1] / "small.yaml", ".")
    shutil.rmtree("runs/small/final")
    shutil.rmtree("runs/small/episodes")
    store, env = Store(run / "episodes"), envs.make("WorldCatch-v0")
    needed = int(load_file("runs/small/step-6/data.safetensors")["play.counts"][3])
    assert f"but {needed} of its episodes are needed" in refusal(capsys, "pretrain", "small.yaml")
    with StoreWriter("runs/small/episodes", store.tasks) as writer:
        for i in range(needed):
            writer.append(expert_episode(store.tasks[0], env, RandomExpert(), seed=i).episode("random"))
    assert "are not those that the checkpoint was trained on" in refusal(capsys, "pretrain", "small.yaml")


def test_stored_episodes_alone_teach_too(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    offline = "\n".join(line for line in RECIPE.splitlines() if not line.startswith("env:")) + "\n"
    env = "env: {first_updates: 1, eval_every: 3, eval_episodes: 2}"
    Path("offline.yaml").write_text(offline + f"data: {{sources: {{played: {{store: {run / 'episodes'}}}}}}}\n{env}\n")
    words = ["pretrain", "offline.yaml", "--train.steps", "3", "--train.name", "offline"]
    assert main(words) == 0
    played = read_metrics(Path("runs/offline/metrics.jsonl"))[-1]
    assert (played["eval_episodes"], played["eval_failed"], played["eval_length"]) == (2, 0, 3)  # in an environment, beside training
    assert gato.load("runs/offline/final").tasks.keys() == {"WorldCatch-v0"} and not Path("runs/offline/episodes").exists()
    assert "leave out the other" in refusal(capsys, *words, "--env.task", "WorldCatch-v0")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env.task", "toy/corridor"], "a world model learns a single board of 0 and 1"),
        (["--train.micro_batch_size", "2"], "advantages are measured over all 4 rows"),
        (["--train.steps", "9"], "which takes 7 updates, and train.steps is 9"),
        (["--model.width", "18"], "expected a multiple of twice the heads"),
        (["--model.tokens", "two"], "one of one, parts"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    assert said in refusal(capsys, "pretrain", "small.yaml", *words)
    assert not Path("runs").exists()


def test_a_folder_that_does_not_fit_together_is_refused(run, tmp_path):
    shutil.copytree(run / "final", tmp_path / "final")
    path = tmp_path / "final/gato.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"gamma": "much"}))
    with pytest.raises(ValueError, match="gamma is 'much'"):
        gato.load(tmp_path / "final", verify=False)
    content["model"]["width"] = 32
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="these are not the weights that were saved"):
        gato.load(tmp_path / "final", verify=False)


def test_acting_calls_no_transformer(run, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("the transformer was called")

    monkeypatch.setattr(Transformer, "forward", refused)
    agent = gato.load(run / "final")
    policy = agent.policy("WorldCatch-v0")
    seen = {"observation": np.zeros((2, 4, 3, 2), np.int8)}
    assert policy.act(seen)["action"].shape == (2,)
    with pytest.raises(AssertionError, match="was called"):
        agent.model.world.transformer(torch.zeros(1, 1, 16))


# -- the world model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["rope", "transformer_xl"])
@pytest.mark.parametrize(("tokens", "reward"), [("one", True), ("parts", True), ("parts", False)])
def test_timestep_by_timestep_with_memory_equals_one_masked_pass(task, tokens, reward, positions):
    """Eight timesteps of one episode, of which a layer sees three: memory forgets what the mask hides."""
    learner, batch = windows(task, replace(SMALL, tokens=tokens, reward_token=reward, positions=positions))
    world = learner.model.world
    batch = replace(batch, episode=torch.zeros_like(batch.episode))
    whole = states(world, batch)
    embedded = world.embed(batch.cells[:, :-1].float(), batch.actions, batch.before)
    memory = world.remember(4, 3)
    found = [memory.step(embedded[:, :3], np.array([1, 2, 3, 2]))]  # of each its first timesteps at once, as many as it is said to have
    torch.testing.assert_close(found[0], torch.stack([whole[i, n - 1] for i, n in enumerate((1, 2, 3, 2))]))
    memory = world.remember(4, 1)
    found = [memory.step(embedded[:, t : t + 1]) for t in range(8)]
    torch.testing.assert_close(torch.stack(found, dim=1), whole)


@pytest.mark.parametrize("tokens", ["one", "parts"])
def test_no_state_tells_its_own_reward_or_what_comes_later(task, tokens):
    learner, batch = windows(task, replace(SMALL, tokens=tokens))
    world, batch = learner.model.world, replace(batch, episode=torch.zeros_like(batch.episode))
    before = states(world, batch)
    cells, earned = batch.cells.clone(), batch.before.clone()
    cells[:, 4] = 1 - cells[:, 4]
    earned[:, 4] += 1  # the reward of timestep 3, which comes into the sequence with timestep 4
    after = states(world, replace(batch, cells=cells, before=earned))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])
    only_reward = states(world, replace(batch, before=earned))
    assert not torch.allclose(before[:, 4], only_reward[:, 4])


def test_an_episode_does_not_see_the_one_before(task):
    learner, batch = windows(task)
    world, second = learner.model.world, batch.episode == 1
    cells = torch.where((batch.episode == 0)[..., None, None, None], 1 - batch.cells[:, :-1], batch.cells[:, :-1])
    changed = replace(batch, cells=torch.cat([cells, batch.cells[:, -1:]], dim=1))
    assert torch.equal(states(world, batch)[second], states(world, changed)[second])
    assert not torch.allclose(states(world, batch)[~second], states(world, changed)[~second])


def test_imagination_goes_on_from_what_the_episode_was_so_far(task):
    """Its first reward is what a masked pass over the window says, with the action that was imagined in the place of the one played."""
    learner, batch = windows(task, window=8)
    world, cells = learner.model.world, batch.cells.float()
    tokens = world.embed(cells[:, :-1], batch.actions, batch.before)
    dream = learner.imagined(batch, cells, tokens)
    for n, place in enumerate(batch.starts.flatten().tolist()):
        row = n // 3
        actions = batch.actions[row : row + 1].clone()
        actions[0, place] = dream.actions[n, 0]
        embedded = world.embed(cells[row : row + 1, :-1], actions, batch.before[row : row + 1])
        hidden = world(embedded, batch.episode[row : row + 1])[:, place]
        ahead = world.predict(hidden, cells[row : row + 1, place], actions[:, place])
        torch.testing.assert_close(dream.rewards[n, :1], ahead.reward)
        expected = ahead.discount.sigmoid()
        torch.testing.assert_close(dream.discounts[n, :1], expected * (expected >= 0.1))
    assert torch.equal(dream.cells[:, 0], cells[torch.arange(12) // 3, batch.starts.flatten()])


def test_imagination_strays_before_it_is_the_policys_own(task):
    """A policy that always takes action 2 and knows what comes: it is left alone behind the random action, which alone is taught before."""
    learner, batch = windows(task, horizon=6, starts=50)
    model, actor = learner.model, learner.model.policy.actor[-1]
    with torch.no_grad():
        actor.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    cells = batch.cells[:, 0].float().repeat(50, 1, 1, 1)
    noise = batch.noise.flatten(0, 1)
    found = model.imagine(torch.zeros(200, 0, 1, 16), np.zeros(200, np.int64), cells, torch.zeros(200), noise, stray=3)
    untaught = (~found.taught).sum(dim=1)
    assert set(untaught.tolist()) == {0, 1, 2} and 110 < int((untaught == 0).sum()) < 160  # half of them, and a third of the others
    for n, k in enumerate(untaught.tolist()):
        assert found.taught[n].tolist() == [False] * k + [True] * (6 - k)
        assert len(set(found.actions[n, : max(k, 1), 0].tolist())) == 1 and (found.actions[n, k + 1 :, 0] == 2).all()
    assert set(found.actions[untaught == 0][:, 0, 0].tolist()) == {0.0, 1.0, 2.0}
    own = model.imagine(torch.zeros(200, 0, 1, 16), np.zeros(200, np.int64), cells, torch.zeros(200), noise)
    assert own.taught.all() and (own.actions == 2).all()


def test_a_world_model_gets_no_gradient_of_what_is_imagined_and_the_policy_none_of_windows(task):
    learner, batch = windows(task)
    learner(batch)[0].backward()
    with_dreams = [p.grad.clone() for p in learner.model.world.parameters()]
    assert all(p.grad is not None for p in learner.model.policy.parameters())
    learner.zero_grad()
    learner(replace(batch, starts=batch.starts[:, :0]))[0].backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(with_dreams, learner.model.world.parameters(), strict=True))
    assert all(p.grad is None or not p.grad.any() for p in learner.model.policy.parameters())


def test_an_outcome_comes_true_for_all_cells_together():
    """Two outcomes, 3 to 1: a thing is in the left cell, or in the right one, and never in both or in neither."""
    logits = torch.tensor([[20.0, -20.0], [-20.0, 20.0]])[None, :, None, None]  # (1, outcomes, kinds, rows, columns)
    ahead = Next(torch.tensor([[3.0, 1.0]]).log(), logits, torch.zeros(1), torch.zeros(1))
    left, right, both = (torch.tensor(cells)[None, None, :, None] for cells in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]))
    assert float(ahead.nll(left).exp()) == pytest.approx(4 / 3) and float(ahead.nll(right).exp()) == pytest.approx(4)
    assert float(ahead.nll(both)) > 19.9
    assert torch.equal(ahead.draw(None), left)
    generator = torch.Generator().manual_seed(0)
    drawn = [ahead.draw(torch.rand(1, 4, generator=generator)) for _ in range(400)]
    share = sum(torch.equal(cells, left) for cells in drawn)
    assert share + sum(torch.equal(cells, right) for cells in drawn) == 400 and 270 < share < 330


# -- arithmetic ------------------------------------------------------------------------------------------


def test_where_it_is_blind_a_model_foresees_from_board_and_action_alone(task):
    """The state says which outcome comes; given that, it moves no cell and ends no game where it is not told."""
    torch.manual_seed(0)
    world = WorldModel(Board(task), replace(SMALL, outcomes=1))
    cells, actions = torch.randint(0, 2, (6, 4, 3, 2)).float(), torch.arange(6)[:, None] % 3
    one, other = (world.predict(torch.randn(6, 16), cells, actions.float(), torch.arange(6) < 4) for _ in range(2))
    for name in ("cells", "reward", "discount"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert torch.equal(mine[:4], theirs[:4]) and not any(torch.equal(mine[i], theirs[i]) for i in (4, 5))
    moved = world.predict(torch.randn(6, 16), cells, (actions.float() + 1) % 3, torch.arange(6) < 4)
    assert not any(torch.equal(one.cells[i], moved.cells[i]) for i in range(6))


def test_half_of_the_timesteps_are_foreseen_blind_in_training(task):
    _, batch = windows(task)
    assert batch.blind.shape == (4, 8) and 8 <= int(batch.blind.sum()) <= 24
    assert not windows(task, blind=0.0)[1].blind.any() and windows(task, blind=1.0)[1].blind.all()


def test_imagination_ends_before_a_board_that_cannot_be(task):
    """Of two kinds the first one's cells became one fewer or stayed, the second's stayed."""
    learner, batch = windows(task, starts=2, horizon=3)
    world = learner.model.world
    board = torch.zeros(1, 4, 3, 2)
    board[0, 0, :2, 0] = board[0, 3, 1, 1] = 1
    gone, more = board.clone(), board.clone()
    gone[0, 0, 0, 0], more[0, 3, 2, 1] = 0, 1
    world.notice(torch.cat([board, board]), torch.cat([gone, board]))
    assert world.moves.tolist() == [[-1, 0], [0, 0]]
    assert world.can_follow(board, gone) and world.can_follow(board, board)
    assert not world.can_follow(gone, board) and not world.can_follow(board, more)
    learner.eval()  # a batch in training would tell it what can be
    world.moves.copy_(torch.tensor([[7.0, 7.0], [8.0, 8.0]]))
    _, sums = learner(batch)
    assert sums["policy_loss"] == 0 and sums["value_loss"] == 0
    world.moves.copy_(torch.tensor([[-9.0, -9.0], [9.0, 9.0]]))
    assert learner(batch)[1]["value_loss"] > 0


def test_rewards_and_ends_do_not_teach_the_cells(task):
    learner, batch = windows(task, next_weight=0.0, starts=1)
    learner(batch)[0].backward()
    ahead = learner.model.world.ahead
    assert not ahead.change.weight.grad.any() and not ahead.copy.grad.any() and ahead.local.weight.grad.any()


def test_advantages_are_those_of_a_loop_and_of_ppo_where_discounts_are_alike():
    generator = torch.Generator().manual_seed(0)
    rewards, values, discounts = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((2, 5), (2, 6), (2, 5)))
    found = advantages(rewards, values, discounts, 0.9)
    for n in range(2):
        for t in range(5):
            total, share = 0.0, 1.0
            for k in range(t, 5):
                total += share * (rewards[n, k] + discounts[n, k] * values[n, k + 1] - values[n, k])
                share *= 0.9 * discounts[n, k]
            assert float(found[n, t]) == pytest.approx(float(total))
    ended = np.zeros((5, 2))
    ended[2, 0] = 1
    theirs = of_ppo(rewards.T.numpy(), values[:, :5].T.numpy(), values[:, 5].numpy(), ended, 0.95, 0.9)
    ours = advantages(rewards, values, 0.95 * (1 - torch.from_numpy(ended.T)), 0.9)
    np.testing.assert_allclose(ours.T.numpy(), theirs, rtol=1e-6)


def test_a_timestep_counts_as_much_as_its_past_says_it_is_reached():
    assert weights(torch.tensor([[0.5, 0.0, 0.9]])).tolist() == [[1.0, 0.5, 0.0]]


def test_a_tenth_of_what_is_played_is_held_at_random(task, tmp_path):
    """A policy that always takes action 2, in 800 timesteps: of a tenth that stray a third take it as well."""
    model = Dreamer(Board(task), SMALL)
    with torch.no_grad():
        model.policy.actor[-1].bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    found = []
    player = Player(task, model, PlayConfig(num_envs=4, fill=1, explore=0.1), 0, tmp_path / "store", found.append)
    player.play(200)
    player.close()
    actions = np.concatenate([episode.actions["action"] for episode in found])
    assert 0.04 < (actions != 2).mean() < 0.1


# -- experience ------------------------------------------------------------------------------------------


def test_windows_say_where_episodes_begin_and_end(task):
    found = experience(task, 3)
    window = found.windows(np.array([1]), 4)  # timesteps 1 and 2 of the first episode, 0 and 1 of the second
    assert window["episode"].tolist() == [[0, 0, 1, 1]] and window["terminated"].tolist() == [[False, True, False, False]]
    assert window["has_next"].tolist() == [[True, False, True, True]]
    assert window["before"].tolist() == [[*found.rewards[:1], *found.rewards[1:2], 0.0, *found.rewards[3:4]]]
    assert np.array_equal(window["cells"][0], found.cells[1:6])


def test_places_that_were_drawn_often_wait_for_the_others(task):
    found, generator = experience(task, 4), np.random.default_rng(0)
    for _ in range(60):
        found.draw(generator, 1, 4, temperature=0.1)
    assert set(found.visits[:8]) <= {7, 8} and not found.visits[8:].any()  # 8 places have a window of four and one behind it


def test_only_whole_shards_of_a_store_are_kept(task, tmp_path):
    env = envs.make(task)
    with StoreWriter(tmp_path / "store", [task]) as writer:
        for i in range(4):
            writer.append(expert_episode(task, env, RandomExpert(), seed=i).episode("random"))
            if i == 1:
                writer.flush()
    with pytest.raises(ValueError, match="no shards of 3 episodes, but 4 in all"):
        keep_episodes(tmp_path / "store", 3)
    keep_episodes(tmp_path / "store", 2)
    store = Store(tmp_path / "store", verify=True)
    assert store.num_episodes == 2
    store.validate()
    keep_episodes(tmp_path / "absent", 0)


# -- what it knows ---------------------------------------------------------------------------------------


def test_copy_last_flips_cells_as_often_as_they_change_and_a_perfect_model_is_right(task):
    """A single cell over four timesteps, 0 0 1 1: of two zeros that are followed one changes, a one stays."""
    cells = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(4, 1, 1, 1)
    played = Played(cells, torch.zeros(4, 1), torch.zeros(4), torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    found = copy_last(Board(task), [played])
    assert found["next_nats"] == pytest.approx(2 * np.log(2) / 3) and found["wrong_cells"] == pytest.approx(1 / 3)
    assert found["right_boards"] == pytest.approx(2 / 3) and found["reward_error"] == pytest.approx(0.125)
    assert found["discount_nats"] == pytest.approx(-(3 * np.log(0.75) + np.log(0.25)) / 4)


def test_a_dream_is_measured_and_drawn(run, task, tmp_path, monkeypatch, capsys):
    """Balls fall for three timesteps, and the longest horizon is 15: the game goes on for longer here."""
    monkeypatch.setattr(measure, "HORIZONS", (1, 2))
    assert main(["dream", str(run / "final"), "--out", str(tmp_path / "dream"), "--episodes", "6", "--strips", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 6 and found["timesteps"] == 18 and found["one_step"].keys() == {"model", "before training", "copy last"}
    assert [row["timesteps"] for row in found["open_loop"]] == [1, 2] and found["open_loop"][0]["places"] == 6
    assert found["open_loop"][0]["copy_last_wrong_cells"] >= 2  # a ball left its cell for another
    assert Image.open(found["strips"][0]).height > 100
    pytest.importorskip("av")
    words = ["dream", str(run / "final"), "--out", str(tmp_path / "again"), "--store", str(run / "episodes"), "--episodes", "2"]
    assert main([*words, "--films", "true", "--strips", "1"]) == 0
    film = video_facts(tmp_path / "again/strip-0.mp4")
    assert (film["video.height"], film["video.width"]) == (2 * (4 * 16 + 12), 3 * 16 + 12)  # two boards of four rows and three columns
    assert "copy last" in capsys.readouterr().out


def test_only_a_world_model_dreams(agent, tmp_path, capsys):
    agent.save(tmp_path / "gato")
    assert "holds a 'gato', and only a world-model dreams" in refusal(capsys, "dream", str(tmp_path / "gato"))
    assert "the folder does not exist" in refusal(capsys, "dream", str(tmp_path / "nowhere"))
    assert f"holds some; name one of {tmp_path / 'gato'}" in refusal(capsys, "dream", str(tmp_path))
    assert "--episodes is for measuring, and there is no --out FOLDER" in refusal(
        capsys, "dream", str(tmp_path / "gato"), "--episodes", "2"
    )


def test_a_dream_that_begins_in_an_episode_goes_on_as_one_pass_says(task):
    learner, _ = windows(task)
    world = learner.model.world
    episode = expert_episode(task, envs.make(task), RandomExpert(), seed=3).episode("random")
    played = Played.of(learner.model, episode, 0.99)
    assert played.discounts.tolist() == pytest.approx([0.99, 0.99, 0.0])
    hidden = world(world.embed(played.cells[None], played.actions[None], played.before[None]), torch.zeros(1, 3, dtype=torch.long))[0]
    ahead = world.predict(hidden, played.cells, played.actions)
    for t in range(3):
        reward, discount = measure.begun_at(world, [(played, t)]).step(played.actions[None, t])
        torch.testing.assert_close(reward[0], ahead.reward[t])
        torch.testing.assert_close(discount[0], ahead.discount[t].sigmoid())


def test_an_agent_judges_and_tells_rewards_in_the_units_it_was_trained_in(tmp_path):
    ran = small_run(tmp_path, RECIPE.replace("explore: 0.2", "explore: 0.2, reward_scale: 0.5"))
    agent = gato.load(ran / "final")
    assert agent.reward_scale == 0.5
    episode = expert_episode(agent.own_task, envs.make(agent.own_task), RandomExpert(), seed=3).episode("random")
    paid = replace(episode, rewards=np.array([0, 4, 1], np.float32))
    played = Played.of(agent.model, paid, agent.gamma, agent.reward_scale)
    assert played.rewards.tolist() == [0, 2, 0.5] and played.before.tolist() == [0, 0, 2]
    path = ran / "final" / "gato.json"
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "reward_scale"}
    path.write_text(json.dumps(older))  # as it was written before the factor was
    assert gato.load(ran / "final", verify=False).reward_scale == 1


# -- the page --------------------------------------------------------------------------------------------


@pytest.fixture
def games(run):
    found = pytest.importorskip("gato.serve.dream").Games(gato.load(run / "final"))
    yield found
    found.close()


def test_the_dream_and_the_real_board_begin_alike_and_get_the_same_actions(games):
    begun = games.begin(3)
    assert begun["real"]["cells"] == begun["dream"]["cells"] and begun["wrong"] == 0 and begun["actions"] == ["0", "1", "2"]
    assert sorted(kind for row in begun["real"]["cells"] for kind in row if kind) == [1, 2]  # the ball, and the paddle
    shown = [games.act(begun["game"], 2, True) for _ in range(3)]
    assert [board["real"]["over"] for board in shown] == [False, False, True]
    assert shown[-1]["real"]["cells"][3][2] == 2 or shown[-1]["real"]["return"] in (0.0, 1.0)
    assert shown[-1]["real"]["discount"] == 0 and shown[0]["real"]["discount"] == pytest.approx(0.99)
    assert games.act(begun["game"], None, False)["real"]["cells"] == shown[-1]["real"]["cells"]  # nothing moves behind the end


def test_the_same_seed_and_keys_give_the_same_dream(games):
    def boards() -> list:
        name = games.begin(5)["game"]
        return [games.act(name, action, True) for action in (0, 1, None)]

    assert boards() == boards()


def test_a_dream_goes_on_from_the_real_board_and_not_from_its_end(games):
    name = games.begin(3)["game"]
    games.act(name, 0, True)
    shown = games.dream_on(name)
    assert shown["real"]["cells"] == shown["dream"]["cells"]
    games.act(name, 0, True), games.act(name, 0, True)
    with pytest.raises(ValueError, match="nothing to dream on from; reset it"):
        games.dream_on(name)


def test_the_page_answers_and_refuses_in_one_line(games, monkeypatch):
    testclient = pytest.importorskip("starlette.testclient")
    from gato.serve import dream, dream_page

    client = testclient.TestClient(dream_page.make_app(games, True), headers={"Host": "127.0.0.1"})
    assert "Inside the dream" in client.get("/").text
    name = client.post("/begin", json={"seed": 1}).json()["game"]
    assert client.post("/act", json={"game": name, "action": 1, "chance": True}).json()["timestep"] == 1
    refused = [("/begin", {"seed": -1}), ("/act", {"game": name, "action": 3}), ("/act", {"game": "?", "action": 1}), ("/act", [1])]
    for path, values in refused:
        answer = client.post(path, json=values)
        assert answer.status_code == 400 and "\n" not in answer.json()["error"], values
    assert client.post("/act", content=b"{" * 1001).status_code == 413
    assert client.post("/act", content=b"{").status_code == 400
    assert client.post("/begin", json={"seed": 1}, headers={"Host": "elsewhere.org"}).status_code == 403
    monkeypatch.setattr(dream, "MOST_GAMES", 2)
    assert [client.post("/begin", json={"seed": 1}).status_code for _ in range(2)] == [200, 503]
    monkeypatch.setattr(dream, "IDLE_SECONDS", 0.0)
    assert client.post("/begin", json={"seed": 1}).status_code == 200
    assert client.post("/act", json={"game": name, "action": 1}).json()["error"] == "this game is not there any more; reset it"
