"""A Gato that is told what is still to come: the field in its windows, the target at play, what is
saved, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

import gato
import gato.batch
import gato.envs
import gato.episode
from gato.agent import Agent
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import Store, StoreWriter
from gato.eval.rollout import rollout
from gato.learners.returns import RETURN, ReturnPolicy, told, told_episode

CORRIDOR = "toy/corridor"


@pytest.fixture
def task():
    return gato.envs.task(CORRIDOR)


@pytest.fixture
def home(task, tmp_path, monkeypatch):
    """Ten walks of four timesteps; in walk i the last timesteps are paid i, the first 1."""
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    env = gato.envs.make(task)
    with StoreWriter(tmp_path / "stores" / CORRIDOR, [task]) as writer:
        for i in range(10):
            writer.append(walk(task, [1, 0, 0, i]))
    env.close()
    return tmp_path


def walk(task, rewards):
    (seen,), (done,) = task.observations, task.actions
    cells = {seen.name: np.arange(len(rewards)) % 4}
    return gato.episode.Episode(task, cells, {done.name: np.ones(len(rewards), np.int64)}, np.array(rewards, np.float32))


def mixture(tokenizer, **settings) -> Mixture:
    sources = {CORRIDOR: SourceConfig(return_token=True, **settings)}
    return Mixture(DataConfig(sources=sources, prompt_share=0.0), tokenizer, 16, seed=0)


def told_returns(tokenizer, tokens) -> list[float]:
    """What the continuous tokens of a row say, times the largest return, 10."""
    ids = tokens.ids[tokens.kind == int(gato.batch.Kind.CONTINUOUS)]
    spec = next(f for f in told(replace(gato.envs.task(CORRIDOR), returns=(1, 10))).observations if f.name == RETURN)
    bins = {int(tokenizer.field_ids(spec, np.array([v / 10], np.float32))[0].ravel()[0]): v for v in range(11)}
    return [bins[int(i)] for i in ids]


def test_every_timestep_is_told_what_is_still_to_come(home, tokenizer):
    rows = mixture(tokenizer)
    store = Store(home / "stores" / CORRIDOR)
    assert rows.sources[0].per_timestep == 4  # return, cell, separator, action
    for row in range(10):
        drawn = rows.row(0, row)
        said = told_returns(tokenizer, drawn.tokens)
        expected = [r for p in drawn.pieces for r in store.returns_to_go(p.episode, p.start, p.stop)]
        assert said == expected[: len(said)] and len(said) >= 3


def test_tasks_know_their_returns_and_stores_do_not(home, tokenizer, task):
    (known,) = mixture(tokenizer).tasks.values()
    assert known.returns == (1, 10) and known == task and "returns" not in known.to_dict()
    assert Store(home / "stores" / CORRIDOR).tasks[0].returns is None


def test_a_policy_is_told_the_target_less_the_rewards(task):
    class Listening:
        memory = None

        def reset(self, num_streams, demonstrations):
            self.heard, self.demonstrations = [], demonstrations

        def act(self, observation, reward, first, streams):
            self.heard.append(observation[RETURN].tolist())
            return {}

    inner = Listening()
    policy = ReturnPolicy(inner, replace(task, returns=(0.0, 10.0)), 8.0)
    policy.reset(2, [walk(task, [1, 2, 3])])
    seen = {task.observations[0].name: np.zeros(2, np.int64)}
    policy.act(seen)
    policy.act(seen, np.array([1.0, 0.0]))
    policy.act(seen, np.array([1.0, 4.0]), np.array([False, True]))
    assert inner.heard == [pytest.approx([0.8, 0.8]), pytest.approx([0.7, 0.8]), pytest.approx([0.6, 0.8])]
    assert inner.demonstrations[0].observations[RETURN] == pytest.approx([0.6, 0.5, 0.3])
    with pytest.raises(ValueError, match="the reward of the last action is missing"):
        policy.act(seen)
    assert ReturnPolicy(inner, replace(task, returns=(0.0, 10.0))).target_return == 10


def test_an_agent_plays_for_a_return_and_remembers_it(home, make_gato, tokenizer, tmp_path, caplog):
    Agent(make_gato(context_length=64).float(), tokenizer, mixture(tokenizer).tasks).save(tmp_path / "agent")
    agent = gato.load(tmp_path / "agent", device="cpu")
    assert agent.tasks[CORRIDOR].returns == (1, 10)
    policy = agent.policy(CORRIDOR, target_return=4.0)
    results = rollout(policy, policy.task, 3, num_envs=2)
    assert len(results) == 3 and all(r.failed is None for r in results) and not caplog.text
    agent.policy(CORRIDOR, target_return=11)
    assert "the target return 11 lies outside the returns of the training data, 1 to 10" in caplog.text
    with pytest.raises(ValueError, match="'target_return' is nan, expected a number"):
        agent.policy(CORRIDOR, target_return=float("nan"))


def test_the_target_changes_what_is_likely(home, make_gato, tokenizer):
    agent = Agent(make_gato(context_length=64).float(), tokenizer, mixture(tokenizer).tasks)
    known, episode = agent.tasks[CORRIDOR], Store(home / "stores" / CORRIDOR).episode(3)
    likelihoods = agent.log_likelihood([told_episode(known, episode, np.full(4, r)) for r in (1.0, 10.0)])
    assert abs(likelihoods[0] - likelihoods[1]) > 1e-3


def test_a_state_goes_on(home, make_gato, tokenizer):
    agent = Agent(make_gato(context_length=64).float(), tokenizer, mixture(tokenizer).tasks)
    policy = agent.policy(CORRIDOR, target_return=4.0)
    (field,) = policy.task.observations
    actions = []
    for t in range(6):
        if t == 3:
            state = policy.state()
        actions.append(policy.act({field.name: np.array([t % 4])}, np.ones(1)))
    policy.reset(1)
    policy.load_state(state)
    again = [policy.act({field.name: np.array([t % 4])}, np.ones(1)) for t in range(3, 6)]
    assert again == actions[3:]


def test_what_has_no_returns_is_refused(home, task, make_gato, tokenizer, tmp_path):
    with StoreWriter(tmp_path / "unpaid", [task]) as writer:
        writer.append(walk(task, [0, 0]))
    with pytest.raises(ValueError, match="the rewards of its 1 episodes are all zero, .* or leave out return_token"):
        mixture(tokenizer, store=str(tmp_path / "unpaid"))
    agent = Agent(make_gato(context_length=64).float(), tokenizer, {CORRIDOR: task})
    with pytest.raises(ValueError, match="was trained without returns, so none can be asked for; leave out target_return"):
        agent.policy(CORRIDOR, target_return=1.0)


@pytest.mark.parametrize("returns", [[1], {"toy/other": [0, 1]}, {CORRIDOR: [2, 1]}, {CORRIDOR: [0, "much"]}])
def test_changed_returns_of_a_checkpoint_are_refused(home, make_gato, tokenizer, tmp_path, returns):
    Agent(make_gato(context_length=64).float(), tokenizer, mixture(tokenizer).tasks).save(tmp_path / "agent")
    path = tmp_path / "agent" / "gato.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"returns": returns}))
    with pytest.raises(ValueError, match="damaged: returns is .*, expected an object with the lowest and highest return"):
        gato.load(tmp_path / "agent", device="cpu")
