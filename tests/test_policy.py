"""Acting: what the policy computes is what the model would say of the same tokens, stream by stream.

A timestep of the toy robot with the instruction "go" has 8 tokens (2 patches, 1 word, 2 readings, the bar,
2 motors), so a context of 64 holds exactly 8 timesteps.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SCHEMES

from gato.batch import ACTION_LOCAL, collate, join
from gato.episode import Episode
from gato.layers.acting import ActingTransformer
from gato.layers.packed import can_pack
from gato.learners.gato import GatoLearner
from gato.policy import GatoPolicy
from gato.spec import FieldSpec, Modality, TaskSpec

EXACT = dict(rtol=1e-9, atol=1e-9)  # float64, up to the order of summation; rotary angles are equal bit by bit


WAYS = [(p, "rebuild") for p in SCHEMES] + [("rope", "rolling"), ("transformer_xl", "rolling")]  # learned positions cannot roll


class Recorder(GatoPolicy):
    """A policy that keeps the scores it chose from: one (n, legal ids) per action token."""

    def _sample(self, scores, legal, rows):
        self.scores.append(scores)
        return super()._sample(scores, legal, rows)


def recorder(*arguments, **rest) -> Recorder:
    policy = Recorder(*arguments, **rest)
    policy.scores = []
    return policy


def shown(episode: Episode, t: int) -> dict[str, np.ndarray]:
    return {name: values[t : t + 1] for name, values in episode.observations.items()}


def live(policy: GatoPolicy, episode: Episode, first: tuple[int, ...] = (0,)) -> Episode:
    """Shows the episode's observations to stream 0 and gives the episode of the actions that came back."""
    actions = []
    for t in range(episode.num_timesteps):
        actions.append(policy.act(shown(episode, t), np.zeros(1), np.array([t in first]), np.array([0]))["motors"])
    return replace(episode, actions={"motors": np.concatenate(actions)})


def scores_of(model, tokenizer, tokens, mask=None) -> torch.Tensor:
    """(action tokens, continuous ids): the model's scores of every action of a sequence in one forward pass."""
    batch = collate([tokens], len(tokens), tokenizer.vocabulary.pad)
    with torch.no_grad():
        hidden = model.transformer(model.embedding(batch.ids, batch.local_position, batch.patches, batch.patch_boxes), mask)
        before = (batch.local_position[0] == ACTION_LOCAL).nonzero()[:, 0] - 1
        legal = torch.tensor(list(tokenizer.vocabulary.continuous))
        return model.score(hidden[0, before], legal)


# -- one stream ----------------------------------------------------------------------------------------


def test_acting_equals_one_forward_pass_while_the_context_is_not_full(tiny, tokenizer, robot, drive):
    policy = recorder(tiny, tokenizer, robot)
    acted = live(policy, drive(8))
    torch.testing.assert_close(torch.cat(policy.scores), scores_of(tiny, tokenizer, tokenizer.encode(acted)), **EXACT)


def test_rebuilding_equals_a_fresh_forward_of_the_retained_window(tiny, tokenizer, robot, drive):
    """24 timesteps are 3 contexts. A full context drops to 4 timesteps, the new one included: half of it."""
    policy = recorder(tiny, tokenizer, robot, overflow="rebuild")
    acted = live(policy, drive(24))
    retained = [*range(1, 9), *range(4, 9), *range(4, 9), *range(4, 9), 4]
    for t, n in enumerate(retained):
        window = tokenizer.encode(acted.window(t + 1 - n, t + 1))
        torch.testing.assert_close(torch.cat(policy.scores[2 * t : 2 * t + 2]), scores_of(tiny, tokenizer, window)[-2:], **EXACT)


@pytest.mark.parametrize("positions", ["rope", "transformer_xl"])
def test_rolling_equals_one_forward_over_all_history_under_a_banded_mask(make_gato, tokenizer, robot, drive, positions):
    model = make_gato(positions)
    policy = recorder(model, tokenizer, robot, overflow="rolling")
    tokens = tokenizer.encode(live(policy, drive(24)))
    back = torch.arange(len(tokens))[:, None] - torch.arange(len(tokens))
    banded = ((back >= 0) & (back < 64))[None, None]
    torch.testing.assert_close(torch.cat(policy.scores), scores_of(model, tokenizer, tokens, banded), **EXACT)


