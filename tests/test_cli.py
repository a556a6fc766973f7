"""The command `gato`: what it prints, and the one line with which it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gato.cli import VERBS, main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def gato(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """gato("ls"): what the verb printed; the stores' folder is empty."""
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GATO_DEBUG", raising=False)

    def run(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """refusal("frobnicate"): the line on standard error; exit code 2 and an empty standard output are checked."""
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GATO_DEBUG", raising=False)

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("gato: ") and captured.err.count("\n") == 1
        return captured.err.removeprefix("gato: ").strip()

    return run


@pytest.fixture
def recipe(tmp_path: Path):
    """recipe("train: {steps: 3}"): a YAML file of this content."""

    def write(text: str) -> str:
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return str(path)

    return write


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_verb(gato, arguments: tuple[str, ...]) -> None:
    text = gato(*arguments)
    for verb, entry in VERBS.items():
        for name in [f"{verb} "] if not isinstance(entry, dict) else entry:
            assert name.strip() in text


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(gato, verb: str) -> None:
    names = [[verb, name] for name in VERBS[verb]] if isinstance(VERBS[verb], dict) else [[verb]]
    for words in names:
        text = gato(*words, "--help")
        assert text.startswith(f"usage: gato {' '.join(words)}") and "<class" not in text, text


def test_help_of_a_group_lists_its_verbs(gato) -> None:
    assert "collect|reference|import|export|validate|inspect|similar|show" in gato("data", "--help")


def test_options_are_described_by_the_docstrings_of_the_configuration(gato) -> None:
    text = gato("pretrain", "--help")
    assert "rows of the global batch" in text and "share of control rows that start with a prompt" in text


def test_version(gato) -> None:
    from gato import __version__

    assert gato("--version") == f"{__version__}\n"


# -- refusals --------------------------------------------------------------------------------------


def test_an_unknown_verb_is_answered_with_the_nearest(refusal) -> None:
    assert refusal("pretrian") == "there is no verb 'pretrian'; did you mean 'pretrain'?"
    assert "did you mean 'data collect'?" in refusal("data", "colect")
    assert "known are data" in refusal("frobnicate")
    assert refusal("data") == "'gato data' needs one of collect, reference, import, export, validate, inspect, similar, show"


def test_an_unknown_recipe_is_answered_with_the_nearest(refusal) -> None:
    assert refusal("pretrain", "dmo") == "there is no recipe 'dmo'; did you mean 'demo'?"
    assert refusal("cp", "dmo", "mine.yaml") == "there is no recipe 'dmo'; did you mean 'demo'?"
    assert refusal("pretrain", "nowhere.yaml") == "no recipe at 'nowhere.yaml'"
    assert "name a recipe: 'gato pretrain RECIPE'" in refusal("pretrain")


def test_options_may_come_before_the_recipe(gato, recipe) -> None:
    path = recipe("train: {batch_size: 24}")
    for words in (
        [path, "--dry-run", "--world-size", "2", "--json"],
        ["--world-size", "2", "--json", "--dry-run", path],
        ["--dry-run", "true", "--world-size=2", "--optim.betas", "0.9", "0.95", path, "--json"],
    ):
        assert json.loads(gato("pretrain", *words))["ranks"] == 2, words


def test_options_before_the_recipe_win_over_it(gato, recipe) -> None:
    path = recipe("train: {batch_size: 24}")
    assert "batch_size: 32" in gato("pretrain", "--train.batch_size", "32", path, "--print_config")


def test_a_word_that_is_no_recipe_is_named_where_it_stands(refusal) -> None:
    assert refusal("pretrain", "--nproc", "2", "dmo") == "there is no recipe 'dmo'; did you mean 'demo'?"
    assert refusal("pretrain", "--train.name", "demo").startswith("name a recipe: ")


def test_options_may_come_before_the_format(gato, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one\n\ntwo\n")
    rows = json.loads(gato("data", "import", "--json", "--out", str(tmp_path / "out"), "text", str(tmp_path / "words.txt")))
    assert rows[0]["episodes"] == 2


def test_an_unknown_option_is_answered_with_the_nearest(refusal) -> None:
    assert refusal("pretrain", "demo", "--train.stepz", "3") == "there is no option '--train.stepz'; did you mean '--train.steps'?"
    assert "did you mean '--train.batch_size'?" in refusal("pretrain", "demo", "--train.batch_sise=3")
    assert "did you mean '--train.steps'?" in refusal("pretrain", "demo", "--steps", "3")
    assert "'more' is one argument too many" in refusal("ls", "more")


def test_an_unknown_key_is_answered_with_its_file_and_the_nearest(refusal, recipe) -> None:
    path = recipe("train: {stepz: 3}")
    assert refusal("pretrain", path) == f"there is no key 'train.stepz' in '{path}'; did you mean 'train.steps'?"
    assert "'trian.steps'" in (line := refusal("pretrain", recipe("trian: {steps: 3}"))) and "did you mean 'train.steps'?" in line
    line = refusal("pretrain", recipe("data: {sources: {toy/corridor: {wieght: 1}}}"))
    assert "'wieght'" in line and "did you mean 'weight'?" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: {batch_size: many}", "'train.batch_size' is many in 'FILE', expected a whole number from 1 to 1,048,576"),
        ("train: {steps: some}", "'train.steps' is some in 'FILE', expected a whole number from 1 to 1,000,000,000 or null"),
        ("optim: {clip: [1]}", "'optim.clip' is [1] in 'FILE', expected a number above 0 and at most 1,000,000,000"),
        ("optim: {betas: [0.9]}", "'optim.betas' is [0.9] in 'FILE', expected 2 values, each a number from 0 and below 1"),
        ("train: 3", "'train' is 3 in 'FILE', expected a mapping of options"),
        ("train: {batch_size: null}", "'train.batch_size' is null in 'FILE', expected a whole number from 1 to 1,048,576"),
        ("data: {sources: {a: {weight: x}}}", "'data.sources.a.weight' is x in 'FILE', expected a number from 0 to 1,000,000,000 or null"),
        ("data: {sources: {a: 3}}", "'data.sources.a' is 3 in 'FILE', expected a mapping of options; {} for the defaults"),
        ("", "a recipe is a mapping of options, found ''; 'gato cp' gives one to start from"),
    ],
)
def test_a_wrong_type_is_answered_with_what_is_expected(refusal, recipe, text: str, line: str) -> None:
    path = recipe(text)
    assert refusal("pretrain", path) == line.replace("FILE", path)


