"""The model: who sees whom, what is learned from, how it starts, and how transformers uses it."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from gato.batch import ACTION_LOCAL, NO_LOCAL, collate, join, repeats
from gato.config import GatoConfig, preset
from gato.layers.embedding import smooth_rows
from gato.layers.head import CPU_CHUNK, weighted_loss
from gato.layers.inputs import attention_layout
from gato.layers.transformer import document_blocks
from gato.learners.gato import GatoLearner
from gato.model import Gato

ROOT = Path(__file__).resolve().parents[1]
EXACT = dict(rtol=1e-9, atol=1e-9)  # float64, up to the order of summation; rotary angles are equal bit by bit


# -- who sees whom ---------------------------------------------------------------------------------


def test_future_tokens_do_not_change_the_past(tiny, as_batch, drive, logits_of):
    batch = as_batch(drive(2))
    before = logits_of(tiny, batch)
    for l in range(batch.ids.shape[1]):
        if int(batch.ids[0, l]) == tiny.config.image_token_id:
            continue
        ids = batch.ids.clone()
        ids[0, l] = (ids[0, l] + 1) % tiny.config.image_token_id
        after = logits_of(tiny, replace(batch, ids=ids))
        torch.testing.assert_close(after[:, :l], before[:, :l], **EXACT)
        assert (after[:, l:] - before[:, l:]).abs().amax(dim=-1).min() > 1e-6


def test_a_future_picture_does_not_change_the_past(tiny, as_batch, drive, tokenizer, logits_of):
    batch = as_batch(drive(2))
    patches = batch.patches.clone()
    patches[2] = 255 - patches[2]  # the first patch of the second timestep
    slot = (batch.ids[0] == tokenizer.vocabulary.image).nonzero()[2, 0]
    before, after = logits_of(tiny, batch), logits_of(tiny, replace(batch, patches=patches))
    torch.testing.assert_close(after[:, :slot], before[:, :slot], **EXACT)
    assert (after[:, slot:] - before[:, slot:]).abs().amax(dim=-1).min() > 1e-6


def test_an_action_is_predicted_without_being_seen(tiny, walk, as_batch, logits_of):
    left, right = (logits_of(tiny, as_batch(walk([0, 0, 1], [0, a, 1]))) for a in (0, 1))
    separator = 4  # cell | step cell [|] step: the step is predicted from the bar before it
    torch.testing.assert_close(left[:, : separator + 1], right[:, : separator + 1], **EXACT)
    assert (left[:, separator + 1] - right[:, separator + 1]).abs().max() > 1e-3


def test_the_order_of_timesteps_matters_from_the_first_layer_on(make_gato, walk, as_batch, logits_of):
    for scheme in ("rope", "transformer_xl", "learned"):
        model = make_gato(scheme, num_layers=1)
        one, other = (logits_of(model, as_batch(walk([*cells, 0], [1, 1, 1])))[0, -1] for cells in ([0, 1], [1, 0]))
        assert (one - other).abs().max() > 1e-3, scheme  # without positions a single layer sees a set: rounding, 1e-15


def test_documents_of_one_row_do_not_see_each_other(tiny, tokenizer, drive, logits_of):
    first, second, other = (tokenizer.encode(drive(2, seed=s)) for s in (1, 2, 3))
    rows = [join([one, second], same_document=False) for one in (first, other)]
    a, b = (logits_of(tiny, collate([row], 64, tokenizer.vocabulary.pad)) for row in rows)
    span = slice(len(first), len(first) + len(second))
    torch.testing.assert_close(a[:, span], b[:, span], **EXACT)
    alone = logits_of(tiny, collate([second], 64, tokenizer.vocabulary.pad))[:, : len(second)]
    torch.testing.assert_close(a[:, span], alone, rtol=1e-4, atol=1e-4)  # rotary angles are float32


def test_a_prompt_is_seen_by_its_episode(tiny, tokenizer, drive, logits_of):
    first, second, other = (tokenizer.encode(drive(2, seed=s)) for s in (1, 2, 3))
    a, b = (logits_of(tiny, collate([join([one, second], same_document=True)], 64, 0)) for one in (first, other))
    assert (a[:, -1] - b[:, -1]).abs().max() > 1e-3


# -- the cache ---------------------------------------------------------------------------------------


def test_cached_decoding_equals_the_full_forward(tiny, as_batch, drive, logits_of):
    batch = as_batch(drive(2, "go to the red ball"))
    full, cache, parts = logits_of(tiny, batch), None, []
    slots = (batch.ids[0] == tiny.config.image_token_id).nonzero()[:, 0].tolist()
    edges = [0, *range(4, batch.ids.shape[1] + 1)]  # four tokens at once, then one by one
    for start, stop in pairwise(edges):
        chosen = [i for i, slot in enumerate(slots) if start <= slot < stop]
        with torch.no_grad():
            out = tiny(
                input_ids=batch.ids[:, start:stop], local_positions=batch.local_position[:, start:stop], cache=cache,
                pixel_values=batch.patches[chosen] if chosen else None, patch_boxes=batch.patch_boxes[chosen] if chosen else None,
            )  # fmt: skip
        cache = out.cache
        parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), full, **EXACT)


def test_padding_on_the_left_changes_nothing(tiny, tokenizer):
    pad, words = tokenizer.vocabulary.pad, tokenizer.text.encode("go to the red ball")
    padded = torch.tensor([[pad] * 5 + words])
    mask = torch.tensor([[0] * 5 + [1] * len(words)])
    with torch.no_grad():
        left = tiny(input_ids=padded, attention_mask=mask).logits[:, 5:]
        plain = tiny(input_ids=padded[:, 5:]).logits
    torch.testing.assert_close(left, plain, rtol=1e-4, atol=1e-4)  # rotary angles are float32


# -- what is learned from ----------------------------------------------------------------------------


def test_nothing_behind_the_last_target_matters(tiny, as_batch, walk):
    batch = as_batch(walk([0, 1], [1, 0]))
    labels = batch.labels.clone()
    labels[0, 5] = -100  # cell | [step] cell | step: only the first step is left
    ids = batch.ids.clone()
    ids[0, 3:] = 7
    losses = [tiny(input_ids=i, local_positions=batch.local_position, labels=labels).loss.item() for i in (batch.ids, ids)]
    assert losses[0] == losses[1]


def test_each_loss_says_which_label_it_is_of(tiny, as_batch, walk):
    batch = as_batch(*(walk([0] * n, [1] * n) for n in (1, 4, 2, 3)))
    out = tiny(input_ids=batch.ids, local_positions=batch.local_position, labels=batch.labels)
    assert out.token_index.tolist() == (batch.labels.flatten() >= 0).nonzero()[:, 0].tolist()


def test_masked_targets_give_no_gradient(tiny, as_batch, walk):
    batch = as_batch(walk([0, 1], [1, 0]))
    labels = batch.labels.clone()
    labels[0, 5] = -100
    seen = []
    hook = tiny.embedding.register_forward_hook(lambda _, __, out: seen.append(out) or out.retain_grad())
    tiny(input_ids=batch.ids, local_positions=batch.local_position, labels=labels).loss.backward()
    hook.remove()
    tiny.zero_grad()
    by_position = seen[0].grad[0].abs().sum(dim=-1)
    assert (by_position[:2] > 0).all() and (by_position[2:] == 0).all()  # the step at 2 is predicted from 0 and 1


def test_every_token_of_a_text_only_batch_is_a_target_except_padding(tokenizer):
    from gato.episode import Episode
    from gato.words import document_task

    task = document_task("text/toy")
    texts = ["go to the red ball", "a cat"]
    rows = [tokenizer.encode(Episode(task, {}, {"text": np.array([t], object)}, np.zeros(1, np.float32))) for t in texts]
    batch = collate(rows, 64, tokenizer.vocabulary.pad)
    is_target = batch.labels >= 0
    assert not is_target[:, 0].any()  # nothing stands before a document's first token
    assert (is_target[:, 1:] == (batch.document[:, 1:] >= 0)).all()


def test_a_text_only_batch_touches_the_image_embedder_with_a_zero_gradient(make_gato, tokenizer, walk, as_batch):
    model = make_gato()
    loss, _ = GatoLearner(model)(as_batch(walk([0, 1], [1, 1])))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if "patch" in name:
            assert (parameter.grad == 0).all(), name


def plain_loss(hidden, table, targets, scale):
    return (torch.nn.functional.cross_entropy(hidden @ table.T, targets, reduction="none") * scale).sum()


@pytest.mark.parametrize("number", [3, CPU_CHUNK, 2 * CPU_CHUNK + 7])
def test_the_loss_of_chunks_and_its_gradients_are_those_of_plain_cross_entropy(number):
    rng = torch.Generator().manual_seed(0)
    hidden, table = (torch.randn(n, 8, generator=rng, dtype=torch.float64, requires_grad=True) for n in (number, 40))
    targets, scale = torch.randint(0, 37, (number,), generator=rng), torch.rand(number, generator=rng, dtype=torch.float64)
    loss, losses = weighted_loss(hidden, table, targets, scale, vocab_size=37)
    expected = plain_loss(hidden, table[:37], targets, scale)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((losses * scale).sum(), expected, rtol=1e-12, atol=1e-12)
    mine, theirs = (torch.autograd.grad(7 * x, (hidden, table)) for x in (loss, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_logits_too_large_for_exponentials_still_have_a_loss():
    hidden = torch.tensor([[1000.0]], requires_grad=True)
    loss, _ = weighted_loss(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]), torch.ones(1), vocab_size=2)
    loss.backward()
    assert (loss.item(), hidden.grad.item()) == (2000.0, 2.0)


def test_filling_up_targets_and_patches_changes_neither_loss_nor_gradients(make_gato, as_batch, drive, walk):
    learner = GatoLearner(make_gato())
    for batch in (as_batch(drive(2), drive(3)), as_batch(walk([0, 1], [1, 0]))):  # with pictures and without
        filled = batch.bucketed(targets=16, patches=8)
        assert len(filled.target_index) % 16 == len(filled.patches) % 8 == 0
        (a, sums), (b, filled_sums) = learner(batch), learner(filled)
        torch.testing.assert_close((a, sums), (b, filled_sums), rtol=1e-12, atol=1e-12)
        gradients = (torch.autograd.grad(x, list(learner.parameters())) for x in (a, b))
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_equal_patches_are_embedded_once_and_learned_from_as_often_as_they_stand(make_gato, as_batch, drive):
    learner, batch = GatoLearner(make_gato()), as_batch(drive(2), drive(2))
    batch.patches[1] = batch.patches[0]
    first, patch_of = repeats(batch.patches.numpy())
    assert patch_of[1] == 0 and len(first) < len(patch_of)
    once = replace(batch, first_patches=torch.from_numpy(first), patch_of=torch.from_numpy(patch_of)).bucketed(targets=16, patches=8)
    each = replace(batch, first_patches=None, patch_of=None)
    (a, sums), (b, sums_of_each) = learner(once), learner(each)
    torch.testing.assert_close((a, sums), (b, sums_of_each), rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(x, list(learner.parameters())) for x in (a, b))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_places_found_on_the_host_are_those_that_the_model_finds(tiny, as_batch, drive):
    batch = as_batch(drive(2), drive(1))
    arguments = {"input_ids": batch.ids, "pixel_values": batch.patches, "patch_boxes": batch.patch_boxes, "labels": batch.labels}
    found, given = tiny(**arguments), tiny(**arguments, target_index=batch.target_index, patch_index=batch.patch_index)
    assert torch.equal(found.token_index, given.token_index) and torch.equal(found.loss, given.loss)


def test_states_of_chosen_places_are_those_of_the_whole_forward(tiny):
    hidden = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.full((2, 4), 0.5, dtype=torch.float64)
    whole = tiny.transformer(hidden, depth_noise=noise).flatten(0, 1)
    keep = torch.tensor([0, 4, 7])
    torch.testing.assert_close(tiny.transformer(hidden, depth_noise=noise, keep=keep), whole[keep], **EXACT)


def test_spare_rows_of_the_table_are_never_scored(make_gato, as_batch, walk, logits_of):
    model = make_gato()
    assert model.embedding.tokens.weight.shape[0] == model.config.table_rows == 2432  # 2,371 ids, in multiples of 128
    assert logits_of(model, as_batch(walk([0], [1]))).shape[-1] == model.config.vocab_size == 2371


def test_a_tiny_gato_memorises_one_episode(make_gato, as_batch, drive):
    model, batch = make_gato(initializer_range=0.02).float().train(), as_batch(drive(2))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        loss, _ = GatoLearner(model)(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05  # from ln 2371 = 7.8


@pytest.mark.parametrize("scheme", ["rope", "transformer_xl", "learned"])
def test_half_precision_trains_and_acts(make_gato, as_batch, drive, logits_of, scheme):
    model, batch = make_gato(scheme, initializer_range=0.05), as_batch(drive(2))
    exact = logits_of(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = GatoLearner(model.float())(batch)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    half = logits_of(model.bfloat16(), batch)
    assert (half.double() - exact).abs().max() < 0.05 * exact.abs().max()  # eight bits of mantissa, several times


# -- embeddings ----------------------------------------------------------------------------------------


def test_evaluation_takes_the_middle_of_a_patch_and_training_what_was_drawn(make_gato):
    embedding = make_gato().embedding
    ids, patch = torch.tensor([[embedding.image_id]]), torch.zeros(1, 16, 16, 3, dtype=torch.uint8)

    def embed(*box: int) -> torch.Tensor:
        return embedding(ids, None, patch, torch.tensor([box]))

    assert torch.equal(embed(32, 64, 51, 77), embed(48, 48, 64, 64))  # row 1, column 2 of 64 x 80 pixels
    rows, columns = embedding.patch_rows.weight, embedding.patch_columns.weight
    difference = embed(40, 40, 60, 60) - embed(48, 48, 64, 64)
    torch.testing.assert_close(difference[0, 0], rows[40] - rows[48] + columns[60] - columns[64])


def test_evaluation_is_deterministic(tiny, as_batch, drive, logits_of):
    batch = as_batch(drive(2))
    assert torch.equal(logits_of(tiny, batch), logits_of(tiny, batch))


def test_pixels_are_scaled_to_a_quarter(make_gato):
    embedder = make_gato().embedding.patch_embedder
    seen = []
    embedder.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embedder(torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 16, 16, 3))
    assert (seen[0][0].unique().tolist(), seen[0][1].unique().tolist()) == ([-0.25], [0.25])


def test_local_positions_are_added_and_action_tokens_share_one(make_gato):
    embedding = make_gato().embedding
    ids = torch.full((1, 5), 7)
    plain = embedding(ids, None, None, None)
    placed = embedding(ids, torch.tensor([[0, 3, NO_LOCAL, ACTION_LOCAL, ACTION_LOCAL]]), None, None)
    added = (placed - plain)[0]
    table = embedding.local.weight
    torch.testing.assert_close(added, torch.stack([table[0], table[3], 0 * table[0], table[-1], table[-1]]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("layout", ["gato", "compact"])
def test_the_patch_embedder_starts_with_one_over_its_inputs_as_variance(make_gato, layout):
    """transformers initialises a module's children, and passes over the module itself where it has no weights of its own."""
    embedder = make_gato(layout=layout).embedding.patch_embedder
    for layer, inputs in ((embedder.stem, 3 * 4 * 4), (embedder.block[2], 32 * 9), (embedder.project, 32 * 16)):
        assert float(layer.weight.detach().std()) == pytest.approx(inputs**-0.5, rel=0.1)
        assert not layer.bias.any()


