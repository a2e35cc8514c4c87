from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastcifar import EpochResult, TrainConfig
from fastcifar.cli import main
from fastcifar.commands.sweep import given_flags, sweep_default
from fastcifar.runs.listing import list_runs
from fastcifar.sweep import engine_ray
from fastcifar.sweep import trial as trial_module
from fastcifar.sweep.folder import SweepFolder, read_sweep, write_outcome
from fastcifar.sweep.plan import Resources
from fastcifar.sweep.schedule import Schedule
from fastcifar.sweep.table import configuration_rows, read_trials
from fastcifar.training.signals import stop_on_signals

Capture = pytest.CaptureFixture[str]
SMALL = ["--widths", "8", "8", "8", "--epochs", "2", "--no-amp", "--loader", "memmap", "--device", "cpu"]


def sweep(betons: Path, folder: Path, *more: str) -> list[str]:
    return ["sweep", "--recipe", "speedrun", *SMALL, "--data-dir", str(betons), "--run-dir", str(folder), *more]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--search", "max_rl=choice(1)"], 2, "no setting 'max_rl' to search: did you mean max_lr?"),
        (["--search", "max_lr=choice(0)"], 2, "max_lr is 0; it must be positive"),
        (["--search", "max_lr=uniform(0.1, 1)", "--method", "grid"], 2, "a grid has no end with max_lr"),
        (["--space", "no.toml"], 2, "no.toml: this search space cannot be read"),
        (["--val-fraction", "0.2", "--on-test-set"], 2, "val_fraction is 0.2; it must be 0 with --on-test-set"),
        (["--cpus-per-trial", "0"], 2, "cpus_per_trial is 0.0; it must be positive"),
    ],
)
def test_bad_input_is_one_error(
    arguments: list[str], code: int, message: str, betons: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(sweep(betons, tmp_path / "sweep", *arguments)) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_to_resume_must_exist(tmp_path: Path, capsys: Capture) -> None:
    assert main(["sweep", "--resume", str(tmp_path)]) == 1
    assert "is not a folder of `fastcifar sweep`, since it has no sweep.json" in capsys.readouterr().err


def test_without_ray(betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "fastcifar.sweep.engine_ray", raising=False)
    assert main(sweep(betons, tmp_path / "sweep")) == 2
    error = capsys.readouterr().err
    assert "a sweep needs a package that is not installed" in error
    assert "pip install 'fastcifar[sweep]'" in error
    assert not (tmp_path / "sweep").exists()


def test_flags_apply_to_all_recipes() -> None:
    assert given_flags(["--no-amp", "--max-lr=0.1", "--batch-size", "5", "--no-report"]) == (
        "amp", "max_lr", "batch_size", "report",
    )  # fmt: skip
    command = sweep_default(["--recipe", "era", "quick", "--no-amp"])
    assert command.config.name == "era"
    assert command.given == ("recipe", "amp")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that train in this process, one after the other, instead of in Ray's."""

    def run_trials(folder: SweepFolder, resources: Resources, listener: engine_ray.Listener) -> None:
        schedule = Schedule(folder)
        with stop_on_signals() as stop:
            while (trial := schedule.next()) is not None:
                listener.started(trial)
                for result in trial_module.train_trial(schedule.config(trial), "none"):
                    listener.epoch(trial, result.epoch, result.test_accuracy)
                    stop.check()
                schedule.end(trial)
                listener.ended(folder.result(trial))

    monkeypatch.setattr(engine_ray, "run_trials", run_trials)


@pytest.mark.usefixtures("engine")
def test_recipes_settings_and_seeds_are_compared(betons: Path, tmp_path: Path, capsys: Capture) -> None:
    folder, mine = tmp_path / "sweep", tmp_path / "mine.toml"
    mine.write_text('extends = "speedrun"\nmax_lr = 0.1\nepochs = 9\n')
    search = ["--search", "batch_size=choice(40, 50)", "--seeds", "2", "--seed", "3", "--recipe", "speedrun", str(mine)]
    assert main([*sweep(betons, folder), *search]) == 0
    output = capsys.readouterr().out
    assert "compared   on the validation split" in output
    assert output.count("mine.toml batch_size=40") == 2
    rows, _ = list_runs([folder / "trials"])
    assert sorted((row["recipe"], row["batch_size"], row["seed"]) for row in rows) == [
        (recipe, size, seed) for recipe in ("mine.toml", "speedrun") for size in (40, 50) for seed in (3, 4)
    ]
    assert {(row["epochs"], row["val_fraction"], row["status"]) for row in rows} == {(2, 0.1, "finished")}
    assert {row["max_lr"] for row in rows if row["recipe"] == "mine.toml"} == {0.1}

    table = (folder / "table.csv").read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")}
    (folder / "table.csv").unlink()
    assert main(["sweep", "--resume", str(folder)]) == 0
    assert "8 runs done so far" in capsys.readouterr().out
    assert (folder / "table.csv").read_text() == table
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")} == before, (
        "nothing is trained again"
    )
    assert main(["train", "--recipe", str(folder / "best.toml"), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["val_fraction"] == 0

    assert main(["sweep", "--resume", str(folder), "--max-lr", "0.3", "--seeds", "3"]) == 2
    assert "--max-lr, --seeds cannot be combined with --resume" in capsys.readouterr().err
    assert main(sweep(betons, folder)) == 1
    assert "already has a sweep; continue it with `fastcifar sweep --resume" in capsys.readouterr().err


@pytest.mark.usefixtures("engine")
def test_a_stopped_sweep_says_how_to_go_on(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    folder, epochs = tmp_path / "sweep", []

    def stop_in_the_second_run(*progress: object) -> None:
        epochs.append(progress)
        if len(epochs) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("fastcifar.report.sweep.SweepConsole.epoch", stop_in_the_second_run)
    search = ["--search", "max_lr=loguniform(0.1, 0.4)", "--trials", "2", "--batch-size", "50", "--on-test-set"]
    assert main([*sweep(betons, folder), *search]) == 128 + signal.SIGTERM
    assert f"stopped; runs done so far: 1; resume with `fastcifar sweep --resume {folder}`" in capsys.readouterr().err
    assert main(["sweep", "--resume", str(folder), "--trials", "3"]) == 0
    assert "Accuracies on the test set" in capsys.readouterr().out
    assert len(read_sweep(folder).configurations) == 3


@pytest.mark.usefixtures("engine")
def test_if_all_runs_failed_the_sweep_has(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(config: TrainConfig, keep_checkpoints: str) -> Iterator[EpochResult]:
        assert config.run_dir is not None
        write_outcome(config.run_dir, "failed", "the loss is not finite")
        return iter(())

    monkeypatch.setattr("fastcifar.sweep.trial.train_trial", fail)
    assert main([*sweep(betons, tmp_path / "sweep"), "--search", "max_lr=choice(0.1)", "--batch-size", "50"]) == 1
    output = capsys.readouterr().out
    assert "0000-seed-0 failed: the loss is not finite" in output
    assert "best.toml" not in output


@pytest.fixture
def no_ray_left() -> Iterator[None]:
    """Check that the processes of Ray have ended with the sweeps that started them."""
    before = _ray_processes()
    yield
    end = time.monotonic() + 20
    while (left := _ray_processes() - before) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left


def _ray_processes() -> set[int]:
    found = subprocess.run(
        ["pgrep", "-f", "ray/core/src|default_worker.py"], capture_output=True, text=True, check=False
    )
    return {int(pid) for pid in found.stdout.split()}


@pytest.mark.slow
@pytest.mark.usefixtures("no_ray_left")
def test_a_sweep_whose_driver_is_killed_goes_on(betons: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    search = ["--search", "max_lr=choice(0.1, 0.2, 0.3, 0.4)", "batch_size=choice(40, 60)", "--seeds", "3"]
    command = [sys.executable, "-m", "fastcifar"]
    with subprocess.Popen(
        [*command, *sweep(betons, folder, "--epochs", "1"), *search], stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdout is not None
        for _ in range(4 + 12):  # the header and half of the runs
            assert driver.stdout.readline()
        driver.kill()
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl") if path.read_text()}
    assert 12 <= len(done) < 24
    resumed = subprocess.run([*command, "sweep", "--resume", str(folder)], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr == ""
    read = read_sweep(folder)
    assert [result.outcome for result in read_trials(read)] == ["finished"] * 24
    assert sum(path.stat().st_mtime_ns == before for path, before in done.items()) >= 12, "they are not trained again"
    saved = json.loads((folder / "table.json").read_text())["configurations"]
    assert saved == configuration_rows(read, read_trials(read))
    accuracies: dict[tuple[float, int], list[float]] = {}
    for row in list_runs([folder / "trials"])[0]:
        accuracies.setdefault((row["max_lr"], row["batch_size"]), []).append(row["final_accuracy"])
    assert {(row["max_lr"], row["batch_size"]): row["accuracy"] for row in saved} == {
        values: pytest.approx(statistics.fmean(runs)) for values, runs in accuracies.items()
    }


@pytest.mark.slow
@pytest.mark.usefixtures("no_ray_left")
def test_ray_stops_runs_early_and_lists_failures(betons: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    search = ["--search", "max_lr=choice(0.2, 1e30)", "batch_size=choice(40, 60)", "--epochs", "4"]
    options = ["--stop", "asha", "--method", "tpe", "--trials", "4", "--on-nonfinite", "stop"]
    command = [sys.executable, "-m", "fastcifar", *sweep(betons, folder), *search, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = [result.outcome for result in read_trials(read_sweep(folder))]
    assert len(outcomes) == 4
    assert set(outcomes) <= {"finished", "stopped", "failed"}
    assert "finished" in outcomes
