"""Fixtures of the report's tests: a run on classes with hostile names, its page, and a changed copy of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fastcifar import TrainConfig, fit
from fastcifar.cli import main
from fastcifar.data.synthetic import draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.inference.corruption_errors import save_corruption_errors
from tests.report.pages import NAMES, example_errors


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two short epochs on classes with hostile names, evaluated on a validation split."""
    folder = tmp_path_factory.mktemp("report")
    for split, (images, labels) in zip(("train", "test"), draw_synthetic(train=200, test=90), strict=True):
        write_beton(folder / "betons" / f"{split}.beton", images, labels, class_names=NAMES, name="synthetic & odd")
    config = TrainConfig().replace(
        data_dir=folder / "betons", batch_size=50, epochs=2, val_fraction=0.2, device="cpu", run_dir=folder / "run"
    )
    fit(config)
    return folder / "run"


@pytest.fixture(scope="package")
def report(run: Path) -> Path:
    """The page of that run, with errors on corrupted images."""
    save_corruption_errors(run, example_errors())
    assert main(["report", str(run), "--top", "6", "--device", "cpu"]) == 0
    return run / "report" / "report.html"


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """A copy of the run with another max_lr and a higher accuracy."""
    shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("report"))
    config = json.loads((run / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "max_lr": 0.0123}))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[-1] |= {"test_accuracy": 0.9512, "best_accuracy": 0.9512, "best_epoch": 2}
    (tmp_path / "other" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "other"
