"""The result of a sweep, computed from its run folders: a row per configuration, compared with the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastcifar.config import TrainConfig
from fastcifar.intervals import mean_interval
from fastcifar.sweep.folder import SweepFolder, TrialResult

Row = dict[str, Any]
COLUMNS = (
    "configuration", "recipe", "finished", "stopped", "failed", "unfinished", "accuracy", "sd", "ci95",
    "difference", "difference_ci95", "pairs",
)  # fmt: skip
"""The columns of the table, without those of the searched settings."""
PAIRED = COLUMNS[-3:]


def read_trials(folder: SweepFolder) -> list[TrialResult]:
    """Read how far all runs have come."""
    return [folder.result(trial) for trial in folder.trials]


def configuration_rows(folder: SweepFolder, trials: Sequence[TrialResult]) -> list[Row]:
    """Return a row per configuration, the best one first.

    Each has these values, and those of the searched settings:

    - `configuration`, its number, and `recipe`;
    - `finished`, `stopped` early, `failed`, `unfinished`: numbers of runs;
    - of the finished runs, the mean `accuracy`, its sample standard deviation `sd` and `ci95`, half the width of the
      95 % confidence interval of the mean;
    - `difference`, the mean difference to the best configuration over the `pairs` of runs with equal seeds, and
      `difference_ci95`, half the width of its interval.

    A value that cannot be computed from so few runs is None. Configurations with fewer finished runs come after the
    others.
    """
    accuracies: list[dict[int, float]] = [{} for _ in folder.configurations]
    for result in trials:
        if result.outcome == "finished" and result.accuracy is not None:
            accuracies[result.trial.configuration][result.trial.seed] = result.accuracy
    rows = [_describe(folder, number, trials, runs) for number, runs in enumerate(accuracies)]
    rows.sort(key=lambda row: (-row["finished"], -(row["accuracy"] or 0.0), row["configuration"]))
    best = accuracies[rows[0]["configuration"]] if rows else {}
    return [
        row | _compare(accuracies[row["configuration"]], best, is_best=index == 0) for index, row in enumerate(rows)
    ]


def _describe(folder: SweepFolder, number: int, trials: Sequence[TrialResult], runs: Mapping[int, float]) -> Row:
    values = folder.configurations[number]
    outcomes = [result.outcome for result in trials if result.trial.configuration == number]
    interval = mean_interval([*runs.values()]) if runs else None
    return {
        "configuration": number,
        **values,
        **{name: outcomes.count(name) for name in ("finished", "stopped", "failed", "unfinished")},
        "accuracy": None if interval is None else interval.mean,
        "sd": None if interval is None else interval.deviation,
        "ci95": None if interval is None else interval.half_width,
    }


def _compare(runs: Mapping[int, float], best: Mapping[int, float], *, is_best: bool) -> Row:
    """Return the mean difference to the best configuration over equal seeds."""
    differences = [accuracy - best[seed] for seed, accuracy in runs.items() if seed in best]
    if is_best or not differences:
        return dict.fromkeys(PAIRED)
    interval = mean_interval(differences)
    return {"difference": interval.mean, "difference_ci95": interval.half_width, "pairs": interval.count}


def best_recipe(folder: SweepFolder, rows: Sequence[Row]) -> TrainConfig | None:
    """Return the settings of the best configuration, for training on all images; None if no run is finished."""
    if not rows or not rows[0]["finished"]:
        return None
    plan = folder.plan
    split = {} if plan.options.on_test_set else {"val_fraction": 0.0}
    return plan.config(folder.configurations[rows[0]["configuration"]], **split)
