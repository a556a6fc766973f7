"""The compact layout: a field of numbers is one position, all actions of a timestep another, predicted in one pass.

A timestep of the toy robot, which is blind here unless said otherwise, has 2 readings (a discrete and a continuous one, each a position,
the bar shares the last one's) and 2 motors: 3 positions, and one more where the instruction "go" stands. With its camera of 2 patches
the instruction stands in every timestep: 6 positions.
"""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import gato
from gato.agent import Agent
from gato.batch import ACTION_LOCAL, NO_LOCAL, Kind, TokenSequence, collate, join
from gato.episode import Episode
from gato.eval.insight.episode_attention import episode_attention
from gato.layers.acting_slots import QuickChoice, SlotWeights, fits
from gato.layers.compact import FAR, TARGET_WIDTH, Bumps, NumberEmbedding
from gato.layers.direct import DirectPath
from gato.layers.history import Stream, spoken
from gato.layers.numbers import ALL_BINS
from gato.layers.slots import SlotChoice
from gato.learners.gato import GatoLearner
from gato.policy import GatoPolicy
from gato.spec import NUM_BINS, FieldSpec, Modality, TaskSpec
from gato.tokenizers import continuous, image
from gato.tokenizers.episode import EpisodeTokenizer

EXACT = dict(rtol=1e-9, atol=1e-9)  # float64, up to the order of summation


@pytest.fixture(scope="module")
def seeing(drive) -> TaskSpec:
    return drive(1).task


@pytest.fixture(scope="module")
def blind(seeing) -> TaskSpec:
    return replace(seeing, fields=tuple(f for f in seeing.fields if f.name != "camera"))


@pytest.fixture(scope="module")
def blind_drive(drive, blind):
    """blind_drive(5, "go to the red ball", seed=1): a drive of the robot without its camera."""

    def make(length: int, goal: str = "go", seed: int = 0) -> Episode:
        episode = drive(length, goal, seed)
        return replace(episode, task=blind, observations={k: v for k, v in episode.observations.items() if k != "camera"})

    return make


@pytest.fixture(scope="module")
def compact(tokenizer) -> EpisodeTokenizer:
    return EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact")


@pytest.fixture(scope="module")
def make(make_gato, compact):
    """make("rope", context_length=32): a float64 model of the compact layout whose every weight matters."""

    def build(positions: str = "rope", context_length: int = 42, **rest):
        start = compact.vocabulary.discrete.start
        model = make_gato(positions, context_length, layout="compact", discrete_start=start, **rest)
        with torch.no_grad():
            direct = model.actions.direct
            for part in (model.actions.bumps, direct.slot, direct.context, direct.into_state, direct.slot_context):
                part.weight.normal_(std=0.3)
        return model

    return build


@pytest.fixture(scope="module")
def model(make):
    return make()


def batch_of(tokenizer: EpisodeTokenizer, *rows: TokenSequence, length: int | None = None):
    return collate(rows, length or max(map(len, rows)), tokenizer.vocabulary.pad)


def token_losses(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(
            input_ids=batch.ids, local_positions=batch.local_position, pixel_values=batch.patches, patch_boxes=batch.patch_boxes,
            patch_index=batch.patch_index, labels=batch.labels, target_index=batch.target_index, numbers=batch.numbers,
            document_ids=batch.document if batch.is_packed else None,
        ).token_losses  # fmt: skip


# -- the layout ------------------------------------------------------------------------------------


def test_a_two_step_episode_token_by_token(compact, drive):
    """Pictures, the instruction, then numbers in the order of their keys; the bar beside the last of them; then the motors."""
    episode = replace(
        drive(2, "go"),
        observations=dict(drive(2, "go").observations) | {"gripper/force": np.float32([0, 1]), "gripper/open": np.array([0, 1])},
        actions={"motors": np.array([[-1.0, 0.0], [0.0, 10.0]], np.float32)},
    )
    v, go = compact.vocabulary, compact.text.encode("go")
    c, d, n = v.continuous.start, v.discrete.start, len(go)
    tokens = compact.encode(episode)
    assert tokens.ids.tolist() == [
        v.image, v.image, *go, c + 512, d + 0, v.separator, c + 0, c + 0,
        v.image, v.image, *go, c + 744, d + 1, v.separator, c + 512, c + 1023,
    ]  # fmt: skip
    step = [*range(n + 2), n + 2, n + 3, n + 3, n + 4, n + 4]
    assert tokens.position.tolist() == [*step, *(n + 5 + i for i in step)]
    assert len(tokens) == 2 * compact.positions_per_timestep(episode.task) == 2 * (n + 5), "where the instruction has one token"
    a, no = ACTION_LOCAL, NO_LOCAL
    assert tokens.local_position.tolist() == [0, 1, *[no] * n, 2, 3, no, a, a] * 2
    assert tokens.is_target.tolist() == [False, False, *[True] * n, False, False, False, True, True] * 2
    assert tokens.legal.tolist() == [*[0] * (n + 5), ALL_BINS, ALL_BINS] * 2
    shown = compact.show(tokens).splitlines()
    assert shown[1] == "0.1    # # [go] +0.4541 (1 |) ([+0.0010] [+0.9990])"


def test_without_pictures_the_instruction_stands_once(compact, blind_drive):
    tokens, n = compact.encode(blind_drive(3)), len(compact.text.encode("go"))
    assert tokens.kind[:n].tolist() == [Kind.TEXT] * n and not (tokens.kind[n:] == Kind.TEXT).any()
    assert len(tokens) == n + 3 * compact.positions_per_timestep(blind_drive(1).task) == n + 3 * 3


def test_the_ids_are_those_of_the_paper_s_layout(compact, tokenizer, drive):
    """Only their order within a timestep differs."""
    for t in range(3):
        step = drive(3).window(t, t + 1)
        assert sorted(compact.encode(step).ids) == sorted(tokenizer.encode(step).ids)


def test_an_instruction_stands_again_where_it_changes(compact, blind_drive):
    goals = np.array(["go", "go", "go to the red ball", "go to the red ball"], object)
    tokens = compact.encode(replace(blind_drive(4), observations=dict(blind_drive(4).observations) | {"goal": goals}))
    words = [compact.text.decode(tokens.ids[(tokens.timestep == t) & (tokens.kind == Kind.TEXT)]) for t in range(4)]
    assert words == ["go", "", "go to the red ball", ""]


@pytest.fixture(scope="module")
def noted_drive(blind, blind_drive):
    """noted_drive([("go", "a"), ("go", "b")]): a drive of two timesteps of a goal and a note each."""
    note = FieldSpec("note", Modality.TEXT, "observation", dtype="str", path=("note",))
    task = replace(blind, fields=(*blind.fields, note))

    def make(texts: list[tuple[str, str]]) -> Episode:
        drive = blind_drive(len(texts))
        said = {name: np.array(column, object) for name, column in zip(("goal", "note"), zip(*texts, strict=True), strict=True)}
        return replace(drive, task=task, observations={**drive.observations, **said})

    return make


def fed(tokenizer: EpisodeTokenizer, episode: Episode) -> list[list[int]]:
    """The ids of each observation as a policy feeds them, one after the other."""
    stream, steps = Stream(), range(episode.num_timesteps)
    seen = [tokenizer.encode_observation(episode.task, {k: v[t : t + 1] for k, v in episode.observations.items()}) for t in steps]
    return [spoken(stream, [(tokens,)])[0].ids.tolist() for tokens in seen]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([("go", "go"), ("go", "go to"), ("go", "go to")], [["go", "go"], ["go", "go to"], []]),
        ([("go", ""), ("", ""), ("go", ""), ("go", "")], [["go"], [], ["go"], []]),
        ([("", "go"), ("go", ""), ("", "")], [["go"], [], []]),
    ],
)
def test_all_texts_of_a_timestep_stand_where_one_of_them_changes_in_training_as_in_acting(compact, noted_drive, texts, said):
    """Of the same pieces, whichever field they are of, none is said again."""
    episode, pieces = noted_drive(texts), [[i for text in one for i in compact.text.encode(text)] for one in said]
    tokens = compact.encode(episode)
    is_observed = tokens.local_position != ACTION_LOCAL
    trained = [tokens.ids[is_observed & (tokens.timestep == t)].tolist() for t in range(len(texts))]
    assert [ids[:-3] for ids in trained] == pieces, "before two numbers and the bar"
    assert trained == fed(compact, episode)


