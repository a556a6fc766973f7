"""Values become ids and come back: numbers, text, pictures, and whole episodes token by token."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato.batch import ACTION_LOCAL, NO_LOCAL, Kind
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers import continuous, discrete, image
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.text import END, TextTokenizer, sample_lines
from gato.tokenizers.vocabulary import Vocabulary

PAPER = Vocabulary()
READING = FieldSpec("reading", Modality.CONTINUOUS, "observation", (9,))
MOTOR = FieldSpec("motor", Modality.CONTINUOUS, "action", (5,), "float64", (-1.0,), (1.0,))
SCALED = FieldSpec("scaled", Modality.CONTINUOUS, "action", (2,), "float32", (-10.0, 0.0), (30.0, 0.5))
CAPTION = TaskSpec(
    "toy/captions",
    (
        FieldSpec("image", Modality.IMAGE, "observation", (16, 16, 3), "uint8"),
        FieldSpec("caption", Modality.TEXT, "action", dtype="str"),
    ),
)
DOCUMENT = TaskSpec("toy/documents", (FieldSpec("text", Modality.TEXT, "action", dtype="str"),))
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\u2581\0\x01\t\r\n ▁é😀"))


def document(text: str) -> Episode:
    return Episode(DOCUMENT, {}, {"text": np.array([text], object)}, np.zeros(1, np.float32))


def caption(text: str) -> Episode:
    return Episode(CAPTION, {"image": np.zeros((1, 16, 16, 3), np.uint8)}, {"caption": np.array([text], object)}, np.zeros(1, np.float32))


# -- the id ranges ---------------------------------------------------------------------------------


def test_the_ranges_of_the_paper():
    assert (PAPER.text_size, PAPER.continuous, PAPER.discrete) == (32000, range(32000, 33024), range(1024))
    assert (PAPER.separator, PAPER.pad, PAPER.image, PAPER.size) == (33024, 33025, 33026, 33027)


def test_ranges_are_disjoint_but_for_the_declared_overlap_of_text_and_discrete_values():
    apart = Vocabulary.separate_discrete(300)
    ids = [*range(apart.text_size), *apart.continuous, apart.separator, apart.pad, apart.image, *apart.discrete]
    assert ids == list(range(apart.size))
    assert set(PAPER.discrete) <= set(range(PAPER.text_size))


@pytest.mark.parametrize("offset", [-1, 31000, 32000, 33026])
def test_discrete_values_that_lie_half_inside_another_range_are_refused(offset):
    with pytest.raises(ValueError, match="discrete"):
        Vocabulary(32000, discrete_offset=offset)


def test_a_small_text_vocabulary_cannot_share_its_rows():
    with pytest.raises(ValueError, match="set discrete_offset to 1327"):
        Vocabulary(300)


# -- continuous values -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_observations_have_the_ids_of_the_paper(dtype):
    values = np.array([-300, -256, -1, -0.1, 0, 0.1, 1, 256, 300], dtype)
    expected = [32000, 32000, 32279, 32391, 32512, 32632, 32744, 33023, 33023]
    assert continuous.encode(READING, values, PAPER).tolist() == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_have_the_ids_of_the_paper(dtype):
    values = np.array([-1, -0.5, 0, 0.5, 1], dtype)
    assert continuous.encode(MOTOR, values, PAPER).tolist() == [32000, 32256, 32512, 32768, 33023]


def test_a_value_at_the_upper_edge_stays_in_the_last_bin():
    assert continuous.to_bins(np.array([1.0, np.nextafter(1, 0), np.inf, 1e30])).tolist() == [1023] * 4
    assert continuous.to_bins(np.array([-1.0, -np.inf, -1e30])).tolist() == [0] * 3
    assert continuous.to_bins(np.float32([1.0, np.nextafter(np.float32(1), np.float32(0))])).tolist() == [1023] * 2


def test_an_action_comes_back_within_half_a_bin():
    values = np.linspace(-1, 1, 100_005).reshape(-1, 5)
    back = continuous.decode(MOTOR, continuous.encode(MOTOR, values, PAPER), PAPER)
    assert np.abs(back - values).max() <= 1 / 1024 + 1e-12  # half a bin, and rounding


def test_an_action_with_bounds_of_its_own_comes_back_within_half_a_bin_of_them():
    values = np.linspace([-10.0, 0.0], [30.0, 0.5], 50_001).astype(np.float32)
    back = continuous.decode(SCALED, continuous.encode(SCALED, values, PAPER), PAPER)
    assert back.dtype == np.float32
    assert (np.abs(back - values).max(axis=0) <= np.array([20.0, 0.25]) / 1024 + 2e-6).all()  # and float32's rounding
    assert (back >= [-10, 0]).all() and (back <= [30, 0.5]).all()


def test_every_bin_decodes_to_its_own_centre():
    ids = np.arange(32000, 33024)[:, None]
    for spec in (replace(READING, shape=(1,), dtype="float64"), replace(MOTOR, shape=(1,))):
        centres = continuous.decode(spec, ids, PAPER)
        assert continuous.encode(spec, centres, PAPER).tolist() == ids.tolist()


def test_mu_law_has_an_inverse():
    values = np.array([-256, -3, -1e-3, 0, 0.1, 1, 256])
    np.testing.assert_allclose(continuous.mu_law(values)[[0, 3, 4, 5, 6]], [-1, 0, 0.2362, 0.4547, 1], atol=5e-5)  # worked out by hand
    np.testing.assert_allclose(continuous.inverse_mu_law(continuous.mu_law(values)), values, rtol=1e-12)


def test_the_role_and_not_the_data_decides_about_companding():
    as_action = replace(READING, role="action", low=(-1.0,), high=(1.0,))
    value = np.full(9, 0.1, np.float32)
    assert continuous.encode(READING, value, PAPER)[0] == 32632
    assert continuous.encode(as_action, value, PAPER)[0] == 32000 + int(1.1 * 512)


def test_values_with_an_origin_are_companded_by_their_distance_from_it():
    """A tenth beside the origin is the paper's 0.1, and comes back within half of the bin there, 1.1 mm of a metre."""
    place = FieldSpec("place", Modality.CONTINUOUS, "observation", (3,), "float64", origin=(1.34, 0.0, -2.0))
    values = np.array([[1.44, 0.1, -2.1]])
    ids = continuous.encode(place, values, Vocabulary())
    assert ids.tolist() == [[32632, 32632, 32391]]
    np.testing.assert_allclose(continuous.decode(place, ids, Vocabulary()), values, atol=0.0011)
    whole = replace(place, origin=(1.34,))
    assert continuous.encode(whole, np.full((1, 3), 1.24, np.float32), Vocabulary()).tolist() == [[32391] * 3]


