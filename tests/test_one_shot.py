"""One-shot imitation: sets of tasks, what a demonstration is made into, TecNets and MIL, and acting on a demonstration."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import gato
from benchmarks import resume
from benchmarks.resume import Run
from gato import envs
from gato.cli import main
from gato.data.collection.attempt import Job, Stage
from gato.data.collection.collect import CollectConfig, collect
from gato.data.selection import SourceConfig
from gato.data.store import Store, StoreWriter
from gato.data.task_rows import TaskRows
from gato.envs.push2d import Push2d
from gato.envs.reach2d import Reach2d, go_straight
from gato.envs.stream import EpisodeResult
from gato.episode import Episode
from gato.eval import arena
from gato.eval.arena import entries, lines_of
from gato.eval.insight.similar import similar_by_statistics, statistics_of
from gato.eval.rollout import rollout
from gato.eval.sets import shares
from gato.eval.settings import ArenaConfig
from gato.eval.summary import summarise
from gato.learners.actions import ActionVectors
from gato.learners.features import Features
from gato.learners.one_shot.agent import OneShotAgent
from gato.learners.one_shot.config import MilConfig, TecNetsConfig
from gato.learners.one_shot.demonstrated import DemonstrationInputs, ends_of
from gato.learners.one_shot.mil import Mil, MilLearner
from gato.learners.one_shot.tecnets import TecNet, TecNetsLearner, embedding_loss, normed, sentence_of
from gato.spec import FieldSpec, Modality, TaskSpec
from tests.small_runs import refusal

SMALL = {"filters": 4, "num_convolutions": 2, "width": 8, "num_layers": 1, "tasks": 3}
RECIPE = """
learner: tecnets
model: {filters: 4, num_convolutions: 2, width: 8, num_layers: 1, tasks: 3, timesteps: 2}
data: {sources: {reach2d/train: {store: STORE}}}
optim: {learning_rate: 0.002, warmup_steps: 2}
train: {name: small, steps: 4, batch_size: 2, save_every: 2, threads: 1, device: cpu}
"""


def write_store(path, split: str, tasks: int, episodes: int, shorter: int = 0) -> None:
    """So many demonstrations of the first tasks of a set, `shorter` of them fewer of the last task."""
    members, stage = envs.members(envs.task(f"reach2d/{split}"))[:tasks], Stage()
    with StoreWriter(path, members) as writer:
        for index in range(tasks * episodes - shorter * tasks):
            writer.append(stage.play(Job(members[index % tasks], index, 0)).episode)
        for index in range(shorter * (tasks - 1)):
            writer.append(stage.play(Job(members[index % (tasks - 1)], 1000 + index, 0)).episode)


def write_sets(folder, train, test):
    """The stores `train` and `test`, each with `(tasks, episodes)`."""
    write_store(folder / "train", "train", *train)
    write_store(folder / "test", "test", *test)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Five tasks with four demonstrations each, and three held-out ones."""
    folder = tmp_path_factory.mktemp("home")
    write_sets(folder / "stores/reach2d", (5, 4), (3, 3))
    return folder


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    """An empty folder with a recipe, and the stores at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATO_HOME", str(home))
    (tmp_path / "small.yaml").write_text(RECIPE.replace("STORE", str(home / "stores/reach2d/train")))
    return tmp_path


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory):
    """A checkpoint of four updates."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("GATO_HOME", str(home))
        (place / "small.yaml").write_text(RECIPE.replace("STORE", str(home / "stores/reach2d/train")))
        assert main(["pretrain", "small.yaml"]) in (None, 0)
    return place / "runs/small/final"


def rows_of(home, **settings) -> TaskRows:
    asked = {"tasks": 3, "support": 2, "query": 1, "timesteps": 2} | settings
    rows = TaskRows("reach2d/train", SourceConfig(), Store(home / "stores/reach2d/train"), 0, **asked)
    inputs = DemonstrationInputs(Features.of(rows.task, list(rows.sample(64)), with_pictures=False), ActionVectors.all_of(rows.task))
    rows.encode = inputs.batch
    return rows


# -- sets of tasks -----------------------------------------------------------------------------------


def test_a_set_has_members_that_differ_in_one_argument():
    train = envs.task("reach2d/train")
    members = envs.members(train)
    assert len(members) == 800 and members[7] == envs.task("reach2d/train-7")
    assert members[7].env_kwargs == {"split": "train", "task": 7} and envs.set_of("reach2d/train-7") == "reach2d/train"
    assert envs.members(members[7]) == () and envs.set_of("reach2d/train-800") == "reach2d/train-800"


