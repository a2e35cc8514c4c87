from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest

from benchmarks import max_lr
from benchmarks.results import Results
from fastcifar.config import LrFinderSettings
from fastcifar.errors import ConfigError


@pytest.mark.slow
def test_max_lr_trains_around_the_suggestion(betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = functools.partial(max_lr.range_test, settings=LrFinderSettings(iterations=40))
    monkeypatch.setattr(max_lr, "range_test", short)
    out = tmp_path / "out.json"
    settings = max_lr.MaxLr(
        recipes=("dilated-cnn:epochs=1",),
        data_dir=betons,
        device="cpu",
        multiples=(1.0, 3.0),
        val_fraction=0.3,
        out=out,
    )
    max_lr.main(settings)
    results = Results.read(out)
    suggested = results.extra["suggestion"]["max_lr"]
    assert [(run["seed"], run["config"]["max_lr"]) for run in results.runs] == [
        (seed, pytest.approx(multiple * suggested, rel=1e-3)) for seed in (0, 1) for multiple in (1, 3)
    ]
    assert {run["history"][0]["eval_split"] for run in results.runs} == {"validation"}

    results.runs = results.runs[:3]
    results.write(out)
    max_lr.main(dataclasses.replace(settings, resume=True))
    again = Results.read(out)
    assert again.runs[:3] == results.runs
    assert [(run["seed"], run["name"]) for run in again.runs[3:]] == [(1, again.runs[1]["name"])]
    with pytest.raises(ConfigError, match=r"recipes is 'era speedrun'; name one recipe, such as era:epochs=6"):
        max_lr.main(dataclasses.replace(settings, recipes=("era", "speedrun")))