def test_decoding_refuses_ids_of_other_kinds():
    for wrong in (31999, 33024):
        with pytest.raises(ValueError, match=f"id {wrong} is not a continuous token"):
            continuous.decode(MOTOR, np.array([32000, wrong]), PAPER)


# -- discrete values -------------------------------------------------------------------------------


def test_discrete_values_are_counted_from_their_lowest():
    spec = FieldSpec("cell", Modality.DISCRETE, "observation", (2,), "int64", (-3, 0), (4, 1))
    values = np.array([[-3, 0], [4, 1]])
    assert discrete.encode(spec, values, PAPER).tolist() == [[0, 0], [7, 1]]
    apart = Vocabulary.separate_discrete(300)
    assert discrete.encode(spec, values, apart).tolist() == [[1327, 1327], [1334, 1328]]
    np.testing.assert_array_equal(discrete.decode(spec, discrete.encode(spec, values, apart), apart), values)


def test_discrete_values_outside_their_range_are_refused_both_ways():
    spec = FieldSpec("cell", Modality.DISCRETE, "action", (), "int64", (1,), (4,))
    with pytest.raises(ValueError, match=r"action 'cell' is 5, outside \[1, 4\]"):
        discrete.encode(spec, np.array([2, 5]), PAPER)
    with pytest.raises(ValueError, match="decode outside"):
        discrete.decode(spec, np.array([0, 4]), PAPER)


# -- text ------------------------------------------------------------------------------------------


@given(string=ANY_TEXT)
def test_any_unicode_text_comes_back_as_it_was(text, string):
    ids = text.encode(string)
    assert text.decode(ids) == string
    assert not {0, 1, 2} & set(ids)