def test_whatever_texts_come_and_go_what_is_trained_is_what_is_fed(compact, noted_drive):
    rng = np.random.default_rng(0)
    for _ in range(50):
        texts = rng.choice(np.array(["", "go", "go to"], object), (8, 2))
        tokens = compact.encode(episode := noted_drive([tuple(pair) for pair in texts]))
        is_observed = tokens.local_position != ACTION_LOCAL
        assert [tokens.ids[is_observed & (tokens.timestep == t)].tolist() for t in range(8)] == fed(compact, episode)


def test_a_grid_of_choices_takes_a_position_for_each_of_its_rows(compact):
    grid = FieldSpec("cells", Modality.DISCRETE, "observation", (2, 3), "int64", (0,), (9,))
    task = TaskSpec("toy/grid", (grid, FieldSpec("go", Modality.DISCRETE, "action", (), "int64", (0,), (3,))))
    cells = np.arange(6).reshape(1, 2, 3).repeat(2, axis=0)
    tokens = compact.encode(Episode(task, {"cells": cells}, {"go": np.array([1, 2])}, np.zeros(2, np.float32)))
    assert compact.positions_per_timestep(task) == 3
    assert tokens.position.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 4, 5]
    assert compact.show(tokens).splitlines()[0] == "0.0    (0 1 2) (3 4 5 |) [1]"


def test_a_block_of_patches_shares_a_position(tokenizer, compact, drive):
    """Of 3 x 5 patches, numbered in raster order, 2 x 2 share one; the blocks at the far sides are smaller."""
    pooled = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact", pool_patches=2)
    shown = image.blocks(48, 80, 2)
    assert shown.order.tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    assert np.flatnonzero(shown.starts).tolist() == [0, 4, 8, 10, 12, 14]
    camera = FieldSpec("camera", Modality.IMAGE, "observation", (48, 80, 3), "uint8")
    task = TaskSpec("toy/camera", (camera, FieldSpec("go", Modality.DISCRETE, "action", (), "int64", (0,), (3,))))
    pictures = np.repeat(np.arange(2 * 15, dtype=np.uint8).reshape(2, 3, 5, 1), 3, axis=3).repeat(16, axis=1).repeat(16, axis=2)
    tokens = pooled.encode(Episode(task, {"camera": pictures}, {"go": np.array([1, 2])}, np.zeros(2, np.float32)))
    assert pooled.positions_per_timestep(task) == len(tokens) // 2 == 6 + 1
    assert tokens.patches[:, 0, 0, 0].tolist() == [15 * t + i for t in range(2) for i in shown.order]
    first = [tokens.position[tokens.kind == Kind.PATCH][shown.order.tolist().index(i)] for i in (0, 1, 5, 6, 2, 4, 14)]
    assert first == [0, 0, 0, 0, 1, 2, 5]
    assert pooled.show(tokens).splitlines()[0] == "0.0    (# # # #) (# # # #) (# #) (# #) (# #) (# |) [1]"
    assert len(pooled.encode(drive(2))) == len(compact.encode(drive(2))) - 2