def test_patches_and_slots_must_match(make_gato, as_batch, drive):
    batch = as_batch(drive(1))
    with pytest.raises(ValueError, match="1 patches were given for 2 image slots"):
        make_gato()(input_ids=batch.ids, pixel_values=batch.patches[:1], patch_boxes=batch.patch_boxes[:1])


def test_another_image_embedder_may_be_given(make_gato, as_batch, drive, logits_of):
    class Mean(nn.Module):
        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return patches.double().mean(dim=(1, 2, 3))[:, None].expand(-1, 32) / 255

    model = Gato(make_gato().config, patch_embedder=Mean()).double().eval()
    assert logits_of(model, as_batch(drive(1))).isfinite().all()


# -- how it starts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "published"), [("gato-79m", 79e6), ("gato-364m", 364e6), ("gato-1b", 1.18e9)])
def test_the_presets_have_the_published_parameter_counts(name, published):
    with torch.device("meta"):
        model = Gato(preset(name))
    total = sum(p.numel() for p in model.parameters())
    assert total == model.count_parameters()["total"]
    assert total == pytest.approx(published, rel=0.01)


def test_smooth_bins_are_as_large_as_independent_ones_but_alike_nearby():
    rows = smooth_rows(1024, 256, std=0.02, bandwidth=4.0, generator=torch.Generator().manual_seed(0))
    assert rows.std() == pytest.approx(0.02, rel=0.1)  # 256 columns share 256 features: a few per cent of noise
    near, far = (nn.functional.cosine_similarity(rows[:-k], rows[k:]).mean() for k in (1, 512))
    assert near > 0.99 and abs(far) < 0.3