def test_the_two_modes_differ_once_the_context_is_full(make_gato, tokenizer, robot, drive):
    rebuild, rolling = (recorder(make_gato(), tokenizer, robot, overflow=mode) for mode in ("rebuild", "rolling"))
    live(rebuild, drive(9))
    live(rolling, drive(9))
    assert torch.equal(rebuild.scores[14], rolling.scores[14])
    assert (rebuild.scores[16] - rolling.scores[16]).abs().max() > 1e-3


@pytest.mark.parametrize("memory", [1, 3])
def test_a_short_memory_equals_a_fresh_forward_of_the_last_timesteps(tiny, tokenizer, robot, drive, memory):
    policy = recorder(tiny, tokenizer, robot, memory=memory)
    acted = live(policy, drive(10))
    for t in range(10):
        window = tokenizer.encode(acted.window(max(0, t + 1 - memory), t + 1))
        torch.testing.assert_close(torch.cat(policy.scores[2 * t : 2 * t + 2]), scores_of(tiny, tokenizer, window)[-2:], **EXACT)


def test_a_short_memory_keeps_its_prompt(tiny, tokenizer, robot, drive):
    """Two timesteps of a demonstration stand before every timestep; its own past is forgotten."""
    demonstration = drive(2)
    policy = recorder(tiny, tokenizer, robot, memory=1, prompt=demonstration)
    acted = live(policy, drive(8))
    for t in range(8):
        seen = join([tokenizer.encode(demonstration), tokenizer.encode(acted.window(t, t + 1))], same_document=True)
        torch.testing.assert_close(torch.cat(policy.scores[2 * t : 2 * t + 2]), scores_of(tiny, tokenizer, seen)[-2:], **EXACT)


@pytest.mark.parametrize("settings", [{"memory": 0}, {"memory": 2, "overflow": "rolling"}])
def test_a_memory_of_nothing_or_a_sliding_one_is_refused(tiny, tokenizer, robot, settings):
    with pytest.raises(ValueError, match="give at least 1 timestep, and overflow 'rebuild'"):
        GatoPolicy(tiny, tokenizer, robot, **settings)


def test_learned_positions_cannot_roll(make_gato, tokenizer, robot):
    with pytest.raises(ValueError, match="learned positions end with the context"):
        GatoPolicy(make_gato("learned"), tokenizer, robot, overflow="rolling")


def test_unknown_overflow_modes_are_refused(make_gato, tokenizer, robot):
    with pytest.raises(ValueError, match="overflow is 'slide', expected 'rebuild' or 'rolling'"):
        GatoPolicy(make_gato(), tokenizer, robot, overflow="slide")


def test_a_new_episode_forgets_the_one_before(tiny, tokenizer, robot, drive):
    policy = recorder(tiny, tokenizer, robot)
    acted = live(policy, drive(6), first=(0, 4))
    alone = scores_of(tiny, tokenizer, tokenizer.encode(acted.window(4, 6)))
    torch.testing.assert_close(torch.cat(policy.scores[8:]), alone, **EXACT)


@pytest.mark.parametrize("overflow", ["rebuild", "rolling"])
def test_a_timestep_that_never_fits_is_refused(make_gato, tokenizer, robot, drive, overflow):
    policy = GatoPolicy(make_gato(), tokenizer, robot, 0.0, overflow)
    with pytest.raises(ValueError, match=r"a timestep of 'toy/robot' has \d+ tokens, the context 64"):
        live(policy, drive(1, goal="go to the red ball " * 20))
    with pytest.raises(ValueError, match="the context holds 7"):
        GatoPolicy(make_gato(context_length=7), tokenizer, robot)


def test_instructions_of_changing_length_overflow_correctly(tiny, tokenizer, robot, drive):
    episode = drive(20)
    goals = np.array(["go", "go to the red ball"] * 10, object)
    policy = recorder(tiny, tokenizer, robot)
    live(policy, replace(episode, observations=dict(episode.observations) | {"goal": goals}))
    assert all(s.isfinite().all() for s in policy.scores)


