from __future__ import annotations

from pathlib import Path

import pytest

from fastcifar import TrainConfig, get_recipe
from fastcifar.errors import CheckpointError, TrainingError
from fastcifar.files import lock_folder
from fastcifar.runs.checkpoint import has_checkpoint
from fastcifar.runs.read import read_metrics
from fastcifar.sweep import trial
from fastcifar.sweep.folder import read_outcome, write_outcome
from fastcifar.sweep.trial import train_trial

SMALL = {"widths": (8, 8, 8), "batch_size": 50, "amp": False, "cuda_graphs": False, "loader": "memmap", "device": "cpu"}


@pytest.fixture
def small(betons: Path, tmp_path: Path) -> TrainConfig:
    """Two epochs of a few steps."""
    return get_recipe("speedrun", data_dir=betons, run_dir=tmp_path / "run", epochs=2, val_fraction=0.1, **SMALL)


def losses(config: TrainConfig) -> list[float]:
    assert config.run_dir is not None
    return [result.test_loss for result in read_metrics(config.run_dir)]


def test_a_trial_that_was_killed_goes_on_where_it_was(small: TrainConfig, tmp_path: Path) -> None:
    whole = small.replace(run_dir=tmp_path / "whole")
    assert [result.epoch for result in train_trial(whole, "none")] == [1, 2]
    assert not has_checkpoint(tmp_path / "whole")
    first = train_trial(small, "last")
    next(first)
    first.close()
    assert read_outcome(tmp_path / "run") == "unfinished"
    assert [result.epoch for result in train_trial(small, "last")] == [1, 2]
    assert losses(small) == losses(whole)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.pt"]
    before = (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns
    assert [result.epoch for result in train_trial(small, "last")] == [1, 2]
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns == before, "it is not trained again"


def test_a_trial_that_lacks_its_last_result_begins_again(small: TrainConfig, tmp_path: Path) -> None:
    list(train_trial(small, "last"))
    whole, metrics = losses(small), tmp_path / "run" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    assert [result.epoch for result in train_trial(small, "last")] == [1, 2]
    assert losses(small) == whole


def test_a_trial_that_was_stopped_early_is_not_trained_on(small: TrainConfig, tmp_path: Path) -> None:
    epochs = train_trial(small, "none")
    next(epochs)
    epochs.close()
    write_outcome(tmp_path / "run", "stopped")
    assert [result.epoch for result in train_trial(small, "none")] == [1]
    assert has_checkpoint(tmp_path / "run")


def test_a_loss_that_is_not_finite_is_a_failure_for_good(small: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not finite"):
        list(train_trial(small.replace(max_lr=1e30, bias_lr=1e30, head_lr=1e30), "none"))
    assert read_outcome(tmp_path / "run") == "failed"
    assert list(train_trial(small, "none")) == []


def test_a_trial_waits_for_the_process_that_trained_it_before(
    small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "WAIT_SECONDS", 0.1)
    with (
        lock_folder(tmp_path / "run"),
        pytest.raises(CheckpointError, match="another process trains in this folder"),
    ):
        next(train_trial(small, "none"))
