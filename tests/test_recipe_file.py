"""Recipe and mixture files: whatever is wrong with one is a line that names it; nothing wins, or is left out, in silence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from mutations import SEEDS, fuzz, mutated_bytes, mutated_text, mutated_value, one_of

from gato.cli import main
from gato.cli.inspection import mixture_file, recipe_file
from gato.cli.recipes import recipe_path, recipes
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig, check
from gato.data.store import StoreWriter
from gato.yaml_file import load_yaml

RECIPE = """# a comment
model: {num_layers: 2, num_heads: 2, width: 32, positions: rope, drop_path: 0.1}
data:
  tokenizer: words.model
  temperature: 2.0
  held_out: [babyai/go-to-local, "metaworld/*"]
  sources:
    gymnasium/cartpole: {weight: 2, behaviours: [expert, noisy]}
    pictures/train:
      augment: true
      loss_weight: 1e-1
      max_episodes: 10
optim:
  learning_rate: 3e-4
  betas: [0.9, 0.95]
  muon: null
train: {name: own, steps: 14, batch_size: 8, threads: 1, seconds: null, allow_changes: []}
"""
MIXTURE = """
sources:
  gymnasium/cartpole: {weight: 2, behaviours: [expert, noisy], part: train, test_share: 0.2}
  pictures/train: {augment: true, loss_weight: 0.5, store: some/folder, memory: 3}