def test_patches_of_captions_are_not_pooled(make, tokenizer):
    """Each has a position of its own, where the image slot's row is added to it."""
    pooled = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact", pool_patches=2)
    picture = FieldSpec("image", Modality.IMAGE, "observation", (32, 32, 3), "uint8")
    task = TaskSpec("toy/captions", (picture, FieldSpec("caption", Modality.TEXT, "action", (), "str")))
    assert not task.is_control
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    seen, written = {"image": pixels}, {"caption": np.array(["a cat"], object)}
    tokens = pooled.encode(Episode(task, seen, written, np.zeros(1, np.float32)))
    assert len(tokens) == 4 + 1 + len(pooled.text.encode("a cat")) + 1
    described = replace(task, env_id="toy/View-v0")  # what an agent sees, in words: as in the task that it acts in
    positions = pooled.encode(Episode(described, seen, written, np.zeros(1, np.float32))).position
    assert (positions[:5].tolist(), len(positions)) == ([0, 0, 0, 0, 0], len(tokens))
    model, batch = make(pool_patches=2), batch_of(pooled, tokens)
    embedded = [model.embedding(batch.ids, batch.local_position, batch.patches, batch.patch_boxes, batch.patch_index)]
    model.embedding.pool = None
    embedded.append(model.embedding(batch.ids, batch.local_position, batch.patches, batch.patch_boxes, batch.patch_index))
    is_patch = torch.from_numpy(tokens.kind == Kind.PATCH)[None, :, None]
    slot = model.embedding.tokens.weight[pooled.vocabulary.image] * is_patch
    torch.testing.assert_close(embedded[0], embedded[1] + slot, **EXACT)


@pytest.mark.parametrize("said", ["a cat", ""])
def test_captions_and_documents_are_laid_out_as_ever(compact, tokenizer, said):
    picture = FieldSpec("image", Modality.IMAGE, "observation", (16, 16, 3), "uint8")
    words = FieldSpec("text", Modality.TEXT, "action", dtype="str")
    for task in (TaskSpec("captions", (picture, words)), TaskSpec("text", (words,))):
        shown = {"image": np.zeros((1, 16, 16, 3), np.uint8)} if task.observations else {}
        episode = Episode(task, shown, {"text": np.array([said], object)}, np.zeros(1, np.float32))
        mine, theirs = compact.encode(episode), tokenizer.encode(episode)
        for f in fields(TokenSequence):
            if f.name != "layout":
                np.testing.assert_array_equal(getattr(mine, f.name), getattr(theirs, f.name))


def test_rows_are_cut_dropped_and_joined_by_positions(compact, drive, blind_drive):
    n = len(compact.text.encode("go"))
    assert [len(part) for part in compact.encode(blind_drive(3)).by_timestep()] == [n + 3, 3, 3]
    tokens = compact.encode(drive(3))
    assert len(tokens) == 3 * (n + 5)
    first = tokens.cut(n + 5)
    assert first.timestep.max() == 0 and len(first.patches) == 2
    assert first.ids.tolist() == tokens.ids[tokens.timestep == 0].tolist()
    rest = tokens.drop(n + 5)
    assert rest.position[0] == 0 and len(rest) == 2 * (n + 5) and len(rest.patches) == 4
    both = join([first, replace(rest, timestep=rest.timestep - 1)], same_document=True)
    for f in fields(TokenSequence):
        np.testing.assert_array_equal(getattr(both, f.name), getattr(tokens, f.name))
    assert [len(part) for part in tokens.by_timestep()] == [n + 5] * 3


def test_a_batch_holds_its_numbers_packed(compact, blind_drive):
    batch = batch_of(compact, compact.encode(blind_drive(2)), compact.encode(blind_drive(1)), length=20)
    numbers, n = batch.numbers, len(compact.text.encode("go"))
    assert numbers.position.tolist() == [n, n + 1, n + 2, n + 3, n + 4, n + 5, 20 + n, 20 + n + 1, 20 + n + 2]
    assert numbers.group.tolist() == [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8]
    assert numbers.place.tolist() == [0, 1, -1, -2] * 3
    assert numbers.owner.tolist() == [0, 0, 3, 3, 1, 1, 3, 3, 2, 2, 3, 3]
    assert numbers.before.tolist() == [n + 1, n + 4, 20 + n + 1]
    assert batch.denominator == 3 * 2 + 2 * (n - 1)  # motors, and an instruction's words behind the first of a row
    assert (batch.kind == Kind.SEPARATOR).sum() == 3, "timesteps are counted by their bars"


def test_an_action_that_was_cut_off_owns_no_observation(compact, drive):
    tokens = compact.encode(drive(2))
    numbers = batch_of(compact, tokens.cut(len(tokens) - 1)).numbers
    assert len(numbers.actions) == 1
    assert numbers.owner.tolist() == [0, 0, 1, 1, 1, 1]


# -- the model -------------------------------------------------------------------------------------


def test_later_positions_do_not_change_earlier_ones(model, compact, blind_drive):
    whole, n = compact.encode(blind_drive(4)), len(compact.text.encode("go"))
    cut = whole.cut(n + 6)
    ours = token_losses(model, batch_of(compact, cut))
    torch.testing.assert_close(ours, token_losses(model, batch_of(compact, whole))[[*range(n - 1), *range(n - 1, n + 3)]], **EXACT)


def test_a_slot_sees_the_slots_before_it_and_none_behind(model, compact, drive):
    episode = drive(1)

    def losses(motors):
        return token_losses(model, batch_of(compact, compact.encode(replace(episode, actions={"motors": np.float32([motors])}))))[-2:]

    base, later, earlier = losses([0.1, 5.0]), losses([0.1, 6.0]), losses([0.4, 5.0])
    assert base[0] == later[0] and base[1] != later[1]
    assert base[1] != earlier[1]


def test_documents_of_a_row_do_not_see_one_another(model, compact, blind_drive):
    first, second = compact.encode(blind_drive(2, seed=1)), compact.encode(blind_drive(2, seed=2))
    n = len(compact.text.encode("go")) - 1
    alone = [token_losses(model, batch_of(compact, one)) for one in (first, second)]
    both = token_losses(model, batch_of(compact, join([first, second], same_document=False)))
    expected = torch.cat([alone[0][:n], alone[1][:n], alone[0][n:], alone[1][n:]])
    torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-4)  # rotary angles of other positions are float32


def test_neither_padding_nor_a_batch_mate_changes_a_loss(model, compact, drive, blind_drive):
    first, second = compact.encode(blind_drive(3, seed=1)), compact.encode(drive(1, "go to the red ball", seed=2))
    learner = GatoLearner(model)
    alone = sum(float(learner(batch_of(compact, one))[1]["loss_sum"]) for one in (first, second))
    together = learner(batch_of(compact, first, second, length=40))[1]
    assert float(together["loss_sum"]) == pytest.approx(alone, rel=1e-6)
    n, m = (len(compact.text.encode(text)) for text in ("go", "go to the red ball"))
    assert together["targets_by_kind"].tolist() == [n - 1 + m, 0, 0, 8, 0, 0]


