"""Decision Transformer: windows of returns, the model beside transformers' own, the loss, acting
for a return, and disk."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import DecisionTransformerConfig, DecisionTransformerModel

import gato
from gato.data.selection import SourceConfig
from gato.data.store import Store, StoreWriter
from gato.data.trajectories import Trajectories, best_episodes
from gato.episode import Episode
from gato.learners.decision_agent import DecisionAgent, load_published
from gato.learners.decision_config import DecisionConfig
from gato.learners.decision_transformer import DecisionLearner, DecisionTransformer
from gato.learners.fields import ActionHead
from gato.learners.trajectory import TrajectoryStatistics, Window, collate
from gato.spec import FieldSpec, Modality, TaskSpec

TINY = DecisionConfig(num_layers=2, num_heads=2, width=16, context=4, dropout=0.0)


@pytest.fixture(scope="module")
def arm() -> TaskSpec:
    """A camera, two readings and a mode to see; two motors with bounds of their own, and a gripper
    of three values."""
    return TaskSpec(
        "toy/arm",
        (
            FieldSpec("camera", Modality.IMAGE, "observation", (16, 16, 3), "uint8", path=("camera",)),
            FieldSpec("angles", Modality.CONTINUOUS, "observation", (2,), path=("angles",)),
            FieldSpec("mode", Modality.DISCRETE, "observation", (), "int64", (5,), (7,), path=("mode",)),
            FieldSpec("motors", Modality.CONTINUOUS, "action", (2,), low=(-1.0, 0.0), high=(1.0, 10.0), path=("motors",)),
            FieldSpec("gripper", Modality.DISCRETE, "action", (2,), "int64", (0, 1), (2, 2), path=("gripper",)),
        ),
        episode_limit=12,
    )


def move(task: TaskSpec, rewards: list[float], seed: int = 0, **rest) -> Episode:
    """An episode with these rewards; everything else is random."""
    rng, length = np.random.default_rng(seed), len(rewards)
    seen = {
        "camera": rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8),
        "angles": rng.normal(3.0, 2.0, (length, 2)).astype(np.float32),
        "mode": rng.integers(5, 8, length),
    }
    done = {"motors": rng.uniform([-1, 0], [1, 10], (length, 2)).astype(np.float32), "gripper": rng.integers([0, 1], [3, 3], (length, 2))}
    return Episode(task, seen, done, np.array(rewards, np.float32), terminated=True, **rest)


@pytest.fixture(scope="module")
def store(arm, tmp_path_factory) -> Store:
    """Five episodes of 2, 3, 6, 9 and 10 timesteps with the returns 2, 6, 6, -9 and 1."""
    path = tmp_path_factory.mktemp("stores") / "arm"
    with StoreWriter(path, [arm]) as writer:
        for i, rewards in enumerate(([1, 1], [3, 2, 1], [1] * 6, [-1] * 9, [0] * 9 + [1])):
            writer.append(move(arm, rewards, seed=i))
    return Store(path)


def trajectories(store: Store, **settings) -> Trajectories:
    return Trajectories("arm", SourceConfig(), store, **({"context": 4} | settings))


def model_of(rows: Trajectories, config: DecisionConfig = TINY, seed: int = 0) -> DecisionTransformer:
    torch.manual_seed(seed)
    model = DecisionTransformer(rows.task, config, rows.statistics, 12)
    for parameter in model.parameters():  # far from the small initial weights, so that everything matters
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


# -- windows ---------------------------------------------------------------------------------------


def test_a_return_to_go_is_what_is_still_to_come(store):
    rows = trajectories(store)
    for row in range(40):
        number, start, _ = rows.place(0, row)
        window, rewards = rows.window(0, row), store.episode(number).rewards
        assert len(window) == min(4, len(rewards))
        assert window.returns_to_go.tolist() == [rewards[t:].sum() for t in range(start, start + len(window))]


def test_long_episodes_are_drawn_more_often_and_windows_are_full(store):
    rows = trajectories(store)
    places = [rows.place(step, row) for step in range(300) for row in range(10)]
    shares = np.bincount([number for number, *_ in places], minlength=5) / len(places)
    assert shares == pytest.approx(store.lengths / 30, abs=0.03)
    starts = [start for number, start, _ in places if number == 4]
    assert set(starts) == set(range(7)) and np.bincount(starts) / len(starts) == pytest.approx([1 / 7] * 7, abs=0.04)


def test_a_row_depends_on_seed_step_and_row_alone(store):
    rows, again, other = (trajectories(store), trajectories(Store(store.path)), trajectories(store, seed=1))
    assert [rows.place(3, r) for r in range(8)] == [again.place(3, r) for r in reversed(range(8))][::-1]
    assert [rows.place(3, r) for r in range(8)] != [other.place(3, r) for r in range(8)]
    whole = next(rows.loader(range(5, 6), 6, 6))[0]
    halves = [next(rows.loader(range(5, 6), 6, 2, rank, 2)) for rank in range(2)]
    parts = [batch for half in halves for batch in half]
    assert torch.equal(whole.returns_to_go, torch.cat([b.returns_to_go for b in parts]))
    assert torch.equal(whole.observations["camera"], torch.cat([b.observations["camera"] for b in parts]))
    assert whole.denominator == sum(half[0].denominator for half in halves)


def test_short_episodes_are_padded_on_the_left(store):
    window = Window(
        {k: v[:3] for k, v in store.episode(1).observations.items()}, store.episode(1).actions, np.array([6, 3, 1], np.float32), 0
    )
    batch = collate(store.tasks[0], [window], 4)
    assert batch.is_padding.tolist() == [[True, False, False, False]]
    assert (batch.returns_to_go.tolist(), batch.timesteps.tolist(), batch.denominator) == ([[0, 6, 3, 1]], [[0, 0, 1, 2]], 3)
    assert trajectories(store).counts(batch) == {"tokens": 9, "places": 12, "transitions": 3}


def test_the_best_episodes_hold_a_share_of_the_timesteps(store):
    """Returns 6 and 6 have 9 of the 30 timesteps; with return 2 they are 11, with return 1 they are
    21."""
    assert [best_episodes(store, None, share).tolist() for share in (0.01, 0.3, 0.37, 0.7, 1.0)] == [
        [1],
        [1, 2],
        [0, 1, 2],
        [0, 1, 2, 4],
        [0, 1, 2, 3, 4],
    ]
    rows = trajectories(store, best_share=0.3)
    assert {rows.place(0, row)[0] for row in range(50)} == {1, 2}
    assert (rows.statistics.lowest, rows.statistics.highest, rows.statistics.longest, rows.statistics.episodes) == (6, 6, 6, 2)


def test_delayed_rewards_leave_the_return_as_it_was(store):
    rows = trajectories(store, delayed_reward=True)
    for row in range(20):
        assert set(rows.window(0, row).returns_to_go) == {store.returns[rows.place(0, row)[0]]}


def test_shuffled_returns_tell_a_window_the_return_of_another_episode(store):
    rows, plain = trajectories(store, shuffled_returns=True), trajectories(store)
    told = []
    for row in range(200):
        number, start, said = rows.place(0, row)
        assert (number, start) == plain.place(0, row)[:2]
        assert rows.window(0, row).returns_to_go - plain.window(0, row).returns_to_go == pytest.approx(said - store.returns[number])
        told.append((number, said))
    assert {said for number, said in told if number == 3} == set(store.returns)


def test_what_is_measured_is_that_of_all_timesteps(store):
    found = trajectories(store).statistics
    angles = np.concatenate([store.episode(i).observations["angles"] for i in range(5)])
    assert found.mean["angles"] == pytest.approx(angles.mean(axis=0)) and found.spread["angles"] == pytest.approx(angles.std(axis=0))
    assert (found.lowest, found.returns["0.5"], found.highest, found.return_scale, found.longest) == (-9, 2, 6, 9, 10)


def test_of_a_large_store_only_a_part_is_measured(arm, tmp_path, monkeypatch):
    monkeypatch.setattr("gato.data.trajectories.MEASURED", 40)
    monkeypatch.setattr("gato.data.trajectories.PIECE", 4)
    with StoreWriter(tmp_path / "arm", [arm]) as writer:
        for i in range(20):
            writer.append(move(arm, [1.0] * 10, seed=i))
    store, read = Store(tmp_path / "arm"), []
    monkeypatch.setattr(store, "episode", lambda i, start=0, stop=None: read.append(stop - start) or Store.episode(store, i, start, stop))
    found = trajectories(store).statistics
    assert sum(read) == 40 and found.mean["angles"] == pytest.approx([3, 3], abs=1.5)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([], "source 'arm' holds no episodes; collect or import some first"),
        ([[0, 0], [0]], "source 'arm': the rewards of its 2 episodes are all zero, so there are no returns to learn from"),
    ],
)
def test_a_store_with_nothing_to_learn_from_is_refused(arm, tmp_path, rewards, message):
    with StoreWriter(tmp_path / "arm", [arm]) as writer:
        for each in rewards:
            writer.append(move(arm, each))
    with pytest.raises(ValueError, match=message):
        trajectories(Store(tmp_path / "arm"))
    if rewards:
        assert trajectories(Store(tmp_path / "arm"), needs_returns=False).window(0, 0).returns_to_go.tolist()[0] == 0


def test_rewards_that_cancel_are_rewards(arm, tmp_path):
    with StoreWriter(tmp_path / "arm", [arm]) as writer:
        writer.append(move(arm, [1, -1]))
    assert trajectories(Store(tmp_path / "arm")).window(0, 0).returns_to_go.tolist() == [0, -1]


def test_several_tasks_and_settings_without_a_meaning_are_refused(arm, store, tmp_path):
    with StoreWriter(tmp_path / "both", [arm, replace(arm, name="toy/other")]) as writer:
        writer.append(move(arm, [1.0]))
    with pytest.raises(ValueError, match="source 'arm' holds 2 tasks, a Decision Transformer learns one"):
        trajectories(Store(tmp_path / "both"))
    with pytest.raises(ValueError, match="source 'arm' has memory 3, which a Decision Transformer knows not; leave it out"):
        Trajectories("arm", SourceConfig(memory=3), store)


def test_noisy_episodes_and_returns_that_never_differ_are_said(arm, tmp_path, caplog):
    with StoreWriter(tmp_path / "arm", [arm]) as writer:
        for behaviour in ("expert", "noisy"):
            writer.append(move(arm, [1, 1], behaviour=behaviour))
    trajectories(Store(tmp_path / "arm"))
    assert "source 'arm': all 2 episodes have the return 2, so no other can be asked for" in caplog.text
    assert "source 'arm': 1 of 2 episodes are noisy: some of their recorded actions are not the ones" in caplog.text


# -- the model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["relu", "gelu_new"])
def published(request, tmp_path_factory):
    """transformers' model with random weights, and the folder that it is saved in."""
    torch.manual_seed(0)
    config = DecisionTransformerConfig(
        state_dim=5, act_dim=3, hidden_size=32, n_layer=2, n_head=4, max_ep_len=50, activation_function=request.param
    )
    model = DecisionTransformerModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("published")
    model.save_pretrained(folder)
    return model, folder


