"""The image classifier: augmentation, then the network in its precision, on its device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcifar.augment import hflip
from fastcifar.data.loader import BetonLoader
from fastcifar.device import Runtime
from fastcifar.inference.tta import NO_TTA, tta_views
from fastcifar.pixels import MIN_SIZE, scale_pixels
from fastcifar.settings import TTASettings

LossFunction = Callable[[Tensor, Tensor, Tensor | None, int | None, float, bool], tuple[Tensor, Tensor, Tensor | None]]
LogitsFunction = Callable[[Tensor, int, TTASettings], Tensor]
"""A function from images, the fixed batch size and the test-time augmentation to logits, as `fixed_batch_logits`."""


class ImageClassifier:
    """A network with its augmentation: computes logits and the training loss from uint8 images.

    The network takes normalised images [B, 3, H, W] and returns logits [B, classes]. The augmentation turns uint8
    images into normalised ones; in eval mode it only normalises. The runtime is device, precision and compilation.
    """

    def __init__(self, *, model: nn.Module, augmentation: nn.Module, runtime: Runtime) -> None:
        self.model, self.augmentation, self.runtime = model, augmentation, runtime
        self.trained: nn.Module = model
        """The network that a training step calls: the same one, or the one that averages gradients over processes."""
        self.class_weights: Tensor | None = None
        """float32 [classes] on the device: factors of the images' training losses, by their classes; None for 1."""

    def train(self, mode: bool = True) -> None:
        """Augment and use batch statistics; or, with False, only normalise and use the running statistics."""
        self.model.train(mode)
        self.augmentation.train(mode)

    def logits(self, images: Tensor, size: int | None = None) -> Tensor:
        """Return float32 logits [B, classes] of uint8 images [B, 3, H, W], reduced in between if `size` is given.

        `size` is the new side in pixels of 32 × 32 images; others are reduced in proportion, to `MIN_SIZE` at least.
        """
        normalized = self.augmentation(images)
        if size is not None:
            normalized = reduce_images(normalized, size)
        return self._forward(normalized)

    @functools.cached_property
    def loss(self) -> LossFunction:
        """The training loss, as a function that returns mean loss, count of correct predictions, and samples.

        Its arguments are images, labels, flip, size, label_smoothing and with_samples. `flip`, bool [B] or None,
        selects the images to flip first; `size` is that of `logits`. The samples are the `sample_metrics` of the batch,
        None without `with_samples`. If compiled, everything from uint8 pixels to the loss is one region.
        """
        return self.runtime.compiled(self._loss)

    def _loss(
        self,
        images: Tensor,
        labels: Tensor,
        flip: Tensor | None,
        size: int | None,
        label_smoothing: float,
        with_samples: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if flip is not None:
            images = hflip(images, flip)
        logits = self.logits(images, size)
        if self.class_weights is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        else:  # not its `weight`, which weighs smoothed labels by each class and divides by the batch's sum of weights
            losses = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
            loss = (losses * self.class_weights[labels]).mean()
        samples = sample_metrics(logits.detach(), labels) if with_samples else None
        return loss, (logits.detach().argmax(dim=1) == labels).sum(), samples

    def fixed_batch_logits(self, images: Tensor, batch_size: int, tta: TTASettings = NO_TTA) -> Tensor:
        """Return float32 logits [B, classes] of uint8 images [B, 3, H, W], averaged over the views of `tta`.

        There are at most `batch_size` images, the size for which the network was compiled. A compiled network gets a
        smaller batch padded to that size, so that it need not recompile.
        """
        padded, count = pad_batch(images, batch_size if self.runtime.compile_mode else len(images))
        return self.tta_logits(padded, count, tta)[: len(images)].clone()  # a CUDA graph would overwrite it

    def tta_logits(self, images: Tensor, count: Tensor, tta: TTASettings) -> Tensor:
        """Return float32 logits [B, classes]; those of the least confident images are averaged over the views of `tta`.

        Only the first `count` rows, int64 [], are real images; the others are padding and rank last in that choice.
        Source of selective test-time augmentation: hiverge/cifar10-speedrun.
        """
        normalized = self.augmentation(images)
        logits = self._forward(normalized)
        if tta.tta == "none":
            return logits
        real = torch.arange(len(logits), device=logits.device) < count
        confidence = logits.softmax(dim=1).amax(dim=1).where(real, torch.inf)
        least_confident = confidence.topk(round(tta.tta_fraction * len(logits)), largest=False).indices
        weights, views = tta_views(normalized[least_confident], tta.tta)
        view_logits = self._forward(torch.cat(views).contiguous(memory_format=self.runtime.memory_format))
        view_logits = view_logits.view(len(views), len(least_confident), -1)
        average = (1 - sum(weights)) * logits[least_confident]
        for weight, view in zip(weights, view_logits, strict=True):
            average = average + weight * view
        return logits.index_copy(0, least_confident, average)

    def _forward(self, normalized: Tensor) -> Tensor:
        with self.runtime.autocast():
            logits: Tensor = (self.trained if self.model.training else self.model)(normalized)
        return logits.float()


def sample_metrics(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each image's loss, margin and predicted class: float32 [3, B], of logits [B, classes] and labels [B].

    The loss is the cross-entropy in nats without label smoothing, so that exp(-loss) is the probability of the label.
    The margin is the logit of the label minus the largest other logit.
    """
    given = labels[:, None]
    margin = logits.gather(1, given).squeeze(1) - logits.scatter(1, given, -torch.inf).amax(dim=1)
    return torch.stack((F.cross_entropy(logits, labels, reduction="none"), margin, logits.argmax(dim=1).float()))


def reduce_images(images: Tensor, size: int) -> Tensor:
    """Reduce images [B, C, S, S] as 32 × 32 images are reduced to `size` × `size`, to `MIN_SIZE` pixels at least."""
    side = images.shape[-1]
    reduced = scale_pixels(size, side, least=MIN_SIZE)
    return resize(images, reduced) if reduced < side else images


def resize(images: Tensor, size: int) -> Tensor:
    """Resize float images [B, C, H, W] to [B, C, size, size] with bilinear interpolation."""
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def pad_batch(images: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Pad images [B, C, H, W] with zeros to `batch_size`; also return the number of real images, int64 []."""
    count = torch.full((), len(images), device=images.device)
    if len(images) < batch_size:
        images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, batch_size - len(images)))  # keeps the memory format
    return images, count


