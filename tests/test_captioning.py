"""Captions measured and looked into: files named on the command line, wording beside its controls, bits per byte, attention."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gato.agent import Agent
from gato.cli import main
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.eval.insight.attention import caption_attention, draw_maps, draw_overlay, recorded
from gato.eval.insight.episode_attention import draw_timesteps, episode_attention
from gato.eval.words.captioning import (
    candidate_titles,
    caption_results,
    most_alike,
    picture_files,
    retrieval_lines,
    with_others,
    wording_lines,
)  # fmt: skip
from gato.eval.words.text import document_bits, ratio_interval, text_results, windows
from gato.eval.words.wording import bleu, cider_d, exact_match, nearest_texts, rouge_l, wording_results
from gato.picture import fitted_box
from gato.serve.chat import chat
from gato.words import caption_task, document_task, picture_of, question_task

CAPTIONS, QUESTIONS, TEXT = caption_task("captions", (16, 32)), question_task("vqa", (16, 32)), document_task("text")


@pytest.fixture(scope="module")
def agent(make_gato, tokenizer) -> Agent:
    return Agent(make_gato(context_length=96).float(), tokenizer, {t.name: t for t in (CAPTIONS, QUESTIONS, TEXT)})


@pytest.fixture(scope="module")
def checkpoint(agent, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("run") / "final"
    agent.save(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path) -> Path:
    """photos/a.png, photos/deep/b.png and a file that is no picture."""
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name, picture in zip(("a.png", "deep/b.png"), pictures(2), strict=True):
        Image.fromarray(picture).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 32, 3), dtype=np.uint8)


def stored(folder: Path, task, shown, texts, questions=None) -> Store:
    """A store of pictures with captions, or with questions and answers; of texts alone where `shown` is None."""
    with StoreWriter(folder, [task]) as writer:
        for i, text in enumerate(texts):
            seen = {} if shown is None else {"image": shown[i][None]}
            if questions:
                seen["question"] = np.array([questions[i]], object)
            said = {task.actions[0].name: np.array([text], object)}
            writer.append(Episode(task, seen, said, np.zeros(1, np.float32), terminated=True))
    return Store(folder)


# -- naming pictures -------------------------------------------------------------------------------------


def test_folders_and_patterns_stand_for_the_pictures_in_them(photos):
    everything = [photos / "a.png", photos / "deep" / "b.png"]
    assert picture_files([str(photos)]) == picture_files([str(photos / "**" / "*.png")]) == everything
    assert picture_files([str(photos / "a.png"), str(photos)]) == everything
    with pytest.raises(ValueError, match="holds no picture; expected files such as"):
        picture_files([str(photos / "*.jpg")])


def test_one_damaged_picture_does_not_hide_the_others(checkpoint, photos, capsys):
    (photos / "broken.png").write_bytes(b"")
    assert main(["caption", checkpoint, str(photos), "--json", "--batch_size", "2"]) == 1
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert [sorted(row) for row in rows] == [["caption", "image"], ["error", "image"], ["caption", "image"]]
    assert captured.err.count("\n") == 1 and "broken.png" in captured.err
    assert main(["caption", checkpoint, str(photos / "broken.png")]) == 2


def test_candidates_of_a_question_are_printed_with_their_likelihood(checkpoint, photos, capsys):
    wanted = ["--candidates", "2", "--question", "what", "--max_new_tokens", "3"]
    assert main(["caption", checkpoint, str(photos / "a.png"), *wanted, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["caption"] == row["candidates"][0]["text"] and len(row["candidates"]) <= 2
    assert row["candidates"][0]["log_likelihood"] < 0


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (["--candidates", "0"], "'candidates' is 0, expected a whole number from 1 to 256"),
        (["--candidates", "1000"], "'candidates' is 1000, expected a whole number from 1 to 256"),
        (["--temperature", "inf"], "temperature"),
        (["--temperature", "-1"], "'temperature' is -1.0, expected a number from 0"),
        (["--max_new_tokens", "0"], "'max_new_tokens' is 0"),
        (["--batch_size", "0"], "'batch_size' is 0"),
    ],
)
def test_settings_without_sense_are_refused(checkpoint, photos, capsys, option, line):
    assert main(["caption", checkpoint, str(photos / "a.png"), *option]) == 2
    captured = capsys.readouterr()
    assert line in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_questions_are_refused_by_a_checkpoint_without_them(make_gato, tokenizer):
    blind = Agent(make_gato(), tokenizer, {"captions": CAPTIONS})
    with pytest.raises(ValueError, match="trained without questions about pictures"):
        blind.answer(pictures(1)[0], "what")


def test_a_picture_is_the_same_in_every_form(agent, photos):
    file = photos / "a.png"
    forms = [str(file), file.read_bytes(), Image.open(file), np.asarray(Image.open(file))]
    assert len({agent.caption(form, max_new_tokens=5) for form in forms}) == 1


def test_a_chat_writes_what_generate_writes_and_ends_with_an_empty_line(agent, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("go to\n\nnot read\n"))
    chat(agent, None, 6, 0.0, 0)
    welcome, said = capsys.readouterr().out.split("\n", 1)
    assert "knows little" in welcome
    assert said == agent.generate("go to", max_new_tokens=6).removeprefix("go to") + "\n"


# -- choosing titles ---------------------------------------------------------------------------------------


def titled(title: str, source: str = "a", concept: str | None = None, shown: str | None = None) -> Episode:
    """Of a picture of its own, or of that called `shown`."""
    parameters = {"source": source, "concept": concept or title}
    said, drawn = {"caption": np.array([title], object)}, np.random.default_rng(list((shown or source + title).encode()))
    image = drawn.integers(0, 256, (1, 16, 32, 3), dtype=np.uint8)
    return Episode(CAPTIONS, {"image": image}, said, np.zeros(1, np.float32), terminated=True, parameters=parameters)


def test_each_picture_is_offered_its_own_title_first_and_nine_of_its_source_and_length():
    short, long = [f"thing{i}" for i in range(12)], [f"a very long title {i}" for i in range(12)]
    episodes = [titled(t, s) for t in short + long for s in ("a", "b")] + [titled(f"emoji{i}", "c") for i in range(12)]
    candidates = candidate_titles(episodes, np.random.default_rng(0))
    assert [c[0] for c in candidates] == [e.actions["caption"][0] for e in episodes] and all(len(set(c)) == 10 for c in candidates)
    assert set(candidates[0]) <= set(short) and set(candidates[24]) <= set(long)


def test_another_name_of_the_same_concept_is_offered_only_where_there_are_too_few_others():
    episodes = [titled("cat", concept="cat"), titled("kitty", concept="cat"), *(titled(f"thing{i}") for i in range(9))]
    first, second, third, *_ = candidate_titles(episodes, np.random.default_rng(0))
    assert "kitty" not in first and "cat" not in second and {"cat", "kitty"} & set(third)


def test_no_other_caption_of_the_same_picture_is_a_wrong_one():
    """Twelve pictures with two captions each, and nothing said of concepts: 22 are of other pictures."""
    words = [f"{kind} {i}" for i in range(12) for kind in ("thing", "object")]
    episodes = [replace(titled(word, shown=word.split()[1]), parameters={}) for word in words]
    for own, offered in zip(words, candidate_titles(episodes, np.random.default_rng(0)), strict=True):
        assert offered[0] == own and all(title.split()[1] != own.split()[1] for title in offered[1:])
    few = [titled(f"name {i}", shown="one") for i in range(9)] + [titled(f"thing {i}") for i in range(8)]
    with pytest.raises(ValueError, match="17 distinct titles, 9 of them of one picture; choosing among 10 needs more pictures"):
        candidate_titles(few, np.random.default_rng(0))


def test_another_picture_is_never_the_very_same_one():
    episodes = [titled(f"{kind} {i}", shown=str(i)) for i in range(3) for kind in ("thing", "object", "item")]
    for seed in range(20):
        others = with_others(episodes, np.random.default_rng(seed))
        assert all(not np.array_equal(picture_of(e), picture_of(o)) for e, o in zip(episodes, others, strict=True))
        assert len({picture_of(o).tobytes() for o in others}) == 3


def test_a_model_whose_likelihoods_are_no_numbers_is_refused(make_gato, tokenizer, tmp_path):
    broken = Agent(make_gato(context_length=96).float(), tokenizer, {CAPTIONS.name: CAPTIONS})
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    stored(tmp_path / "test", CAPTIONS, pictures(12), [f"thing number {i}" for i in range(12)])
    with pytest.raises(ValueError, match="the likelihoods of 120 of 120 titles are no finite numbers, so nothing ranks them"):
        caption_results(broken, str(tmp_path / "test"))


def test_the_title_most_like_a_text_shares_most_words():
    rng = np.random.default_rng(0)
    assert most_alike("a red ball", ["a red box", "Ball, red!", "a dog"], rng) == 1
    assert {most_alike("a fish", ["dog", "cat"], rng) for _ in range(20)} == {0, 1}


def test_titles_are_ranked_by_the_model_and_by_three_controls(agent, tmp_path):
    titles = [f"thing number {i}" for i in range(12)]
    stored(tmp_path / "test", CAPTIONS, pictures(12), titles)
    part = caption_results(agent, str(tmp_path / "test"), num_examples=12, nearest=str(tmp_path / "test"))
    assert part["nearest"]["accuracy"] == 1  # the nearest picture is the same one
    assert len(part["examples"]) == 12 and {"retrieval", "shuffled", "blank"} <= set(part)
    assert len(retrieval_lines(part)) == 5


# -- wording ---------------------------------------------------------------------------------------------


def test_measures_agree_with_numbers_computed_by_hand():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    said, meant = ["a red ball", "the cat"], [["a red ball"], ["a dog", "the big cat"]]
    assert bleu(said, meant)[0] == pytest.approx(100)
    np.testing.assert_allclose(rouge_l(said, meant), [100, 80])  # "the cat": precision 2/2, recall 2/3
    assert list(exact_match(["Red.", "blue"], [["red"], ["green", "red"]])) == [1, 0]


def test_cider_d_is_ten_for_the_very_words_and_zero_for_others():
    pytest.importorskip("pycocoevalcap")
    meant = [["a red ball here"], ["two small dogs run"], ["the cat sat down"]]
    np.testing.assert_allclose(cider_d(["a red ball here", "fish swim", "the cat"], meant)[:2], [10, 0], atol=1e-9)


def test_the_nearest_training_picture_lends_its_caption(tmp_path):
    shown = pictures(3)
    training = stored(tmp_path / "train", CAPTIONS, [shown[0], shown[2]], ["first", "third"])
    almost = np.clip(shown[2].astype(int) + 3, 0, 255).astype(np.uint8)
    assert nearest_texts([almost, shown[0]], training) == ["third", "first"]


def test_a_copying_speaker_scores_full_marks_and_several_captions_are_references_of_one_picture(agent, tmp_path):
    for name in ("sacrebleu", "rouge_score", "pycocoevalcap"):
        pytest.importorskip(name)
    shown, texts = pictures(3), ["a red ball here", "two small dogs run", "the cat sat down"]
    training = stored(tmp_path / "train", CAPTIONS, shown, texts)
    held_out = stored(tmp_path / "test", CAPTIONS, [*shown, shown[0]], [*texts, "a ball"])
    found = wording_results(agent, held_out, training)
    assert list(found) == ["ours", "another picture", "blank picture", "nearest training picture"]
    assert found["nearest training picture"]["BLEU"] == {"mean": pytest.approx(100), "low": pytest.approx(100), "high": pytest.approx(100)}
    assert found["ours"]["BLEU"]["mean"] < 50


def test_answers_are_measured_by_exact_match(agent, tmp_path):
    shown, asked = list(pictures(2)), ["what", "what colour"]
    answers = agent.answers(shown, asked)
    stored(tmp_path / "vqa", QUESTIONS, shown, [answers[0], "surely not this"], asked)
    part = caption_results(agent, str(tmp_path / "vqa"))
    assert part["retrieval"] is None and part["wording"]["ours"]["exact match"]["mean"] == 0.5
    assert "exact match 0.5" in "\n".join(wording_lines(part))
    assert {e["caption"] for e in part["examples"]} == set(answers)


# -- text ------------------------------------------------------------------------------------------------


def test_every_token_after_the_first_is_measured_once_with_half_a_context_before_it():
    rows = windows(10, 4)
    assert rows == [(0, 1, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]
    assert windows(3, 4) == [(0, 1, 3)]


def test_bits_of_a_short_document_are_those_of_its_tokens(agent):
    ids = agent.tokenizer.text.encode_documents(["go to the ball"])[0]
    with torch.no_grad():
        predicted = agent.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(dim=-1)
    expected = np.log2(320) - sum(float(predicted[i, ids[i + 1]]) for i in range(len(ids) - 1)) / np.log(2)
    assert document_bits(agent, "go to the ball") == pytest.approx(expected, rel=1e-5)  # float32 losses


def test_bits_per_byte_of_a_store_are_all_bits_over_all_bytes(agent, tmp_path):
    texts = ["go to", "caf\u00e9"]
    found = text_results(agent, stored(tmp_path / "text", TEXT, None, texts))
    assert found["bytes"] == 5 + 5
    assert found["bits_per_byte"]["mean"] == pytest.approx(sum(document_bits(agent, t) for t in texts) / 10)
    with pytest.raises(ValueError, match="bits per byte need a store of documents"):
        text_results(agent, stored(tmp_path / "pictures", CAPTIONS, pictures(1), ["x"]))


def test_the_interval_of_equal_ratios_has_no_width():
    np.testing.assert_allclose(ratio_interval(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])), (2, 2))


# -- looking inside --------------------------------------------------------------------------------------


def test_recorded_attention_is_what_the_fused_kernel_used(tiny, as_batch, drive):
    """The first layer's weights times its values are its output."""
    layer, seen = tiny.transformer.layers[0].attention, []
    layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    batch = as_batch(drive(1))
    with torch.no_grad(), recorded(tiny) as weights:
        tiny(input_ids=batch.ids, pixel_values=batch.patches, patch_boxes=batch.patch_boxes, use_cache=False)
    hidden, output = seen[0]
    layer._forward_hooks.clear()
    values = layer.v_proj(hidden).unflatten(-1, (layer.num_heads, layer.head_width)).transpose(1, 2)
    again = layer.o_proj((weights[0] @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(again, output, rtol=0, atol=1e-9)  # float64, another order of summation


def test_attention_maps_have_a_cell_per_patch_and_shares_below_one(agent):
    found = caption_attention(agent, pictures(1)[0], "a red ball")
    assert found.maps.shape == (2, 2, 1, 2)
    assert ((found.shares > 0) & (found.shares < 1)).all()
    assert draw_maps(found).size == (3 * 132 - 4, 2 * 68 - 4)  # 32 x 16 pixels are drawn as 128 x 64


def test_where_it_looked_leaves_out_the_padding_of_a_picture_of_another_shape(agent):
    square = np.zeros((40, 40, 3), np.uint8)  # takes columns 8 to 24 of 16 x 32
    found = caption_attention(agent, square, "a red ball")
    assert found.inside == (slice(0, 16), slice(8, 24))
    drawn = np.asarray(draw_overlay(found, size=32))
    assert (drawn[:, :6, :1] == drawn[:, :6]).all() and (drawn[:, 26:, :1] == drawn[:, 26:]).all()  # grey: red nowhere
    tall = np.zeros((160, 16, 3), np.uint8)  # 2 columns in the middle, so both patches
    assert fitted_box(tall.shape[:2], (64, 64)) == (slice(0, 64), slice(29, 35))


def test_patches_of_padding_alone_have_no_attention(make_gato, tokenizer):
    task = caption_task("captions", (16, 64))
    found = caption_attention(
        Agent(make_gato(context_length=96).float(), tokenizer, {task.name: task}), np.zeros((16, 16, 3), np.uint8), "a"
    )
    assert found.maps.shape[2:] == (1, 4) and (found.maps[..., [0, 3]] == 0).all() and (found.maps[..., [1, 2]] > 0).all()


def test_the_caption_that_is_shown_is_among_its_candidates(agent):
    for said in ("the cat", "a red ball"):
        (found,) = agent.candidates([pictures(1)[0]], 3, include=[said], max_new_tokens=4)
        assert said in [c.text for c in found] and len(found) <= 3


def test_attention_is_written_as_a_page_or_a_picture(checkpoint, photos, tmp_path, capsys):
    for name in ("a.png", "a.html"):
        assert main(["show", checkpoint, "--attention", str(photos / "a.png"), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 500
    assert main(["show", checkpoint, "--attention", str(photos / "a.png"), "--out", str(tmp_path / "a.gif")]) == 2
    assert "neither .png nor .html" in capsys.readouterr().err


def test_attention_of_actions_adds_up_over_timesteps_and_never_falls_on_later_ones(make_gato, tokenizer, robot, drive):
    agent = Agent(make_gato(), tokenizer, {robot.name: robot})
    found = episode_attention(agent, drive(3, "go"))
    assert found.timesteps.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(found.timesteps.sum(axis=-1), 1, atol=1e-6)
    assert (found.timesteps[..., np.triu_indices(3, 1)[0], np.triu_indices(3, 1)[1]] == 0).all()
    assert found.patches.maps.shape == (2, 2, 1, 2) and (found.patches.shares < found.timesteps[..., 2, 2]).all()
    assert draw_timesteps(found).size == (2 * 132 - 4, 2 * 132 - 4)


def test_attention_of_actions_is_that_of_the_tokens_before_them(make_gato, tokenizer, walk, as_batch):
    agent, episode = Agent(make_gato(), tokenizer, {}), walk([0, 1], [1, 1])  # cell, separator, action; twice
    with torch.no_grad(), recorded(agent.model) as weights:
        agent.model(input_ids=as_batch(episode).ids, local_positions=as_batch(episode).local_position, use_cache=False)
    expected = weights[1][0, :, 4].numpy()  # from the second separator
    np.testing.assert_allclose(episode_attention(agent, episode).timesteps[1, :, 1, 0], expected[:, :3].sum(axis=1), atol=1e-6)


def test_the_attention_of_an_episode_is_drawn_by_the_command(make_gato, tokenizer, robot, drive, tmp_path, capsys):
    Agent(make_gato(), tokenizer, {robot.name: robot}).save(tmp_path / "final")
    with StoreWriter(tmp_path / "drives", [robot]) as writer:
        writer.append(replace(drive(3, "go"), terminated=True))
    show = ["show", str(tmp_path / "final"), "--attention", str(tmp_path / "drives"), "--out"]
    assert main([*show, str(tmp_path / "a.html")]) == 0 and (tmp_path / "a.html").read_text().count("<img") == 2
    assert main([*show, str(tmp_path / "a.png")]) == 0 and (tmp_path / "a.png").stat().st_size > 500
    assert main([*show, str(tmp_path / "a.png"), "--episode", "1"]) == 2
    assert "there is no episode 1" in capsys.readouterr().err
