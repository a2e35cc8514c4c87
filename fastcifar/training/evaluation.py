"""A checkpoint measured again."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from fastcifar.augment import create_augmentation
from fastcifar.config import TrainConfig
from fastcifar.data.beton import read_manifest
from fastcifar.data.loader import create_loader
from fastcifar.errors import CheckpointError
from fastcifar.training.checkpoint import checkpoint_path, create_saved_model, read_checkpoint
from fastcifar.training.network import Network, predict
from fastcifar.training.runtime import resolve_runtime


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a checkpoint does on a test set."""

    checkpoint: str
    epoch: int
    samples: int
    accuracy: float
    """From 0 to 1."""
    loss: float
    """Mean cross-entropy in nats."""
    class_accuracy: dict[str, float]
    """Share of each class's images that are recognised; NaN for a class without images."""
    seconds: float
    """Of inference, loading included."""
    device: str
    precision: str

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain JSON values."""
        return dataclasses.asdict(self)


def evaluate_checkpoint(
    run: Path, which: Literal["best", "last"] = "last", *, device: str = "auto", **changes: Any
) -> Evaluation:
    """Measure a run's checkpoint on the whole test set.

    Args:
        run: the run's folder.
        which: the checkpoint.
        device: where to compute.
        changes: to the run's settings, such as `betons` and `amp`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or the data has other classes or another image size.
        DataError: the .beton is missing or damaged.
    """
    path = checkpoint_path(run, which)
    values = read_checkpoint(path)
    config = dataclasses.replace(TrainConfig.from_json(values["config"]), device=device, compile=False, **changes)
    runtime = resolve_runtime(config)
    test = config.betons / "test.beton"
    manifest = read_manifest(test)
    if list(manifest.class_names) != values["class_names"] or list(manifest.image_shape) != values["image_shape"]:
        raise CheckpointError(
            f"{path}: was trained on {values['image_shape']} images of {', '.join(values['class_names'])}; "
            f"{test} has others"
        )
    normalize = create_augmentation(mean=values["mean"], std=values["std"], size=manifest.image_shape[0])
    network = Network(
        model=runtime.place(create_saved_model(path, values)), augmentation=runtime.place(normalize), runtime=runtime
    )
    options: dict[str, Any] = {"device": runtime.device, "workers": config.workers, "verify": config.verify}
    with create_loader(test, batch_size=config.batch_size, train=False, **options) as loader:
        loader.warm_up()
        start = time.perf_counter()
        loss, confusion = _confusion(network, predict(network, loader), len(manifest.class_names))
        seconds = time.perf_counter() - start
    counts, right = confusion.sum(dim=1), confusion.diag()
    return Evaluation(
        checkpoint=str(path),
        epoch=values["epoch"],
        samples=int(counts.sum()),
        accuracy=float(right.sum() / counts.sum()),
        loss=loss / int(counts.sum()),
        class_accuracy=dict(zip(manifest.class_names, (right / counts).tolist(), strict=True)),
        seconds=seconds,
        device=runtime.describe_device(),
        precision=runtime.describe_precision(),
    )


def _confusion(network: Network, batches: Any, classes: int) -> tuple[float, torch.Tensor]:
    """Summed cross-entropy, and float64 [classes, classes]: images of each true class (row) by predicted class."""
    loss = torch.zeros((), dtype=torch.float64, device=network.runtime.device)
    confusion = torch.zeros(classes * classes, dtype=torch.float64, device=network.runtime.device)
    for logits, labels in batches:
        loss += F.cross_entropy(logits, labels, reduction="sum")
        pairs = labels * classes + logits.argmax(dim=1)
        confusion += torch.bincount(pairs, minlength=classes * classes)
    return loss.item(), confusion.view(classes, classes).cpu()
