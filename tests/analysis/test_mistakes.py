from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fastcifar import TrainConfig, fit, load_checkpoint
from fastcifar.analysis.mistakes import Analysis, analyze, draw_augmented, most_confident_mistakes
from fastcifar.data.decode_all import decode_all
from fastcifar.data.writer import write_beton
from fastcifar.errors import CheckpointError
from fastcifar.inference.evaluate import load_classifier
from fastcifar.inference.metrics import Predictions
from tests.helpers import write_pair


@pytest.fixture(scope="module")
def run(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(epochs=1, run_dir=folder).replace(data_dir=betons, batch_size=100, device="cpu")
    fit(config)
    return folder


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return analyze(load_classifier(run, device="cpu"), top=5)


def _logits(predicted: list[int], margins: list[float], classes: int = 3) -> torch.Tensor:
    logits = torch.zeros(len(predicted), classes)
    for row, (label, margin) in enumerate(zip(predicted, margins, strict=True)):
        logits[row, label] = margin
    return logits


def test_confusion_and_loss_equal_a_count_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    predictions = Predictions.of(_logits([0, 1, 1, 1, 2, 0], [1.0] * 6), labels)
    assert predictions.confusion().tolist() == [[1, 1, 0], [0, 2, 1], [1, 0, 0]]
    right, wrong = np.log(np.e + 2) - 1, np.log(np.e + 2)
    assert predictions.loss() == pytest.approx((3 * right + 3 * wrong) / 6)


def test_the_most_confident_mistakes_come_first_and_ties_keep_their_order() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 0])
    margins = [9.0, 2.0, 5.0, 2.0, 1.0, 8.0, 5.0]
    predictions = Predictions.of(_logits([0, 1, 2, 1, 1, 2, 2], margins), labels)
    found = most_confident_mistakes(predictions, 4)
    assert [(each.index, each.truth, each.predicted) for each in found] == [(2, 1, 2), (6, 0, 2), (1, 0, 1), (3, 2, 1)]
    assert found[0].confidence == pytest.approx(np.exp(5) / (np.exp(5) + 2))
    assert len(most_confident_mistakes(predictions, 100)) == 5
    assert most_confident_mistakes(Predictions.of(_logits([0], [1.0]), torch.tensor([0])), 3) == ()


def test_the_analysis_equals_a_count_over_the_whole_test_set(run: Path, betons: Path, analysis: Analysis) -> None:
    images, labels = decode_all(betons / "test.beton")
    model, _ = load_checkpoint(run, "last")
    values = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    mean, std = np.array(values["mean"], dtype=np.float32), np.array(values["std"], dtype=np.float32)
    pixels = torch.from_numpy((images.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        probabilities = model(pixels).double().softmax(dim=1).numpy()
    predicted = probabilities.argmax(axis=1)
    counts = Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
    assert {place: int(count) for place, count in np.ndenumerate(analysis.confusion) if count} == dict(counts)
    for label in range(10):
        right = sum(1 for truth, guess in zip(labels, predicted, strict=True) if truth == guess == label)
        assert analysis.class_accuracy[label] == pytest.approx(right / int((labels == label).sum()))
    assert analysis.accuracy == pytest.approx(float((labels == predicted).mean()))
    wrong = sorted(np.flatnonzero(labels != predicted), key=lambda index: -probabilities[index].max())[:5]
    assert [mistake.index for mistake in analysis.mistakes] == wrong
    assert np.array_equal(analysis.images, images[wrong])


def test_a_class_without_images_has_no_accuracy(analysis: Analysis) -> None:
    confusion = analysis.confusion.copy()
    confusion[3] = 0
    shares = dataclasses.replace(analysis, confusion=confusion).class_accuracy
    assert np.isnan(shares[3])
    assert not np.isnan(np.delete(shares, 3)).any()


def test_augmented_samples_use_the_settings_of_the_run_and_keep_the_random_state(run: Path, betons: Path) -> None:
    images, labels = decode_all(betons / "train.beton")
    loaded = load_classifier(run, device="cpu")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    samples = draw_augmented(loaded, samples=3, variants=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert samples.variants.shape == (3, 4, 32, 32, 3)
    for row in range(3):
        assert np.array_equal(samples.originals[row], images[np.flatnonzero(labels == row)[0]])
    again = draw_augmented(loaded, samples=3, variants=4)
    assert np.array_equal(samples.variants, again.variants)
    unchanged = loaded.config.replace(padding=0, flip_p=0.0, cutout=0)
    same = draw_augmented(dataclasses.replace(loaded, config=unchanged), samples=3, variants=2)
    assert np.array_equal(same.variants, np.repeat(same.originals[:, None], 2, axis=1))
    alternating = unchanged.replace(alternate_flip=True)
    flipped = draw_augmented(dataclasses.replace(loaded, config=alternating), samples=2, variants=3).variants
    assert np.array_equal(flipped[:, 1], samples.originals[:2, :, ::-1])
    assert np.array_equal(flipped[:, ::2], np.repeat(samples.originals[:2, None], 2, axis=1))


def test_data_with_other_classes_is_an_error(run: Path, tmp_path: Path) -> None:
    write_pair(tmp_path, train=20, test=20)
    images, labels = decode_all(tmp_path / "train.beton")
    write_beton(tmp_path / "train.beton", images, labels % 2, class_names=("ant", "bee"), name="other")
    with pytest.raises(CheckpointError, match="has others"):
        draw_augmented(load_classifier(run, device="cpu", data_dir=tmp_path))