# -- prompts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "overflow"), WAYS)
def test_a_demonstration_stands_before_every_episode(make_gato, tokenizer, robot, drive, positions, overflow):
    model, demonstration = make_gato(positions), drive(20, seed=5)
    policy = recorder(model, tokenizer, robot, overflow=overflow)
    policy.reset(1, [demonstration])
    acted = live(policy, drive(4), first=(0, 2))
    prompt = tokenizer.encode(demonstration.window(0, 4))  # 32 tokens: half of the context
    for start in (0, 2):
        whole = join([prompt, tokenizer.encode(acted.window(start, start + 2))], same_document=True)
        expected = scores_of(model, tokenizer, whole)[-4:]
        torch.testing.assert_close(torch.cat(policy.scores[2 * start : 2 * start + 4]), expected, **EXACT)


def test_a_window_takes_in_a_long_prompt_in_chunks(make_gato, tokenizer, robot, drive, monkeypatch):
    """A prompt of 32 tokens and a timestep of 6, at most 7 at once; then on past three contexts."""
    monkeypatch.setattr("gato.policy.MAX_CHUNK", 7)
    model, demonstration, episode = make_gato(), drive(20, seed=5), drive(26)
    policy = recorder(model, tokenizer, robot, overflow="rolling")
    policy.reset(1, [demonstration])
    acted = live(policy, episode)
    whole = join([tokenizer.encode(demonstration.window(0, 4)), tokenizer.encode(acted)], same_document=True)
    back = torch.arange(len(whole))[:, None] - torch.arange(len(whole))
    banded = ((back >= 0) & (back < 64))[None, None]
    torch.testing.assert_close(torch.cat(policy.scores), scores_of(model, tokenizer, whole, banded)[-52:], **EXACT)


def test_a_rebuilt_context_drops_the_prompt_first(make_gato, tokenizer, robot, drive):
    """The instruction fills most of the context, which has no room for the prompt beside it."""
    goal = "go to the red ball on the blue box"
    model = make_gato(context_length=len(tokenizer.encode(drive(1, goal))) + 4)
    policy = recorder(model, tokenizer, robot)
    policy.reset(1, [drive(9, seed=5)])
    acted = live(policy, drive(1, goal))
    torch.testing.assert_close(torch.cat(policy.scores), scores_of(model, tokenizer, tokenizer.encode(acted)), **EXACT)


def test_the_next_episode_gets_the_next_demonstration(make_gato, tokenizer, robot, drive):
    model, demonstrations = make_gato(), [drive(3, seed=s) for s in (5, 6)]
    together, alone = recorder(model, tokenizer, robot), recorder(model, tokenizer, robot)
    together.reset(3, demonstrations)
    episode = drive(1)
    three = {k: np.repeat(v, 3, axis=0) for k, v in episode.observations.items()}
    together.act(three, np.zeros(3), np.ones(3, bool), np.arange(3))
    for stream, demonstration in enumerate([*demonstrations, demonstrations[0]]):
        alone.reset(1, [demonstration])
        alone.scores.clear()
        live(alone, episode)
        torch.testing.assert_close(together.scores[0][stream], alone.scores[0][0], **EXACT)


def test_an_episode_draws_the_same_chance_in_any_stream(make_gato, tokenizer, robot, drive):
    """Three episodes one after the other in one stream, and side by side in three."""
    model, episodes = make_gato(), [drive(5, seed=s) for s in range(3)]
    alone, together = GatoPolicy(model, tokenizer, robot), GatoPolicy(model, tokenizer, robot)
    acted = [live(alone, episode).actions["motors"] for episode in episodes]
    together.reset(3)
    for t in range(5):
        observation = {k: np.concatenate([shown(e, t)[k] for e in episodes]) for k in episodes[0].observations}
        motors = together.act(observation, np.zeros(3), np.full(3, t == 0), np.arange(3))["motors"]
        np.testing.assert_array_equal(motors, np.stack([a[t] for a in acted]))


def test_a_demonstration_of_another_task_is_refused(make_gato, tokenizer, robot, walk):
    with pytest.raises(ValueError, match="the demonstration is not of task 'toy/robot'"):
        GatoPolicy(make_gato(), tokenizer, robot).reset(1, [walk([0], [1])])


