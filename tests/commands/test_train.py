from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from fastcifar.cli import main
from fastcifar.report.console import TrainingConsole
from fastcifar.runs.checkpoint import checkpoint_path, read_checkpoint
from fastcifar.runs.read import read_config, read_metrics
from tests.helpers import write_pair

Capture = pytest.CaptureFixture[str]


def _train(betons: Path, run: Path, *more: str) -> list[str]:
    given = ["--model", "dilated_cnn", "--device", "cpu", "--batch-size", "50", "--epochs", "2", "--no-report"]
    return ["train", "--data-dir", str(betons), "--run-dir", str(run), *given, *more]


def _files(folder: Path) -> dict[str, float]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def run(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with its own copy of the data beside it."""
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(betons, folder / "betons")
    assert main(_train(folder / "betons", folder / "run", "--target-accuracy", "0.0001")) == 0
    return folder / "run"


@pytest.fixture
def moved(run: Path, tmp_path: Path) -> Path:
    """A copy of that run whose data are in another place, `elsewhere` beside it."""
    shutil.copytree(run, tmp_path / "run")
    shutil.move(run.parent / "betons", tmp_path / "elsewhere")
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _put_data_back(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    yield
    if (tmp_path / "elsewhere").exists():
        shutil.move(tmp_path / "elsewhere", request.getfixturevalue("run").parent / "betons")


def _stop_at_step(step: int, *numbers: signal.Signals) -> Any:
    """Return a replacement of `TrainingConsole.step` that sends signals to this process at the given step."""
    steps = []

    def report(self: TrainingConsole, progress: object) -> None:
        steps.append(progress)
        if len(steps) == step:
            for number in numbers:
                os.kill(os.getpid(), number)

    return report


def test_auto_resume_starts_a_run_and_goes_on_with_it(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    run = tmp_path / "run"
    command = _train(betons, run, "--auto-resume", "--scale-batch", "--min-lr", "0.001")
    monkeypatch.setattr(TrainingConsole, "step", _stop_at_step(6, signal.SIGTERM))
    assert main(command) == 143
    assert len(read_metrics(run)) == 1
    for _ in range(2):
        capsys.readouterr()
        assert main(command) == 0
        assert [result.epoch for result in read_metrics(run)] == [1, 2]
    assert "nothing is left to train" in capsys.readouterr().out
    assert main([*command, "--epochs", "3"]) == 1
    assert "the run was started with 2.0 for --epochs, not 3.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--auto-resume"], "auto_resume is True; it needs a run_dir"),
        (["--auto-resume", "--resume", "{run}"], "auto_resume is True; it cannot be combined with resume"),
    ],
)
def test_auto_resume_needs_the_folder_of_the_run(run: Path, capsys: Capture, flags: list[str], error: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", *(flag.format(run=run) for flag in flags)])
    assert error in capsys.readouterr().err


REQUEUE = ("--requeue-exit-code", "85")


@pytest.mark.parametrize(
    ("number", "more", "code"),
    [
        (signal.SIGUSR1, (), 138),
        (signal.SIGUSR2, (), 140),
        (signal.SIGXCPU, (), 152),
        (signal.SIGXCPU, REQUEUE, 85),
        (signal.SIGTERM, REQUEUE, 85),
        (signal.SIGINT, REQUEUE, 130),
    ],
)
def test_a_signal_stops_a_run_with_a_checkpoint_and_perhaps_the_code_for_a_requeue(
    betons: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    number: signal.Signals,
    more: tuple[str, ...],
    code: int,
) -> None:
    monkeypatch.setattr(TrainingConsole, "step", _stop_at_step(2, number))
    assert main(_train(betons, tmp_path, *more)) == code
    assert read_checkpoint(checkpoint_path(tmp_path, "last"))["progress"]["step"] == 2
    resume = f"stopped after epoch 0 and 2 steps; resume with `fastcifar train --resume {tmp_path}`"
    assert resume in capsys.readouterr().err


def test_signals_after_the_first_one_do_not_cost_the_checkpoint(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = (signal.SIGUSR1, signal.SIGTERM, signal.SIGXCPU, signal.SIGXCPU)
    monkeypatch.setattr(TrainingConsole, "step", _stop_at_step(1, *again))
    assert main(_train(betons, tmp_path)) == 128 + signal.SIGUSR1
    assert checkpoint_path(tmp_path, "last").exists()


@pytest.mark.parametrize("code", ["0", "256", "-1"])
def test_the_exit_code_for_a_requeue_must_be_an_error_of_a_shell(
    betons: Path, tmp_path: Path, capsys: Capture, code: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(_train(betons, tmp_path, "--requeue-exit-code", code))
    assert stopped.value.code == 2
    assert "requeue_exit_code is" in capsys.readouterr().err


def test_a_run_that_met_its_target_is_not_trained_further(run: Path, capsys: Capture) -> None:
    before = _files(run)
    assert main(["train", "--resume", str(run), "--no-report"]) == 0
    assert "The run met its target of 0.01 % in epoch 1: nothing is left to train" in capsys.readouterr().out
    assert _files(run) == before


def test_a_run_whose_epochs_are_done_is_not_trained_further(betons: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(_train(betons, tmp_path, "--epochs", "1")) == 0
    before = _files(tmp_path)
    assert main(["train", "--resume", str(tmp_path), "--no-report"]) == 0
    assert "All epochs are done: nothing is left to train" in capsys.readouterr().out
    assert _files(tmp_path) == before


def test_a_resumed_run_without_its_data_names_their_folder_and_writes_nothing(
    moved: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("FASTCIFAR_DATA", str(moved.parent))
    before = _files(moved.parent)
    assert main(["train", "--resume", str(moved), "--target-accuracy", "None"]) == 1
    expected = f"{moved}: its data is not there: {run.parent / 'betons'} has no train.beton or no test.beton; name the"
    assert expected in capsys.readouterr().err
    assert not (run.parent / "betons").exists()
    assert _files(moved.parent) == before


@pytest.mark.parametrize("flag", ["--betons", "--data-dir"])
def test_a_run_is_resumed_with_data_in_another_place(moved: Path, flag: str) -> None:
    elsewhere = moved.parent / "elsewhere"
    more = ["--target-accuracy", "None", "--no-report"]
    assert main(["train", "--resume", str(moved), flag, str(elsewhere), *more]) == 0
    assert [result.epoch for result in read_metrics(moved)] == [1, 2]
    assert read_config(moved).data.data_dir == elsewhere


def test_a_run_is_not_resumed_with_other_data(moved: Path, capsys: Capture) -> None:
    other = write_pair(moved.parent / "other", train=200, test=90, seed=1)
    assert main(["train", "--resume", str(moved), "--betons", str(other), "--target-accuracy", "None"]) == 1
    assert f"was trained on other data than that in {other}; name the folder" in capsys.readouterr().err


def test_a_launcher_that_sets_only_the_number_of_processes_is_refused(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(_train(betons, tmp_path / "run")) == 2
    assert "are not set: start with torchrun" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_start_leaves_no_folder(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data-dir", str(betons), "--batch-size", "5000", "--device", "cpu"]) == 2
    assert main(["train", "--data-dir", "none/betons", "--source", "/nowhere", "--device", "cpu"]) == 1
    assert not list((tmp_path / "runs").iterdir())
    assert not (tmp_path / "none").exists()
