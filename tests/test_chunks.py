"""Chunks of actions: what is learned of them, and how they are played, averaged and computed ahead."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gato.agent import Agent, load
from gato.batch import pack_numbers
from gato.data.collection.policy_expert import PolicyExpert, policy_name
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import StoreWriter
from gato.episode import Episode
from gato.learners.chunks import ChunkPolicy, chunked, chunked_episode, unchunked
from gato.learners.folder import learned
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer


@pytest.fixture(scope="module")
def task() -> TaskSpec:
    """A place to see; a push of two numbers with bounds of their own, and a gear of three."""
    return TaskSpec(
        "toy/cart",
        (
            FieldSpec("x", Modality.CONTINUOUS, "observation", path=("x",)),
            FieldSpec("push", Modality.CONTINUOUS, "action", (2,), low=(-1.0, 0.0), high=(1.0, 10.0), path=("push",)),
            FieldSpec("gear", Modality.DISCRETE, "action", (), "int64", (0,), (2,), path=("gear",)),
        ),
    )


@pytest.fixture(scope="module")
def ride(task) -> Episode:
    """Four timesteps; at place t the push is (t / 10, t) and the gear t, but 2 at the last."""
    t = np.arange(4)
    actions = {"push": np.stack([t / 10, t], 1).astype(np.float32), "gear": np.minimum(t, 2)}
    return Episode(task, {"x": t.astype(np.float32)}, actions, np.zeros(4, np.float32))


class Told:
    """A policy of chunks of 4: at place x the pushes are x, x + 1, ... tenths and the gear is always x."""

    memory, is_acting = 1, False

    def __init__(self, task: TaskSpec) -> None:
        self.task, self.asked, self.began, self.go = chunked(task, 4), [], [], None

    def reset(self, num_streams=1, demonstrations=()):
        assert not self.is_acting, "the thread acts"

    def begin(self, stream, number):
        assert not self.is_acting, "the thread acts"

    def act(self, observation, reward=None, first=None, streams=None):
        self.is_acting = True
        if self.go is not None:
            self.go.acquire(timeout=10)
        self.is_acting = False
        x = observation["x"]
        self.asked.append(x.tolist())
        self.began.append(None if first is None else first.tolist())
        tenths = ((x[:, None] + np.arange(4)) / 10).astype(np.float32)
        return {"push": np.stack([tenths, 10 * tenths], 2), "gear": np.repeat(x[:, None].astype(np.int64), 4, 1)}


def seen(*places: float) -> dict:
    return {"x": np.array(places, np.float32)}


# -- what is learned -------------------------------------------------------------------------------------


def test_every_timestep_has_the_actions_from_it_on_and_the_last_is_repeated(ride):
    found = chunked_episode(ride, 3)
    assert found.actions["gear"].tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert found.actions["push"].shape == (4, 3, 2) and found.actions["push"][1, :, 1].tolist() == [1, 2, 3]
    assert found.observations is ride.observations and found.num_timesteps == 4


def test_a_task_of_chunks_has_the_same_bounds_at_every_timestep_and_can_be_undone(task):
    found = chunked(task, 3)
    gear, push = (next(f for f in found.actions if f.name == name) for name in ("gear", "push"))
    assert (push.shape, gear.shape) == ((3, 2), (3,))
    assert push.bounds[1].tolist() == [[1, 10]] * 3 and gear.bounds[1].tolist() == [2] * 3
    assert unchunked(found, 3) == task
    with pytest.raises(ValueError, match="action 'gear' has shape .3,., which is no chunk of 2"):
        unchunked(found, 2)
    with pytest.raises(ValueError, match="'chunk' is 0, expected a whole number from 1"):
        chunked(task, 0)


def test_actions_of_text_have_no_chunks(robot):
    words = TaskSpec("toy/words", (*robot.observations, FieldSpec("say", Modality.TEXT, "action", dtype="str")))
    with pytest.raises(ValueError, match="has actions of text, of which there are no chunks"):
        chunked(words, 2)


def test_what_looks_actions_up_learns_chunks_and_is_saved_with_them(task, ride, tmp_path):
    learned("retrieve", task, [ride], chunk=3).save(tmp_path)
    agent = load(tmp_path)
    assert agent.tasks == {"toy/cart": task} and agent.chunk == 3
    policy = agent.policy("toy/cart", every=3)
    gears = [int(policy.act(seen(x))["gear"][0]) for x in (0, 9, 9, 1)]
    assert gears == [0, 1, 2, 1]  # what it sees within a chunk changes nothing


@pytest.fixture(scope="module")
def compact_agent(make_gato, tokenizer, task):
    """compact_agent(chunk=3): an untrained Gato in the compact layout that knows the task."""

    def make(chunk: int | None = None, **rest) -> Agent:
        words = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact")
        model = make_gato(layout="compact", discrete_start=words.vocabulary.discrete.start).float()
        return Agent(model, words, {task.name: replace(task, memory=1, chunk=chunk, **rest)})

    return make


@pytest.fixture(scope="module")
def rides(task, ride, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rides")
    with StoreWriter(folder, [task]) as writer:
        writer.append(ride)
    return folder


def windows_of(agent: Agent, folder: Path, **settings) -> Mixture:
    sources = {"toy/cart": SourceConfig(store=str(folder), **settings)}
    return Mixture(DataConfig(sources=sources, prompt_share=0), agent.tokenizer, 8, seed=0)


def test_a_window_of_gato_holds_the_actions_of_its_next_timesteps(compact_agent, rides, ride):
    """A window is one timestep: its place, and three pushes of two numbers and three gears, beyond the window and to the ride's end."""
    agent = compact_agent()
    mixture = windows_of(agent, rides, memory=1, chunk=3)
    assert mixture.tasks["toy/cart"].chunk == 3 and mixture.tasks["toy/cart"] == replace(mixture.tasks["toy/cart"], chunk=None)
    found = {}
    for r in range(20):
        numbers = pack_numbers([mixture.row(0, r).tokens], 8)
        kept = (numbers.actions >= 0).all(dim=1)  # but where the row was cut
        seen = numbers.ids[numbers.place >= 0].tolist()
        found |= dict(zip(seen, numbers.actions[kept].tolist(), strict=False))
    gear = chunked(ride.task, 3).actions.index(next(f for f in chunked(ride.task, 3).actions if f.name == "gear"))
    start = agent.tokenizer.vocabulary.discrete.start
    gears = {tuple(id_ - start for id_ in (ids[:3] if gear == 0 else ids[-3:])) for ids in found.values()}
    assert gears == {(0, 1, 2), (1, 2, 2), (2, 2, 2)}
    assert {len(ids) for ids in found.values()} == {9}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"chunk": 3}, "has chunk 3 with memory None, layout compact, return_token False; chunks are of tasks of control with memory 1"),
        ({"chunk": 300, "memory": 1}, "900 numbers in a chunk, of at most 512"),
        ({"chunk": 0}, "'data.sources.chunk' is 0, expected a whole number from 1"),
    ],
)
def test_chunks_that_gato_cannot_have_are_refused(compact_agent, rides, settings, line):
    with pytest.raises(ValueError, match=line):
        windows_of(compact_agent(), rides, **settings)


