"""The HTML report of a run, from small files written here."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gato.eval.report.chart import curve, interval_bar, score_axis, smoothed
from gato.eval.report.page import write_report

PICTURE = base64.b64encode(b"not looked into").decode()
NASTY = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta", "img", "line", "rect", "polyline", "polygon"}


def score_row(**rest: Any) -> dict[str, Any]:
    row = {
        "task": "toy/corridor", "ablation": None, "episodes": 50, "failed": 0, "random": 0.5, "expert": 1.0, "mean": 0.875,
        "low": 0.8125, "high": 0.9375, "score": 75.0, "score_low": 62.5, "score_high": 87.5, "success": 0.88, "length": 4.0, "seconds": 1.0,
    }  # fmt: skip
    return row | rest


def evaluation(**rest: Any) -> dict[str, Any]:
    found = {"accuracy": 0.432, "low": 0.365, "high": 0.501}
    example = {"title": "a red ball", "caption": "a blue box", "image": PICTURE}
    results = {
        "checkpoint": "runs/small/final", "seed": 0, "episodes": 50, "seconds": 7.5, "tasks": [score_row()],
        "captions": [{"split": "unseen_picture", "pictures": 200, "retrieval": found, "shuffled": found | {"accuracy": 0.107},
                      "chance": 0.1, "examples": [example]}],
        "text": [{"prompt": "Once", "continuation": " upon a time"}], "films": {"toy/corridor": PICTURE},
    }  # fmt: skip
    return results | rest


def write_run(folder: Path, results: dict[str, Any] | None = None, **train: Any) -> Path:
    (folder / "final").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"model": {"width": 128}, "train": {"name": "small"} | train}))
    lines = [
        {"step": step, "loss": 8 / step, "loss_by_source": {"toy/corridor": 4 / step} | ({"text/train": 2.0} if step % 2 else {}),
         "tokens": 1000 * step, "targets": 100 * step, "seconds": 0.5 * step, "padding_share": 0.25}
        for step in range(1, 201)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if results is not None:
        (folder / "final" / "eval.json").write_text(json.dumps(results))
    return folder


def page_of(run: Path) -> str:
    return write_report(run, run / "report.html").read_text()


class Balance(HTMLParser):
    """Fails where a closing tag does not close the last opened one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_replaces_an_older_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation())
    (run / "report.html").write_text("old")
    balance = Balance()
    balance.feed(page_of(run))
    assert balance.open == []
    assert sorted(p.name for p in run.iterdir()) == ["final", "metrics.jsonl", "report.html", "run.json"]