def test_only_the_continuous_rows_start_smooth(make_gato):
    model = make_gato(smooth_bins=True, width=256, seed=1)
    start, weight = model.config.continuous_start, model.embedding.tokens.weight.detach()

    def likeness(first: int, last: int) -> float:
        return float(nn.functional.cosine_similarity(weight[first : last - 1], weight[first + 1 : last]).mean())

    assert likeness(start, start + 1024) > 0.99
    assert abs(likeness(0, start)) < 0.05 and abs(likeness(start + 1024, len(weight))) < 0.05
    assert float(weight.std()) == pytest.approx(0.3, rel=0.1)


def test_rows_that_skip_all_layers_keep_their_embedding(make_gato):
    model = make_gato(drop_path=0.5)
    hidden = torch.randn(2, 3, 32, dtype=torch.float64)
    skipped = model.transformer(hidden, depth_noise=torch.tensor([[0.4] * 4, [0.6] * 4], dtype=torch.float64))
    torch.testing.assert_close(skipped[0], model.transformer.norm(hidden[0]), **EXACT)
    assert (skipped[1] - model.transformer.norm(hidden[1])).abs().max() > 1e-3


def test_sub_layers_that_are_kept_are_scaled_up(make_gato):
    dropping, doubled = make_gato(drop_path=0.5), make_gato()
    with torch.no_grad():
        for block in doubled.transformer.layers:
            block.attention.o_proj.weight *= 2
            block.feed_forward.down_proj.weight *= 2
    hidden = torch.randn(1, 3, 32, dtype=torch.float64)
    kept = dropping.transformer(hidden, depth_noise=torch.full((1, 4), 0.5, dtype=torch.float64))
    torch.testing.assert_close(kept, doubled.transformer(hidden), **EXACT)


