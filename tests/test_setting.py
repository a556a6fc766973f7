"""Every setting has a range; what lies outside is refused in one line that names key, value and range, before anything is made."""

import dataclasses
import json
import random
import re
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from gato import envs
from gato.agent import Agent
from gato.cli import main
from gato.cli.arguments import Parser
from gato.data.collection.collect import CollectConfig
from gato.data.formats.dataset import READERS, WRITERS, reader, writer
from gato.data.reference.build import ReferenceConfig
from gato.data.selection import DataConfig, SourceConfig
from gato.eval.settings import ArenaConfig, EvalConfig, FewShotConfig
from gato.serve.demo_page import DemoConfig
from gato.setting import Limits, Settings, bounded, expected, fields_of, is_allowed
from gato.train.protocol import PROTOCOLS, Protocol
from gato.train.recipe import ModelConfig, OptimConfig, PretrainConfig, TrainConfig

CONFIGS = (ModelConfig, SourceConfig, DataConfig, OptimConfig, TrainConfig, PretrainConfig)
CONFIGS += (CollectConfig, ReferenceConfig, EvalConfig, FewShotConfig, ArenaConfig, Protocol, DemoConfig)
FORMATS = (*map(reader, READERS), *map(writer, WRITERS))
# Values that make no sense for numbers, as YAML has them.
SENSELESS = ["-1", "-5", "0", ".nan", ".inf", "-.inf", "1.0e+300", "99999999999999999999", "true", "null", "1.5"]
SENSELESS += ['""', '"7"', "word", "[]", "[1, 2]", "{a: 1}"]


def is_numeric(hint: object) -> bool:
    return hint in (int, float) or any(is_numeric(part) for part in typing.get_args(hint))


# -- the rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [*CONFIGS, *FORMATS], ids=lambda c: c.__name__)
def test_every_number_of_a_configuration_has_a_range(config: type) -> None:
    bare = [name for name, (hint, limits) in fields_of(config).items() if is_numeric(hint) and limits == Limits()]
    assert not bare and issubclass(config, Settings)


