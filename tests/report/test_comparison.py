from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fastcifar.cli import main
from fastcifar.report.comparison import comparison_figures, write_comparison
from fastcifar.runs.record import read_record
from tests.report.pages import HOSTILE, Page

Capture = pytest.CaptureFixture[str]


def test_runs_are_compared(run: Path, other: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["report", str(run), str(other), "--out", str(tmp_path / "both")]) == 0
    path = tmp_path / "both" / "report.html"
    assert capsys.readouterr().out == f"Report: {path}\n"
    shown = Page(path.read_text())
    assert len(shown.all("figure")) == 4
    assert "highest accuracy after the last epoch: other, 95.12 %" in shown.text
    for text in ("max_lr", "0.0123", "0.00534", "95.12 % (epoch 2)"):
        assert text in shown.text
    assert "pct_start" not in shown.text
    assert "run_dir" not in shown.text
    assert any("other" in str(image["alt"]) and "95.12" in str(image["alt"]) for image in shown.all("img"))


def test_a_comparison_is_saved_beside_the_first_run_and_keeps_runs_of_one_name_apart(
    other: Path, capsys: Capture
) -> None:
    assert main(["report", str(other), str(other)]) == 0
    path = other.parent / "runs-report" / "report.html"
    assert str(path) in capsys.readouterr().out
    shown = Page(path.read_text())
    assert f"1: {other}" in shown.text
    assert f"2: {other}" in shown.text
    assert "None: settings, device and versions are the same." in shown.text


def test_what_is_no_run_is_named_and_passed_over(run: Path, other: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report", "checkpoints"))
    (tmp_path / "lr-find").mkdir()
    (tmp_path / "lr-find" / "lr_finder.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("a file")
    for passed_over in (["lr-find", "notes.txt"], ["lr-find", "notes.txt", "runs-report"]):
        folders = sorted(path for path in tmp_path.iterdir())
        assert main(["report", *map(str, folders)]) == 0
        captured = capsys.readouterr()
        assert captured.out == f"Report: {tmp_path / 'runs-report' / 'report.html'}\n"
        notes = [line for line in captured.err.splitlines() if line.startswith("passed over")]
        assert [line.split(": ")[0] for line in notes] == [f"passed over {tmp_path / name}" for name in passed_over]
        assert "Comparison of 2 runs" in (tmp_path / "runs-report" / "report.html").read_text()
    assert main(["report", str(tmp_path / "lr-find"), str(tmp_path / "notes.txt")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("fastcifar: none of these 2 folders is a run folder")


def test_a_partial_last_epoch_is_plotted_where_it_ends(run: Path) -> None:
    record = read_record(run)
    partial = replace(record, config=record.config.replace(epochs=1.5))
    (accuracy, *_) = comparison_figures({"whole": record, "partial": partial})
    whole, part = accuracy.draw().axes[0].lines
    assert whole.get_xdata().tolist() == [1, 2]
    assert part.get_xdata().tolist() == [1, 1.5]
    assert whole.get_ydata().tolist() == [100 * result.test_accuracy for result in record.results]


def test_hostile_folder_names_are_escaped_and_invalid_unicode_is_shown(run: Path, tmp_path: Path) -> None:
    folders = [tmp_path / HOSTILE.replace("/", ""), tmp_path / "caf\udce9"]
    for folder in folders:
        shutil.copytree(run, folder, ignore=shutil.ignore_patterns("report", "elsewhere", "checkpoints"))
    text = write_comparison(folders, out=tmp_path / "out").read_text()
    assert HOSTILE.replace("/", "") not in text
    assert HOSTILE.replace("/", "") in Page(text).text
    assert "caf?" in text
