"""The training loop, the only one here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.config import TrainConfig
from fastcifar.errors import TrainingError
from fastcifar.machine import peak_memory_bytes
from fastcifar.training.network import evaluate
from fastcifar.training.optim import add_l1_gradient, one_cycle_lr, schedule
from fastcifar.training.results import EpochResult, StepProgress
from fastcifar.training.runtime import random_state, restore_random_state
from fastcifar.training.state import TrainState, create_state

OnStep = Callable[[StepProgress], None]


def fit(
    config: TrainConfig,
    *,
    model: nn.Module | None = None,
    augmentation: nn.Module | None = None,
    state: TrainState | None = None,
    on_step: OnStep | None = None,
) -> Iterator[EpochResult]:
    """Train, handing out a result after each epoch's evaluation; leave the folder `config.run_dir`, if there is one.

    Args:
        config: the run.
        model: a network to train in place of the one that `config` names: images [B, 3, H, W] to logits [B, classes].
        augmentation: a module from uint8 images [B, 3, H, W] to float ones, in place of the configured one; in eval
            mode it should only normalise.
        state: a run's state to go on from, instead of a fresh one made from the other arguments.
        on_step: called after each step is started; it must not wait for the device.

    Raises:
        FastCifarError: bad input, as one of its children says; TrainingError if the loss is no longer finite.
    """
    from fastcifar.training.run import RunFolder

    state = state or create_state(config, model=model, augmentation=augmentation)
    folder = RunFolder(Path(config.run_dir)) if config.run_dir is not None else None
    try:
        if folder:
            folder.begin(state)
        warmup_seconds = warm_up(state)
        while state.epoch < config.epochs:
            result = run_epoch(state, warmup_seconds, on_step)
            if folder:
                folder.record(result, state)
            yield result
            if config.target is not None and result.test_accuracy >= config.target:
                return
    finally:
        state.close()


def run_epoch(state: TrainState, warmup_seconds: float = 0.0, on_step: OnStep | None = None) -> EpochResult:
    """Train one epoch, evaluate, and move the state on."""
    start = time.perf_counter()
    train_loss, train_accuracy = train_epoch(state, on_step)
    train_seconds = time.perf_counter() - start
    if not math.isfinite(train_loss):
        raise TrainingError(
            f"epoch {state.epoch + 1}: the training loss is {train_loss}; try a lower --max-lr, or --amp-dtype bfloat16"
        )
    start = time.perf_counter()
    test_loss, test_accuracy = evaluate(state.network, state.test_loader)
    eval_seconds = time.perf_counter() - start

    first_step = state.epoch * len(state.train_loader)
    state.epoch += 1
    state.train_seconds += train_seconds
    if test_accuracy > state.best_accuracy or state.epoch == 1:
        state.best_accuracy, state.best_epoch = test_accuracy, state.epoch
    last_step = state.epoch * len(state.train_loader) - 1
    return EpochResult(
        epoch=state.epoch,
        epochs=state.config.epochs,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        held_out="validation" if state.config.val_fraction else "test",
        lr_start=one_cycle_lr(first_step, state.total_steps, state.config),
        lr_end=one_cycle_lr(last_step, state.total_steps, state.config),
        train_seconds=train_seconds,
        eval_seconds=eval_seconds,
        images_per_second=state.train_loader.samples / train_seconds,
        total_train_seconds=state.train_seconds,
        warmup_seconds=warmup_seconds,
        best_accuracy=state.best_accuracy,
        best_epoch=state.best_epoch,
        peak_memory_bytes=peak_memory_bytes(),
    )


def train_epoch(state: TrainState, on_step: OnStep | None = None) -> tuple[float, float]:
    """One pass over the training images; mean loss in nats and accuracy, read from the device once, at its end."""
    state.network.train()
    totals = torch.zeros(2, device=state.runtime.device)
    steps = len(state.train_loader)
    for step, (images, labels) in enumerate(state.train_loader):
        lr = schedule(state.optimizer, state.epoch * steps + step, state.total_steps, state.config)
        totals += train_step(state, images, labels)
        if on_step:
            on_step(StepProgress(epoch=state.epoch + 1, step=step + 1, steps=steps, lr=lr))
    loss, correct = totals.tolist()
    return loss / steps, correct / state.train_loader.samples


def train_step(state: TrainState, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Augmentation, forward, backward, update: float32 [2], the mean loss and the number of right answers.

    Args:
        state: what is moved on.
        images: uint8 [B, 3, H, W] on the device.
        labels: int64 [B] on the device.
    """
    logits = state.network.logits(images)
    loss = F.cross_entropy(logits, labels)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
    if state.config.l1:
        add_l1_gradient(state.optimizer, state.config.l1 * state.scaler.get_scale())
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return torch.stack((loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()))


def warm_up(state: TrainState) -> float:
    """Compile what compiles, on made-up images, and leave the state as it was; the seconds it took."""
    start = time.perf_counter()
    state.train_loader.warm_up()
    state.test_loader.warm_up()
    if state.runtime.compile_mode:
        _compile_step(state)
    state.runtime.synchronize()
    return time.perf_counter() - start


def _compile_step(state: TrainState) -> None:
    """Forward, backward and inference once, in the run's shapes; no update, and weights and statistics are put back."""
    height, width, channels = state.manifest.image_shape
    images = torch.randint(0, 256, (state.config.batch_size, height, width, channels), dtype=torch.uint8)
    images = images.permute(0, 3, 1, 2).to(state.runtime.device)
    model = state.network.model
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    random = random_state()
    state.network.train()
    state.network.logits(images).sum().backward()
    state.optimizer.zero_grad(set_to_none=True)
    state.network.train(False)
    with torch.no_grad():
        state.network.padded_logits(images, len(images))
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    restore_random_state(random)
