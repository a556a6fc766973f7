"""The contract of learners, with the learner of `docs/learners.md`: two groups of its own rates, and a critic beside what acts."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import gato
from gato import learners
from gato.cli import main
from gato.data.collection.collect import CollectConfig, collect
from gato.tokenizers.text import TextTokenizer
from gato.train.engine import PlainEngine
from gato.train.metrics import read_metrics
from gato.train.optim import make_optimizer
from gato.train.recipe import OptimConfig

PAGE = Path(__file__).parent.parent / "docs" / "learners.md"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with the page's files and a store of four episodes of CartPole; the module can be imported from anywhere."""
    folder = tmp_path_factory.mktemp("own")
    for name, code in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        (folder / name).write_text(code, encoding="utf-8")
    before = {name: os.environ.get(name) for name in ("GATO_HOME", "PYTHONPATH")}
    os.environ["GATO_HOME"] = str(folder / "home")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(PAGE.parents[1])])
    sys.path.insert(0, str(folder))
    collect(CollectConfig(tasks=["gymnasium/cartpole"], episodes=4, workers=0))
    yield folder
    sys.path.remove(str(folder))
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    learners.LEARNERS.pop("weighted", None)


@pytest.fixture
def here(own, tmp_path, monkeypatch):
    shutil.copy(own / "weighted.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


PRETRAIN = ["pretrain", "weighted.yaml", "--import", "weighted", "--train.batch_size", "8", "--train.threads", "1"]


def start(folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "gato.cli", *PRETRAIN, "--train.save_every", "3", "--train.steps", "20", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_learner_of_the_page_is_killed_and_goes_on_bit_for_bit(here):
    """Its critic, which has another rate, another clipping norm and every second update, too."""
    for name in ("whole", "killed"):
        (here / name).mkdir()
        shutil.copy(here / "weighted.yaml", here / name)
    process, metrics = start(here / "killed"), here / "killed/runs/weighted/metrics.jsonl"
    while not (metrics.exists() and len(read_metrics(metrics)) >= 8) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ends = [start(here / "killed"), start(here / "whole")]
    said = [end.communicate()[0].decode() for end in ends]
    assert [end.returncode for end in ends] == [0, 0] and "resumed from runs/weighted/step-" in said[0], said
    for file in ("model.safetensors", "learner.safetensors", "optimizer.safetensors"):
        parts = [(here / name / "runs/weighted/final" / file).read_bytes() for name in ("whole", "killed")]
        assert parts[0] == parts[1], file
    critic = load_file(here / "whole/runs/weighted/final/learner.safetensors")
    assert set(critic) == {"critic.0.weight", "critic.0.bias", "critic.2.weight", "critic.2.bias"}


@pytest.mark.slow  # the learners of the table have such tests, too
def test_two_ranks_learn_what_one_does(here):
    for name, more in (("one", ()), ("two", ("--nproc", "2"))):
        (here / name).mkdir()
        shutil.copy(here / "weighted.yaml", here / name)
        process = start(here / name, *more)
        assert process.wait() == 0, process.stdout.read().decode()
    one, two = (load_file(here / name / "runs/weighted/final/model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_it_is_loaded_scored_and_plotted_like_any_other(here, capsys):
    assert main([*PRETRAIN, "--train.steps", "4"]) == 0
    agent = gato.load("runs/weighted/final")
    policy = agent.policy("gymnasium/cartpole")
    assert policy.act_one(np.zeros(4, np.float32)) in (0, 1)
    assert main(["eval", "runs/weighted/final", "--episodes", "2"]) == 0
    assert main(["plot", "runs/weighted"]) == 0
    assert main(["show", "runs/weighted/final"]) == 0
    assert main(["validate", "runs/weighted/final"]) == 0
    assert "sound" in capsys.readouterr().out
    for words in (
        ["generate", "runs/weighted/final", "once"],
        ["caption", "runs/weighted/final", "picture.png"],
        ["chat", "runs/weighted/final"],
        ["finetune", "runs/weighted/final", "--data", "gymnasium/cartpole", "--episodes", "1"],
        ["show", "runs/weighted/final", "--attention", "gymnasium/cartpole"],
        ["plot", "runs/weighted/final", "--embeddings"],
        ["tokenize", "episode", "gymnasium/cartpole", "--checkpoint", "runs/weighted/final"],
        ["eval", "runs/weighted/final", "--prompts", "once"],
    ):
        assert main(words) == 2, words
        assert "'runs/weighted/final' holds a weighted policy, which cannot " in capsys.readouterr().err, words


def test_every_command_of_the_page_runs(here, capsys):
    commands = re.findall(r"^gato (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 4
    for command in commands[1:]:
        smaller = {"pretrain": ["--train.steps", "3", "--train.batch_size", "4"], "eval": ["--episodes", "2"]}.get(command.split()[0], [])
        assert main([*command.split(), *smaller]) == 0, capsys.readouterr().err


def test_a_run_of_one_learner_is_not_resumed_as_another(here, capsys):
    assert main([*PRETRAIN, "--train.steps", "2"]) == 0
    (here / "gato.yaml").write_text("data:\n  sources: {gymnasium/cartpole: {}}\ntrain: {name: weighted, steps: 4, batch_size: 2}\n")
    shutil.rmtree(here / "runs/weighted/final")
    tokenizer = TextTokenizer.train(["left and right, and a word or two more"] * 30, 280)
    tokenizer.save(Path(os.environ["GATO_HOME"]) / "stores" / "tokenizer.model")
    assert main(["pretrain", "gato.yaml", "--train.allow_changes", "[learner,data,optim,train]"]) == 2
    assert "learner was weighted, now gato" in capsys.readouterr().err


def test_a_checkpoint_of_an_unknown_learner_is_one_line(here, capsys):
    folder = here / "other"
    folder.mkdir()
    (folder / "gato.json").write_text('{"learner": "wieghted"}')
    assert main(["eval", "other"]) == 2
    assert "the learner of 'other' is 'wieghted', expected one of gato" in capsys.readouterr().err


class TwoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model, self.critic = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)


class Alone:
    """As much of an accelerator as one process needs."""

    num_processes, device = 1, torch.device("cpu")

    @staticmethod
    def clip_grad_norm_(parameters, norm):
        return nn.utils.clip_grad_norm_(parameters, norm)


def test_a_group_has_its_own_rate_norm_and_rhythm():
    learner = TwoParts()
    groups = [
        {"params": [learner.model.weight], "weight_decay": 0.0},
        {"params": [learner.critic.weight], "weight_decay": 0.0, "learning_rate": 0.5, "clip": 2.0, "every": 2},
    ]
    engine = PlainEngine(learner, make_optimizer(OptimConfig(learning_rate=0.1), groups), Alone(), clip=1.0)
    before = [part.weight.item() for part in (learner.model, learner.critic)]
    for step, moved in ((0, (0.1, 0.5)), (1, (0.1, 0.0))):
        learner.model.weight.grad, learner.critic.weight.grad = torch.full((1, 1), 3.0), torch.full((1, 1), 4.0)
        norm = engine.step(0.1, step, float(engine.clip(step)))
        assert norm == pytest.approx(5.0 if step == 0 else 3.0)
        after = [part.weight.item() for part in (learner.model, learner.critic)]
        # Adam's first steps are as long as the rate, whatever the gradient
        assert [a - b for a, b in zip(before, after, strict=True)] == pytest.approx(moved, abs=1e-4)
        before = after


def test_a_name_is_not_given_to_two_learners():
    with pytest.raises(ValueError, match="the learner 'gato' is known already"):
        learners.register("gato", "mine:Recipe", "mine:set_up", "mine:load")
