from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from fastcifar.intervals import mean_interval
from fastcifar.report.seeds import SeedsConsole, draw_accuracies, format_interval, stack_dots
from fastcifar.runs.results import StepProgress
from fastcifar.runs.seeds import SeedOptions, SeedRun


def result(seed: int, accuracy: float) -> SeedRun:
    shared = {"test_loss": 1.0, "epoch": 2, "train_seconds": 3.0, "eval_seconds": 0.5}
    return SeedRun(seed=seed, folder=f"seed-{seed:04d}", accuracy=accuracy, test_accuracy=accuracy, **shared)


def test_each_run_has_a_line_with_the_mean_so_far_and_the_time_left() -> None:
    file, time = io.StringIO(), [0.0]
    console = Console(file=file, width=120, get_time=lambda: time[0])
    accuracies = [0.90, 0.92, 0.94]
    with SeedsConsole(SeedOptions(runs=5), console) as shown:
        shown.header({"recipe": "quick", "seeds": "0 to 4"}, ["The CPU is slow"], mean_interval(accuracies[:1]))
        for step in (1, 2):
            shown.step(1, StepProgress(epoch=1, step=step, steps=2, lr=0.1))
        for seed in (1, 2):
            time[0] += 30
            shown.finished(result(seed, accuracies[seed]), mean_interval(accuracies[: seed + 1]))
        shown.summary(mean_interval(accuracies), [Path("seeds.json")])
    assert file.getvalue().splitlines() == [
        "recipe     quick",
        "seeds      0 to 4",
        "The CPU is slow",
        "resuming   90.00 % (1 run) so far",
        "seed 1      92.00 %     3.50 s  mean 91.00 ± 12.71 % (2 runs)  about 1 min 30 s left",
        "seed 2      94.00 %     3.50 s  mean 92.00 ± 4.97 % (3 runs)  about 1 min 0 s left",
        "accuracy   92.00 ± 4.97 % (3 runs), standard deviation 2.00 points",
        "range      90.00 % to 94.00 %, median 92.00 %",
        "speed      2.0 runs per minute",
        "files      seeds.json",
    ]


def test_the_mean_of_one_run_has_no_interval() -> None:
    assert format_interval(mean_interval([0.5])) == "50.00 % (1 run)"


def test_equal_accuracies_are_stacked() -> None:
    positions, heights = stack_dots(np.array([90.0, 90.0, 90.0, 91.0, 93.0, 93.0]))
    assert positions.tolist() == [90, 90, 90, 91, 93, 93]
    assert heights.tolist() == [1, 2, 3, 1, 1, 2]
    positions, heights = stack_dots(np.array([90.0, 90.0]))
    assert (positions.tolist(), heights.tolist()) == ([90, 90], [1, 2])


def test_the_figure_is_drawn_for_one_run_and_for_many(tmp_path: Path) -> None:
    spread = np.random.default_rng(0).normal(0.9, 0.01, 200).round(4)
    for accuracies in ([0.9], [0.9, 0.9], spread.tolist()):
        runs = [result(seed, accuracy) for seed, accuracy in enumerate(accuracies)]
        draw_accuracies(runs, mean_interval(accuracies), tmp_path / "accuracies.png", "quick")
        with Image.open(tmp_path / "accuracies.png") as image:
            assert image.width > 500
            assert np.ptp(np.asarray(image.convert("L"))) > 100
