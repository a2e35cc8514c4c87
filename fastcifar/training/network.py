"""A network as it computes: augmentation, then the model in its precision, on its device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.config import ViewSettings
from fastcifar.data.loader import BetonLoader
from fastcifar.training.runtime import Runtime
from fastcifar.training.stop import StopRequest

PLAIN_VIEW = ViewSettings()
"""Each image as it is, once."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """From uint8 images to logits."""

    model: nn.Module
    augmentation: nn.Module
    runtime: Runtime

    def train(self, mode: bool = True) -> None:
        """Augment and take batch statistics, or, with False, only normalise and use the running ones."""
        self.model.train(mode)
        self.augmentation.train(mode)

    def logits(self, images: torch.Tensor, size: int | None = None) -> torch.Tensor:
        """float32 logits [B, classes] of uint8 images [B, 3, H, W] on the device, shrunk to `size` pixels a side."""
        normalized = self.augmentation(images)
        if size is not None and size < normalized.shape[-1]:
            normalized = shrink(normalized, size)
        return self._forward(normalized)

    def padded_logits(self, images: torch.Tensor, batch_size: int, views: ViewSettings = PLAIN_VIEW) -> torch.Tensor:
        """The same in the shape that was compiled: a smaller batch is filled up, and the filling's rows are cut off.

        Args:
            images: uint8 [B, 3, H, W].
            batch_size: what was compiled for.
            views: test-time augmentation, whose logits are averaged.
        """
        count = len(images)
        if self.runtime.compile_mode and count < batch_size:
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, batch_size - count))  # in the same order of memory
        normalized = self.augmentation(images)
        logits = self._forward(normalized).clone()  # a CUDA graph would write over it
        if views.tta != "none":
            self._look_again(normalized, logits, count, views)
        return logits[:count]

    def _look_again(self, normalized: torch.Tensor, logits: torch.Tensor, count: int, views: ViewSettings) -> None:
        """Average the least confident images' logits, in place, with those of their other views."""
        confidence = logits.softmax(dim=1).amax(dim=1)
        confidence[count:] = torch.inf
        doubtful = confidence.topk(round(views.tta_share * len(normalized)), largest=False).indices
        plain = logits[doubtful]
        average = plain.clone()
        for weight, view in _views(normalized[doubtful], views.tta):
            average += weight * (self._forward(view.contiguous(memory_format=self.runtime.memory_format)) - plain)
        logits[doubtful] = average

    def _forward(self, normalized: torch.Tensor) -> torch.Tensor:
        with self.runtime.autocast():
            logits: torch.Tensor = self.model(normalized)
        return logits.float()


def shrink(images: torch.Tensor, size: int) -> torch.Tensor:
    """float images [B, C, H, W] to [B, C, size, size], bilinear."""
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def _views(images: torch.Tensor, tta: str) -> Iterator[tuple[float, torch.Tensor]]:
    """Other looks at images, with the weights of their logits beside the plain ones'.

    Source: KellerJordan/cifar10-airbench: mirrored or not, and, half of the weight, shifted by a pixel along one
    diagonal or the other way.
    """
    shifted = 0.5 if tta == "flip-shift" else 0.0
    yield (1 - shifted) / 2, images.flip(-1)
    if shifted:
        height, width = images.shape[2:]
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        for first in (0, 2):
            view = padded[:, :, first : first + height, first : first + width]
            yield shifted / 4, view
            yield shifted / 4, view.flip(-1)


@torch.no_grad()
def predict(
    network: Network, loader: BetonLoader, views: ViewSettings = PLAIN_VIEW
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """float32 logits [B, classes] and int64 labels [B] of every image of a loader, in its order."""
    network.train(False)
    for images, labels in loader:
        yield network.padded_logits(images, loader.batch_size, views), labels


@torch.no_grad()
def evaluate(
    network: Network, loader: BetonLoader, views: ViewSettings = PLAIN_VIEW, stop: StopRequest | None = None
) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy over a loader's images, read from the device once.

    Raises:
        StoppedError: `stop` asked for it, between two batches.
    """
    totals = torch.zeros(2, device=network.runtime.device, dtype=torch.float64)
    for logits, labels in predict(network, loader, views):
        loss = F.cross_entropy(logits, labels, reduction="sum")
        totals += torch.stack((loss, (logits.argmax(dim=1) == labels).sum()))
        if stop:
            stop.check()
    loss_sum, correct = totals.tolist()
    return loss_sum / loader.samples, correct / loader.samples
