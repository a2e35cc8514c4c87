from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.result_files import changed_settings, changes_of, find_problems, migrate_results, read_results
from fastcifar import get_recipe


def settings(recipe: str, **changes: Any) -> dict[str, Any]:
    return get_recipe(recipe, **changes).to_json()


def test_results_of_0_1_are_read_under_todays_names(tmp_path: Path) -> None:
    name = "speedrun:small_sizes=[],small_shares=[],epochs=2.04"
    run = {
        "name": name, "recipe": "speedrun", "quoted_accuracy": 0.9, "epochs_worth": 0.3,
        "config": {"recipe": "speedrun", "small_sizes": [16], "freeze_after": [0.2], "betons": "a"},
        "history": [{"held_out": "test", "epoch": 1}],
    }  # fmt: skip
    old = {"settings": {"target": 0.9}, "figures": {name: {"share_reaching_target": 1.0}}, "runs": [run]}
    (tmp_path / "old.json").write_text(json.dumps(old))
    results = read_results(tmp_path / "old.json")
    plain = "speedrun:resize_sizes=[],resize_fractions=[],epochs=2.04"
    assert results == {
        "settings": {"target_accuracy": 0.9},
        "figures": {plain: {"fraction_reaching_target": 1.0}},
        "runs": [
            {
                "name": plain, "recipe": "speedrun", "final_accuracy": 0.9, "era_epoch_equivalents": 0.3,
                "config": {"base_recipe": "speedrun", "resize_sizes": [16], "freeze_at": [0.2], "data_dir": "a"},
                "history": [{"eval_split": "test", "epoch": 1}],
            }
        ],
    }  # fmt: skip
    assert migrate_results(results) == results
    assert read_results(tmp_path / "missing.json") == {}


def test_only_the_settings_of_the_recipe_are_compared_with_todays() -> None:
    assert changed_settings(settings("era")) == []
    how = {"data_dir": "elsewhere", "workers": 1, "device": "cuda", "compile": True, "amp": True, "seed": 7}
    assert changed_settings(settings("era", **how, cache_on_device=True, val_fraction=0.1, run_dir="run")) == []
    assert changed_settings(settings("era", batch_size=128, padding=2)) == ["batch_size", "padding"]
    assert changed_settings(settings("era", batch_size=128, padding=2), ["padding"]) == ["batch_size"]
    assert changes_of("speedrun:widths=[64,192,256],epochs=3.5") == ["widths", "epochs"]


def test_a_setting_that_did_not_exist_then_had_its_default() -> None:
    era, speedrun = settings("era"), settings("speedrun")
    del era["freeze"], speedrun["freeze"]
    assert changed_settings(era) == []
    assert changed_settings(speedrun) == ["freeze"]


@pytest.mark.parametrize("value", [None, False, 0, [], "none"])
def test_a_removed_setting_counts_only_where_it_had_an_effect(value: object) -> None:
    assert changed_settings({**settings("era"), "bygone": value}) == []
    assert changed_settings({**settings("era"), "bygone": 0.5}) == ["bygone"]
    assert changed_settings({**settings("era"), "bygone": 0.5}, ["bygone"]) == []


def test_a_removed_recipe_is_a_difference() -> None:
    assert changed_settings({**settings("era"), "base_recipe": "bygone"}) == ["recipe"]


def test_missing_and_contradicting_fields_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    epoch = {"test_accuracy": 0.9}
    run = {
        "recipe": "era", "config": settings("era"), "seed": 0, "epochs": 1, "train_seconds": 1.0, "eval_seconds": 1.0,
        "test_accuracy": 0.9, "best_accuracy": 0.9, "history": [epoch],
    }  # fmt: skip
    good = {
        "benchmark": "era", "device": "CPU", "precision": "float32", "versions": {"torch": "2"}, "commit": "abc",
        "data": {"name": "cifar10", "content_sha256": "0"}, "runs": [run],
    }  # fmt: skip

    def problems(**changes: object) -> list[str]:
        path.write_text(json.dumps({**good, **changes}))
        return find_problems(path)

    assert problems() == []
    assert problems(runs=[]) == ["out.json: has no runs"]
    assert problems(commit="abc-dirty") == ["out.json: was measured on a commit with changes"]
    assert problems(data={"name": "synthetic", "content_sha256": "0"}) == [
        "out.json: its data must be cifar10, with a content_sha256"
    ]
    assert problems(benchmark="soak", data={"name": "synthetic", "content_sha256": "0"}) == []
    assert problems(runs=[{"recipe": "era"}])[0].startswith("out.json: run 0 has no config, seed, epochs")
    assert problems(runs=[run, {**run, "epochs": 2}]) == ["out.json: run 1 has 1 entries in its history for 2 epochs"]
    assert problems(runs=[{**run, "test_accuracy": 0.8}]) == [
        "out.json: run 0 has another test_accuracy than the last epoch of its history"
    ]
