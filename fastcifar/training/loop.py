"""The training loop."""

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn

from fastcifar import clock
from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError, StoppedError, TrainingError
from fastcifar.inference.model import evaluate
from fastcifar.inference.tta import NO_TTA
from fastcifar.machine import peak_memory_bytes
from fastcifar.optim.schedule import one_cycle_lr
from fastcifar.runs.dynamics import remove_epochs_after, write_epoch
from fastcifar.runs.folder import RunFolder, describe_environment
from fastcifar.runs.results import EpochResult, StepProgress
from fastcifar.settings import TTASettings
from fastcifar.training.average import average_buffers
from fastcifar.training.out_of_memory import explain_out_of_memory
from fastcifar.training.signals import GracefulStop
from fastcifar.training.state import TrainState, create_state, init_whitening
from fastcifar.training.step import StepFunction
from fastcifar.training.warmup import WarmUp, warm_up

OnStep = Callable[[StepProgress], None]
CheckpointPolicy = Literal["all", "last", "none"]
"""After which epochs a checkpoint is saved."""


def fit(
    run: TrainConfig | TrainState,
    *,
    model: nn.Module | None = None,
    augmentation: nn.Module | None = None,
    on_step: OnStep | None = None,
    stop: GracefulStop | None = None,
) -> list[EpochResult]:
    """Train to the end, and return the result of each epoch. Arguments and errors are those of `fit_epochs`."""
    return list(fit_epochs(run, model=model, augmentation=augmentation, on_step=on_step, stop=stop))


def fit_epochs(
    run: TrainConfig | TrainState,
    *,
    model: nn.Module | None = None,
    augmentation: nn.Module | None = None,
    on_step: OnStep | None = None,
    stop: GracefulStop | None = None,
) -> Iterator[EpochResult]:
    """Train, yield a result after each epoch's evaluation, and keep the run's files in its `run_dir`, if it has one.

    Args:
        run: the configuration of a new run, or the state of a run to continue, which has its own configuration and is
            left open.
        model: a network to train instead of the one that the configuration names: images [B, 3, H, W] to logits
            [B, classes].
        augmentation: a module from uint8 images [B, 3, H, W] to float images, instead of the configured one; in eval
            mode it should only normalise.
        on_step: called after each step is started; it must not wait for the device.
        stop: checked between two batches; when it asks for a stop, the run folder gets a checkpoint first.

    Raises:
        FastCifarError: bad input, as one of its subclasses; TrainingError if the loss is no longer finite;
            StoppedError if `stop` asked for it.
    """
    if isinstance(run, TrainConfig):
        with create_state(run, model=model, augmentation=augmentation) as state:
            yield from fit_epochs(state, on_step=on_step, stop=stop)
        return
    if model is not None or augmentation is not None:
        raise ConfigError("a run's state has its own model and augmentation; pass them with a configuration instead")
    yield from run_epochs(run, on_step=on_step, stop=stop)


def run_epochs(
    state: TrainState,
    *,
    on_step: OnStep | None = None,
    stop: GracefulStop | None = None,
    warmed_up: WarmUp | None = None,
    checkpoints: CheckpointPolicy = "all",
) -> Iterator[EpochResult]:
    """Train the epochs that are left of a run, as `fit_epochs` does.

    `warmed_up` has the functions of an earlier run whose state was reset for this one; otherwise the warm-up is a part
    of this run. `checkpoints` tells after which epochs the run folder gets a checkpoint.
    """
    config, stop, save = state.config, stop or GracefulStop(), None
    if state.is_finished:
        return
    with ExitStack() as stack:
        if config.run_dir is None and config.dynamics:
            raise ConfigError("dynamics is True; it needs a run_dir, the folder for its records")
        folder = RunFolder(config.run_dir) if config.run_dir is not None and state.processes.is_first else None
        if folder is not None:
            environment = describe_environment(state.runtime, state.manifest)
            stack.enter_context(folder.open(config, environment, state.epochs_done, state.is_new))
            remove_epochs_after(folder.path, state.epochs_done)
            save = functools.partial(_save, state, folder)
        if warmed_up is None:
            with explain_out_of_memory(state):
                warmed_up = warm_up(state)
        while not state.is_finished:
            with explain_out_of_memory(state):
                result = run_epoch(state, warmed_up, on_step, stop, save)
            if folder:
                _write_dynamics(state, folder)
                saved = checkpoints == "all" or (checkpoints == "last" and state.is_finished)
                folder.record(result, state.state_dict() if saved else None)
            yield result