def test_a_gato_of_chunks_is_saved_and_plays_them(compact_agent, tmp_path):
    compact_agent(chunk=3).save(tmp_path)
    agent = load(tmp_path)
    assert agent.tasks["toy/cart"].chunk == 3
    policy = agent.policy("toy/cart", every=3, temperature=0)
    assert isinstance(policy, ChunkPolicy) and policy.length == 3
    chunk = policy.chunks.act(seen(5), first=np.ones(1, bool))
    policy.reset(1)
    for t, x in enumerate((5, 9, 9)):
        played = policy.act(seen(x))
        assert played["gear"].tolist() == chunk["gear"][:, t].tolist()
        np.testing.assert_allclose(played["push"], chunk["push"][:, t], rtol=1e-6)
    with pytest.raises(ValueError, match="'toy/cart' was trained on single actions; leave out every"):
        compact_agent().policy("toy/cart", every=3)


def test_a_damaged_length_of_chunks_is_refused(compact_agent, tmp_path):
    compact_agent(chunk=3).save(tmp_path)
    path = tmp_path / "gato.json"
    for found, line in (({"toy/cart": "3"}, "chunks is not an object with numbers"), ({"other": 3}, "chunks names 'other'")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chunks": found}))
        with pytest.raises(ValueError, match=line):
            load(tmp_path, verify=False)


# -- how they are played ------------------------------------------------------------------------------------


def test_without_overlap_a_chunk_is_played_to_its_end(task):
    policy = ChunkPolicy(Told(task), 4, every=4)
    pushes = [policy.act(seen(x))["push"][0].tolist() for x in (0, 5, 5, 5, 7)]
    assert np.allclose(pushes, [[0, 0], [0.1, 1], [0.2, 2], [0.3, 3], [0.7, 7]])
    assert policy.chunks.asked == [[0.0], [7.0]]


def test_where_chunks_overlap_continuous_actions_are_averaged_and_the_newest_gear_counts(task):
    """At the third timestep three chunks speak: 0 + 2 tenths, 2 + 1 and 4 + 0, of ages 2, 1 and 0."""
    policy = ChunkPolicy(Told(task), 4, every=1, decay=np.log(2))
    found = [policy.act(seen(x)) for x in (0, 2, 4)]
    assert found[1]["push"][0, 0] == pytest.approx((0.1 / 2 + 0.2) / 1.5)
    assert found[2]["push"][0, 0] == pytest.approx((0.2 / 4 + 0.3 / 2 + 0.4) / 1.75)
    assert [int(f["gear"][0]) for f in found] == [0, 2, 4]
    plain = ChunkPolicy(Told(task), 4, every=1, decay=0.0)
    means = [plain.act(seen(x))["push"][0, 0] for x in (0, 2, 4)]
    assert means == pytest.approx([0, 0.15, 0.3])


def test_streams_have_plans_of_their_own_and_an_episode_begins_without_one(task):
    policy = ChunkPolicy(Told(task), 4, every=4)
    policy.reset(2)
    policy.act(seen(0, 5))
    found = policy.act(seen(9, 9), first=np.array([False, True]))
    assert found["push"][:, 0] == pytest.approx([0.1, 0.9])
    assert policy.act(seen(8), streams=np.array([1]))["push"][0, 0] == pytest.approx(1.0)
    policy.begin(1, 0)
    assert policy.act(seen(2), streams=np.array([1]))["push"][0, 0] == pytest.approx(0.2)
    assert policy.chunks.asked == [[0.0, 5.0], [9.0], [2.0]]
    assert policy.chunks.began == [[True, True], [True], [False]]  # what has been told to begin is not told again
    assert policy.has_begun(1)


def test_episodes_side_by_side_draw_the_chance_of_those_one_after_the_other(make_gato, tokenizer):
    """Six episodes of an untrained Gato, which begin in one stream, in three and with a thread: the very same ones."""
    pytest.importorskip("gymnasium", reason="needs the extra 'gym'")
    from gato import envs
    from gato.eval.rollout import rollout

    task = envs.task("toy/corridor")
    words = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact")
    model = make_gato(layout="compact", discrete_start=words.vocabulary.discrete.start).float()
    agent = Agent(model, words, {task.name: replace(task, memory=1, chunk=3)})
    found = [
        [vars(r) for r in rollout(agent.policy(task.name, every=3, ahead=ahead), task, 6, num_envs=n)]
        for n, ahead in ((1, False), (3, False), (1, True))
    ]
    assert found[0] == found[1] == found[2] and len({row["num_timesteps"] for row in found[0]}) > 1


def test_in_an_experts_place_the_episodes_own_seed_decides_what_chunks_are_drawn(compact_agent, tmp_path):
    """The same place twelve times; the chunks' gears are drawn among three."""
    spaces = pytest.importorskip("gymnasium", reason="needs the extra 'gym'").spaces
    compact_agent(chunk=3).save(tmp_path)
    expert = PolicyExpert("toy/cart", policy_name(tmp_path, "learner"))

    def gears(seed: int) -> list[int]:
        env = SimpleNamespace(action_space=spaces.Discrete(3, seed=seed))
        expert.reset(env)
        return [int(expert.act(env, {"x": np.float32(0)})["gear"]) for _ in range(12)]

    first, second, again = gears(0), gears(1), gears(0)
    assert first == again != second


def test_a_chunk_is_computed_while_the_one_before_it_plays(task):
    """The second chunk, of what was seen at timestep 1, takes until timestep 3: its first two actions are past then."""
    told = Told(task)
    told.go = threading.Semaphore(1)
    policy = ChunkPolicy(told, 4, every=1, decay=1000.0, ahead=True)
    found = [float(policy.act(seen(x))["push"][0, 0]) for x in (0, 5, 6)]
    assert found == pytest.approx([0, 0.1, 0.2])  # nobody waited
    told.go.release()
    while not policy._plans[0].coming.done():
        pass
    assert float(policy.act(seen(7))["push"][0, 0]) == pytest.approx(0.7)  # 5 + 2 timesteps
    assert policy.waited == 0 and told.asked[:2] == [[0.0], [5.0]]
    told.go.release(8)


def test_where_a_plan_ends_before_the_next_is_there_it_is_waited_for_and_counted(task):
    told = Told(task)
    told.go = threading.Semaphore(1)
    policy = ChunkPolicy(told, 4, every=1, ahead=True)
    for x in (0, 1, 2, 3):
        policy.act(seen(x))
    threading.Timer(0.05, told.go.release, [5]).start()
    policy.act(seen(4))
    assert policy.waited == 1


@pytest.mark.parametrize("anew", [lambda policy: policy.reset(2), lambda policy: policy.begin(1, 5)])
def test_what_is_computed_ahead_is_waited_for_before_anything_begins_anew(task, anew):
    """Both streams have a first chunk; the second one of the first stream is still being computed."""
    told = Told(task)
    told.go = threading.Semaphore(2)
    policy = ChunkPolicy(told, 4, every=1, ahead=True)
    policy.reset(2)
    policy.act(seen(0, 5))
    policy.act(seen(1), streams=np.array([0]))
    threading.Timer(0.05, told.go.release, [3]).start()
    anew(policy)
    assert told.asked == [[0.0], [5.0], [1.0]]
    assert float(policy.act(seen(7), streams=np.array([1]))["push"][0, 0]) == pytest.approx(0.7)


def test_policies_that_remember_and_numbers_out_of_range_are_refused(task):
    told = Told(task)
    for name, value in (("every", 0), ("every", 5), ("decay", -1.0)):
        with pytest.raises(ValueError, match=f"'{name}' is {value}"):
            ChunkPolicy(told, 4, **{name: value})
    told.memory = None
    with pytest.raises(ValueError, match="this one remembers"):
        ChunkPolicy(told, 4)
