from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import pytest

from benchmarks import max_lr
from fastcifar.config import LrFinderSettings
from fastcifar.errors import ConfigError
from tests.benchmarks.helpers import read_checked


def test_max_lr_trains_around_the_suggestion(betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = functools.partial(max_lr.range_test, settings=LrFinderSettings(iterations=40))
    monkeypatch.setattr(max_lr, "range_test", short)
    out = tmp_path / "out.json"
    settings = max_lr.MaxLr(
        recipe="dilated-cnn",
        data_dir=betons,
        device="cpu",
        epochs=1,
        multiples=(1.0, 3.0),
        seeds=2,
        val_fraction=0.3,
        out=out,
    )
    max_lr.main(settings)
    results = read_checked(out)
    suggested = results["suggestion"]["max_lr"]
    assert [(run["seed"], run["multiple"]) for run in results["runs"]] == [(0, 1.0), (0, 3.0), (1, 1.0), (1, 3.0)]
    assert [run["config"]["max_lr"] for run in results["runs"]] == [suggested, 3 * suggested] * 2
    assert {run["history"][0]["eval_split"] for run in results["runs"]} == {"validation"}

    results["runs"] = results["runs"][:3]
    out.write_text(json.dumps(results))
    settings = dataclasses.replace(settings, resume=True)
    max_lr.main(settings)
    again = json.loads(out.read_text())
    assert again["runs"][:3] == results["runs"]
    assert [(run["seed"], run["multiple"]) for run in again["runs"][3:]] == [(1, 3.0)]
    with pytest.raises(ConfigError, match=r"out\.json: was measured with other settings"):
        max_lr.main(dataclasses.replace(settings, epochs=2))


def test_the_suggestion_is_compared_with_the_best_mean() -> None:
    accuracies = ((1.0, 0.5), (3.0, 0.8), (0.3, 0.1), (1.0, 0.7), (3.0, 0.6), (0.3, 0.2))
    figures = max_lr.summarize_runs([{"multiple": m, "test_accuracy": a} for m, a in accuracies])
    assert figures["mean_accuracy"] == pytest.approx({"1": 0.6, "3": 0.7, "0.3": 0.15})
    assert figures["below_best"] == pytest.approx(0.1)