def test_with_copied_weights_it_computes_what_transformers_computes(published):
    theirs, folder = published
    agent = load_published(folder, mean=[1.0] * 5, spread=[2.0] * 5, return_scale=10.0)
    batch, places = 3, 7
    states, actions = torch.randn(batch, places, 5), torch.rand(batch, places, 3) * 2 - 1
    returns, timesteps = (torch.randn(batch, places) * 30, torch.arange(places).repeat(batch, 1) + torch.tensor([[0], [3], [40]]))
    is_padding = torch.arange(places) < torch.tensor([[0], [2], [5]])
    with torch.no_grad():
        (mine,) = agent.model({"observation": states}, {"action": actions}, returns, timesteps, is_padding)
        out = theirs(
            states=(states - 1) / 2, actions=actions, rewards=None, returns_to_go=returns[..., None] / 10,
            timesteps=timesteps, attention_mask=(~is_padding).long(),
        )  # fmt: skip
    assert mine[~is_padding].std() > 0.1
    torch.testing.assert_close(mine[~is_padding], out.action_preds[~is_padding], rtol=1e-4, atol=1e-5)


def test_published_weights_act_and_survive_our_own_format(published, tmp_path):
    agent = load_published(published[1])
    agent.save(tmp_path / "copy")
    again = DecisionAgent.load(tmp_path / "copy")
    assert again.model.config == agent.model.config and again.model.statistics == agent.model.statistics
    seen = {"observation": np.ones((1, 5), np.float32)}
    assert np.array_equal(agent.policy(target_return=500.0).act(seen)["action"], again.policy(target_return=500.0).act(seen)["action"])


