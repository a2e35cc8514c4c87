from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastcifar import TrainConfig
from fastcifar.cli import main
from fastcifar.report.tensorboard import TensorBoardLog
from tests.runs.examples import result

Capture = pytest.CaptureFixture[str]


def _train(betons: Path, run: Path, *more: object) -> list[str]:
    arguments = ["train", "--model", "dilated_cnn", "--data-dir", betons, "--batch-size", 100, "--epochs", 3]
    arguments += ["--tta", "flip", *more]
    return [*map(str, arguments), "--device", "cpu", "--run-dir", str(run)]


def _read(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    """Scalars, step and value, and the last text, by name."""
    events: Any = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()
    scalars = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in tags["scalars"]}
    texts = {
        name.removesuffix("/text_summary"): events.Tensors(name)[-1].tensor_proto.string_val[0].decode()
        for name in tags["tensors"]
    }
    return scalars, texts


def _metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_everything_in_the_metrics_is_in_the_log_also_after_a_resume(betons: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "logs"
    assert main(_train(betons, run, "--target-accuracy", "0.000001", "--log-dir", log)) == 0
    assert [step for step, _ in _read(log / "run")[0]["train_loss"]] == [1]
    assert main(["train", "--resume", str(run), "--target-accuracy", "None", "--log-dir", str(log)]) == 0
    scalars, texts = _read(log / "run")
    metrics = _metrics(run)
    assert {*scalars, *texts} == {*metrics[-1], "config"}
    for name, points in scalars.items():
        had = [line for line in metrics if line[name] is not None]
        assert points == [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in had], name
    assert [step for step, _ in scalars["train_loss"]] == [1, 2, 3]
    assert [step for step, _ in scalars["tta_accuracy"]] == [3]
    assert texts["eval_split"] == "test"
    assert '"model": "dilated_cnn"' in texts["config"]


def test_each_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = [tmp_path / parent / "run" for parent in ("a", "b")]
    for run, epochs in ((runs[0], [1]), (runs[1], [1, 2]), (runs[0], [1, 2, 3])):
        log = TensorBoardLog(tmp_path / "logs", TrainConfig(run_dir=run))
        for epoch in epochs:
            log.epoch(result(epoch))
        log.close("finished")
    shown = {folder.name: _read(folder)[0]["train_loss"] for folder in (tmp_path / "logs").iterdir()}
    assert {name: [step for step, _ in points] for name, points in shown.items()} == {"run": [1, 2, 3], "run-2": [1, 2]}


def test_without_tensorboard_it_is_one_line_before_the_training(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert main(_train(betons, tmp_path / "run", "--log-dir", tmp_path / "logs")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'fastcifar[tensorboard]'" in line
    assert not (tmp_path / "run").exists()
