from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fastcifar import get_recipe
from fastcifar.errors import ConfigError
from fastcifar.runs.groups import group_over_seeds
from fastcifar.runs.listing import Row, list_runs
from tests.runs.examples import result, write_run


def _rows(folder: Path, *runs: tuple[str, dict[str, Any], float]) -> list[Row]:
    """The rows of runs with a recipe, changes to it, and a test accuracy."""
    for number, (recipe, changes, accuracy) in enumerate(runs):
        run = write_run(folder / f"{number}", results=[result(1), result(2, test_accuracy=accuracy)])
        (run / "config.json").write_text(json.dumps(get_recipe(recipe, **changes).to_json()))
    rows, errors = list_runs([folder])
    assert not errors
    return rows


def test_runs_that_differ_in_their_seeds_are_one_group_with_mean_and_interval(tmp_path: Path) -> None:
    rows = _rows(
        tmp_path,
        ("era", {"seed": 0}, 0.90),
        ("era", {"seed": 1, "run_dir": "x", "workers": 1, "device": "cpu"}, 0.92),
        ("era", {"seed": 2}, 0.91),
        ("era", {"seed": 0, "max_lr": 0.1}, 0.80),
    )
    one, three = group_over_seeds(rows, "final_accuracy")
    assert one == {
        "recipe": "era", "changes": "max_lr=0.1", "runs": 1, "seeds": 1, "final_accuracy": 0.8, "sd": None,
        "ci95": None, "max_lr": 0.1,
    }  # fmt: skip
    assert three["changes"] == "max_lr=0.002", "other groups of the recipe have another value"
    assert (three["runs"], three["seeds"], three["max_lr"]) == (3, 3, 0.002)
    assert three["final_accuracy"] == pytest.approx(0.91)
    assert three["sd"] == pytest.approx(0.01)
    assert three["ci95"] == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-4)  # Student's t, 2 degrees of freedom


def test_the_changes_leave_out_what_the_recipe_says(tmp_path: Path) -> None:
    rows = _rows(tmp_path, ("era", {}, 0.9), ("quick", {}, 0.8), ("quick", {"cutout": 4}, 0.7))
    groups = group_over_seeds(rows, "total_train_seconds")
    assert sorted((group["recipe"], group["changes"]) for group in groups) == [
        ("era", ""), ("quick", "cutout=0"), ("quick", "cutout=4"),
    ]  # fmt: skip
    assert all(group["padding"] == {"era": 4, "quick": 2}[group["recipe"]] for group in groups)


def test_runs_on_other_data_are_another_group(tmp_path: Path) -> None:
    rows = _rows(tmp_path, ("era", {}, 0.9), ("era", {}, 0.8))
    rows[1] |= {"data": "cifar10", "data_sha256": "1" * 64}
    changes = {group["changes"] for group in group_over_seeds(rows, "final_accuracy")}
    assert "data=cifar10 data_sha256=1111111111111111" in changes


def test_a_metric_must_be_a_number_and_runs_without_it_are_left_out(tmp_path: Path) -> None:
    rows = _rows(tmp_path, ("era", {}, 0.9))
    assert group_over_seeds(rows, "tta_accuracy") == []
    with pytest.raises(ConfigError, match="it must be a column of numbers"):
        group_over_seeds(rows, "device")