# -- transformers ---------------------------------------------------------------------------------------

_RELOAD = """
import sys, torch
import gato.model
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
torch.set_num_threads(int(sys.argv[2]))  # another number adds in another order
for load in (gato.model.Gato, AutoModelForCausalLM):
    model = load.from_pretrained(folder, dtype=torch.float64).eval()
    assert type(model) is gato.model.Gato
    inputs, logits = torch.load(folder + "/expected.pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, logits), load
print("equal")
"""


def test_saved_weights_give_equal_logits_in_a_new_process(make_gato, as_batch, drive, logits_of, tmp_path):
    model, batch = make_gato(smooth_bins=True), as_batch(drive(2))
    model.save_pretrained(tmp_path)
    names = {"input_ids": "ids", "local_positions": "local_position", "pixel_values": "patches", "patch_boxes": "patch_boxes"}
    torch.save(({k: getattr(batch, v) for k, v in names.items()}, logits_of(model, batch)), tmp_path / "expected.pt")
    command = [sys.executable, "-c", _RELOAD, str(tmp_path), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "equal", done.stderr


def prompt_of(tokenizer, drive) -> dict:
    """Two patches and an instruction in each of two rows, as many tokens in both."""
    shown = [tokenizer.encode_observation(drive(1).task, drive(1, "red ball", seed=s).observations) for s in (1, 2)]
    batch = collate(shown, len(shown[0]), tokenizer.vocabulary.pad)
    return {
        "input_ids": batch.ids, "local_positions": batch.local_position,
        "pixel_values": batch.patches, "patch_boxes": batch.patch_boxes,
    }  # fmt: skip


def generate(model: Gato, inputs: dict, **rest) -> torch.Tensor:
    settings = transformers.GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=model.config.pad_token_id)
    return model.generate(**inputs, generation_config=settings, **rest)