def test_no_colour_of_the_test_is_a_colour_of_the_training():
    train, test = Reach2d("train").colours, Reach2d("test").colours
    assert len(train) == 800 and len(test) == 80 and not {tuple(c) for c in train} & {tuple(c) for c in test}


def test_the_reward_is_for_the_right_disc_alone():
    env = Reach2d("test", 3)
    for is_right in (True, False):
        env.reset(seed=5)
        if not is_right:
            env.target, env.other = env.other, env.target
            rewarded = env.other
        done, observation = False, None
        while not done:
            action = go_straight(env, observation) if is_right else np.clip((rewarded - env.pointer) / 0.15, -1, 1)
            observation, reward, _, done, info = env.step(action)
        assert (reward, info["success"], info["wrong_object"]) == (float(is_right), is_right, not is_right)


def test_a_thing_moves_only_where_it_is_pushed_and_the_harder_it_is_the_less():
    moved = []
    for resistance in (0.2, 1.0):
        env = Push2d("test", 0)
        env.reset(seed=0)
        env.things, env.mark, env.pointer = np.array([[0.0, 0.0], [0.8, 0.8]]), np.array([0.5, 0.0]), np.array([-0.35, 0.0])
        env.resistances = np.full(80, resistance)
        env.step(np.array([1.0, 0.0]))
        moved.append(env.things[0, 0])
        assert env.things[0, 1] == 0 and env.things[1].tolist() == [0.8, 0.8]
        assert np.linalg.norm(env.things[0] - env.pointer) == pytest.approx(0.29)
    # the pointer came 0.15 nearer and 0.09 of it into the thing, which yields 1 / (1 + resistance) of that
    assert moved == pytest.approx([0.09 / 1.2, 0.09 / 2.0])


def test_a_set_is_collected_in_turns_into_one_store_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(envs._registry(), "reach2d/train", {**envs._registry()["reach2d/train"], "members": 3})
    config = CollectConfig(["reach2d/train"], episodes=1, noisy_share=0.5, workers=0, out=tmp_path)
    collect(config)
    (row,) = collect(replace(config, episodes=2))
    store = Store(tmp_path / "reach2d/train")
    assert row["episodes"] == 6 and store.task_indices.tolist() == [0, 1, 2, 0, 1, 2]
    assert store.behaviours.tolist() == ["expert"] * 3 + ["noisy"] * 3


def test_the_held_out_set_and_its_members_are_not_trained_on(folder, home, capsys):
    for name in ("reach2d/test", "reach2d/test-3"):
        text = RECIPE.replace("reach2d/train", name).replace("STORE", str(home / "stores/reach2d/test"))
        (folder / "held.yaml").write_text(text)
        assert f"source '{name}' is held out" in refusal(capsys, "pretrain", "held.yaml")


def test_episodes_are_spread_over_the_tasks():
    members = envs.members(envs.task("reach2d/test"))
    assert [n for _, n in shares(100, members)] == [2] * 20 + [1] * 60
    assert [task.env_kwargs["task"] for task, _ in shares(4, members)] == [0, 20, 40, 60]


# -- rows --------------------------------------------------------------------------------------------


def test_a_row_is_the_same_whenever_it_is_drawn_and_its_tasks_differ(home):
    rows = rows_of(home)
    one, two = rows.row(3, 1), rows_of(home).row(3, 1)
    np.testing.assert_array_equal(one.ends[0]["picture"], two.ends[0]["picture"])
    assert len({tuple(numbers) for numbers in one.numbers}) == 3 and len(one.ends[0]["picture"]) == 9
    assert not np.array_equal(one.ends[0]["picture"], rows.row(4, 1).ends[0]["picture"])


def test_support_and_query_are_other_demonstrations(home):
    shown = rows_of(home).row(0, 0).ends[0]["picture"].reshape(3, 3, -1)
    assert all(len(np.unique(task, axis=0)) == 3 for task in shown)


def test_the_last_picture_is_the_one_after_the_last_action(home):
    episode = Store(home / "stores/reach2d/train").episode(0)
    np.testing.assert_array_equal(ends_of(episode)[1]["picture"][0], episode.final_observation["picture"])


def test_a_task_with_one_demonstration_is_left_out_and_named(tmp_path, caplog):
    write_store(tmp_path / "few", "train", 3, 3, shorter=2)
    rows = TaskRows("reach2d/train", SourceConfig(), Store(tmp_path / "few"), 0, 2, 1, 1, 2)
    assert len(rows.groups) == 2
    assert "1 of 3 tasks have fewer than 2 demonstrations and are left out, 'reach2d/train-2' for example has 1" in caplog.text


# -- losses ------------------------------------------------------------------------------------------


