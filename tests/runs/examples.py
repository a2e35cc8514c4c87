"""Values of a small run, and its folder without checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastcifar import EpochResult, TrainConfig
from fastcifar.runs.read import Environment

ENVIRONMENT: Environment = {
    "device": "CPU: example",
    "precision": "float32",
    "versions": {"fastcifar": "9.9.9", "torch": "2.0"},
    "platform": "Linux x86_64, 2 usable cores",
    "commit": None,
    "data": {"name": "synthetic", "content_sha256": "0" * 64},
}


def result(epoch: int, **changes: Any) -> EpochResult:
    """Return the result of one of two epochs; the second epoch is better."""
    values = EpochResult(
        epoch=epoch,
        epochs=2,
        train_loss=1.5,
        train_accuracy=0.4,
        test_loss=1.25,
        test_accuracy=epoch / 4,
        eval_split="test",
        lr_start=0.001,
        lr_end=0.002,
        train_seconds=10.0,
        eval_seconds=1.0,
        images_per_second=100.0,
        total_train_seconds=10.0 * epoch,
        warmup_seconds=0.5,
        best_accuracy=epoch / 4,
        best_epoch=epoch,
        peak_memory_bytes=2**30,
    )
    return dataclasses.replace(values, **changes)


def write_run(run: Path, *, results: Sequence[EpochResult]) -> Path:
    """Write the JSON files of a run, and return its folder."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(TrainConfig(epochs=2).to_json()))
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (run / "metrics.jsonl").write_text("".join(json.dumps(each.to_json()) + "\n" for each in results))
    return run
