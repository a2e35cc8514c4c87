"""All that a run has at one moment: network, optimizer, data, and how far it is."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fastcifar.augment import create_augmentation
from fastcifar.config import AugmentSettings, ModelSettings, TrainConfig
from fastcifar.data.beton import Manifest, open_beton
from fastcifar.data.loader import BetonLoader, create_loader
from fastcifar.data.split import stratified_split
from fastcifar.errors import ConfigError
from fastcifar.machine import give_back_freed_memory
from fastcifar.models import create_model
from fastcifar.models.initialize import initialize, require_parts, whiten
from fastcifar.training.finite import FiniteGuard
from fastcifar.training.graphs import Recorded
from fastcifar.training.network import Network
from fastcifar.training.optim import create_optimizer
from fastcifar.training.runtime import Runtime, random_state, resolve_runtime, restore_random_state, seed_everything

StepForm = tuple[int | None, tuple[str, ...]]
"""Side in pixels to which a step's images are shrunk, None for not at all, and the parts that no longer train."""


@dataclass(kw_only=True)
class TrainState:
    """What the training loop moves on, and what a checkpoint keeps of it."""

    config: TrainConfig
    manifest: Manifest
    """Of the training set."""
    network: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    train_loader: BetonLoader
    finite: FiniteGuard
    test_loader: BetonLoader
    """Of the images that the run is measured on: the test set or the validation split."""
    epoch: int = 0
    """Epochs that are done."""
    epoch_steps: int = 0
    """Steps of the next epoch that are done."""
    epoch_totals: tuple[float, ...] | torch.Tensor = (0.0, 0.0, 0.0)
    """Over those steps: the sum of their losses, the number of right answers, and how many were skipped."""
    epoch_seconds: float = 0.0
    """Of training, up to the last stop between those steps."""
    train_seconds: float = 0.0
    """Of the epochs that are done."""
    best_accuracy: float = 0.0
    best_epoch: int = 0
    recorded: dict[StepForm, Recorded] = field(default_factory=dict)
    """The run's steps as CUDA graphs, if they are recorded."""
    rates: torch.Tensor | None = None
    """What these read of the schedule: float32 [steps, 1 + groups] on the device, as `rate_table` gives it."""

    @property
    def runtime(self) -> Runtime:
        """Where and how the network computes."""
        return self.network.runtime

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, which the schedule spans."""
        return max(1, round(self.config.epochs * len(self.train_loader)))

    @property
    def epochs(self) -> int:
        """Passes over the training set, the last of which may be a part of one."""
        return math.ceil(self.total_steps / len(self.train_loader))

    @property
    def first_step(self) -> int:
        """Of the epoch to come, counted over the whole run."""
        return self.epoch * len(self.train_loader)

    @property
    def steps(self) -> int:
        """Of the epoch to come."""
        return min(len(self.train_loader), self.total_steps - self.first_step)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that `torch.load(weights_only=True)` reads them."""
        return {
            "model": self.network.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_state(),
            "schedule": {
                "total_steps": self.total_steps,
                "step": min(self.first_step, self.total_steps) + self.epoch_steps,
            },
            "epoch": self.epoch,
            "epoch_steps": self.epoch_steps,
            "epoch_totals": torch.as_tensor(self.epoch_totals).cpu(),
            "epoch_seconds": self.epoch_seconds,
            "train_seconds": self.train_seconds,
            "best": {"accuracy": self.best_accuracy, "epoch": self.best_epoch},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, its random state included."""
        self.network.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        restore_random_state(state["random"])
        self.epoch, self.epoch_steps = state["epoch"], state["epoch_steps"]
        self.train_loader.go_on(self.epoch, self.epoch_steps)
        self.epoch_totals = state["epoch_totals"]
        self.epoch_seconds, self.train_seconds = state["epoch_seconds"], state["train_seconds"]
        self.best_accuracy, self.best_epoch = state["best"]["accuracy"], state["best"]["epoch"]

    def close(self) -> None:
        """End the loaders' threads, and give back what memory the steps kept for one another."""
        self.train_loader.close()
        self.test_loader.close()
        give_back_freed_memory()


def create_state(
    config: TrainConfig, *, model: nn.Module | None = None, augmentation: nn.Module | None = None
) -> TrainState:
    """Open the data, seed the generators and make the network, unless they are given.

    Raises:
        DataError: a .beton or its manifest is missing or damaged.
        DeviceError: the device is not there.
        ConfigError: a setting does not fit the machine or the data.
    """
    runtime = resolve_runtime(config)
    train_loader, test_loader, manifest = create_loaders(config, runtime.device)
    seed_everything(config.seed)
    if model is None:
        model = create_configured_model(config, len(manifest.class_names))
        _require_fit(model, config, manifest)
        initialize(model, config)
    require_parts(model, config)
    if augmentation is None:
        augmentation = create_configured_augmentation(config, manifest)
    model = runtime.place(model)
    return TrainState(
        config=config,
        manifest=manifest,
        network=Network(model=model, augmentation=runtime.place(augmentation), runtime=runtime),
        optimizer=create_optimizer(model, config, runtime.compiled if runtime.compile_mode else None),
        scaler=runtime.scaler(),
        finite=FiniteGuard(runtime.device, config.max_skipped if config.on_nonfinite == "skip" else 0),
        train_loader=train_loader,
        test_loader=test_loader,
    )


@torch.no_grad()
def _require_fit(model: nn.Module, settings: ModelSettings, manifest: Manifest) -> None:
    height, width, channels = manifest.image_shape
    try:
        model.eval()(torch.zeros(1, channels, height, width))
    except RuntimeError as error:
        raise ConfigError(
            f"model is {settings.model!r}, which takes no images of {height} × {width} pixels; write them smaller or "
            "larger with `fastcifar write-beton --resize 32`"
        ) from error


def whiten_by_data(model: nn.Module, state: TrainState) -> None:
    """Set the whitening filters, if the run has them, from the first batch of the state's next epoch."""
    if not state.config.whiten:
        return
    loader, epoch = state.train_loader, state.train_loader.epoch
    images, _ = next(iter(loader))
    loader.go_on(epoch)
    state.network.train(False)
    whiten(model, state.network.augmentation(images))


def create_configured_model(settings: ModelSettings, num_classes: int) -> nn.Module:
    """The network that the settings name, with `num_classes` logits.

    Raises:
        ConfigError: there is no such network, or it has no option that was set.
    """
    options = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(ModelSettings)
        if field.name != "model" and getattr(settings, field.name) != field.default
    }
    return create_model(settings.model, num_classes=num_classes, **options)


