"""What the pictures of a run need, computed from its folder and its data: nothing here is drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fastcifar.analysis.grad_cam import grad_cam
from fastcifar.augment import create_augmentation, hflip
from fastcifar.data.beton_format import BetonIndex, read_index
from fastcifar.data.images import Images
from fastcifar.data.manifest import open_beton
from fastcifar.errors import CheckpointError
from fastcifar.inference.evaluate import LoadedCheckpoint, Predictions, open_test_loader, predict_all
from fastcifar.inference.model import ImageClassifier

GRAD_CAM_BATCH = 32
"""Images explained at once."""

Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One image that the network takes for something else."""

    index: int
    """Its position in test.beton, from 0."""
    truth: int
    predicted: int
    confidence: float
    """The softmax probability of `predicted`."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """How a checkpoint does on the whole test set, image by image."""

    class_names: tuple[str, ...]
    loss: float
    """Mean cross-entropy in nats."""
    confusion: Counts
    """[classes, classes]: images of each true class (row) by predicted class (column)."""
    mistakes: tuple[Mistake, ...]
    """The most confident ones, the most confident first."""
    images: Images
    """uint8 [M, H, W, 3], of `mistakes`."""
    predicted_maps: Floats
    """float32 [M, H, W] from 0 to 1: Grad-CAM for the class that the network says."""
    truth_maps: Floats
    """The same for the true class."""

    @property
    def accuracy(self) -> float:
        """From 0 to 1."""
        return float(self.confusion.trace() / self.confusion.sum())

    @property
    def class_counts(self) -> Counts:
        """Images of each class."""
        counts: Counts = self.confusion.sum(axis=1)
        return counts

    @property
    def class_accuracy(self) -> Floats:
        """Share of each class's images that are recognised, from 0 to 1; NaN for a class without images."""
        counts = self.class_counts
        return np.where(counts > 0, self.confusion.diagonal() / np.maximum(counts, 1), np.nan)


@dataclass(frozen=True, kw_only=True)
class AugmentedSamples:
    """Training images beside what the network is trained on in their place."""

    names: tuple[str, ...]
    """The class of each image."""
    originals: Images
    """uint8 [K, H, W, 3]."""
    variants: Images
    """uint8 [K, V, H, W, 3]: the augmented images, normalisation undone."""


def analyze(saved: LoadedCheckpoint, *, top: int = 20) -> Analysis:
    """Predict the whole test set, and look at the `top` most confident mistakes.

    Raises:
        CheckpointError: the data has other classes or another image size.
        DataError: the .beton is missing or damaged.
    """
    with open_test_loader(saved) as loader:
        predictions = predict_all(saved.classifier, loader)
    mistakes = most_confident_mistakes(predictions, top)
    images = _pick(read_index(saved.config.data.data_dir / "test.beton"), [mistake.index for mistake in mistakes])
    return Analysis(
        class_names=saved.class_names,
        loss=predictions.loss(),
        confusion=predictions.confusion().numpy(),
        mistakes=mistakes,
        images=images,
        predicted_maps=explain(saved.classifier, images, [mistake.predicted for mistake in mistakes]),
        truth_maps=explain(saved.classifier, images, [mistake.truth for mistake in mistakes]),
    )


def most_confident_mistakes(predictions: Predictions, top: int) -> tuple[Mistake, ...]:
    """The `top` misclassified images with the highest probability of the wrong class; of equal ones the first."""
    predicted = predictions.logits.argmax(dim=1)
    confidence = predictions.logits.double().softmax(dim=1).gather(1, predicted[:, None]).squeeze(1)
    wrong = (predicted != predictions.labels).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:top]
    return tuple(
        Mistake(index=index, truth=truth, predicted=said, confidence=sure)
        for index, truth, said, sure in zip(
            order.tolist(),
            predictions.labels[order].tolist(),
            predicted[order].tolist(),
            confidence[order].tolist(),
            strict=True,
        )
    )


def explain(network: ImageClassifier, images: Images, targets: list[int]) -> Floats:
    """Grad-CAM maps, float32 [M, H, W] from 0 to 1, of uint8 images [M, H, W, 3] for a class each; in float32."""
    device = network.runtime.device
    maps = [np.empty((0, *images.shape[1:3]), dtype=np.float32)]
    for start in range(0, len(images), GRAD_CAM_BATCH):
        batch = torch.from_numpy(images[start : start + GRAD_CAM_BATCH]).permute(0, 3, 1, 2).to(device)
        classes = torch.tensor(targets[start : start + GRAD_CAM_BATCH], device=device)
        maps.append(grad_cam(network.model, network.augmentation(batch), classes).cpu().numpy())
    return np.concatenate(maps)


def draw_augmented(saved: LoadedCheckpoint, *, samples: int = 6, variants: int = 5) -> AugmentedSamples:
    """The first training image of each of the first classes, and what the run's own augmentation makes of it.

    A run that mirrors in alternate epochs has every other variant mirrored. The draws come from the run's seed and
    leave torch's generators as they were.

    Raises:
        CheckpointError: the training set has other classes.
        DataError: the .beton is missing or damaged.
    """
    path = saved.config.data.data_dir / "train.beton"
    layout, manifest = open_beton(path, verify=False)
    if manifest.class_names != saved.class_names:
        raise CheckpointError(f"{saved.path}: was trained on {', '.join(saved.class_names)}; {path} has others")
    labels, first = np.unique(layout.labels, return_index=True)
    originals = _pick(layout, first[:samples].tolist())
    augmentation = create_augmentation(
        saved.config.augment, mean=manifest.mean, std=manifest.std, size=manifest.image_shape[0]
    )
    batch = torch.from_numpy(originals).permute(0, 3, 1, 2).repeat_interleave(variants, dim=0)
    if saved.config.augment.alternate_flip:
        batch = hflip(batch, torch.arange(len(batch)) % variants % 2 == 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(saved.config.runtime.seed)
        drawn = augmentation(batch).permute(0, 2, 3, 1).float().numpy()
    pixels = np.rint(255 * (drawn * np.array(manifest.std) + np.array(manifest.mean))).clip(0, 255).astype(np.uint8)
    return AugmentedSamples(
        names=tuple(manifest.class_names[label] for label in labels[:samples]),
        originals=originals,
        variants=pixels.reshape(len(originals), variants, *originals.shape[1:]),
    )


def _pick(layout: BetonIndex, indices: list[int]) -> Images:
    """The images at these places of a .beton, uint8 [M, H, W, 3]."""
    chosen = dataclasses.replace(
        layout, samples=len(indices), labels=layout.labels[indices], offsets=layout.offsets[indices]
    )
    return chosen.images()