def test_the_embedding_loss_is_the_hinge_of_cosines():
    sentences = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    queries = torch.tensor([[[[0.6, 0.8]], [[0.0, 1.0]]]])
    loss, nearest = embedding_loss(sentences, queries, margin=0.1)
    # the first query: max(0, 0.1 - 0.6 + 0.8) = 0.3; the second: max(0, 0.1 - 1 + 0) = 0
    assert loss.item() == pytest.approx(0.15) and nearest.item() == 0.5


def test_both_sides_of_the_embedding_loss_have_gradients():
    sentences, queries = torch.randn(1, 3, 4, requires_grad=True), torch.randn(1, 3, 2, 4, requires_grad=True)
    embedding_loss(normed(sentences), normed(queries), margin=1.0)[0].sum().backward()
    assert sentences.grad.abs().sum() > 0 and queries.grad.abs().sum() > 0


def test_a_sentence_has_unit_length_whatever_its_demonstrations():
    assert sentence_of(normed(torch.randn(5, 3, 20))).norm(dim=-1) == pytest.approx(np.ones(5), abs=1e-6)


def test_without_norms_the_loss_is_met_by_growing_and_says_nothing_of_directions():
    """Why both sides are normalised: two tasks whose embeddings differ by one degree have no loss once they are long enough."""
    angle = torch.tensor(np.pi / 180)
    one, two = torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])
    near = torch.stack([one, two])[None]
    losses = [embedding_loss(length * near, (length * near)[:, :, None], 0.1)[0].item() for length in (1.0, 10.0, 100.0)]
    assert losses[0] == pytest.approx(0.1, abs=1e-3) and losses[1] > 0.05 and losses[2] == 0.0


def learner_of(rows: TaskRows, config):
    torch.manual_seed(0)
    inputs = rows.encode.__self__
    kind, learner = (Mil, MilLearner) if isinstance(config, MilConfig) else (TecNet, TecNetsLearner)
    return learner(kind(rows.task, inputs.features, inputs.vectors.size, config, 3), inputs.vectors, "x")