def run_epoch(
    state: TrainState,
    warmed_up: WarmUp,
    on_step: OnStep | None = None,
    stop: GracefulStop | None = None,
    save: Callable[[], None] | None = None,
) -> EpochResult:
    """Train one epoch, or the rest of it, evaluate, and update the state's progress.

    `save` writes a checkpoint; it is called every `checkpoint_every` steps, and before a stop that `stop` asks for.
    """
    stop = stop or GracefulStop()
    config, total_steps = state.config, state.total_steps
    first_step, steps = state.epoch_first_step, state.steps_this_epoch

    def after_step(progress: StepProgress) -> None:
        if on_step:
            on_step(progress)
        if save and config.checkpoint_every and progress.step % config.checkpoint_every == 0:
            save()
        stop.check(state.processes)

    try:
        train_epoch(state, warmed_up.run_step, after_step)
        check_finite(state)
        train_loss, train_accuracy, skipped = state.epoch_totals.means(steps, config.data.batch_size)
        average_buffers(state.classifier.model, state.processes)
        test_loss, test_accuracy, eval_seconds = _evaluate(state, warmed_up, NO_TTA, stop)
        tta_accuracy = tta_seconds = None
        if config.tta.tta != "none" and state.epochs_done + 1 == state.epochs:
            _, tta_accuracy, tta_seconds = _evaluate(state, warmed_up, config.tta, stop)
    except StoppedError:
        if save:
            save()
        raise

    train_seconds = state.epoch_seconds
    state.finish_epoch(test_accuracy)
    return EpochResult(
        epoch=state.epochs_done,
        epochs=state.epochs,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        skipped_steps=skipped,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        tta_accuracy=tta_accuracy,
        eval_split="validation" if config.data.val_fraction else "test",
        lr_start=one_cycle_lr(first_step, total_steps, config.optim),
        lr_end=one_cycle_lr(first_step + steps - 1, total_steps, config.optim),
        train_seconds=train_seconds,
        eval_seconds=eval_seconds,
        tta_seconds=tta_seconds,
        images_per_second=steps * config.data.batch_size / train_seconds,
        total_train_seconds=state.train_seconds,
        warmup_seconds=warmed_up.seconds,
        best_accuracy=state.best_accuracy,
        best_epoch=state.best_epoch,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _evaluate(state: TrainState, warmed_up: WarmUp, tta: TTASettings, stop: GracefulStop) -> tuple[float, float, float]:
    """Loss in nats, accuracy (0 to 1) and seconds of one evaluation."""
    start = clock.now()
    on_batch = stop.check if state.processes.count == 1 else None  # processes do not have equally many batches
    loss, accuracy = evaluate(state.classifier, state.test_loader, tta, logits=warmed_up.logits, on_batch=on_batch)
    stop.check(state.processes)
    return loss, accuracy, clock.now() - start


def train_epoch(state: TrainState, run_step: StepFunction, on_step: OnStep | None = None) -> None:
    """Train the remaining steps of the current epoch; count and time them in the state."""
    start, seconds_before = clock.now(), state.epoch_seconds
    if state.is_new:
        init_whitening(state.classifier.model, state)
    state.classifier.train()
    steps, first_step = state.steps_this_epoch, state.epoch_first_step
    flips = _flip_masks(state) if state.config.augment.alternate_flip else None
    batches = state.train_loader.batches(state.epochs_done, start=state.epoch_steps_done)
    for images, labels in itertools.islice(batches, steps - state.epoch_steps_done):
        step = first_step + state.epoch_steps_done
        flip = None if flips is None else flips[state.epoch_steps_done]
        state.epoch_totals = state.epoch_totals.plus(run_step(images, labels, step, flip))
        state.recorder.keep(state.epoch_steps_done)
        if state.runtime.device.type == "cpu":  # where reading the counter waits for nothing
            check_finite(state)
        state.epoch_steps_done += 1
        state.epoch_seconds = seconds_before + clock.now() - start
        if on_step:
            lr = one_cycle_lr(step, state.total_steps, state.config.optim)
            on_step(StepProgress(epoch=state.epochs_done + 1, step=state.epoch_steps_done, steps=steps, lr=lr))
    state.train_loader.close()
    state.runtime.synchronize()
    state.epoch_seconds = seconds_before + clock.now() - start


def check_finite(state: TrainState) -> None:
    """Read the counter of non-finite steps from the device, which waits for it.

    Raises:
        TrainingError: there were more non-finite steps than are allowed.
    """
    exceeded = state.nonfinite.exceeded()
    if exceeded is None:
        return
    count, first = exceeded
    epoch, step = divmod(first, len(state.train_loader))
    lr = one_cycle_lr(first, state.total_steps, state.config.optim)
    more = f", and {count - 1} steps after it" if state.nonfinite.allowed else ""
    other = ", or --amp-dtype bfloat16" if state.scaler.enabled else ""
    raise TrainingError(
        f"step {step + 1} of epoch {epoch + 1}, at learning rate {lr:.3g}: the loss or a gradient is not finite{more}; "
        f"the weights were not updated. Try a lower --max-lr{other}; --on-nonfinite skip skips such steps"
    )


def _save(state: TrainState, folder: RunFolder) -> None:
    check_finite(state)
    folder.save(state.state_dict())


def _write_dynamics(state: TrainState, folder: RunFolder) -> None:
    """Write the records of the finished epoch, if the run keeps them. Its checkpoint must come later."""
    if state.recorder.enabled:
        samples = state.recorder.read(state.train_loader, state.epochs_done - 1)
        write_epoch(folder.path, state.epochs_done, samples)


def _flip_masks(state: TrainState) -> Tensor:
    """The images to flip in each batch of the current epoch, or in this process's share of it: bool [steps, B]."""
    size = state.config.data.batch_size
    mask = torch.from_numpy(state.train_loader.flip_mask(state.epochs_done)).view(-1, size)
    return mask[:, state.processes.share(size)].to(state.runtime.device, non_blocking=True)