def test_every_weight_takes_part_in_every_kind_of_batch(make, compact, drive):
    """Else ranks that got other rows would wait for it for ever."""
    document = compact.encode(Episode(TaskSpec("text", (FieldSpec("text", Modality.TEXT, "action", dtype="str"),)), {},
                                      {"text": np.array(["a cat"], object)}, np.zeros(1, np.float32)))  # fmt: skip
    for tokens in (document, compact.encode(drive(2))):
        learner = GatoLearner(make())
        loss, _ = learner(batch_of(compact, tokens))
        loss.backward()
        assert [name for name, p in learner.named_parameters() if p.grad is None] == []
    assert all(float(p.grad.abs().sum()) == 0 for p in make().actions.parameters() if p.grad is not None)


def test_a_batch_of_the_other_layout_is_refused(model, make_gato, compact, tokenizer, drive):
    with pytest.raises(ValueError, match="the batch is of layout 'compact', the model of 'gato'"):
        GatoLearner(make_gato())(batch_of(compact, compact.encode(drive(1))))
    with pytest.raises(ValueError, match="the batch is of layout 'gato', the model of 'compact'"):
        GatoLearner(model)(batch_of(tokenizer, tokenizer.encode(drive(1))))


def test_discrete_slots_are_scored_over_their_legal_ids_alone(make, tokenizer):
    task = TaskSpec("toy/keys", (
        FieldSpec("a", Modality.DISCRETE, "observation", (2,), "int64", (0,), (5,)),
        FieldSpec("keys", Modality.DISCRETE, "action", (2,), "int64", (0, 1), (2, 1)),
    ))  # fmt: skip
    compact = EpisodeTokenizer(None, tokenizer.vocabulary, layout="compact")
    episode = Episode(task, {"a": np.array([[1, 2]])}, {"keys": np.array([[2, 1]])}, np.zeros(1, np.float32))
    batch = batch_of(compact, compact.encode(episode))
    assert batch.numbers.legal.tolist() == [[3, 1]] and batch.numbers.most == 3
    losses = token_losses(make(), batch)
    assert losses[1] == 0, "one legal id is certain"
    policy = GatoPolicy(make(), compact, task, seed=3)
    drawn = np.concatenate([policy.act({"a": np.array([[1, 2]])})["keys"] for _ in range(40)])
    assert set(drawn[:, 0]) <= {0, 1, 2} and len(set(drawn[:, 0])) > 1 and set(drawn[:, 1]) == {1}


# -- acting ----------------------------------------------------------------------------------------


class Recorder(GatoPolicy):
    """A policy that keeps the states it chose from."""

    def _choose_slots(self, hidden, rows, seen):
        self.states.append(hidden)
        return super()._choose_slots(hidden, rows, seen)


def acted(policy: GatoPolicy, episode: Episode, first: tuple[int, ...] = (0,)) -> Episode:
    policy.states, actions = [], []
    for t in range(episode.num_timesteps):
        shown = {name: values[t : t + 1] for name, values in episode.observations.items()}
        actions.append(policy.act(shown, np.zeros(1), np.array([t in first]), np.array([0]))["motors"])
    return replace(episode, actions={"motors": np.concatenate(actions)})


def states_of(model, tokenizer, tokens, mask=None) -> torch.Tensor:
    """(T, width): the states before the actions of a sequence, in one forward pass."""
    batch = batch_of(tokenizer, tokens)
    with torch.no_grad():
        parts = batch.ids, batch.local_position, batch.patches, batch.patch_boxes, batch.patch_index
        embedded = model.embedding(*parts, numbers=batch.numbers)
        return model.transformer(embedded, mask)[0, batch.numbers.before]


@pytest.mark.parametrize("positions", ["rope", "transformer_xl", "learned"])
def test_acting_equals_one_forward_pass_while_the_context_is_not_full(make, compact, robot, drive, blind, blind_drive, positions):
    model = make(positions)
    for task, seen in ((blind, blind_drive(13)), (robot, drive(7))):  # 13 x 3 positions and the instruction, or 7 x 6, of 42
        policy = Recorder(model, compact, task)
        episode = acted(policy, seen)
        torch.testing.assert_close(torch.cat(policy.states), states_of(model, compact, compact.encode(episode)), **EXACT)


def test_acting_equals_one_forward_pass_where_patches_share_positions(make, tokenizer, robot, drive):
    """And a block sees its patches' order: with the two of a picture exchanged the state is another."""
    model, pooled = make(pool_patches=2), EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact", pool_patches=2)
    policy = Recorder(model, pooled, robot)
    episode = acted(policy, drive(6))
    states = states_of(model, pooled, pooled.encode(episode))
    torch.testing.assert_close(torch.cat(policy.states), states, **EXACT)
    tokens = pooled.encode(episode)
    exchanged = replace(tokens, patches=tokens.patches.reshape(-1, 2, *tokens.patches.shape[1:])[:, ::-1].reshape(tokens.patches.shape))
    assert (states_of(model, pooled, exchanged) - states).abs().min(dim=1).values.max() > 0


def test_rebuilding_equals_a_fresh_forward_of_the_retained_window(model, compact, blind, blind_drive):
    """A context of 42 holds 13 timesteps behind their instruction; when it is full, half of it is kept: the present one and 5 before."""
    assert len(compact.text.encode("go")) == 1
    policy = Recorder(model, compact, blind)
    episode = acted(policy, blind_drive(24))
    kept = [*range(1, 14), *[*range(6, 14)] * 2][:24]
    for t, n in enumerate(kept):
        window = compact.encode(episode.window(t + 1 - n, t + 1))
        torch.testing.assert_close(policy.states[t], states_of(model, compact, window)[-1:], **EXACT)