@pytest.mark.parametrize("config", [TecNetsConfig(**SMALL, support=2, timesteps=2), MilConfig(**SMALL, support=2, timesteps=2)], ids=type)
def test_rows_computed_one_by_one_give_the_loss_and_gradients_of_all_at_once(home, config):
    rows = rows_of(home, whole=isinstance(config, MilConfig))
    learner = learner_of(rows, config)
    whole = rows.batch(0, [0, 1])
    learner(whole)[0].backward()
    expected = [p.grad.clone() for p in learner.parameters() if p.grad is not None]
    learner.zero_grad()
    for row in (0, 1):
        learner(rows.batch(0, [row]).with_denominator(whole.denominator))[0].backward()
    for found, wanted in zip([p.grad for p in learner.parameters() if p.grad is not None], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


class Held:
    """A tensor that a backward pass is kept for; `most` bytes of them were there at a time."""

    now = most = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        Held.now += tensor.nbytes
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.nbytes


def test_an_update_of_more_tasks_needs_no_more_memory(folder):
    """Four times as many rows are computed one after the other, and what a row kept for its gradients is free again."""
    most = []
    for rows, together in ((2, 1), (8, 1), (8, 8)):
        Held.now = Held.most = 0
        sizes = ["--train.batch_size", str(rows), "--train.micro_batch_size", str(together)]
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            assert main(["pretrain", "small.yaml", "--train.name", f"{rows}-{together}", "--train.steps", "1", *sizes]) == 0
        most.append(Held.most)
    assert most[1] == most[0] and most[2] > 4 * most[0]


@pytest.mark.parametrize("sentence", ["untrained", "numbers", "none"])
def test_the_controls_have_no_embedding_loss_and_an_untrained_embedding_stays(home, sentence):
    rows = rows_of(home)
    learner = learner_of(rows, TecNetsConfig(**SMALL, support=2, timesteps=2, sentence=sentence))
    loss, sums = learner(rows.batch(0, [0]))
    loss.backward()
    trained = {name.split(".")[1] for name, p in learner.named_parameters() if p.grad is not None}
    assert trained == {"control"} and sums["embedding"].item() == 0


# -- acting ------------------------------------------------------------------------------------------


def test_a_demonstration_is_acted_on_without_training(trained, home):
    agent, store = gato.load(trained), Store(home / "stores/reach2d/test")
    policy = agent.policy("reach2d/test-1", demonstrations=[store.episode(1)])
    env = envs.make(policy.task)
    observation, _ = env.reset(seed=0)
    action = policy.act_one(observation)
    assert action.shape == (2,) and np.abs(action).max() <= 1
    other = agent.policy("reach2d/test-1", demonstrations=[store.episode(0)]).act_one(observation)
    assert not np.array_equal(action, other)


def test_what_is_known_by_name_and_what_is_shown_now_are_served(trained, home, tmp_path):
    pytest.importorskip("msgpack", reason="serving was not tried: pip install 'opengato[serve]'")
    from gato.serve.demonstrated import Demonstrated
    from gato.serve.service import Service
    from gato.serve.settings import ServeConfig

    agent, shown = gato.load(trained), replace(Store(home / "stores/reach2d/test").episode(1), task=envs.task("reach2d/test-1"))
    with StoreWriter(tmp_path / "one", [shown.task]) as writer:
        writer.append(shown)
    service = Service(agent, "small", ServeConfig(sessions=2), [Demonstrated(agent, tmp_path / "one", "prompt")])
    observation, _ = envs.make(shown.task).reset(seed=0)
    for name, policy in (
        ("reach2d/test-1", agent.policy("reach2d/test-1", demonstrations=[shown])), ("reach2d/train-0", agent.policy("reach2d/train-0")),
    ):  # fmt: skip
        session = service.acting.open(service.acting.task(name))
        (answer,) = service.acting.answer([service.acting.ask(session, {}, {"observation": observation})])
        assert np.array_equal(answer["action"], policy.act_one(observation))
    service.close()


def agent_of(home, config) -> OneShotAgent:
    """Untrained; it knows the first task by name."""
    rows = rows_of(home, whole=isinstance(config, MilConfig))
    learner = learner_of(rows, config)
    agent = OneShotAgent("mil" if isinstance(config, MilConfig) else "tecnets", learner.model, rows.encode.__self__, 3)
    agent.remember("reach2d/train-0", rows.demonstrations(0, 1))
    return agent


@pytest.mark.parametrize("config", [TecNetsConfig(**SMALL), MilConfig(**SMALL, timesteps=2)], ids=type)
def test_twenty_tasks_more_change_neither_what_is_kept_nor_what_is_played_bit_for_bit(home, tmp_path, config):
    def played(agent):
        kept: list[Episode] = []
        results = rollout(agent.policy("reach2d/train-0"), "reach2d/train-0", 2, 0, 2, sink=kept.append)
        return [result.total_reward for result in results], np.stack([episode.actions["action"] for episode in kept])

    agent, store = agent_of(home, config), Store(home / "stores/reach2d/test")
    before = {name: value.clone() for name, value in agent.memories["reach2d/train-0"].items()}
    weights = {name: value.clone() for name, value in agent.model.state_dict().items()}
    returns, actions = played(agent)
    for i in range(20):
        agent.remember(f"mine-{i}", [store.episode(i % store.num_episodes)])
    agent.save(tmp_path / "more")
    again = gato.load(tmp_path / "more")
    assert len(again.memories) == 21 and not np.array_equal(actions[0], actions[1])
    assert all(torch.equal(again.memories["reach2d/train-0"][name], value) for name, value in before.items())
    assert all(torch.equal(again.model.state_dict()[name], value) for name, value in weights.items())
    assert played(again)[0] == returns and np.array_equal(played(again)[1], actions)
    shown = agent.policy("reach2d/test-2", demonstrations=[store.episode(2)])
    assert all(torch.equal(again.memories["mine-2"][name], value) for name, value in shown.kept.items())


def test_what_a_checkpoint_knows_by_name_are_the_tasks_it_was_trained_on(trained):
    assert set(gato.load(trained).memories) == {f"reach2d/train-{i}" for i in range(5)}


def test_an_episodes_own_first_observation_can_say_what_the_task_is(home):
    agent = agent_of(home, TecNetsConfig(**SMALL, sentence="first"))
    episode = Store(home / "stores/reach2d/test").episode(0)
    seen = {name: values[[0, 8, 15]] for name, values in episode.observations.items()}
    policy, model = agent.policy("reach2d/test-0"), agent.model
    policy.reset(2)

    def act(row, stream, first):
        one = {name: values[[row]] for name, values in seen.items()}
        return policy.act(one, first=np.array([first]), streams=np.array([stream]))["action"]

    def expected(row, first):
        rows = agent.inputs.seen(seen)
        told = model.embed(rows.each(lambda tensor: tensor[[first]]))
        return model.outputs(rows.each(lambda tensor: tensor[[row]]), {"sentence": told}).detach().numpy().clip(-1, 1)

    act(0, 0, True), act(1, 1, True)
    np.testing.assert_allclose(act(2, 0, False), expected(2, 0), rtol=1e-5)
    np.testing.assert_allclose(act(2, 1, False), expected(2, 1), rtol=1e-5)
    assert not np.allclose(expected(2, 0), expected(2, 1))
    act(1, 0, True)  # another episode
    np.testing.assert_allclose(act(2, 0, False), expected(2, 1), rtol=1e-5)


def test_a_set_is_played_with_a_demonstration_of_each_task(trained, folder, capsys, monkeypatch):
    monkeypatch.setitem(envs._registry(), "reach2d/test", {**envs._registry()["reach2d/test"], "members": 3})
    words = ["eval", str(trained), "--tasks", "reach2d/test", "--episodes", "4", "--num_envs", "2", "--out", "out.json", "--films"]
    assert main([*words, "--demonstrations", "2"]) == 0
    results = json.loads((folder / "out.json").read_text())
    (row,) = results["tasks"]
    assert row["episodes"] == 4 and 0 <= row["wrong_object"] <= 1 and results["films"]["reach2d/test"] and not row["not_filmed"]
    assert main(words) == 1
    assert (
        "nothing was shown of 'reach2d/test-0', which is not known by name"
        in (folder / "out.json").with_name("out.partial.json").read_text()
    )
    assert main([*words, "--demonstrations", "4"]) == 1
    assert "4 demonstrations of 'reach2d/test-0' are wanted, but" in (folder / "out.partial.json").read_text()


def test_demonstrations_of_something_else_are_refused_in_one_line(trained, home):
    agent, episode = gato.load(trained), Store(home / "stores/reach2d/test").episode(0)
    larger = replace(
        envs.task("reach2d/test"), fields=tuple(replace(f, shape=(48, 48, 3)) if f.shape == (32, 32, 3) else f for f in episode.task.fields)
    )
    values = {**episode.observations, "picture": np.zeros((16, 48, 48, 3), np.uint8)}
    with pytest.raises(
        ValueError, match=r"demonstration 0 .* 'picture' has shape \(48, 48, 3\), expected \(32, 32, 3\); give one of the same"
    ):
        agent.policy("reach2d/test-0", demonstrations=[replace(episode, task=larger, observations=values, final_observation=None)])
    with pytest.raises(ValueError, match="has one observation; a first and a last one are needed"):
        agent.policy("reach2d/test-0", demonstrations=[replace(episode.window(0, 1), final_observation=None)])
    with pytest.raises(ValueError, match="'toy/corridor' is another: action 'action' has modality discrete"):
        agent.policy("toy/corridor")
    corridor = Stage().play(Job(envs.task("toy/corridor"), 0, 0)).episode
    with pytest.raises(
        ValueError, match="demonstration 1 of 'toy/corridor' does not fit .* action 'action' .*; give one of the same robot"
    ):
        agent.remember("mine", [episode, corridor])
    with pytest.raises(ValueError, match="there is no demonstration of 'mine'; give at least one"):
        agent.remember("mine", [])
    assert "mine" not in agent.memories


@pytest.mark.parametrize("learner", ["tecnets", "mil"])
def test_a_run_that_is_taken_up_again_ends_with_the_same_weights(folder, learner):
    text = (folder / "small.yaml").read_text().replace("learner: tecnets", f"learner: {learner}")
    (folder / "small.yaml").write_text(text)
    main(["pretrain", "small.yaml"])
    whole = (folder / "runs/small/final/model.safetensors").read_bytes()
    shutil.rmtree(folder / "runs/small/final")
    main(["pretrain", "small.yaml"])
    assert (folder / "runs/small/final/model.safetensors").read_bytes() == whole
    first = (folder / "runs/small/step-2/model.safetensors").read_bytes()
    assert first != whole


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["tecnets", "mil"])
def test_two_ranks_give_the_losses_and_weights_of_one_process(home, tmp_path, learner):
    recipe = RECIPE.replace("STORE", str(home / "stores/reach2d/train")).replace("learner: tecnets", f"learner: {learner}")
    runs = []
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        runs.append(Run(home, tmp_path / str(ranks), recipe=recipe).finish(ranks))
    one, two = runs
    assert two.losses() == pytest.approx(one.losses(), rel=1e-5, abs=1e-6)
    assert resume.distance(one, two)[1] < 1e-5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tasks: 3", "tasks: 6", "source 'reach2d/train' has 5 tasks with at least 2 demonstrations, and a row wants 6 (model.tasks)"),
        ("tasks: 3", "tasks: 3, support: 4", "source 'reach2d/train' has no task with enough demonstrations; collect more of each"),
        ("timesteps: 2", "timesteps: 2, support_weight: 0, query_weight: 0", "are both 0, so nothing would learn to act; raise one"),
        ("data: {", "data: {prompt_share: 0.5, ", "data.prompt_share is 0.5, which a TecNet has no use for; leave it out"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(folder, capsys, old, new, message):
    text = (folder / "small.yaml").read_text()
    (folder / "small.yaml").write_text(text.replace(old, new))
    assert message in refusal(capsys, "pretrain", "small.yaml")
    assert not (folder / "runs").exists()


def test_a_damaged_folder_is_named(trained, tmp_path):
    agent = gato.load(trained)
    agent.save(tmp_path / "copy")
    content = json.loads((tmp_path / "copy/gato.json").read_text())
    (tmp_path / "copy/gato.json").write_text(json.dumps(content | {"numbers": -1}))
    with pytest.raises(ValueError, match="copy"):
        gato.load(tmp_path / "copy")
    with pytest.raises(ValueError, match="numbers is -1"):
        gato.load(tmp_path / "copy", verify=False)


# -- MIL ---------------------------------------------------------------------------------------------


def mil_of(home, **settings):
    rows = rows_of(home, whole=True)
    learner = learner_of(rows, MilConfig(**SMALL, support=2, timesteps=2, **settings))
    batch = rows.batch(0, [0])
    split = batch.num_support
    return learner, batch, (batch.seen.each(lambda t: t[:split]), batch.played[:split], 2)


def test_the_inner_step_is_a_clipped_gradient_step_on_the_demonstration(home):
    learner, _, support = mil_of(home, inner_rate=0.5, inner_clip=0.01)
    model = learner.model
    moved = model.adapted(*support)
    loss = model.vectors.loss(model.network(support[0], "before"), support[1])
    loss.backward()
    for name, weight in model.network.named_parameters():
        expected = weight if weight.grad is None else weight - 0.5 * weight.grad.clamp(-0.01, 0.01)
        torch.testing.assert_close(moved[name], expected)
    assert not torch.equal(moved["bias"], model.network.bias)


def test_learned_rates_begin_with_the_given_one_and_have_gradients_of_their_own(home):
    (plain, batch, support), (learned, _, _) = mil_of(home, inner_rate=0.5), mil_of(home, inner_rate=0.5, learned_rates=True)
    learned.model.network.load_state_dict(plain.model.network.state_dict())
    one, other = plain.model.adapted(*support), learned.model.adapted(*support)
    assert all(torch.equal(one[name], other[name]) for name in one)
    learned(batch)[0].backward()
    names = [name for name, _ in learned.model.network.named_parameters()]
    still = {name for name, g in zip(names, learned.model.rates.grad, strict=True) if g == 0}
    # the head that acts is not moved by the step, and the other one does not act
    assert still == {"body.head.weight", "body.head.bias", "before.weight", "before.bias"}


def test_a_gradient_of_second_order_is_another_one(home):
    gradients = []
    for second_order in (True, False):
        learner, batch, _ = mil_of(home, second_order=second_order)
        learner(batch)[0].backward()
        gradients.append(learner.model.network.bias.grad.clone())
        # only through the step is there a gradient for the head that does not act
        assert (learner.model.network.before.weight.grad is not None) is second_order
    assert not torch.allclose(*gradients, rtol=1e-3)


def test_a_step_on_a_video_looks_at_neither_actions_nor_states(home):
    learner, _, (seen, played, count) = mil_of(home, video=True)
    one = learner.model.adapted(seen, played, count)
    other = learner.model.adapted(replace(seen, states=seen.states + 1), -played, count)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], weight) for name, weight in learner.model.network.named_parameters())


