from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import record
from fastcifar.cli import main
from fastcifar.errors import CheckpointError
from tests.benchmarks.helpers import read_checked


def test_a_run_becomes_a_record(betons: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out.json"
    train = ["train", "--data-dir", str(betons), "--batch-size", "100", "--epochs", "2", "--no-report"]
    assert main([*train, "--run-dir", str(run)]) == 0
    record.main(record.Record(runs=(run,), benchmark="short", out=out, note="on synthetic images"))
    results = read_checked(out)
    assert results["runs"][0]["epochs"] == 2
    assert results["note"] == "on synthetic images"
    assert str(tmp_path) not in out.read_text()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run folder"):
        record.main(record.Record(runs=(tmp_path,), benchmark="none", out=tmp_path / "out.json"))