def test_every_option_that_is_a_number_has_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all verbs, their own options included."""
    seen: list[Parser] = []

    def stop(parser: Parser, arguments: object) -> None:
        seen.append(parser)
        raise KeyboardInterrupt

    monkeypatch.setattr(Parser, "parse", stop)
    lines = [f"data import {name} x" for name in READERS] + [f"data export {name} x y" for name in WRITERS]
    lines += ["data collect", "data reference", "data validate", "data inspect demo", "data show demo", "tokenizer train", "tokenize"]
    lines += ["show", "pretrain demo", "finetune", "eval", "caption", "generate", "chat", "demo", "plot", "ls", "cp"]
    for line in lines:
        main(line.split())
    assert len(seen) >= len(lines)
    bare = {
        (parser.prog, action.dest)
        for parser in seen
        for action in parser._actions
        if is_numeric(getattr(action, "_typehint", None)) and parser.known.get(action.dest, (0, Limits()))[1] == Limits()
    }
    assert bare == {("gato tokenize", "low"), ("gato tokenize", "high")}  # of a field: any finite number


def test_no_configuration_dataclass_of_the_packages_is_left_out() -> None:
    """Whatever is called ...Config and parsed from a recipe or from options, is tried above."""
    found = set()
    for folder, package in (("gato", "gato"), ("data", "gato.data"), ("train", "gato.train"), ("eval", "gato.eval")):
        for path in (Path(__file__).parent.parent / folder).glob("*.py"):
            for name in re.findall(r"^@dataclass.*\nclass (\w+Config)\b", path.read_text(), flags=re.MULTILINE):
                found.add(getattr(import_module(f"{package}.{path.stem}"), name))
    assert found <= set(CONFIGS)


# -- in Python -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Toy(Settings):
    count: int = bounded(1, 1, 10)
    share: float | None = bounded(None, 0, 1, below=True)
    size: tuple[int, int] = bounded((2, 2), 2, 8, multiple=2)
    on: bool = False


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("count", 0, "'count' is 0, expected a whole number from 1 to 10"),
        ("count", True, "'count' is True, expected a whole number"),
        ("count", "3", "'count' is '3', expected a whole number"),
        ("count", 2.0, "'count' is 2.0, expected a whole number"),
        ("count", None, "'count' is null, expected a whole number"),
        ("share", 1, "'share' is 1, expected a number from 0 and below 1 or null"),
        ("share", float("nan"), "'share' is nan"),
        pytest.param("share", -(10**400), "'share' is -10000.*, expected a number from 0", id="share-below-every-float"),
        pytest.param("count", 10**400, "'count' is 10000.*, expected a whole number from", id="count-above-every-float"),
        ("size", (2, 3), r"'size' is \[2, 3\], expected 2 values, each a multiple of 2 from 2 to 8"),
        ("size", (2,), r"'size' is \[2\], expected 2 values"),
        ("size", 4, "'size' is 4, expected 2 values"),
        ("on", 1, "'on' is 1, expected true or false"),
    ],
)
def test_a_configuration_made_in_python_refuses_what_it_does_not_take(field: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Toy(**{field: value})


def test_sound_values_are_taken() -> None:
    Toy(count=10, share=0, size=[4, 8], on=True)
    for protocol in PROTOCOLS.values():
        assert protocol.steps >= 1


def test_the_section_of_a_recipe_is_named() -> None:
    with pytest.raises(ValueError, match=r"'train\.keep' is -1, expected a whole number from 1"):
        TrainConfig(keep=-1)
    with pytest.raises(ValueError, match=r"'optim\.betas' is \[0\.9, 1\], expected 2 values, each a number from 0 and below 1"):
        OptimConfig(betas=(0.9, 1))


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf"), "1", True])
def test_a_temperature_that_is_none_is_refused_where_it_acts_and_where_it_speaks(agent, corridor, temperature: object) -> None:
    with pytest.raises(ValueError, match="'temperature' is"):
        agent.policy(corridor, temperature=temperature)
    with pytest.raises(ValueError, match="'temperature' is"):
        agent.generate("left", 2, temperature)


# -- in recipes and options ------------------------------------------------------------------------


def refused(line: list[str], capfd: pytest.CaptureFixture) -> str:
    assert main(line) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("gato: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/tmp/x", ".hidden", "-x", " x", "a\\b", "x" * 61, "a\tb"], ids=lambda n: repr(n[:8])
)
def test_a_run_has_a_name_that_is_one_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    assert "'train.name' is" in refused(["pretrain", "demo", f"--train.name={name}"], capfd)
    assert list(tmp_path.iterdir()) == []


def test_the_file_that_holds_a_senseless_value_is_named(tmp_path: Path, capfd) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("train: {steps: 4, keep: -1}")
    expected = f"gato: 'train.keep' is -1 in '{recipe}', expected a whole number from 1 to 1,000,000,000\n"
    assert refused(["pretrain", str(recipe)], capfd) == expected


def test_a_source_is_named_with_its_senseless_value(tmp_path: Path, capfd) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("data: {sources: {toy/corridor: {weight: -1}}}\ntrain: {steps: 4}")
    assert "'data.sources.toy/corridor.weight' is -1" in refused(["pretrain", str(recipe)], capfd)


def test_a_recipe_without_steps_and_seconds_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("data: {sources: {toy/corridor: {}}}\ntrain: {name: mine, device: cpu}")
    assert "neither train.steps nor train.seconds" in refused(["pretrain", "mine.yaml"], capfd)
    assert not (tmp_path / "runs").exists()


def numeric_keys() -> Iterator[tuple[str, object, Limits]]:
    for section, config in (("model", ModelConfig), ("data", DataConfig), ("optim", OptimConfig), ("train", TrainConfig)):
        yield from ((f"{section}.{name}", hint, limits) for name, (hint, limits) in fields_of(config).items() if name != "sources")
    yield from ((f"data.sources.toy/corridor.{name}", hint, limits) for name, (hint, limits) in fields_of(SourceConfig).items())


def test_any_senseless_value_of_a_recipe_is_taken_or_refused_with_key_and_range(tmp_path: Path, capfd) -> None:
    """Every key with every value, in a recipe that is only planned."""
    import yaml

    draw, outcomes = random.Random(0), {"taken": 0, "refused": 0}
    cases = [(key, hint, limits, word) for key, hint, limits in numeric_keys() for word in SENSELESS]
    for key, hint, limits, word in draw.sample(cases, 250):
        content: dict = {"train": {"steps": 4}}
        section, *rest = key.split(".", 1)
        inside = content.setdefault(section, {})
        if rest[0].startswith("sources."):
            inside["sources"] = {"toy/corridor": {rest[0].rsplit(".", 1)[1]: yaml.safe_load(word)}}
        else:
            inside[rest[0]] = yaml.safe_load(word)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        code = main(["pretrain", str(path), "--dry-run"])
        _, err = capfd.readouterr()
        if code == 0:
            outcomes["taken"] += 1
            assert word == '"7"' or is_allowed(yaml.safe_load(word), hint, limits), (key, word)  # a quoted number is one
        else:
            outcomes["refused"] += 1
            assert code == 2 and err.count("\n") == 1 and "Traceback" not in err and rest[0].split(".")[-1] in err, (key, word, err)
            assert not is_numeric(hint) or expected(hint, limits) in err, (key, word, err)
    assert min(outcomes.values()) > 10, outcomes


def test_a_refused_evaluation_leaves_the_results_of_the_last_one(tmp_path: Path, capfd) -> None:
    (tmp_path / "eval.json").write_text(json.dumps({"tasks": [1, 2]}))
    for option in ("--episodes 0", "--temperature nan", "--num_envs -1", "--seed -1", "--overflow none", "--rate 0", "--documents 0"):
        assert f"'{option.split()[0].lstrip('-')}' is" in refused(["eval", str(tmp_path), *option.split()], capfd)
    assert json.loads((tmp_path / "eval.json").read_text()) == {"tasks": [1, 2]}


@pytest.fixture
def corridor_checkpoint(make_gato, tokenizer, tmp_path: Path) -> Path:
    """A tiny untrained model that knows the corridor."""
    task = envs.task("toy/corridor")
    Agent(make_gato().float(), tokenizer, {task.name: task}).save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("out", ["file/x.json", "folder"])
def test_results_that_cannot_be_written_are_refused_before_an_episode(corridor_checkpoint, tmp_path, monkeypatch, capfd, out) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("gato.eval.control.rollout", lambda *a, **k: pytest.fail("an episode was played"))
    line = refused(["eval", str(corridor_checkpoint), "--device", "cpu", "--out", str(tmp_path / out)], capfd)
    assert f"'{tmp_path / out}' cannot be written" in line


def test_a_store_that_is_not_there_is_named_before_the_first_episode(corridor_checkpoint, monkeypatch, capfd) -> None:
    monkeypatch.setattr("gato.eval.control.rollout", lambda *a, **k: pytest.fail("an episode was played"))
    for option in ("--captions", "--text", "--nearest"):
        assert "nowhere" in refused(["eval", str(corridor_checkpoint), "--device", "cpu", option, "nowhere"], capfd)


def test_an_evaluation_in_which_nothing_could_be_played_leaves_the_last_one(corridor_checkpoint, monkeypatch, capfd) -> None:
    line = ["eval", str(corridor_checkpoint), "--device", "cpu", "--episodes", "2"]
    assert main(line) == 0
    before = (corridor_checkpoint / "eval.json").read_bytes()
    monkeypatch.setattr("gato.eval.control.rollout", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no display")))
    assert main(line) == 1
    assert (corridor_checkpoint / "eval.json").read_bytes() == before
    assert "no display" in (corridor_checkpoint / "eval.partial.json").read_text()
    monkeypatch.undo()
    assert main(line) == 0 and not (corridor_checkpoint / "eval.partial.json").exists()
    capfd.readouterr()
