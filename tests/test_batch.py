"""Token sequences and batches: cutting, joining, padding; and a loss that does not depend on the arrangement."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gato.batch import Kind, TokenBatch, TokenSequence, collate, join
from gato.learners.gato import GatoLearner


@pytest.fixture(scope="module")
def rows(tokenizer, drive) -> list[TokenSequence]:
    """Three rows of unequal length: 8, 18 and 27 tokens or more, with pictures, words and motors."""
    episodes = [drive(1, "go", seed=1), drive(2, "the red ball", seed=2), drive(3, "a box", seed=3)]
    return [tokenizer.encode(e) for e in episodes]


def loss_and_gradients(model, *batches: TokenBatch) -> tuple[float, list[torch.Tensor]]:
    """Of one update that is split over `batches`, with the denominator of all of them."""
    denominator = sum(b.denominator for b in batches)
    learner = GatoLearner(model)
    loss = sum(learner(b.with_denominator(denominator))[0] for b in batches)
    return float(loss.detach()), list(torch.autograd.grad(loss, list(model.parameters())))


def assert_same(mine, theirs) -> None:
    """Equal up to rounding: the model runs in float64, the cross-entropy always in float32."""
    assert mine[0] == pytest.approx(theirs[0], rel=1e-6)
    for a, b in zip(mine[1], theirs[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# -- sequences -------------------------------------------------------------------------------------


def test_a_cut_and_the_rest_make_the_whole(rows):
    whole = rows[1]
    for length in range(len(whole) + 1):
        start, end = whole.cut(length), whole.drop(length)
        assert (len(start), len(end)) == (length, len(whole) - length)
        np.testing.assert_array_equal(np.concatenate([start.ids, end.ids]), whole.ids)
        np.testing.assert_array_equal(np.concatenate([start.patches, end.patches]), whole.patches)


def test_a_prompt_and_its_episode_are_one_document_whose_timesteps_go_on(rows):
    row = join([rows[1], rows[2]], same_document=True)
    assert set(row.document) == {0}
    assert np.unique(row.timestep).tolist() == [0, 1, 2, 3, 4]


def test_packed_sequences_stay_documents_of_their_own(rows):
    row = join([rows[0], join([rows[1], rows[2]], same_document=False)], same_document=False)
    assert np.unique(row.document).tolist() == [0, 1, 2]
    assert row.timestep[len(rows[0])] == 0
    assert len(row.patches) == sum(len(r.patches) for r in rows)


def test_the_first_token_of_a_document_cannot_be_predicted(walk, tokenizer):
    words = replace(tokenizer.encode(walk([0, 1], [1, 1])), is_target=np.ones(6, bool))
    row = join([words, words], same_document=False)
    assert row.is_predicted.tolist() == [False, True, True, True, True, True] * 2


# -- batches ---------------------------------------------------------------------------------------


def test_a_batch_is_padded_with_what_nobody_predicts(rows, tokenizer):
    batch = collate(rows, 64, tokenizer.vocabulary.pad)
    n = len(rows[0])
    assert batch.ids.shape == (3, 64)
    assert set(batch.ids[0, n:].tolist()) == {tokenizer.vocabulary.pad}
    assert set(batch.kind[0, n:].tolist()) == {Kind.PAD}
    assert set(batch.document[0, n:].tolist()) == {-1}
    assert set(batch.labels[0, n:].tolist()) == {-100}
    assert batch.num_tokens == sum(map(len, rows))


def test_labels_are_the_ids_of_predicted_targets(rows, tokenizer):
    batch = collate(rows, 64, tokenizer.vocabulary.pad)
    for b, row in enumerate(rows):
        labels = batch.labels[b, : len(row)].numpy()
        np.testing.assert_array_equal(labels, np.where(row.is_predicted, row.ids, -100))
    assert batch.denominator == sum(int(r.is_predicted.sum()) for r in rows)


def test_patches_are_packed_in_the_order_of_their_slots(rows, tokenizer):
    batch = collate(rows, 64, tokenizer.vocabulary.pad)
    assert len(batch.patches) == int((batch.ids == tokenizer.vocabulary.image).sum()) == 2 * (1 + 2 + 3)
    np.testing.assert_array_equal(batch.patches[2:6].numpy(), rows[1].patches)


def test_a_batch_without_pictures_carries_a_spare_patch(walk, tokenizer):
    batch = collate([tokenizer.encode(walk([0], [1]))], 8, tokenizer.vocabulary.pad)
    assert batch.patches.shape == (1, 16, 16, 3)
    assert not (batch.ids == tokenizer.vocabulary.image).any()


def test_a_row_longer_than_the_context_is_refused(rows, tokenizer):
    with pytest.raises(ValueError, match=f"a row has {len(rows[2])} tokens but the context holds 10"):
        collate([rows[2]], 10, tokenizer.vocabulary.pad)


def test_the_weights_of_rows_count_in_the_denominator(walk, tokenizer):
    rows = [tokenizer.encode(walk([0] * n, [1] * n)) for n in (1, 3)]  # 1 and 3 targets
    assert collate(rows, 16, 0, weights=[10.0, 0.5]).denominator == 10 * 1 + 0.5 * 3


# -- the loss does not depend on the arrangement -------------------------------------------------------


def test_padding_changes_neither_loss_nor_gradients(tiny, rows, tokenizer):
    short, long = (collate(rows, length, tokenizer.vocabulary.pad) for length in (max(map(len, rows)), 64))
    assert_same(loss_and_gradients(tiny, short), loss_and_gradients(tiny, long))


def test_packing_changes_neither_loss_nor_gradients(tiny, rows, tokenizer):
    apart = collate(rows, 64, tokenizer.vocabulary.pad)
    packed = collate([join(rows, same_document=False)], 64, tokenizer.vocabulary.pad)
    assert packed.is_packed and not apart.is_packed
    assert_same(loss_and_gradients(tiny, apart), loss_and_gradients(tiny, packed))


def test_accumulation_changes_neither_loss_nor_gradients(tiny, rows, tokenizer):
    whole = collate(rows, 64, tokenizer.vocabulary.pad, weights=[1, 2, 0.5])
    parts = [collate([r], 64, tokenizer.vocabulary.pad, weights=[w]) for r, w in zip(rows, [1, 2, 0.5], strict=True)]
    assert_same(loss_and_gradients(tiny, whole), loss_and_gradients(tiny, *parts))


def test_the_order_of_rows_changes_neither_loss_nor_gradients(tiny, rows, tokenizer):
    forward, backward = (collate(r, 64, tokenizer.vocabulary.pad) for r in (rows, rows[::-1]))
    assert_same(loss_and_gradients(tiny, forward), loss_and_gradients(tiny, backward))


def test_a_mean_of_means_would_differ(make_gato, rows, tokenizer):
    model = make_gato()
    whole = loss_and_gradients(model, collate(rows, 64, tokenizer.vocabulary.pad))[0]
    means = [loss_and_gradients(model, collate([r], 64, tokenizer.vocabulary.pad))[0] for r in rows]
    assert abs(np.mean(means) - whole) > 1e-3  # the rows have unequal numbers of targets


def test_stochastic_depth_follows_the_row_and_not_its_place(make_gato, rows, tokenizer):
    model = make_gato(drop_path=0.5).train()
    noise = np.random.default_rng(0).random((3, 4))
    whole = collate(rows, 64, tokenizer.vocabulary.pad, depth_noise=noise)
    parts = [collate([rows[i]], 64, tokenizer.vocabulary.pad, depth_noise=noise[[i]]) for i in (2, 0, 1)]
    assert_same(loss_and_gradients(model, whole), loss_and_gradients(model, *parts))
    other = collate(rows, 64, tokenizer.vocabulary.pad, depth_noise=1 - noise)
    assert abs(loss_and_gradients(model, other)[0] - loss_and_gradients(model, whole)[0]) > 1e-3


def test_evaluation_drops_nothing(make_gato, rows, tokenizer):
    learner = GatoLearner(make_gato(drop_path=0.5)).eval()
    drawn = collate(rows, 64, tokenizer.vocabulary.pad, depth_noise=np.random.default_rng(0).random((3, 4)))
    assert torch.equal(learner(drawn)[0], learner(replace(drawn, depth_noise=None))[0])


def test_losses_are_counted_by_source(make_gato, rows, tokenizer):
    batch = collate(rows, 64, tokenizer.vocabulary.pad, sources=[2, 0, 2])
    loss, metrics = GatoLearner(make_gato(), sources=("a", "b", "c"))(batch)
    targets = [int(r.is_predicted.sum()) for r in rows]
    assert metrics["targets"].tolist() == [targets[1], 0, targets[0] + targets[2]]
    assert float(metrics["loss_sum"].sum() / sum(targets)) == pytest.approx(float(loss.detach()), rel=1e-6)  # sums are float32
    alone, _ = GatoLearner(make_gato())(collate([rows[1]], 64, tokenizer.vocabulary.pad))
    assert float(metrics["loss_sum"][0] / targets[1]) == pytest.approx(float(alone.detach()), rel=1e-6)


def test_a_batch_of_no_targets_has_loss_zero(make_gato, rows, tokenizer):
    untargeted = replace(rows[0], is_target=np.zeros(len(rows[0]), bool))
    loss, gradients = loss_and_gradients(make_gato(), collate([untargeted], 64, tokenizer.vocabulary.pad))
    assert loss == 0
    assert all((g == 0).all() for g in gradients)
