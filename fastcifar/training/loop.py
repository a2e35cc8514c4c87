"""The training loop, the only one here."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from fastcifar.config import TrainConfig
from fastcifar.errors import StoppedError
from fastcifar.machine import peak_memory_bytes
from fastcifar.training.memory import told_what_fits
from fastcifar.training.network import evaluate
from fastcifar.training.optim import one_cycle_lr
from fastcifar.training.results import EpochResult, StepProgress
from fastcifar.training.state import TrainState, create_state, whiten_by_data
from fastcifar.training.step import take_step
from fastcifar.training.stop import StopRequest
from fastcifar.training.warm_up import warm_up

OnStep = Callable[[StepProgress], None]


def fit(
    config: TrainConfig,
    *,
    model: nn.Module | None = None,
    augmentation: nn.Module | None = None,
    state: TrainState | None = None,
    on_step: OnStep | None = None,
    stop: StopRequest | None = None,
) -> Iterator[EpochResult]:
    """Train, handing out a result after each epoch's evaluation; leave the folder `config.run_dir`, if there is one.

    Args:
        config: the run.
        model: a network to train in place of the one that `config` names: images [B, 3, H, W] to logits [B, classes].
        augmentation: a module from uint8 images [B, 3, H, W] to float ones, in place of the configured one; in eval
            mode it should only normalise.
        state: a run's state to go on from, instead of a fresh one made from the other arguments.
        on_step: called after each step is started; it must not wait for the device.
        stop: asked between two batches whether to stop; the folder then holds a checkpoint of that moment.

    Raises:
        FastCifarError: bad input, as one of its children says; TrainingError if the loss is no longer finite;
            StoppedError if `stop` asked for it.
    """
    from fastcifar.training.run import RunFolder

    state = state or create_state(config, model=model, augmentation=augmentation)
    folder = RunFolder(Path(config.run_dir)) if config.run_dir is not None else None
    stop = stop or StopRequest()
    every = config.checkpoint_every

    def after_step(progress: StepProgress) -> None:
        if on_step:
            on_step(progress)
        if folder and every and progress.step % every == 0:
            state.finite.check(state)
            folder.save(state)
        stop.check()

    try:
        if folder:
            folder.begin(state)
        with told_what_fits(state):
            warmup_seconds = warm_up(state)
        while state.epoch < state.epochs:
            with told_what_fits(state):
                result = run_epoch(state, warmup_seconds, after_step, stop)
            if folder:
                folder.record(result, state)
            yield result
            if config.target is not None and result.test_accuracy >= config.target:
                return
    except StoppedError:
        if folder:
            state.finite.check(state)
            folder.save(state)
        raise
    finally:
        state.close()
        if folder:
            folder.close()


def run_epoch(
    state: TrainState,
    warmup_seconds: float = 0.0,
    on_step: OnStep | None = None,
    stop: StopRequest | None = None,
) -> EpochResult:
    """Train one epoch, or what is left of it, evaluate, and move the state on."""
    config, first_step, steps = state.config, state.first_step, state.steps
    train_epoch(state, on_step)
    state.finite.check(state)
    train_loss, train_accuracy, skipped = _means(state)
    start = time.perf_counter()
    test_loss, test_accuracy = evaluate(state.network, state.test_loader, stop=stop)
    eval_seconds = time.perf_counter() - start
    tta_accuracy = tta_seconds = None
    if config.tta != "none" and state.epoch + 1 == state.epochs:
        start = time.perf_counter()
        _, tta_accuracy = evaluate(state.network, state.test_loader, config, stop=stop)
        tta_seconds = time.perf_counter() - start

    train_seconds = state.epoch_seconds
    state.epoch += 1
    state.train_seconds += train_seconds
    state.epoch_steps, state.epoch_totals, state.epoch_seconds = 0, (0.0, 0.0, 0.0), 0.0
    if test_accuracy > state.best_accuracy or state.epoch == 1:
        state.best_accuracy, state.best_epoch = test_accuracy, state.epoch
    return EpochResult(
        epoch=state.epoch,
        epochs=state.epochs,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        skipped_steps=skipped,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        tta_accuracy=tta_accuracy,
        held_out="validation" if config.val_fraction else "test",
        lr_start=one_cycle_lr(first_step, state.total_steps, config),
        lr_end=one_cycle_lr(first_step + steps - 1, state.total_steps, config),
        train_seconds=train_seconds,
        eval_seconds=eval_seconds,
        tta_seconds=tta_seconds,
        images_per_second=steps * config.batch_size / train_seconds,
        total_train_seconds=state.train_seconds,
        warmup_seconds=warmup_seconds,
        best_accuracy=state.best_accuracy,
        best_epoch=state.best_epoch,
        peak_memory_bytes=peak_memory_bytes(),
    )


def train_epoch(state: TrainState, on_step: OnStep | None = None) -> None:
    """The steps of the next epoch that are not done, counted and timed in the state as they are done."""
    start, seconds_before = time.perf_counter(), state.epoch_seconds
    if state.epoch == state.epoch_steps == 0:
        whiten_by_data(state.network.model, state)
    state.network.train()
    state.epoch_totals = torch.as_tensor(state.epoch_totals).to(state.runtime.device)
    steps, first_step, total_steps = state.steps, state.first_step, state.total_steps
    mirrored = _mirrored(state) if state.config.alternate_flip else None
    for images, labels in itertools.islice(state.train_loader, steps - state.epoch_steps):
        step = first_step + state.epoch_steps
        chosen = None if mirrored is None else mirrored[state.epoch_steps]
        state.epoch_totals = state.epoch_totals + take_step(state, images, labels, step, chosen)
        if state.runtime.device.type == "cpu":  # where reading the count waits for nothing
            state.finite.check(state)
        state.epoch_steps += 1
        state.epoch_seconds = seconds_before + time.perf_counter() - start
        if on_step:
            lr = one_cycle_lr(step, total_steps, state.config)
            on_step(StepProgress(epoch=state.epoch + 1, step=state.epoch_steps, steps=steps, lr=lr))
    state.train_loader.go_on(state.epoch + 1)
    state.runtime.synchronize()
    state.epoch_seconds = seconds_before + time.perf_counter() - start


def _mirrored(state: TrainState) -> torch.Tensor:
    """bool [steps, B]: the images of each of the epoch's batches that are to be mirrored."""
    mirrored = torch.from_numpy(state.train_loader.mirrored(state.epoch))
    return mirrored.view(-1, state.config.batch_size).to(state.runtime.device, non_blocking=True)


def _means(state: TrainState) -> tuple[float, float, int]:
    """Mean loss in nats and accuracy over the epoch's steps, and how many were skipped, read from the device."""
    loss, correct, skipped = torch.as_tensor(state.epoch_totals).tolist()
    steps = state.epoch_steps
    mean_loss = loss / (steps - skipped) if skipped < steps else math.nan
    return mean_loss, correct / (steps * state.config.batch_size), int(skipped)
