"""Several runs on one page, from small files written here."""

import json

from gato.cli import main


def write_run(folder, losses, **rest):
    folder.mkdir(parents=True)
    lines = [
        {"step": i + 1, "loss": loss, "loss_by_source": {"corridor": loss}, "tokens": 100 * (i + 1), "seconds": 2.0 * (i + 1)} | rest
        for i, loss in enumerate(losses)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_two_runs_have_a_line_each_in_every_chart_and_a_row_in_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = write_run(tmp_path / "a", [4.0, 2.0]), write_run(tmp_path / "<b>", [4.0, 3.0, 1.0], skipped=1)
    assert main(["plot", a, b]) == 0
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("<figure") == 2 and page.count('<polyline class="smooth"') == 4
    assert "&lt;b&gt;" in page and "<b>/" not in page
    assert "<td>2</td><td>200</td><td>4</td><td>50</td><td>0</td><td>2.0000</td>" in page
    assert "<td>3</td><td>300</td><td>6</td><td>50</td><td>1</td><td>1.0000</td>" in page


def test_a_run_without_updates_or_named_twice_is_refused(tmp_path, capsys):
    a = write_run(tmp_path / "a", [4.0])
    assert main(["plot", a, str(tmp_path / "nothing")]) == 2
    assert "has no update in its metrics.jsonl" in capsys.readouterr().err
    assert main(["plot", a, a]) == 2
    assert "is named twice" in capsys.readouterr().err


def test_runs_that_act_have_charts_of_return_and_success(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = write_run(tmp_path / "a", [4.0, 2.0], episode_return=-5.0, frames=8), write_run(tmp_path / "b", [4.0], episode_return=0.0)
    assert main(["plot", a, b]) == 0
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("<figure") == 3 and "<span>return</span>" in page and "<span>success</span>" not in page
    assert main(["plot", a]) == 0
    assert "8 frames in all" in (tmp_path / "a/report.html").read_text()
