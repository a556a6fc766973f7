"""A checkpoint folder: what was saved acts, captions and scores as before, and mixed-up folders are refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import gato
from gato.agent import Agent
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

CAPTIONS = TaskSpec(
    "toy/captions",
    (
        FieldSpec("image", Modality.IMAGE, "observation", (16, 32, 3), "uint8", path=("image",)),
        FieldSpec("caption", Modality.TEXT, "action", dtype="str", path=("caption",)),
    ),
)


@pytest.fixture(scope="module")
def agent(make_gato, text, tokenizer, robot) -> Agent:
    quiet = EpisodeTokenizer(text, tokenizer.vocabulary, loss_on_text_observations=False, max_local_positions=40)
    return Agent(make_gato(max_local_positions=40), quiet, {t.name: t for t in (robot, CAPTIONS)})


@pytest.fixture
def folder(agent, tmp_path):
    agent.save(tmp_path / "final")
    return tmp_path / "final"


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 32, 3), dtype=np.uint8)


def captioned(words: str, picture: np.ndarray) -> Episode:
    return Episode(CAPTIONS, {"image": picture[None]}, {"caption": np.array([words], object)}, np.zeros(1, np.float32))


def test_a_loaded_agent_is_the_saved_one(agent, folder):
    loaded = gato.load(folder, device="cpu")
    assert loaded.tasks == agent.tasks
    assert loaded.tokenizer.vocabulary == agent.tokenizer.vocabulary
    assert (loaded.tokenizer.loss_on_text_observations, loaded.tokenizer.max_local_positions) == (False, 40)
    for (name, a), b in zip(loaded.model.named_parameters(), agent.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_loaded_agent_acts_as_before(agent, folder, drive):
    episode, loaded = drive(3), gato.load(folder, device="cpu")
    for t in range(3):
        observation = {k: v[t : t + 1] for k, v in episode.observations.items()}
        now = [p.act(observation, np.zeros(1), np.array([True]), np.array([0])) for p in (a.policy("toy/robot") for a in (agent, loaded))]
        np.testing.assert_array_equal(now[0]["motors"], now[1]["motors"])


def test_captions_of_a_batch_are_those_of_its_pictures(agent):
    together = agent.captions(list(pictures(3)), max_new_tokens=6)
    assert together == [agent.caption(p, max_new_tokens=6) for p in pictures(3)]


def test_sampled_captions_follow_their_seed_and_leave_the_global_one_alone(agent):
    before = torch.get_rng_state()
    a, b, c = (agent.captions(list(pictures(2)), 8, temperature=1.0, seed=s) for s in (1, 1, 2))
    assert a == b != c
    assert torch.equal(torch.get_rng_state(), before)


def test_the_likelihood_of_a_caption_is_the_product_of_its_tokens(agent):
    words, picture = "a red ball", pictures(1)[0]
    tokens = agent.tokenizer.encode(captioned(words, picture))
    with torch.no_grad():
        logits = agent.model(
            input_ids=torch.from_numpy(tokens.ids.astype(np.int64))[None],
            pixel_values=torch.from_numpy(tokens.patches), patch_boxes=torch.from_numpy(tokens.patch_boxes.astype(np.int64)),
        ).logits[0]  # fmt: skip
    by_token = logits.log_softmax(dim=-1)[:-1].gather(1, torch.from_numpy(tokens.ids[1:].astype(np.int64))[:, None])[:, 0]
    expected = float(by_token[torch.from_numpy(tokens.is_target[1:])].sum())
    alone = agent.log_likelihood([captioned(words, picture)])
    assert alone[0] == pytest.approx(expected, rel=1e-5)  # float32 losses
    beside_a_longer_one = agent.log_likelihood([captioned("two small dogs run", picture), captioned(words, picture)])
    assert beside_a_longer_one[1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("count", "fits"), [(60, True), (61, False)])
def test_the_likelihood_of_a_caption_longer_than_the_context_is_refused(agent, count, fits):
    """The context of 64 holds two patches, what stands between them and the text, 60 letters and the end."""
    caption = captioned("a" * count, pictures(1)[0])
    assert len(agent.tokenizer.encode(caption)) == 4 + count
    if fits:
        assert np.isfinite(agent.log_likelihood([caption])).all()
    else:
        with pytest.raises(ValueError, match="an episode has 65 positions but the context holds 64; shorten it"):
            agent.log_likelihood([captioned("a", pictures(1)[0]), caption])


def test_generated_text_goes_on_from_what_was_given(agent):
    assert agent.generate("go to", max_new_tokens=4).startswith("go to")
    with pytest.raises(ValueError, match="empty"):
        agent.generate("")


def test_an_unknown_task_names_the_nearest(agent):
    with pytest.raises(ValueError, match="not trained on 'toy/robt'; did you mean 'toy/robot'"):
        agent.policy("toy/robt")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not a checkpoint: it has no gato.json"):
        gato.load(tmp_path)


def test_another_tokenizer_than_the_weights_were_trained_with_is_refused(folder):
    TextTokenizer.train(["other words entirely"] * 50, vocabulary_size=275).save(folder / "tokenizer.model")
    with pytest.raises(ValueError, match="not the tokenizer these weights were trained with"):
        gato.load(folder)


def test_a_vocabulary_of_another_checkpoint_is_refused(folder, make_gato, tokenizer):
    other = Agent(make_gato(vocab_size=Vocabulary.separate_discrete(400).size), tokenizer, {})
    other.save(folder.parent / "other")
    shutil.copy(folder / "gato.json", folder.parent / "other" / "gato.json")
    with pytest.raises(ValueError, match="belong to different checkpoints"):
        gato.load(folder.parent / "other")


def test_memories_stand_beside_the_tasks_in_the_file_as_they_always_did(folder, agent, robot):
    kept = Agent(agent.model, agent.tokenizer, agent.tasks | {robot.name: replace(robot, memory=3)})
    kept.save(folder)
    content = json.loads((folder / "gato.json").read_text())
    assert content["memories"] == {robot.name: 3} and all("memory" not in task for task in content["tasks"])
    assert gato.load(folder, "cpu").tasks[robot.name].memory == 3
    del content["memories"]  # as before there were any
    (folder / "gato.json").write_text(json.dumps(content))
    assert gato.load(folder, "cpu", verify=False).tasks[robot.name].memory is None


def test_a_policy_of_a_task_from_elsewhere_remembers_as_the_agent_does(agent, robot):
    short = Agent(agent.model, agent.tokenizer, {robot.name: replace(robot, memory=3)})
    assert [short.policy(task).memory for task in (robot.name, robot, replace(robot, memory=2))] == [3, 3, 2]


def test_the_memory_of_a_task_that_a_checkpoint_does_not_know_is_refused(folder):
    content = json.loads((folder / "gato.json").read_text())
    (folder / "gato.json").write_text(json.dumps(content | {"memories": {"toy/robt": 1}}))
    with pytest.raises(ValueError, match="memories names 'toy/robt', which is none of its tasks; restore it"):
        gato.load(folder)


def test_a_format_of_the_future_is_refused(folder):
    content = json.loads((folder / "gato.json").read_text())
    (folder / "gato.json").write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99, this version reads 1"):
        gato.load(folder)