def test_generating_with_a_cache_equals_generating_without(tiny, tokenizer, drive):
    inputs = prompt_of(tokenizer, drive)
    with_cache, without = (generate(tiny, inputs, use_cache=flag) for flag in (True, False))
    assert with_cache.shape[1] == inputs["input_ids"].shape[1] + 8
    assert torch.equal(with_cache, without)


def test_rows_of_a_batch_generate_as_they_would_alone(tiny, tokenizer, drive):
    inputs = prompt_of(tokenizer, drive)
    together = generate(tiny, inputs)
    for row in (0, 1):
        alone = {k: v[[row]] if k in ("input_ids", "local_positions") else v[2 * row : 2 * row + 2] for k, v in inputs.items()}
        assert torch.equal(generate(tiny, alone)[0], together[row])


def test_left_padded_rows_generate_as_they_would_alone(tiny, tokenizer):
    pad, prompts = tokenizer.vocabulary.pad, [tokenizer.text.encode(t) for t in ("go to the red ball", "a cat")]
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    together = generate(tiny, {"input_ids": ids, "attention_mask": (ids != pad).long()})[:, longest:]
    for row, prompt in enumerate(prompts):
        assert torch.equal(generate(tiny, {"input_ids": torch.tensor([prompt])})[0, len(prompt) :], together[row])


