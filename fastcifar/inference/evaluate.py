"""A checkpoint opened as a network, and measured again."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from fastcifar.augment import create_augmentation
from fastcifar.config import TrainConfig
from fastcifar.data.loader import BetonLoader, create_loader
from fastcifar.data.manifest import read_manifest
from fastcifar.device import resolve_runtime
from fastcifar.errors import CheckpointError
from fastcifar.inference.model import ImageClassifier, predict
from fastcifar.machine import give_back_freed_memory
from fastcifar.runs.checkpoint import CheckpointName, checkpoint_path, create_saved_model, read_checkpoint


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A checkpoint's network in eval mode on its device, and what belongs to it."""

    path: Path
    """The checkpoint."""
    epoch: int
    total_steps: int
    """Steps of the whole run, which the schedule spans."""
    config: TrainConfig
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Per channel of the training set, pixels in [0, 1]."""
    classifier: ImageClassifier


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a network says of each image of a data set, on the CPU."""

    logits: torch.Tensor
    """float32 [N, classes]."""
    labels: torch.Tensor
    """int64 [N], the truth."""

    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return F.cross_entropy(self.logits.double(), self.labels).item()

    def confusion(self) -> torch.Tensor:
        """int64 [classes, classes]: images of each true class (row) by predicted class (column)."""
        classes = self.logits.shape[1]
        pairs = self.labels * classes + self.logits.argmax(dim=1)
        return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


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
    notes: tuple[str, ...] = ()
    """Those of `Runtime`."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain JSON values."""
        return dataclasses.asdict(self)


def evaluate_checkpoint(
    run: Path, checkpoint: CheckpointName = "last", *, device: str = "auto", **changes: Any
) -> Evaluation:
    """Measure a run's checkpoint on the whole test set.

    Args:
        run: the run's folder.
        checkpoint: "last" or "best".
        device: where to compute.
        changes: to the run's settings, such as `betons` and `amp`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or the data has other classes or another image size.
        DataError: the .beton is missing or damaged.
    """
    saved = load_classifier(run, checkpoint, device=device, **changes)
    with open_test_loader(saved) as loader:
        loader.warm_up()
        start = time.perf_counter()
        predictions = predict_all(saved.classifier, loader)
        seconds = time.perf_counter() - start
    give_back_freed_memory()
    confusion = predictions.confusion()
    counts, right = confusion.sum(dim=1), confusion.diag()
    return Evaluation(
        checkpoint=str(saved.path),
        epoch=saved.epoch,
        samples=int(counts.sum()),
        accuracy=right.sum().item() / counts.sum().item(),
        loss=predictions.loss(),
        class_accuracy=dict(zip(saved.class_names, (right / counts).tolist(), strict=True)),
        seconds=seconds,
        device=saved.classifier.runtime.describe_device(),
        precision=saved.classifier.runtime.describe_precision(),
        notes=saved.classifier.runtime.notes,
    )


def load_classifier(
    run: Path, checkpoint: CheckpointName = "last", *, device: str = "auto", **changes: Any
) -> LoadedCheckpoint:
    """A run's checkpoint as a network that normalises and does not augment; needs no data.

    Args:
        run: the run's folder.
        checkpoint: "last" or "best".
        device: where it is to compute.
        changes: to the run's settings, such as `betons` and `amp`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        DeviceError: the device is not there.
    """
    path = checkpoint_path(run, checkpoint)
    values = read_checkpoint(path)
    config = TrainConfig.from_json(values["config"]).replace(device=device, compile=False, cuda_graphs=False, **changes)
    runtime = resolve_runtime(config.runtime)
    normalize = create_augmentation(mean=values["mean"], std=values["std"], size=values["image_shape"][0])
    classifier = ImageClassifier(
        model=runtime.place(create_saved_model(path, values)), augmentation=runtime.place(normalize), runtime=runtime
    )
    classifier.train(False)
    return LoadedCheckpoint(
        path=path,
        epoch=values["progress"]["epochs_done"],
        total_steps=values["progress"]["total_steps"],
        config=config,
        class_names=tuple(values["class_names"]),
        image_shape=tuple(values["image_shape"]),
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        classifier=classifier,
    )


def open_test_loader(saved: LoadedCheckpoint) -> BetonLoader:
    """A loader of the whole test set in the run's folder of .betons, in file order.

    Raises:
        CheckpointError: the data has other classes or another image size than the network was trained on.
        DataError: the .beton is missing or damaged.
    """
    config, test = saved.config, saved.config.data.data_dir / "test.beton"
    manifest = read_manifest(test)
    if manifest.class_names != saved.class_names or manifest.image_shape != saved.image_shape:
        raise CheckpointError(
            f"{saved.path}: was trained on {list(saved.image_shape)} images of {', '.join(saved.class_names)}; "
            f"{test} has others"
        )
    options: dict[str, Any] = {"workers": config.data.workers, "verify": config.data.verify}
    return create_loader(
        test, batch_size=config.data.test_batch_size, train=False, device=saved.classifier.runtime.device, **options
    )


def predict_all(classifier: ImageClassifier, loader: BetonLoader) -> Predictions:
    """The logits of every image of a loader, read from the device once, at the end."""
    logits, labels = zip(*predict(classifier, loader), strict=True)
    return Predictions(logits=torch.cat(logits).cpu(), labels=torch.cat(labels).cpu())
