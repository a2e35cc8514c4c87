from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastcifar.errors import CheckpointError
from fastcifar.runs.record import read_record
from tests.runs.examples import ENVIRONMENT, result, write_run


def test_a_record_holds_the_files_of_a_run(tmp_path: Path) -> None:
    results = (result(1), result(2, tta_accuracy=0.95))
    record = read_record(write_run(tmp_path / "my-run", results=results))
    assert (record.name, record.environment, record.results) == ("my-run", ENVIRONMENT, results)
    assert record.last == results[1]
    assert record.first_at(0.25) == results[0]
    assert record.first_at(0.94) == results[1], "test-time augmentation counts"
    assert record.first_at(0.96) is None


def test_the_last_epoch_may_be_partial(tmp_path: Path) -> None:
    run = write_run(tmp_path, results=[result(1), result(2)])
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**values, "epochs": 1.5}))
    record = read_record(run)
    assert [record.passes(each) for each in record.results] == [1, 1.5]


@pytest.mark.parametrize("target", [None, 0.94])
def test_the_accuracy_to_reach_is_the_target_or_90_percent(tmp_path: Path, target: float | None) -> None:
    run = write_run(tmp_path, results=[result(1)])
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**values, "target_accuracy": target}))
    assert read_record(run).target_accuracy == (target or 0.9)


def test_a_run_without_a_finished_epoch_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no finished epoch yet; resume it with `fastcifar train --resume"):
        read_record(write_run(tmp_path, results=[]))