@pytest.mark.parametrize(
    "string", ["", " ", "  a  ", "\u2581", " \u2581 \u2581", "a\0b", "\0", "\x07\x1b", "\r\n", "ﬁ", "e\u0301", "\ufeff", "\U0010ffff"]
)
def test_text_that_others_normalise_comes_back_as_it_was(text, string):
    assert text.decode(text.encode(string)) == string


@pytest.mark.parametrize("typed", ["</s>", "<s>", "<unk>", "<0x41>", "a</s>b"])
def test_typed_special_tokens_are_just_text(text, typed):
    ids = text.encode(typed)
    assert text.decode(ids) == typed
    assert not {0, 1, 2} & set(ids)
    assert len(ids) >= len("<s>")


def test_a_lone_surrogate_is_refused(text):
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        text.encode("a\ud800")


def test_documents_end_in_eos_and_eos_has_no_text(text):
    (ids,) = text.encode_documents(["go"])
    assert ids == [*text.encode("go"), END]
    assert text.decode(ids) == "go"


def test_the_caller_may_change_the_ids_it_got(text):
    text.encode("go").append(7)
    assert 7 not in text.encode("go")


def test_a_text_tokenizer_survives_disk_and_other_processes(text, tmp_path):
    text.save(tmp_path / "tokenizer.model")
    for other in (TextTokenizer.load(tmp_path / "tokenizer.model"), pickle.loads(pickle.dumps(text)), copy.deepcopy(text)):
        assert (other.hash, other.size, other.encode("go to")) == (text.hash, text.size, text.encode("go to"))


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer at"):
        TextTokenizer.load(tmp_path / "missing.model")
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        TextTokenizer.load(tmp_path / "bad.model")


def test_too_little_text_for_the_size_is_refused():
    with pytest.raises(ValueError, match="cannot train 5000 pieces"):
        TextTokenizer.train(["a b c"], vocabulary_size=5000)


def test_a_tokenizer_learns_from_a_stream_of_text():
    texts = (f"the {colour} ball\nand the {colour} box" for colour in ("red", "blue", "green") * 50)
    tokenizer = TextTokenizer.train(texts, vocabulary_size=290)
    assert tokenizer.decode(tokenizer.encode("the red box")) == "the red box"


def test_the_report_counts_words_pieces_and_characters_spelt_as_bytes(text):
    report = text.report(["go to", "caf\u00e9 \u4e2d"])
    assert (report["texts"], report["words"], report["characters"], report["unknown"]) == (2, 4, 11, 0)
    assert report["coverage"] == pytest.approx(9 / 11)  # neither \u00e9 nor \u4e2d was in the text that the pieces come from
    assert report["pieces"] == len(text.encode("go to")) + len(text.encode("caf\u00e9 \u4e2d"))
    assert report["pieces_per_word"] == report["pieces"] / 4


def test_of_too_much_text_a_fair_sample_of_lines_is_kept_in_order():
    texts = [f"{number:04d}" for number in range(1000)]
    assert sample_lines(iter(texts), max_characters=4000) == texts
    kept = sample_lines(iter(texts), max_characters=800)
    assert 60 < len(kept) <= 200 and kept == sorted(kept)
    assert 0.25 < sum(line < "0500" for line in kept) / len(kept) < 0.75  # not just the first ones, nor the last


def test_long_lines_are_cut_not_left_out():
    assert [len(line) for line in sample_lines(["x" * 40000], max_characters=10**6)] == [16384, 16384, 7232]


def test_a_tokenizer_of_another_size_than_the_vocabulary_is_refused(text):
    with pytest.raises(ValueError, match="320 pieces but the vocabulary 32000"):
        EpisodeTokenizer(text, PAPER)


def test_the_vocabulary_follows_from_the_text_tokenizer(text):
    """Its 320 pieces are fewer than the discrete values, which therefore lie behind everything else."""
    assert EpisodeTokenizer(text).vocabulary == Vocabulary.separate_discrete(320)


# -- pictures --------------------------------------------------------------------------------------


def test_patches_are_in_raster_order():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    patches = image.patchify(pictures)
    assert patches.shape == (2, 6, 16, 16, 3)
    places = [(row, column) for row in (0, 16) for column in (0, 16, 32)]
    np.testing.assert_array_equal(patches[1], [pictures[1, r : r + 16, c : c + 16] for r, c in places])


