"""`--json`: one document on standard output in every verb, whoever else prints there; and flags that need no value."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gato.cli import VERBS, main
from gato.cli.output import only_documents, wants_json, write_document
from gato.data.collection.collect import CollectConfig, collect
from gato.data.store import StoreWriter
from gato.episode import Episode
from gato.tokenizers.text import TextTokenizer
from gato.words import caption_task, document_task

RECIPE = """
model: {num_layers: 1, num_heads: 2, width: 32, head_width: 16, feed_forward: 64, context_length: 64}
data: {sources: {toy/corridor: {memory: 1}, documents: {}, pictures: {}}}
train: {name: tiny, steps: 3, batch_size: 4, save_every: 2, threads: 1, device: cpu}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, monkeypatch_module) -> Path:
    """A working folder with stores, a tokenizer, a recipe, and a run of three updates."""
    folder = tmp_path_factory.mktemp("place")
    monkeypatch_module.setenv("GATO_HOME", str(folder / "home"))
    monkeypatch_module.chdir(folder)
    collect(CollectConfig(tasks=["toy/corridor"], episodes=12, workers=0))
    task, sentences = document_task("text/sentences"), ["the agent goes right until it reaches the end", "left and right"] * 20
    with StoreWriter(folder / "home" / "stores" / "documents", [task], {}) as writer:
        for sentence in sentences:
            writer.append(Episode(task, {}, {"text": np.array([sentence], object)}, np.zeros(1, np.float32)))
    TextTokenizer.train(sentences, 300).save(folder / "home" / "stores" / "tokenizer.model")
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "words.txt").write_text("\n".join(sentences))
    task, picture = caption_task("pictures", (16, 16)), np.zeros((1, 16, 16, 3), np.uint8)
    with StoreWriter(folder / "home" / "stores" / "pictures", [task], {}) as writer:
        writer.append(Episode(task, {"image": picture}, {"caption": np.array(["left"], object)}, np.zeros(1, np.float32)))
    Image.fromarray(picture[0]).save(folder / "black.png")
    assert main(["pretrain", "tiny.yaml"]) == 0
    return folder


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


# `{}` is a place for what a verb writes.
LINES = {
    "data collect": "data collect toy/corridor --episodes 2 --out {}",
    "data import": "data import text words.txt --out {}",
    "data export": "data export minari {}-v0 toy/corridor",
    "data validate": "data validate toy/corridor documents",
    "data inspect": "data inspect tiny.yaml --steps 3 --batch_size 4",
    "data show": "data show tiny.yaml",
    "tokenizer train": "tokenizer train words.txt --size 300 --out {}.model",
    "tokenize": "tokenize continuous 0.5",
    "pretrain": "pretrain tiny.yaml",
    "finetune": "finetune runs/tiny/final --data toy/corridor --episodes 1 --modes full,retrieve --rollouts 2 --steps 2 "
    "--batch_size 2 --evaluate_every 2 --evaluation_episodes 1 --device cpu --out {}",
    "eval": "eval runs/tiny/final --episodes 2 --device cpu",
    "arena": "arena --baselines retrieve --tasks toy/corridor --episodes 2 --films false --device cpu --out {}",
    "validate": "validate runs/tiny/final",
    "caption": "caption runs/tiny/final black.png --device cpu",
    "generate": "generate runs/tiny/final left --max_new_tokens 3 --device cpu",
    "show": "show runs/tiny/final",
    "plot": "plot runs/tiny --out {}.html",
    "ls": "ls",
    "cp": "cp demo {}.yaml",
    "doctor": "doctor",
}
# Three talk with a person and one with programs; one fetches packages of other systems, and prints as the others do; one needs a
# checkpoint of TecNets, and is tried in test_one_shot.py, one of a world model, in test_world_model.py; two need
# a hub, and are tried in test_hub.py; one writes a checkpoint for another library, and is tried in
# test_lerobot_policy.py.
WITHOUT = {"chat", "demo", "correct", "serve", "push", "pull", "export", "data reference", "data similar", "dream"}


