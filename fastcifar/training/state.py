"""The state of a run at one moment: network, optimizer, data and progress."""

import math
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import nn

from fastcifar.augment import create_augmentation
from fastcifar.config import TrainConfig
from fastcifar.data.loader import BetonLoader
from fastcifar.data.manifest import Manifest
from fastcifar.device import Runtime, get_random_state, resolve_runtime, seed_everything, set_random_state
from fastcifar.inference.model import ImageClassifier
from fastcifar.machine import give_back_freed_memory
from fastcifar.models import model_from_config
from fastcifar.models.init import first_convolution, initialize, whiten
from fastcifar.models.ops.sync_norm import synchronize_norms
from fastcifar.optim.create import create_optimizer
from fastcifar.parallel import Processes, current
from fastcifar.training.average import average_gradients
from fastcifar.training.check_network import check_network
from fastcifar.training.class_weights import class_weights
from fastcifar.training.data_notes import note_data
from fastcifar.training.freezing import check_freezable
from fastcifar.training.loaders import create_loaders, note_cache
from fastcifar.training.loss_scaling import LossScaler
from fastcifar.training.metrics import StepMetrics
from fastcifar.training.nonfinite import NonFiniteCounter
from fastcifar.training.recorder import SampleRecorder

PROGRESS = ("epochs_done", "epoch_steps_done", "epoch_seconds", "train_seconds", "best_accuracy", "best_epoch")
"""Attributes of `TrainState` that a checkpoint keeps under "progress" as they are."""


