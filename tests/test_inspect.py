"""What `gato data inspect` and `gato data show` say, against numbers counted by hand and rows that training got."""

import json
import re
from dataclasses import asdict, fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from gato.batch import TokenBatch
from gato.cli import main
from gato.data.inspection.figures import Histogram
from gato.data.inspection.page import row_text, write_inspection, write_row
from gato.data.inspection.scan import inspect
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import StoreWriter
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.words import caption_task, document_task

NASTY = "<script>a cat</script>"
VOID = {"meta", "img", "rect", "line"}


def write(folder: Path, episodes: list[Episode]) -> str:
    with StoreWriter(folder, [episodes[0].task]) as writer:
        for episode in episodes:
            writer.append(episode)
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory, walk, text: TextTokenizer) -> Path:
    """Stores `toy/walks` (4 episodes, 12 timesteps), `toy/lever` (2 episodes, 6 timesteps), `pictures`, `words`, and a tokenizer."""
    home = tmp_path_factory.mktemp("home")
    stores = home / "stores"
    walks = [walk([0, 1, 1], [1, 0, 0], success=i > 0, behaviour="noisy" if i else "expert") for i in range(4)]
    write(stores / "toy" / "walks", walks)
    lever = TaskSpec(
        "toy/lever",
        (
            FieldSpec("angle", Modality.CONTINUOUS, "observation", low=(-1.0,), high=(1.0,), path=("angle",)),
            FieldSpec("force", Modality.CONTINUOUS, "action", (2,), low=(-1.0,), high=(1.0,), path=("force",)),
        ),
        random_return=-3.0,
        expert_return=3.0,
    )  # fmt: skip
    angle = np.array([0, 2, 300], np.float32)  # the second is out of bounds, the third also beyond what the tokenizer tells apart
    force = np.array([[-1, 0], [0.5, 1], [0.25, 0.25]], np.float32)  # two of six at a bound
    notes = {"clipped_actions": 3}, {"collection": {"clipped_actions": 1}}  # of an import, and of a collection of ours
    levers = [Episode(lever, {"angle": angle}, {"force": force}, np.full(3, r, np.float32), parameters=notes[r]) for r in (0, 1)]
    write(stores / "toy" / "lever", levers)
    picture = caption_task("captions/toy", (16, 32))
    write(
        stores / "pictures",
        [
            Episode(
                picture,
                {"image": np.full((1, 16, 32, 3), 9 * i, np.uint8)},
                {"caption": np.array([NASTY], object)},
                np.zeros(1, np.float32),
            )
            for i in range(5)
        ],
    )
    task = document_task("text/toy")
    write(stores / "words", [Episode(task, {}, {"text": np.array(["go to the red ball"], object)}, np.zeros(1, np.float32))] * 3)
    text.save(stores / "tokenizer.model")
    return home


@pytest.fixture
def mixture(home, tokenizer, monkeypatch) -> Mixture:
    """The four stores with equal weights, at a context of 24 tokens."""
    monkeypatch.setenv("GATO_HOME", str(home))
    return Mixture(DataConfig({name: SourceConfig() for name in ("toy/walks", "toy/lever", "pictures", "words")}), tokenizer, 24, seed=3)


# -- figures ---------------------------------------------------------------------------------------


def test_episodes_timesteps_tokens_and_targets_are_counted(mixture):
    walks, lever, pictures, words = (s.tasks[0] for s in inspect(mixture, 100, 8).sources)
    assert (walks.episodes, walks.timesteps, walks.tokens, walks.targets, walks.sampled_timesteps) == (4, 12, 36, 12, None)
    assert (lever.episodes, lever.timesteps, lever.tokens, lever.targets) == (2, 6, 24, 12)  # angle, separator, two forces
    caption = len(mixture.tokenizer.text.encode(NASTY)) + 1
    assert (pictures.tokens, pictures.targets, pictures.sampled_timesteps) == (5 * (3 + caption), 5 * caption, 64)
    document = len(mixture.tokenizer.text.encode("go to the red ball")) + 1
    assert (words.episodes, words.tokens, words.targets, words.sampled_timesteps) == (3, 3 * document, 3 * document, None)