def verbs(table: dict = VERBS, before: str = "") -> Iterator[str]:
    for name, entry in table.items():
        yield from verbs(entry, f"{before}{name} ") if isinstance(entry, dict) else [f"{before}{name}"]


def test_every_verb_that_reports_is_tried_below() -> None:
    assert set(verbs()) == set(LINES) | WITHOUT


@pytest.mark.parametrize("verb", LINES)
def test_json_is_all_that_a_verb_writes_to_standard_output(verb: str, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    code = main([*LINES[verb].format(tmp_path / "new").split(), "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    assert out.startswith(("{", "[")) and json.loads(out) is not None


@pytest.mark.parametrize("verb", ["eval", "plot", "show"])
def test_an_error_under_json_leaves_standard_output_empty(verb: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert main([verb, str(tmp_path / "nowhere"), "--json"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("gato: ") and err.count("\n") == 1


# -- who else writes ---------------------------------------------------------------------------------


def test_prints_of_python_of_c_and_of_children_go_to_standard_error() -> None:
    script = """
import os, subprocess, sys
from gato.cli.output import only_documents, write_document
early = sys.stdout
with only_documents():
    print("python"); early.write("an old reference\\n"); os.write(1, b"c library\\n")
    subprocess.run([sys.executable, "-c", "print('child')"])
    write_document({"answer": 42, "half": float("nan")})
print("afterwards")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    head, _, tail = done.stdout.rpartition("}")
    assert json.loads(head + "}") == {"answer": 42, "half": None} and tail.strip() == "afterwards"
    assert {"python", "an old reference", "c library", "child"} <= set(done.stderr.splitlines())


def test_standard_output_is_given_back_after_an_error(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(RuntimeError), only_documents():
        print("on the way")
        raise RuntimeError
    print("back")
    out, err = capfd.readouterr()
    assert out == "back\n" and err == "on the way\n"


def test_a_document_holds_numpys_values_and_paths_as_json_has_them(capsys: pytest.CaptureFixture) -> None:
    write_document({"n": np.int64(3), "x": np.float32(0.5), "bad": np.float32("inf"), "rows": np.arange(2), "file": Path("a/b")})
    assert json.loads(capsys.readouterr().out) == {"n": 3, "x": 0.5, "bad": None, "rows": [0, 1], "file": "a/b"}


def test_json_behind_two_dashes_is_a_value_and_help_goes_to_a_person() -> None:
    assert wants_json(["ls", "--json"])
    assert not wants_json(["tokenize", "text", "--", "--json"]) and not wants_json(["ls", "--json", "--help"])


def test_following_a_run_writes_a_line_of_json_for_every_checkpoint(place: Path, capfd: pytest.CaptureFixture) -> None:
    assert main(["eval", "runs/tiny", "--follow", "--episodes", "1", "--device", "cpu", "--json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["checkpoint"] for line in lines] == ["step-2", "final"] and all(line["results"]["tasks"] for line in lines)


# -- flags -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [["--dry-run"], ["--dry-run", "true"], ["--dry-run=true"]])
def test_a_dry_run_is_a_flag_that_may_also_be_given_a_value(flag: list[str], place: Path, capfd: pytest.CaptureFixture) -> None:
    assert main(["pretrain", "tiny.yaml", *flag, "--train.name", "planned"]) == 0
    assert "parameters on 1 ranks" in capfd.readouterr().out and not (place / "runs" / "planned").exists()


def test_a_flag_before_another_option_is_true_and_false_stays_false(place: Path, capfd: pytest.CaptureFixture) -> None:
    line = ["eval", "runs/tiny/final", "--episodes", "1", "--device", "cpu", "--out", str(place / "kept.json")]
    assert main([*line, "--ablations", "--films", "false"]) == 0
    assert json.loads((place / "kept.json").read_text())["films"] == {}