def test_the_patch_positions_of_64_by_80_pixels():
    boxes = image.patch_boxes(64, 80)
    assert sorted({*boxes[:, 0], *boxes[:, 1]}) == [0, 32, 64, 96, 128]
    assert sorted({*boxes[:, 2], *boxes[:, 3]}) == [0, 26, 51, 77, 102, 128]
    assert boxes[1 * 5 + 2].tolist() == [32, 64, 51, 77]


def test_training_draws_vary_and_stay_inside_their_half_open_box():
    boxes = np.repeat(image.patch_boxes(64, 80), 2000, axis=0)
    drawn = image.draw_positions(boxes, np.random.default_rng(0).random((len(boxes), 2)))
    rows, columns = drawn[:, 0], drawn[:, 2]
    np.testing.assert_array_equal(drawn[:, 0::2], drawn[:, 1::2])
    assert set(rows[:2000]) == set(range(32)) and set(columns[:2000]) == set(range(26))
    assert ((boxes[:, 0] <= rows) & (rows < boxes[:, 1]) & (boxes[:, 2] <= columns) & (columns < boxes[:, 3])).all()


def test_a_draw_at_the_edge_of_the_noise_is_never_row_128():
    noise = np.array([[np.nextafter(1, 0)] * 2])
    assert image.draw_positions(np.array([[96, 128, 102, 128]], np.uint8), noise).tolist() == [[127, 127, 127, 127]]


def test_pictures_of_more_than_128_patches_still_have_positions():
    boxes = image.patch_boxes(16, 16 * 300)
    drawn = image.draw_positions(boxes, np.full((300, 2), 0.5))
    assert drawn.max() <= 127


@pytest.mark.parametrize(("rule", "size"), [("pad", None), ("stretch", (32, 32))])
def test_pictures_reach_multiples_of_sixteen_by_the_rule_of_their_field(rule, size):
    spec = FieldSpec("camera", Modality.IMAGE, "observation", (20, 30, 3), "uint8", resize=rule, image_size=size)
    resized = image.resize(spec, np.full((2, 20, 30, 3), 200, np.uint8))
    assert resized.shape == (2, 32, 32, 3)
    assert (resized[:, :20, :30] == 200).all()
    assert (resized[:, 20:] == (0 if rule == "pad" else 200)).all()


def test_pictures_stretched_to_whole_multiples_repeat_their_pixels():
    spec = FieldSpec("board", Modality.IMAGE, "observation", (16, 8, 3), "uint8", resize="stretch", image_size=(32, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 8, 3), np.uint8)
    resized = image.resize(spec, pixels)
    assert resized.shape == (1, 32, 32, 3) and (resized[0, 1::2, 3::4] == pixels[0]).all() and (resized[0, ::2, ::4] == pixels[0]).all()


# -- whole episodes --------------------------------------------------------------------------------


def test_a_two_step_episode_token_by_token(tokenizer, drive, robot):
    """Keys sorted: camera, goal, gripper/force before gripper/open; then the bar; then the two motors."""
    episode = replace(
        drive(2, "go"),
        observations=dict(drive(2, "go").observations) | {"gripper/force": np.float32([0, 1]), "gripper/open": np.array([0, 1])},
        actions={"motors": np.array([[-1.0, 0.0], [0.0, 10.0]], np.float32)},
    )
    v, go = tokenizer.vocabulary, tokenizer.text.encode("go")
    c, d, n = v.continuous.start, v.discrete.start, len(go)
    tokens = tokenizer.encode(episode)
    assert tokens.ids.tolist() == [
        v.image, v.image, *go, c + 512, d + 0, v.separator, c + 0, c + 0,
        v.image, v.image, *go, c + 744, d + 1, v.separator, c + 512, c + 1023,
    ]  # fmt: skip
    patch, words, reading, value, bar = Kind.PATCH, Kind.TEXT, Kind.CONTINUOUS, Kind.DISCRETE, Kind.SEPARATOR
    assert tokens.kind.tolist() == [patch, patch, *[words] * n, reading, value, bar, reading, reading] * 2
    assert tokens.local_position.tolist() == [*range(n + 4), NO_LOCAL, ACTION_LOCAL, ACTION_LOCAL] * 2
    assert tokens.is_target.tolist() == [False, False, *[True] * n, False, False, False, True, True] * 2
    assert tokens.timestep.tolist() == [0] * (n + 7) + [1] * (n + 7)
    assert set(tokens.document) == {0}
    np.testing.assert_array_equal(tokens.patches[3], episode.observations["camera"][1, :, 16:])
    assert tokens.patch_boxes.tolist() == [[0, 128, 0, 64], [0, 128, 64, 128]] * 2


