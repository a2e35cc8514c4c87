"""A network as it computes: augmentation, then the model in its precision, on its device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.augment import mirror
from fastcifar.config import ViewSettings
from fastcifar.data.loader import BetonLoader
from fastcifar.training.graphs import Recorded
from fastcifar.training.runtime import Runtime
from fastcifar.training.stop import StopRequest

TrainingLoss = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor | None, int | None, float], tuple[torch.Tensor, torch.Tensor]
]

PLAIN_VIEW = ViewSettings()
"""Each image as it is, once."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """From uint8 images to logits, and to the loss that it trains on."""

    model: nn.Module
    augmentation: nn.Module
    runtime: Runtime
    recorded: dict[tuple[int, str, float], Recorded] = field(default_factory=dict)
    """Evaluations of a batch as CUDA graphs, by images, `tta` and `tta_share`."""

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

    @functools.cached_property
    def training_loss(self) -> TrainingLoss:
        """(images, labels, mirrored, size, label_smoothing) to the mean loss and the number of right answers.

        One region from uint8 pixels to the loss, if it is compiled, and from there back. Images and labels are a
        batch's, `mirrored`, bool [B] or None, names the images to mirror first, `size` is as in `logits`.
        """
        return self.runtime.compiled(self._training_loss)

    def _training_loss(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        mirrored: torch.Tensor | None,
        size: int | None,
        label_smoothing: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if mirrored is not None:
            images = mirror(images, mirrored)
        logits = self.logits(images, size)
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        return loss, (logits.detach().argmax(dim=1) == labels).sum()

    def padded_logits(self, images: torch.Tensor, batch_size: int, views: ViewSettings = PLAIN_VIEW) -> torch.Tensor:
        """The same in the shape that was compiled or recorded: a smaller batch is filled up, the filling cut off.

        Args:
            images: uint8 [B, 3, H, W].
            batch_size: what was compiled or recorded for.
            views: test-time augmentation, whose logits are averaged.
        """
        count = len(images)
        recorded = self.recorded.get((batch_size, views.tta, views.tta_share))
        if (self.runtime.compile_mode or recorded) and count < batch_size:
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, batch_size - count))  # in the same order of memory
        counted = torch.full((), count, device=images.device)
        logits = recorded(images, counted) if recorded else self.looked_at(images, counted, views)
        return logits[:count].clone()  # a CUDA graph would write over it

    def looked_at(self, images: torch.Tensor, count: torch.Tensor, views: ViewSettings) -> torch.Tensor:
        """float32 logits [B, classes], averaged over views where `views` says so, of which the first `count`, int64 [],
        are wanted."""
        normalized = self.augmentation(images)
        logits = self._forward(normalized)
        if views.tta == "none":
            return logits
        wanted = torch.arange(len(logits), device=logits.device) < count
        confidence = logits.softmax(dim=1).amax(dim=1).where(wanted, torch.inf)
        doubtful = confidence.topk(round(views.tta_share * len(logits)), largest=False).indices
        weights, others = _views(normalized[doubtful], views.tta)
        again = self._forward(torch.cat(others).contiguous(memory_format=self.runtime.memory_format))
        again = again.view(len(others), len(doubtful), -1)
        average = (1 - sum(weights)) * logits[doubtful]
        for weight, view in zip(weights, again, strict=True):
            average = average + weight * view
        return logits.index_copy(0, doubtful, average)

    def _forward(self, normalized: torch.Tensor) -> torch.Tensor:
        with self.runtime.autocast():
            logits: torch.Tensor = self.model(normalized)
        return logits.float()


def shrink(images: torch.Tensor, size: int) -> torch.Tensor:
    """float images [B, C, H, W] to [B, C, size, size], bilinear."""
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def _views(images: torch.Tensor, tta: str) -> tuple[list[float], list[torch.Tensor]]:
    """The weights of other looks at images, the plain one having the rest, and these looks.

    Source: KellerJordan/cifar10-airbench: mirrored or not, and, half of the weight, shifted by a pixel along one
    diagonal or the other way.
    """
    if tta == "flip":
        return [0.5], [images.flip(-1)]
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    shifted = [padded[:, :, first : first + height, first : first + width] for first in (0, 2)]
    return [0.25, *[0.125] * 4], [images.flip(-1), *shifted, *(view.flip(-1) for view in shifted)]


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
