"""Measure predictions: confusion matrix, loss, recall and precision per class, top-5 accuracy, calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

CALIBRATION_BINS = 15
TOP = 5
"""The predictions that count in a top-5 accuracy; it is measured where there are more than twice as many classes."""

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The logits and the labels of every image of a data set, on the CPU."""

    logits: torch.Tensor
    """float32 [N, classes]."""
    labels: torch.Tensor
    """int64 [N], the true classes."""

    def loss(self) -> float:
        """Return the mean cross-entropy in nats."""
        return F.cross_entropy(self.logits.double(), self.labels).item()

    def confusion(self) -> torch.Tensor:
        """Count the images of each true class (row) and predicted class (column): int64 [classes, classes]."""
        classes = self.logits.shape[1]
        pairs = self.labels * classes + self.logits.argmax(dim=1)
        return torch.bincount(pairs, minlength=classes**2).view(classes, classes)

    def top5_accuracy(self) -> float | None:
        """Return the share of images whose true class has one of the five highest logits.

        None if there are at most ten classes, where it says little.
        """
        if self.logits.shape[1] <= 2 * TOP:
            return None
        hits = self.logits.topk(TOP, dim=1).indices == self.labels[:, None]
        return hits.any(dim=1).double().mean().item()

    def calibration_error(self, bins: int = CALIBRATION_BINS) -> float:
        """Return the expected calibration error, from 0 to 1.

        Images are put into `bins` bins of equal width by their confidence, the highest softmax probability. The result
        is the mean over all images of the difference between the accuracy and the mean confidence of their bin.

        Source: Guo et al., On Calibration of Modern Neural Networks, 2017.
        """
        confidence, predicted = self.logits.double().softmax(dim=1).max(dim=1)
        surplus = (predicted == self.labels).double() - confidence
        places = (confidence * bins).ceil().long().clamp(1, bins) - 1  # a bin includes its upper limit
        sums = torch.zeros(bins, dtype=torch.float64).index_add(0, places, surplus)
        return sums.abs().sum().item() / len(self.labels)


def class_recall(confusion: Counts) -> Floats:
    """Return the share of each class's images that are predicted as it: its accuracy. NaN for a class without images.

    `confusion` has a row per true class and a column per predicted class, int64 [classes, classes].
    """
    return _shares(confusion.diagonal(), confusion.sum(axis=1))


def class_precision(confusion: Counts) -> Floats:
    """Return the share of the predictions of each class that are right. NaN for a class that is never predicted."""
    return _shares(confusion.diagonal(), confusion.sum(axis=0))


def balanced_accuracy(confusion: Counts) -> float:
    """Return the mean recall of the classes that have images."""
    return float(np.nanmean(class_recall(confusion)))


def _shares(parts: Counts, wholes: Counts) -> Floats:
    return np.where(wholes > 0, parts / np.maximum(wholes, 1), np.nan)