def test_a_wrong_type_on_the_command_line_is_not_blamed_on_the_recipe(refusal) -> None:
    line = "'train.batch_size' is many, expected a whole number from 1 to 1,048,576"
    assert refusal("pretrain", "demo", "--train.batch_size", "many") == line


def test_broken_yaml_and_missing_files_are_named(refusal, recipe, tmp_path: Path) -> None:
    assert "line 1, column 9 is not valid YAML" in refusal("pretrain", recipe("train: ["))
    assert "missing.yaml" in refusal("pretrain", "demo", "--config", str(tmp_path / "missing.yaml"))
    assert refusal("tokenizer", "train", str(tmp_path / "missing.txt")) == f"{tmp_path / 'missing.txt'}: No such file or directory"
    for verb in (["eval"], ["generate", "--seed", "1"], ["show"], ["caption"], ["plot"]):
        rest = {"generate": ["text"], "caption": [str(ROOT / "missing.png")]}.get(verb[0], [])
        assert "missing" in refusal(*verb, str(tmp_path), *rest) or str(tmp_path) in refusal(*verb, str(tmp_path), *rest)


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "no-such"], ["pretrain", "demo", "--train.stepz", "3"], ["pretrain", "bad.yaml"], ["data", "inspect", "bad.yaml"],
        ["data", "inspect", "no-such"], ["data", "collect", "--no-such"], ["eval", "--no-such"], ["finetune", "--no-such"],
        ["finetune", "checkpoint", "--data", "store", "--modes", "no-such"],
    ],
)  # fmt: skip
def test_a_wrong_recipe_key_or_option_is_refused_before_torch_is_imported(words: list[str], tmp_path: Path) -> None:
    """Which takes five seconds, and a quarter of a minute on a busy machine."""
    (tmp_path / "bad.yaml").write_text("model: {widht: 3}")
    script = "import sys; from gato.cli import main; code = main(); print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", script, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout == "2 False False\n", found.stdout + found.stderr
    assert found.stderr.startswith("gato: ") and found.stderr.count("\n") == 1