def test_instructions_are_targets_only_if_asked(text, tokenizer, drive):
    quiet = EpisodeTokenizer(text, tokenizer.vocabulary, loss_on_text_observations=False)
    targets = quiet.encode(drive(1))
    assert targets.is_target.sum() == 2  # the motors
    assert tokenizer.encode(drive(1)).is_target.sum() == 2 + len(text.encode("go"))


def test_patches_of_two_cameras_follow_the_order_of_their_slots(tokenizer):
    cameras = [FieldSpec(name, Modality.IMAGE, "observation", (16, 16, 3), "uint8", path=(name,)) for name in ("b", "a")]
    task = TaskSpec("toy/eyes", (*cameras, FieldSpec("step", Modality.DISCRETE, "action", dtype="int64", low=(0,), high=(1,))))
    pictures = {
        name: np.full((2, 16, 16, 3), ord(name), np.uint8) + np.arange(2, dtype=np.uint8)[:, None, None, None] * 10 for name in "ab"
    }
    tokens = tokenizer.encode(Episode(task, pictures, {"step": np.zeros(2, np.int64)}, np.zeros(2, np.float32)))
    assert tokens.patches[:, 0, 0, 0].tolist() == [ord("a"), ord("b"), ord("a") + 10, ord("b") + 10]


def test_instructions_may_change_their_length_within_an_episode(tokenizer, drive):
    goals = np.array(["go", "go to the red ball"], object)
    tokens = tokenizer.encode(replace(drive(2), observations=dict(drive(2).observations) | {"goal": goals}))
    words = [tokenizer.text.decode(tokens.ids[(tokens.timestep == t) & (tokens.kind == Kind.TEXT)]) for t in (0, 1)]
    assert words == goals.tolist()
    assert tokens.local_position[tokens.timestep == 1].max() == 2 + len(tokenizer.text.encode("go to the red ball")) + 2 - 1


def test_a_caption_is_picture_bar_text_and_eos(tokenizer):
    tokens, words = tokenizer.encode(caption("a cat")), tokenizer.text.encode("a cat")
    v = tokenizer.vocabulary
    assert tokens.ids.tolist() == [v.image, v.separator, *words, END]
    assert tokens.is_target.tolist() == [False, False, *[True] * len(words), True]
    assert set(tokens.local_position) == {NO_LOCAL}


def test_a_document_is_text_and_eos_without_a_bar(tokenizer):
    tokens = tokenizer.encode(document("a cat"))
    assert tokens.ids.tolist() == [*tokenizer.text.encode("a cat"), END]
    assert tokens.is_target.all()
    assert set(tokens.local_position) == {NO_LOCAL}


def test_an_empty_document_is_only_its_end(tokenizer):
    assert tokenizer.encode(document("")).ids.tolist() == [END]


def test_text_without_a_text_tokenizer_is_refused(drive):
    with pytest.raises(ValueError, match="'goal' is text but no text tokenizer"):
        EpisodeTokenizer(None).encode(drive(1))


def test_more_observation_tokens_than_local_positions_are_refused(text, tokenizer, drive):
    small = EpisodeTokenizer(text, tokenizer.vocabulary, max_local_positions=4)
    with pytest.raises(ValueError, match="observation tokens in a timestep but the model has 4 local positions"):
        small.encode(drive(1))