def create_configured_augmentation(settings: AugmentSettings, manifest: Manifest) -> nn.Module:
    """The augmentation that the settings describe, normalising with the training set's own statistics."""
    options = {field.name: getattr(settings, field.name) for field in dataclasses.fields(AugmentSettings)}
    return create_augmentation(**options, mean=manifest.mean, std=manifest.std, size=manifest.image_shape[0])


def create_loaders(config: TrainConfig, device: torch.device) -> tuple[BetonLoader, BetonLoader, Manifest]:
    """The training loader, the loader of the images to be measured on, and the training set's manifest."""
    train_path, test_path = config.betons / "train.beton", config.betons / "test.beton"
    layout, manifest = open_beton(train_path, verify=config.verify)
    train_indices = test_indices = None
    if config.val_fraction:
        train_indices, test_indices = stratified_split(layout.labels, config.val_fraction, config.seed)
        test_path = train_path
    shared: dict[str, Any] = {
        "device": device, "seed": config.seed, "workers": config.workers, "resident": config.resident,
    }  # fmt: skip
    train = create_loader(
        train_path, **shared, batch_size=config.batch_size, train=True, indices=train_indices, verify=False
    )
    verify_test = config.verify and test_path != train_path
    test = create_loader(
        test_path, **shared, batch_size=config.test_batch_size, train=False, indices=test_indices, verify=verify_test
    )
    return train, test, manifest
