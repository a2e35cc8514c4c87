"""The class weights make rare classes count as much as common ones, in the loss of each kind of step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastcifar import TrainConfig
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.errors import ConfigError
from fastcifar.inference.model import predict
from fastcifar.training.loop import fit
from fastcifar.training.reset import reset
from fastcifar.training.state import create_state
from fastcifar.training.step import run_step
from fastcifar.training.warmup import warm_up
from tests.helpers import tiny_state

NAMES = tuple(SHAPES)


def write_imbalanced(folder: Path, counts: dict[int, int]) -> Path:
    """Write training images with these counts per class, and a balanced test set."""
    (images, labels), test = draw_synthetic(train=3000, test=300)
    kept = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in counts.items()])
    write_beton(folder / "train.beton", images[kept], labels[kept], class_names=NAMES, name="rare")
    write_beton(folder / "test.beton", *test, class_names=NAMES, name="rare")
    return folder


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two common classes, seven rare ones, an empty one."""
    counts = {label: 280 if label < 2 else 20 for label in range(9)}
    return write_imbalanced(tmp_path_factory.mktemp("rare"), counts)


@pytest.fixture
def config(config: TrainConfig, rare: Path) -> TrainConfig:
    return config.replace(data_dir=rare, class_weights="balanced", amp=False)


def write_overlapping(folder: Path) -> Path:
    """Write two classes, one of them rare in training, that differ in brightness, and not always clearly."""
    generator = np.random.default_rng(0)
    for split, counts in (("train", (560, 40)), ("test", (200, 200))):
        labels = np.repeat([0, 1], counts)
        brightness = generator.normal(110 + 40 * labels, 25)[:, None, None, None]
        images = np.clip(brightness + generator.normal(0, 10, (len(labels), 32, 32, 3)), 0, 255).astype(np.uint8)
        write_beton(folder / f"{split}.beton", images, labels, class_names=NAMES, name="brightness")
    return folder


def balanced_accuracy(config: TrainConfig) -> float:
    """Train, and return the mean of the two classes' accuracies on the test set."""
    with tiny_state(config) as state:
        fit(state)
        logits, labels = map(torch.cat, zip(*predict(state.classifier, state.test_loader), strict=True))
    correct = (logits.argmax(dim=1) == labels).float()
    return float(np.mean([correct[labels == label].mean() for label in (0, 1)]))


def test_a_class_has_the_weight_of_all_images_divided_by_classes_and_its_images(config: TrainConfig) -> None:
    with tiny_state(config) as state:
        weights = state.classifier.class_weights
        assert weights is not None
        assert weights.tolist() == pytest.approx([700 / (9 * 280)] * 2 + [700 / (9 * 20)] * 7 + [0])
        assert weights[torch.from_numpy(state.train_loader.labels)].mean().item() == pytest.approx(1, abs=1e-6)
        assert state.notes == [f"warning: classes without an image to train on: {NAMES[9]}"]
    with tiny_state(config.replace(class_weights="none")) as state:
        assert state.classifier.class_weights is None


def test_weights_are_those_of_the_images_that_are_trained_on(config: TrainConfig) -> None:
    with tiny_state(config.replace(subset=0.5, val_fraction=0.2)) as state:
        counts = np.bincount(state.train_loader.labels, minlength=10)
        assert state.classifier.class_weights is not None
        assert state.classifier.class_weights.tolist()[:9] == pytest.approx((counts.sum() / (9 * counts[:9])).tolist())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_of_the_weighted_losses_of_the_images(config: TrainConfig, smoothing: float) -> None:
    with tiny_state(config.replace(label_smoothing=smoothing)) as state:
        classifier = state.classifier
        images, labels = next(state.train_loader.batches(0))
        classifier.train(False)
        loss, _, _ = classifier.loss(images, labels, None, None, smoothing, False)
        log_probabilities = classifier.logits(images).log_softmax(dim=1)
        target = (1 - smoothing) * F.one_hot(labels, 10) + smoothing / 10
        expected = -(target * log_probabilities).sum(dim=1) * classifier.class_weights[labels]  # type: ignore[index]
        assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_balanced_accuracy_rises_on_imbalanced_data(config: TrainConfig, tmp_path: Path) -> None:
    plain = config.replace(
        data_dir=write_overlapping(tmp_path), class_weights="none", epochs=6, max_lr=0.01, cutout=0, padding=0
    )
    accuracy = balanced_accuracy(plain)
    weighted = balanced_accuracy(plain.replace(class_weights="balanced"))
    sampled = balanced_accuracy(plain.replace(sampler="balanced"))
    assert min(weighted, sampled) > accuracy + 0.05, (accuracy, weighted, sampled)


def test_a_reset_overwrites_the_weights_in_place(config: TrainConfig) -> None:
    run = config.replace(val_fraction=0.1, model="speed_cnn", widths=(8, 8, 8))
    with create_state(run) as state:
        weights = state.classifier.class_weights
        assert weights is not None
        before = weights.clone()
        weights.zero_()
        reset(state, run.replace(seed=1))
        assert state.classifier.class_weights is weights
        assert torch.equal(weights, before)


def test_weights_and_a_balanced_sampler_together_are_refused(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="class_weights is 'balanced'; it must be 'none' with the sampler"):
        config.replace(sampler="balanced")


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["compile", "cuda_graphs"])
def test_a_gpu_computes_the_same_weighted_loss(config: TrainConfig, how: str) -> None:
    losses = []
    for settings in ({}, {how: True}):
        run = config.replace(device="cuda", cutout=0, padding=0, flip_p=0.0, epochs=1, **settings)
        with tiny_state(run) as state:
            step = warm_up(state).run_step if settings else lambda *batch: run_step(state, *batch)
            batches = enumerate(state.train_loader.batches(0))
            losses.append([step(images, labels, number, None).loss.item() for number, (images, labels) in batches])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