def test_a_missing_store_is_named(refusal, tmp_path: Path) -> None:
    assert str(tmp_path / "home" / "stores" / "toy") in refusal("data", "validate", "toy")


def test_the_traceback_shows_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATO_DEBUG", "1")
    with pytest.raises(ValueError, match="no recipe"):
        main(["pretrain", "dmo"])


# -- tokenize --------------------------------------------------------------------------------------


def test_tokenize_shows_ids_of_the_32k_layout_and_what_they_decode_to(gato) -> None:
    rows = json.loads(gato("tokenize", "continuous", "--json", "--role", "observation", "--", "-1", "0", "1"))
    assert [row["value"] for row in rows] == [-1, 0, 1]
    # mu-law: 0 lies on the edge of the upper middle bin, and 1 and -1 are mirrored around it
    assert [row["id"] for row in rows] == [32279, 32512, 32744]
    assert [row["decodes to"] for row in rows] == pytest.approx([-1, 0, 1], abs=0.02)


def test_tokenize_rescales_actions_to_their_range(gato) -> None:
    rows = json.loads(gato("tokenize", "continuous", "--role", "action", "--low", "0", "--high", "2", "--json", "0", "1", "2"))
    assert [row["id"] for row in rows] == [32000, 32512, 33023]


def test_tokenize_decodes_what_it_encoded(gato) -> None:
    assert json.loads(gato("tokenize", "discrete", "--json", "7", "1023")) == [
        {"value": 7, "id": 7, "decodes to": 7}, {"value": 1023, "id": 1023, "decodes to": 1023},
    ]  # fmt: skip
    rows = json.loads(gato("tokenize", "continuous", "--decode", "--json", "32512"))
    assert rows[0]["id"] == 32512 and abs(rows[0]["value"]) < 0.01


def test_tokenize_prints_aligned_columns(gato) -> None:
    assert gato("tokenize", "discrete", "5", "1000") == (
        "value  id    decodes to\n"
        "5      5     5\n"
        "1000   1000  1000\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["continuous", "abc"], "could not convert string to float: 'abc'; continuous values are numbers"),
        (["continuous", "nan"], "nan is not finite, and such values are refused"),
        (["discrete", "3.5"], "3.5 is not a whole number"),
        (["discrete", "2000"], "observation 'value' is 2000, outside [0, 1023]"),
        (["continuous", "--decode", "5"], "id 5 is not a continuous token; they lie in [32000, 33024)"),
    ],
)
def test_tokenize_refuses_what_is_no_value(refusal, arguments: list[str], line: str) -> None:
    assert refusal("tokenize", *arguments) == line


def test_tokenize_text_needs_a_tokenizer(refusal) -> None:
    assert "gato tokenizer train" in refusal("tokenize", "text", "hello")