def test_beams_and_samples_each_keep_the_pictures_of_their_row(make_gato, tokenizer, drive):
    model, inputs = make_gato(), prompt_of(tokenizer, drive)
    expanded_ids, expanded = model._expand_inputs_for_generation(expand_size=3, **inputs)
    a, b = inputs["pixel_values"][:2], inputs["pixel_values"][2:]
    assert torch.equal(expanded_ids, inputs["input_ids"].repeat_interleave(3, dim=0))
    assert torch.equal(expanded["pixel_values"], torch.cat([a, a, a, b, b, b]))
    beams = generate(model, inputs, num_beams=3)
    alone = generate(model, {k: v[[1]] if k in ("input_ids", "local_positions") else v[2:] for k, v in inputs.items()}, num_beams=3)
    assert torch.equal(beams[1], alone[0])


def test_an_unknown_size_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no model size 'gato-2b'; known are gato-79m, gato-79m-rope"):
        preset("gato-2b")


def test_transformers_finds_the_sizes_under_its_own_names():
    config = GatoConfig(width=64, num_layers=3)
    assert (config.hidden_size, config.num_hidden_layers) == (64, 3)


def test_a_lora_adapter_attaches_saves_and_merges(make_gato, as_batch, drive, logits_of, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed, so the LoRA adapter was not tried")
    batch, plain = as_batch(drive(1)), logits_of(make_gato(), as_batch(drive(1)))
    adapted = peft.get_peft_model(make_gato(), peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    changed = logits_of(adapted.eval(), batch)
    assert (changed - plain).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(make_gato(), tmp_path).eval()
    torch.testing.assert_close(logits_of(again, batch), changed, rtol=1e-5, atol=1e-5)  # the adapter is kept in float32
    merged = again.merge_and_unload()
    assert type(merged) is Gato
    torch.testing.assert_close(logits_of(merged, batch), changed, rtol=1e-5, atol=1e-5)


def test_an_unknown_position_scheme_is_refused(make_gato):
    with pytest.raises(ValueError, match="positions is 'sinusoidal', expected one of rope, transformer_xl, learned"):
        make_gato("sinusoidal")


# -- speed ------------------------------------------------------------------------------------------------


def loss_and_gradients(model: Gato, batch) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    loss, _ = GatoLearner(model).train()(batch)
    return loss.detach(), torch.autograd.grad(loss, list(model.parameters()))


def test_layers_are_captured_whole_by_the_compiler_and_give_the_same_gradients(make_gato, as_batch, drive):
    model = make_gato(drop_path=0.2)
    batch = replace(as_batch(drive(2), drive(2)), depth_noise=torch.tensor([[0.1, 0.9, 0.5, 0.5], [0.5, 0.5, 0.9, 0.1]]))
    names, plain = list(model.state_dict()), loss_and_gradients(model, batch)
    model.transformer.compile_layers(backend="aot_eager", fullgraph=True)  # the capture alone: making kernels takes half a minute
    torch.testing.assert_close(loss_and_gradients(model, batch), plain, rtol=1e-9, atol=1e-12)
    assert list(model.state_dict()) == names


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["rope", "transformer_xl"])
def test_compiled_kernels_give_the_losses_of_plain_ones(make_gato, as_batch, drive, scheme):
    model, batch = make_gato(scheme), as_batch(drive(2))
    plain = loss_and_gradients(model, batch)
    model.transformer.compile_layers()
    torch.testing.assert_close(loss_and_gradients(model, batch), plain, rtol=1e-6, atol=1e-8)


def test_layers_that_are_computed_again_give_the_same_gradients(make_gato, as_batch, drive):
    model, batch = make_gato(), as_batch(drive(2))
    plain = loss_and_gradients(model, batch)
    model.recompute_layers()
    calls = []
    model.transformer.layers[0].attention.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(loss_and_gradients(model, batch), plain, **EXACT)
    assert len(calls) == 2


@pytest.mark.slow
def test_flex_attention_sees_what_the_dense_mask_lets_it_see(make_gato):
    documents = torch.tensor([[0] * 50 + [1] * 80 + [2] * 70, [0] * 190 + [-1] * 10])  # the last ten places are padding
    transformer = make_gato().transformer.float()
    hidden = torch.randn(2, 200, 32, generator=torch.Generator().manual_seed(0))
    mask = attention_layout(documents, 0, None, documents)[0]
    with torch.no_grad():  # PyTorch has no backward of FlexAttention on the CPU
        dense, flex = transformer(hidden, mask), transformer(hidden, blocks=document_blocks(documents))
        transformer.compile_layers()
        compiled = transformer(hidden, blocks=document_blocks(documents))
    torch.testing.assert_close(flex, dense, rtol=1e-4, atol=1e-5)  # float32, summed in another order
    torch.testing.assert_close(compiled, dense, rtol=1e-4, atol=1e-5)