def test_a_short_memory_keeps_its_prompt_and_its_instruction(model, compact, blind, blind_drive):
    demonstration = blind_drive(2, seed=5)
    policy = Recorder(model, compact, blind, memory=2, prompt=demonstration)
    episode = acted(policy, blind_drive(6))
    for t in range(6):
        window = episode.window(max(0, t - 1), t + 1)
        seen = join([compact.encode(demonstration), compact.encode(window)], same_document=True)
        torch.testing.assert_close(policy.states[t], states_of(model, compact, seen)[-1:], **EXACT)


@pytest.mark.parametrize("positions", ["rope", "transformer_xl"])
def test_rolling_equals_one_forward_over_all_history_under_a_banded_mask(make, compact, blind, blind_drive, positions):
    """Half a context after an instruction it is given again, lest it leave the window."""
    model = make(positions)
    policy = Recorder(model, compact, blind, overflow="rolling")
    episode = acted(policy, blind_drive(24))
    parts = compact.encode(episode, is_once=False).by_timestep()
    said = [t for t in range(24) if t % 7 == 0]  # 7 timesteps of 3 positions, and the instruction, are more than 21
    tokens = join([part if t in said else part.drop(1) for t, part in enumerate(parts)], same_document=True)
    back = torch.arange(len(tokens))[:, None] - torch.arange(len(tokens))
    banded = ((back >= 0) & (back < 42))[None, None]
    torch.testing.assert_close(torch.cat(policy.states), states_of(model, compact, tokens, banded), **EXACT)


def test_streams_side_by_side_act_as_each_alone(model, compact, robot, drive):
    policy = GatoPolicy(model, compact, robot, temperature=1.0, seed=4)
    policy.reset(2)
    episodes = [drive(5, "go", seed=1), drive(5, "go to the red ball", seed=2)]
    together = []
    for t in range(5):
        shown = {name: np.concatenate([e.observations[name][t : t + 1] for e in episodes]) for name in episodes[0].observations}
        together.append(policy.act(shown)["motors"])
    alone = GatoPolicy(model, compact, robot, temperature=1.0, seed=4)
    for i, episode in enumerate(episodes):
        for t in range(5):
            shown = {name: values[t : t + 1] for name, values in episode.observations.items()}
            motors = alone.act(shown, np.zeros(1), np.array([t == 0]), np.array([0]))["motors"]
            np.testing.assert_array_equal(motors[0], together[t][i])


def test_continuous_actions_are_not_drawn_unless_asked(model, compact, robot, drive):
    shown = {name: values[:1] for name, values in drive(1).observations.items()}
    default = [GatoPolicy(model, compact, robot, seed=s).act(shown)["motors"].tolist() for s in range(3)]
    drawn = [GatoPolicy(model, compact, robot, temperature=1.0, seed=s).act(shown)["motors"].tolist() for s in range(3)]
    assert default[0] == default[1] == default[2]
    assert drawn[0] != drawn[1] != drawn[2]


@pytest.mark.parametrize("streams", [1, 3, 9])
def test_slots_are_chosen_in_few_kernels_as_by_the_layers_of_training(make, compact, streams):
    """Three continuous slots with a discrete one among them; up to eight streams find the best bump one by one."""
    model, vocabulary = make(), compact.vocabulary
    reader, rng = model.slots, np.random.default_rng(streams)
    with torch.no_grad():
        hidden, sums = (torch.randn(streams, width, dtype=torch.float64) for width in (model.config.width, 256))
        bins = reader.embedding.bin_values()
        plain = SlotChoice(reader, hidden, reader.head.direct(sums, hidden), bins)
        quick = QuickChoice(SlotWeights(reader, bins, 4), hidden, sums)
        for legal in (vocabulary.continuous, range(vocabulary.discrete.start, vocabulary.discrete.start + 5), *[vocabulary.continuous] * 2):
            is_continuous = legal == vocabulary.continuous
            chances = [choice.scores(legal, is_continuous).softmax(dim=1) for choice in (quick, plain)]
            torch.testing.assert_close(*chances, **EXACT)
            if is_continuous:
                assert (quick.best_bins() == plain.best_bins()).all()
            chosen = rng.integers(legal.start, legal.stop, streams)
            quick.take(chosen, is_continuous)
            plain.take(chosen, is_continuous)


def test_numbers_are_looked_up_as_the_embedding_of_training_has_them(model, compact, blind, blind_drive):
    policy = GatoPolicy(model, compact, blind)
    steps = compact.encode(blind_drive(4), is_once=False).by_timestep()
    observed, moved = ([step.chosen((step.local_position == ACTION_LOCAL) == is_action) for step in steps] for is_action in (False, True))
    silent = [step.drop(1) for step in observed]  # without the instruction, as it is fed from the second timestep on
    with torch.inference_mode():
        for fed in ([[step] for step in silent], [[a, o] for a, o in zip(moved[:-1], silent[1:], strict=True)]):
            quick = policy._compact.embed(fed)
            torch.testing.assert_close(quick, policy._embedded(fed, quick.shape[1]), **EXACT)
        assert policy._compact.embed([[observed[0]]]) is None, "words are laid out anew"
        assert policy._compact.embed([[silent[0]], [moved[0], silent[1]]]) is None, "so are rows that differ"


def test_what_was_put_into_the_head_acts_too(make, compact, blind, blind_drive):
    model, seen = make(), []
    assert fits(model.slots)
    plain = acted(Recorder(model, compact, blind), blind_drive(3)).actions["motors"]
    model.actions.up.register_forward_hook(lambda *_: seen.append(1))
    assert not fits(model.slots)
    assert (acted(Recorder(model, compact, blind), blind_drive(3)).actions["motors"] == plain).all()
    assert len(seen) == 3 * 2  # slots


# -- continuous actions ----------------------------------------------------------------------------


def bumps(shares, means, widths) -> Bumps:
    log_shares = torch.tensor([shares], dtype=torch.float64).log()
    return Bumps(log_shares, torch.tensor([means], dtype=torch.float64), torch.tensor([widths], dtype=torch.float64))


def test_the_bins_share_all_probability_and_the_last_ones_take_what_lies_beyond():
    probabilities = bumps([0.25, 0.75], [-1.2, 0.0], [0.1, 0.2]).log_probabilities().exp()
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(probabilities[0, 0]) == pytest.approx(0.25 * 0.977, abs=1e-2)  # two widths beyond the end


