from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastcifar.errors import CheckpointError
from fastcifar.files import is_locked, lock_folder
from fastcifar.runs.listing import COLUMNS, list_runs
from tests.runs.examples import result, write_run


def test_runs_are_found_in_folders_and_the_newest_is_last(tmp_path: Path) -> None:
    for age, name in ((30, "b"), (20, "seeds/seed-1"), (10, "a")):
        run = write_run(tmp_path / name, results=[result(1), result(2)])
        os.utime(run / "metrics.jsonl", (1e9 - age, 1e9 - age))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "config.json").write_text("{}")  # of another program
    write_run(tmp_path / "a" / "inside", results=[result(1)])
    rows, errors = list_runs([tmp_path, tmp_path / "a"])
    assert [row["name"] for row in rows] == ["b", "seeds/seed-1", "a"]
    assert errors == []
    (row,), _ = list_runs([tmp_path / "b"])
    assert (row["name"], row["path"]) == ("b", str(tmp_path / "b"))


def test_a_row_has_facts_results_and_settings(tmp_path: Path) -> None:
    write_run(tmp_path / "run", results=[result(1), result(2, tta_accuracy=0.75)])
    (row,), _ = list_runs([tmp_path])
    assert tuple(row) == COLUMNS
    expected = {
        "recipe": "custom", "status": "finished", "device": "CPU: example", "data": "synthetic", "epoch": 2,
        "epochs": 2, "test_accuracy": 0.5, "final_accuracy": 0.75, "best_accuracy": 0.5, "seed": 0, "max_lr": 0.00534,
        "torch_version": "2.0", "total_train_seconds": 20.0, "widths": [], "target_accuracy": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_the_status_tells_whether_a_process_trains_and_whether_epochs_are_left(tmp_path: Path) -> None:
    write_run(tmp_path / "finished", results=[result(1), result(2)])
    write_run(tmp_path / "stopped", results=[result(1)])
    write_run(tmp_path / "started", results=[])
    met = write_run(tmp_path / "target", results=[result(1)])
    config = json.loads((met / "config.json").read_text())
    (met / "config.json").write_text(json.dumps({**config, "target_accuracy": 0.2}))
    write_run(tmp_path / "running", results=[result(1)])
    (tmp_path / "stopped" / ".lock").touch()  # left by a killed process
    with lock_folder(tmp_path / "running"):
        rows, _ = list_runs([tmp_path])
    assert {row["name"]: row["status"] for row in rows} == {
        "finished": "finished", "stopped": "stopped", "started": "stopped", "target": "finished", "running": "running",
    }  # fmt: skip
    assert {row["name"]: row["test_accuracy"] for row in rows}["started"] is None
    assert not is_locked(tmp_path / "running")


def test_damaged_runs_are_named_and_the_others_listed(tmp_path: Path) -> None:
    for name in ("config.json", "environment.json", "metrics.jsonl", "none"):
        write_run(tmp_path / name, results=[result(1), result(2)])
    (tmp_path / "config.json" / "config.json").write_bytes(b"\xff{")
    (tmp_path / "environment.json" / "environment.json").unlink()
    (tmp_path / "metrics.jsonl" / "metrics.jsonl").write_text('{"epoch": 1}\n{}\n')
    rows, errors = list_runs([tmp_path])
    assert [row["name"] for row in rows] == ["none"]
    assert sorted(str(error).split(":")[0].split("/")[-1] for error in errors) == [
        "config.json", "environment.json", "metrics.jsonl, line 1",
    ]  # fmt: skip


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        list_runs([tmp_path / "none"])


def test_listing_runs_does_not_import_torch() -> None:
    code = "import sys, fastcifar.cli, fastcifar.runs.groups, fastcifar.runs.listing, fastcifar.report.run_table\n"
    code += "assert not {'torch', 'numpy', 'pyarrow'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