@torch.no_grad()
def predict(
    classifier: ImageClassifier, loader: BetonLoader, tta: TTASettings = NO_TTA, logits: LogitsFunction | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float32 logits [B, classes] and int64 labels [B] for every image of a loader, in its order.

    `logits` computes one batch, such as a replayed CUDA graph; `classifier.fixed_batch_logits` if not given.
    """
    compute = logits or classifier.fixed_batch_logits
    classifier.train(False)
    for images, labels in loader.batches():
        yield compute(images, loader.batch_size, tta), labels


@torch.no_grad()
def evaluate(
    classifier: ImageClassifier,
    loader: BetonLoader,
    tta: TTASettings = NO_TTA,
    *,
    logits: LogitsFunction | None = None,
    on_batch: Callable[[], None] | None = None,
) -> tuple[float, float]:
    """Return the mean cross-entropy in nats and the accuracy (0 to 1) over a loader's images.

    Of several processes, each computes its batches of the loader, and all return the result over all of them.
    `logits` computes one batch, as in `predict`. `on_batch` is called after each batch, and may raise to stop early.
    """
    totals = torch.zeros(2, device=classifier.runtime.device, dtype=torch.float64)
    for batch_logits, labels in predict(classifier, loader, tta, logits):
        loss = F.cross_entropy(batch_logits, labels, reduction="sum")
        totals += torch.stack((loss, (batch_logits.argmax(dim=1) == labels).sum()))
        if on_batch:
            on_batch()
    loss_sum, correct = loader.processes.sum(totals).tolist()
    return loss_sum / loader.samples, correct / loader.samples