# -- many streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "overflow"), WAYS)
def test_streams_that_reset_singly_act_exactly_as_they_would_alone(make_gato, tokenizer, robot, drive, positions, overflow):
    """26 timesteps of 8 tokens and more: over three contexts, for the stream that is never reset."""
    model = make_gato(positions)
    episodes = [drive(26, goal, seed=s) for s, goal in enumerate(["go", "go to the red ball", "a box"])]
    resets = [(0,), (0, 7, 8), (0, 13)]
    policy = GatoPolicy(model, tokenizer, robot, 0.0, overflow)
    policy.reset(3)
    acted = []
    for t in range(26):
        observation = {k: np.concatenate([e.observations[k][t : t + 1] for e in episodes]) for k in episodes[0].observations}
        acted.append(policy.act(observation, np.zeros(3), np.array([t in r for r in resets]), np.arange(3))["motors"])
    for s, (episode, first) in enumerate(zip(episodes, resets, strict=True)):
        alone = live(GatoPolicy(model, tokenizer, robot, 0.0, overflow), episode, first).actions["motors"]
        np.testing.assert_array_equal(np.stack(acted)[:, s], alone)


def test_some_streams_may_act_while_others_wait(make_gato, tokenizer, robot, drive):
    model, episodes = make_gato(), [drive(6, seed=s) for s in range(3)]
    policy = GatoPolicy(model, tokenizer, robot, 0.0)
    policy.reset(3)
    turns, acted = [[2, 0], [1], [0, 1, 2], [1, 2], [2], [0, 2, 1], [0]], [[], [], []]
    for streams in turns:
        times = [len(acted[s]) for s in streams]
        rows = [shown(episodes[s], t) for s, t in zip(streams, times, strict=True)]
        observation = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
        motors = policy.act(observation, np.zeros(len(streams)), np.array(times) == 0, np.array(streams))["motors"]
        for s, action in zip(streams, motors, strict=True):
            acted[s].append(action)
    for s, actions in enumerate(acted):
        alone = live(GatoPolicy(model, tokenizer, robot, 0.0), episodes[s]).actions["motors"][: len(actions)]
        np.testing.assert_array_equal(np.stack(actions), alone)


@pytest.mark.parametrize(("positions", "overflow"), [("rope", "rebuild"), ("learned", "rebuild"), ("rope", "rolling")])
def test_a_pass_of_fixed_shapes_is_the_ordinary_one(make_gato, tokenizer, robot, drive, positions, overflow):
    """Past three contexts, with a stream that resets singly and one that waits a turn."""
    model, episodes = make_gato(positions), [drive(26, seed=s) for s in range(2)]
    ordinary, fixed = (recorder(model, tokenizer, robot, overflow=overflow, static=static) for static in (False, True))
    for policy in (ordinary, fixed):
        policy.reset(2)
        for t in range(26):
            rows = [1] if t == 5 else [0, 1]
            observation = {k: np.concatenate([shown(episodes[s], t)[k] for s in rows]) for k in episodes[0].observations}
            policy.act(observation, np.zeros(len(rows)), np.array([t in ((0,), (0, 9))[s] for s in rows]), np.array(rows))
    for a, b in zip(ordinary.scores, fixed.scores, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_relative_positions_have_no_pass_of_fixed_shapes(make_gato, tokenizer, robot):
    with pytest.raises(ValueError, match="needs rope or learned positions, and these are transformer_xl"):
        GatoPolicy(make_gato("transformer_xl"), tokenizer, robot, static=True)


# -- fewer kernels -------------------------------------------------------------------------------------


def test_weights_that_were_trained_between_episodes_are_the_ones_that_act(make_gato, tokenizer, robot, drive):
    model = make_gato()
    policy = recorder(model, tokenizer, robot)
    live(policy, drive(2))
    with torch.no_grad():
        model.transformer.layers[0].attention.k_proj.weight *= 2
        model.transformer.layers[1].feed_forward.up_proj.weight += 0.1
    policy.scores.clear()
    policy.reset()
    acted = live(policy, drive(3))
    torch.testing.assert_close(torch.cat(policy.scores), scores_of(model, tokenizer, tokenizer.encode(acted)), **EXACT)


def test_a_model_made_where_nothing_is_learned_acts_as_any_other(make_gato, tokenizer, robot, drive):
    with torch.inference_mode():
        made = make_gato()
    acted = [live(GatoPolicy(model, tokenizer, robot), drive(3)).actions["motors"] for model in (made, make_gato())]
    assert np.array_equal(*acted)


def test_what_was_put_into_a_layer_acts_too(make_gato, tokenizer, robot, drive):
    """As adapters are: a layer whose product is another module, or that somebody listens to, runs as it is."""

    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model, seen = make_gato(), []
    assert ActingTransformer.fits(model.transformer)
    attention = model.transformer.layers[0].attention
    doubled = Doubled(*reversed(attention.v_proj.weight.shape), bias=False).to(attention.v_proj.weight)
    attention.v_proj = doubled
    policy = recorder(model, tokenizer, robot)
    acted = live(policy, drive(3))
    torch.testing.assert_close(torch.cat(policy.scores), scores_of(model, tokenizer, tokenizer.encode(acted)), **EXACT)
    listened = make_gato()
    listened.transformer.layers[1].register_forward_hook(lambda *_: seen.append(1))
    live(GatoPolicy(listened, tokenizer, robot), drive(2))
    assert len(seen) == 2 * robot.actions[0].size  # a pass for every action token, the observation's among them


@pytest.mark.skipif(not can_pack(), reason="this torch packs nothing")
@pytest.mark.parametrize("overflow", ["rebuild", "rolling"])
def test_packed_products_are_the_plain_ones(make_gato, tokenizer, robot, drive, monkeypatch, overflow):
    model, found = make_gato().float(), []
    for packs in (True, False):
        monkeypatch.setattr("gato.layers.acting.PACKED_WIDTH", 0 if packs else 10**9)
        policy = recorder(model, tokenizer, robot, overflow=overflow)
        live(policy, drive(9))
        assert policy._quick.layers[0].packs == packs
        found.append(torch.cat(policy.scores))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)  # float32