def test_an_action_at_the_end_of_its_range_may_be_overshot():
    """What is played is clipped: its probability is all that lies in the last bin and beyond, and a mean there has no error."""
    last = torch.tensor([1 - 1 / 1024], dtype=torch.float64)
    edge = 1 - 2 / 1024
    beyond, below = bumps([1.0], [1.5], [0.1]), bumps([1.0], [0.5], [0.1])
    normal = torch.distributions.Normal(1.5, 0.1)
    assert float(beyond.loss(last, 100.0)) == pytest.approx(-np.log(1 - normal.cdf(torch.tensor(edge)).item()), abs=1e-6)
    assert float(below.loss(last, 100.0) - below.loss(last, 0.0)) == pytest.approx(100 * (0.5 - float(last)) ** 2)
    assert float(beyond.loss(-last, 100.0) - beyond.loss(-last, 0.0)) == pytest.approx(100 * (1.5 + float(last)) ** 2)
    assert float(beyond.loss(last, 0.0)) == pytest.approx(-float(beyond.log_probabilities()[0, -1]), abs=1e-6)


def test_the_soft_target_of_a_single_bump_has_its_closed_form():
    found = bumps([1.0], [0.2], [0.1]).loss(torch.tensor([0.3], dtype=torch.float64), mean_weight=50.0)
    expected = (0.1**2 + TARGET_WIDTH**2) / (2 * 0.1**2) + np.log(0.1) + np.log(2 * np.pi) / 2 - np.log(2 / NUM_BINS) + 50 * 0.1**2
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_an_update_of_the_direct_path_moves_a_mean_by_less_than_a_tenth_of_an_action_s_range():
    """Adam moves every weight by the learning rate, so a sum over thousands of them must be divided (0.2 is a tenth of [-1, 1])."""
    path = DirectPath(width=128, places=8)
    path.initialise()
    hidden, state = torch.randn(1, 128).sign(), torch.randn(1, 128).sign()  # of unit size, as norms make them
    sums = path.sums(torch.tensor([1.0, -1.0]), torch.arange(2), torch.zeros(2, dtype=torch.long), count=1)
    optimizer = torch.optim.AdamW(path.parameters(), lr=1e-3, weight_decay=0.0)

    def mean() -> torch.Tensor:
        return path.mean(path(sums, hidden), state, torch.zeros(1, dtype=torch.long)).sum()

    assert float(mean()) == 0
    mean().backward()
    optimizer.step()
    assert -0.2 < float(mean()) < -0.01


def test_where_there_are_two_ways_one_is_taken_and_not_their_middle():
    """The mean of both would be 0.55 · 0.8 - 0.45 · 0.8 = 0.08."""
    two_ways = bumps([0.45, 0.55], [-0.8, 0.8], [0.1, 0.1])
    assert float(two_ways.best()) == pytest.approx(0.8)
    one_way = bumps([0.5, 0.5], [0.2, 0.24], [0.1, 0.1])
    assert float(one_way.best()) == pytest.approx(0.22, abs=2e-3)


