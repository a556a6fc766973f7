"""Scores: where the expert has 100 and random 0, and what an agent is deprived of."""

import base64
import io

import numpy as np
import pytest

from gato import envs
from gato.envs.demonstrator import RandomExpert
from gato.eval.captioning import _candidates
from gato.eval.control import _ablations, film_strip, score_table, summarise
from gato.eval.rollout import EpisodeResult, expert_rollout


def test_the_expert_scores_100_and_random_0_within_their_intervals():
    task = envs.task("toy/corridor")
    expert = summarise(task, expert_rollout(task, 60))
    assert expert["score"] == pytest.approx(100) and expert["success"] == 1.0
    random = summarise(task, expert_rollout(task, 200, expert=RandomExpert()))
    assert random["score_low"] <= 0 <= random["score_high"]


def test_a_failed_episode_is_counted_and_weighs_as_the_random_return():
    task = envs.task("toy/corridor")
    results = [EpisodeResult(0, 1.0, 3, True), EpisodeResult(1, float("nan"), 1, None, failed="RuntimeError: broken")]
    row = summarise(task, results)
    assert row["failed"] == 1 and row["success"] == 0.5
    assert row["mean"] == pytest.approx((1.0 + task.random_return) / 2)
    assert "1 of 2 episodes failed" in score_table({"tasks": [row], "captions": [], "text": []})


def test_swapped_instructions_differ_from_ones_own_and_stay_for_the_whole_episode():
    pytest.importorskip("minigrid", reason="BabyAI is missing: pip install 'opengato[babyai]'")
    transforms = dict(_ablations(envs.task("babyai/go-to-local")))
    own = np.array(["go to the red ball", "go to a key", "go to the red ball"], object)
    start, later = np.ones(3, bool), np.zeros(3, bool)
    given = transforms["swapped instructions"]({"mission": own}, np.arange(3), start)["mission"]
    assert all(a != b for a, b in zip(given, own, strict=True))
    again = transforms["swapped instructions"]({"mission": own[:2]}, np.arange(2), later[:2])["mission"]
    assert list(again) == list(given[:2])


def test_a_blanked_picture_is_black_and_nothing_else_changes():
    pytest.importorskip("minigrid", reason="BabyAI is missing: pip install 'opengato[babyai]'")
    blank = dict(_ablations(envs.task("babyai/go-to-local")))["blank picture"]
    shown = blank({"image": np.full((2, 56, 56, 3), 7, np.uint8), "direction": np.array([1, 2])}, np.arange(2), np.ones(2, bool))
    assert shown["image"].max() == 0 and list(shown["direction"]) == [1, 2]


def test_each_picture_is_offered_its_own_title_first_and_nine_others():
    titles = [f"title {i}" for i in range(12)] + ["title 0"]
    candidates = _candidates(titles, np.random.default_rng(0))
    assert [c[0] for c in candidates] == titles
    assert all(len(set(c)) == 10 for c in candidates)


def test_a_film_strip_holds_eight_frames_side_by_side():
    from PIL import Image

    frames = np.zeros((30, 60, 90, 3), np.uint8)
    strip = Image.open(io.BytesIO(base64.b64decode(film_strip(frames))))
    assert strip.size == (8 * 180 + 7 * 4, 120)