@pytest.mark.parametrize(
    ("name", "source", "patches", "numbers"),
    [
        ("toy/lever", {}, 0, 6 * (1 + 2)),
        ("toy/lever", {"return_token": True}, 0, 6 * (2 + 2)),
        ("toy/lever", {"memory": 1, "chunk": 3}, 0, 6 * (1 + 3 * 2)),
        ("pictures", {}, 5 * 2, 0),
        ("pictures", {"image_size": (32, 48)}, 5 * 6, 0),
    ],
)
def test_tokens_are_those_of_the_timesteps_that_are_trained(home, tokenizer, monkeypatch, name, source, patches, numbers):
    """With the return that is still to come, with three actions at a time, with pictures stretched."""
    monkeypatch.setenv("GATO_HOME", str(home))
    compact = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact")
    (task,) = inspect(Mixture(DataConfig({name: SourceConfig(**source)}), compact, 64, seed=0), 10, 8).sources[0].tasks
    found = [task.modalities.get(kind, 0) * task.tokens for kind in ("patch", "continuous")]
    assert found == pytest.approx([patches, numbers])


def test_kinds_of_tokens_behaviours_and_success_are_shares_and_counts(mixture):
    walks, lever, _, words = (s.tasks[0] for s in inspect(mixture, 100, 8).sources)
    assert walks.modalities == pytest.approx({"discrete": 2 / 3, "separator": 1 / 3})
    assert lever.modalities == {"continuous": 0.75, "separator": 0.25} and words.modalities == {"text": 1.0}
    assert walks.behaviours == {"noisy": 3, "expert": 1} and walks.success == 0.75 and lever.success is None


def test_returns_stand_beside_the_random_and_the_expert_one(mixture):
    lever = inspect(mixture, 100, 8).sources[1].tasks[0]
    assert lever.returns == {"mean": 1.5, "lowest": 0.0, "highest": 3.0}
    assert (lever.random_return, lever.expert_return) == (-3.0, 3.0)
    assert (lever.return_histogram.low, lever.return_histogram.high, sum(lever.return_histogram.counts)) == (-3.0, 3.0, 2)


def test_actions_have_histograms_and_odd_values_are_counted(mixture):
    walks, lever = (s.tasks[0] for s in inspect(mixture, 100, 8).sources[:2])
    assert (walks.actions["step"].low, walks.actions["step"].high, walks.actions["step"].counts) == (-0.5, 1.5, [8, 4])
    assert sum(lever.actions["force"].counts) == 12 and lever.actions["force"].counts[0] == lever.actions["force"].counts[-1] == 2
    assert (lever.out_of_bounds, lever.clipped, lever.actions_at_bounds, lever.scanned_timesteps) == (4, 2, 4, None)
    assert (lever.observation_values, lever.action_values, lever.clipped_actions, walks.clipped_actions) == (6, 12, 4, 0)


def test_a_sample_says_how_many_timesteps_it_read(mixture):
    """One chunk holds each of these stores, so a small limit still reads all of it, and says so."""
    lever = inspect(mixture, 100, 8, max_timesteps=4).sources[1].tasks[0]
    assert lever.scanned_timesteps == 6


def test_shares_epochs_and_padding_follow_from_the_rows(mixture):
    walks, lever, pictures, words = inspect(mixture, steps=10, batch_size=8).sources
    assert [s.share_of_rows for s in (walks, lever, pictures, words)] == [0.25] * 4
    assert sum(s.share_of_loss for s in (walks, lever, pictures, words)) == pytest.approx(1)
    assert words.padding == 0 and words.targets_per_row < 24  # the first token of a document has nothing before it
    assert words.epochs == pytest.approx(10 * 8 * 0.25 * 24 / words.tasks[0].tokens)
    assert lever.epochs == pytest.approx(20 * 6 / 6, rel=0.35)  # up to six timesteps a row, fewer behind a prompt
    assert walks.prompts == pytest.approx(0.25, abs=0.25)