def test_forty_thousand_numbers_have_as_many_local_positions():
    many = FieldSpec("many", Modality.CONTINUOUS, "observation", (40_000,))
    task = TaskSpec("toy/many", (many, FieldSpec("go", Modality.DISCRETE, "action", (), "int64", (0,), (1,))))
    episode = Episode(task, {"many": np.zeros((1, 40_000), np.float32)}, {"go": np.zeros(1, np.int64)}, np.zeros(1, np.float32))
    local = EpisodeTokenizer(None, max_local_positions=2**16, layout="compact").encode(episode).local_position
    assert local[:40_000].tolist() == list(range(40_000)) and local[40_000:].tolist() == [NO_LOCAL, ACTION_LOCAL]
    with pytest.raises(ValueError, match="has 40000 observation tokens in a timestep but the model has 32768 local positions"):
        EpisodeTokenizer(None, max_local_positions=2**15, layout="compact").encode(episode)


def test_what_a_policy_is_shown_is_the_episode_without_actions(tokenizer, drive, robot):
    whole, shown = tokenizer.encode(drive(3)), tokenizer.encode_observation(robot, drive(3).observations)
    keep = whole.local_position != ACTION_LOCAL
    for name in ("ids", "kind", "local_position", "timestep"):
        np.testing.assert_array_equal(getattr(shown, name), getattr(whole, name)[keep])
    np.testing.assert_array_equal(shown.patches, whole.patches)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("gripper/force", np.float32([np.nan])),
        ("gripper/force", np.float32([np.inf])),
        ("gripper/open", np.array([2])),
        ("camera", np.zeros((1, 32, 32, 3), np.uint8)),
    ],
)
def test_a_policy_is_not_shown_what_an_episode_would_refuse(tokenizer, robot, drive, name, values):
    with pytest.raises(ValueError, match=f"task 'toy/robot': observation '{name}'"):
        tokenizer.encode_observation(robot, dict(drive(1).observations) | {name: values})


def action_ids(tokenizer: EpisodeTokenizer, episode: Episode) -> np.ndarray:
    """(T, A)"""
    tokens = tokenizer.encode(episode)
    return tokens.ids[tokens.local_position == ACTION_LOCAL].reshape(episode.num_timesteps, -1)


def test_action_ids_decode_to_the_actions(tokenizer, drive, robot):
    episode = drive(50)
    ids = action_ids(tokenizer, episode)
    back = tokenizer.decode_actions(robot, ids)["motors"]
    assert (np.abs(back - episode.actions["motors"]).max(axis=0) <= np.array([1, 5]) / 1024 + 1e-6).all()  # half a bin, and float32


def test_several_actions_are_sorted_and_keep_their_shapes(tokenizer):
    fields = [
        FieldSpec("turn", Modality.DISCRETE, "action", (2,), "int64", (0, -1), (2, 1), path=("turn",)),
        FieldSpec("push", Modality.CONTINUOUS, "action", (1, 2), low=(-1.0,), high=(1.0,), path=("push",)),
    ]
    task = TaskSpec("toy/two", tuple(fields))
    v = tokenizer.vocabulary
    c, d = v.continuous.start, v.discrete.start
    actions = {"turn": np.array([[2, -1]]), "push": np.array([[[0.0, 1.0]]], np.float32)}
    ids = action_ids(tokenizer, Episode(task, {}, actions, np.zeros(1, np.float32)))
    assert ids.tolist() == [[c + 512, c + 1023, d + 2, d + 0]]
    assert tokenizer.legal_ids(task) == [v.continuous, v.continuous, range(d, d + 3), range(d, d + 3)]
    decoded = tokenizer.decode_actions(task, ids)
    assert decoded["turn"].tolist() == [[2, -1]] and decoded["push"].shape == (1, 1, 2)


def test_encoding_and_decoding_leave_their_inputs_alone(tokenizer, drive, robot):
    episode, before = drive(2), copy.deepcopy(drive(2))
    ids = action_ids(tokenizer, episode)
    kept = ids.copy()
    tokenizer.decode_actions(robot, ids)
    np.testing.assert_array_equal(ids, kept)
    for name, values in before.observations.items():
        np.testing.assert_array_equal(episode.observations[name], values)


def test_a_drawing_of_a_sequence_shows_patches_bars_and_targets(tokenizer, walk):
    assert tokenizer.show(tokenizer.encode(walk([0, 1], [1, 0]))) == "0.0    0 | [1]\n0.1    1 | [0]"
    assert tokenizer.show(tokenizer.encode(caption(""))) == "0.0    # | [</s>]"
