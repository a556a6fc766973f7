"""What a demonstration says to Gato: prompts that are a demonstration's end, what is learned of them, and acting in tasks of a set
that were never trained; and what pretraining on tasks like a new one brought."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from gato import envs
from gato.agent import Agent
from gato.cli import main
from gato.config import GatoConfig
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import Store
from gato.eval.arena import made_ready
from gato.model import Gato
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from tests.small_runs import refusal
from tests.test_one_shot import write_sets

SHORT = {"memory": 1, "prompt_steps": 1}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Three tasks with two demonstrations each, and two held-out ones."""
    return write_sets(tmp_path_factory.mktemp("stores"), (3, 2), (2, 1))


def mixture_of(stores, layout="compact", source=SHORT, **data) -> Mixture:
    tokenizer = EpisodeTokenizer(None, Vocabulary(1024), layout=layout)
    sources = {"reach2d/train": SourceConfig(store=str(stores / "train"), **source)}
    return Mixture(DataConfig(sources=sources, prompt_share=1.0, **data), tokenizer, 128, seed=0)


def agent_of(stores, **settings) -> Agent:
    mixture = mixture_of(stores, **settings)
    small = {"num_layers": 1, "num_heads": 2, "head_width": 8, "width": 16, "feed_forward": 16, "context_length": 128}
    small["initializer_range"] = 0.5  # so that a prompt is felt
    v = mixture.tokenizer.vocabulary
    ids = {"vocab_size": v.size, "continuous_start": v.continuous.start, "image_token_id": v.image, "pad_token_id": v.pad}
    config = GatoConfig(layout="compact", discrete_start=v.discrete.start, **ids, **small)
    model = Gato(config)
    torch.nn.init.normal_(model.actions.bumps.weight, std=0.05)  # new weights would act alike whatever they see
    return Agent(model, mixture.tokenizer, mixture.tasks)


def test_a_prompt_of_one_timestep_is_the_last_of_another_demonstration_of_the_task(stores):
    mixture = mixture_of(stores)
    for row in (mixture.row(0, r) for r in range(4)):
        for prompt, window in zip(row.pieces[::2], row.pieces[1::2], strict=False):
            assert (prompt.role, prompt.start, prompt.stop) == ("prompt from the end", 15, 16)
            tasks = mixture.sources[0].store.task_indices
            assert prompt.episode != window.episode and tasks[prompt.episode] == tasks[window.episode]


@pytest.mark.parametrize("layout", ["gato", "compact"])
def test_the_actions_of_prompts_are_learned_as_in_the_paper_or_not_at_all(stores, layout):
    both, windows = (mixture_of(stores, layout, loss_on_prompts=loss).row(0, 0).tokens for loss in (True, False))
    whole = both.document < both.document.max()  # the last document is a window without a prompt where none fits any more
    both, windows = both.chosen(whole), windows.chosen(whole)
    is_prompt = both.timestep == 0
    assert np.array_equal(both.ids, windows.ids)
    assert both.is_target[is_prompt].any() and not windows.is_target[is_prompt].any()
    assert np.array_equal(both.is_target[~is_prompt], windows.is_target[~is_prompt])


def test_what_the_tasks_of_a_set_show_is_measured_alike(stores):
    """A pointer at 0.3 is to be the same wherever it is asked to go."""
    first, *others = (task.fields for task in mixture_of(stores).tasks.values())
    assert len(others) == 2 and all(fields == first for fields in others)
    assert next(f for f in first if f.name == "position").scale is not None


def test_a_held_out_member_of_a_set_is_seen_and_played_as_its_trained_siblings_are(stores):
    agent = agent_of(stores, source=SHORT | {"image_size": (48, 48)})
    trained = agent.policy("reach2d/train-1")
    for task in ("reach2d/test-1", envs.task("reach2d/test-1"), "reach2d/test"):
        policy = agent.policy(task)
        assert (policy.memory, policy.task.prompt_steps) == (1, 1)
        assert policy.task.observations == trained.task.observations
        assert policy.task.env_kwargs["split"] == "test"
    with pytest.raises(ValueError, match="was not trained on 'push2d/test-1'"):
        agent.policy("push2d/test-1")


def test_a_policy_is_shown_the_end_of_a_demonstration_where_it_was_trained_on_ends(stores):
    """With the last timestep before it an observation gets the action that the demonstration's beginning does not change."""
    agent, episode = agent_of(stores), Store(stores / "test").episode(0)
    other = replace(episode, observations={k: np.concatenate([v[-2:-1].repeat(15, 0), v[-1:]]) for k, v in episode.observations.items()})
    seen = {name: values[3:4] for name, values in episode.observations.items()}
    acts = []
    for shown in (episode, other, episode.window(0, 1)):
        policy = agent.policy("reach2d/test-0", prompt=shown)
        acts.append(policy.act(seen, first=np.ones(1, bool))["action"])
    assert np.array_equal(acts[0], acts[1]) and not np.array_equal(acts[0], acts[2])


