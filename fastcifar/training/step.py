"""One step of a training: augmentation, forward, backward, update."""

from __future__ import annotations

import torch

from fastcifar.config import TrainConfig, ViewSettings
from fastcifar.models.initialize import freeze, frozen_parts
from fastcifar.training.optim import add_l1_gradient, schedule
from fastcifar.training.state import StepForm, TrainState


def take_step(
    state: TrainState, images: torch.Tensor, labels: torch.Tensor, step: int, mirrored: torch.Tensor | None = None
) -> torch.Tensor:
    """The run's step number `step`, at its rates and in its form, replayed if it is recorded; as `train_step`."""
    form = step_form(step, state.total_steps, state.config)
    if state.rates is not None:  # only on a GPU
        given = (images, labels, state.rates[step], *(() if mirrored is None else (mirrored,)))
        return state.recorded[form](*given)
    size, frozen = form
    schedule(state.optimizer, step, state.total_steps, state.config)
    freeze(state.network.model, frozen)
    return train_step(state, images, labels, step, size, mirrored)


def train_step(
    state: TrainState,
    images: torch.Tensor,
    labels: torch.Tensor,
    step: int | torch.Tensor = 0,
    size: int | None = None,
    mirrored: torch.Tensor | None = None,
) -> torch.Tensor:
    """Augmentation, forward, backward, update: float32 [3], the mean loss, the number of right answers, and 1 if the
    step was skipped.

    Args:
        state: what is moved on.
        images: uint8 [B, 3, H, W] on the device.
        labels: int64 [B] on the device.
        step: its number in the run, from 0.
        size: side in pixels to which the augmented images are shrunk.
        mirrored: bool [B], the images to mirror first.
    """
    kept = _statistics(state) if state.config.on_nonfinite == "skip" else []
    state.optimizer.zero_grad(set_to_none=True)
    loss, right = state.network.training_loss(images, labels, mirrored, size, state.config.label_smoothing)
    state.scaler.scale(loss).backward()
    if state.config.l1:
        add_l1_gradient(state.optimizer, state.scaler, state.config.l1)
    finite = state.finite.update(state, loss, step)
    for buffer, before in kept:
        buffer.copy_(torch.where(finite, buffer, before))
    return torch.stack((torch.where(finite, loss.detach(), 0.0), torch.where(finite, right, 0), ~finite))


def _statistics(state: TrainState) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The network's buffers, which each forward pass moves, and copies of them."""
    return [(buffer, buffer.clone()) for buffer in state.network.model.buffers()]


def image_size(step: int, total_steps: int, settings: ViewSettings) -> int | None:
    """Side in pixels to which the images of `step` are shrunk, None for not at all.

    Source of training on smaller images first: Howard, fast.ai's DAWNBench entry, 2018; Tan and Le, *EfficientNetV2*,
    2021.
    """
    end = 0.0
    for size, share in zip(settings.small_sizes, settings.small_shares, strict=True):
        end += share * total_steps
        if step < end:
            return size
    return None


def step_form(step: int, total_steps: int, config: TrainConfig) -> StepForm:
    """What sets a step apart from others in what it computes."""
    return image_size(step, total_steps, config), frozen_parts(step / total_steps, config)


def step_forms(total_steps: int, config: TrainConfig) -> list[StepForm]:
    """Those of all the steps."""
    return [step_form(step, total_steps, config) for step in range(total_steps)]