def test_an_expert_of_two_ways_is_learned_with_both(compact):
    """It steers hard left or hard right, whatever it sees, and the second wheel with the first."""
    from gato.config import GatoConfig
    from gato.model import Gato

    torch.manual_seed(0)
    eye = FieldSpec("eye", Modality.CONTINUOUS, "observation", (2,))
    task = TaskSpec("toy/fork", (eye, FieldSpec("wheels", Modality.CONTINUOUS, "action", (2,), low=(-1.0,), high=(1.0,))))
    rng, v = np.random.default_rng(0), compact.vocabulary
    model = Gato(GatoConfig(
        vocab_size=v.size, continuous_start=v.continuous.start, image_token_id=v.image, pad_token_id=v.pad, num_layers=1, num_heads=2,
        width=32, head_width=16, feed_forward=64, context_length=64, drop_path=0.0, layout="compact", discrete_start=v.discrete.start,
    ))  # fmt: skip
    learner = GatoLearner(model)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        side = rng.choice([-0.8, 0.8], (32, 1)).astype(np.float32)
        seen = {"eye": rng.normal(size=(32, 2)).astype(np.float32)}
        episode = Episode(task, seen, {"wheels": np.tile(side, 2)}, np.zeros(32, np.float32))
        steps = compact.encode(episode, is_once=False).by_timestep()
        loss, _ = learner(batch_of(compact, join(steps, same_document=False)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    policy = GatoPolicy(model, compact, task, temperature=1.0, memory=1)
    seen = {"eye": rng.normal(size=(200, 2)).astype(np.float32)}
    policy.reset(200)
    drawn = policy.act(seen)["wheels"]
    assert (np.abs(drawn) > 0.2).mean() > 0.9, "hardly ever the middle of the two ways"
    assert 0.3 < (drawn[:, 0] > 0).mean() < 0.7, "both of them"
    assert (np.sign(drawn[:, 0]) == np.sign(drawn[:, 1])).mean() > 0.85, "the second wheel follows the first"
    chosen = GatoPolicy(model, compact, task, memory=1)
    chosen.reset(200)
    assert (np.abs(np.abs(chosen.act(seen)["wheels"]) - 0.8) < 0.1).mean() > 0.95, "and never their middle"


# -- measured observations -------------------------------------------------------------------------


def test_observations_are_measured_from_an_origin_in_units_of_a_scale():
    spec = FieldSpec("place", Modality.CONTINUOUS, "observation", (2,), origin=(1.0, 0.0), scale=(0.5, 100.0))
    plain = FieldSpec("place", Modality.CONTINUOUS, "observation", (2,))
    from gato.tokenizers.vocabulary import Vocabulary

    ids = continuous.encode(spec, np.float32([[2.0, -50.0]]), Vocabulary())
    assert ids.tolist() == continuous.encode(plain, np.float32([[2.0, -0.5]]), Vocabulary()).tolist()
    np.testing.assert_allclose(continuous.decode(spec, ids, Vocabulary()), [[2.0, -50.0]], rtol=0.03)


def test_the_model_expands_a_bin_to_the_value_that_the_tokenizer_made_it_of():
    centres = continuous.bin_centres(np.arange(NUM_BINS))
    values = continuous.inverse_mu_law(centres).clip(-FAR, FAR)
    np.testing.assert_allclose(NumberEmbedding.expanded(torch.from_numpy(centres)).numpy(), values, rtol=1e-12)


@pytest.mark.parametrize("scale", [(0.0,), (-1.0,), (float("nan"),), (1.0, 2.0, 3.0)])
def test_a_scale_is_one_number_above_zero_or_one_per_element(scale):
    with pytest.raises(ValueError, match="expected one finite number above 0, or 2 of them"):
        FieldSpec("place", Modality.CONTINUOUS, "observation", (2,), scale=scale)
    with pytest.raises(ValueError, match="only continuous observations"):
        FieldSpec("motor", Modality.CONTINUOUS, "action", (), low=(0,), high=(1,), scale=(1.0,))


def test_a_task_with_a_scale_survives_its_file_and_is_told_from_one_without(robot):
    from gato.data.spread import measured

    values = np.float32([1, 2, 3, 4, 100])
    episode = Episode(robot, {"camera": np.zeros((5, 16, 32, 3), np.uint8), "goal": np.array(["go"] * 5, object),
                              "gripper/force": values, "gripper/open": np.zeros(5, np.int64)},
                      {"motors": np.zeros((5, 2), np.float32)}, np.zeros(5, np.float32))  # fmt: skip
    task = measured(robot, [episode])
    force = next(f for f in task.observations if f.name == "gripper/force")
    assert force.origin == (3.0,) and force.scale == pytest.approx((np.sqrt(np.square(values - 3).mean()),), rel=1e-3)
    assert TaskSpec.from_dict(task.to_dict()) == task
    assert "origin" in robot.differences(task)[0]
    assert robot.measured_as(task) == task
    constant = measured(robot, [replace(episode, observations={**episode.observations, "gripper/force": np.full(5, 7, np.float32)})])
    assert next(f for f in constant.observations if f.name == "gripper/force").scale == (1.0,)


# -- mixtures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mix(compact, blind_drive, tmp_path_factory):
    """mix(memory=2): a mixture of ten drives of 9 timesteps, of two instructions."""
    from gato.data.mixture import Mixture
    from gato.data.selection import DataConfig, SourceConfig
    from gato.data.store import StoreWriter

    folder = tmp_path_factory.mktemp("drives")
    with StoreWriter(folder, [blind_drive(1).task]) as writer:
        for seed in range(10):
            writer.append(blind_drive(9, ("go", "go to the red ball")[seed % 2], seed=seed))

    def make(memory: int | None = None, prompt_share: float = 0.0, context_length: int = 64) -> Mixture:
        sources = {"toy/robot": SourceConfig(store=str(folder), memory=memory)}
        return Mixture(DataConfig(sources=sources, prompt_share=prompt_share), compact, context_length, seed=0)

    return make


@pytest.mark.parametrize(("memory", "prompt_share"), [(None, 0.0), (None, 1.0), (1, 0.0), (2, 0.0), (2, 1.0)])
def test_every_window_and_every_prompt_begins_with_its_instruction(mix, memory, prompt_share):
    mixture = mix(memory, prompt_share)
    for r in range(20):
        row = mixture.row(0, r)
        tokens = row.tokens
        assert len(tokens) <= 64
        documents = [tokens.document == d for d in range(tokens.document[-1] + 1)]
        assert memory is None or max(int(tokens.timestep[d].max()) + 1 for d in documents[:-1]) <= memory + 9 * prompt_share
        for of_document in documents:
            assert tokens.kind[of_document][0] == Kind.TEXT
            said = (tokens.kind[of_document] == Kind.TEXT).astype(int)
            times = np.count_nonzero(np.diff(said, prepend=0) == 1)
            assert times == 1 or (times == 2 and row.pieces[0].role != "window"), "once, and once more in a prompt"


def test_a_short_memory_s_windows_are_those_that_a_policy_would_see(mix, compact):
    mixture = mix(memory=2)
    row = mixture.row(0, 0)
    assert len({piece.episode for piece in row.pieces}) < len(row.pieces), "several windows of an episode are read at once"
    for document, piece in enumerate(row.pieces[:-1]):  # the last one may be cut
        assert piece.stop - piece.start == 2
        episode = replace(mixture.sources[0].store.episode(piece.episode, piece.start, piece.stop), task=mixture.tasks["toy/robot"])
        seen, is_here = compact.encode(replace(episode, task=replace(episode.task, memory=None))), row.tokens.document == document
        np.testing.assert_array_equal(row.tokens.ids[is_here], seen.ids)
        np.testing.assert_array_equal(row.tokens.timestep[is_here], seen.timestep)


def test_rows_of_short_windows_are_full(mix):
    assert min(len(mix(memory=1).row(0, r).tokens) for r in range(10)) == 64


def test_a_mixture_measures_observations_and_its_tasks_say_how(mix):
    mixture = mix()
    force = next(f for f in mixture.tasks["toy/robot"].observations if f.name == "gripper/force")
    assert abs(force.origin[0]) < 0.5 and 0.7 < force.scale[0] < 1.3


# -- checkpoints -----------------------------------------------------------------------------------


def test_a_saved_agent_acts_as_before_and_says_its_layout(make, compact, robot, drive, tmp_path):
    import json

    agent = Agent(make().float(), compact, {robot.name: robot})
    agent.save(tmp_path)
    assert json.loads((tmp_path / "gato.json").read_text())["layout"] == "compact"
    loaded = gato.load(tmp_path, device="cpu")
    assert loaded.tokenizer.layout == loaded.model.config.layout == "compact"
    shown = {name: values[:1] for name, values in drive(1).observations.items()}
    np.testing.assert_array_equal(loaded.policy(robot.name).act(shown)["motors"], agent.policy(robot.name).act(shown)["motors"])


def test_a_saved_agent_pools_patches_as_before(make, tokenizer, robot, drive, tmp_path):
    pooled = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact", pool_patches=2)
    agent = Agent(make(pool_patches=2).float(), pooled, {robot.name: robot})
    agent.save(tmp_path)
    loaded = gato.load(tmp_path, device="cpu")
    assert loaded.tokenizer.pool_patches == loaded.model.config.pool_patches == 2
    shown = {name: values[:1] for name, values in drive(1).observations.items()}
    np.testing.assert_array_equal(loaded.policy(robot.name).act(shown)["motors"], agent.policy(robot.name).act(shown)["motors"])


def test_weights_of_one_layout_with_the_tokenizer_of_the_other_are_refused(make, compact, tokenizer, robot, tmp_path):
    import json

    with pytest.raises(ValueError, match="the weights are of layout 'compact' but the tokenizer lays out tokens as 'gato'"):
        Agent(make(), tokenizer, {})
    with pytest.raises(ValueError, match="the weights pool 2 x 2 patches but the tokenizer 1 x 1"):
        Agent(make(pool_patches=2), compact, {})
    Agent(make().float(), compact, {robot.name: robot}).save(tmp_path)
    path = tmp_path / "gato.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": "gato"}))
    with pytest.raises(ValueError, match="the weights are of layout 'compact' but the tokenizer lays out tokens as 'gato'"):
        gato.load(tmp_path, device="cpu")


