"""Load the classifier of a checkpoint, and evaluate it on the test set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from fastcifar import clock
from fastcifar.augment import create_augmentation
from fastcifar.config import TrainConfig
from fastcifar.data.create import create_loader
from fastcifar.data.loader import BetonLoader
from fastcifar.data.manifest import read_manifest
from fastcifar.device import resolve_runtime
from fastcifar.errors import CheckpointError
from fastcifar.inference.metrics import Predictions, balanced_accuracy, class_precision, class_recall
from fastcifar.inference.model import ImageClassifier, predict
from fastcifar.machine import give_back_freed_memory
from fastcifar.names import list_names
from fastcifar.progress import OnProgress, Progress
from fastcifar.runs.checkpoint import CheckpointName, checkpoint_path, create_saved_model, read_checkpoint
from fastcifar.runs.data import require_betons, warn_of_other_data
from fastcifar.settings import LoaderKind


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A checkpoint's classifier in eval mode on its device, with its configuration and the facts of its data."""

    path: Path
    """The checkpoint file."""
    epoch: int
    """The number of finished epochs."""
    total_steps: int
    """Steps of the whole run, which the schedule spans."""
    config: TrainConfig
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """The training set's mean and standard deviation per channel, for pixels in [0, 1]."""
    content_sha256: str
    """The SHA-256 of the training set's images and labels."""
    classifier: ImageClassifier


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of evaluating a checkpoint on a test set."""

    checkpoint: str
    """The path of the checkpoint file."""
    epoch: int
    samples: int
    """Images in the test set."""
    accuracy: float
    """From 0 to 1."""
    balanced_accuracy: float
    """The mean of `class_accuracy` over the classes that have images."""
    top5_accuracy: float | None
    """The share of images whose class is among the five most likely ones; None if there are at most ten classes."""
    calibration_error: float
    """Expected calibration error of the softmax probabilities, with 15 bins, from 0 to 1."""
    loss: float
    """Mean cross-entropy in nats."""
    class_accuracy: dict[str, float]
    """Accuracy within each class (its recall), from 0 to 1; NaN for a class without images."""
    class_precision: dict[str, float]
    """The share of the predictions of each class that are right, from 0 to 1; NaN for a class never predicted."""
    class_images: dict[str, int]
    """Images of each class (its support)."""
    seconds: float
    """Time of the evaluation, including data loading."""
    device: str
    precision: str
    notes: tuple[str, ...] = ()
    """Remarks about the device and the precision, from `Runtime.notes`."""

    to_json = dataclasses.asdict
    """Return the fields by name, as plain JSON values."""


def evaluate_checkpoint(
    run: Path,
    checkpoint: CheckpointName = "last",
    *,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    **changes: Any,
) -> Evaluation:
    """Evaluate a run's checkpoint on the whole test set. The other arguments are those of `load_classifier`.

    `on_progress` is called after each batch.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or the data has other classes or another image size.
        DataError: the .beton is missing or damaged.
    """
    loaded = load_classifier(run, checkpoint, device=device, **changes)
    with open_test_loader(loaded) as loader:
        loader.warm_up()
        start = clock.now()
        predictions = predict_all(loaded.classifier, loader, on_progress)
        seconds = clock.now() - start
    give_back_freed_memory()
    confusion, runtime = predictions.confusion().numpy(), loaded.classifier.runtime

    def by_name(values: npt.NDArray[Any]) -> dict[str, Any]:
        return dict(zip(loaded.class_names, values.tolist(), strict=True))

    return Evaluation(
        checkpoint=str(loaded.path),
        epoch=loaded.epoch,
        samples=int(confusion.sum()),
        accuracy=float(confusion.trace() / confusion.sum()),
        balanced_accuracy=balanced_accuracy(confusion),
        top5_accuracy=predictions.top5_accuracy(),
        calibration_error=predictions.calibration_error(),
        loss=predictions.loss(),
        class_accuracy=by_name(class_recall(confusion)),
        class_precision=by_name(class_precision(confusion)),
        class_images=by_name(confusion.sum(axis=1)),
        seconds=seconds,
        device=runtime.describe_device(),
        precision=runtime.describe_precision(),
        notes=runtime.notes,
    )


def load_classifier(
    run: Path, checkpoint: CheckpointName = "last", *, device: str = "auto", **changes: Any
) -> LoadedCheckpoint:
    """Load the classifier of a run's checkpoint, which normalises images and does not augment. It needs no data.

    `changes` are other values of some of the run's settings, by name, such as `data_dir` and `amp`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        DeviceError: the device is not available.
    """
    path = checkpoint_path(run, checkpoint)
    values = read_checkpoint(path)
    config = TrainConfig.from_json(values["config"]).replace(device=device, compile=False, cuda_graphs=False, **changes)
    runtime = resolve_runtime(config.runtime)
    normalize = create_augmentation(mean=values["mean"], std=values["std"], size=values["image_shape"][0])
    model = runtime.place(create_saved_model(path, values))
    classifier = ImageClassifier(model=model, augmentation=runtime.place(normalize), runtime=runtime)
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
        content_sha256=values["content_sha256"],
        classifier=classifier,
    )


def open_test_loader(loaded: LoadedCheckpoint) -> BetonLoader:
    """Create a loader of the whole test set in the run's `data_dir`, in file order.

    Raises:
        CheckpointError: the test set has other classes or another image size than the training set had.
        DataError: the .beton is missing or damaged.

    Warns:
        FastCifarWarning: the test set belongs to another training set.
    """
    data, test = loaded.config.data, loaded.config.data.data_dir / "test.beton"
    require_betons(loaded.path, data.data_dir, ["test"])
    manifest = read_manifest(test)
    if manifest.class_names != loaded.class_names or manifest.image_shape != loaded.image_shape:
        raise CheckpointError(
            f"{loaded.path}: was trained on images of shape {list(loaded.image_shape)} and the classes "
            f"{list_names(loaded.class_names)}; {test.absolute()} has others"
        )
    warn_of_other_data(loaded.path, data.data_dir, loaded.content_sha256)
    device, size = loaded.classifier.runtime.device, data.test_batch_size
    kind: LoaderKind = "memmap" if data.loader == "memmap" else "auto"  # this machine may have no FFCV
    return create_loader(
        test, batch_size=size, train=False, device=device, loader=kind, workers=data.workers, verify=data.verify
    )


@torch.no_grad()
def predict_all(classifier: ImageClassifier, loader: BetonLoader, on_progress: OnProgress | None = None) -> Predictions:
    """Predict every image of a loader. The logits are kept for one batch only; the device waits once, at the end."""
    predictions, done = None, 0
    for logits, labels in predict(classifier, loader):
        part = Predictions.of(logits, labels)
        if predictions is None:  # all at once: many small tensors between large batches would fragment the heap
            predictions = part.new(loader.samples)
        predictions.put(done, part)
        done += len(labels)
        if on_progress:
            on_progress(Progress(task="evaluating", done=done, total=loader.samples))
    assert predictions is not None, "a .beton has at least one image"
    return predictions.cpu()