def test_a_tokenizer_is_trained_and_used(gato, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("the red ball and the blue box\na small dog runs over the hill\n" * 50)
    report = json.loads(gato("tokenizer", "train", str(file), "--size", "300", "--json"))
    (source,) = report["sources"]
    assert report["pieces"] == 300 and source["characters"] == 3050 and source["characters_per_piece"] > 1
    rows = json.loads(gato("tokenize", "text", "--json", "the ball"))
    assert "".join(row["piece"] for row in rows).replace("\u2581", " ").strip() == "the ball"
    ids = [str(row["id"]) for row in rows]
    assert json.loads(gato("tokenize", "text", "--decode", "--json", *ids))[0]["text"] == "the ball"


# -- recipes and sizes -----------------------------------------------------------------------------


def test_ls_lists_the_shipped_recipes(gato) -> None:
    names = gato("ls").split()
    assert "demo" in names and "tasks" not in names
    assert json.loads(gato("ls", "--json")) == names


def test_cp_copies_a_recipe_once(gato, refusal, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    assert gato("cp", "demo", str(own)) == f"{own}\n"
    assert own.read_text() == (ROOT / "configs" / "demo.yaml").read_text()
    assert refusal("cp", "demo", str(own)) == f"'{own}' exists; choose another name"
    assert gato("cp", "demo", str(tmp_path)) == f"{tmp_path / 'demo.yaml'}\n"
    assert "not named *.yaml" in refusal("cp", "demo", str(tmp_path / "mine.txt"))


def test_later_files_and_then_options_win(gato, recipe) -> None:
    import yaml

    path = recipe("train: {batch_size: 3, seed: 5}")
    config = yaml.safe_load(gato("pretrain", "demo", "--config", path, "--train.seed", "7", "--print_config"))
    assert (config["train"]["name"], config["train"]["batch_size"], config["train"]["seed"]) == ("demo", 3, 7)


@pytest.mark.parametrize(
    "words", ["c --episodes 1 10 --modes full clone", "--modes full,clone --episodes [1,10] c", "--episodes=1,10 --modes=full,clone c"]
)
def test_several_values_are_words_and_commas_or_brackets_may_hold_them(words: str) -> None:
    """The last of several words is left to the other arguments where it cannot be meant: the checkpoint is no mode."""
    from gato.cli.arguments import Parser
    from gato.eval.settings import FewShotConfig

    parser = Parser(prog="gato finetune")
    parser.add_argument("checkpoint", type=Path)
    parser.add_config(FewShotConfig)
    options = parser.parse(["--data", "store", *words.split()])
    assert (options.checkpoint, options.episodes, options.modes) == (Path("c"), (1, 10), ("full", "clone"))


def test_names_of_several_may_be_patterns(gato) -> None:
    import yaml

    line = "pretrain demo --data.held_out babyai/* * --train.allow_changes optim train.steps --optim.betas 0.8 0.9 --print_config"
    config = yaml.safe_load(gato(*line.split()))
    assert config["data"]["held_out"] == ["babyai/*", "*"] and config["train"]["allow_changes"] == ["optim", "train.steps"]
    assert config["optim"]["betas"] == [0.8, 0.9]


def test_what_starts_a_run_is_no_part_of_its_recipe(gato, refusal, recipe) -> None:
    assert "dry_run" not in gato("pretrain", "demo", "--print_config")
    assert "there is no key 'nproc'" in refusal("pretrain", recipe("nproc: 2"))
    assert refusal("pretrain", "demo", "--nproc", "0") == "'nproc' is 0, expected a whole number from 1 to 1,000,000"
    assert refusal("pretrain", "demo", "--world-size", "2") == "--world-size belongs to --dry-run; --nproc starts processes"


@pytest.mark.parametrize("words", [["64", "32"], ["[64,32]"]])
def test_a_pair_is_two_words_or_a_list(words) -> None:
    from gato.cli.arguments import Parser
    from gato.data.formats.pictures import PicturesReader

    parser = Parser(prog="gato data import pictures")
    parser.add_argument("path", type=Path)
    parser.add_config(PicturesReader)
    assert parser.parse(["--image_size", *words, "folder"]).image_size == (64, 32)


@pytest.mark.parametrize(("size", "millions"), [("gato-79m", 79), ("gato-364m", 364), ("gato-1b", 1180)])
def test_sizes_have_the_papers_parameter_counts(gato, size: str, millions: int) -> None:
    content = json.loads(gato("show", size, "--json"))
    parts = dict(content["parameters"])
    total = parts.pop("total")
    assert total == sum(parts.values()) and total == pytest.approx(millions * 1e6, rel=0.01)


def test_show_prints_thousands_in_groups(gato) -> None:
    assert "78," in gato("show", "gato-79m").splitlines()[-1]


def test_show_names_the_sizes_for_an_unknown_one(refusal, tmp_path: Path) -> None:
    assert "known are gato-79m" in refusal("show", "gato-80m")
    assert "no gato.json" in refusal("show", str(tmp_path))


def test_json_has_null_where_a_number_is_not_finite(capsys: pytest.CaptureFixture) -> None:
    from gato.cli.command import print_rows

    print_rows([{"low": float("nan"), "high": (float("inf"), 1.5)}], True, str)
    assert json.loads(capsys.readouterr().out) == [{"low": None, "high": [None, 1.5]}]


@pytest.mark.skipif(os.name == "nt", reason="pipes close otherwise there")
def test_a_closed_pipe_ends_quietly() -> None:
    command = f"'{sys.executable}' -m gato.cli --help | head -n 0"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
