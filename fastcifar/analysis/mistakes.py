"""Compute the data for a run's figures: its mistakes on the test set, and examples of its augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fastcifar.analysis.grad_cam import grad_cam
from fastcifar.augment import create_augmentation, hflip, normalization_scale
from fastcifar.data.beton_format import read_index
from fastcifar.data.images import Images
from fastcifar.data.manifest import open_beton
from fastcifar.errors import CheckpointError
from fastcifar.inference.evaluate import LoadedCheckpoint, open_test_loader, predict_all
from fastcifar.inference.metrics import Counts, Predictions, balanced_accuracy, class_precision, class_recall
from fastcifar.inference.model import ImageClassifier
from fastcifar.names import list_names
from fastcifar.progress import OnProgress

GRAD_CAM_BATCH = 32
"""Images per batch of Grad-CAM."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test image that the network classifies wrongly."""

    index: int
    """The position of the image in test.beton, from 0."""
    truth: int
    """The true class."""
    predicted: int
    confidence: float
    """The softmax probability of `predicted`."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The predictions of a checkpoint on the whole test set, and its most confident mistakes."""

    class_names: tuple[str, ...]
    loss: float
    """Mean cross-entropy in nats."""
    top5_accuracy: float | None
    """The share of images whose class is among the five most likely ones; None if there are at most ten classes."""
    calibration_error: float
    """Expected calibration error of the softmax probabilities, with 15 bins, from 0 to 1."""
    confusion: Counts
    """[classes, classes]: images of each true class (row) by predicted class (column)."""
    mistakes: tuple[Mistake, ...]
    """The most confident mistakes, in order of decreasing confidence."""
    images: Images
    """uint8 [M, H, W, 3], the images of `mistakes`."""
    predicted_maps: Floats
    """float32 [M, H, W] from 0 to 1: Grad-CAM for the predicted class."""
    truth_maps: Floats
    """float32 [M, H, W] from 0 to 1: Grad-CAM for the true class."""

    @property
    def accuracy(self) -> float:
        """Accuracy on the whole test set, from 0 to 1."""
        return float(self.confusion.trace() / self.confusion.sum())

    @property
    def class_counts(self) -> Counts:
        """Images per true class."""
        counts: Counts = self.confusion.sum(axis=1)
        return counts

    @property
    def class_accuracy(self) -> Floats:
        """Accuracy within each class (its recall), from 0 to 1; NaN for a class without images."""
        return class_recall(self.confusion)

    @property
    def class_precision(self) -> Floats:
        """The share of the predictions of each class that are right, from 0 to 1; NaN for a class never predicted."""
        return class_precision(self.confusion)

    @property
    def balanced_accuracy(self) -> float:
        """The mean accuracy of the classes that have images, from 0 to 1."""
        return balanced_accuracy(self.confusion)


@dataclass(frozen=True, kw_only=True)
class AugmentedSamples:
    """Training images, and the augmented images on which the network is trained instead."""

    names: tuple[str, ...]
    """The class of each image."""
    originals: Images
    """uint8 [K, H, W, 3]."""
    variants: Images
    """uint8 [K, V, H, W, 3]: V augmented versions of each image, with the normalisation undone."""


def analyze(loaded: LoadedCheckpoint, *, top: int = 20, on_progress: OnProgress | None = None) -> Analysis:
    """Predict the whole test set, and explain the `top` most confident mistakes.

    `on_progress` is called after each batch of predictions.

    Raises:
        CheckpointError: the test set has other classes or another image size.
        DataError: the .beton is missing or damaged.
    """
    with open_test_loader(loaded) as loader:
        predictions = predict_all(loaded.classifier, loader, on_progress)
    mistakes = most_confident_mistakes(predictions, top)
    index = read_index(loaded.config.data.data_dir / "test.beton")
    images = index.images([mistake.index for mistake in mistakes])
    return Analysis(
        class_names=loaded.class_names,
        loss=predictions.loss(),
        top5_accuracy=predictions.top5_accuracy(),
        calibration_error=predictions.calibration_error(),
        confusion=predictions.confusion().numpy(),
        mistakes=mistakes,
        images=images,
        predicted_maps=explain(loaded.classifier, images, [mistake.predicted for mistake in mistakes]),
        truth_maps=explain(loaded.classifier, images, [mistake.truth for mistake in mistakes]),
    )


def most_confident_mistakes(predictions: Predictions, top: int) -> tuple[Mistake, ...]:
    """Find the `top` misclassified images with the highest probability of the wrong class; ties keep their order."""
    predicted, labels, confidence = predictions.predicted, predictions.labels, predictions.confidence
    wrong = (predicted != labels).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:top]
    return tuple(
        Mistake(
            index=index, truth=int(labels[index]), predicted=int(predicted[index]), confidence=float(confidence[index])
        )
        for index in order.tolist()
    )


def explain(classifier: ImageClassifier, images: Images, targets: list[int]) -> Floats:
    """Compute Grad-CAM maps, float32 [M, H, W] from 0 to 1, of uint8 images [M, H, W, 3], each for its target class."""
    device = classifier.runtime.device
    maps = [np.empty((0, *images.shape[1:3]), dtype=np.float32)]
    for start in range(0, len(images), GRAD_CAM_BATCH):
        batch = torch.from_numpy(images[start : start + GRAD_CAM_BATCH]).permute(0, 3, 1, 2).to(device)
        classes = torch.tensor(targets[start : start + GRAD_CAM_BATCH], device=device)
        maps.append(grad_cam(classifier.model, classifier.augmentation(batch), classes).cpu().numpy())
    return np.concatenate(maps)


def draw_augmented(loaded: LoadedCheckpoint, *, samples: int = 6, variants: int = 5) -> AugmentedSamples:
    """Augment the first training image of each of the first `samples` classes `variants` times, as the run does.

    For a run with `alternate_flip`, every other variant is flipped. The random numbers come from the run's seed, and
    torch's generators are not changed.

    Raises:
        CheckpointError: the training set has other classes.
        DataError: the .beton is missing or damaged.
    """
    path = loaded.config.data.data_dir / "train.beton"
    index, manifest = open_beton(path, verify=False)
    if manifest.class_names != loaded.class_names:
        raise CheckpointError(f"{loaded.path}: was trained on {list_names(loaded.class_names)}; {path} has others")
    labels, first = np.unique(index.labels, return_index=True)
    originals = index.images(first[:samples].tolist())
    settings, size = loaded.config.augment, manifest.image_shape[0]
    augmentation = create_augmentation(settings, mean=manifest.mean, std=manifest.std, size=size)
    batch = torch.from_numpy(originals).permute(0, 3, 1, 2).repeat_interleave(variants, dim=0)
    if settings.alternate_flip:
        batch = hflip(batch, torch.arange(len(batch)) % variants % 2 == 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(loaded.config.runtime.seed)
        drawn = augmentation(batch).permute(0, 2, 3, 1).float().numpy()
    names = tuple(manifest.class_names[label] for label in labels[:samples])
    scale, mean = np.array(normalization_scale(manifest.std)), np.array(manifest.mean)
    pixels = np.rint(255 * (drawn * scale + mean)).clip(0, 255).astype(np.uint8)
    return AugmentedSamples(
        names=names, originals=originals, variants=pixels.reshape(len(originals), variants, *originals.shape[1:])
    )
