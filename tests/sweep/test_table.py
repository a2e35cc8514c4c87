from __future__ import annotations

import csv
import json
import math
import statistics
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fastcifar import get_recipe
from fastcifar.report.sweep import SweepConsole, write_results
from fastcifar.runs.groups import group_over_seeds
from fastcifar.runs.listing import list_runs
from fastcifar.sweep.folder import SweepFolder, write_outcome
from fastcifar.sweep.plan import Trial
from fastcifar.sweep.table import best_recipe, configuration_rows, read_trials
from tests.sweep.examples import make_plan, write_epochs

ACCURACIES = {0: [0.70, 0.72, 0.71], 1: [0.80, 0.83, 0.81], 2: [0.81, 0.82], 3: []}
T_2, T_1 = 4.302653, 12.706205
"""Student's t for 95 % and two degrees of freedom, or one."""


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """Four configurations of three seeds: the last run of the third one was stopped, and those of the fourth failed."""
    folder = SweepFolder(tmp_path / "sweep", make_plan(seeds=3))
    folder.path.mkdir()
    for number, accuracies in ACCURACIES.items():
        folder.add({"recipe": "speedrun", "max_lr": 0.1 * (1 + number), "batch_size": 20})
        for seed, accuracy in enumerate(accuracies):
            write_epochs(folder, Trial(number, seed), [0.1, 0.2, accuracy])
    write_epochs(folder, Trial(2, 2), [0.9])
    write_outcome(folder.run_dir(Trial(2, 2)), "stopped")
    for seed in range(3):
        write_outcome(folder.run_dir(Trial(3, seed)), "failed", "no such thing")
    return folder


def test_rows_have_means_and_paired_differences(folder: SweepFolder) -> None:
    rows = configuration_rows(folder, read_trials(folder))
    assert [row["configuration"] for row in rows] == [1, 0, 2, 3], "the third one has fewer finished runs"
    best, second, third, failed = rows
    assert best["accuracy"] == pytest.approx(statistics.fmean(ACCURACIES[1]))
    assert best["sd"] == pytest.approx(statistics.stdev(ACCURACIES[1]))
    assert best["ci95"] == pytest.approx(T_2 * statistics.stdev(ACCURACIES[1]) / math.sqrt(3), rel=1e-5)
    assert best["difference"] is None
    assert second["difference"] == pytest.approx(-0.31 / 3)
    assert second["difference_ci95"] == pytest.approx(
        T_2 * statistics.stdev([0.10, 0.11, 0.10]) / math.sqrt(3), rel=1e-5
    )
    assert (third["pairs"], third["stopped"], third["finished"]) == (2, 1, 2)
    assert third["difference_ci95"] == pytest.approx(T_1 * statistics.stdev([0.01, -0.01]) / math.sqrt(2), rel=1e-5)
    assert (failed["failed"], failed["accuracy"], failed["difference"]) == (3, None, None)


def test_the_table_equals_that_of_runs_compare(folder: SweepFolder) -> None:
    finished = [row for row in list_runs([folder.path / "trials"])[0] if row["status"] == "finished"]
    groups = {group["max_lr"]: group for group in group_over_seeds(finished, "final_accuracy")}
    rows = [row for row in configuration_rows(folder, read_trials(folder)) if row["finished"]]
    assert len(rows) == len(groups) == 3
    for row in rows:
        group = groups[row["max_lr"]]
        assert (row["accuracy"], row["sd"], row["ci95"]) == (group["final_accuracy"], group["sd"], group["ci95"])


def test_files_and_console_have_the_table(folder: SweepFolder) -> None:
    trials = read_trials(folder)
    rows = configuration_rows(folder, trials)
    files = write_results(folder, rows)
    assert [path.name for path in files] == ["table.csv", "table.json", "best.toml"]
    with files[0].open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["max_lr"]) for row in written] == pytest.approx([0.2, 0.1, 0.3, 0.4])
    saved = json.loads(files[1].read_text())
    assert saved == {"compared_on": "validation split", "configurations": rows}
    output = StringIO()
    with SweepConsole(folder, Console(file=output, width=150)) as console:
        console.summary(rows, [result for result in trials if result.error], files)
    text = output.getvalue()
    assert "Accuracies on the validation split, best configuration first:" in text
    assert "81.33 %" in text
    assert "-10.33 %" in text
    assert "0003-seed-2 failed: no such thing" in text


def test_the_best_recipe_trains_on_all_images(folder: SweepFolder) -> None:
    write_results(folder, configuration_rows(folder, read_trials(folder)))
    config = get_recipe(str(folder.path / "best.toml"))
    assert config.optim.max_lr == 0.2
    assert config.epochs == 3
    assert config.data.val_fraction == 0.0
    assert config.runtime.seed == 0


def test_without_a_finished_run_there_is_no_best_recipe(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, make_plan())
    folder.add({"recipe": "speedrun", "max_lr": 0.1, "batch_size": 20})
    rows = configuration_rows(folder, read_trials(folder))
    assert rows[0]["unfinished"] == 1
    assert best_recipe(folder, rows) is None
    assert best_recipe(folder, []) is None


def test_a_terminal_shows_running_runs_and_the_best_one(folder: SweepFolder) -> None:
    output = StringIO()
    with SweepConsole(folder, Console(file=output, width=120, force_terminal=True, color_system=None)) as console:
        console.header({"recipes": "speedrun"}, [folder.result(Trial(0, 0))])
        console.started(Trial(1, 0))
        console.epoch(Trial(1, 0), 2, 0.5)
        assert "0001-seed-0  epoch 2, 50.00 %  speedrun max_lr=0.2 batch_size=20" in output.getvalue()
        console.ended(folder.result(Trial(1, 0)))
        console.ended(folder.result(Trial(2, 2)))
        console.ended(folder.result(Trial(3, 0)))
    text = output.getvalue()
    assert "resuming   1 run done so far" in text
    assert "4 runs done, 0 running, best 80.00 % (speedrun max_lr=0.2 batch_size=20)" in text
    assert "90.00 %  stopped after epoch 1" in text
    assert "0003-seed-0  failed: no such thing" in text


def test_a_run_of_an_earlier_call_has_no_line(folder: SweepFolder) -> None:
    output = StringIO()
    with SweepConsole(folder, Console(file=output, width=120)) as console:
        console.header({}, [folder.result(Trial(0, 0))])
        console.ended(folder.result(Trial(0, 0)))
    assert "0000-seed-0" not in output.getvalue()