def test_prompts_are_no_part_of_an_epoch(home, tokenizer, monkeypatch):
    """Three windows of a timestep, each behind a prompt of one, fill a row of 24 tokens: 80 rows show six timesteps 40 times."""
    monkeypatch.setenv("GATO_HOME", str(home))
    config = DataConfig({"toy/lever": SourceConfig(memory=1, prompt_steps=1)}, prompt_share=1.0)
    assert inspect(Mixture(config, tokenizer, 24, seed=0), steps=10, batch_size=8).sources[0].epochs == pytest.approx(40)


def test_a_loss_weight_changes_the_share_of_the_loss_only(home, tokenizer, monkeypatch):
    monkeypatch.setenv("GATO_HOME", str(home))
    config = DataConfig({"words": SourceConfig(loss_weight=0.0), "toy/walks": SourceConfig()})
    words, walks = inspect(Mixture(config, tokenizer, 24, seed=0), 10, 8).sources
    assert words.share_of_loss == 0 and walks.share_of_loss == 1 and words.share_of_rows == 0.5


def test_the_loss_of_a_source_is_shared_by_its_tasks_as_their_targets_are(tmp_path, tokenizer, walk, corridor):
    other = replace(corridor, name="toy/other")
    with StoreWriter(tmp_path / "both", [corridor, other]) as writer:
        writer.append(walk([0, 1, 1], [1, 0, 0]))
        writer.append(replace(walk([0], [1]), task=other))
    found = inspect(Mixture(DataConfig({"both": SourceConfig(store=str(tmp_path / "both"))}), tokenizer, 24, seed=0), 10, 8)
    assert [t.share_of_loss for t in found.sources[0].tasks] == [0.75, 0.25]


def test_what_does_not_take_part_is_said_and_not_counted(home, tokenizer, monkeypatch):
    monkeypatch.setenv("GATO_HOME", str(home))
    mixture = Mixture(DataConfig({"toy/walks": SourceConfig(behaviours=["noisy"])}), tokenizer, 24, seed=0)
    found = inspect(mixture, 10, 8)
    assert (found.sources[0].tasks[0].episodes, found.sources[0].tasks[0].timesteps, found.sources[0].left_out) == (3, 9, 1)
    assert found.sources[0].tasks[0].actions["step"].counts == [6, 3]
    assert "toy/walks: 1 episodes of the store do not take part" in found.findings[0]


def test_values_out_of_bounds_are_findings(mixture):
    findings = "\n".join(inspect(mixture, 100, 8).findings)
    assert "4 action values of 6 timesteps were clipped when they were recorded" in findings
    assert "4 observation values of 6 timesteps lie outside" in findings and "2 observation values of 6 timesteps are clipped" in findings


@pytest.mark.parametrize(("origin", "coarse"), [(None, True), ((1.34, 0.0, 7.0), False)])
def test_positions_far_from_zero_are_named_unless_they_have_an_origin(tmp_path, tokenizer, origin, coarse):
    """One value varies by a tenth around 1.34, where a bin is 0.027 wide; one around 0; one is 7 for ever and has nothing to lose."""
    place = FieldSpec("place", Modality.CONTINUOUS, "observation", (3,), "float64", origin=origin)
    task = TaskSpec("arm/reach", (place, FieldSpec("step", Modality.DISCRETE, "action", (), "int64", (0,), (1,))))
    sway = 0.1 * np.sin(np.arange(50))
    places = np.stack([1.34 + sway, sway, np.full(50, 7.0)], axis=1)
    write(tmp_path / "arm", [Episode(task, {"place": places}, {"step": np.zeros(50, np.int64)}, np.zeros(50, np.float32))])
    findings = inspect(Mixture(DataConfig({"arm": SourceConfig(store=str(tmp_path / "arm"))}), tokenizer, 24, seed=0), 10, 8).findings
    assert any("observation 'place': 1 of 3 values lie so far from zero (about 1.34)" in line for line in findings) == coarse