def test_the_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", evaluation()))
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|url\(", page)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 2 and all(s == f"data:image/png;base64,{PICTURE}" for s in sources)


def test_numbers_on_the_page_are_those_of_the_evaluation(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", evaluation()))
    control = ["0.500", "1.000", "0.875", "[0.812, 0.938]", "<b>75.0</b>", "[62.5, 87.5]", "88 %"]
    captions = ["43.2 %", "[36.5, 50.1]", "10.7 %", "chance is 10 %"]
    assert [shown for shown in control + captions if shown not in page] == []


def test_the_headline_counts_parameters_tokens_and_time(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation())
    tensors = {"a": torch.zeros(1000, 64), "b": torch.zeros(7), "scalar": torch.zeros(())}
    save_file(tensors, run / "final" / "model.safetensors")
    page = page_of(run)
    assert "64,008" in page and "200,000" in page and "1 min 40 s" in page and "1 of 1" in page
    assert "25.0 % of the places were padding" in page and "2,000 tokens a second" in page


def test_text_from_data_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    results = evaluation(
        tasks=[score_row(task=NASTY), score_row(ablation=NASTY)], text=[{"prompt": NASTY, "continuation": NASTY}], films={NASTY: '"><i>'},
        captions=[evaluation()["captions"][0] | {"split": NASTY, "examples": [{"title": NASTY, "caption": NASTY, "image": '"><i>'}]}],
    )  # fmt: skip
    run = write_run(tmp_path / "run", results, name=NASTY)
    line = {"step": 201, "loss": 1.0, "loss_by_source": {NASTY: 1.0}, "tokens": 1, "targets": 1, "seconds": 1}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    page = page_of(run)
    assert "<script" not in page and "<i>" not in page and "&lt;script&gt;" in page


def test_negative_and_unknown_numbers(tmp_path: Path) -> None:
    rows = [
        score_row(random=-1223.4, expert=-158.2, mean=-1450.7, low=-1520.0, high=-1380.0, score=-21.3, score_low=-27.8, score_high=-14.7),
        score_row(task="toy/unknown", random=None, expert=None, score=None, score_low=None, score_high=None, success=None),
        score_row(task="toy/single", low=float("nan"), high=float("nan"), score_low=float("nan"), score_high=float("nan")),
    ]
    page = page_of(write_run(tmp_path / "run", evaluation(tasks=rows)))
    assert "\u22121,451" in page and "\u221221.3" in page and "undefined" in page
    assert "nan" not in page and "None" not in page


def test_failed_episodes_are_named(tmp_path: Path) -> None:
    assert "3 of 50 episodes failed" in page_of(write_run(tmp_path / "run", evaluation(tasks=[score_row(failed=3)])))


def test_notes_errors_and_the_paired_comparison_are_on_the_page(tmp_path: Path) -> None:
    deadlines = {"rate": 20.0, "steps": 400, "missed": 3, "worst_lateness": 0.012, "p50": 0.01, "p99": 0.04}
    row = score_row(first_failure=None, out_of_bounds=7, deadlines=deadlines, published={}, unscored=None)
    pair = {
        "task": "toy/corridor",
        "pairs": 50,
        "difference": 0.25,
        "low": 0.125,
        "high": 0.375,
        "score": 50,
        "score_low": 25,
        "score_high": 75,
    }
    results = evaluation(
        tasks=[row], errors=[{"task": NASTY, "error": NASTY}], against={"checkpoint": "runs/other", "tasks": [pair]},
    )  # fmt: skip
    page = page_of(write_run(tmp_path / "run", results))
    assert "3 of 400 deadlines missed; the worst by 12.0 ms" in page and "7 observed values lay outside" in page
    assert "This model minus runs/other" in page and "0.250" in page and "<script" not in page


@pytest.mark.parametrize(("part", "title"), [("tasks", "Control"), ("films", "Episodes"), ("captions", "Captions"), ("text", "Text")])
def test_a_section_without_content_is_left_out(tmp_path: Path, part: str, title: str) -> None:
    results = evaluation()
    assert f"<h2>{title}</h2>" in page_of(write_run(tmp_path / "whole", results))
    del results[part]
    assert f"<h2>{title}</h2>" not in page_of(write_run(tmp_path / "run", results))


def test_a_run_without_evaluation_or_metrics_still_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert "not yet evaluated" in page_of(run)
    (run / "metrics.jsonl").unlink()
    assert "<h2>Training</h2>" not in page_of(run)
    (run / "run.json").unlink()
    (run / "final" / "eval.json").write_text(json.dumps({"tasks": [score_row()]}))
    assert "<h2>Settings</h2>" not in page_of(run) and "<h2>Control</h2>" in page_of(run)


@pytest.mark.parametrize(("trained_on", "words"), [(True, "pictures it was trained on"), (False, "held-out pictures"), (None, None)])
def test_pictures_are_called_held_out_only_where_the_training_did_not_have_them(tmp_path: Path, trained_on, words) -> None:
    results = evaluation()
    results["captions"][0]["trained_on"] = trained_on
    page = page_of(write_run(tmp_path / "run", results)).lower()
    assert (words in page) if words else ("held-out" not in page)
    assert (trained_on is False) == ("held-out" in page)


def test_bits_per_byte_and_wording_are_on_the_page(tmp_path: Path) -> None:
    results = evaluation()
    del results["text"]
    results["bits_per_byte"] = [
        {"store": "stores/text/test", "documents": 12, "bytes": 3400, "bits_per_byte": {"mean": 2.345, "low": 2.3, "high": 2.4}}
    ]
    results["captions"][0]["wording"] = {"the model": {"CIDEr-D": {"mean": 0.123, "low": 0.1, "high": None}}}
    page = page_of(write_run(tmp_path / "run", results))
    assert "<h2>Text</h2>" in page and "2.345" in page and "12" in page and "CIDEr-D 0.123" in page
    assert "continues text" in page


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        write_report(tmp_path, tmp_path / "report.html")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "final" / "eval.json").write_text("{")
    with pytest.raises(ValueError, match=r"eval\.json.*no JSON"):
        page_of(run)


def test_losses_that_are_not_finite_are_left_out_and_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 201, "loss": NaN, "loss_by_source": {"toy/corridor": Infinity}, "tokens": 1, "targets": 1, "seconds": 1}\n')
    assert "2 losses were not finite" in page_of(run)


def test_a_bar_reaches_from_zero_to_its_value() -> None:
    bar = interval_bar(60, 50, 70, (0, 100), (), "score")
    assert '<rect class="bar" x="0.0%" width="60.0%"' in bar and 'x1="50.0%" x2="70.0%"' in bar and "beyond" not in bar
    below = interval_bar(-20, None, None, (-100, 100), (), "score")
    assert 'x="40.0%" width="10.0%"' in below and "whisker" not in below


def test_a_value_beyond_the_axis_gets_an_arrow() -> None:
    assert score_axis([20, 99]) == (-4, 104)
    assert score_axis([-900, 130]) == (-50, 130)
    assert "beyond" in interval_bar(-900, -950, -850, (-50, 130), (0, 100), "score")


def test_smoothing_keeps_the_length_and_a_constant() -> None:
    assert smoothed([1, 4, 1, 4, 1], 1) == [1, 2, 3, 2, 2.5]
    assert smoothed([2.0] * 7, 3) == [2.0] * 7


def test_a_curve_of_one_point_of_zero_loss_can_be_drawn() -> None:
    assert "polyline" in curve([1], [0.0], 1, "loss")


def test_a_long_curve_is_thinned() -> None:
    drawn = curve(range(1, 100_001), [1.0] * 100_000, 100_000, "loss")
    assert len(drawn) < 20_000
