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
    """What the metrics need of the prediction of each image of a data set: 33 bytes per image, for any classes."""

    classes: int
    labels: torch.Tensor
    """int64 [N], the true classes."""
    predicted: torch.Tensor
    """int64 [N], the classes with the highest logits."""
    confidence: torch.Tensor
    """float64 [N], the softmax probabilities of `predicted`."""
    losses: torch.Tensor
    """float64 [N], the cross-entropy in nats."""
    in_top5: torch.Tensor
    """bool [N], whether the true class has one of the five highest logits."""

    @classmethod
    def of(cls, logits: torch.Tensor, labels: torch.Tensor) -> Predictions:
        """Return the predictions of logits [N, classes] and the true classes, int64 [N], on their device."""
        predicted = logits.argmax(dim=1)  # of the logits: two probabilities may be equal where these are not
        best = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
        return cls(
            classes=logits.shape[1],
            labels=labels,
            predicted=predicted,
            confidence=logits.double().softmax(dim=1).gather(1, predicted[:, None]).squeeze(1),
            losses=F.cross_entropy(logits.double(), labels, reduction="none"),
            in_top5=(best == labels[:, None]).any(dim=1),
        )

    def new(self, count: int) -> Predictions:
        """Return predictions of `count` images, to be filled by `put`, for the same classes and on the same device."""
        tensors = {name: values.new_empty(count) for name, values in self._tensors().items()}
        return Predictions(classes=self.classes, **tensors)

    def put(self, start: int, part: Predictions) -> None:
        """Copy the predictions of a batch into those of the images from `start` on."""
        for name, values in part._tensors().items():
            getattr(self, name)[start : start + len(values)] = values

    def cpu(self) -> Predictions:
        """Return the predictions on the CPU."""
        return Predictions(classes=self.classes, **{name: values.cpu() for name, values in self._tensors().items()})

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: values for name, values in vars(self).items() if name != "classes"}

    def loss(self) -> float:
        """Return the mean cross-entropy in nats."""
        return self.losses.mean().item()

    def confusion(self) -> torch.Tensor:
        """Count the images of each true class (row) and predicted class (column): int64 [classes, classes]."""
        pairs = self.labels * self.classes + self.predicted
        return torch.bincount(pairs, minlength=self.classes**2).view(self.classes, self.classes)

    def top5_accuracy(self) -> float | None:
        """Return the share of images whose true class has one of the five highest logits.

        None if there are at most ten classes, where it says little.
        """
        return None if self.classes <= 2 * TOP else self.in_top5.double().mean().item()

    def calibration_error(self, bins: int = CALIBRATION_BINS) -> float:
        """Return the expected calibration error, from 0 to 1.

        Images are put into `bins` bins of equal width by their confidence, the highest softmax probability. The result
        is the mean over all images of the difference between the accuracy and the mean confidence of their bin.

        Source: Guo et al., On Calibration of Modern Neural Networks, 2017.
        """
        surplus = (self.predicted == self.labels).double() - self.confidence
        places = (self.confidence * bins).ceil().long().clamp(1, bins) - 1  # a bin includes its upper limit
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