def test_a_run_of_one_layout_is_not_gone_on_with_in_the_other(tmp_path, monkeypatch, capsys, text, walk):
    from gato.cli import main
    from gato.data.store import StoreWriter

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    text.save(tmp_path / "tokenizer.model")
    with StoreWriter(tmp_path / "walks", [walk([0], [1]).task]) as writer:
        writer.append(walk([0, 0, 1], [1, 1, 0]))
    size = "num_layers: 1, num_heads: 1, width: 16, head_width: 16, feed_forward: 16, context_length: 16"
    for layout, code in (("compact", 0), ("gato", 2)):
        (tmp_path / "recipe.yaml").write_text(
            f"model: {{layout: {layout}, {size}}}\ndata: {{tokenizer: tokenizer.model, sources: {{toy/corridor: {{store: walks}}}}}}\n"
            "train: {name: small, steps: 2, batch_size: 2, threads: 1, device: cpu}\n"
        )
        assert main(["pretrain", "recipe.yaml"]) == code
    assert "model.layout was compact, now gato" in capsys.readouterr().err


def test_captions_answers_and_text_are_written_in_the_compact_layout(make, compact):
    from gato.data.formats.vqa import question_task
    from gato.words import caption_task, document_task

    words = (caption_task("captions", (16, 32)), question_task("vqa", (16, 32)), document_task("text"))
    agent = Agent(make(context_length=96).float(), compact, {task.name: task for task in words})
    picture = np.full((16, 32, 3), 90, np.uint8)
    assert isinstance(agent.caption(picture, max_new_tokens=4), str)
    assert isinstance(agent.answer(picture, "what is it", max_new_tokens=4), str)
    assert agent.generate("go to", max_new_tokens=4).startswith("go to")
    found = agent.candidates([picture], 2, max_new_tokens=4)
    assert found[0][0].log_likelihood >= found[0][-1].log_likelihood


def test_likelihoods_are_exact_where_training_is_softer(model, compact, robot, drive):
    """The chosen bins' own log-probabilities, slot by slot."""
    episode = drive(1)
    agent = Agent(model, compact, {robot.name: robot})
    found = agent.log_likelihood([episode], actions_only=True)
    tokens = compact.encode(episode)
    batch = batch_of(compact, tokens)
    numbers, reader = batch.numbers, model.slots
    with torch.no_grad():
        hidden = states_of(model, compact, tokens)
        direct = reader.direct_of(numbers.ids, numbers.place, numbers.owner, hidden)
        choice, total = SlotChoice(reader, hidden, direct, reader.embedding.bin_values()), 0.0
        for slot in range(2):
            scores = choice.scores(compact.vocabulary.continuous, True)[0]
            total += float(scores[numbers.actions[0, slot] - compact.vocabulary.continuous.start])
            choice.take(numbers.actions[:, slot].numpy(), is_continuous=True)
    assert found[0] == pytest.approx(total, rel=1e-6)


def test_a_handful_of_demonstrations_is_learned_in_updates_of_so_many_timesteps():
    from gato.eval.settings import FewShotConfig

    assert FewShotConfig("store").fitted("gato").training.timesteps == 0
    assert FewShotConfig("store").fitted("compact").training.timesteps == 128
    assert FewShotConfig("store", batch_size=4).fitted("compact").training.timesteps == 0
    assert FewShotConfig("store", protocol="small").fitted("compact").training.steps == 120


@pytest.mark.parametrize("pool", [1, 2])
def test_attention_of_actions_is_that_of_positions(make, tokenizer, robot, drive, pool):
    """Slots that are read together look alike, and so are patches that share a position looked at."""
    pooled = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact", pool_patches=pool)
    found = episode_attention(Agent(make(pool_patches=pool), pooled, {robot.name: robot}), drive(3, "go"))
    np.testing.assert_allclose(found.timesteps.sum(axis=-1), 1, atol=1e-6)
    assert (found.timesteps[..., np.triu_indices(3, 1)[0], np.triu_indices(3, 1)[1]] == 0).all()
    left, right = found.patches.maps[..., 0, 0], found.patches.maps[..., 0, 1]
    assert (left == right).all() == (pool == 2)


def test_places_of_patches_that_lie_near_each_other_begin_alike(make_gato):
    """A patch of a quarter of the picture has 32 bins, of which training draws one at a time; the paper's layout leaves them to chance."""

    def likeness(layout: str, one: int, other: int) -> float:
        rows = make_gato(layout=layout, context_length=16).embedding.patch_rows.weight
        return float(torch.nn.functional.cosine_similarity(rows[one], rows[other], dim=0))

    assert likeness("compact", 2, 12) > 0.8
    assert likeness("compact", 2, 100) < 0.7
    assert abs(likeness("gato", 2, 12)) < 0.7
