"""One training step, and the functions that run a step of a given number."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastcifar.config import TrainConfig
from fastcifar.optim.create import add_l1_gradient
from fastcifar.optim.schedule import set_lr
from fastcifar.settings import ResizeSettings
from fastcifar.training.freezing import freeze, frozen_modules
from fastcifar.training.metrics import StepMetrics, average_metrics
from fastcifar.training.nonfinite import all_finite
from fastcifar.training.state import TrainState


class StepVariant(NamedTuple):
    """The properties of a step for which it must be compiled or captured separately."""

    size: int | None
    """Side in pixels to which the augmented images are reduced; None for full size."""
    frozen: tuple[str, ...]
    """Names of the frozen modules."""


StepFunction = Callable[[Tensor, Tensor, int, Tensor | None], StepMetrics]
"""From images, labels, the step's number in the run and the flip mask to the step's metrics; updates the weights."""


def train_step(
    state: TrainState,
    images: Tensor,
    labels: Tensor,
    step: int | Tensor = 0,
    *,
    size: int | None = None,
    flip: Tensor | None = None,
) -> StepMetrics:
    """Train on one batch: update the run's weights, its optimizer and its counter of non-finite steps.

    Images, uint8 [B, 3, H, W], labels, int64 [B], and `flip`, bool [B], the images to flip before the augmentation, are
    on the device. `step` is the step's number in the run, from 0; `size`, the side in pixels to which the augmented
    images are reduced. Nothing here waits for the device.

    Of several processes, each has its share of the batch. The backward pass averages their gradients, so that all of
    them make the same update.
    """
    optimizer, scaler, recorder, settings = state.optimizer, state.scaler, state.recorder, state.config.optim
    saved_buffers: list[tuple[Tensor, Tensor]] = []  # running statistics, which a forward pass changes
    if settings.on_nonfinite == "skip":
        saved_buffers = [(buffer, buffer.clone()) for buffer in state.classifier.model.buffers()]

    optimizer.zero_grad(set_to_none=True)
    loss, correct, samples = state.classifier.loss(
        images, labels, flip, size, settings.label_smoothing, recorder.enabled
    )
    scaler.scale(loss).backward()
    if settings.l1:
        add_l1_gradient(optimizer, scaler.scale, settings.l1)
    loss, correct = average_metrics(state.processes, loss.detach(), correct)

    finite = all_finite(loss, optimizer)
    # an overflow that a lower loss scale avoids is no failure of the run, although its step is skipped, too
    good = finite | scaler.overflowed(loss, finite) if scaler.enabled else finite
    stopped = state.nonfinite.count(good, step)
    optimizer.found_inf = (~finite | stopped).float()  # type: ignore[attr-defined]  # where 1, no weight is changed
    optimizer.grad_scale = scaler.factor  # type: ignore[attr-defined]  # what the optimizer divides the gradients by
    optimizer.step()
    scaler.update(finite, stopped)

    for buffer, saved in saved_buffers:
        buffer.copy_(torch.where(good, buffer, saved))
    recorder.write(samples)
    return StepMetrics(
        loss=torch.where(good, loss, 0.0),
        correct=torch.where(good, correct, 0).float(),
        skipped=(~good).float(),
    )


def run_step(state: TrainState, images: Tensor, labels: Tensor, step: int, flip: Tensor | None = None) -> StepMetrics:
    """`train_step` with the learning rates, the image size and the frozen modules of step number `step`."""
    size, frozen = step_variant(step, state.total_steps, state.config)
    set_lr(state.optimizer, step, state.total_steps, state.config.optim)
    freeze(state.classifier.model, frozen)
    return train_step(state, images, labels, step, size=size, flip=flip)


def image_size(step: int, total_steps: int, settings: ResizeSettings) -> int | None:
    """Side in pixels to which the images of `step` are reduced; None for full size.

    Sources of progressive resizing: Howard, fast.ai's DAWNBench entry, 2018; Tan and Le, *EfficientNetV2*, 2021.
    """
    end = 0.0
    for size, fraction in zip(settings.resize_sizes, settings.resize_fractions, strict=True):
        end += fraction * total_steps
        if step < end:
            return size
    return None


def step_variant(step: int, total_steps: int, config: TrainConfig) -> StepVariant:
    """The variant of one step."""
    frozen = frozen_modules(step / total_steps, config.freezing)
    return StepVariant(image_size(step, total_steps, config.resize), frozen)


def step_variants(total_steps: int, config: TrainConfig) -> list[StepVariant]:
    """The variant of each step of the run."""
    return [step_variant(step, total_steps, config) for step in range(total_steps)]
