"""A check, before the clock starts, that a network fits the images, the classes and the batch size."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastcifar.config import TrainConfig
from fastcifar.data.manifest import Manifest
from fastcifar.device import Runtime, preserve_random_state
from fastcifar.errors import ConfigError
from fastcifar.inference.model import ImageClassifier, reduce_images
from fastcifar.pixels import REFERENCE_SIZE


@torch.no_grad()
def check_network(classifier: ImageClassifier, config: TrainConfig, manifest: Manifest) -> None:
    """Compute the logits of two blank images, not compiled. Nothing in the network or the random state changes.

    Raises:
        ConfigError: the network does not take the images, does not return logits [B, classes], or cannot train with
            this batch size.
    """
    model, augmentation, runtime = classifier.model, classifier.augmentation, classifier.runtime
    size = manifest.image_shape[0]
    with preserve_random_state(runtime.device), _in_eval_mode(model, augmentation):
        images = augmentation.forward(torch.zeros(2, 3, size, size, dtype=torch.uint8, device=runtime.device)).float()
        try:
            logits = _forward(model, images, runtime)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"the network cannot take images of {size} × {size} pixels ({_first_line(error)}); use another one, or "
                "write images of another size with `fastcifar write-beton --resize 32`"
            ) from error
        _check_logits(logits, len(manifest.class_names))
        if config.data.batch_size == 1:
            _check_single_image(model, images[:1], min((REFERENCE_SIZE, *config.resize.resize_sizes)), runtime)


def _forward(model: nn.Module, images: Tensor, runtime: Runtime) -> object:
    with runtime.autocast():
        return model.forward(images)  # a call would compile the network for this batch size


@contextmanager
def _in_eval_mode(*modules: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for whole in modules for module in whole.modules()]
    for whole in modules:
        whole.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_logits(logits: object, classes: int) -> None:
    """Check the output for two images."""
    returned = f"a {type(logits).__name__}"
    if isinstance(logits, Tensor):
        if logits.shape == (2, classes) and logits.is_floating_point():
            return
        returned = f"{str(logits.dtype).removeprefix('torch.')} {list(logits.shape)}"
    raise ConfigError(
        f"the network returns {returned} for 2 images; it must return logits, a float tensor [B, {classes}] for images "
        f"[B, 3, H, W] of {classes} classes"
    )


def _check_single_image(model: nn.Module, image: Tensor, size: int, runtime: Runtime) -> None:
    """Check that a copy of the network can train on one image at its smallest size; batch norms may need more."""
    try:
        _forward(copy.deepcopy(model).train(), reduce_images(image, size), runtime)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"batch_size is 1, with which this network cannot train ({_first_line(error)}); use a larger one"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
