"""The learning-rate range test: torch-lr-finder on the real pipeline, with a temporary copy of the network."""

from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout

import torch
import torch.nn.functional as F
from torch import nn
from torch_lr_finder import LRFinder, TrainDataLoaderIter

from fastcifar.config import LrFinderSettings
from fastcifar.data.decoder import Batch
from fastcifar.device import preserve_random_state
from fastcifar.inference.model import ImageClassifier
from fastcifar.lr_finder.suggest import LrCurve
from fastcifar.optim.create import add_l1_gradient, create_optimizer
from fastcifar.training.state import TrainState, init_whitening

OnLoss = Callable[[float, float], None]
"""A function of the learning rate and the loss in nats of one step."""


def range_test(
    state: TrainState, settings: LrFinderSettings | None = None, *, on_loss: OnLoss | None = None
) -> LrCurve:
    """Record the loss of a copy of the state's network while the learning rate rises from step to step.

    Images, augmentation, precision and optimizer are those of the training. The network is not compiled, since that
    takes longer than the test. The state does not change; it must be between two epochs. Each step calls `on_loss`.

    Source: Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017.
    """
    settings = settings or LrFinderSettings()
    config, runtime = state.config, state.runtime
    model = _FinderModel(state.classifier)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.scales_loss)
    optimizer = create_optimizer(model.model, config.optim, config.freezing)
    optimizer.register_step_pre_hook(lambda *_: _apply_lr_scales(optimizer))
    if config.optim.l1:
        optimizer.register_step_pre_hook(lambda *_: add_l1_gradient(optimizer, scaler.scale, config.optim.l1))
    loss = _RecordedLoss(optimizer, config.optim.label_smoothing, on_loss)
    # The backend is for the scaler alone: `ImageClassifier.logits` has its own autocast
    amp = {"device_type": runtime.device.type, "enabled": False}
    finder = LRFinder(model, optimizer, loss, amp_backend="torch", amp_config=amp, grad_scaler=scaler)
    diverged_at = None
    with preserve_random_state(runtime.device):
        init_whitening(model.model, state)
        try:
            _run(finder, state, settings)
        except _NotFiniteError:
            diverged_at = optimizer.param_groups[0]["lr"]
        finally:
            state.train_loader.close()
    lrs, losses = finder.history["lr"], finder.history["loss"]
    if diverged_at is None and losses[-1] > settings.diverge * min(losses):
        diverged_at = lrs[-1]
    return LrCurve(
        settings=settings, lrs=tuple(lrs), losses=tuple(losses), raw=tuple(loss.raw), diverged_at=diverged_at
    )


def _apply_lr_scales(optimizer: torch.optim.Optimizer) -> None:
    """Multiply each group's learning rate by its "lr_scale", as the schedule does; the finder sets one for all."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)


class _NotFiniteError(Exception):
    """Ends a test. The finder does not treat NaN as divergence, since NaN compares false with every loss."""


class _RecordedLoss:
    """Cross-entropy that records the value of each batch, and ends the test at the first value that is not finite."""

    def __init__(self, optimizer: torch.optim.Optimizer, label_smoothing: float, on_loss: OnLoss | None) -> None:
        self.raw: list[float] = []
        self._optimizer, self._label_smoothing, self._on_loss = optimizer, label_smoothing, on_loss

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)
        value = loss.item()  # the finder waits for it in each step as well
        if not math.isfinite(value):
            raise _NotFiniteError
        self.raw.append(value)
        if self._on_loss:
            self._on_loss(self._optimizer.param_groups[0]["lr"], value)
        return loss


class _FinderModel(nn.Module):
    """An uncompiled copy of a classifier as one module from uint8 images to logits, which the finder requires."""

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.model, self.augmentation = copy.deepcopy(classifier.model), copy.deepcopy(classifier.augmentation)
        self.classifier = ImageClassifier(model=self.model, augmentation=self.augmentation, runtime=classifier.runtime)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier.logits(images)


def _endless_batches(state: TrainState) -> Iterator[Batch]:
    """Yield the batches of all epochs, one epoch after another."""
    for epoch in itertools.count(state.epochs_done):
        yield from state.train_loader.batches(epoch)


def _run(finder: LRFinder, state: TrainState, settings: LrFinderSettings) -> None:
    """Run the finder without its own progress bar and messages."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        finder.range_test(
            TrainDataLoaderIter(_endless_batches(state)),
            start_lr=settings.start_lr,
            end_lr=settings.end_lr,
            num_iter=settings.iterations,
            step_mode=settings.mode,
            smooth_f=settings.smoothing,
            diverge_th=settings.diverge,
        )