@dataclass(kw_only=True)
class TrainState:
    """Everything that the training loop updates and a checkpoint saves. A context manager that closes the loaders."""

    config: TrainConfig
    manifest: Manifest
    """The training set's manifest."""
    classifier: ImageClassifier
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    nonfinite: NonFiniteCounter
    recorder: SampleRecorder
    train_loader: BetonLoader
    test_loader: BetonLoader
    """The images that the run is evaluated on: the test set or the validation split."""
    epoch_totals: StepMetrics
    """Sums of the metrics over the finished steps of the current epoch."""
    epochs_done: int = 0
    epoch_steps_done: int = 0
    """Number of finished steps in the current epoch."""
    epoch_seconds: float = 0.0
    """Training time of the current epoch so far, in seconds."""
    train_seconds: float = 0.0
    """Training time of the finished epochs, in seconds."""
    best_accuracy: float = 0.0
    best_epoch: int = 0
    notes: list[str] = field(default_factory=list)
    """Sentences, without a final full stop, on what is not done as asked: of `Runtime.notes`, and of a resumed run."""

    @property
    def runtime(self) -> Runtime:
        """Device, precision and compilation."""
        return self.classifier.runtime

    @property
    def processes(self) -> Processes:
        """The processes that share each batch of the run."""
        return self.train_loader.processes

    @property
    def is_new(self) -> bool:
        """Whether no step is finished yet."""
        return self.epochs_done == self.epoch_steps_done == 0

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to train: all epochs are done, or an evaluation has met the target accuracy."""
        target = self.config.target_accuracy
        return self.epochs_done >= self.epochs or (target is not None and self.best_accuracy >= target)

    @property
    def total_steps(self) -> int:
        """Number of steps in the whole run, all of which the learning-rate schedule covers."""
        return max(1, round(self.config.epochs * len(self.train_loader)))

    @property
    def epochs(self) -> int:
        """Number of epochs; the last one may be partial."""
        return math.ceil(self.total_steps / len(self.train_loader))

    @property
    def epoch_first_step(self) -> int:
        """The first step of the current epoch, counted from 0 over the whole run."""
        return self.epochs_done * len(self.train_loader)

    @property
    def steps_this_epoch(self) -> int:
        """Number of steps in the current epoch."""
        return min(len(self.train_loader), self.total_steps - self.epoch_first_step)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, so that `torch.load(weights_only=True)` can read them."""
        step = min(self.epoch_first_step, self.total_steps) + self.epoch_steps_done
        return {
            "config": self.config.to_json(),
            "class_names": list(self.manifest.class_names),
            "image_shape": list(self.manifest.image_shape),
            "content_sha256": self.manifest.content_sha256,
            "mean": list(self.manifest.mean),
            "std": list(self.manifest.std),
            "model": self.classifier.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.runtime.dtype_name,
            "scaler": self.scaler.state_dict(),
            "recorder": self.recorder.state_dict(self.epoch_steps_done),
            "random": get_random_state(self.runtime.device),
            "progress": {
                "total_steps": self.total_steps,
                "step": step,
                "epoch_totals": torch.stack(self.epoch_totals).cpu(),
                **{name: getattr(self, name) for name in PROGRESS},
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the values that `state_dict` returned, including the random state."""
        self.classifier.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            if "capturable" in group:  # torch's Adam: as the run was before, perhaps with CUDA graphs
                group["capturable"] = False
        self.scaler.load_state_dict(state["scaler"])
        self.recorder.load_state_dict(state.get("recorder", {}))  # which checkpoints of earlier versions lack
        set_random_state(state["random"], self.runtime.device)
        progress = state["progress"]
        self.epoch_totals = StepMetrics(*progress["epoch_totals"].to(self.runtime.device).unbind())
        for name in PROGRESS:
            setattr(self, name, progress[name])

    def finish_epoch(self, test_accuracy: float) -> None:
        """Advance to the next epoch; `test_accuracy` (0 to 1) is from the evaluation of the finished one."""
        self.epochs_done += 1
        self.train_seconds += self.epoch_seconds
        self.epoch_steps_done, self.epoch_seconds = 0, 0.0
        self.epoch_totals = StepMetrics.zeros(self.runtime.device)
        if test_accuracy > self.best_accuracy or self.epochs_done == 1:
            self.best_accuracy, self.best_epoch = test_accuracy, self.epochs_done

    def restart(self) -> None:
        """Set the progress to that before the first step."""
        self.epochs_done, self.epoch_steps_done, self.best_epoch = 0, 0, 0
        self.epoch_seconds, self.train_seconds, self.best_accuracy = 0.0, 0.0, 0.0
        self.epoch_totals = StepMetrics.zeros(self.runtime.device)

    def close(self) -> None:
        """End the loaders' threads, and return freed memory, which was kept for reuse, to the operating system."""
        self.train_loader.close()
        self.test_loader.close()
        give_back_freed_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create_state(
    config: TrainConfig, *, model: nn.Module | None = None, augmentation: nn.Module | None = None
) -> TrainState:
    """Open the data, seed the random generators, and create the network and the augmentation if they are not given.

    Raises:
        DataError: a .beton or its manifest is missing or damaged, or the two .betons do not belong together.
        DeviceError: the device is not available.
        ConfigError: a setting does not fit the machine or the data.
    """
    runtime = resolve_runtime(config.runtime)
    train_loader, test_loader, manifest = create_loaders(config, runtime.device)
    seed_everything(config.runtime.seed, runtime.device)
    model, augmentation = create_modules(config, manifest, model, augmentation)
    check_freezable(model, config.freezing)
    if config.runtime.sync_batchnorm:
        model = synchronize_norms(model, runtime.device)
    model = runtime.place(model)
    classifier = ImageClassifier(model=model, augmentation=runtime.place(augmentation), runtime=runtime)
    classifier.class_weights = class_weights(config.optim, train_loader, len(manifest.class_names))
    check_network(classifier, config, manifest)
    average_gradients(classifier, config, train_loader.processes)
    validation = test_loader.labels if config.data.val_fraction else None
    settings, compiler = config.optim, runtime.compiled if runtime.compile_mode else None
    return TrainState(
        config=config,
        manifest=manifest,
        classifier=classifier,
        optimizer=create_optimizer(model, settings, config.freezing, compiler, train_loader.processes),
        scaler=LossScaler(runtime.device, enabled=runtime.scales_loss),
        nonfinite=NonFiniteCounter(runtime.device, settings.max_skipped if settings.on_nonfinite == "skip" else 0),
        recorder=SampleRecorder(train_loader, enabled=config.dynamics),
        train_loader=train_loader,
        test_loader=test_loader,
        epoch_totals=StepMetrics.zeros(runtime.device),
        notes=[
            *runtime.notes,
            *note_cache(config.data.cache_on_device, train_loader),
            *note_data(manifest, train_loader.labels, validation),
        ],
    )


def create_modules(
    config: TrainConfig, manifest: Manifest, model: nn.Module | None = None, augmentation: nn.Module | None = None
) -> tuple[nn.Module, nn.Module]:
    """Create the network, with random weights, and the augmentation of a run, on the CPU, if they are not given."""
    if model is None:
        model = model_from_config(config.model, len(manifest.class_names))
        initialize(model, config.init)
    if augmentation is None:
        mean, std, size = manifest.mean, manifest.std, manifest.image_shape[0]
        augmentation = create_augmentation(config.augment, mean=mean, std=std, size=size, processes=current())
    return model, augmentation


def init_whitening(model: nn.Module, state: TrainState) -> None:
    """Set the whitening filters, if the run has them, from the first batch of the current epoch."""
    if not state.config.init.whiten:
        return
    images, _ = next(state.train_loader.batches(state.epochs_done))
    state.classifier.train(False)
    whiten(model, state.processes.gather(state.classifier.augmentation(images)))
    state.processes.copy_from_first([first_convolution(model).weight.detach()])