def test_every_value_of_a_histogram_is_in_a_bin():
    histogram = Histogram.empty(-1, 1, is_discrete=False)
    histogram.add(np.array([[-1.0, 1.0], [0.0, 0.99]]))
    assert sum(histogram.counts) == 4 and histogram.counts[-1] == 2


# -- pages -----------------------------------------------------------------------------------------


class Balance(HTMLParser):
    """Fails where a closing tag does not close the last opened one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs) -> None:
        pass


def assert_is_a_page(page: str) -> None:
    balance = Balance()
    balance.feed(page)
    assert balance.open == [] and "<script" not in page and not re.search(r"https?:|<link|@import|url\(", page)


def test_the_page_is_well_formed_and_holds_histograms_and_pictures(mixture, tmp_path):
    page = write_inspection(inspect(mixture, 100, 8), mixture, "own.yaml", tmp_path / "page.html").read_text()
    assert_is_a_page(page)
    assert page.count('<rect class="bin"') == 2 + 32 + 2 * 32  # two actions of the walks, the lever's force, two histograms of returns
    assert page.count("data:image/png") == 5 and "&lt;script&gt;a cat" in page


def test_the_page_of_a_row_draws_each_patch(mixture, tmp_path):
    row = mixture.row(0, 0, source=2)
    page = write_row(mixture, 0, 0, row, tmp_path / "row.html").read_text()
    assert_is_a_page(page)
    assert page.count("data:image/png") == len(row.tokens.patches) > 0
    grid = '<span class="picture" style="grid-template-columns: repeat(2, auto)">'  # of 16 x 32 pixels
    assert page.count(grid) == len(row.tokens.patches) // 2


# -- the very row ----------------------------------------------------------------------------------


def test_the_row_shown_is_the_one_that_training_got(mixture):
    """Every array of the loader's micro-batches, row by row, patches and their drawn positions included."""
    (micro_batches,) = mixture.loader(range(5, 6), 8, 4)
    shown = [mixture.row(5, r) for r in range(8)]
    for given, rows in zip(micro_batches, (shown[:4], shown[4:]), strict=True):
        mine = mixture.collate(rows).with_denominator(given.denominator)
        for f in fields(TokenBatch):
            a, b = getattr(mine, f.name), getattr(given, f.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, f.name


def test_a_row_as_text_names_its_parts_and_draws_its_tokens(mixture):
    row = mixture.row(0, 0, source=0)
    head, drawn = row_text(mixture, 0, 0, row).split("\n\n")
    assert head.startswith("update 0, row 0: source toy/walks") and f"episode {row.pieces[0].episode}" in head
    assert drawn == mixture.tokenizer.show(row.tokens)


# -- the verbs -------------------------------------------------------------------------------------


@pytest.fixture
def mixture_file(home, tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("GATO_HOME", str(home))
    path = tmp_path / "mix.yaml"
    path.write_text("sources: {toy/walks: {weight: 3}, words: {}}\nprompt_share: 0.5\n")
    return str(path)


def test_inspect_prints_a_table_json_and_a_page(mixture_file, tmp_path, capsys):
    assert main(["data", "inspect", mixture_file, "--context_length", "24", "--html", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert "toy/corridor  4" in printed and "75.0%" in printed and (tmp_path / "page.html").stat().st_size > 5000
    assert main(["data", "inspect", mixture_file, "--context_length", "24", "--steps", "7", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["steps"] == 7 and values["sources"][0]["tasks"][0]["tokens"] == 36


def test_show_prints_the_row_of_a_mixture_file(mixture_file, tokenizer, capsys):
    assert main(["data", "show", mixture_file, "--context_length", "24", "--seed", "5", "--step", "2", "--row", "1"]) == 0
    sources = {"toy/walks": SourceConfig(3), "words": SourceConfig()}
    mixture = Mixture(DataConfig(sources, prompt_share=0.5), tokenizer, 24, seed=5)
    assert capsys.readouterr().out == row_text(mixture, 2, 1, mixture.row(2, 1)) + "\n"


def test_a_recipe_and_a_run_bring_their_own_context_seed_and_steps(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GATO_HOME", str(home))
    path = tmp_path / "own.yaml"
    path.write_text("model: {context_length: 30}\ndata: {sources: {toy/walks: {}}}\ntrain: {steps: 5, batch_size: 6, seed: 9}\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(
        '{"model": {"context_length": 30}, "data": {"sources": {"toy/walks": {}}}, "train": {"steps": 5}}'
    )
    assert main(["data", "inspect", str(path), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {k: values[k] for k in ("context_length", "seed", "steps", "batch_size")} == dict(
        context_length=30, seed=9, steps=5, batch_size=6
    )
    assert main(["data", "inspect", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 5


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("sources: {toy/walks: {wieght: 1}}", "knows no key 'wieght'; did you mean 'weight'?"),
        ("sources: {toy/walks: {}}\nheldout: [a/b]", "there is no key 'data.heldout'; did you mean 'data.held_out'?"),
        ("sources: {toy/walks: {weight: -1}}", "'data.sources.toy/walks.weight' is -1, expected a number from 0"),
        ("sources: {toy/walks: {}}\nheld_out: [toy/*]", "source 'toy/walks' is held out by ['toy/*']"),
        ("sources: {toy/nowhere: {}}", "the folder does not exist"),
    ],
)
def test_a_mixture_file_without_sense_is_refused_in_one_line(home, tmp_path, monkeypatch, capsys, content, line):
    monkeypatch.setenv("GATO_HOME", str(home))
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    assert main(["data", "inspect", str(path)]) == 2
    printed = capsys.readouterr().err
    assert line in printed and printed.startswith("gato: ") and printed.count("\n") == 1


def test_figures_are_plain_json(mixture):
    json.dumps(asdict(inspect(mixture, 10, 8)))


def test_equal_documents_are_findings_on_the_page_and_in_json(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GATO_HOME", str(home))
    (tmp_path / "mix.yaml").write_text("sources:\n  words: {}\n")
    assert main(["data", "inspect", str(tmp_path / "mix.yaml"), "--json", "--html", str(tmp_path / "page.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["duplicates"] == [
        {"source": "words", "other": "words", "exact": 2, "near": 0, "compared": 3, "episodes": 3, "examples": [[0, 1]]}
    ]
    assert "words: episodes that repeat others of it: 2 equal in every value" in (tmp_path / "page.html").read_text()


def test_a_mixture_file_takes_batch_context_and_steps_of_the_recipe_that_is_named(home, mixture_file, tmp_path, capsys) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {context_length: 24}\ntrain: {steps: 9, batch_size: 6, seed: 4}\n")
    assert main(["data", "inspect", mixture_file, "--recipe", str(recipe), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[key] for key in ("context_length", "steps", "batch_size", "seed")] == [24, 9, 6, 4]
    assert main(["data", "inspect", mixture_file, "--recipe", str(recipe), "--batch_size", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == 3
    assert main(["data", "inspect", mixture_file, "--recipe", "dmo"]) == 2
    assert "did you mean 'demo'?" in capsys.readouterr().err


def test_rows_of_the_compact_layout_are_measured_in_positions_and_their_tokens_are_counted(home, tokenizer, monkeypatch):
    """A timestep of the lever has four tokens, angle, separator and two forces, on two positions."""
    monkeypatch.setenv("GATO_HOME", str(home))
    compact = EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, layout="compact")
    mixture = Mixture(DataConfig({"toy/lever": SourceConfig()}, prompt_share=0.0), compact, 4, seed=0)  # room for two timesteps
    (lever,) = inspect(mixture, 10, 8).sources
    assert (lever.tokens_per_row, lever.padding) == (8, 0)
    assert ", 4 of 4 positions, 4 targets\n" in row_text(mixture, 0, 0, mixture.row(0, 0))
