"""The learning-rate range test: torch-lr-finder over the real pipeline, on a throw-away copy of the network."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
import torch.nn.functional as F
from torch import nn
from torch_lr_finder import LRFinder, TrainDataLoaderIter

from fastcifar.training.lr_curve import LrCurve
from fastcifar.training.lr_settings import LrFinderSettings
from fastcifar.training.network import Network
from fastcifar.training.optim import add_l1_gradient, create_optimizer
from fastcifar.training.runtime import random_state, restore_random_state
from fastcifar.training.state import TrainState, whiten_by_data

OnLoss = Callable[[float, float], None]


def range_test(
    state: TrainState, settings: LrFinderSettings | None = None, *, on_loss: OnLoss | None = None
) -> LrCurve:
    """The loss of a copy of the state's network as the rate rises from step to step; the state stays as it is.

    Images, augmentation, precision and optimizer are those of the training; only compilation is left out, which takes
    longer than the test. The state must be between two epochs; an epoch of its loader that is under way is ended.

    Args:
        state: what would be trained.
        settings: the rates; the defaults if not given.
        on_loss: called in each step with its rate and its loss in nats.

    Source: Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017.
    """
    settings = settings or LrFinderSettings()
    trial, scaler = _Trial(state.network), state.runtime.scaler()
    optimizer = create_optimizer(trial.model, state.config)
    optimizer.register_step_pre_hook(lambda *_: _keep_ratios(optimizer))
    if state.config.l1:
        optimizer.register_step_pre_hook(lambda *_: add_l1_gradient(optimizer, scaler, state.config.l1))
    loss = _RecordedLoss(optimizer, state.config.label_smoothing, on_loss)
    finder = LRFinder(
        trial,
        optimizer,
        loss,
        amp_backend="torch",  # for the scaler alone: `Network.logits` has its own autocast inside this one
        amp_config={"device_type": state.runtime.device.type, "enabled": False},
        grad_scaler=scaler,
    )
    diverged_at = None
    with _left_as_it_was(state):
        whiten_by_data(trial.model, state)
        try:
            _run(finder, state, settings)
        except _NotFiniteError:
            diverged_at = optimizer.param_groups[0]["lr"]
    lrs, losses = finder.history["lr"], finder.history["loss"]
    if diverged_at is None and losses[-1] > settings.diverge * min(losses):
        diverged_at = lrs[-1]
    return LrCurve(
        settings=settings, lrs=tuple(lrs), losses=tuple(losses), raw=tuple(loss.raw), diverged_at=diverged_at
    )


def _keep_ratios(optimizer: torch.optim.Optimizer) -> None:
    """The finder gives every group the same rate before each step; keep each to its "lr_ratio" as the schedule does."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_ratio", 1.0)


class _NotFiniteError(Exception):
    """Ends a test. To the finder a NaN is no divergence: it compares as neither above the best loss nor below."""


class _RecordedLoss:
    """Cross-entropy that keeps each batch's value, and ends the test at the first that is not finite."""

    def __init__(self, optimizer: torch.optim.Optimizer, label_smoothing: float, on_loss: OnLoss | None) -> None:
        self.raw: list[float] = []
        self._optimizer, self._label_smoothing, self._on_loss = optimizer, label_smoothing, on_loss

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)
        value = loss.item()  # the finder waits for it in each step, too
        if not math.isfinite(value):
            raise _NotFiniteError
        self.raw.append(value)
        if self._on_loss:
            self._on_loss(self._optimizer.param_groups[0]["lr"], value)
        return loss


class _Trial(nn.Module):
    """A copy of a network, uncompiled, as the one module from uint8 images to logits that the finder wants."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model, self.augmentation = copy.deepcopy(network.model), copy.deepcopy(network.augmentation)
        self.network = Network(model=self.model, augmentation=self.augmentation, runtime=network.runtime)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.logits(images)


@contextmanager
def _left_as_it_was(state: TrainState) -> Iterator[None]:
    """Put back the random state and the loader's place in its order of epochs, however the block ends."""
    random, epoch = random_state(), state.train_loader.epoch
    try:
        yield
    finally:
        state.train_loader.go_on(epoch)
        restore_random_state(random)


def _run(finder: LRFinder, state: TrainState, settings: LrFinderSettings) -> None:
    """Start the finder, without its own bar and messages."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        finder.range_test(
            TrainDataLoaderIter(state.train_loader),
            start_lr=settings.start_lr,
            end_lr=settings.end_lr,
            num_iter=settings.iterations,
            step_mode=settings.mode,
            smooth_f=settings.smoothing,
            diverge_th=settings.diverge,
        )
