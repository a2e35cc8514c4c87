from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fastcifar.cli import main
from fastcifar.report.seeds import SeedsConsole
from fastcifar.runs.checkpoint import checkpoint_path
from fastcifar.runs.record import read_record

Capture = pytest.CaptureFixture[str]
SMALL = ["--model", "speed_cnn", "--widths", "8", "8", "8", "--batch-size", "50", "--epochs", "2", "--no-amp"]


def seeds(betons: Path, folder: Path, *more: str) -> list[str]:
    return ["seeds", "quick", *SMALL, "--data-dir", str(betons), "--device", "cpu", "--run-dir", str(folder), *more]


def accuracies(folder: Path) -> dict[int, float]:
    return {run["seed"]: run["accuracy"] for run in json.loads((folder / "seeds.json").read_text())["runs"]}


@pytest.fixture(scope="module")
def trained(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs from the seeds 3, 4 and 5."""
    folder = tmp_path_factory.mktemp("seeds") / "runs"
    assert main(seeds(betons, folder, "-n", "3", "--seed", "3")) == 0
    return folder


def test_each_seed_leaves_a_run_folder_and_its_accuracy(trained: Path) -> None:
    assert list(accuracies(trained)) == [3, 4, 5]
    for seed, accuracy in accuracies(trained).items():
        record = read_record(trained / f"seed-{seed:04d}")
        assert record.config.runtime.seed == seed
        assert record.last.final_accuracy == accuracy
        assert record.last.epoch == 2
    assert not list(trained.rglob("*.pt"))
    assert (trained / "accuracies.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_equals_that_of_train(trained: Path, betons: Path, tmp_path: Path) -> None:
    arguments = seeds(betons, tmp_path, "--seed", "5", "--no-report")
    assert main(["train", "--recipe", *arguments[1:]]) == 0
    ours, theirs = read_record(trained / "seed-0005"), read_record(tmp_path)
    assert [result.test_loss for result in ours.results] == [result.test_loss for result in theirs.results]
    assert [result.train_loss for result in ours.results] == [result.train_loss for result in theirs.results]


def test_more_runs_are_added_to_those_that_are_done(trained: Path, capsys: Capture) -> None:
    before = accuracies(trained)
    assert main(["seeds", "--resume", str(trained), "-n", "4", "--keep-checkpoints", "last"]) == 0
    output = capsys.readouterr().out
    assert "(3 runs) so far" in output
    assert "seed 6" in output
    assert "seed 5" not in output
    assert accuracies(trained).items() > before.items()
    assert list(accuracies(trained)) == [3, 4, 5, 6]
    assert [path.parent.parent.name for path in trained.rglob("*.pt")] == ["seed-0006"]


def test_nothing_is_trained_again(trained: Path, capsys: Capture) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("metrics.jsonl")}
    assert main(["seeds", "--resume", str(trained), "--runs", "3"]) == 0
    assert "accuracy " in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("metrics.jsonl")} == before


def test_other_settings_are_refused(trained: Path, capsys: Capture) -> None:
    assert main(["seeds", "--resume", str(trained), "--max-lr", "0.5"]) == 1
    assert "for --max-lr, not 0.5; continue them with" in capsys.readouterr().err


def test_a_precise_mean_ends_the_training(betons: Path, tmp_path: Path) -> None:
    assert main(seeds(betons, tmp_path / "runs", "-n", "9", "--until", "100", "--epochs", "0.25")) == 0
    assert len(accuracies(tmp_path / "runs")) == 5


def test_a_stopped_run_goes_on_where_it_stopped(
    trained: Path, betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    steps: list[int] = []

    def stop_in_the_second_run(self: SeedsConsole, seed: int, progress: Any) -> None:
        steps.append(seed)
        if steps.count(4) == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SeedsConsole, "step", stop_in_the_second_run)
    folder = tmp_path / "runs"
    assert main(seeds(betons, folder, "-n", "3", "--seed", "3")) == 130
    assert f"stopped after 1 of 3 runs; resume with `fastcifar seeds --resume {folder}`" in capsys.readouterr().err
    assert list(accuracies(folder)) == [3]
    assert checkpoint_path(folder / "seed-0004", "last").exists()
    steps.clear()
    assert main(["seeds", "--resume", str(folder)]) == 0
    assert steps.count(4) == 2, "of 8 steps"
    assert accuracies(folder) == {seed: accuracies(trained)[seed] for seed in (3, 4, 5)}
    assert not list(folder.rglob("*.pt"))


@pytest.mark.parametrize("kept", ["none", "last"])
def test_a_killed_run_begins_again(kept: str, trained: Path, betons: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    assert main(seeds(betons, folder, "-n", "2", "--seed", "3", "--keep-checkpoints", kept)) == 0
    metrics = folder / "seed-0004" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    assert main(["seeds", "--resume", str(folder)]) == 0
    assert accuracies(folder) == {seed: accuracies(trained)[seed] for seed in (3, 4)}


def test_the_error_of_a_run_names_its_seed(betons: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(seeds(betons, tmp_path / "runs", "--max-lr", "1e30", "--seed", "8")) == 1
    assert "fastcifar: seed 8: step " in capsys.readouterr().err


@pytest.mark.slow
def test_processes_side_by_side_train_the_same_runs(trained: Path, betons: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    assert main(seeds(betons, folder, "-n", "3", "--seed", "3", "--processes", "2")) == 0
    assert list(accuracies(folder)) == [3, 4, 5]
    assert accuracies(folder) == pytest.approx({seed: accuracies(trained)[seed] for seed in (3, 4, 5)}, abs=0.1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("-n", "0"), "runs is 0"),
        (("--processes", "0"), "processes is 0"),
        (("--until", "0"), "until is 0"),
    ],
)
def test_options_that_are_not_allowed_are_one_error(
    betons: Path, tmp_path: Path, capsys: Capture, more: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(seeds(betons, tmp_path / "runs", *more))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_has_other_files_is_refused(betons: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(seeds(betons, betons)) == 1
    assert "is not empty; choose another --run-dir" in capsys.readouterr().err
    assert main(["seeds", "--resume", str(tmp_path)]) == 1
    assert "has no seeds.json" in capsys.readouterr().err
