from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastcifar import TrainConfig, fit
from fastcifar.cli import main
from fastcifar.errors import FastCifarWarning
from fastcifar.inference.evaluate import evaluate_checkpoint
from tests.helpers import write_pair

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run whose data have been moved from `data` beside it, a relative path, to `moved`."""
    folder = tmp_path_factory.mktemp("moved")
    write_pair(folder / "data", train=60, test=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = TrainConfig().replace(data_dir="data", model="dilated_cnn", batch_size=20, epochs=1, device="cpu")
        fit(config.replace(run_dir=folder / "run"))
        shutil.move("data", "moved")
        yield folder / "run"


def _error(capsys: Capture) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_command_that_needs_the_data_names_their_absolute_path_and_the_flag(
    run: Path, capsys: Capture, command: str
) -> None:
    assert main([command, str(run)]) == 1
    line = _error(capsys)
    assert f"{run / 'checkpoints' / 'last.pt'}: its data is not there: {run.parent / 'data'} has no test.beton" in line
    assert "name the folder of its .beton files with --data-dir" in line
    assert ("--no-check" in line) is (command == "export")
    assert not (run.parent / "data").exists()


def test_each_command_takes_the_folder_of_the_data(run: Path, tmp_path: Path, capsys: Capture) -> None:
    flag, moved, out = "--betons", str(run.parent / "moved"), str(tmp_path)
    assert main(["evaluate", str(run), flag, moved, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 20
    assert main(["export", str(run), f"{flag}={moved}", "--format", "safetensors", "--out", out]) == 0
    assert "on 20 test images the same predictions" in capsys.readouterr().out
    assert main(["report", str(run), flag, moved, "--out", out, "--top", "1"]) == 0
    assert (tmp_path / "confusion.png").exists()
    assert capsys.readouterr().err == ""


def test_an_export_without_the_check_needs_no_data_and_says_so(run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", str(run), "--format", "safetensors", "--no-check", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(" MB; not checked\n")
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}


def test_a_report_without_data_has_the_curves_and_names_what_is_left_out(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [])  # warnings are shown, not raised
        assert main(["report", str(run), "--out", str(tmp_path)]) == 0
    left_out = "the report leaves out the augmented images and the results on the test set"
    assert f"{run}: its data is not in {run.parent / 'data'}: {left_out}" in _error(capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"accuracy.png", "loss.png", "schedule.png", "report.html"}
    assert "Left out, since the test set was not there" in (tmp_path / "report.html").read_text()
    assert main(["report", str(run), "--out", str(tmp_path), "--betons", "nowhere"]) == 1
    assert f"{run}: its data is not there" in _error(capsys)


@pytest.mark.parametrize("files", [("train.beton", "test.beton"), ("test.beton",)])
def test_an_evaluation_on_other_data_of_the_same_classes_gives_a_warning(
    run: Path, tmp_path: Path, files: tuple[str, ...]
) -> None:
    write_pair(tmp_path / "pair", train=60, test=20, seed=1)
    other = tmp_path / "other"
    other.mkdir()
    for name in files:
        for suffix in ("", ".json"):
            shutil.copy(tmp_path / "pair" / f"{name}{suffix}", other)
    if len(files) == 1:
        evaluate_checkpoint(run, device="cpu", data_dir=other)  # the training set is not known
        return
    with pytest.warns(FastCifarWarning, match=f"was trained on other data than that in {other}"):
        assert evaluate_checkpoint(run, device="cpu", data_dir=other).samples == 20