prompt_share: 0.5
temperature: 2
workers: 0
tokenizer: words.model
held_out: [babyai/go-to-local, "metaworld/*"]
include_held_out: []
"""


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """refused("sources: 3"): the line with which a file of this content is refused, without the file's name."""
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GATO_DEBUG", raising=False)
    path = tmp_path / "own.yaml"

    def run(content: str | bytes, *words: str) -> str:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert main([*(words or ("data", "inspect")), str(path)]) == 2
        found = capsys.readouterr()
        assert found.out == "" and found.err.startswith("gato: ") and found.err.count("\n") == 1, found.err
        return found.err.removeprefix("gato: ").strip().replace(str(path), "FILE")

    return run


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("sources:\n\tlab/a: {}\n", "FILE, line 2, column 1 is not valid YAML: found character '\\t'"),
        ("sources: {lab/a: {store: x\n", "FILE, line 2, column 1 is not valid YAML: expected ',' or '}'"),
        ("sources: {lab/a: {store: 'x}}\n", "is not valid YAML: found unexpected end of stream"),
        ("sources: {lab/a: {}}\n---\nsources: {lab/b: {}}\n", "FILE, line 2, column 1 is not valid YAML: but found another document"),
        ("sources:\n  lab/a: {}\n  lab/a: {}\n", "FILE, line 3, column 3 is not valid YAML: the key 'lab/a' is there twice"),
        ("sources: {lab/a: {weight: 1, weight: 2}}\n", "the key 'weight' is there twice"),
        ("sources: {lab/a: {}}\nsources: {lab/b: {}}\n", "FILE, line 2, column 1 is not valid YAML: the key 'sources' is there twice"),
        ("sources: {lab/a: {}}\n".encode("utf-16"), "FILE is not UTF-8 at byte 0; save it in UTF-8"),
        ("sources: {büro/a: {}}\n".encode("latin-1"), "FILE is not UTF-8 at byte 11; save it in UTF-8"),
        (bytes(range(256)), "FILE is not UTF-8 at byte 128"),
        ("a: &a [x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in pairwise("abcdefgh")), "more than 100000 values"),
        ("sources: &s {lab/a: *s}\n", "or one that holds itself"),
        ("#" * (2**20 + 1), "FILE has 1048577 bytes, more than 1048576"),
        ("", "a recipe is a mapping of options, found ''"),
        ("# only a comment\n", "a recipe is a mapping of options, found ''"),
        ("just words", "a recipe is a mapping of options, found 'just words'"),
        ("- a\n- b\n", "a recipe is a mapping of options, found '['a', 'b']'"),
        ("sources:\n", "'FILE': 'data.sources' is null, expected a mapping"),
        ("sources: {}\n", "the mixture has no sources; name at least one"),
        ("sources: [lab/a]\n", "'FILE': 'data.sources' is ['lab/a'], expected a mapping"),
        ("sources: {lab/a: }\n", "'data.sources.lab/a' is null, expected a mapping of options; {} for the defaults"),
        ("sources: {lab/a: {loss_weight: }}\n", "'FILE': 'data.sources.lab/a.loss_weight' is null, expected a number from 0 to"),
        ("sources:\n  lab/a:\n    test_share:\n", "'FILE': 'data.sources.lab/a.test_share' is null, expected a number above 0"),
        ("sources: {lab/a: {weight: heavy}}\n", "'data.sources.lab/a.weight' is heavy, expected a number from 0 to 1,000,000,000 or null"),
        ("sources: {lab/a: {weight: true}}\n", "'data.sources.lab/a.weight' is True, expected a number from 0"),
        ("sources: {lab/a: {weight: [1]}}\n", "'data.sources.lab/a.weight' is [1], expected a number from 0"),
        ("sources: {lab/a: {store: 7}}\n", "'data.sources.lab/a.store' is 7, expected a text that is not empty or null"),
        ("sources: {lab/a: {max_episodes: 1.5}}\n", "lab/a.max_episodes' is 1.5, expected a whole number from 1 to 1,000,000,000"),
        ("sources: {lab/a: {behaviours: expert}}\n", "'data.sources.lab/a.behaviours' is expert, expected a list, each one of expert"),
        ("sources: {lab/a: {augment: 'yes'}}\n", "'data.sources.lab/a.augment' is yes, expected true or false"),
        ("sources: {lab/a: {wieght: 1}}\n", "'data.sources.lab/a' knows no key 'wieght'; did you mean 'weight'?"),
        ("sources: {lab/a: {3: 1}}\n", "'data.sources.lab/a' knows no key '3'"),
        ("sources: {3: {}}\n", "'data.sources' has the key 3, expected a name; put it in quotes"),
        ("sources: {'': {}}\n", "'data.sources' has the key '', expected a name"),
        ("sources: {lab/a: {}}\nheld_out: babyai/*\n", "'data.held_out' is babyai/*, expected a list, each a text that is not empty"),
        ("sources: {lab/a: {}}\nheld_out: [1]\n", "'data.held_out' is [1], expected a list, each a text that is not empty"),
        ("sources: {lab/a: {}}\nheld_out:\n", "'data.held_out' is null, expected a list"),
        ("sources: {lab/a: {}}\nprompt_share: {}\n", "'data.prompt_share' is {}, expected a number"),
        ("sources: {lab/a: {}}\nheldout: [x/y]\n", "there is no key 'data.heldout'; did you mean 'data.held_out'?"),
        ("sources: {lab/a: {}}\n3: 4\n", "there is no key 'data.3'"),
        ("sources: {lab/nowhere: {}}\n", "the folder does not exist"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_mixture_file_is_named(refused, home_tokenizer, content: str | bytes, line: str) -> None:
    assert line in refused(content)


@pytest.fixture
def home_tokenizer(tmp_path: Path, text) -> None:
    (tmp_path / "home" / "stores").mkdir(parents=True)
    text.save(tmp_path / "home" / "stores" / "tokenizer.model")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("train: {steps: 3}\ntrain: {steps: 4}\n", "FILE, line 2, column 1 is not valid YAML: the key 'train' is there twice"),
        ("train: {steps: 3, steps: 4}\n", "the key 'steps' is there twice"),
        ("train: {steps: 3}\ntrain.steps: 4\n", "the key 'train.steps' in 'FILE' has a dot; write 'train: {steps: ...}'"),
        ("train:\n", "'train' is null in 'FILE', expected a mapping of options"),
        ("train: [1]\n", "'train' is [1] in 'FILE', expected a mapping of options"),
        ("data: {sources: {a/b: {wieght: 1}}}\n", "'data.sources.a/b' knows no key 'wieght' in 'FILE'; did you mean 'weight'?"),
        ("data: {sources: {a/b: {weight: {}}}}\n", "'data.sources.a/b.weight' is {} in 'FILE', expected a number from 0"),
        ("train: {name: }\n", "'train.name' is null in 'FILE', expected a folder's name"),
        ("optim: {betas: 0.9}\n", "'optim.betas' is 0.9 in 'FILE', expected"),
        ("optim: {clip: {x: 1}}\n", "'optim.clip' is {'x': 1} in 'FILE', expected a number"),
        ("models: {width: 3}\n", "there is no key 'models.width' in 'FILE'; did you mean 'model.width'?"),
        ("[a]: 1\n", "is not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(refused, content: str, line: str) -> None:
    assert line in refused(content, "pretrain") and line in refused(content)


def test_a_section_in_a_file_of_its_own_is_read_as_strictly(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mixture.yaml"
    for content, line in {
        "sources: {a/b: {}, a/b: {}}": "the key 'a/b' is there twice",
        "sources: {a/b: {weight: x}}": f"'data.sources.a/b.weight' is x in '{path}', expected a number from 0",
        "sourcez: {}": "there is no key 'data.sourcez'",
    }.items():
        path.write_text(content)
        for words in (["--data", str(path)], [f"--data={path}"], ["--config", str(path)]):
            if words[0] == "--config":
                path.write_text(f"data: {{{content}}}")
            assert main(["pretrain", "demo", *words]) == 2
            assert line in capsys.readouterr().err


def test_a_section_s_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture) -> None:
    for word in ("nosuch.yaml", "3"):
        assert main(["pretrain", "demo", "--data", word]) == 2
        assert capsys.readouterr().err.startswith(f"gato: 'data' is {word}, expected a YAML file or a mapping of options")


def test_a_folder_and_a_missing_file_are_no_recipes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for name in ("folder.yaml", "missing.yaml"):
        for words in (["pretrain"], ["data", "inspect"]):
            assert main([*words, str(tmp_path / name)]) == 2
            assert capsys.readouterr().err == f"gato: no recipe at '{tmp_path / name}'\n"


def test_what_ships_is_read_by_the_same_rules() -> None:
    for name in recipes():
        content = load_yaml(recipe_path(name))
        if "learner" not in content:  # those of other learners have sections of their own, and tests of their own
            assert set(content) <= {"model", "data", "optim", "train"}
            recipe_file(recipe_path(name))
    load_yaml(Path(str(resources.files("gato.configs").joinpath("tasks.yaml"))))


def test_a_key_without_a_value_is_the_default_where_that_is_null(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("train: {steps: , seconds: }\ndata: {sources: {a/b: {weight: , store: }}}\n")
    recipe = recipe_file(path)
    assert recipe.train.steps is None and recipe.data.sources["a/b"] == SourceConfig()


def test_numbers_in_the_ways_of_yaml_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("optim: {learning_rate: 3e-4}\ndata: {sources: {a/b: {weight: 1e-2, loss_weight: .5, max_episodes: 0x10}}}\n")
    recipe = recipe_file(path)
    assert recipe.optim.learning_rate == 3e-4
    assert recipe.data.sources["a/b"] == SourceConfig(weight=0.01, loss_weight=0.5, max_episodes=16)


@pytest.mark.parametrize("weight", ["-1", ".nan", ".inf", "-.inf", "1e400"])
def test_weights_without_sense_are_refused(refused, weight: str) -> None:
    assert "weight" in refused(f"sources: {{lab/a: {{weight: {weight}}}}}")
    assert "loss_weight" in refused(f"sources: {{lab/a: {{loss_weight: {weight}}}}}")


def test_weights_that_are_all_zero_are_refused(refused) -> None:
    assert "mixture weights are" in refused("sources: {lab/a: {weight: 0}, lab/b: {weight: 0}}")


# -- names to hold out -------------------------------------------------------------------------------


@pytest.fixture
def walks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corridor, walk) -> Path:
    """The store `lab/walks` of task `toy/corridor`, and `lab/other` in the stores folder."""
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    for name in ("walks", "other"):
        with StoreWriter(tmp_path / "stores" / "lab" / name, [corridor]) as writer:
            writer.append(walk([0, 1], [1, 1]))
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("babyai/go-to-redball", "did you mean 'babyai/go-to-red-ball'?"), ("lab/othre", "did you mean 'lab/other'?"),
        ("zzz/qqq", "docs/suites.md lists the registry"),
    ],
)  # fmt: skip
def test_a_name_to_hold_out_that_is_nowhere_is_refused(walks: Path, tokenizer, pattern: str, near: str) -> None:
    with pytest.raises(
        ValueError, match=r"^held_out names '.*', which is no task of the sources, of the registry or of the stores"
    ) as caught:
        Mixture(DataConfig({"lab/walks": SourceConfig()}, held_out=[pattern]), tokenizer, 32, 0)
    assert pattern in str(caught.value) and near in str(caught.value)


@pytest.mark.parametrize("pattern", ["babyai/go-to-red-ball", "metaworld/*", "lab/other", "lab/o*", "babyai-symbolic/go-to-local"])
def test_a_name_to_hold_out_that_is_somewhere_is_taken(walks: Path, tokenizer, pattern: str) -> None:
    Mixture(DataConfig({"lab/walks": SourceConfig()}, held_out=[pattern]), tokenizer, 32, 0)


# -- mutations ---------------------------------------------------------------------------------------


@contextmanager
def in_our_words() -> Iterator[None]:
    """Fails for a refusal in jsonargparse's."""
    try:
        yield
    except ValueError as error:
        assert not re.search("Parser key|subtypes|class_path|parsing config|Subclass", str(error)), str(error)
        raise


def mutated(text: str, rng: np.random.Generator) -> bytes:
    """The file with letters, bytes, lines or values of it changed."""
    match int(rng.integers(4)):
        case 0:
            return mutated_text(rng, text).encode("utf-8", "surrogatepass")
        case 1:
            return mutated_bytes(rng, text.encode())
        case _:
            value = yaml.safe_load(text)
            for _ in range(int(rng.integers(1, 3))):
                value = mutated_value(rng, value)
            dumped = yaml.safe_dump(value, sort_keys=False, default_flow_style=one_of(rng, (None, True, False)), allow_unicode=False)
            return dumped.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_mutated_recipe_is_read_or_refused_in_one_line(tmp_path: Path, seeds: range) -> None:
    path = tmp_path / "own.yaml"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with in_our_words():
            recipe = recipe_file(path)
            check(recipe.data)

    counts = fuzz(seeds[::4], lambda rng: mutated(RECIPE, rng), read)
    assert min(counts.values()) > len(seeds) // 40, counts


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_mutated_mixture_file_is_read_or_refused_in_one_line(tmp_path: Path, seeds: range) -> None:
    path = tmp_path / "own.yaml"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with in_our_words():
            check(mixture_file(path, load_yaml(path)))

    counts = fuzz(seeds[1::2], lambda rng: mutated(MIXTURE, rng), read)
    assert min(counts.values()) > len(seeds) // 40, counts
