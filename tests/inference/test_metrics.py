from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fastcifar import TrainConfig, fit
from fastcifar.cli import main
from fastcifar.data.writer import write_beton
from fastcifar.inference.evaluate import evaluate_checkpoint
from fastcifar.inference.metrics import Predictions, balanced_accuracy, class_precision, class_recall

CONFUSION = np.array([[6, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 5]])
"""Class 2 has no images, and is never predicted."""


def _predictions(rows: list[list[float]], labels: list[int]) -> Predictions:
    """Predictions with these probabilities."""
    return Predictions.of(torch.tensor(rows).log(), torch.tensor(labels))


def test_recall_precision_and_balanced_accuracy_equal_a_count_by_hand() -> None:
    assert class_recall(CONFUSION).tolist() == pytest.approx([0.75, 0.5, math.nan, 1.0], nan_ok=True)
    assert class_precision(CONFUSION).tolist() == pytest.approx([6 / 7, 1 / 3, math.nan, 1.0], nan_ok=True)
    assert balanced_accuracy(CONFUSION) == pytest.approx((0.75 + 0.5 + 1.0) / 3)


def test_a_class_that_is_never_predicted_has_a_recall_of_0_and_no_precision() -> None:
    confusion = np.array([[3, 0], [2, 0]])
    assert class_recall(confusion).tolist() == [1.0, 0.0]
    assert class_precision(confusion).tolist() == pytest.approx([0.6, math.nan], nan_ok=True)
    assert balanced_accuracy(confusion) == 0.5


def test_the_calibration_error_is_the_mean_difference_of_confidence_and_accuracy_in_each_bin() -> None:
    # bins of width 0.2: two images in (0.4, 0.6], one of them right; two in (0.8, 1], one right; one in (0.6, 0.8]
    predictions = _predictions([[0.55, 0.45], [0.41, 0.59], [0.9, 0.1], [0.05, 0.95], [0.7, 0.3]], [0, 0, 1, 1, 0])
    by_hand = (abs(0.55 + 0.59 - 1) + abs(0.9 + 0.95 - 1) + abs(0.7 - 1)) / 5
    assert predictions.calibration_error(bins=5) == pytest.approx(by_hand)
    each_alone = (0.45 + 0.59 + 0.9 + 0.05 + 0.3) / 5
    assert predictions.calibration_error(bins=1000) == pytest.approx(each_alone)
    assert predictions.calibration_error(bins=1) == pytest.approx(abs(0.55 + 0.59 + 0.9 + 0.95 + 0.7 - 3) / 5)


def test_a_bin_of_the_calibration_error_includes_its_upper_limit() -> None:
    predictions = _predictions([[0.5, 0.5], [0.6, 0.4]], [1, 0])  # wrong, right: apart in (0.25, 0.5] and (0.5, 0.75]
    assert predictions.calibration_error(bins=4) == pytest.approx((0.5 + 0.4) / 2)


def test_certain_predictions_have_a_calibration_error_of_0_if_right_and_1_if_wrong() -> None:
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert Predictions.of(logits, torch.tensor([0, 1])).calibration_error() == 0
    assert Predictions.of(logits, torch.tensor([1, 0])).calibration_error() == 1


def test_the_top_5_accuracy_counts_the_five_highest_logits_of_more_than_ten_classes() -> None:
    logits = torch.arange(11.0).flip(0).repeat(3, 1)  # class 0 is the most likely one
    assert Predictions.of(logits, torch.tensor([0, 4, 5])).top5_accuracy() == pytest.approx(2 / 3)
    assert Predictions.of(logits[:, :10], torch.tensor([0, 4, 5])).top5_accuracy() is None


def test_an_evaluation_has_the_metrics_of_its_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator, classes = np.random.default_rng(0), 37
    for split, count in (("train", 64), ("test", 60)):
        labels = np.arange(count) % classes
        labels[labels == 1] = 1 if split == "train" else 0  # the test set has no images of class 1
        images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        names = tuple(f"class {label}" for label in range(classes))
        write_beton(tmp_path / f"{split}.beton", images, labels, class_names=names, name="noise")
    config = TrainConfig().replace(
        data_dir=tmp_path,
        batch_size=32,
        epochs=1,
        loader="memmap",
        device="cpu",
        run_dir=tmp_path / "run",
        model="dilated_cnn",
    )
    fit(config)
    evaluation = evaluate_checkpoint(tmp_path / "run", device="cpu")
    recall = evaluation.class_accuracy
    assert evaluation.class_images["class 1"] == 0
    assert math.isnan(recall.pop("class 1"))
    assert evaluation.balanced_accuracy == pytest.approx(np.mean(list(recall.values())))
    assert evaluation.top5_accuracy is not None
    assert evaluation.accuracy <= evaluation.top5_accuracy <= 1
    assert 0 <= evaluation.calibration_error <= 1
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["calibration_error"] == pytest.approx(evaluation.calibration_error)
    assert printed["class_accuracy"]["class 1"] is None
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "Left out, without test images: class 1" in shown
    assert "The 20 of 36 classes with the lowest recall" in shown