def test_what_mil_keeps_of_a_task_are_all_its_weights(home):
    rows = rows_of(home, whole=True)
    learner = learner_of(rows, MilConfig(**SMALL, support=2, timesteps=2))
    episode = rows.demonstrations(0, 1)
    kept = learner.model.remember(rows.encode.__self__, episode)
    assert sum(t.numel() for t in kept.values()) == sum(p.numel() for p in learner.model.network.parameters())


# -- side by side ------------------------------------------------------------------------------------


@pytest.fixture
def three_tasks(monkeypatch):
    """A held-out set of three."""
    monkeypatch.setitem(envs._registry(), "reach2d/test", {**envs._registry()["reach2d/test"], "members": 3})


def test_an_arena_plays_everybody_on_the_same_starts_and_goes_on_where_it_stopped(trained, folder, three_tasks, capsys):
    words = ["arena", f"ours={trained}", "--tasks", "reach2d/test", "--baselines", "retrieve", "--episodes", "4", "--out", "arena"]
    assert main([*words, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert {line["label"] for line in results["lines"]} == {"ours", "retrieve"} and all(line["episodes"] == 4 for line in results["lines"])
    ours = next(line for line in results["lines"] if line["label"] == "ours")
    assert ours["bytes"] == 80 and ours["parameters"] > 0  # twenty numbers of four bytes a task
    cells = {path: path.stat().st_mtime_ns for path in (folder / "arena/cells").iterdir()}
    assert main([*words, "--demonstrations", "1", "3"]) == 0
    assert len(list((folder / "arena/cells").iterdir())) == 4 and all(path.stat().st_mtime_ns == time for path, time in cells.items())
    page = (folder / "arena/arena.html").read_text()
    assert "data:image/png;base64" in page and "wrong object" in page


def test_what_the_embedding_finds_alike_is_looked_up_beside_the_network(trained, folder, three_tasks, capsys):
    words = ["arena", f"ours={trained}", "--tasks", "reach2d/test", "--retrieve", "reach2d/train", "--episodes", "3", "--out", "arena"]
    assert main([*words, "--json"]) == 0
    lines = {line["label"]: line for line in json.loads(capsys.readouterr().out)["lines"]}
    ours, found = lines["ours"], lines["ours, looked up"]
    # the one demonstration, and all 20 of the five known tasks: 16 timesteps of 8 x 8 colours and a place each
    assert found["bytes"] > 21 * 16 * 4 * (8 * 8 * 3 + 2) and ours["bytes"] == 80 and found["parameters"] == ours["parameters"]


def test_who_cannot_take_a_task_says_why_in_its_cell(trained, folder, three_tasks, capsys):
    words = ["arena", f"ours={trained}", "--tasks", "reach2d/test", "--demonstrations", "4", "--episodes", "3", "--out", "arena"]
    assert main(words) == 1
    assert "ours, reach2d/test: 4 demonstrations of 'reach2d/test-0' are wanted, but" in capsys.readouterr().out
    assert "there is no checkpoint 'nowhere'" in refusal(capsys, "arena", "nowhere", "--tasks", "reach2d/test")
    assert "nobody takes part" in refusal(capsys, "arena", "--tasks", "reach2d/test")
    assert "name tasks such as --tasks reach2d/test" in refusal(capsys, "arena", str(trained))


def test_checkpoints_are_seeds_of_one_system_only_where_they_were_given_one_label(tmp_path):
    """A folder without a label is called as the one that it is in."""
    folders = [tmp_path / name for name in ("x/a/final", "x/a/step-100", "y/a/final", "x/b/final")]
    for folder in folders:
        folder.mkdir(parents=True)
    final, step, other, b = map(str, folders)
    for words in ([final, step], [final, other], [final, f"a={b}"]):
        with pytest.raises(ValueError, match="several would be called 'a', and those of one label count as seeds of one system; name"):
            entries(words, ())
    with pytest.raises(ValueError, match="several would be called 'clone'"):
        entries([f"clone={b}"], ["clone"])
    assert [entry.label for entry in entries([final, b], ["clone", "clone"])] == ["a", "b", "clone"]
    assert [entry.label for entry in entries([f"a={final}", f"a={other}", f"late={step}", b], ())] == ["a", "a", "late", "b"]


def test_an_error_that_may_not_last_is_tried_again_and_a_refusal_is_not(trained, folder, three_tasks, monkeypatch):
    config = ArenaConfig(["reach2d/test"], demonstrations=(1, 4), episodes=3, films=False, out=folder / "arena")
    asked, make = [], arena.made_ready

    def made_ready(*given):
        asked.append(given)
        if len(asked) == 1:
            raise RuntimeError("CUDA out of memory")
        return make(*given)

    monkeypatch.setattr(arena, "made_ready", made_ready)
    first = {cell["demonstrations"]: cell["error"] for cell in arena.arena([f"ours={trained}"], config)["cells"]}
    assert first[1] == "RuntimeError: CUDA out of memory" and first[4].startswith("4 demonstrations of 'reach2d/test-0' are wanted")
    assert len(asked) == 1  # too few demonstrations are found out before
    again = {cell["demonstrations"]: cell for cell in arena.arena([f"ours={trained}"], config)["cells"]}
    assert again[1]["error"] is None and again[4]["error"] == first[4] and len(asked) == 1 + 3
    monkeypatch.setattr(arena, "_cell", None)
    arena.arena([f"ours={trained}"], config)  # both are read


def test_an_episode_that_failed_is_no_success_in_an_arena_as_in_an_evaluation(corridor):
    """Five that succeeded and five that failed: a half of ten."""
    ended = [EpisodeResult(i, 1.0, 3, True) for i in range(5)] + [EpisodeResult(i, float("nan"), 1, None, failed="broke") for i in range(5)]
    row = summarise(corridor, ended)
    cell = {"task": corridor.name, "label": "ours", "demonstrations": 1, "error": None, "row": row, "seconds": 0.0, "bytes": 0}
    (line,) = lines_of([cell | {"parameters": 0, "successes": [r.success for r in ended]}])
    assert [line[name] for name in ("success", "success_low", "success_high")] == [
        row[name] for name in ("success", "success_low", "success_high")
    ]
    assert line["success"] == 0.5 and line["episodes"] == 10


def test_a_known_task_is_most_like_itself(trained, home, capsys):
    agent = gato.load(trained)
    store = Store(home / "stores/reach2d/train")
    assert (
        agent.memories["reach2d/train-3"]["sentence"].tolist()
        == agent.model.remember(agent.inputs, [store.episode(3)])["sentence"].tolist()
    )
    assert main(["data", "similar", str(home / "stores/reach2d/train"), "--checkpoint", str(trained), "--count", "1", "--json"]) == 0
    assert all(row["task"] == row["like"] and row["cosine"] == 1 for row in json.loads(capsys.readouterr().out))
    assert "there is no store 'nothing'" in refusal(capsys, "data", "similar", "nothing", "--checkpoint", str(trained))


def test_without_a_model_tasks_are_alike_whose_numbers_are(folder, home, capsys):
    known = str(home / "stores/reach2d/train")
    assert main(["data", "similar", known, "--known", known, "--count", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["task"] == row["like"] and row["distance"] == 0 for row in rows[::2]) and all(row["distance"] > 0 for row in rows[1::2])
    walks = [walk(i, [[i, 0.0], [i + 1, 5.0]]) for i in range(3)]
    # means 0.5, 1.5, 2.5 and their likes; what all tasks have in common tells nothing
    assert [statistics_of([w], ["position"])[0] for w in walks] == [0.5, 1.5, 2.5]
    assert statistics_of([walks[0]], ["position"]).tolist() == [0.5, 2.5, 0.5, 2.5, 1.0, 5.0]
    with StoreWriter(folder / "walks", [w.task for w in walks]) as writer:
        for w in walks:
            writer.append(w)
    (row, *_) = similar_by_statistics(str(folder / "walks"), str(folder / "walks"), count=3)[1:]
    # one of six statistics differs, by 1, and its variance over the tasks is 2 / 3: sqrt((1 / (2 / 3)) / 6)
    assert row == {"task": "walk-0", "like": "walk-1", "distance": 0.5}
    assert "cannot be compared: observation" in refusal(capsys, "data", "similar", known, "--known", str(folder / "walks"))


def walk(number: int, positions: list[list[float]]) -> Episode:
    fields = (
        FieldSpec("position", Modality.CONTINUOUS, "observation", (2,)),
        FieldSpec("move", Modality.CONTINUOUS, "action", (1,), low=(-1.0,), high=(1.0,)),
    )
    values = np.array(positions, np.float32)
    moves = np.zeros((len(values), 1), np.float32)
    return Episode(TaskSpec(f"walk-{number}", fields), {"position": values}, {"move": moves}, moves[:, 0], behaviour="expert")


def test_what_was_trained_on_demonstrations_is_a_mode_of_the_few_shot_table(trained, folder, home, capsys):
    words = [
        "finetune",
        str(trained),
        "--data",
        str(home / "stores/reach2d/test"),
        "--env",
        "reach2d/test-1",
        "--episodes",
        "1",
        "--rollouts",
        "2",
    ]
    assert main([*words, "--held_out", "0", "--modes", "embed", "retrieve", "--validation", "2", "--out", "few"]) == 0
    results = json.loads((folder / "few/fewshot.json").read_text())
    assert {row["label"] for row in results["rows"]} == {"best", "embed", "retrieve"}
    assert results["cells"][0]["bytes"] == 80 and results["cells"][0]["updates"] == 0
    assert gato.load(folder / "few/cells/embed-1-0/policy").memories.keys() > {"reach2d/test-1"}
    assert "holds tecnets, and the modes full train a Gato" in refusal(capsys, *words, "--modes", "full", "embed", "--out", "other")
    assert "the mode 'adapt' acts with mil, but" in refusal(capsys, *words, "--modes", "adapt", "--out", "other")
    agent_of(home, MilConfig(**SMALL, timesteps=2)).save(folder / "mil")
    own = [*words, "--held_out", "0", "--validation", "2", "--adapt", str(folder / "mil")]
    assert main([*own, "--modes", "embed", "adapt", "--out", "both"]) == 0
    cells = {cell["mode"]: cell["bytes"] for cell in json.loads((folder / "both/fewshot.json").read_text())["cells"]}
    assert cells["embed"] == 80 and cells["adapt"] > 1000  # twenty numbers, and all weights of a network
