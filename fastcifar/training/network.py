"""A network as it computes: augmentation, then the model in its precision, on its device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.data.loader import BetonLoader
from fastcifar.training.runtime import Runtime


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

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """float32 logits [B, classes] of uint8 images [B, 3, H, W] on the device."""
        normalized = self.augmentation(images)
        with self.runtime.autocast():
            logits: torch.Tensor = self.model(normalized)
        return logits.float()

    def padded_logits(self, images: torch.Tensor, batch_size: int) -> torch.Tensor:
        """The same in the shape that was compiled: a smaller batch is filled up, and the filling's rows are cut off."""
        count = len(images)
        if self.runtime.compile_mode and count < batch_size:
            images = torch.cat((images, images.new_zeros(batch_size - count, *images.shape[1:])))
        return self.logits(images)[:count].clone()  # a CUDA graph would write over it


@torch.no_grad()
def predict(network: Network, loader: BetonLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """float32 logits [B, classes] and int64 labels [B] of every image of a loader, in its order."""
    network.train(False)
    for images, labels in loader:
        yield network.padded_logits(images, loader.batch_size), labels


@torch.no_grad()
def evaluate(network: Network, loader: BetonLoader) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy over a loader's images, read from the device once."""
    totals = torch.zeros(2, device=network.runtime.device, dtype=torch.float64)
    for logits, labels in predict(network, loader):
        loss = F.cross_entropy(logits, labels, reduction="sum")
        totals += torch.stack((loss, (logits.argmax(dim=1) == labels).sum()))
    loss_sum, correct = totals.tolist()
    return loss_sum / loader.samples, correct / loader.samples