def test_an_arena_lets_a_gato_draw_its_actions_where_it_is_told_to(stores):
    agent, task = agent_of(stores), envs.task("reach2d/test-1")
    drawn, usual = (made_ready(agent, task, (), 0, *temperature).policy for temperature in ((0.5,), ()))
    assert (drawn.temperature, usual.temperature) == (0.5, agent.policy(task).temperature)


def test_how_prompts_are_shown_is_saved_with_the_tasks(stores, tmp_path):
    agent = agent_of(stores, source=SHORT | {"image_size": (48, 48)})
    agent.save(tmp_path / "checkpoint")
    task = Agent.load(tmp_path / "checkpoint").task("reach2d/train-2")
    assert (task.memory, task.prompt_steps) == (1, 1)
    assert task.observations == agent.task("reach2d/train-2").observations


def test_pictures_are_stretched_to_as_many_patches_as_a_source_wants(stores):
    coarse, fine = (mixture_of(stores, source=SHORT | size).row(0, 0).tokens for size in ({}, {"image_size": (64, 64)}))
    assert [int((tokens.timestep[tokens.document == 0] == 1).sum()) for tokens in (coarse, fine)] == [4 + 3 + 2, 16 + 3 + 2]
    with pytest.raises(ValueError, match="64x40 pixels are not multiples of 16"):
        mixture_of(stores, source=SHORT | {"image_size": (64, 40)})


def test_a_learner_without_prompts_refuses_their_settings(stores, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = f"{{reach2d/train: {{store: {stores / 'train'}, prompt_steps: 1}}}}"
    line = refusal(capsys, "pretrain", "tecnets-reach2d", "--data.sources", store)
    assert "has prompt_steps 1, which a learner of one-shot imitation knows not" in line


def write_measured(folder, task: str, full: float, scratch: float, known: str) -> None:
    """What `gato finetune` leaves, as far as it is read: ten demonstrations, and five, at which both are 0."""
    folder.mkdir()
    (folder / "gato.json").write_text(json.dumps({"tasks": [{"name": known}]}))
    rows = [
        {"mode": mode, "figure": figure, "episodes": count, "mean": mean * (count == 10)}
        for mode, mean in (("full", full), ("scratch", scratch))
        for figure in ("last step", "chosen on held-out")
        for count in (10, 5)
    ]
    (folder / "fewshot.json").write_text(json.dumps({"task": task, "checkpoint": str(folder), "rows": rows}))


def test_tasks_that_are_alike_are_shown_with_what_pretraining_on_them_brought(stores, tmp_path, capsys):
    write_measured(tmp_path / "other", "gymnasium/pendulum", 50.0, 40.0, "reach2d/train-0")
    write_measured(tmp_path / "own", "reach2d/test-1", 61.5, 40.25, "reach2d/train-2")
    words = ["data", "similar", str(stores / "test"), "--known", str(stores / "train"), "--count", "1", "--json"]
    assert main([*words, "--measured", str(tmp_path / "other"), str(tmp_path / "own")]) == 0
    # of a set any task counts, and what was measured in the new task's set before what was measured elsewhere: 61.5 - 40.25, to a decimal
    told = {(row["gain"], row["after"], row["measured_in"]) for row in json.loads(capsys.readouterr().out)}
    assert told == {(21.2, 10, "reach2d/test-1")}
    write_measured(tmp_path / "sibling", "reach2d/test-0", 3.0, 1.0, "reach2d/train-2")
    assert main([*words, "--measured", str(tmp_path / "own"), str(tmp_path / "sibling")]) == 0
    assert [(row["task"], row["gain"]) for row in json.loads(capsys.readouterr().out)] == [
        ("reach2d/test-0", 2.0),
        ("reach2d/test-1", 21.2),
    ]
    assert main([*words, "--measured", str(tmp_path / "other")]) == 0
    assert {row["measured_in"] for row in json.loads(capsys.readouterr().out)} == {"gymnasium/pendulum"}
    write_measured(tmp_path / "unlike", "reach2d/test-1", 61.5, 40.25, "gymnasium/pendulum")
    assert main([*words, "--measured", str(tmp_path / "unlike")]) == 0
    assert {row["gain"] for row in json.loads(capsys.readouterr().out)} == {None}


def test_a_folder_that_measures_no_gain_is_refused(stores, tmp_path, capsys):
    words = ["data", "similar", str(stores / "test"), "--known", str(stores / "train"), "--measured", str(tmp_path / "few")]
    assert "has no fewshot.json; name folders in which" in refusal(capsys, *words)
    write_measured(tmp_path / "few", "reach2d/test-1", 1.0, 2.0, "reach2d/train-0")
    (tmp_path / "few/gato.json").unlink()
    assert "which is not there, so nobody knows what it knew" in refusal(capsys, *words)
    (tmp_path / "few/fewshot.json").write_text('{"task": "a/b", "checkpoint": "c", "rows": []}')
    assert "compares nothing with new weights; give gato finetune --modes full scratch" in refusal(capsys, *words)