def test_the_pages_example_opens_a_checkpoint_of_transformers(tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    config = DecisionTransformerConfig(state_dim=11, act_dim=3, hidden_size=16, n_layer=1, n_head=1, max_ep_len=50)
    DecisionTransformerModel(config).save_pretrained("hopper")
    page = Path(__file__).parent.parent / "docs/results/decision-transformer.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(compile(code, page.name, "exec"), named := {})
    policy, again = named["policy"], gato.load("runs/hopper").policy("mujoco/hopper")
    assert (policy.target_return, again.target_return, again.memory) == (1800, 3600, 20)
    assert again.act({"observation": np.ones((1, 11))})["action"].shape == (1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "is of model_type 'gpt2', expected 'decision_transformer'"),
        ({"action_tanh": False}, "has action_tanh False, this network knows True only"),
        ({"state_dim": 6}, "holds 'embed_state.weight' of shape .32, 5., config.json asks for .32, 6."),
        ({"hidden_size": "large"}, "config.json': 'model.width' is 'large', expected a whole number"),
    ],
)
def test_another_published_model_is_refused(published, tmp_path, change, message):
    content = json.loads((published[1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | change))
    (tmp_path / "model.safetensors").write_bytes((published[1] / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=message):
        load_published(tmp_path)


def test_pickled_weights_are_never_opened(published, tmp_path):
    (tmp_path / "config.json").write_bytes((published[1] / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="holds its weights as pytorch_model.bin, which is never opened here"):
        load_published(tmp_path)


def outputs(model: DecisionTransformer, batch) -> torch.Tensor:
    with torch.no_grad():
        found = model(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps, batch.is_padding)
    return torch.cat([part.flatten(2) for part in found], dim=-1)


def test_whole_numbers_that_a_float_skips_are_values_like_any_other():
    """Four values from 2**24 + 1 on, of which the last is four above what float32 makes of the first."""
    low = 2**24 + 1
    head = ActionHead([FieldSpec("code", Modality.DISCRETE, "action", (), "int64", (low,), (low + 3,))], 2)
    with torch.no_grad():
        outputs = head(torch.ones(4, 2))
    codes = torch.arange(low, low + 4)
    (losses,) = head.losses(outputs, {"code": codes})
    torch.testing.assert_close(losses, -outputs[0].log_softmax(-1)[0, 0])
    chosen = [np.eye(4)[i][None, None] * 1e6 for i in range(4)]
    assert [int(head.decode([outputs[0][:1]], [noise])["code"][0]) for noise in chosen] == codes.tolist()


def test_nothing_later_changes_an_earlier_action(store):
    """Return, state and action of the third place: the first two places stay; the third's own
    return and state matter, its action not."""
    rows = trajectories(store)
    model, batch = (model_of(rows), rows.batch(0, [r for r in range(20) if len(rows.window(0, r)) == 4][:3]))
    before = outputs(model, batch)
    for changed, matters in (
        (replace(batch, returns_to_go=batch.returns_to_go + torch.tensor([0, 0, 5, 0])), True),
        (replace(batch, observations=batch.observations | {"angles": batch.observations["angles"] + torch.eye(4)[2][:, None]}), True),
        (replace(batch, actions=batch.actions | {"motors": batch.actions["motors"] + torch.eye(4)[2][:, None]}), False),
    ):
        after = outputs(model, changed)
        assert torch.equal(after[:, :2], before[:, :2])
        assert torch.equal(after[:, 2], before[:, 2]) != matters and not torch.equal(after[:, 3], before[:, 3])


def test_padding_changes_nothing(store):
    rows = trajectories(store)
    model, window = (model_of(rows), Window(store.episode(1).observations, store.episode(1).actions, np.array([6, 3, 1], np.float32), 0))
    alone, padded = (collate(rows.task, [window], length) for length in (3, 6))
    torch.testing.assert_close(outputs(model, padded)[:, 3:], outputs(model, alone), equal_nan=True)
    filled = replace(padded, observations=padded.observations | {"mode": padded.observations["mode"] + 6 * padded.is_padding})
    filled = replace(filled, returns_to_go=filled.returns_to_go + 99 * filled.is_padding)
    assert torch.equal(outputs(model, filled)[:, 3:], outputs(model, padded)[:, 3:])
    learner = DecisionLearner(model)
    torch.testing.assert_close(learner(filled)[0], learner(alone)[0])


def test_every_field_is_seen(store):
    rows = trajectories(store)
    model, batch = model_of(rows), rows.batch(0, range(6))
    for name, values in batch.observations.items():
        changed = values.flip(-1) if name != "mode" else 12 - values
        assert not torch.equal(outputs(model, replace(batch, observations=batch.observations | {name: changed})), outputs(model, batch)), (
            name
        )


def test_the_loss_is_squared_errors_and_cross_entropies_over_the_timesteps(store):
    rows = trajectories(store)
    model, batch = model_of(rows), rows.batch(0, range(8))
    loss, sums = DecisionLearner(model)(batch)
    gripper, motors = model(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps, batch.is_padding)
    expected, right, real = torch.zeros(2), 0, ~batch.is_padding
    for b, t in real.nonzero().tolist():
        wanted = batch.actions["motors"][b, t] * torch.tensor([1.0, 0.2]) - torch.tensor([0.0, 1.0])
        expected[1] += ((motors[b, t] - wanted) ** 2).mean()
        chosen = batch.actions["gripper"][b, t] - torch.tensor([0, 1])
        expected[0] -= sum(gripper[b, t, i].log_softmax(-1)[chosen[i]] for i in range(2))
        right += bool((gripper[b, t].argmax(-1) == chosen).all())
    torch.testing.assert_close(sums["loss_by_action"], expected)
    torch.testing.assert_close(loss, expected.sum() / real.sum())
    assert sums["hits"].tolist() == [right, 0] and sums["targets"].tolist() == [real.sum()]
    report = DecisionLearner(model).report({name: values.tolist() for name, values in sums.items()})
    assert report["accuracy"] == {"gripper": right / int(real.sum())} and set(report["loss_by_action"]) == {"motors", "gripper"}


def test_every_parameter_learns_and_is_in_one_group(store):
    rows = trajectories(store)
    learner = DecisionLearner(model_of(rows))
    learner.train()
    learner(rows.batch(0, range(8)))[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())
    groups = learner.parameter_groups(0.1)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, learner.parameters()))


def test_dropout_follows_from_the_step(store):
    rows = trajectories(store)
    learner = DecisionLearner(model_of(rows, replace(TINY, dropout=0.5))).train()
    torch.manual_seed(1)
    first, untouched = learner(rows.batch(0, range(4)))[0], torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == untouched and learner(rows.batch(0, range(4)))[0] == first
    assert learner(replace(rows.batch(0, range(4)), seed=3))[0] != first


def test_without_returns_nothing_is_told_of_them(store):
    rows = trajectories(store, needs_returns=False)
    model, batch = model_of(rows, replace(TINY, condition="none")), rows.batch(0, range(6))
    assert torch.equal(outputs(model, replace(batch, returns_to_go=batch.returns_to_go + 5)), outputs(model, batch))
    assert model.embed_return is None
    with pytest.raises(ValueError, match="'model.shuffled_returns' is set, but with model.condition none no return is shown"):
        DecisionConfig(condition="none", shuffled_returns=True)


def test_text_is_refused(robot):
    with pytest.raises(ValueError, match="task 'toy/robot' has the text 'goal', which a Decision Transformer does not read"):
        DecisionTransformer(robot, TINY, None, 4)


# -- acting ----------------------------------------------------------------------------------------


def seen_at(episode: Episode, t: int) -> dict[str, np.ndarray]:
    return {name: values[t : t + 1] for name, values in episode.observations.items()}


@pytest.mark.parametrize("delayed", [False, True])
def test_acting_is_the_forward_pass_over_what_was_seen(store, delayed):
    """Seven timesteps with a context of four: rewards are taken off the target, and old timesteps
    are left behind."""
    rows = trajectories(store)
    model = model_of(rows, replace(TINY, delayed_reward=delayed))
    policy, episode = (DecisionAgent(model).policy(target_return=5.0, temperature=0.0), store.episode(4))
    actions = [policy.act(seen_at(episode, t), None if t == 0 else np.array([0.5 * t], np.float32)) for t in range(7)]
    paid = np.array([0, 0.5, 1.5, 3, 5, 7.5, 10.5])
    told = np.full(7, 5.0) if delayed else 5.0 - paid
    done = {name: np.concatenate([a[name] for a in actions])[3:7] for name in actions[0]}
    window = Window({k: v[3:7] for k, v in episode.observations.items()}, done, told[3:7].astype(np.float32), 3)
    batch = collate(rows.task, [window], 4)
    with torch.no_grad():
        out = model(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps, batch.is_padding)
    expected = model.predict_action.decode([part[:, -1] for part in out], [None, None])
    assert (
        expected["motors"][0] == pytest.approx(actions[6]["motors"][0], abs=1e-5) and (expected["gripper"] == actions[6]["gripper"]).all()
    )


def test_streams_side_by_side_act_as_they_would_alone(store):
    agent, a, b = DecisionAgent(model_of(trajectories(store))), store.episode(3), store.episode(4)
    together, alone = agent.policy(seed=1), agent.policy(seed=1)
    together.reset(2)
    both = [
        together.act({k: np.stack([a.observations[k][t], b.observations[k][t]]) for k in a.observations}, np.ones(2, np.float32))
        for t in range(6)
    ]
    for i, episode in enumerate((a, b)):  # the k-th episode has the k-th generator
        for t in range(6):
            actions = alone.act(seen_at(episode, t), np.ones(1, np.float32), np.array([t == 0]))
            assert all(np.allclose(actions[name][0], both[t][name][i], atol=1e-5) for name in actions)


def test_actions_lie_in_their_ranges_and_a_state_goes_on(store):
    policy = DecisionAgent(model_of(trajectories(store))).policy()
    seen = []
    for t in range(9):
        if t == 5:
            state = policy.state()
        seen.append(policy.act(seen_at(store.episode(3), t), None if t == 0 else np.zeros(1)))
    for actions in seen:
        assert (np.abs(actions["motors"] - [0, 5]) <= [1, 5]).all() and actions["motors"].dtype == np.float32
        assert actions["gripper"][0, 0] in (0, 1, 2) and actions["gripper"][0, 1] in (1, 2)
    policy.reset(3)
    policy.load_state(state)
    again = [policy.act(seen_at(store.episode(3), t), np.zeros(1)) for t in range(5, 9)]
    assert all(np.array_equal(a["gripper"], b["gripper"]) for a, b in zip(again, seen[5:], strict=True))


def test_a_state_knows_which_episode_a_stream_has_been_told_to_begin(store):
    """The seventh goes as the seventh goes, also where the stream has not acted in between."""
    agent = DecisionAgent(model_of(trajectories(store)))
    told, later, other = agent.policy(), agent.policy(), agent.policy()
    told.begin(0, 7)
    later.load_state(told.state())
    played = [
        [policy.act(seen_at(store.episode(3), t), np.zeros(1))["gripper"].tolist() for t in range(6)] for policy in (told, later, other)
    ]
    assert played[0] == played[1] != played[2]


def test_one_environment_is_played_with_its_rewards(store):
    policy, episode = DecisionAgent(model_of(trajectories(store))).policy(), store.episode(3)
    action = policy.act_one({k: v[0] for k, v in episode.observations.items()})
    assert set(action) == {"motors", "gripper"} and action["motors"].shape == (2,)
    policy.act_one({k: v[1] for k, v in episode.observations.items()}, reward=1.0)
    with pytest.raises(ValueError, match="the reward of the last action is missing"):
        policy.act_one({k: v[2] for k, v in episode.observations.items()})


def test_a_target_outside_the_data_is_said_and_one_that_is_no_number_refused(store, caplog):
    agent = DecisionAgent(model_of(trajectories(store)))
    assert agent.policy().target_return == 6 and agent.policy(target_return=-9).target_return == -9 and not caplog.text
    assert agent.policy(target_return=7).target_return == 7
    assert "task toy/arm: the target return 7 lies outside the returns of the training data, -9 to 6" in caplog.text
    for wrong in (float("nan"), float("inf"), "much", True):
        with pytest.raises(ValueError, match="'target_return' is .*, expected a number"):
            agent.policy(target_return=wrong)
    blind = DecisionAgent(model_of(trajectories(store), replace(TINY, condition="none")))
    with pytest.raises(ValueError, match="trained without returns .condition none., so it has no use for target_return"):
        blind.policy(target_return=1.0)
    assert blind.policy().act(seen_at(store.episode(0), 0))


def test_timesteps_beyond_the_table_are_said_once(store, caplog):
    rows = trajectories(store)
    policy = DecisionAgent(DecisionTransformer(rows.task, TINY, rows.statistics, 3)).policy()
    with caplog.at_level(logging.WARNING):
        for t in range(6):
            policy.act(seen_at(store.episode(3), t), np.zeros(1), np.array([t == 0]))
    assert caplog.text.count("goes on beyond the 3 timesteps that the model tells apart") == 1


def test_demonstrations_are_no_prompts(store):
    with pytest.raises(ValueError, match="takes no demonstrations as prompts; give --target_return"):
        DecisionAgent(model_of(trajectories(store))).policy().reset(1, [store.episode(0)])


# -- disk ------------------------------------------------------------------------------------------


@pytest.fixture
def saved(store, tmp_path):
    DecisionAgent(model_of(trajectories(store))).save(tmp_path / "agent")
    return tmp_path / "agent"


def test_a_saved_agent_is_the_same_agent(store, saved):
    before, after = DecisionAgent(model_of(trajectories(store))), DecisionAgent.load(saved)
    assert after.tasks == before.tasks and after.model.statistics == before.model.statistics
    batch = trajectories(store).batch(0, range(4))
    assert torch.equal(outputs(after.model, batch), outputs(before.model, batch))
    assert after.model.statistics.highest == 6 and after.model.statistics.return_scale == 9


def test_an_unknown_task_is_refused(saved):
    with pytest.raises(ValueError, match="was not trained on 'toy/leg'; it knows toy/arm"):
        DecisionAgent.load(saved).policy("toy/leg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learner": "gato"}, "is of format 1 and learner 'gato', expected 1 and 'decision-transformer'"),
        ({"num_timesteps": 13}, "holds 'embed_timestep.weight' of shape .12, 16., gato.json asks for .13, 16."),
        ({"num_timesteps": "many"}, "damaged: num_timesteps is 'many', expected a whole number above 0"),
        ({"model": {"width": -1}}, "damaged: 'model.width' is -1, expected a whole number"),
        ({"model": {"depth": 1}}, "damaged: model is .*, expected an object with num_layers"),
        ({"tasks": []}, "damaged: tasks is .., expected a list of one task"),
        ({"statistics": {}}, "damaged: statistics is {}, expected an object with"),
        ({"more": 1}, "damaged: its keys are"),
    ],
)
def test_a_changed_description_is_refused(saved, change, message):
    content = json.loads((saved / "gato.json").read_text())
    (saved / "gato.json").write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=message):
        DecisionAgent.load(saved, verify=False)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("spread", {"angles": [1.0, 0.0]}, "a spread is not above 0"),
        ("mean", {"angles": [1.0]}, "mean of 'angles' is .*, expected 2 finite numbers"),
        ("return_scale", 0, "return_scale is 0, expected a number above 0"),
        ("returns", {"1.0": 3}, "returns is .*, expected finite numbers for 0.0"),
        ("longest", 0, "longest is a number, expected a whole number above 0"),
    ],
)
def test_changed_statistics_are_refused(store, name, value, message):
    values = json.loads(json.dumps(trajectories(store).statistics.to_dict()))
    assert TrajectoryStatistics.from_dict(values, store.tasks[0]) == trajectories(store).statistics
    with pytest.raises(ValueError, match=message):
        TrajectoryStatistics.from_dict(values | {name: value}, store.tasks[0])


def test_changed_weights_are_refused(saved):
    weights = DecisionAgent.load(saved).model.state_dict()
    save_file(weights | {"embed_ln.bias": weights["embed_ln.bias"] + 1}, saved / "model.safetensors")
    with pytest.raises(ValueError, match="its SHA-256 is not that of manifest.json"):
        DecisionAgent.load(saved)
    DecisionAgent.load(saved, verify=False)