# -- actions -------------------------------------------------------------------------------------------


def test_actions_are_always_inside_their_ranges(make_gato, tokenizer):
    fields = [
        FieldSpec("see", Modality.DISCRETE, "observation", (), "int64", (0,), (3,)),
        FieldSpec("turn", Modality.DISCRETE, "action", (2,), "int64", (-2, 0), (2, 1), path=("turn",)),
        FieldSpec("push", Modality.CONTINUOUS, "action", (2,), low=(-5.0, 0.0), high=(5.0, 0.1), path=("push",)),
    ]
    policy = GatoPolicy(make_gato(), tokenizer, TaskSpec("toy/knobs", tuple(fields)), temperature=100.0)
    policy.reset(64)
    actions = [policy.act({"see": np.arange(64) % 4}, np.zeros(64), np.full(64, t == 0), np.arange(64)) for t in range(3)]
    turn, push = (np.concatenate([a[name] for a in actions]) for name in ("turn", "push"))
    assert [np.unique(turn[:, i]).tolist() for i in (0, 1)] == [[-2, -1, 0, 1, 2], [0, 1]]  # and all of them occur
    assert (push >= np.float32([-5, 0])).all() and (push <= np.float32([5, 0.1])).all()
    assert len(np.unique(push)) > 100


def test_sampling_follows_its_seed(make_gato, tokenizer, robot, drive):
    a, b, c = (live(GatoPolicy(make_gato(), tokenizer, robot, 1.0, seed=s), drive(4)).actions["motors"] for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_a_task_whose_action_is_text_has_no_policy(make_gato, tokenizer, robot):
    speak = FieldSpec("say", Modality.TEXT, "action", dtype="str")
    with pytest.raises(ValueError, match="'say' of task 'toy/robot' is text, which has no fixed slots"):
        GatoPolicy(make_gato(), tokenizer, replace(robot, fields=(*robot.observations, speak)))


def test_a_tiny_gato_learns_to_walk_the_corridor(make_gato, tokenizer):
    from gato.envs.toy import RIGHT, Corridor

    env = Corridor(num_cells=5)
    task = TaskSpec.from_spaces("toy/corridor", env.observation_space, env.action_space)
    walks = [Episode(task, {"observation": np.arange(s, 4)}, {"action": np.full(4 - s, RIGHT)}, np.eye(4)[3][s:]) for s in range(4)]
    batch = collate([tokenizer.encode(w) for w in walks], 16, tokenizer.vocabulary.pad)
    model = make_gato(initializer_range=0.02).float()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(20):
        loss, _ = GatoLearner(model.train())(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy, (cell, _) = GatoPolicy(model, tokenizer, task, 0.0), env.reset(seed=0)
    for t in range(4 - cell):
        action = policy.act({"observation": np.array([cell])}, np.zeros(1), np.array([t == 0]), np.array([0]))["action"]
        cell, reward, terminated, *_ = env.step(int(action[0]))
    assert terminated and reward == 1.0
